"""A container's /etc/hosts, /etc/hostname and /etc/resolv.conf: files of its bundle, mounted into it.

They are the container's to change. What the engine does to them while it runs is in place, on the same inode: in hosts
it adds and removes whole lines; resolv.conf it leaves alone once somebody has changed it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from capsa.engine import name_service
from capsa.errors import reason
from capsa.network.names import hosts_file, hosts_lines, resolv_conf

if TYPE_CHECKING:
    from capsa.engine.container import Container
    from capsa.engine.engine import Engine

NAMES = ("hosts", "hostname", "resolv.conf")
LARGEST = 1 << 20  # bytes; a file beyond that is none of ours any more


def write(engine: Engine, container: Container, links: Sequence[str] = ()) -> None:
    """Write all three for a start; ``links``: lines of hosts for linked containers. Raises `OSError`."""
    host = container.host
    hostname = engine.hostname_of(container)
    contents = (
        hosts_file(
            hostname,
            domainname=container.config.domainname,
            addresses=_addresses(container),
            extra=host.extra_hosts,
            host_gateway=engine.networks.host_gateway(),
            links=links,
        ),
        hostname + "\n",
        _resolv_conf(container, name_service.served(engine, container)),
    )
    for name, content in zip(NAMES, contents, strict=True):
        with open(container.bundle / name, "w", encoding="utf-8") as file:
            file.write(content)


def _addresses(container: Container) -> list[str]:
    return [address for endpoint in container.endpoints for address in endpoint.addresses]


def _resolv_conf(container: Container, served: bool) -> str:
    host = container.host
    return resolv_conf(
        servers=host.dns,
        search=host.dns_search,
        options=host.dns_options,
        ipv6=any(":" in address for address in _addresses(container)),
        loopback=host.network_mode == "host",
        served=served,
    )


def own_lines(engine: Engine, container: Container, addresses: Iterable[str]) -> list[str]:
    """The lines of hosts with the container's own name at ``addresses``."""
    return hosts_lines(engine.hostname_of(container), container.config.domainname, addresses)


def change_hosts(
    engine: Engine, container: Container, *, add: Iterable[str] = (), gone: Callable[[str], bool] | None = None
) -> None:
    """Remove lines of a running container's hosts that are ``gone``, then add some; what cannot be done is logged."""
    path = container.bundle / "hosts"
    try:
        text = _read(path)
        if text is None:
            return
        lines = [line for line in text.splitlines(keepends=True) if gone is None or not gone(line)]
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines += [line for line in add if line not in lines]
        _replace(path, "".join(lines))
    except OSError as error:
        engine.log.warning("container %s: cannot change %s: %s", container.name, path, reason(error))


def serve_names(engine: Engine, container: Container) -> None:
    """Let a running container that was only in the default network ask the name service from now on."""
    path = container.bundle / "resolv.conf"
    try:
        if _read(path) == _resolv_conf(container, False):
            _replace(path, _resolv_conf(container, True))
    except OSError as error:
        engine.log.warning("container %s: cannot change %s: %s", container.name, path, reason(error))


def _read(path: Path) -> str | None:
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        text = file.read(LARGEST + 1)
    return text if len(text) <= LARGEST else None


def _replace(path: Path, text: str) -> None:
    """Other contents for the same inode: the container has it mounted."""
    with open(path, "r+", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(text)
        file.truncate()
