"""What networks, endpoints and published ports are, as plain data (Docker's fields, Linux's words)."""

from __future__ import annotations

import ipaddress
from typing import Literal

import msgspec

Protocol = Literal["tcp", "udp"]
Driver = Literal["bridge", "host", "null"]


class Struct(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all: immutable."""


class Pool(Struct, frozen=True):
    """A subnet a network hands out addresses of: texts in CIDR form, ``gateway`` a plain address.

    ``range`` restricts what is handed out by itself, ``auxiliary`` are names of addresses that are not handed out.
    ``chosen``: not asked for by the user.
    """

    subnet: str
    range: str = ""
    gateway: str = ""
    auxiliary: dict[str, str] = {}
    chosen: bool = False

    @property
    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
        """The subnet as an object."""
        return ipaddress.ip_network(self.subnet)

    @property
    def prefix(self) -> int:
        """The subnet's prefix length."""
        return int(self.subnet.rpartition("/")[2])

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.subnet else 4


class Network(Struct, frozen=True):
    """A network as Docker's API shows it.

    ``created`` in nanoseconds since the epoch; ``bridge`` is the interface; ``inter_container``: its containers may
    reach each other.
    """

    id: str
    name: str
    driver: Driver
    created: int
    bridge: str = ""
    pools: tuple[Pool, ...] = ()
    internal: bool = False
    attachable: bool = False
    ipv4: bool = True
    ipv6: bool = False
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    mtu: int = 1500
    masquerade: bool = True
    inter_container: bool = True
    predefined: bool = False

    def pool(self, version: int) -> Pool | None:
        """The pool of IP version 4 or 6."""
        return next((pool for pool in self.pools if pool.version == version), None)


class Endpoint(Struct, frozen=True):
    """A container's place in a network.

    Its fields ``name`` (in the container), ``host_name``, ``bridge``, ``mac``, ``addresses``, ``gateways``, ``mtu``
    are those of `capsa.platform.protocol.Interface`; all empty in networks of the drivers ``host`` and ``null``.
    ``priority``, ``link_local`` and ``sysctls`` are as they were wished for (`capsa.network.endpoint`).
    ``neighbours`` are addresses that nobody else gets, though nobody has them (`Wish.apart`).
    """

    id: str
    network: str
    network_name: str
    container: str
    name: str = ""
    host_name: str = ""
    bridge: str = ""
    mac: str = ""
    addresses: list[str] = []
    neighbours: list[str] = []
    gateways: list[str] = []
    mtu: int = 1500
    aliases: tuple[str, ...] = ()
    priority: int = 0
    link_local: list[str] = []
    sysctls: dict[str, str] = {}
    isolated: bool = False

    @property
    def taken(self) -> list[str]:
        """All addresses that are not to be had by others, with prefix length."""
        return [*self.addresses, *self.neighbours]

    def address(self, version: int) -> tuple[str, int]:
        """Address and prefix length of IP version 4 or 6; ``("", 0)`` where there is none."""
        for text in self.addresses:
            if (":" in text) == (version == 6):
                address, _, prefix = text.partition("/")
                return address, int(prefix)
        return "", 0

    def gateway(self, version: int) -> str:
        """The next hop of the default route of IP version 4 or 6, empty where there is none."""
        return next((text for text in self.gateways if (":" in text) == (version == 6)), "")


class Port(Struct, frozen=True):
    """A port to publish: ``host_ip`` empty for all addresses; ``host_port`` 0 for a free one.

    With ``host_port_end`` the first free port of ``host_port`` to ``host_port_end``.
    """

    container_port: int
    protocol: str = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_port_end: int = 0


class Binding(Struct, frozen=True):
    """A published port: ``host_ip``:``host_port`` leads to ``container_port``; ``host_ip`` is never empty."""

    container_port: int
    protocol: Protocol
    host_ip: str
    host_port: int
