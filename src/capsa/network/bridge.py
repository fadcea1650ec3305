"""Bridges in the kernel, and what has to be switched on for them."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from capsa.errors import CapsaError, Conflict, reason
from capsa.network.addresses import mac_for
from capsa.network.endpoint import HOST_NAME
from capsa.network.model import Endpoint, Network
from capsa.sys.netlink import Link, Netlink

_SYSCTL = Path("/proc/sys/net")


def present(name: str) -> bool:
    """Whether there is an interface of this name."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


class Bridges:
    """The bridges of the engine ``name``. Methods raise `CapsaError` where the kernel refuses."""

    def __init__(self, name: str) -> None:
        self._own = re.compile(re.escape(name) + r"[0-9]+\Z")
        self._name = name

    def pick(self, taken: Iterable[str]) -> str:
        """A free name: the engine's and a number."""
        used = set(taken)
        number = 0
        while f"{self._name}{number}" in used:
            number += 1
        return f"{self._name}{number}"

    def check_free(self, network: Network) -> None:
        """Raises `Conflict` where an interface that is not this engine's has the name of the network's bridge."""
        with Netlink() as netlink:
            if any(link.name == network.bridge and not self._own.match(link.name) for link in netlink.links()):
                raise Conflict(f"cannot create network {network.name}: interface {network.bridge} already exists")

    def make(self, network: Network, endpoints: Sequence[Endpoint] = ()) -> None:
        """See to it that the network's bridge is there, up, with its addresses and its ``endpoints``' host ends.

        Host ends of others are removed: their containers are gone.
        """
        addresses = [f"{pool.gateway}/{pool.prefix}" for pool in network.pools]
        if network.ipv6:
            # One of our own instead of the kernel's, which for seconds would be of no use (duplicate detection).
            addresses.append("fe80::1/64")
        try:
            with Netlink() as netlink:
                links = {link.name: link for link in netlink.links()}
                if network.bridge in links:
                    netlink.configure(network.bridge, addresses, link_local=False)
                else:
                    mac = mac_for(network.pools[0].gateway)
                    netlink.add_bridge(network.bridge, mac, addresses, network.mtu)
                index = netlink.index(network.bridge)
                for endpoint in endpoints:
                    link = links.get(endpoint.host_name)
                    if link is not None and link.master != index:
                        netlink.attach(endpoint.host_name, network.bridge, endpoint.isolated)
                known = {endpoint.host_name for endpoint in endpoints}
                _remove_ports(netlink, {index}, (link for link in links.values() if link.name not in known))
            # A container may send router advertisements; the host's routes are not its business.
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                _switch(f"ipv6/conf/{network.bridge}/accept_ra", "0")
            _switch(f"ipv4/conf/{network.bridge}/route_localnet", "1")
            _switch("ipv4/ip_forward", "1")
            if network.ipv6:
                _switch("ipv6/conf/all/forwarding", "1")
        except OSError as error:
            raise CapsaError(
                f"cannot make bridge {network.bridge} of network {network.name}: {error.strerror}"
            ) from error

    def remove(self, network: Network) -> None:
        """Remove the network's bridge and what host ends there still are; that there is none is no error."""
        try:
            with Netlink() as netlink:
                _remove_ports(netlink, {netlink.index(network.bridge)}, netlink.links())
                netlink.delete(network.bridge)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise CapsaError(f"cannot remove bridge {network.bridge}: {error.strerror}") from error

    def remove_all(self, networks: Iterable[Network]) -> None:
        """Remove all bridges that carry the engine's name or belong to one of ``networks``, and their host ends."""
        named = {network.bridge for network in networks}
        with Netlink() as netlink:
            links = netlink.links()
            bridges = [
                link for link in links if link.kind == "bridge" and (link.name in named or self._own.match(link.name))
            ]
            _remove_ports(netlink, {bridge.ifindex for bridge in bridges}, links)
            for bridge in bridges:
                with contextlib.suppress(OSError):
                    netlink.delete(bridge.name)


def _remove_ports(netlink: Netlink, bridges: set[int], links: Iterable[Link]) -> None:
    """Remove containers' host ends among the ports of ``bridges``; a port that somebody else added stays."""
    for link in links:
        if link.master in bridges and link.kind in ("veth", "tun") and HOST_NAME.match(link.name):
            with contextlib.suppress(OSError):
                netlink.delete(link.name)


def remove_host_ends(names: Iterable[str]) -> None:
    """Remove containers' host ends, those that are there."""
    with Netlink() as netlink:
        for name in names:
            with contextlib.suppress(OSError):
                netlink.delete(name)


def _switch(name: str, value: str) -> None:
    path = _SYSCTL / name
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError as error:
        raise OSError(error.errno, f"cannot set {path} to {value}: {reason(error)}") from error
