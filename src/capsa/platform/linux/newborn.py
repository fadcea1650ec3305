"""A process that `container` has made and that has not executed its program yet, as its maker sees it."""

from __future__ import annotations

import contextlib
import os
import select
import signal

from capsa.oci.runtime import Rlimit
from capsa.platform.linux import netdevices
from capsa.platform.linux.channel import Channel, Gone
from capsa.platform.linux.process import limit
from capsa.sys import process as calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from capsa.platform.linux import seccomp


class Birth:
    """A process that is set up and waits to execute its program.

    ``pid`` is its id on the host; it is the caller's child. ``console`` is the master side of its terminal, if it has
    one; closing it is up to the caller, once `start` has returned. ``end`` is a pidfd of a sibling:
    its parent may have taken notice of its end at any time, and its pid may be somebody else's then. ``names`` are the
    sockets of its name service. For whoever makes it: ``undo`` what was done for it if it is not to be, what to do
    ``after`` its start, what becomes of the ``listener`` of its ``filter``, ``limits`` and ``devices`` to be set from
    outside.
    """

    def __init__(self, pid: int, channel: Channel, undo: Callable[[], None]) -> None:
        self.pid = pid
        self.console: int | None = None
        self.end: int | None = None
        self.names: list[int] = []
        self.channel = channel
        self.undo = undo
        self.after: Callable[[], None] = lambda: None
        self.listener: Callable[[int], None] = os.close
        self.filter: seccomp.Filter | None = None
        self._told = False
        self.ready = False
        self.limits: list[Rlimit] | None = None
        self.devices: netdevices.NetDevices | None = None

    def fileno(self) -> int:
        """Readable when `advance` has something to do."""
        return self.channel.fileno()

    def advance(self) -> bool:
        """Take the next word of the process; ``ready`` once it is set up, True when it executes its program.

        Raises `LaunchFailed`; `abort` has to follow then.
        """
        message, fd = self.channel.receive()
        if message is None:
            return True
        if message.word == "console":
            self.console = fd
        elif message.word == "listener" and fd is not None:
            self.listener(fd)
        elif message.word == "created":
            self.ready = True
            if self.limits is not None:
                limit(self.limits, self.pid)  # to raise one takes the host's privileges
                if self.end is not None:
                    self.tell()
        return False

    def last_words(self) -> NoReturn:
        """It has ended: raises the failure that it left behind, or `Gone`."""
        self.channel.last_words()

    def close(self) -> None:
        """It executes its program: nothing more to be said."""
        self.channel.close()
        if self.devices is not None:
            self.devices.close()

    def tell(self) -> None:
        """Say that it may execute its program once it is set up; `start` has to follow."""
        self._told = True
        with contextlib.suppress(Gone):  # it was killed meanwhile: that will be its exit code
            if self.filter is None:
                self.channel.send("start")
            else:
                self.channel.send("start", self.filter.flags, self.filter.code)

    def start(self) -> None:
        """Let it execute; then run the poststart hooks.

        Raises `LaunchFailed` with code 126, 127 or 128; then nothing is left of it, as after `abort`.
        """
        try:
            if not self._told:
                self.tell()
            while True:
                message, fd = self.channel.receive()
                if message is None:
                    break
                if message.word == "listener" and fd is not None:
                    self.listener(fd)
            self.after()
        except BaseException:
            self.abort()
            raise
        self.close()

    def abort(self) -> None:
        """Kill it, wait for its end, undo what was done for it. Harmless if it is gone already."""
        with contextlib.suppress(ProcessLookupError):
            if self.end is not None:
                calls.pidfd_send_signal(self.end, signal.SIGKILL)
                until_ended(self.end)
            else:
                os.kill(self.pid, signal.SIGKILL)
                _wait(self.pid)
        self.channel.close()
        if self.console is not None:
            os.close(self.console)
            self.console = None
        for fd in self.names:
            os.close(fd)
        self.names = []
        if self.devices is not None:
            self.devices.give_back()
        self.undo()


def _wait(pid: int) -> None:
    """Wait for the end of a child, or of a sibling, whose parent may not have taken notice yet."""
    try:
        os.waitpid(pid, 0)
        return
    except ChildProcessError:
        pass
    with contextlib.suppress(OSError):
        end = calls.pidfd_open(pid)
        try:
            until_ended(end)
        finally:
            os.close(end)


def until_ended(process: int) -> None:
    poll = select.poll()  # select(2) knows descriptors below 1024 only
    poll.register(process, select.POLLIN)
    poll.poll()
