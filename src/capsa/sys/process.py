"""Processes: making them with ``clone3(2)``, watching them, and what they are told through ``prctl(2)``."""

from __future__ import annotations

import ctypes
import os
import signal

from capsa.sys.call import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

CLONE_PARENT: Final = 0x00008000
CLONE_CLEAR_SIGHAND: Final = 0x100000000
CLONE_INTO_CGROUP: Final = 0x200000000

PR_SET_PDEATHSIG: Final = 1
PR_GET_DUMPABLE: Final = 3
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_SET_NAME: Final = 15
PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4

CLOSE_RANGE_CLOEXEC: Final = 4
RLIMITS: Final = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_OFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}
_NO_LIMIT: Final = 0xFFFFFFFF
_SIGNALS: Final = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
# What glibc keeps for its threads and hides from Python; whoever started us may ignore it all the same.
_HIDDEN_SIGNALS: Final = (32, 33)


class _CloneArguments(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


_SIZE: Final = ctypes.sizeof(_CloneArguments)
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
for _function in (_before_fork, _after_fork_child, _after_fork_parent):
    _function.restype = None
    _function.argtypes = []


def clone(flags: int = 0, *, cgroup: int | None = None, sibling: bool = False) -> int:
    """Fork into the new namespaces of ``flags`` (CLONE_NEW…); returns 0 in the child, its pid in the caller.

    The child's signal handlers are reset to the default. ``cgroup``: an open directory of the v2 hierarchy to start
    in. ``sibling``: the child's parent is the caller's parent. The caller has to be single-threaded: unlike
    ``fork(3)`` a raw system call does not put glibc's locks right in the child. Raises `OSError`.
    """
    flags |= CLONE_CLEAR_SIGHAND
    arguments = _CloneArguments(flags=flags, exit_signal=0 if sibling else 17)
    if sibling:
        arguments.flags |= CLONE_PARENT
    if cgroup is not None:
        arguments.flags |= CLONE_INTO_CGROUP
        arguments.cgroup = cgroup
    _before_fork()
    try:
        pid = call("clone3", ctypes.byref(arguments), _SIZE)
    except OSError:
        _after_fork_parent()
        raise
    if pid == 0:
        _after_fork_child()
    else:
        _after_fork_parent()
    return pid


def pidfd_open(pid: int) -> int:
    """A close-on-exec descriptor of process ``pid``; readable when it ends."""
    return call("pidfd_open", pid, 0, about=str(pid))


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Send a signal to the process behind ``pidfd``."""
    call("pidfd_send_signal", pidfd, number, None, 0)


def prctl(option: int, a: int = 0, b: int = 0) -> int:
    """``prctl(2)`` with integer arguments."""
    return call("prctl", option, a, b, 0, 0, about=str(option))


def prlimit(pid: int, limit: int, soft: int, hard: int) -> None:
    """Set a resource limit (`RLIMITS`) of process ``pid``, 0 for one's own; -1 is none. Raises `OSError`."""
    call("prlimit64", pid, limit, (ctypes.c_int64 * 2)(soft, hard), None, about=str(pid))


def name_thread(name: str) -> None:
    """The ``comm`` of the calling thread: at most 15 bytes are kept."""
    call("prctl", PR_SET_NAME, name.encode()[:15], 0, 0, 0, about="PR_SET_NAME")


def default_signals() -> None:
    """Set the action of every ignored signal to the default: those alone would stay so over ``execve``.

    Asks the process that a `clone` has made: handlers are the default there already.
    """
    default = bytes(32)  # struct sigaction of the kernel: a handler of zero is SIG_DFL
    for number in _SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            call("rt_sigaction", number, default, None, 8)
    for hidden in _HIDDEN_SIGNALS:
        call("rt_sigaction", hidden, default, None, 8)


def reap(main: int) -> int | None:
    """Take the exit codes of all children that have ended; that of ``main`` as a shell has it, if it is one of them."""
    code: int | None = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == main:
            result = os.waitstatus_to_exitcode(status)
            code = result if result >= 0 else 128 - result


def close_from(first: int) -> None:
    """Close every descriptor from ``first`` on."""
    call("close_range", first, _NO_LIMIT, 0)


def close_on_exec_from(first: int) -> None:
    """Mark every descriptor from ``first`` on as close-on-exec."""
    call("close_range", first, _NO_LIMIT, CLOSE_RANGE_CLOEXEC)


def close_all_but(keep: tuple[int, ...], first: int = 3) -> None:
    """Close every descriptor from ``first`` on, those in ``keep`` excepted."""
    for fd in sorted(fd for fd in keep if fd >= first):
        if fd > first:
            call("close_range", first, fd - 1, 0)
        first = fd + 1
    close_from(first)


def execve(path: str, args: list[str], env: list[str]) -> None:
    """Execute ``path``; the environment is passed as it is, in order. Returns only by raising `OSError`."""
    call("execve", os.fsencode(path), _strings(args), _strings(env), about=path)


def _strings(values: list[str]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(values) + 1))(*[os.fsencode(value) for value in values], None)
