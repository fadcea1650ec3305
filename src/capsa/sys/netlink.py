"""Links, addresses and routes: the small part of rtnetlink that containers need.

The zygote uses this between clone and execve, so it imports only what an interpreter has loaded anyway and costs
about a tenth of a millisecond a veth pair. See rtnetlink(7), netlink(7) and the kernel's ``uapi/linux/if_link.h``.
"""

from __future__ import annotations

import fcntl
import socket
import struct

from capsa.sys.netlink_socket import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    NetlinkSocket,
    attributes,
    parts,
    text_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

SIOCGIFINDEX = 0x8933

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER = 1, 3, 4, 10
IFLA_LINKINFO, IFLA_NET_NS_PID, IFLA_AF_SPEC, IFLA_NET_NS_FD, IFLA_EXT_MASK = 18, 19, 26, 28, 29
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA, IFLA_BRPORT_MODE, IFLA_BRPORT_ISOLATED = 4, 5, 4, 33
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_EUI64, IN6_ADDR_GEN_MODE_NONE = 8, 0, 1
VETH_INFO_PEER = 1
RTEXT_FILTER_SKIP_STATS = 8
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
RT_SCOPE_UNIVERSE = 0
IFA_F_NODAD, IFA_F_PERMANENT = 0x02, 0x80
RTA_DST, RTA_OIF, RTA_GATEWAY = 1, 4, 5
RT_TABLE_MAIN, RTPROT_BOOT, RTN_UNICAST = 254, 3, 1
IFF_UP = 0x1

_link = struct.Struct("=BxHiII")
_address = struct.Struct("=BBBBI")
_route = struct.Struct("=BBBBBBBBI")
_ifreq = struct.Struct("=16si20x")
_uint = struct.Struct("=I")


class Link:
    """A network interface.

    ``master`` is the index of the bridge it is a port of (0: none), ``kind`` as in ``bridge``, ``veth``.
    """

    __slots__ = ("ifindex", "kind", "mac", "master", "name", "up")

    def __init__(self, ifindex: int, name: str, master: int, kind: str, mac: str, up: bool) -> None:
        self.ifindex = ifindex
        self.name = name
        self.master = master
        self.kind = kind
        self.mac = mac
        self.up = up


class Address:
    """An address of an interface, as ``A.B.C.D`` or IPv6 text, and its prefix length."""

    __slots__ = ("address", "ifindex", "prefix")

    def __init__(self, ifindex: int, address: str, prefix: int) -> None:
        self.ifindex = ifindex
        self.address = address
        self.prefix = prefix


class Route:
    """A route to ``destination``/``prefix`` through an interface (0: several or none); default routes have prefix 0."""

    __slots__ = ("destination", "gateway", "ifindex", "prefix")

    def __init__(self, destination: str, prefix: int, gateway: str, ifindex: int) -> None:
        self.destination = destination
        self.prefix = prefix
        self.gateway = gateway
        self.ifindex = ifindex


