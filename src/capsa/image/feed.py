"""Decompressing and hashing in a thread of their own, a few pieces ahead of whoever consumes them.

Both release the interpreter's lock, so that the consumer, which mostly waits for system calls, has the other core.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from queue import Empty, Queue

_AHEAD = 8


class HashingFeed:
    """A context manager: `pull` hands out the pieces of ``source``, `digest` is known once the last one was pulled."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._queue: Queue[bytes | BaseException] = Queue(_AHEAD)
        self._hash = hashlib.sha256()
        self._stop = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="layer-feed", daemon=True)

    def __enter__(self) -> HashingFeed:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except Empty:
                continue
        self._thread.join()

    def pull(self) -> bytes:
        """The next piece, empty at the end; raises what the source raised."""
        if self._ended:
            return b""
        item = self._queue.get()
        if isinstance(item, bytes):
            self._ended = not item
            return item
        self._ended = True
        raise item

    def digest(self) -> str:
        """``sha256:HEX`` of everything; only after `pull` has returned ``b""``."""
        return f"sha256:{self._hash.hexdigest()}"

    def _run(self) -> None:
        try:
            for piece in self._source:
                if self._stop.is_set():
                    return
                self._hash.update(piece)
                self._queue.put(piece)
            self._queue.put(b"")
        except BaseException as error:
            self._queue.put(error)
