"""Making an endpoint: addresses, names of interfaces, which of a container's networks is its way out."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from capsa.errors import CapsaError, InvalidArgument, Unsupported
from capsa.network.addresses import Allocators, mac_for
from capsa.network.model import Endpoint, Network, Struct
from capsa.network.options import INTERFACE, bridge_options

_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}\Z")

HOST_NAME = re.compile(r"capsa[0-9a-f]{10}\Z")
"""What the host ends of veth pairs are called."""

_RESERVED = (".", "..", "lo", "all", "default")


class Wish(Struct, frozen=True):
    """How a container wants to be in a network; what is empty is chosen.

    ``interface`` is the name in the container, ``priority`` decides which network is the default route (the highest),
    ``link_local`` are more addresses, ``sysctls`` are paths below ``/proc/sys`` with ``IFNAME`` for the interface.
    ``apart``: an IPv4 address only, in a block of four of its own.
    """

    interface: str = ""
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    priority: int = 0
    link_local: tuple[str, ...] = ()
    sysctls: dict[str, str] = {}
    apart: bool = False


def make(network: Network, container: str, wish: Wish, others: Sequence[Endpoint], pools: Allocators) -> Endpoint:
    """A new endpoint in a bridge network, without a default route yet; ``others`` are the container's.

    Raises `InvalidArgument` for what cannot be meant, `Forbidden` or `Conflict` where an address cannot be had.
    """
    if wish.mac and (not _MAC.match(wish.mac) or int(wish.mac[:2], 16) & 1):
        raise InvalidArgument(f"invalid MAC address {wish.mac}: six bytes like 02:42:ac:11:00:02, not a multicast one")
    if wish.interface and (not INTERFACE.match(wish.interface) or wish.interface in _RESERVED):
        raise InvalidArgument(
            f'invalid interface name "{wish.interface}": 1 to 15 characters without "/", ":" and spaces'
        )
    if any(other.name == wish.interface for other in others):
        raise InvalidArgument(f"the container has an interface {wish.interface} already")
    wanted = {4: wish.ipv4, 6: wish.ipv6}
    texts: list[str] = []
    neighbours: list[str] = []
    try:
        for version, address in wanted.items():
            if address and network.pool(version) is None:
                raise InvalidArgument(f"no configured subnet contains IP address {address}")
        if wish.apart:
            texts, neighbours = _apart(network, wish, pools)
        for pool in () if wish.apart else network.pools:
            texts.append(f"{pools.take(network, pool.version, wanted[pool.version])}/{pool.prefix}")
    except CapsaError:
        pools.give_back(network, texts)
        raise
    identity = secrets.token_hex(32)
    name = wish.interface or _interface(network, others)
    return Endpoint(
        id=identity,
        network=network.id,
        network_name=network.name,
        container=container,
        name=name,
        host_name=f"capsa{identity[:10]}",
        bridge=network.bridge,
        mac=wish.mac.lower() or mac_for(texts[0].partition("/")[0]),
        addresses=texts,
        neighbours=neighbours,
        mtu=network.mtu,
        aliases=wish.aliases,
        priority=wish.priority,
        link_local=[f"{address}/{64 if ':' in address else 16}" for address in wish.link_local],
        sysctls={path.replace("IFNAME", name): value for path, value in wish.sysctls.items()},
        isolated=not network.inter_container,
    )


def _apart(network: Network, wish: Wish, pools: Allocators) -> tuple[list[str], list[str]]:
    pool = network.pool(4)
    if pool is None:
        raise Unsupported(f"network {network.name} has no IPv4 addresses, and the container can have no other")
    address, neighbours = pools.take_apart(network, wish.ipv4)
    return [f"{address}/{pool.prefix}"], [f"{each}/{pool.prefix}" for each in neighbours]


def _interface(network: Network, others: Sequence[Endpoint]) -> str:
    taken = {other.name for other in others}
    prefix = bridge_options(network.options).prefix
    number = 0
    while f"{prefix}{number}" in taken:
        number += 1
    return f"{prefix}{number}"


def routed(endpoints: Iterable[Endpoint], networks: Mapping[str, Network]) -> list[Endpoint]:
    """Those of a container's ``endpoints``, oldest first, whose default routes have to change, as they have to be.

    Of the networks with a way out, the one with the highest priority has the default route, for each IP version; among
    equals the one that was connected first.
    """
    endpoints = list(endpoints)
    gateways: dict[str, list[str]] = {endpoint.id: [] for endpoint in endpoints}
    for version in (4, 6):
        best: tuple[Endpoint, str] | None = None
        for endpoint in endpoints:
            network = networks[endpoint.network]
            pool = network.pool(version)
            if pool is None or network.internal:
                continue
            if best is None or endpoint.priority > best[0].priority:
                best = (endpoint, pool.gateway)
        if best is not None:
            gateways[best[0].id].append(best[1])
    return [
        msgspec.structs.replace(endpoint, gateways=gateways[endpoint.id])
        for endpoint in endpoints
        if endpoint.gateways != gateways[endpoint.id]
    ]
