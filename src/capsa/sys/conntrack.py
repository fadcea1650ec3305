"""Forgetting UDP flows.

The kernel decides where a flow goes once, with its first packet, and a UDP flow ends only by silence: a client that
goes on sending from the same port would be sent for ever to the container that had the published port before. See the
kernel's ``uapi/linux/netfilter/nfnetlink_conntrack.h``.
"""

from __future__ import annotations

import contextlib
import socket

from capsa.sys.netlink_socket import NetlinkSocket, attributes, parts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NETLINK_NETFILTER = 12
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = (1 << 8) | 1, (1 << 8) | 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY = 1, 2
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
NLA_F_NESTED = 0x8000


def forget_udp(ports: Iterable[int], address: str = "") -> None:
    """Forget the UDP flows to host ``ports`` that are redirected to ``address``; without it, those that are not.

    Best effort: a flow may end meanwhile, and a kernel without connection tracking has none. Never raises.
    """
    wanted = {port.to_bytes(2, "big") for port in ports}
    target = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address) if address else b""
    families = [socket.AF_INET6 if ":" in address else socket.AF_INET] if address else [socket.AF_INET, socket.AF_INET6]
    with contextlib.suppress(OSError):
        connection = NetlinkSocket(NETLINK_NETFILTER)
        try:
            for family in families:
                header = bytes((family, 0, 0, 0))
                for entry in connection.dump("list flows", IPCTNL_MSG_CT_GET, header):
                    values = dict(parts(entry, 4))
                    original = _flow(values.get(CTA_TUPLE_ORIG, b""))
                    reply = _flow(values.get(CTA_TUPLE_REPLY, b""))
                    if original["protocol"] != bytes((socket.IPPROTO_UDP,)) or original["port"] not in wanted:
                        continue
                    if reply["source"] == (target or original["destination"]):
                        flow = attributes((CTA_TUPLE_ORIG | NLA_F_NESTED, values[CTA_TUPLE_ORIG]))
                        with contextlib.suppress(OSError):
                            connection.exchange("forget flow", "", [(IPCTNL_MSG_CT_DELETE, 0, header + flow)])
        finally:
            connection.close()


def _flow(data: bytes) -> dict[str, bytes]:
    """Source, destination, protocol and destination port of one direction."""
    values = dict(parts(data))
    addresses = dict(parts(values.get(CTA_TUPLE_IP, b"")))
    protocol = dict(parts(values.get(CTA_TUPLE_PROTO, b"")))
    return {
        "source": addresses.get(CTA_IP_V4_SRC) or addresses.get(CTA_IP_V6_SRC, b""),
        "destination": addresses.get(CTA_IP_V4_DST) or addresses.get(CTA_IP_V6_DST, b""),
        "protocol": protocol.get(CTA_PROTO_NUM, b""),
        "port": protocol.get(CTA_PROTO_DST_PORT, b""),
    }
