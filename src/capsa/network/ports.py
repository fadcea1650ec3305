"""Reserving ports of the host: a published port is a bound socket, so nobody else can have it.

The sockets carry no traffic, the kernel redirects it before it gets to them (`capsa.network.firewall`). A container's
sub-init holds them, so a reservation ends with the container, whatever becomes of the engine.
"""

from __future__ import annotations

import array
import errno
import ipaddress
import itertools
import os
import random
import socket
from collections.abc import Iterable, Iterator, Sequence

from capsa.errors import CapsaError, InvalidArgument, Unsupported, reason
from capsa.network.model import Binding, Endpoint, Port, Protocol

EPHEMERAL_ATTEMPTS = 20
FEW = 100
_EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range"
_MESSAGE = 250  # the kernel's limit is 253 (SCM_MAX_FD)
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_QUEUE = 1 << 20
_KINDS: dict[str, tuple[Protocol, socket.SocketKind]] = {
    "tcp": ("tcp", socket.SOCK_STREAM),
    "udp": ("udp", socket.SOCK_DGRAM),
}


class PortUnavailable(CapsaError):
    """A port of the host cannot be published; Docker answers 500 here."""


def reserve(endpoint: Endpoint, ports: Sequence[Port], *, name: str = "") -> tuple[list[Binding], list[socket.socket]]:
    """Bind a host socket for each of ``ports``; where one fails, none stays.

    ``name`` is the container's, for the message.
    Raises `PortUnavailable` in Docker's words, `InvalidArgument` or `Unsupported` for what cannot be meant or done.
    """
    bindings: list[Binding] = []
    sockets: list[socket.socket] = []
    free = _free_numbers(sum(not port.host_port for port in ports))
    try:
        for port in ports:
            found, held = _reserve_one(endpoint, port, name, free)
            bindings += found
            sockets += held
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return bindings, sockets


def gathered(sockets: list[socket.socket]) -> list[socket.socket]:
    """The same sockets, or, if they are more than a few, one that keeps them all: they wait in its queue, unread.

    So a container with thousands of ports needs no thousands of descriptors. Raises `CapsaError` with all of them
    closed.
    """
    if len(sockets) <= FEW:
        return sockets
    keeper, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with sender:
            sender.setblocking(False)
            sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _QUEUE)
            for first in range(0, len(sockets), _MESSAGE):
                numbers = array.array("i", [each.fileno() for each in sockets[first : first + _MESSAGE]])
                sender.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)])
    except OSError as error:
        keeper.close()
        raise CapsaError(f"cannot keep {len(sockets)} ports: {reason(error)}") from error
    finally:
        for each in sockets:
            each.close()
    return [keeper]


def _free_numbers(count: int) -> Iterator[int]:
    """Host ports to try for ``count`` ports that may have any; raises `PortUnavailable` for more than there can be.

    The kernel finds a few quickly, but searches longer with each one once half of them are taken: thousands are walked
    through.
    """
    if count <= FEW:
        return itertools.repeat(0, count * EPHEMERAL_ATTEMPTS)
    with open(_EPHEMERAL, encoding="ascii") as file:
        first, last = map(int, file.read().split())
    if count > last - first + 1:
        raise PortUnavailable(f"cannot publish {count} ports: the host has {last - first + 1} to choose from")
    start = random.randint(first, last)
    return iter((*range(start, last + 1), *range(first, start)))


def _reserve_one(
    endpoint: Endpoint, port: Port, name: str, free: Iterator[int]
) -> tuple[list[Binding], list[socket.socket]]:
    if port.protocol == "sctp":
        raise Unsupported(f"cannot publish {port.container_port}/sctp: only tcp and udp ports can be published")
    if port.protocol not in _KINDS:
        raise InvalidArgument(f"invalid protocol {port.protocol} of port {port.container_port}: use tcp or udp")
    if not 0 < port.container_port < 65536:
        raise InvalidArgument(f"invalid container port {port.container_port}: must be 1 to 65535")
    end = port.host_port_end or port.host_port
    if not 0 <= port.host_port <= end < 65536:
        raise InvalidArgument(f"invalid host port {port.host_port}-{end}: must be 0 to 65535, the lower one first")
    addresses = _addresses(endpoint, port)
    numbers: Iterable[int] = range(port.host_port, end + 1) if port.host_port else free
    failure: OSError | None = None
    for number in numbers:
        held: list[socket.socket] = []
        for address in addresses:
            try:
                held.append(_bind(address, number, port.protocol))
            except OSError as error:
                failure = failure or error
                break
            number = held[0].getsockname()[1]
        if len(held) == len(addresses):
            protocol = _KINDS[port.protocol][0]
            return [
                Binding(container_port=port.container_port, protocol=protocol, host_ip=address, host_port=number)
                for address in addresses
            ], held
        for each in held:
            each.close()
    failure = failure or OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    raise _unavailable(endpoint, name, addresses[0], port, failure) from failure


def _addresses(endpoint: Endpoint, port: Port) -> list[str]:
    """The host addresses to bind: those of a version that the container has, too."""
    versions = [version for version in (4, 6) if endpoint.address(version)[0]]
    if not port.host_ip:
        everywhere = {4: "0.0.0.0", 6: "::"}  # noqa: S104
        if not versions:
            raise InvalidArgument(f"cannot publish ports in network {endpoint.network_name}: it has no addresses")
        return [everywhere[version] for version in versions]
    try:
        address = ipaddress.ip_address(port.host_ip)
    except ValueError as error:
        raise InvalidArgument(f"invalid IP address {port.host_ip} of port {port.container_port}") from error
    if address.version not in versions:
        raise InvalidArgument(
            f"cannot publish port {port.container_port} on {address}: "
            f"the container has no IPv{address.version} address in network {endpoint.network_name}"
        )
    if address.version == 6 and address.is_loopback:
        raise Unsupported(
            f"cannot publish port {port.container_port} on {address}: Linux does not route it; use 127.0.0.1"
        )
    return [str(address)]


def _bind(address: str, port: int, protocol: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = _KINDS[protocol][1]
    try:
        return _bound(family, kind, address, port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or protocol != "tcp" or not port:
            raise
    # Perhaps only old connections in TIME_WAIT are in the way. A listening socket may ignore them, and is then as
    # exclusive.
    held = _bound(family, kind, address, port, reuse=True)
    try:
        held.listen(1)
    except OSError:
        held.close()
        raise
    return held


def _bound(
    family: socket.AddressFamily, kind: socket.SocketKind, address: str, port: int, *, reuse: bool = False
) -> socket.socket:
    held = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address, port))
    except OSError:
        held.close()
        raise
    return held


def _unavailable(endpoint: Endpoint, name: str, address: str, port: Port, error: OSError) -> PortUnavailable:
    shown = f"[{address}]" if ":" in address else address
    span = str(port.host_port)
    if port.host_port_end > port.host_port:
        span += f"-{port.host_port_end}"
    why = "port is already allocated" if error.errno == errno.EADDRINUSE else reason(error)
    return PortUnavailable(
        f"driver failed programming external connectivity on endpoint {name or endpoint.container[:12]} "
        f"({endpoint.id}): "
        f"Bind for {shown}:{span} failed: {why}"
    )
