"""Waiting for a process in the foreground: its signals, its terminal, the orphans it leaves, its exit code."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import time

from capsa.runtime import lean
from capsa.sys import process as calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# What is about this process alone, and what nobody can handle.
_OWN = {signal.SIGCHLD, signal.SIGWINCH, signal.SIGKILL, signal.SIGSTOP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP}
_OWN |= {signal.SIGCONT, signal.SIGPIPE, signal.SIGURG}
_WAKE: list[int] = []
_TIOCGWINSZ, _TIOCSWINSZ = 0x5413, 0x5414
IDLE = 0.02  # seconds


def prepare(*, subreaper: bool) -> None:
    """Before the container is made: be the one whom signals and orphans reach, so that none is missed."""
    if subreaper:
        calls.prctl(calls.PR_SET_CHILD_SUBREAPER, 1)
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    _WAKE[:] = [reader, writer]
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in signal.valid_signals() - _OWN | {signal.SIGCHLD, signal.SIGWINCH}:
        with contextlib.suppress(OSError, ValueError):  # those that libc keeps for itself
            signal.signal(number, _noted)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # the caller may have blocked what is waited for here


def _noted(_number: int, _frame: object) -> None:
    """The pipe has it."""


def wait(pid: int, master: int | None) -> int:
    """Pass signals on to child ``pid``, and its terminal's data, until it ends; its exit code as a shell has it.

    ``master``: the other side of its terminal, which is closed.
    """
    lean.collect()
    if master is None:
        return _wait(pid, None)
    try:
        with _raw():
            _size(master)
            return _wait(pid, _Terminal(master))
    finally:
        os.close(master)


def _wait(pid: int, terminal: _Terminal | None) -> int:
    wake = _WAKE[0]
    poll = select.poll()
    poll.register(wake, select.POLLIN)
    code = calls.reap(pid)
    while code is None:
        if terminal is not None:
            terminal.watch(poll)
        for fd, _events in poll.poll():
            if fd != wake and terminal is not None:
                terminal.move(fd)
        with contextlib.suppress(BlockingIOError):
            for number in os.read(wake, 512):
                if number == signal.SIGWINCH and terminal is not None:
                    _size(terminal.master)
                elif number not in _OWN:
                    with contextlib.suppress(OSError):
                        os.kill(pid, number)
        code = calls.reap(pid)
    if terminal is not None:
        terminal.drain()
    return code


class _Terminal:
    """Our standard streams on one side, a terminal's master on the other."""

    def __init__(self, master: int) -> None:
        self.master = master
        self._input = True
        self._waiting = b""

    def watch(self, poll: select.poll) -> None:
        """What there is to wait for."""
        poll.register(self.master, select.POLLIN | (select.POLLOUT if self._waiting else 0))
        if self._input and not self._waiting:
            poll.register(0, select.POLLIN)
        else:
            with contextlib.suppress(KeyError):
                poll.unregister(0)

    def move(self, fd: int) -> None:
        """Something can be read or written."""
        if fd == 0:
            self._waiting = _read(0)
            self._input = bool(self._waiting)
        elif self._waiting:
            with contextlib.suppress(OSError):
                self._waiting = self._waiting[os.write(self.master, self._waiting[:1024]) :]
        if fd == self.master and select.select([self.master], [], [], 0)[0]:
            if data := _read(self.master):
                _write(data)
            else:  # nobody has the other side open; somebody may open it again
                time.sleep(IDLE)

    def drain(self) -> None:
        """Write what the program has left."""
        while select.select([self.master], [], [], 0)[0] and (data := _read(self.master)):
            _write(data)


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # the other side of a terminal is closed
        return b""


def _write(data: bytes) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(1, data) :]


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Our own terminal, if it is one, passes everything on."""
    if not os.isatty(0):
        yield
        return
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _size(master: int) -> None:
    """It has the size of ours."""
    with contextlib.suppress(OSError):
        if os.isatty(0):
            fcntl.ioctl(master, _TIOCSWINSZ, fcntl.ioctl(0, _TIOCGWINSZ, bytes(8)))
