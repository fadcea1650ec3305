"""Where engines ask for containers: a socket of the host's, and what comes by it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from capsa.platform import packets
from capsa.platform.loop import READ, Loop
from capsa.platform.protocol import Launch

_decoder = msgspec.json.Decoder(Launch)
# What is asked for; its control socket, ends for what is attached, and descriptors to be held.
Asked = Callable[[Launch, socket.socket, list[socket.socket], list[socket.socket]], None]


class Launches:
    """Whoever has connected to ``path`` may ask for containers; ``asked`` is called for each."""

    def __init__(self, loop: Loop, path: str, asked: Asked) -> None:
        self._loop = loop
        self._path = Path(path)
        self._asked = asked
        self._engines: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    @property
    def engines(self) -> int:
        """How many there are."""
        return len(self._engines)

    def listen(self) -> None:
        """Raises `OSError`."""
        path = self._path
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            before = os.umask(0o077)
            try:
                self._listener.bind(f"/proc/self/fd/{directory}/{path.name}")
            finally:
                os.umask(before)
        finally:
            os.close(directory)
        self._listener.listen(8)
        self._listener.setblocking(False)
        self._loop.watch(self._listener.fileno(), READ, self._accept)

    def close(self) -> None:
        """Listen to none any more."""
        self._listener.close()
        with contextlib.suppress(OSError):
            os.unlink(self._path)

    def _accept(self, _events: int) -> None:
        try:
            end, _address = self._listener.accept()
        except OSError:
            return
        end.setblocking(False)
        self._engines.append(end)
        self._loop.watch(end.fileno(), READ, lambda _events: self._serve(end))

    def _serve(self, end: socket.socket) -> None:
        try:
            packet = packets.receive(end)
        except BlockingIOError:
            return
        except OSError:
            packet = None
        if packet is None:
            self._loop.forget(end.fileno())
            self._engines.remove(end)
            end.close()
            return
        data, fds = packet
        try:
            launch = _decoder.decode(data)
            control = socket.socket(fileno=fds.pop(0))
        except (msgspec.DecodeError, IndexError) as error:
            print(f"a malformed launch: {error}", file=sys.stderr)
            for fd in fds:
                os.close(fd)
            return
        ends = [socket.socket(fileno=fd) for fd in fds]
        self._asked(launch, control, ends[: len(launch.attach)], ends[len(launch.attach) :])