class Netlink:
    """One rtnetlink socket, in the network namespace the caller is in while constructing it.

    Every method raises `OSError` whose text holds the operation and, where the kernel gives one, its own explanation;
    ``filename`` is the interface.
    """

    def __init__(self) -> None:
        self._socket = NetlinkSocket(socket.NETLINK_ROUTE)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def add_veth(
        self,
        host_name: str,
        bridge: str,
        peer_name: str,
        peer_mac: str,
        mtu: int,
        peer_pid: int,
        namespace: int | None = None,
        isolated: bool = False,
    ) -> None:
        """Make a veth pair: ``host_name`` here, up and a port of ``bridge`` (empty: of none); its peer, with the given
        name and MAC, in the network namespace of process ``peer_pid``, or that behind the open file ``namespace``.
        Both have ``mtu`` bytes. ``isolated``: no port of the bridge that is isolated, too, gets what it sends.
        """
        place = (IFLA_NET_NS_PID, peer_pid) if namespace is None else (IFLA_NET_NS_FD, namespace)
        peer = _link.pack(0, 0, 0, 0, 0) + attributes(
            (IFLA_IFNAME, _name(peer_name)),
            (IFLA_ADDRESS, mac_bytes(peer_mac)),
            (IFLA_MTU, _uint.pack(mtu)),
            (place[0], _uint.pack(place[1])),
        )
        wanted = [
            (IFLA_IFNAME, _name(host_name)),
            (IFLA_MTU, _uint.pack(mtu)),
            (IFLA_LINKINFO, _kind("veth", attributes((VETH_INFO_PEER, peer)))),
        ]
        if bridge:
            wanted.append((IFLA_MASTER, _uint.pack(self.index(bridge))))
        new = _link.pack(0, 0, 0, IFF_UP, IFF_UP) + attributes(*wanted)
        messages = [(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, new)]
        if bridge:
            messages.append((RTM_NEWLINK, 0, _link.pack(0, 0, 0, 0, 0) + _port(host_name, isolated)))
        self._socket.exchange("add veth pair", host_name, messages)

    def add_bridge(self, name: str, mac: str = "", addresses: Iterable[str] = (), mtu: int = 0) -> None:
        """Make a bridge, give it ``addresses`` (``A.B.C.D/N`` or IPv6) and no others, and bring it up.

        ``mac`` and ``mtu`` as given or the kernel's.
        """
        wanted = [(IFLA_IFNAME, _name(name)), (IFLA_LINKINFO, _kind("bridge"))]
        if mac:
            wanted.append((IFLA_ADDRESS, mac_bytes(mac)))
        if mtu:
            wanted.append((IFLA_MTU, _uint.pack(mtu)))
        new = _link.pack(0, 0, 0, 0, 0) + attributes(*wanted)
        self._socket.exchange("add bridge", name, [(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, new)])
        try:
            self.configure(name, list(addresses), link_local=False)
        except OSError:
            self.delete(name)
            raise

    def configure(
        self, name: str, addresses: Sequence[str] = (), gateways: Sequence[str] = (), *, link_local: bool | None = None
    ) -> None:
        """Give interface ``name`` its ``addresses`` (``A.B.C.D/N`` or IPv6), bring it up, and make it the default route
        through each of ``gateways``; all in one exchange with the kernel.

        ``link_local``: let it have an IPv6 link-local address; by default where one of ``addresses`` is IPv6.
        An address that is there already stays.
        """
        index = self.index(name)
        if link_local is None:
            link_local = any(":" in address for address in addresses)
        # Two messages: in one the kernel would bring it up first, and make the link-local address.
        messages = [
            (RTM_NEWLINK, 0, _link.pack(0, 0, index, 0, 0) + attributes(_link_local(link_local))),
            (RTM_NEWLINK, 0, _link.pack(0, 0, index, IFF_UP, IFF_UP)),
        ]
        for text in addresses:
            family, packed, prefix = _parse(text)
            flags = IFA_F_PERMANENT | (IFA_F_NODAD if family == socket.AF_INET6 else 0)
            body = _address.pack(family, prefix, flags, 0, index)
            body += attributes((IFA_LOCAL, packed), (IFA_ADDRESS, packed))
            messages.append((RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body))
        self._socket.exchange("configure", name, [*messages, *_routes(index, gateways)])

    def route(self, name: str, gateways: Sequence[str]) -> None:
        """Make interface ``name`` the default route, through each of ``gateways``; replaces another one."""
        self._socket.exchange("route", name, _routes(self.index(name), gateways))

    def move(self, name: str, new_name: str, space: int) -> None:
        """Move interface ``name`` as ``new_name`` into the network namespace behind the open file ``space``.

        ``%d`` in ``new_name`` stands for the first number that is free there. Raises `OSError` with EEXIST for a name
        in use.
        """
        body = _link.pack(0, 0, self.index(name), 0, 0)
        body += attributes((IFLA_NET_NS_FD, _uint.pack(space)), (IFLA_IFNAME, _name(new_name)))
        self._socket.exchange("move", name, [(RTM_NEWLINK, 0, body)])

    def lasting_addresses(self, name: str) -> list[str]:
        """The permanent addresses of global scope that interface ``name`` has, as ``A.B.C.D/N`` or IPv6."""
        index, found = self.index(name), []
        for reply in self._socket.dump("list addresses", RTM_GETADDR, _address.pack(0, 0, 0, 0, 0)):
            family, prefix, flags, scope, where = _address.unpack_from(reply)
            values = dict(parts(reply, _address.size))
            flags = _number(values.get(IFA_FLAGS)) or flags
            packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
            if where == index and packed and flags & IFA_F_PERMANENT and scope == RT_SCOPE_UNIVERSE:
                found.append(f"{socket.inet_ntop(family, packed)}/{prefix}")
        return found

    def attach(self, name: str, bridge: str, isolated: bool = False) -> None:
        """Make interface ``name`` a port of ``bridge``, ``isolated`` as in `add_veth`."""
        master = attributes((IFLA_IFNAME, _name(name)), (IFLA_MASTER, _uint.pack(self.index(bridge))))
        body = _link.pack(0, 0, 0, 0, 0)
        self._socket.exchange(
            "attach to bridge", name, [(RTM_NEWLINK, 0, body + master), (RTM_NEWLINK, 0, body + _port(name, isolated))]
        )

    def up(self, name: str) -> None:
        """Bring interface ``name`` up."""
        body = _link.pack(0, 0, 0, IFF_UP, IFF_UP) + attributes((IFLA_IFNAME, _name(name)))
        self._socket.exchange("bring up", name, [(RTM_NEWLINK, 0, body)])

    def delete(self, name: str) -> None:
        """Delete interface ``name``; of a veth pair both ends go. Raises `OSError` with ENODEV where there is none."""
        body = _link.pack(0, 0, 0, 0, 0) + attributes((IFLA_IFNAME, _name(name)))
        self._socket.exchange("delete", name, [(RTM_DELLINK, 0, body)])

    def index(self, name: str) -> int:
        """The number of interface ``name`` in the namespace of this socket."""
        request = _ifreq.pack(_name(name), 0)
        try:
            number: int = _ifreq.unpack(fcntl.ioctl(self._socket, SIOCGIFINDEX, request))[1]
        except OSError as error:
            raise OSError(error.errno, f"netlink: look up: {error.strerror}", name) from None
        return number

    def links(self) -> list[Link]:
        """All interfaces."""
        body = _link.pack(0, 0, 0, 0, 0) + attributes((IFLA_EXT_MASK, _uint.pack(RTEXT_FILTER_SKIP_STATS)))
        found = []
        for reply in self._socket.dump("list links", RTM_GETLINK, body):
            _, _, index, flags, _ = _link.unpack_from(reply)
            values = dict(parts(reply, _link.size))
            info = dict(parts(values.get(IFLA_LINKINFO, b"")))
            found.append(
                Link(
                    index,
                    text_of(values[IFLA_IFNAME]),
                    _number(values.get(IFLA_MASTER)),
                    text_of(info.get(IFLA_INFO_KIND, b"")),
                    values.get(IFLA_ADDRESS, b"").hex(":"),
                    bool(flags & IFF_UP),
                )
            )
        return found

    def addresses(self) -> list[Address]:
        """All addresses of all interfaces, IPv4 and IPv6."""
        found = []
        for reply in self._socket.dump("list addresses", RTM_GETADDR, _address.pack(0, 0, 0, 0, 0)):
            family, prefix, _, _, index = _address.unpack_from(reply)
            values = dict(parts(reply, _address.size))
            packed = values.get(IFA_LOCAL) or values.get(IFA_ADDRESS)
            if family in (socket.AF_INET, socket.AF_INET6) and packed:
                found.append(Address(index, socket.inet_ntop(family, packed), prefix))
        return found

    def routes(self) -> list[Route]:
        """All unicast routes of all tables, IPv4 and IPv6."""
        found = []
        for reply in self._socket.dump("list routes", RTM_GETROUTE, _route.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)):
            family, prefix, _, _, _, _, _, kind, _ = _route.unpack_from(reply)
            if kind != RTN_UNICAST or family not in (socket.AF_INET, socket.AF_INET6):
                continue
            values = dict(parts(reply, _route.size))
            empty = b"\0" * (4 if family == socket.AF_INET else 16)
            destination = socket.inet_ntop(family, values.get(RTA_DST, empty))
            gateway = values.get(RTA_GATEWAY)
            through = socket.inet_ntop(family, gateway) if gateway else ""
            found.append(Route(destination, prefix, through, _number(values.get(RTA_OIF))))
        return found


