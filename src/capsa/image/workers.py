"""The engine's end of the processes that unpack layers (`capsa.image.worker`)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from capsa import errors
from capsa.errors import CapsaError, reason
from capsa.image.layers import Layer, LayerStore
from capsa.image.worker import Announced, Answer, Read, Report, Unpack, Unpacked

_LINE = 1 << 20


class Workers:
    """At most ``limit`` processes that unpack layers into ``store``, started on demand, ended ``idle`` seconds after
    use.

    As many again unpack what is just arriving: they may have to wait for a client, and nobody else waits for them. Who
    has one of ``arrivals`` (from any thread) may use `unpack_arriving`.

    For one event loop. The processes die with the engine, whatever happens to it.
    """

    def __init__(self, store: LayerStore, *, limit: int = 2, idle: float = 10.0) -> None:
        self._store = store
        self._idle_time = idle
        self._slots = asyncio.Semaphore(limit)
        self.arrivals = threading.Semaphore(limit)
        self._idle: list[_Process] = []
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def unpack(
        self,
        blob: Path,
        *,
        diff_id: str | None = None,
        media_type: str = "",
        progress: Callable[[int], None] | None = None,
    ) -> Layer:
        """`LayerStore.unpack` in another process; the errors are the same, with their classes.

        ``progress`` is called in the event loop with the number of bytes read so far, some ten times a second. When the
        caller is cancelled, or the process dies (`CapsaError`), what it had done is undone before this returns.
        """
        if diff_id is not None and self._store.has(diff_id):
            return self._store.layer(diff_id)
        request = Unpack(blob=str(blob.absolute()), diff_id=diff_id, media_type=media_type)
        async with self._slots:
            return await self._have(request, progress, None)

    async def unpack_arriving(
        self,
        pipe: Path,
        *,
        diff_id: str | None,
        progress: Callable[[int], None],
        announced: Callable[[str], Awaitable[None]],
    ) -> Layer:
        """The same for an uncompressed layer that comes through a pipe; what does so is not kept but as a recipe.

        ``progress`` is called as soon as the process has opened ``pipe``. ``announced`` is waited for, with the
        diff id, just before the layer is there.
        """
        return await self._have(Unpack(blob=str(pipe), diff_id=diff_id, arriving=True), progress, announced)

    async def _have(
        self,
        request: Unpack,
        progress: Callable[[int], None] | None,
        announced: Callable[[str], Awaitable[None]] | None,
    ) -> Layer:
        process = self._idle.pop() if self._idle else await _Process.start(self._store.root)
        done = False
        try:
            report = await process.ask(request, progress, announced)
            done = True
        finally:
            if done:
                self._idle.append(process)
                self._watch()
            else:
                await self._undo(process)
        if isinstance(report, Unpacked):
            return self._store.layer(report.diff_id)
        raise getattr(errors, report.kind, CapsaError)(report.message)

    async def prepare(self) -> None:
        """Have a process ready, as there will be something to unpack; to start one takes as long as a hundred files.

        Raises `CapsaError` where none can be started.
        """
        if self._idle or self._slots.locked():
            return
        async with self._slots:
            self._idle.append(await _Process.start(self._store.root))
        self._watch()

    async def close(self) -> None:
        """End all processes; unpackings under way fail."""
        if self._timer:
            self._timer.cancel()
        for process in self._idle:
            self._end(process)
        self._idle.clear()
        if self._ending:
            await asyncio.wait(self._ending)

    async def _undo(self, process: _Process) -> None:
        """Kill it, wait for that, and remove what it left; a second cancellation does not shorten this."""

        async def undo() -> None:
            process.kill()
            await process.ended()
            await asyncio.to_thread(self._store.recover)

        task = asyncio.ensure_future(undo())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        await asyncio.shield(task)

    def _watch(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._idle_time, self._end_idle)

    def _end_idle(self) -> None:
        for process in self._idle:
            self._end(process)
        self._idle.clear()

    def _end(self, process: _Process) -> None:
        task = asyncio.ensure_future(process.ended())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


class _Process:
    """One worker and the connection to it."""

    def __init__(
        self, child: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._child = child
        self._reader = reader
        self._writer = writer
        self._decoder = msgspec.json.Decoder(Report)

    @classmethod
    async def start(cls, root: Path) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                # posix_spawn or vfork: a fraction of a millisecond in the event loop
                child = subprocess.Popen(
                    [
                        *(sys.executable, "-m", "capsa.image.worker"),
                        *(str(theirs.fileno()), str(root.absolute()), str(os.getpid())),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    cwd="/",
                    env={**os.environ, "PYTHONPATH": str(Path(errors.__file__).parents[1])},
                )
            except OSError as error:
                ours.close()
                raise CapsaError(f"cannot start a process that unpacks layers: {reason(error)}") from error
        try:
            reader, writer = await asyncio.open_connection(sock=ours, limit=_LINE)
        except asyncio.CancelledError:
            child.kill()
            child.wait()  # it has not begun: this takes no time
            raise
        return cls(child, reader, writer)

    async def ask(
        self,
        request: Unpack,
        progress: Callable[[int], None] | None,
        announced: Callable[[str], Awaitable[None]] | None,
    ) -> Answer:
        """Raises `CapsaError` when the process ends instead of answering."""
        with contextlib.suppress(ConnectionError):  # it will be noticed just below
            self._writer.write(msgspec.json.encode(request) + b"\n")
            while line := await self._reader.readline():
                report: Report = self._decoder.decode(line)
                if isinstance(report, Read):
                    if progress:
                        progress(report.bytes)
                elif isinstance(report, Announced):
                    if announced:
                        await announced(report.diff_id)
                    self._writer.write(b"\n")
                else:
                    return report
        self.kill()
        await self.ended()
        code = self._child.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise CapsaError(f"the process that unpacked {request.what} {how}; try again")

    def kill(self) -> None:
        self._child.kill()

    async def ended(self) -> None:
        """Hang up and wait until the process is gone."""
        self._writer.close()
        await asyncio.to_thread(self._child.wait)
