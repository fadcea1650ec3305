"""Serving a port of one local address from another port: a small nftables table in the caller's network namespace.

What local processes send to ``ADDRESS:PORT`` goes to ``ADDRESS:other``, and the answers come from ``ADDRESS:PORT``
again, so that a server of their own may still bind that port on all addresses. Each rule changes two bytes of the
packets that it matches and keeps no state: no connection tracking is switched on for the namespace. See the kernel's
``uapi/linux/netfilter/nf_tables.h`` and ``nfnetlink.h``.
"""

from __future__ import annotations

import socket
import struct

from capsa.sys.netlink_socket import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NetlinkSocket, attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TABLE = "capsa"

NETLINK_NETFILTER = 12
NFPROTO_IPV4, NF_INET_LOCAL_OUT, NF_ACCEPT = 2, 3, 1
PRIORITY_RAW = -300
NFNL_SUBSYS_NFTABLES, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 10, 16, 17
NFT_MSG_NEWTABLE, NFT_MSG_NEWCHAIN, NFT_MSG_NEWRULE = 0, 3, 6
NLM_F_APPEND, NLA_F_NESTED = 0x800, 0x8000
NFTA_TABLE_NAME = 1
NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE = 1, 3, 4, 5, 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
NFTA_RULE_TABLE, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS = 1, 2, 4
NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA, NFTA_DATA_VALUE = 1, 1, 2, 1
NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN = 1, 2, 3, 4
NFTA_PAYLOAD_SREG, NFTA_PAYLOAD_CSUM_TYPE, NFTA_PAYLOAD_CSUM_OFFSET = 5, 6, 7
NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER, NFT_PAYLOAD_CSUM_INET = 1, 2, 1
NFTA_CMP_SREG, NFTA_CMP_OP, NFTA_CMP_DATA, NFT_CMP_EQ = 1, 2, 3, 0
NFTA_IMMEDIATE_DREG, NFTA_IMMEDIATE_DATA = 1, 2
NFT_REG_1 = 1

PROTOCOL, SOURCE, DESTINATION = 9, 12, 16  # places in the header of IPv4
SOURCE_PORT, DESTINATION_PORT = 0, 2  # in those of UDP and TCP
CHECKSUM = {socket.IPPROTO_UDP: 6, socket.IPPROTO_TCP: 16}


def rewrite(address: str, port: int, others: dict[int, int]) -> None:
    """Serve ``port`` of the IPv4 ``address`` from other ports: those of ``others``, by IP protocol (UDP, TCP).

    Raises `OSError`: EEXIST where there is such a table, EPROTONOSUPPORT where the kernel has no nftables.
    """
    packed = socket.inet_aton(address)
    known = _two(port)
    rules = []
    for protocol, other in others.items():
        rules.append(_rule(DESTINATION, packed, protocol, DESTINATION_PORT, known, _two(other)))
        rules.append(_rule(SOURCE, packed, protocol, SOURCE_PORT, _two(other), known))
    connection = NetlinkSocket(NETLINK_NETFILTER)
    try:
        connection.batch("rewrite port", address, _messages(rules))
    finally:
        connection.close()


def _messages(rules: list[bytes]) -> list[tuple[int, int, bytes]]:
    batch = struct.pack("!BBH", 0, 0, NFNL_SUBSYS_NFTABLES)
    header = struct.pack("!BBH", NFPROTO_IPV4, 0, 0)
    table, chain = (_text(TABLE), _text("output"))
    hook = attributes((NFTA_HOOK_HOOKNUM, _four(NF_INET_LOCAL_OUT)), (NFTA_HOOK_PRIORITY, _four(PRIORITY_RAW)))
    messages = [
        (NFNL_MSG_BATCH_BEGIN, 0, batch),
        (_message(NFT_MSG_NEWTABLE), NLM_F_CREATE | NLM_F_EXCL, header + attributes((NFTA_TABLE_NAME, table))),
        (
            _message(NFT_MSG_NEWCHAIN),
            NLM_F_CREATE,
            header
            + attributes(
                (NFTA_CHAIN_TABLE, table),
                (NFTA_CHAIN_NAME, chain),
                (NFTA_CHAIN_HOOK | NLA_F_NESTED, hook),
                (NFTA_CHAIN_POLICY, _four(NF_ACCEPT)),
                (NFTA_CHAIN_TYPE, _text("filter")),
            ),
        ),
    ]
    place = attributes((NFTA_RULE_TABLE, table), (NFTA_RULE_CHAIN, chain))
    for rule in rules:
        body = header + place + attributes((NFTA_RULE_EXPRESSIONS | NLA_F_NESTED, rule))
        messages.append((_message(NFT_MSG_NEWRULE), NLM_F_CREATE | NLM_F_APPEND, body))
    kind, flags, body = messages[-1]
    messages[-1] = (kind, flags | NLM_F_ACK, body)  # one acknowledgement for all: what fails is told in any case
    return [*messages, (NFNL_MSG_BATCH_END, 0, batch)]


