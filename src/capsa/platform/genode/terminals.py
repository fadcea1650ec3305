"""The host's end of a terminal (`capsa.platform.genode.drivers`): two FIFOs.

Both ends of both are kept open here as long as it is there, so it does not matter who comes first, and whoever leaves.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from capsa.errors import LaunchFailed, reason
from capsa.platform.genode.bundle import Console
from capsa.platform.log import LogWriter
from capsa.platform.loop import Loop
from capsa.platform.streams import Streams

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NAMES = ("in", "out")


class Terminal:
    """One component's, in a directory of its own."""

    def __init__(self, directory: Path, console: Console) -> None:
        """Raises `LaunchFailed`, and leaves nothing."""
        self.console = console
        self._directory = directory
        self._ends: list[int] = []
        try:
            directory.mkdir(parents=True)
            for name in _NAMES:
                os.mkfifo(directory / name, 0o600)
                self._ends.append(os.open(directory / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            self.close()
            raise LaunchFailed(f"cannot make a terminal in {directory}: {reason(error)}") from error

    def streams(
        self,
        loop: Loop,
        *,
        stdin: bool,
        once: bool = False,
        log: LogWriter | None = None,
        on_trouble: Callable[[OSError], None] | None = None,
    ) -> Streams:
        """Whoever is attached to these is at the terminal; ``stdin``: may write, and ``once``: no other after it."""
        taken, given = (os.dup(end) for end in self._ends)
        if not stdin:
            os.close(taken)
        return Streams(
            loop,
            stdin=taken if stdin else None,
            stdout=given,
            raw=self.console.tty,
            close_stdin=once,
            fed=True,
            log=log,
            on_trouble=on_trouble,
        )

    def close(self) -> None:
        """It goes: nobody reads or writes any more."""
        for end in self._ends:
            os.close(end)
        self._ends = []
        for name in _NAMES:
            with contextlib.suppress(OSError):
                os.unlink(self._directory / name)
        with contextlib.suppress(OSError):
            os.rmdir(self._directory)
            os.rmdir(self._directory.parent)  # of the container: of its last one
