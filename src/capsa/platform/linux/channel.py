"""What the caller of `container.create` and the process it made say to each other: packets on a socket pair.

The child's end is close-on-exec: when it closes without another word, the program runs. A failure travels as the name
of its class and its sentence.

A packet is four lines (word, number, kind of failure, exit code) and then bytes: who only says "start" should not have
to load a library for that.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket

from capsa import errors
from capsa.errors import CapsaError, LaunchFailed, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_PACKET = 64 * 1024


class Message:
    """One packet. ``word`` says what it is about; a failure has ``kind`` and ``code``, and its sentence as ``data``."""

    __slots__ = ("code", "data", "kind", "number", "word")

    def __init__(self, word: str, number: int = 0, data: bytes = b"", *, kind: str = "", code: int = 0) -> None:
        self.word = word
        self.number = number
        self.data = data
        self.kind = kind
        self.code = code

    def encode(self) -> bytes:
        """The packet."""
        return f"{self.word}\n{self.number}\n{self.kind}\n{self.code}\n".encode() + self.data

    @classmethod
    def decode(cls, packet: bytes) -> Message:
        """The message in a packet; raises `ValueError`."""
        word, number, kind, code, data = packet.split(b"\n", 4)
        return cls(word.decode(), int(number), data, kind=kind.decode(), code=int(code))


class Gone(LaunchFailed):
    """The other side has ended without a word."""


class Channel:
    """One end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Both ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        """Its descriptor."""
        return self._end.fileno()

    def change(self, end: socket.socket) -> None:
        """Go on with another socket, whoever is at its other end."""
        self._end.close()
        self._end = end

    def send(self, word: str, number: int = 0, data: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """Say ``word``; if nobody listens any more, raises the other side's failure, or `Gone`."""
        try:
            self._send(Message(word, number, data), fds)
        except (BrokenPipeError, ConnectionResetError):
            self.last_words()

    def last_words(self) -> NoReturn:
        """The other side has ended: raises the failure that it left behind, or `Gone`."""
        while True:
            message, fd = self.receive()
            if fd is not None:
                os.close(fd)
            if message is None:
                raise Gone("the container's process ended while it was set up")

    def fail(self, error: BaseException) -> None:
        """Tell of ``error``; silent if nobody listens any more."""
        if isinstance(error, OSError) and not isinstance(error, CapsaError):
            about = f" ({error.filename})" if error.filename else ""
            error = LaunchFailed(f"cannot set the container up: {reason(error)}{about}")
        elif not isinstance(error, CapsaError):
            error = LaunchFailed(f"cannot set the container up: {type(error).__name__}: {error}")
        code = error.code if isinstance(error, LaunchFailed) else 0
        with contextlib.suppress(OSError):
            text = str(error)[:8000].encode(errors="backslashreplace")
            self._send(Message("failed", data=text, kind=type(error).__name__, code=code), ())

    def _send(self, message: Message, fds: tuple[int, ...]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._end.sendmsg([message.encode()], ancillary, socket.MSG_NOSIGNAL)

    def receive(self) -> tuple[Message | None, int | None]:
        """The next message and the descriptor that came with it; None at the end. A failure is raised."""
        try:
            data, ancillary, _, _ = self._end.recvmsg(_PACKET, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # It ended before it read all that it was told; the kernel says so once, before the other's last words.
            data, ancillary, _, _ = self._end.recvmsg(_PACKET, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        fd: int | None = None
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                fd = fds[0]
        if not data:
            return None, fd
        message = Message.decode(data)
        if message.word == "failed":
            if fd is not None:
                os.close(fd)
            raise _failure(message)
        return message, fd

    def expect(self, word: str) -> Message:
        """Wait for ``word``; raises `Gone` if the other side has ended."""
        message, _ = self.receive()
        if message is None or message.word != word:
            raise Gone(f"the container's process went away while waiting for {word!r}")
        return message

    def still(self) -> None:
        """Do not wait for words any more, see `check`."""
        os.set_blocking(self.fileno(), False)

    def check(self) -> None:
        """Raise `Gone` if the other side has ended; takes no system call that a program can be denied."""
        with contextlib.suppress(BlockingIOError):
            if not os.read(self.fileno(), 1):
                raise Gone("who made the container's process has ended")

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def _failure(message: Message) -> CapsaError:
    found, text = getattr(errors, message.kind, None), message.data.decode()
    if message.kind == "LaunchFailed" or not (isinstance(found, type) and issubclass(found, CapsaError)):
        return LaunchFailed(text, message.code or 128)
    return found(text)
