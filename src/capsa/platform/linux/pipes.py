"""The pipes of a process."""

from __future__ import annotations

import os


class Pipes:
    """The pipes of a process that has no terminal: our ends by name, and its three file descriptors."""

    def __init__(self, terminal: bool, stdin: bool) -> None:
        """Make them; raises OSError."""
        self.ours: dict[str, int] = {}
        self.theirs: tuple[int, int, int] | None = None
        if terminal:
            return
        if stdin:
            reader, self.ours["stdin"] = os.pipe2(os.O_CLOEXEC)
        else:
            reader = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.ours["stdout"], out = os.pipe2(os.O_CLOEXEC)
        self.ours["stderr"], error = os.pipe2(os.O_CLOEXEC)
        self.theirs = (reader, out, error)

    def with_console(self, console: int | None) -> dict[str, int]:
        """Our ends, and the master side of the terminal if there is one."""
        return self.ours if console is None else {**self.ours, "console": console}

    def close_theirs(self) -> None:
        """The process has them now."""
        for fd in self.theirs or ():
            os.close(fd)
        self.theirs = None

    def close_ours(self) -> None:
        """There will be no process."""
        for fd in self.ours.values():
            os.close(fd)
        self.ours = {}
