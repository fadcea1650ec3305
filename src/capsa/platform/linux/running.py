"""A process of a container that runs: its end, its standard streams."""

from __future__ import annotations

import contextlib
import os

from capsa.platform.log import LogWriter
from capsa.platform.loop import Loop
from capsa.platform.streams import Streams
from capsa.sys import process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Process:
    """One process of the container: the main one, or an exec; ``end`` is a pidfd of it."""

    def __init__(self, pid: int, end: int, streams: Streams) -> None:
        self.pid = pid
        self.end = end
        self.streams = streams
        self.exit_code: int | None = None

    def signal(self, number: int) -> None:
        """Send a signal; its pid may be somebody else's by now, as the sub-init waits for it at once."""
        with contextlib.suppress(ProcessLookupError):
            process.pidfd_send_signal(self.end, number)


def exit_code(status: int) -> int:
    """A status of waitpid(2) as a shell has it: the exit code, or 128 + signal."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def mounts(pid: int, end: int) -> int | None:
    """The mount namespace of process ``pid``, whose pidfd is ``end``, held open; None if it has ended already.

    The last one who leaves a mount namespace waits until its overlay has written out all that is to be written to the
    disk, by whomever, and a process has not ended for its parent before. So the first process is not to be the last:
    its end is told at once, and whoever holds this unmounts, by closing it.
    """
    try:
        held = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        process.pidfd_send_signal(end, 0)
    except ProcessLookupError:  # the pid is somebody else's by now
        os.close(held)
        return None
    return held


def streams(
    loop: Loop,
    fds: dict[str, int],
    close_stdin: bool,
    log: LogWriter | None = None,
    on_trouble: Callable[[OSError], None] | None = None,
) -> Streams:
    """The streams of a process, from its file descriptors by name."""
    return Streams(
        loop,
        stdin=fds.get("stdin"),
        stdout=fds.get("stdout"),
        stderr=fds.get("stderr"),
        console=fds.get("console"),
        close_stdin=close_stdin,
        log=log,
        on_trouble=on_trouble,
    )
