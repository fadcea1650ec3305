"""Bytes for code that runs in a thread: from a file, or from chunks that the event loop receives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

from capsa.errors import CapsaError, NotFound, reason

CHUNK = 1 << 20
Chunks = AsyncIterable[bytes]
P = ParamSpec("P")
T = TypeVar("T")


class Interrupted(Exception):
    """The task that wanted the result was cancelled."""


class Feed:
    """Blocking reads, in a thread, of a file or of the event loop's chunks.

    ``on_stop`` is called with `stop`, for what else the thread may wait for.
    """

    def __init__(
        self, source: Path | Chunks, loop: asyncio.AbstractEventLoop, on_stop: Callable[[], None] = lambda: None
    ) -> None:
        self._stopped = threading.Event()
        self._on_stop = on_stop
        self._loop = loop
        self._rest = b""
        self._pending: Future[bytes] | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        if isinstance(source, Path):
            try:
                self._file = source.open("rb", buffering=0)
            except FileNotFoundError:
                raise NotFound(f"there is no file {source}") from None
            except OSError as error:
                raise CapsaError(f"cannot read {source}: {reason(error)}") from error
        else:
            self._chunks = aiter(source)

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes, none at the end; raises `Interrupted` after `stop`."""
        if self._stopped.is_set():
            raise Interrupted
        size = CHUNK if size < 0 else size
        if self._chunks is None:
            return self._file.read(size) or b""
        if not self._rest:
            self._pending = asyncio.run_coroutine_threadsafe(self._next(self._chunks), self._loop)
            try:
                self._rest = self._pending.result()
            except CancelledError:
                raise Interrupted from None
        data = self._rest[:size]
        self._rest = self._rest[size:]
        return data

    @staticmethod
    async def _next(chunks: AsyncIterator[bytes]) -> bytes:
        """About `CHUNK` bytes at once, since each change of threads costs."""
        parts: list[bytes] = []
        total = 0
        while total < CHUNK:
            try:
                part = await anext(chunks)
            except StopAsyncIteration:
                break
            parts.append(part)
            total += len(part)
        return b"".join(parts)

    def stop(self) -> None:
        """Let the reading thread end soon."""
        self._stopped.set()
        if self._pending:
            self._pending.cancel()
        self._on_stop()

    def close(self) -> None:
        """Close the file."""
        if self._chunks is None:
            self._file.close()


async def in_thread(function: Callable[[Feed], T], feed: Feed) -> T:
    """Run ``function(feed)`` in a thread; when the caller is cancelled, end the thread before going on.

    The thread is its own: it waits for a client as long as that likes, and those of the event loop are few.
    """
    own = ThreadPoolExecutor(1, "feed")
    task = asyncio.get_running_loop().run_in_executor(own, function, feed)
    own.shutdown(wait=False)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        feed.stop()
        await asyncio.gather(task, return_exceptions=True)
        raise
    finally:
        feed.close()


async def finished(function: Callable[P, T], *args: P.args, **keywords: P.kwargs) -> T:
    """Run ``function`` in a thread; a caller that is cancelled still waits for its end, as it cannot be interrupted."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *args, **keywords))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
