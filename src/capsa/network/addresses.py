"""Which subnet a network gets, and which address an endpoint."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator

from capsa.errors import Conflict, Forbidden, InvalidArgument
from capsa.network.model import Network, Pool
from capsa.sys.netlink import Netlink

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def candidates() -> Iterator[ipaddress.IPv4Network]:
    """The subnets networks get by themselves, in Docker's order."""
    for second in range(17, 32):
        yield ipaddress.IPv4Network((f"172.{second}.0.0", 16))
    yield from ipaddress.IPv4Network("192.168.0.0/16").subnets(new_prefix=20)


def in_use_by_machine(ignore: str = "") -> list[IPNetwork]:
    """What the machine's routes and addresses cover, default routes and those through interface ``ignore`` aside."""
    with Netlink() as netlink:
        own = {link.ifindex for link in netlink.links() if link.name == ignore} if ignore else set()
        found = [
            ipaddress.ip_network((route.destination, route.prefix))
            for route in netlink.routes()
            if route.prefix > 0 and route.ifindex not in own
        ]
        found += [
            ipaddress.ip_network((address.address, address.prefix), strict=False)
            for address in netlink.addresses()
            if address.ifindex not in own
        ]
    return found


def choose(taken: Iterable[IPNetwork]) -> Pool:
    """The first candidate that overlaps nothing in ``taken``; raises `Conflict` where there is none."""
    occupied = [network for network in taken if isinstance(network, ipaddress.IPv4Network)]
    for subnet in candidates():
        if not any(subnet.overlaps(other) for other in occupied):
            return Pool(subnet=str(subnet), gateway=str(subnet[1]), chosen=True)
    raise Conflict("could not find an available, non-overlapping IPv4 address pool among the defaults; give a subnet")


def choose_ipv6(seed: str, taken: Iterable[IPNetwork]) -> Pool:
    """A unique local subnet (RFC 4193) that follows from ``seed`` (a network's id)."""
    occupied = [network for network in taken if isinstance(network, ipaddress.IPv6Network)]
    for attempt in range(1000):
        digits = hashlib.sha256(f"{seed}/{attempt}".encode()).digest()[:7]
        subnet = ipaddress.IPv6Network((b"\xfd" + digits + bytes(8), 64))
        if not any(subnet.overlaps(other) for other in occupied):
            return Pool(subnet=str(subnet), gateway=str(subnet[1]), chosen=True)
    raise Conflict("could not find an available, non-overlapping IPv6 address pool; give a subnet")


def check(pool: Pool) -> Pool:
    """``pool`` in canonical form with a gateway; raises `InvalidArgument` where its parts do not fit."""
    try:
        subnet = ipaddress.ip_network(pool.subnet, strict=False)
    except ValueError as error:
        raise InvalidArgument(f"invalid subnet {pool.subnet}: {error}") from error
    if subnet.num_addresses < 4:
        raise InvalidArgument(f"invalid subnet {pool.subnet}: too small for a gateway and a container")
    span = ""
    if pool.range:
        try:
            part = ipaddress.ip_network(pool.range, strict=False)
            inside = part.version == subnet.version and part.subnet_of(subnet)  # type: ignore[arg-type]
        except ValueError as error:
            raise InvalidArgument(f"invalid range {pool.range}: {error}") from error
        if not inside:
            raise InvalidArgument(f"no matching subnet for range {pool.range}")
        span = str(part)
    gateway = str(_inside(subnet, pool.gateway, "gateway")) if pool.gateway else str(subnet[1])
    auxiliary = {name: str(_inside(subnet, text, f"auxiliary address {name}")) for name, text in pool.auxiliary.items()}
    return Pool(subnet=str(subnet), range=span, gateway=gateway, auxiliary=auxiliary, chosen=pool.chosen)


def _inside(subnet: IPNetwork, text: str, what: str) -> IPAddress:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid {what} {text}: not an IP address") from error
    if address not in subnet:
        raise InvalidArgument(f"no matching subnet for {what} {text}")
    return address


