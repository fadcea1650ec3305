"""Progress as Docker's clients expect it: JSON messages (Engine API, "Create an image"; moby's ``jsonmessage``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]
Progress = Callable[[Message], None]

INTERVAL = 0.1


def silent(message: Message) -> None:
    """Tell nobody."""


def status(text: str, id: str = "") -> Message:
    """A line of its own, with ``id`` before it."""
    return {"status": text, "id": id} if id else {"status": text}


def state(text: str, id: str) -> Message:
    """The newest state of the layer ``id``, in the place of the one before: without details clients add a line."""
    return {"status": text, "progressDetail": {}, "id": id}


class Meter:
    """Tells how far something of ``total`` bytes is, at most ten times a second."""

    def __init__(self, progress: Progress, text: str, id: str, total: int) -> None:
        self._progress = progress
        self._text = text
        self._id = id
        self._total = total
        self._last = 0.0

    def __call__(self, current: int) -> None:
        """``current`` bytes are done."""
        now = time.monotonic()
        if now - self._last >= INTERVAL:
            self._last = now
            self._tell(current)

    def finish(self) -> None:
        """All of it is done."""
        self._tell(self._total)

    def _tell(self, current: int) -> None:
        self._progress(
            {"status": self._text, "progressDetail": {"current": current, "total": self._total}, "id": self._id}
        )
