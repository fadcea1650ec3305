"""Legacy links (``--link NAME:ALIAS``) of the default network: lines of /etc/hosts and environment variables.

In other networks a link is a name that only one container has for another: `capsa.engine.name_service`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from capsa.engine import network_files
from capsa.engine.validation import link as link_of
from capsa.engine.validation import port
from capsa.errors import Conflict, InvalidArgument, NotFound

if TYPE_CHECKING:
    from capsa.engine.config import HostConfig
    from capsa.engine.container import Container
    from capsa.engine.engine import Engine

DEFAULT_NETWORK = "bridge"


class Link(NamedTuple):
    """``target`` is called ``alias``."""

    target: Container
    alias: str


def check(engine: Engine, host: HostConfig) -> None:
    """The linked containers exist, and get their ids written down; raises `InvalidArgument` or `NotFound`."""
    if not host.links:
        return
    mode = host.network_mode
    if mode == "host":
        raise InvalidArgument("conflicting options: host type networking can't be used with links")
    if mode.startswith("container:"):
        raise InvalidArgument(
            "conflicting options: container type network can't be used with links. "
            "This would result in undefined behavior"
        )
    known: list[str] = []
    for text in host.links:
        name, alias = link_of(text)
        try:
            known.append(f"{engine.containers.find(name).id}:{alias}")
        except NotFound as error:
            raise InvalidArgument(f"could not get container for {name}: {error}") from error
    host.links = known


def of(engine: Engine, container: Container) -> Iterator[Link]:
    """The links of a container in the default network; those to removed containers are none any more."""
    if container.host.network_mode == DEFAULT_NETWORK:
        for text in container.host.links:
            identity, alias = link_of(text)
            if identity in engine.containers:
                yield Link(engine.containers.find(identity), alias)


def documents(engine: Engine, container: Container) -> list[str]:
    """All its links as inspection shows them: ``/TARGET:/NAME/ALIAS``."""
    found = []
    for text in container.host.links:
        identity, alias = link_of(text)
        if identity in engine.containers:
            found.append(f"/{engine.containers.find(identity).name}:/{container.name}/{alias}")
    return found


def names(engine: Engine) -> dict[str, list[str]]:
    """What containers are called by those that link to them (``/PARENT/ALIAS``), by id."""
    found: dict[str, list[str]] = {}
    for container in engine.containers:
        if container.host.links:
            for link in of(engine, container):
                found.setdefault(link.target.id, []).append(f"/{container.name}/{link.alias}")
    return found


def hosts_lines(engine: Engine, container: Container) -> list[str]:
    """Its lines of /etc/hosts; raises `Conflict` where a linked container does not run."""
    lines = []
    for link in of(engine, container):
        if not link.target.running:
            raise Conflict(
                f"Cannot link to a non running container: /{link.target.name} AS /{container.name}/{link.alias}"
            )
        lines += _lines(engine, link)
    return lines


def environment(engine: Engine, container: Container) -> list[str]:
    """The variables that tell of its links."""
    found: list[str] = []
    for link in of(engine, container):
        found += _variables(link, container, _address(engine, link.target))
    return found


def follow(engine: Engine, target: Container) -> None:
    """``target`` has been started: those who run and link to it learn its address."""
    for container in engine.containers:
        if container.host.links and container.running:
            for link in of(engine, container):
                if link.target is target:
                    network_files.change_hosts(engine, container, add=_lines(engine, link), gone=_about(link))


def remove(engine: Engine, name: str) -> None:
    """Remove the link ``/PARENT/ALIAS``; raises `NotFound` or `InvalidArgument`."""
    parent, _, alias = name.strip("/").partition("/")
    if not alias:
        raise InvalidArgument(f"the name of a link is PARENT/ALIAS, not {name!r}")
    container = engine.containers.find(parent)
    kept = [text for text in container.host.links if link_of(text)[1] != alias]
    if len(kept) == len(container.host.links):
        raise NotFound(f"Could not find link: container {parent} has none called {alias}")
    gone = [line for link in of(engine, container) if link.alias == alias for line in _lines(engine, link)]
    container.host.links = kept
    engine.containers.save_document(container)
    if container.running:
        network_files.change_hosts(engine, container, gone=gone.__contains__)


def _about(link: Link) -> Callable[[str], bool]:
    """Whether a line is the link's, whatever address it has."""
    ending = _line("", link)
    return lambda line: line.endswith(ending)


def _address(engine: Engine, target: Container) -> str:
    default = engine.networks.get(DEFAULT_NETWORK).id
    return next((each.address(4)[0] for each in target.endpoints if each.network == default), "")


def _lines(engine: Engine, link: Link) -> list[str]:
    address = _address(engine, link.target)
    return [_line(address, link)] if address else []


def _line(address: str, link: Link) -> str:
    names = dict.fromkeys((link.alias, link.target.config.hostname, link.target.name))
    return f"{address}\t{' '.join(name for name in names if name)}\n"


def _variables(link: Link, container: Container, address: str) -> Iterator[str]:
    """As Docker names them: ``DB_PORT``, ``DB_PORT_5432_TCP_ADDR``, ``DB_NAME``, ``DB_ENV_…``."""
    prefix = link.alias.upper().replace("-", "_")
    ports = [
        (protocol != "tcp", protocol, number)
        for numbers, protocol in map(port, link.target.config.exposed_ports)
        for number in numbers
    ]
    for place, (_, protocol, number) in enumerate(sorted(ports)):
        if place == 0:
            yield f"{prefix}_PORT={protocol}://{address}:{number}"
        name = f"{prefix}_PORT_{number}_{protocol.upper()}"
        yield f"{name}={protocol}://{address}:{number}"
        yield f"{name}_ADDR={address}"
        yield f"{name}_PORT={number}"
        yield f"{name}_PROTO={protocol}"
    yield f"{prefix}_NAME=/{container.name}/{link.alias}"
    for entry in link.target.config.env:
        name, equals, value = entry.partition("=")
        if equals and name not in ("HOME", "PATH"):
            yield f"{prefix}_ENV_{name}={value}"
