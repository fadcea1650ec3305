"""Messages with file descriptors over a unix ``SOCK_SEQPACKET`` socket, one JSON object a packet.

A message that is too large for a packet (the arguments of a process may take two megabytes) is in a memory file, whose
descriptor is the last one; the packet says `ELSEWHERE` instead.
"""

from __future__ import annotations

import array
import os
import socket

import msgspec

from capsa.platform.protocol import LARGEST, PACKET

MOST_FDS = 250
ELSEWHERE = b"@"
_FD_SIZE = array.array("i").itemsize
_encoder = msgspec.json.Encoder()


def send(end: socket.socket, message: msgspec.Struct, fds: tuple[int, ...] | list[int] = ()) -> None:
    """Send one message; raises OSError (BlockingIOError on a full socket that does not block)."""
    data = _encoder.encode(message)
    if len(data) > PACKET:
        memory = os.memfd_create("message", os.MFD_CLOEXEC)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(memory, view) :]
            _send(end, ELSEWHERE, [*fds, memory])
        finally:
            os.close(memory)
    else:
        _send(end, data, fds)


def _send(end: socket.socket, data: bytes, fds: tuple[int, ...] | list[int]) -> None:
    control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    end.sendmsg([data], control, socket.MSG_NOSIGNAL)


def receive(end: socket.socket) -> tuple[bytes, list[int]] | None:
    """One message and the file descriptors that came with it (close-on-exec), or None at the end.

    Raises BlockingIOError if nothing is there on a socket that does not block, and OSError.
    """
    data, ancillary, flags, _address = end.recvmsg(
        PACKET, socket.CMSG_SPACE((MOST_FDS + 1) * _FD_SIZE), socket.MSG_CMSG_CLOEXEC
    )
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % _FD_SIZE])
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise OSError(f"a packet of more than {PACKET} bytes or {MOST_FDS} file descriptors")
    if not data and not fds:
        return None
    if data == ELSEWHERE and fds:
        data = _contents(fds.pop())
    return data, list(fds)


def _contents(memory: int) -> bytes:
    """All of a memory file, which is closed; raises OSError."""
    try:
        size = os.fstat(memory).st_size
        if size > LARGEST:
            raise OSError(f"a message of more than {LARGEST} bytes")
        return os.pread(memory, size, 0)
    finally:
        os.close(memory)
