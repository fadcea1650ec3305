"""Layers that are unpacked while they arrive, so that nobody waits for the one and then for the other.

Whoever reads an archive does so in a thread (`capsa.image.stream`), and hands each uncompressed layer on through a
pipe to a process that unpacks (`capsa.image.workers`). Its digest is known when all of it was read. A compressed layer
is kept as it is, so that one is written to disk first.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from types import TracebackType
from typing import Self

from capsa.errors import CapsaError, reason
from capsa.image.compression import kind as compression
from capsa.image.layers import Layer
from capsa.image.progress import Meter
from capsa.image.stream import Interrupted
from capsa.image.tar import looks_like_tar
from capsa.image.workers import Workers

_PIPE = 1 << 20


class Arrival:
    """One layer, of which ``size`` bytes were handed on; for the thread that reads it."""

    def __init__(self, writer: int) -> None:
        self._writer = writer
        self.size = 0
        self.done: Future[Layer] = Future()

    def hand_on(self, parts: Iterable[bytes | memoryview]) -> None:
        """All of it, or as much as whoever unpacks wants (`layer` tells why it may be less)."""
        try:
            for part in parts:
                rest = memoryview(part)
                self.size += len(rest)
                try:
                    while rest:
                        rest = rest[os.write(self._writer, rest) :]
                except BrokenPipeError:
                    break
        finally:
            os.close(self._writer)

    def layer(self) -> Layer:
        """Wait for it; raises what unpacking raises, `Interrupted` when it was given up."""
        return self.done.result()


class Arrivals:
    """The layers that arrive in one operation; an asynchronous context manager, at whose end none is under way.

    ``announced`` is told the diff id of each just before the layer is there, and has to hold it. ``meter`` makes what
    is told of a layer's progress, of a label and the layer's size in bytes.
    """

    def __init__(
        self,
        workers: Workers,
        announced: Callable[[str], Awaitable[None]],
        meter: Callable[[str, int], Meter],
    ) -> None:
        self._workers = workers
        self._announced = announced
        self._meter = meter
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Layer]] = set()
        self._begun: list[Future[Layer]] = []
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def stop(self) -> None:
        """Give up what has not arrived. In the event loop."""
        if not self._closed:  # a second cancellation would not wait until the first one has undone all
            self._closed = True
            for task in self._tasks:
                task.cancel()

    def begin(self, head: bytes, label: str, size: int, diff_id: str | None = None) -> Arrival | None:
        """Begin with a layer of ``size`` bytes, of which ``head`` is the beginning. From any thread.

        None: it has to be written to disk first, as it is compressed (or no layer), or too many arrive just now. Those
        that this operation has handed on already are waited for, as they do not depend on anybody's connection.
        """
        if self._closed or compression(head) or not looks_like_tar(head):
            return None
        while not self._workers.arrivals.acquire(blocking=False):
            self._begun = [each for each in self._begun if not each.done()]
            if not self._begun:
                return None
            wait(self._begun, return_when=FIRST_COMPLETED)
        try:
            reader, writer = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            self._workers.arrivals.release()
            raise CapsaError(f"cannot make a pipe for the layer {label or 'that arrives'}: {reason(error)}") from error
        with contextlib.suppress(OSError):  # what the kernel allows less privileged processes may be used up
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE)
        arrival = Arrival(writer)
        self._begun.append(arrival.done)
        self._loop.call_soon_threadsafe(self._start, arrival, reader, label, size, diff_id)
        return arrival

    def _start(self, arrival: Arrival, reader: int, label: str, size: int, diff_id: str | None) -> None:
        meter = self._meter(label, size)
        ends = contextlib.ExitStack()
        ends.callback(os.close, reader)

        def progress(done: int) -> None:
            ends.close()  # the process has opened the pipe: its end shall be the only one
            meter(done)

        def ended(task: asyncio.Task[Layer]) -> None:
            self._tasks.discard(task)
            ends.close()
            self._workers.arrivals.release()
            if task.cancelled():
                arrival.done.set_exception(Interrupted())
            elif error := task.exception():
                arrival.done.set_exception(error)
            else:
                meter.finish()
                arrival.done.set_result(task.result())

        pipe = Path(f"/proc/{os.getpid()}/fd/{reader}")
        task = self._loop.create_task(
            self._workers.unpack_arriving(pipe, diff_id=diff_id, progress=progress, announced=self._announced)
        )
        self._tasks.add(task)
        task.add_done_callback(ended)
        if self._closed:
            task.cancel()