def _routes(index: int, gateways: Sequence[str]) -> list[Message]:
    messages = []
    for text in gateways:
        family, packed, _ = _parse(text)
        body = _route.pack(family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0)
        body += attributes((RTA_GATEWAY, packed), (RTA_OIF, _uint.pack(index)))
        messages.append((RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body))
    return messages


def mac_bytes(mac: str) -> bytes:
    """The six bytes of ``aa:bb:cc:dd:ee:ff``; raises `OSError` (EINVAL) for anything else."""
    try:
        packed = bytes.fromhex(mac.replace(":", ""))
    except ValueError:
        packed = b""
    if len(packed) != 6:
        raise OSError(22, "not a MAC address", mac)
    return packed


def _kind(kind: str, data: bytes = b"") -> bytes:
    pairs = [(IFLA_INFO_KIND, kind.encode())]
    if data:
        pairs.append((IFLA_INFO_DATA, data))
    return attributes(*pairs)


def _link_local(wanted: bool) -> tuple[int, bytes]:
    mode = IN6_ADDR_GEN_MODE_EUI64 if wanted else IN6_ADDR_GEN_MODE_NONE
    return IFLA_AF_SPEC, attributes((int(socket.AF_INET6), attributes((IFLA_INET6_ADDR_GEN_MODE, bytes([mode])))))


