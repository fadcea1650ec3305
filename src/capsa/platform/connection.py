"""A sub-init's end of a control connection: requests come in, replies and reports go out."""

from __future__ import annotations

import os
import socket
import sys
from collections import deque

import msgspec

from capsa.errors import CapsaError, reason
from capsa.platform import packets, protocol
from capsa.platform.loop import READ, WRITE, Loop
from capsa.platform.protocol import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol
else:
    Protocol = object

MOST_WAITING = 10_000
"""Messages for an engine that does not listen: a queue of the kernel's has room for some three hundred."""

_requests = msgspec.json.Decoder(protocol.Request)

Result = protocol.Result | Failure


class Answer(Protocol):
    """Says what became of a request; ``fds`` stay the caller's."""

    def __call__(self, result: Result, fds: Sequence[int] = ()) -> None:
        """Say it."""


def failure_of(error: BaseException) -> Failure:
    """An exception as it travels to the engine."""
    if isinstance(error, CapsaError):
        return Failure(message=str(error), kind=type(error).__name__, code=getattr(error, "code", 0))
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return Failure(message=f"the sub-init could not do it: {where}{reason(error)}")
    sys.excepthook(type(error), error, error.__traceback__)
    return Failure(message=f"{type(error).__name__}: {error}")


class Servant(Protocol):
    """Who carries requests out."""

    def obey(self, command: protocol.Command, ends: list[socket.socket], answer: Answer) -> None:
        """Do it and ``answer``, now or later, or raise; the sockets are taken over unless it raises."""

    def disconnected(self, connection: Connection) -> None:
        """It is closed."""


class Connection:
    """A control connection to an engine."""

    def __init__(self, attendant: Servant, loop: Loop, end: socket.socket) -> None:
        self._attendant = attendant
        self._loop = loop
        self._end = end
        self.alive = True
        self._waiting: deque[tuple[msgspec.Struct, list[int]]] = deque()
        end.setblocking(False)
        loop.watch(end.fileno(), READ, self._ready)

    @property
    def busy(self) -> bool:
        """Something was said that the engine has not taken yet."""
        return bool(self._waiting)

    def send(self, message: msgspec.Struct, fds: Sequence[int] = ()) -> bool:
        """Say it, now or when the engine listens; one that does not listen for very long is taken for gone."""
        if not self._waiting and self._sent(message, fds):
            return True
        if not self.alive:
            return False
        if len(self._waiting) >= MOST_WAITING:
            self.close()
            return False
        self._waiting.append((message, [os.dup(fd) for fd in fds]))
        self._loop.watch(self._end.fileno(), READ | WRITE, self._ready)
        return True

    def _sent(self, message: msgspec.Struct, fds: Sequence[int]) -> bool:
        try:
            packets.send(self._end, message, list(fds))
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        return True

    def _go_on(self) -> None:
        """Say what waits, as far as the engine takes it."""
        while self._waiting and self._sent(*self._waiting[0]):
            _message, fds = self._waiting.popleft()
            for fd in fds:
                os.close(fd)
        if self.alive and not self._waiting:
            self._loop.watch(self._end.fileno(), READ, self._ready)

    def untold(self) -> list[msgspec.Struct]:
        """What the engine never took."""
        found = [message for message, _fds in self._waiting]
        for _message, fds in self._waiting:
            for fd in fds:
                os.close(fd)
        self._waiting.clear()
        return found

    def detach(self) -> int:
        """Leave the connection to the next attendant."""
        return self._end.detach()

    def close(self) -> None:
        """Forget this engine."""
        if self.alive:
            self.alive = False
            self._loop.forget(self._end.fileno())
            self._end.close()
            self._attendant.disconnected(self)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._go_on()
            if not self.alive or not events & ~WRITE:
                return
        try:
            packet = packets.receive(self._end)
        except BlockingIOError:
            return
        except OSError:
            packet = None
        if packet is None:
            self.close()
            return
        data, fds = packet
        try:
            request = _requests.decode(data)
        except msgspec.DecodeError as error:
            for fd in fds:
                os.close(fd)
            self.send(protocol.Reply(number=0, failure=Failure(message=f"malformed request: {error}")))
            return
        ends = [socket.socket(fileno=fd) for fd in fds]

        def answer(result: Result, fds: Sequence[int] = ()) -> None:
            self._reply(request.number, result, fds)

        try:
            self._attendant.obey(request.command, ends, answer)
        except Exception as error:
            for end in ends:
                end.close()
            self._reply(request.number, failure_of(error))

    def _reply(self, number: int, result: Result, fds: Sequence[int] = ()) -> None:
        if isinstance(result, Failure):
            self.send(protocol.Reply(number=number, failure=result))
        else:
            self.send(protocol.Reply(number=number, result=result), fds)
