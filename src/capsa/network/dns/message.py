"""DNS messages on the wire (RFC 1035, RFC 6891), as far as a name server needs them that looks at questions only.

A query has one question and its name is never compressed, so nothing here follows a pointer, whatever a packet holds.
What is forwarded is passed on as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

A, NS, CNAME, SOA, PTR, MX, TXT, AAAA, SRV, OPT, ANY = 1, 2, 5, 6, 12, 15, 16, 28, 33, 41, 255
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 2, 3, 4, 5
LEAST_SIZE = 512  # what every client takes over UDP
OUR_SIZE = 1232  # what we say that we take: fits into a packet everywhere
LARGEST = 65535
MOST_LABEL, MOST_NAME = 63, 255

_header = struct.Struct("!HHHHHH")
_question = struct.Struct("!HH")
_record = struct.Struct("!HHIH")
_response, _truncated, _recursion_desired, _recursion_available = 0x8000, 0x0200, 0x0100, 0x0080
_name_of_the_question = b"\xc0\x0c"

Record = tuple[int, bytes]


class Malformed(ValueError):
    """Not a query that can be answered; ``reply`` is what to say to it, empty: nothing."""

    def __init__(self, reply: bytes = b"") -> None:
        super().__init__("malformed query")
        self.reply = reply


class Query(NamedTuple):
    """A query. ``name`` in lower case without the last dot, ``question`` its section as it came.

    ``size``: bytes of an answer that the client takes over UDP; ``extended``: it speaks EDNS.
    """

    id: int
    flags: int
    name: str
    kind: int
    domain: int
    question: bytes
    size: int
    extended: bool


def parse(packet: bytes) -> Query:
    """The query in ``packet``; raises `Malformed` with the reply that is due."""
    if len(packet) < _header.size:
        raise Malformed
    identity, flags, questions, answers, authorities, additional = _header.unpack_from(packet)
    if flags & _response:
        raise Malformed
    if flags >> 11 & 0xF:
        raise Malformed(_header.pack(identity, _reply_flags(flags, NOTIMP), 0, 0, 0, 0))
    wrong = Malformed(_header.pack(identity, _reply_flags(flags, FORMERR), 0, 0, 0, 0))
    if questions != 1:
        raise wrong
    labels: list[bytes] = []
    offset = _header.size
    try:
        while length := packet[offset]:
            if length > MOST_LABEL or offset + length - _header.size >= MOST_NAME:
                raise wrong
            labels.append(packet[offset + 1 : offset + 1 + length])
            offset += 1 + length
        kind, domain = _question.unpack_from(packet, offset + 1)
    except (IndexError, struct.error):
        raise wrong from None
    end = offset + 1 + _question.size
    size = _payload_size(packet, end) if (answers, authorities, additional) == (0, 0, 1) else 0
    name = b".".join(each.replace(b".", b"\\.") for each in labels).lower().decode("utf-8", "surrogateescape")
    question = packet[_header.size : end]
    return Query(identity, flags, name, kind, domain, question, max(LEAST_SIZE, size), size > 0)


def _payload_size(packet: bytes, offset: int) -> int:
    """What the OPT record at ``offset`` says, 0 if there is none."""
    if packet[offset : offset + 3] != b"\0" + OPT.to_bytes(2, "big"):
        return 0
    return int.from_bytes(packet[offset + 3 : offset + 5], "big")


def answer(query: Query, records: Sequence[Record], *, ttl: int, limit: int) -> bytes:
    """The answer of ``records`` (type, data) about the question's name.

    ``limit``: bytes it may have; if not all fit, it is marked as truncated.
    """
    extra = _options(query)
    room = limit - _header.size - len(query.question) - len(extra)
    body = b""
    count = 0
    for kind, data in records:
        entry = _name_of_the_question + _record.pack(kind, IN, ttl, len(data)) + data
        if len(body) + len(entry) > room:
            break
        body += entry
        count += 1
    flags = _reply_flags(query.flags, NOERROR) | (_truncated if count < len(records) else 0)
    return _header.pack(query.id, flags, 1, count, 0, int(bool(extra))) + query.question + body + extra


def failure(query: Query, code: int) -> bytes:
    """An answer that is none."""
    extra = _options(query)
    header = _header.pack(query.id, _reply_flags(query.flags, code), 1, 0, 0, int(bool(extra)))
    return header + query.question + extra


def _reply_flags(flags: int, code: int) -> int:
    return _response | flags & (0x7800 | _recursion_desired) | _recursion_available | code


def _options(query: Query) -> bytes:
    return b"\0" + _record.pack(OPT, OUR_SIZE, 0, 0) if query.extended else b""


def with_id(packet: bytes, identity: int) -> bytes:
    """The same message with another number."""
    return identity.to_bytes(2, "big") + packet[2:]


def answers(packet: bytes, identity: int, question: bytes) -> bool:
    """Whether ``packet`` is a response to the query ``identity`` with this question section."""
    if len(packet) < _header.size or int.from_bytes(packet[:2], "big") != identity or not packet[2] & 0x80:
        return False
    count = int.from_bytes(packet[4:6], "big")
    if count == 0:  # some servers leave the question out where they refuse
        return bool(code(packet))
    return count == 1 and packet[_header.size : _header.size + len(question)].lower() == question.lower()


def code(packet: bytes) -> int:
    """The response code."""
    return packet[3] & 0xF


def host_name(text: str) -> bytes:
    """A name on the wire; raises ValueError for one that does not fit."""
    found = b""
    for label in text.encode("utf-8", "surrogateescape").split(b"."):
        if not 0 < len(label) <= MOST_LABEL:
            raise ValueError(text)
        found += bytes((len(label),)) + label
    if len(found) >= MOST_NAME:
        raise ValueError(text)
    return found + b"\0"


def reverse_address(name: str) -> bytes:
    """The address that a name below ``in-addr.arpa`` or ``ip6.arpa`` stands for; empty if it is none."""
    try:
        if name.endswith(".in-addr.arpa"):
            octets = name.removesuffix(".in-addr.arpa").split(".")
            return bytes(int(each) for each in reversed(octets)) if len(octets) == 4 else b""
        if name.endswith(".ip6.arpa"):
            digits = name.removesuffix(".ip6.arpa").split(".")
            return bytes.fromhex("".join(reversed(digits))) if len(digits) == 32 else b""
    except ValueError:
        pass
    return b""