def _port(name: str, isolated: bool) -> bytes:
    """What a bridge's port gets.

    No address: the kernel would make one for IPv6 as soon as the peer is up. And hairpin mode: where bridged traffic
    passes the firewall, what a container sends to its own published port is turned round inside the bridge.
    """
    slave = attributes((IFLA_BRPORT_MODE, b"\1"), (IFLA_BRPORT_ISOLATED, bytes((isolated,))))
    info = attributes((IFLA_INFO_SLAVE_KIND, b"bridge"), (IFLA_INFO_SLAVE_DATA, slave))
    return attributes((IFLA_IFNAME, _name(name)), _link_local(False), (IFLA_LINKINFO, info))


def _name(name: str) -> bytes:
    packed = name.encode()
    if not 0 < len(packed) < 16 or b"\0" in packed:
        raise OSError(22, "not an interface name (1 to 15 bytes)", name)
    return packed + b"\0"


def _parse(text: str) -> tuple[int, bytes, int]:
    """Family, packed address and prefix length of ``A.B.C.D/N`` or IPv6; without ``/N`` a host."""
    address, _, prefix = text.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        packed = socket.inet_pton(family, address)
        length = int(prefix) if prefix else len(packed) * 8
    except (OSError, ValueError) as error:
        raise OSError(22, "not an IP address", text) from error
    if not 0 <= length <= len(packed) * 8:
        raise OSError(22, "not a prefix length", text)
    return family, packed, length


def _number(value: bytes | None) -> int:
    return int(_uint.unpack(value)[0]) if value else 0
