"""Where engines come to speak with one container: a listening socket, their connections, and what none has heard."""

from __future__ import annotations

import contextlib
import os
import socket

from capsa.platform import protocol
from capsa.platform.connection import Answer, Connection
from capsa.platform.loop import READ, Loop
from capsa.platform.protocol import Report, Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol
else:
    Protocol = object

HELD_REPORTS = 1000


class Host(Protocol):
    """Who is spoken with."""

    def obey(self, command: protocol.Command, ends: list[socket.socket], answer: Answer) -> None:
        """As of `capsa.platform.connection.Servant`."""

    def greeting(self) -> Status:
        """The first report to each engine."""


class Reception:
    """All engines that are there, and the socket for those that will come."""

    def __init__(self, host: Host, loop: Loop, path: str) -> None:
        """``path``: of the socket, see `listen`."""
        self.engines: list[Connection] = []
        self._host = host
        self._loop = loop
        self._path = path
        self._listener: socket.socket | None = None
        self._unheard: list[Report] = []

    @property
    def busy(self) -> bool:
        """Something was said that an engine has not taken yet."""
        return any(engine.busy for engine in self.engines)

    def admit(self, end: socket.socket) -> Connection:
        """An engine's connection."""
        engine = Connection(self, self._loop, end)
        self.engines.append(engine)
        return engine

    def listen(self) -> None:
        """Listen for other engines; by a path below /proc/self/fd, since socket addresses are short."""
        parent, name = os.path.split(self._path)
        os.makedirs(parent, exist_ok=True)
        directory = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            before = os.umask(0o077)
            try:
                listener.bind(f"/proc/self/fd/{directory}/{name}")
            finally:
                os.umask(before)
            listener.listen(4)
        finally:
            os.close(directory)
        listener.setblocking(False)
        self._listener = listener
        self._loop.watch(listener.fileno(), READ, self._accept)

    def take_up(self, listener: int | None, engines: Sequence[int], unheard: list[Report]) -> None:
        """Go on with what another process has left (`leave`)."""
        self._unheard = unheard
        if listener is not None:
            self._listener = socket.socket(fileno=listener)
            self._loop.watch(listener, READ, self._accept)
        for fd in engines:
            self.admit(socket.socket(fileno=fd))

    def leave(self) -> tuple[int | None, list[int], list[Report]]:
        """Let go of the descriptors without closing them: the listener's, the engines', and what nobody has heard."""
        listener = self._listener.detach() if self._listener is not None else None
        return listener, [engine.detach() for engine in self.engines], self._unheard

    def close(self) -> None:
        """No engine can come any more."""
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None
            with contextlib.suppress(OSError):
                os.unlink(self._path)
                os.rmdir(os.path.dirname(self._path))

    def say(self, report: Report) -> None:
        """Tell all engines; what no engine hears and no status repeats is kept for the next."""
        heard = False
        for engine in list(self.engines):
            heard = engine.send(report) or heard
        if not heard and not isinstance(report, Status):
            self._keep(report)

    def obey(self, command: protocol.Command, ends: list[socket.socket], answer: Answer) -> None:
        """As of `capsa.platform.connection.Servant`."""
        self._host.obey(command, ends, answer)

    def disconnected(self, connection: Connection) -> None:
        """An engine is gone; another will come."""
        self.engines.remove(connection)
        for message in connection.untold():
            if not self.engines and isinstance(
                message, protocol.ExecExited | protocol.OutOfMemory | protocol.LogTrouble | protocol.Shortage
            ):
                self._keep(message)

    def _accept(self, _events: int) -> None:
        assert self._listener is not None
        try:
            end, _address = self._listener.accept()
        except OSError:
            return
        engine = self.admit(end)
        unheard, self._unheard = self._unheard, []
        for message in (self._host.greeting(), *unheard):
            engine.send(message)

    def _keep(self, report: Report) -> None:
        if len(self._unheard) < HELD_REPORTS:
            self._unheard.append(report)
