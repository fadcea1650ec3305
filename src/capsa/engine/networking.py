"""A container's connections: its endpoints while it runs, published ports, /etc/hosts, /etc/hostname, /etc/resolv.conf.

Endpoints exist from start to end of a run; the stored wish (``Document.endpoints``) lives as long as the container.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import msgspec

from capsa.engine import endpoint as endpoint_of
from capsa.engine import genode, links, name_service, network_files
from capsa.engine.config import EndpointConfig, PortBinding
from capsa.engine.container import Container
from capsa.engine.validation import host_port, port
from capsa.errors import CapsaError, Forbidden, InvalidArgument
from capsa.platform.protocol import Interface

if TYPE_CHECKING:
    from capsa.engine.engine import Engine
    from capsa.network.model import Binding, Endpoint, Port


CLEAR_SECONDS = 1.0


class Connected(msgspec.Struct):
    """What a launch needs: interfaces, sockets that reserve the published ports, whether there is name service."""

    interfaces: list[Interface] = []
    held: list[socket.socket] = []
    names: bool = False


def joined(mode: str) -> str:
    """The container whose network is shared (``container:NAME``), empty if none is."""
    return mode.removeprefix("container:") if mode.startswith("container:") else ""


def connect(engine: Engine, container: Container) -> Connected:
    """Reserve addresses and ports; raises with nothing reserved."""
    result = Connected()
    if not container.document.endpoints:
        return result
    networks = engine.networks
    try:
        for reference, wish in container.document.endpoints.items():
            container.endpoints.append(_connect(engine, container, reference, wish))
        _refresh(engine, container)
        result.names = name_service.served(engine, container)
        result.interfaces = [interface(endpoint) for endpoint in container.endpoints if endpoint.bridge]
        main = next((endpoint for endpoint in container.endpoints if endpoint.gateways), None)
        if main is not None and (wanted := ports(container)):  # nothing is published from networks without a way out
            from capsa.network.ports import gathered

            _bindings, held = networks.publish(main, wanted, name=container.name)
            result.held = gathered(held)
    except BaseException:
        release(engine, container)
        raise
    return result


def release(engine: Engine, container: Container) -> None:
    """Give addresses and ports back; nothing happens where there are none."""
    name_service.leave(engine, container)
    container.endpoints = []
    container.waiting_ports = []
    if container.document.endpoints:
        engine.networks.release(container.id)
        clear_later(engine)


def clear_later(engine: Engine) -> None:
    """Remove the host ends of interfaces that the kernel has not removed in a while."""
    if engine.clearing is None:
        engine.clearing = asyncio.get_running_loop().call_later(CLEAR_SECONDS, _clear, engine)


def _clear(engine: Engine) -> None:
    from capsa.network.bridge import remove_host_ends

    engine.clearing = None
    if left := engine.networks.left():
        engine.log.debug("interfaces that outlived their containers are removed: %s", ", ".join(left))
        asyncio.get_running_loop().run_in_executor(None, remove_host_ends, left)  # milliseconds each


def published(engine: Engine, container: Container) -> list[Binding]:
    """The ports that are published now."""
    return [binding for endpoint in container.endpoints for binding in engine.networks.bindings(endpoint)]


def _connect(engine: Engine, container: Container, reference: str, wish: EndpointConfig) -> Endpoint:
    native = genode.native(container.document)
    endpoint = engine.networks.connect(reference, container.id, endpoint_of.wish(wish, apart=native))
    name_service.join(engine, container, endpoint, wish)
    return endpoint


def _refresh(engine: Engine, container: Container) -> None:
    """A change of one endpoint may have changed others: their default routes."""
    container.endpoints = engine.networks.endpoints(container=container.id)


def _follow(engine: Engine, container: Container, bindings: list[Binding]) -> None:
    """Published ports are those of the network with the default route, which may be another one now.

    Without one they wait for the next; their sockets are held all the while.
    """
    bindings = bindings or container.waiting_ports
    main = next((endpoint for endpoint in container.endpoints if endpoint.gateways), None)
    container.waiting_ports = bindings if main is None else []
    if main is not None and bindings and not engine.networks.bindings(main):
        for endpoint in container.endpoints:
            engine.networks.unpublish(endpoint)
        engine.networks.move(bindings, main)


def interface(endpoint: Endpoint) -> Interface:
    """An endpoint as the platform makes it."""
    return Interface(
        name=endpoint.name,
        host_name=endpoint.host_name,
        bridge=endpoint.bridge,
        mac=endpoint.mac,
        addresses=[*endpoint.addresses, *endpoint.link_local],
        gateways=list(endpoint.gateways),
        mtu=endpoint.mtu,
        isolated=endpoint.isolated,
        sysctls=endpoint.sysctls,
    )


def ports(container: Container) -> list[Port]:
    """The ports to publish."""
    from capsa.network.model import Port

    wanted: list[Port] = []
    for text, bindings in container.host.port_bindings.items():
        inside, protocol = port(text)
        for binding in bindings or [PortBinding()]:
            outside = host_port(binding.host_port)
            for number, inner in enumerate(inside):
                if len(inside) == 1 or not outside:
                    first, last = (outside[0], outside[-1]) if outside else (0, 0)
                else:
                    first = last = outside[number]
                wanted.append(
                    Port(
                        container_port=inner,
                        protocol=protocol,
                        host_ip=binding.host_ip,
                        host_port=first,
                        host_port_end=last if last != first else 0,
                    )
                )
    if container.host.publish_all_ports:
        published = {(each.container_port, each.protocol) for each in wanted}
        for text in container.config.exposed_ports:
            inside, protocol = port(text)
            wanted += [
                Port(container_port=each, protocol=protocol) for each in inside if (each, protocol) not in published
            ]
    return wanted


def write_files(engine: Engine, container: Container) -> dict[str, str]:
    """Write /etc/hosts, /etc/hostname, /etc/resolv.conf into the bundle: host paths by place in the container."""
    owner = container
    while other := joined(owner.host.network_mode):
        owner = engine.containers.find(other)
    if owner is container:
        network_files.write(engine, container, links.hosts_lines(engine, container))
    taken = {point.destination for point in container.document.mounts}
    return {
        place: str(owner.bundle / name)
        for name, place in zip(network_files.NAMES, (f"/etc/{name}" for name in network_files.NAMES), strict=True)
        if place not in taken
    }


async def connect_more(engine: Engine, container: Container, reference: str, wish: EndpointConfig) -> None:
    """``docker network connect``: at once in a running container, otherwise at the next start."""
    from capsa.platform.protocol import Connect

    endpoint_of.check(wish)
    native = genode.native(container.document)
    if native:
        genode.check_endpoint(wish)
    network = engine.networks.get(reference)
    mode = container.host.network_mode
    if mode == "host" or joined(mode):
        raise InvalidArgument(
            "container sharing network namespace with another container or host cannot be connected to any other "
            "network"
        )
    if network.driver == "host":
        raise InvalidArgument(
            "cannot connect container to host network - container must be created in host network mode"
        )
    if network.driver == "null" or mode == "none":
        raise InvalidArgument(
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        )
    endpoint_of.check_fits(wish, network)
    known = {engine.networks.get(name).id for name in container.document.endpoints}
    if network.id in known:
        raise Forbidden(f"endpoint with name {container.name} already exists in network {network.name}")
    if container.running:
        endpoint = _connect(engine, container, reference, wish)
        try:
            assert container.sandbox is not None
            names = name_service.wanted(network)
            await container.sandbox.request(Connect(interface=interface(endpoint), names=names))
        except BaseException:
            engine.names.leave(endpoint)
            engine.networks.disconnect(reference, container.id)
            engine.networks.route(container.id)
            raise
        bindings = published(engine, container)
        _refresh(engine, container)
        _follow(engine, container, bindings)
        if not native:
            network_files.change_hosts(
                engine, container, add=network_files.own_lines(engine, container, endpoint.addresses)
            )
        if engine.names.serves(container.id):
            name_service.configure(engine, container)
        else:
            if names and not native:
                network_files.serve_names(engine, container)
            name_service.attend(engine, container)
    container.document.endpoints[network.name] = wish
    engine.containers.save_document(container)
    engine.events.network("connect", network, container)


async def disconnect(engine: Engine, container: Container, reference: str) -> None:
    """``docker network disconnect``."""
    from capsa.platform.protocol import Disconnect, Route

    network = engine.networks.get(reference)
    if network.driver == "host" and container.host.network_mode == "host":
        raise InvalidArgument(
            "cannot disconnect container from host network - container was created in host network mode"
        )
    names = [name for name in container.document.endpoints if engine.networks.get(name).id == network.id]
    if not names:
        raise CapsaError(f"container {container.id} is not connected to the network {network.name}")
    if container.running:
        found = engine.networks.endpoints(network=network.id, container=container.id)
        if found and container.sandbox is not None:
            engine.names.leave(found[0])
            bindings = published(engine, container)
            await container.sandbox.request(Disconnect(name=found[0].name))
            engine.networks.disconnect(reference, container.id)
            clear_later(engine)
            for other in engine.networks.route(container.id):
                await container.sandbox.request(Route(name=other.name, gateways=other.gateways))
            _refresh(engine, container)
            _follow(engine, container, bindings)
            if not genode.native(container.document):
                gone = network_files.own_lines(engine, container, found[0].addresses)
                network_files.change_hosts(engine, container, gone=gone.__contains__)
            if engine.names.serves(container.id):
                name_service.configure(engine, container)
                if genode.native(container.document):  # it may be asked in another network now
                    name_service.attend(engine, container)
    for name in names:
        del container.document.endpoints[name]
    engine.containers.save_document(container)
    engine.events.network("disconnect", network, container)