class Allocator:
    """Hands out the addresses of one pool, each the next after the last (so an address just freed rests a while)."""

    def __init__(self, pool: Pool) -> None:
        subnet = pool.network
        span = ipaddress.ip_network(pool.range) if pool.range else subnet
        self._pool = pool
        self._address = ipaddress.IPv6Address if pool.version == 6 else ipaddress.IPv4Address
        self._first, self._last = int(span[0]), int(span[-1])
        self._cursor = self._first - 1
        self._reserved = {int(subnet[0]), int(self._address(pool.gateway))}
        if pool.version == 4:
            self._reserved.add(int(subnet[-1]))
        self._reserved.update(int(self._address(text)) for text in pool.auxiliary.values())
        self._used: set[int] = set()

    def seed(self, text: str) -> None:
        """Note an address as used (what the database says)."""
        self._used.add(int(self._address(text)))
        self._cursor = max(self._cursor, int(self._address(text))) if not self._pool.range else self._cursor

    def take(self, wanted: str = "") -> str:
        """A free address, or ``wanted``; raises `Forbidden` where that is not free or not in the subnet."""
        if wanted:
            return self._take_fixed(wanted)
        size = self._last - self._first + 1
        for offset in range(1, min(size, len(self._used) + len(self._reserved) + 1) + 1):
            number = self._first + (self._cursor - self._first + offset) % size
            if number not in self._used and number not in self._reserved:
                self._cursor = number
                self._used.add(number)
                return str(self._address(number))
        raise Conflict(
            f"no available IPv{self._pool.version} addresses on this network's address pools: {self._pool.subnet}"
        )

    def take_apart(self, wanted: str = "") -> tuple[str, list[str]]:
        """A free IPv4 address, or ``wanted``, and its neighbours: together they are a subnet of four, a ``/30``.

        Raises `Forbidden` where ``wanted`` cannot be had so, `Conflict` where there is no such block.
        """
        if wanted:
            number = int(self._address(self._take_fixed(wanted)))
            block = self._block(number)
            others = [each for each in block if each != number]
            if number in (block[0], block[3]) or any(each in self._used or each in self._reserved for each in others):
                self._used.discard(number)
                raise Forbidden(
                    f"address {wanted} cannot stand alone: with its neighbours it has to be a free block of four, "
                    f"{self._address(block[0])}/30, of which it is the second or the third"
                )
        else:
            number = self._free_block() + 2
            self._cursor = number + 1
        block = self._block(number)
        self._used.update(block)
        return str(self._address(number)), [str(self._address(each)) for each in block if each != number]

    @staticmethod
    def _block(number: int) -> range:
        return range(number & ~3, (number & ~3) + 4)

    def _free_block(self) -> int:
        first = (self._first + 3) // 4
        count = (self._last + 1) // 4 - first
        begin = max(0, (self._cursor + 4) // 4 - first)
        for offset in range(count):
            start = (first + (begin + offset) % count) * 4
            if not any(each in self._used or each in self._reserved for each in range(start, start + 4)):
                return start
        raise Conflict(f"no free block of four addresses on this network's address pool: {self._pool.subnet}")

    def _take_fixed(self, wanted: str) -> str:
        try:
            address = self._address(wanted)
        except ValueError as error:
            raise InvalidArgument(f"invalid IPv{self._pool.version} address: {wanted}") from error
        if address not in self._pool.network:
            raise Forbidden(f"invalid address {wanted}: it does not belong to any of this network's subnets")
        number = int(address)
        if number in self._used or number in self._reserved:
            raise Forbidden("Address already in use")
        self._used.add(number)
        return str(address)

    def give_back(self, text: str) -> None:
        """Make an address free again."""
        self._used.discard(int(self._address(text)))


class Allocators:
    """The allocators of all networks, made as they are needed."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], Allocator] = {}

    def take(self, network: Network, version: int, wanted: str = "") -> str:
        """`Allocator.take` of the network's pool of this IP version."""
        return self._of(network, version).take(wanted)

    def take_apart(self, network: Network, wanted: str = "") -> tuple[str, list[str]]:
        """`Allocator.take_apart` of the network's pool of IPv4 addresses."""
        return self._of(network, 4).take_apart(wanted)

    def seed(self, network: Network, texts: Iterable[str]) -> None:
        """Note addresses (with prefix length) as used."""
        for text in texts:
            self._of(network, 6 if ":" in text else 4).seed(text.partition("/")[0])

    def give_back(self, network: Network, texts: Iterable[str]) -> None:
        """Make addresses (with prefix length) free again."""
        for text in texts:
            self._of(network, 6 if ":" in text else 4).give_back(text.partition("/")[0])

    def forget(self, network: Network) -> None:
        """The network is gone, or has other pools."""
        for version in (4, 6):
            self._found.pop((network.id, version), None)

    def clear(self) -> None:
        """All networks are gone."""
        self._found.clear()

    def _of(self, network: Network, version: int) -> Allocator:
        found = self._found.get((network.id, version))
        if found is None:
            pool = network.pool(version)
            assert pool is not None
            found = self._found[network.id, version] = Allocator(pool)
        return found


def mac_for(address: str) -> str:
    """The MAC address that follows from an IPv4 address, as Docker has it: ``02:42`` and its four bytes.

    For IPv6 the last four bytes.
    """
    return "02:42:" + ipaddress.ip_address(address).packed[-4:].hex(":")
