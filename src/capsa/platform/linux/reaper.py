"""A tiny init as the container's first process: it ends children that nobody waits for, and passes signals on.

It is the process that set the container up, so it costs no executable and little memory: everything is closed, and
most of its pages are still those of the process that it was forked from.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios

from capsa.oci.runtime import Process
from capsa.platform.linux import capabilities, process, seccomp
from capsa.platform.linux.channel import Channel
from capsa.sys import process as calls
from capsa.sys.title import set_title

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

# Those that a process raises by its own fault, and what a terminal does to its session: not to be passed on.
_OWN = frozenset(
    {
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGABRT,
        signal.SIGTRAP,
        signal.SIGSYS,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGTSTP,
    }
)


def run(
    own: Process,
    sets: capabilities.Sets,
    policy: seccomp.Filter | None,
    child: Callable[[], None],
    channel: Channel,
) -> NoReturn:
    """Start ``child`` (which executes the program) and look after it; ends with its exit code.

    The reaper is confined as ``own``, the container's process, is: one that may be traced is a way round a filter.
    """
    calls.prctl(calls.PR_SET_CHILD_SUBREAPER, 1)
    watched = signal.valid_signals() - _OWN - {signal.SIGKILL, signal.SIGSTOP}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched | {signal.SIGTTOU})
    pid = calls.clone()
    if pid == 0:
        try:
            _own_group()
            child()
        except BaseException as error:
            channel.fail(error)
        finally:
            os._exit(1)
    calls.close_from(0)
    if own.no_new_privileges:
        calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
    if policy is not None and not policy.notify:
        seccomp.install(policy)
    process.become(own.user, sets)
    calls.prctl(calls.PR_SET_DUMPABLE, 0)
    calls.name_thread("capsa-init")
    with contextlib.suppress(OSError):  # a container may have no /proc to look up where titles are
        set_title("capsa-init")
    while True:
        number = signal.sigwait(watched)
        if number != signal.SIGCHLD:
            with contextlib.suppress(OSError):
                os.kill(pid, number)
            continue
        code = calls.reap(pid)
        if code is not None:
            os._exit(code)


def _own_group() -> None:
    """With a terminal, be its foreground group, so that the keyboard's signals come here and not to the init."""
    os.setpgid(0, 0)
    try:
        if os.isatty(0):
            os.tcsetpgrp(0, os.getpgrp())
    except (OSError, termios.error):
        pass
