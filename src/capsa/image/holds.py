"""What operations under way need: it is not collected, though nothing in the database refers to it yet."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Hold:
    """The digests that one operation holds; callable from any thread."""

    def __init__(self, holds: Holds) -> None:
        self._holds = holds
        self.digests: set[str] = set()

    def __call__(self, digest: str) -> None:
        """Hold one more, before looking whether it is there."""
        with self._holds.lock:
            if digest not in self.digests:
                self.digests.add(digest)
                self._holds.counts[digest] += 1


class Holds:
    """All operations' holds. Whoever removes something does so with ``lock`` taken, after a look at ``counts``."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    @contextmanager
    def operation(self) -> Iterator[Hold]:
        """Hold until the end of the ``with`` block."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            with self.lock:
                self.counts.subtract(hold.digests)
                for digest in hold.digests:
                    if self.counts[digest] <= 0:
                        del self.counts[digest]
