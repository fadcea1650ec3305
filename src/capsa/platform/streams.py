"""The standard streams of one process, and the clients attached to them.

A sub-init has one `Streams` for the container's main process and one for each exec. What the process writes goes
to the log and to every client that wants it; a client that does not keep up slows the process down (once
`BACKLOG` bytes wait for it) instead of losing output or filling memory.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from capsa.platform.log import LogWriter
from capsa.platform.loop import HANGUP, READ, WRITE, Loop
from capsa.platform.protocol import Attach

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 1 << 20
CHUNK = 1 << 16
STDOUT = 1
STDERR = 2
NAMES = {STDOUT: "stdout", STDERR: "stderr"}


class Client:
    """One attached stream socket."""

    def __init__(self, streams: Streams, end: socket.socket, wanted: Attach, raw: bool) -> None:
        self._streams = streams
        self._socket = end
        self._stdin = wanted.stdin
        self._raw = raw
        self._output = {tag for tag, wants in ((STDOUT, wanted.stdout), (STDERR, wanted.stderr)) if wants}
        self._backlog = bytearray()
        self._ending = False
        self._closed = False
        end.setblocking(False)
        self.update()

    @property
    def congested(self) -> bool:
        """More waits for it than it should."""
        return len(self._backlog) >= BACKLOG

    @property
    def hopeless(self) -> bool:
        """As much again waits for it, of output that nobody can hold back."""
        return len(self._backlog) >= 2 * BACKLOG

    def send(self, tag: int, data: bytes) -> None:
        """Pass output on, in the form that the protocol asks for."""
        if tag not in self._output:
            return
        if not self._raw:
            data = struct.pack(">BxxxL", tag, len(data)) + data
        if not self._backlog:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self._leave()
                return
            data = data[sent:]
        self._backlog += data
        self.update()

    def finish(self) -> None:
        """No more output: close once everything has been sent."""
        self._ending = True
        if not self._backlog:
            self._leave()

    def drop(self) -> None:
        """Break off."""
        self._backlog.clear()
        self._leave()

    def update(self) -> None:
        """Watch for what can be done now."""
        if self._closed:
            return
        reading = self._stdin and self._streams.accepts_input
        events = (READ if reading else 0) | (WRITE if self._backlog else 0)
        self._streams.loop.watch(self._socket.fileno(), events, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE:
            self._drain()
        if self._closed:
            return
        if events & READ and self._stdin:
            self._take()
        elif events & HANGUP:
            self._leave()

    def _drain(self) -> None:
        try:
            sent = self._socket.send(self._backlog)
        except BlockingIOError:
            return
        except OSError:
            self._leave()
            return
        was_congested = self.congested
        del self._backlog[:sent]
        if self._ending and not self._backlog:
            self._leave()
            return
        self.update()
        if was_congested and not self.congested:
            self._streams.update()

    def _take(self) -> None:
        try:
            data = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._leave()
            return
        if data:
            self._streams.feed(data)
            return
        self._stdin = False
        self._streams.input_ended()
        self.update()

    def _leave(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._streams.loop.forget(self._socket.fileno())
        self._socket.close()
        self._streams.left(self, self._stdin)


class Streams:
    """Standard input, output and error of one process; with a ``console`` all three are that terminal's master."""

    def __init__(
        self,
        loop: Loop,
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        console: int | None = None,
        raw: bool = False,
        close_stdin: bool = False,
        fed: bool = False,
        log: LogWriter | None = None,
        on_trouble: Callable[[OSError], None] | None = None,
    ) -> None:
        """Takes the file descriptors over.

        ``raw``: clients get output as it is, as from a ``console``, which they tell apart from nothing else.
        ``close_stdin``: the process sees the end of input when a client's input ends. ``fed``: output comes through
        `emit` until `close`.
        """
        self.loop = loop
        self.console = console
        self._stdin = console if console is not None else stdin
        sources = ((console, STDOUT), (stdout, STDOUT), (stderr, STDERR))
        self._sources = {fd: tag for fd, tag in sources if fd is not None}
        self._close_stdin = close_stdin and console is None
        self._raw = raw
        self._log = log
        self._on_trouble = on_trouble
        self._clients: list[Client] = []
        self._pending = bytearray()
        self._input_over = False
        self._fed = fed
        for fd in {*self._sources, *([self._stdin] if self._stdin is not None else [])}:
            os.set_blocking(fd, False)
        self.update()

    @property
    def open(self) -> bool:
        """The process (or an heir of its streams) may still write."""
        return bool(self._sources) or self._fed

    @property
    def idle(self) -> bool:
        """Nobody is attached, and no input waits: another process could take over."""
        return not self._clients and not self._pending

    def open_by_name(self) -> dict[str, int]:
        """The file descriptors that are open, by the names of the parameters that take them."""
        if self.console is not None:
            return {"console": self.console}
        found = {NAMES[tag]: fd for fd, tag in self._sources.items()}
        if self._stdin is not None:
            found["stdin"] = self._stdin
        return found

    @property
    def accepts_input(self) -> bool:
        """More input can be taken now."""
        return self._stdin is not None and not self._input_over and len(self._pending) < CHUNK

    def attach(self, end: socket.socket, wanted: Attach) -> None:
        """Connect one more client."""
        client = Client(self, end, wanted, raw=self._raw or self.console is not None)
        self._clients.append(client)
        if wanted.stdin and self._stdin is None:
            client.update()
        if not self.open:
            client.finish()

    def update(self) -> None:
        """Watch for what can be done now: output only while every client keeps up."""
        reading = READ if not any(client.congested for client in self._clients) else 0
        for fd in self._sources:
            writing = WRITE if fd == self._stdin and self._pending else 0
            self.loop.watch(fd, reading | writing, lambda events, fd=fd: self._ready(fd, events))  # type: ignore[misc]
        if self._stdin is not None and self._stdin not in self._sources:
            stdin = self._stdin
            self.loop.watch(stdin, WRITE if self._pending else 0, lambda events: self._ready(stdin, events))

    def feed(self, data: bytes) -> None:
        """Input for the process."""
        if self._stdin is None or self._input_over:
            return
        self._pending += data
        self._write()

    def input_ended(self) -> None:
        """A client's input has ended."""
        if self._close_stdin:
            self._input_over = True
            if not self._pending:
                self._shut_stdin()

    def left(self, client: Client, had_input: bool) -> None:
        """A client is gone."""
        if client in self._clients:
            self._clients.remove(client)
        if had_input:
            self.input_ended()
        self.update()

    def drain(self) -> None:
        """Read what is there, without waiting; for the time after the process has ended.

        An heir of its streams may write on, faster than is read here: so no more than a pipe can hold.
        """
        for fd in list(self._sources):
            left = _capacity(fd)
            while left > 0 and fd in self._sources:
                taken = self._read(fd)
                if not taken:
                    break
                left -= taken

    def close(self) -> None:
        """No more output will come: finish the log and let the clients go once they have everything."""
        self._fed = False
        for fd in list(self._sources):
            self._end_of(fd)
        self._shut_stdin()
        if self._log is not None:
            self._log_out(lambda log: log.flush())
        for client in list(self._clients):
            client.finish()

    @property
    def busy(self) -> bool:
        """A client still waits for output."""
        return bool(self._clients)

    def _ready(self, fd: int, events: int) -> None:
        if fd == self._stdin and self._pending and events & (WRITE | HANGUP):
            self._write()
        elif fd == self._stdin and fd not in self._sources and events & HANGUP:
            self._shut_stdin()  # nobody reads any more
        if fd in self._sources and events & (READ | HANGUP):
            self._read(fd)

    def _read(self, fd: int) -> int:
        """Take some output; returns how many bytes, 0 if there are none now or none any more."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return 0
        except OSError:  # a terminal's master says EIO when nobody has the other side open
            data = b""
        if not data:
            self._end_of(fd)
            return 0
        self._pass_on(self._sources[fd], data)
        return len(data)

    def emit(self, tag: int, data: bytes) -> None:
        """Take output whose writer cannot be slowed down: a client that does not keep up is let go of.

        What has been written to the process's own output before comes before it, if that is not held back.
        """
        for client in list(self._clients):
            if client.hopeless:
                client.drop()
        if not any(client.congested for client in self._clients):
            self.drain()
        self._pass_on(tag, data)

    def _pass_on(self, tag: int, data: bytes) -> None:
        if self._log is not None:
            self._log_out(lambda log: log.write(NAMES[tag], data))
        if self._clients:
            for client in list(self._clients):
                client.send(tag, data)
            self.update()

    def _log_out(self, act: Callable[[LogWriter], None]) -> None:
        assert self._log is not None
        try:
            act(self._log)
        except OSError as error:
            if self._on_trouble is not None:
                self._on_trouble(error)

    def _end_of(self, fd: int) -> None:
        del self._sources[fd]
        self.loop.forget(fd)
        if fd == self.console:
            self._stdin = None
            self.console = None
        os.close(fd)
        if not self._sources:
            for client in list(self._clients):
                client.update()

    def _write(self) -> None:
        if self._stdin is None:
            return
        if self._pending:
            try:
                done = os.write(self._stdin, self._pending)
            except BlockingIOError:
                done = 0
            except OSError:  # nobody reads any more
                self._shut_stdin()
                return
            del self._pending[:done]
        if self._input_over and not self._pending:
            self._shut_stdin()
            return
        self.update()
        for client in self._clients:
            client.update()

    def _shut_stdin(self) -> None:
        if self._stdin is None or self._stdin == self.console:
            return
        self.loop.forget(self._stdin)
        os.close(self._stdin)
        self._stdin = None
        self._pending.clear()
        for client in list(self._clients):
            client.update()


def _capacity(fd: int) -> int:
    """The bytes that may wait in a pipe; more than may wait in a terminal."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    except OSError:
        return BACKLOG
