"""Between the user's standard streams and a container's (Docker Engine API, "Attach to a container")."""

from __future__ import annotations

import os
import select
import signal
import socket
from contextlib import ExitStack, contextmanager, suppress

from capsa.errors import CapsaError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

    from capsa.cli.client import Engine

_READ = 65536
_HEADER = 8
_STDERR = 2
_PROXIED = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "CONT", "WINCH", "TSTP", "TTIN", "TTOU", "IO")


class Demultiplexer:
    """Frames of a stream without a terminal: one byte 1 (stdout) or 2 (stderr), three zero, four of length."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0
        self._channel = 1

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The payload in ``data``, as (1 or 2, bytes); raises `CapsaError` if it is no such stream."""
        while data:
            if self._left:
                piece, data = data[: self._left], data[self._left :]
                self._left -= len(piece)
                yield self._channel, piece
                continue
            wanted = _HEADER - len(self._header)
            self._header, data = self._header + data[:wanted], data[wanted:]
            if len(self._header) == _HEADER:
                self._channel = self._header[0]
                self._left = int.from_bytes(self._header[4:], "big")
                if self._channel > _STDERR or self._header[1:4] != b"\0\0\0":
                    raise CapsaError("the engine's stream is not one of frames")
                self._header = b""


def write(descriptor: int, data: bytes) -> None:
    """All of ``data``, also to a descriptor that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


class _Detach:
    """Looks for the detach keys in what is typed; keys that only begin like them are passed on late."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on, and whether the whole sequence was there."""
        output = bytearray()
        for number in range(len(data)):
            byte = data[number]
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(output), True
            else:  # which does not begin the sequence anew: the engine has it so, too
                output += self._keys[: self._matched]
                output.append(byte)
                self._matched = 0
        return bytes(output), False


def pump(
    connection: socket.socket,
    ahead: bytes,
    *,
    stdin: bool,
    terminal: bool,
    detach_keys: bytes | None = None,
    outputs: tuple[int, int] = (1, 2),
) -> bool:
    """Copy until the container's side ends; false if the user detached.

    ``ahead`` was read of ``connection`` already. The end of standard input closes the container's, and output goes on.
    Nothing is read from standard input that the container is not ready to take.
    """
    frames = None if terminal else Demultiplexer()
    detach = _Detach(detach_keys) if detach_keys else None
    poll = select.poll()
    pending = b""
    connection.setblocking(False)
    reading = stdin
    out = connection.fileno()

    def show(data: bytes) -> None:
        if frames is None:
            write(outputs[0], data)
        else:
            for channel, piece in frames.feed(data):
                write(outputs[1] if channel == _STDERR else outputs[0], piece)

    if ahead:
        show(ahead)
    try:
        while True:
            poll.register(out, select.POLLIN | (select.POLLOUT if pending else 0))
            if reading and not pending:
                poll.register(0, select.POLLIN)
            for descriptor, event in poll.poll():
                if descriptor == out:
                    if event & select.POLLOUT and pending:
                        pending = _send(connection, pending)
                    if event & (select.POLLIN | select.POLLHUP | select.POLLERR):
                        data = _receive(connection)
                        while data:
                            show(data)
                            # TLS may hold more that poll() does not know of.
                            data = _receive(connection) if _buffered(connection) else None
                        if data == b"":
                            return True
                    continue
                poll.unregister(0)
                try:
                    data = os.read(0, _READ) if not event & select.POLLNVAL else b""
                except BlockingIOError:
                    continue
                except OSError:
                    data = b""
                if not data:
                    reading = False
                    _half_close(connection)
                    continue
                left = False
                if detach:
                    data, left = detach.feed(data)
                pending = _send(connection, data)
                if left:
                    return False
    finally:
        connection.close()


def _buffered(connection: socket.socket) -> bool:
    pending = getattr(connection, "pending", None)
    return pending is not None and pending() > 0


def _receive(connection: socket.socket) -> bytes | None:
    """What has arrived: nothing at the end, None if it is not there yet."""
    try:
        return connection.recv(_READ)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        return b""
    except OSError as error:
        if type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError"):
            return None
        raise Unavailable(f"the stream to the engine broke: {error}") from error


def _send(connection: socket.socket, data: bytes) -> bytes:
    """Send what fits; what did not is returned."""
    try:
        return data[connection.send(data) :] if data else b""
    except BlockingIOError:
        return data
    except (BrokenPipeError, ConnectionResetError):
        return b""  # the container takes no more; its output may still come
    except OSError as error:
        if type(error).__name__ in ("SSLWantReadError", "SSLWantWriteError"):
            return data
        raise Unavailable(f"the stream to the engine broke: {error}") from error


def _half_close(connection: socket.socket) -> None:
    with suppress(OSError):  # the other side was faster
        connection.shutdown(socket.SHUT_WR)


def session(
    engine: Engine,
    resource: str,
    connection: socket.socket,
    ahead: bytes,
    *,
    stdin: bool,
    terminal: bool,
    detach_keys: str | None,
    proxy_signals: bool,
    redraw: bool = False,
    outputs: tuple[int, int] = (1, 2),
) -> bool:
    """`pump` as a person uses it: with the terminal raw and its size passed on, or signals passed on.

    ``resource`` is the API path of what is attached to (``/containers/ID`` or ``/exec/ID``), ``detach_keys`` what the
    user gave for them. ``redraw``: a program that runs already is made to draw its screen anew.
    """
    stayed = True
    with ExitStack() as stack:
        detach = None
        if terminal:
            from capsa.cli.terminal import detach_keys as sequence
            from capsa.cli.terminal import is_terminal, on_resize, raw, size

            keys = sequence(detach_keys)
            if stdin and is_terminal(0):
                stack.enter_context(raw())
                detach = keys
            if redraw:
                rows, columns = size()
                # Only a size that changes is a signal to the program.
                _resize(engine, resource, rows + 1, columns + 1)
            stack.enter_context(on_resize(lambda rows, columns: _resize(engine, resource, rows, columns)))
        elif proxy_signals:
            stack.enter_context(proxied(engine, resource))
        stayed = pump(connection, ahead, stdin=stdin, terminal=terminal, detach_keys=detach, outputs=outputs)
    if not stayed:
        write(outputs[1], b"\n")  # the shell's prompt is not to stand in the container's line
    return stayed


def left() -> int:
    """Say, as docker does for ``attach`` and ``exec``, that the user left with the detach keys what runs on; returns
    docker's exit code for that.
    """
    write(2, b"read escape sequence\n")
    return 1


def _resize(engine: Engine, resource: str, rows: int, columns: int) -> None:
    with suppress(CapsaError):  # it has just ended: its terminal needs no size any more
        engine.request("POST", f"{resource}/resize", {"h": rows, "w": columns}, own=True).read()


@contextmanager
def proxied(engine: Engine, resource: str, names: Iterable[str] = _PROXIED) -> Iterator[None]:
    """Signals that reach us go to the container instead, while this lasts."""

    def forward(number: int, frame: FrameType | None) -> None:
        try:
            name = signal.Signals(number).name
            engine.request("POST", f"{resource}/kill", {"signal": name}, own=True).read()
        except CapsaError:
            pass  # not running (any more): nobody to tell

    numbers = [getattr(signal, f"SIG{name}") for name in names]
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
