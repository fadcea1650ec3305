"""Netlink messages and a socket that sends and reads them; see netlink(7). What they mean is its users' affair."""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NLM_F_DUMP = 0x300
NLM_F_DUMP_INTR = 0x10
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11

BUFFER = 32768

_header = struct.Struct("=IHHII")
_attribute = struct.Struct("=HH")
_int = struct.Struct("=i")

Message = tuple[int, int, bytes]


class NetlinkSocket:
    """A socket of netlink family ``protocol``, in the network namespace the caller is in while constructing it.

    Errors are `OSError` whose text holds the operation and, where the kernel gives one, its own explanation;
    ``filename`` is the thing operated on.
    """

    def __init__(self, protocol: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def fileno(self) -> int:
        """The file descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def exchange(self, operation: str, name: str, messages: Sequence[Message]) -> None:
        """Send ``messages`` (type, flags, body) at once and read the acknowledgement of each.

        The first failure is raised, but only after everything was read: the socket stays usable.
        """
        first = self._sequence + 1
        self._sequence += len(messages)
        self._socket.send(
            b"".join(
                _header.pack(_header.size + len(body), kind, flags | NLM_F_REQUEST | NLM_F_ACK, number, 0) + _pad(body)
                for number, (kind, flags, body) in enumerate(messages, first)
            )
        )
        waiting = set(range(first, first + len(messages)))
        failures: list[tuple[int, OSError]] = []
        while waiting:
            for kind, flags, number, body in _messages(self._socket.recv(BUFFER)):
                if number not in waiting or kind != NLMSG_ERROR:
                    continue
                waiting.discard(number)
                if error := _failure(operation, name, flags, body):
                    failures.append((number, error))
        if failures:
            raise min(failures, key=lambda item: item[0])[1]

    def batch(self, operation: str, name: str, messages: Sequence[Message]) -> None:
        """Send a transaction of ``messages``, with the flags they need; one of them asks for an acknowledgement.

        Raises the first failure; the socket is of no use afterwards.
        """
        first = self._sequence + 1
        self._sequence += len(messages)
        asks = next(number for number, (_, flags, _) in enumerate(messages, first) if flags & NLM_F_ACK)
        self._socket.send(
            b"".join(
                _header.pack(_header.size + len(body), kind, flags | NLM_F_REQUEST, number, 0) + _pad(body)
                for number, (kind, flags, body) in enumerate(messages, first)
            )
        )
        while True:
            for kind, flags, number, body in _messages(self._socket.recv(BUFFER)):
                if kind == NLMSG_ERROR:
                    if error := _failure(operation, name, flags, body):
                        raise error
                    if number == asks:
                        return

    def dump(self, operation: str, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all messages that answer the dump request ``kind``."""
        for _ in range(20):
            self._sequence += 1
            header = _header.pack(_header.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, self._sequence, 0)
            self._socket.send(header + _pad(body))
            replies: list[bytes] = []
            disturbed = done = False
            while not done:
                for answer, flags, number, content in _messages(self._socket.recv(BUFFER)):
                    if number != self._sequence:
                        continue
                    disturbed = disturbed or bool(flags & NLM_F_DUMP_INTR)
                    if answer == NLMSG_ERROR and (error := _failure(operation, "", flags, content)):
                        raise error
                    if answer in (NLMSG_DONE, NLMSG_ERROR):
                        done = True
                    else:
                        replies.append(content)
            if not disturbed:
                break
        return replies


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def attributes(*pairs: tuple[int, bytes]) -> bytes:
    """Type and value pairs as netlink attributes, padded."""
    return b"".join(_attribute.pack(4 + len(value), kind) + _pad(value) for kind, value in pairs)


def text_of(value: bytes) -> str:
    """A zero-terminated string."""
    return value.rstrip(b"\0").decode(errors="replace")


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence number and body of each message in a packet."""
    offset = 0
    while offset + _header.size <= len(data):
        length, kind, flags, number, _ = _header.unpack_from(data, offset)
        if length < _header.size:
            return
        yield kind, flags, number, data[offset + _header.size : offset + length]
        offset += (length + 3) & ~3


def parts(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute from ``offset`` on."""
    while offset + 4 <= len(data):
        length, kind = _attribute.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _failure(operation: str, name: str, flags: int, body: bytes) -> OSError | None:
    number = -_int.unpack_from(body)[0]
    if number == 0:
        return None
    text = os.strerror(number)
    if flags & NLM_F_ACK_TLVS:
        # After the errno comes the header of the request, with all of its body unless it was capped.
        start = 4 + _header.size
        if not flags & NLM_F_CAPPED:
            start = 4 + ((_header.unpack_from(body, 4)[0] + 3) & ~3)
        explanation = text_of(dict(parts(body, start)).get(NLMSGERR_ATTR_MSG, b""))
        if explanation:
            text += f" ({explanation})"
    return OSError(number, f"netlink: {operation}: {text}", name or None)
