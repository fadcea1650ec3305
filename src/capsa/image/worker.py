"""The process that unpacks layers, so that the engine's event loop never waits for an archive, and can kill it.

``python -m capsa.image.worker FD ROOT``: requests come in on the socket ``FD`` and are answered in order, one JSON
object a line. It ends with its socket, and with its parent.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from capsa.errors import CapsaError, reason
from capsa.image.layers import LayerStore
from capsa.sys.process import prctl
from capsa.sys.title import set_title

_PR_SET_PDEATHSIG = 1
_REPORT_EVERY = 0.1  # seconds


class Struct(msgspec.Struct, omit_defaults=True, kw_only=True):
    """Base of all messages."""


class Unpack(Struct):
    """The arguments of `LayerStore.unpack`; ``arriving``: the diff id is announced (`Announced`)."""

    blob: str
    diff_id: str | None = None
    media_type: str = ""
    arriving: bool = False

    @property
    def what(self) -> str:
        """What errors call it."""
        return "a layer that arrives" if self.arriving else self.blob


class Read(Struct, tag="read"):
    """How many bytes of the blob were read so far."""

    bytes: int


class Announced(Struct, tag="announced"):
    """All of the layer was read; it will be there once the other end has sent an empty line."""

    diff_id: str


class Unpacked(Struct, tag="unpacked"):
    """The layer is there."""

    diff_id: str


class Failed(Struct, tag="failed"):
    """It is not; ``kind`` is the name of a class in `capsa.errors`."""

    kind: str
    message: str


Answer = Unpacked | Failed
Report = Read | Announced | Unpacked | Failed


class Worker:
    """Answers the requests of one connection."""

    def __init__(self, connection: socket.socket, store: LayerStore) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._store = store
        self._next = 0.0

    def run(self) -> None:
        """Until the other end is closed."""
        decoder = msgspec.json.Decoder(Unpack)
        with self._lines:
            while line := self._lines.readline():
                self._report(self._answer(decoder.decode(line)))

    def _answer(self, request: Unpack) -> Answer:
        self._next = 0.0
        try:
            layer = self._store.unpack(
                Path(request.blob),
                diff_id=request.diff_id,
                media_type=request.media_type,
                progress=self._progress,
                announce=self._announce if request.arriving else None,
            )
        except CapsaError as error:
            return Failed(kind=type(error).__name__, message=str(error))
        except MemoryError:
            return Failed(kind="CapsaError", message=f"not enough memory to unpack {request.what}")
        except OSError as error:
            return Failed(kind="CapsaError", message=f"cannot unpack {request.what}: {reason(error)}")
        return Unpacked(diff_id=layer.diff_id)

    def _progress(self, count: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _REPORT_EVERY
            self._report(Read(bytes=count))

    def _announce(self, diff_id: str) -> None:
        self._report(Announced(diff_id=diff_id))
        if not self._lines.readline():
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    def _report(self, report: Report) -> None:
        self._connection.sendall(msgspec.json.encode(report) + b"\n")


def main() -> None:
    """Serve the connection that the command line names."""
    number, root, parent = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return  # the parent died before it could be noticed
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's interrupt is the engine's to handle
    set_title("capsa: image worker")
    with socket.socket(fileno=number) as connection:
        Worker(connection, LayerStore(root)).run()


if __name__ == "__main__":
    main()