def _rule(side: int, address: bytes, protocol: int, place: int, old: bytes, new: bytes) -> bytes:
    """Packets of ``protocol`` with ``address`` on this ``side`` and the port ``old`` get the port ``new``."""
    return _list(
        [
            *_equal(NFT_PAYLOAD_NETWORK_HEADER, side, address),
            *_equal(NFT_PAYLOAD_NETWORK_HEADER, PROTOCOL, bytes((protocol,))),
            *_equal(NFT_PAYLOAD_TRANSPORT_HEADER, place, old),
            _expression("immediate", (NFTA_IMMEDIATE_DREG, _four(NFT_REG_1)), (NFTA_IMMEDIATE_DATA, _value(new))),
            _expression(
                "payload",
                (NFTA_PAYLOAD_SREG, _four(NFT_REG_1)),
                (NFTA_PAYLOAD_BASE, _four(NFT_PAYLOAD_TRANSPORT_HEADER)),
                (NFTA_PAYLOAD_OFFSET, _four(place)),
                (NFTA_PAYLOAD_LEN, _four(2)),
                (NFTA_PAYLOAD_CSUM_TYPE, _four(NFT_PAYLOAD_CSUM_INET)),
                (NFTA_PAYLOAD_CSUM_OFFSET, _four(CHECKSUM[protocol])),
            ),
        ]
    )


def _equal(base: int, offset: int, value: bytes) -> Iterable[bytes]:
    """Go on if the packet has ``value`` there."""
    yield _expression(
        "payload",
        (NFTA_PAYLOAD_DREG, _four(NFT_REG_1)),
        (NFTA_PAYLOAD_BASE, _four(base)),
        (NFTA_PAYLOAD_OFFSET, _four(offset)),
        (NFTA_PAYLOAD_LEN, _four(len(value))),
    )
    yield _expression(
        "cmp", (NFTA_CMP_SREG, _four(NFT_REG_1)), (NFTA_CMP_OP, _four(NFT_CMP_EQ)), (NFTA_CMP_DATA, _value(value))
    )


def _expression(name: str, *pairs: tuple[int, bytes]) -> bytes:
    data = attributes(*((kind | (NLA_F_NESTED if _nests(name, kind) else 0), value) for kind, value in pairs))
    return attributes((NFTA_EXPR_NAME, _text(name)), (NFTA_EXPR_DATA | NLA_F_NESTED, data))


def _nests(name: str, kind: int) -> bool:
    return (name, kind) in (("cmp", NFTA_CMP_DATA), ("immediate", NFTA_IMMEDIATE_DATA))


def _list(expressions: list[bytes]) -> bytes:
    return attributes(*((NFTA_LIST_ELEM | NLA_F_NESTED, each) for each in expressions))


def _value(data: bytes) -> bytes:
    return attributes((NFTA_DATA_VALUE, data))


def _message(kind: int) -> int:
    return NFNL_SUBSYS_NFTABLES << 8 | kind


def _text(text: str) -> bytes:
    return text.encode() + b"\0"


def _two(number: int) -> bytes:
    return struct.pack("!H", number)


def _four(number: int) -> bytes:
    return struct.pack("!i", number)
