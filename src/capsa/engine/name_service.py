"""Containers of user-defined networks find each other by name: what the engine tells the name service.

A name is there from the moment that its endpoint is reserved until it is released. The sockets on which a container
asks are made by its sub-init; they are handed to the name service when the container runs, and again after an engine's
or the name service's own restart. What is asked meanwhile waits in them.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from capsa.engine.validation import link
from capsa.errors import CapsaError
from capsa.network.names import ndots

if TYPE_CHECKING:
    from capsa.engine.config import EndpointConfig
    from capsa.engine.container import Container
    from capsa.engine.engine import Engine
    from capsa.network.model import Endpoint, Network


def wanted(network: Network) -> bool:
    """Whether containers have names in it: in every bridge network but the default one."""
    return network.driver == "bridge" and not network.predefined


def served(engine: Engine, container: Container) -> bool:
    """Whether one of its networks has name service."""
    return any(wanted(engine.networks.get(endpoint.network)) for endpoint in container.endpoints)


def names(container: Container, wish: EndpointConfig) -> list[str]:
    """What it is called in a network, in Docker's order."""
    found = [container.name, *wish.aliases, container.id[:12]]
    if container.config.hostname:
        found.append(container.config.hostname)
    return list(dict.fromkeys(found))


def join(engine: Engine, container: Container, endpoint: Endpoint, wish: EndpointConfig) -> None:
    """Its names are known in the endpoint's network from now on."""
    if wanted(engine.networks.get(endpoint.network)):
        engine.names.join(endpoint, names(container, wish), _links(engine, container, endpoint, wish))


def _links(engine: Engine, container: Container, endpoint: Endpoint, wish: EndpointConfig) -> dict[str, str]:
    """What it calls others in that network, by alias."""
    texts = list(wish.links)
    host = container.host
    if host.links and engine.networks.get(host.network_mode).id == endpoint.network:
        texts += host.links
    found = {}
    for text in texts:
        name, alias = link(text)
        found[alias] = name[:12] if len(name) == 64 else name
    return found


def leave(engine: Engine, container: Container) -> None:
    """It has ended, or never began."""
    for endpoint in container.endpoints:
        engine.names.leave(endpoint)
    engine.names.stop(container.id)


def attend(engine: Engine, container: Container) -> None:
    """Have its queries answered, in a moment: it runs."""
    if served(engine, container):
        engine.lifecycle.spawn(_attend(engine, container))


async def _attend(engine: Engine, container: Container) -> None:
    sandbox = container.sandbox
    if sandbox is None:
        return
    try:
        sockets = await sandbox.name_sockets()
    except CapsaError as error:
        if container.sandbox is sandbox:
            engine.log.warning("container %s has no name service: %s", container.name, error)
        return
    if container.sandbox is sandbox and len(sockets) == 2:
        configure(engine, container, sockets)
    else:
        for fd in sockets:
            os.close(fd)


def configure(engine: Engine, container: Container, sockets: list[int] | None = None) -> None:
    """Say whom its name server may ask, which follows from its networks; ``sockets`` are new ones."""
    ways_out = [not engine.networks.get(endpoint.network).internal for endpoint in container.endpoints]
    engine.names.serve(
        container.id,
        sockets or (),
        servers=container.host.dns,
        forward=any(ways_out),
        dotted=ndots(container.host.dns_options) > 0,
    )


def take_up(engine: Engine, container: Container) -> None:
    """After a restart of the engine: it runs already."""
    renamed(engine, container)
    attend(engine, container)


def renamed(engine: Engine, container: Container) -> None:
    """It has another name, in running networks, too."""
    for reference, wish in container.document.endpoints.items():
        network = engine.networks.get(reference)
        for endpoint in container.endpoints:
            if endpoint.network == network.id:
                join(engine, container, endpoint, wish)


def renew(engine: Engine, identity: str) -> None:
    """The name service was started anew and needs this container's sockets."""
    if identity in engine.containers:
        attend(engine, engine.containers.find(identity))
