"""The one door to system calls that Python's standard library lacks.

The zygote imports this and is then forked for every container, so `capsa.sys` may import little: ctypes and os. Calls
go through ``syscall(2)`` rather than libc's wrappers, for two reasons: several have no wrapper in glibc 2.36, and the
wrappers of others (``setresuid``) signal all threads that glibc remembers, which after `capsa.sys.process.clone`
may include threads that exist in the parent only.

Every call keeps the interpreter lock (`ctypes.PyDLL`): a child made by a raw ``clone3`` must own it.
"""

from __future__ import annotations

import ctypes
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

_X86_64: Final = {
    "capget": 125,
    "capset": 126,
    "clone3": 435,
    "close_range": 436,
    "execve": 59,
    "fsconfig": 431,
    "fsmount": 432,
    "fsopen": 430,
    "fstatfs": 138,
    "ioprio_set": 251,
    "keyctl": 250,
    "kill": 62,
    "mount": 165,
    "mount_setattr": 442,
    "move_mount": 429,
    "open_tree": 428,
    "openat2": 437,
    "personality": 135,
    "pidfd_open": 434,
    "pidfd_send_signal": 424,
    "pivot_root": 155,
    "prctl": 157,
    "prlimit64": 302,
    "rt_sigaction": 13,
    "sched_setattr": 314,
    "set_mempolicy": 238,
    "setdomainname": 171,
    "setgroups": 116,
    "sethostname": 170,
    "setns": 308,
    "setresgid": 119,
    "setresuid": 117,
    "umount2": 166,
    "unshare": 272,
}
_ARM64: Final = _X86_64 | {
    "capget": 90,
    "capset": 91,
    "execve": 221,
    "fstatfs": 44,
    "ioprio_set": 30,
    "keyctl": 219,
    "kill": 129,
    "mount": 40,
    "personality": 92,
    "pivot_root": 41,
    "prctl": 167,
    "prlimit64": 261,
    "rt_sigaction": 134,
    "sched_setattr": 274,
    "set_mempolicy": 237,
    "setdomainname": 162,
    "setgroups": 159,
    "sethostname": 161,
    "setns": 268,
    "setresgid": 149,
    "setresuid": 147,
    "umount2": 39,
    "unshare": 97,
}
# What the interpreter was compiled for: uname(2) tells of another machine where the personality wants it (linux32).
MACHINE: Final = getattr(sys.implementation, "_multiarch", "").partition("-")[0] or os.uname().machine
_NUMBERS: Final = {"x86_64": _X86_64, "aarch64": _ARM64}.get(MACHINE, {})
_ENOSYS: Final = 38
_M_TRIM_THRESHOLD: Final = -1

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall: Any = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long] + [ctypes.c_void_p] * 6


def adopt_environment(address: int) -> None:
    """Have libc take the environment that is at ``address`` (environ(7)); Python has a copy of its own."""
    ctypes.c_void_p.in_dll(_libc, "environ").value = address


def keep_freed_memory() -> None:
    """Have malloc never give the end of its heap back (mallopt(3)): where that is nobody else may know any more."""
    _libc.mallopt(_M_TRIM_THRESHOLD, 0x7FFF_FFFF)


def failed(call: str, path: str | bytes = "", errno: int | None = None) -> OSError:
    """The `OSError` for a failed ``call`` about ``path``: its ``filename`` names both."""
    if errno is None:
        errno = ctypes.get_errno()
    return OSError(errno, os.strerror(errno), f"{call} {os.fsdecode(path)}".rstrip())


def call(
    name: str,
    a: Any = None,
    b: Any = None,
    c: Any = None,
    d: Any = None,
    e: Any = None,
    f: Any = None,
    *,
    about: str | bytes = "",
) -> int:
    """Make system call ``name``; raises `OSError` naming it and what it was ``about``.

    Integers, bytes (passed as ``char *``), ctypes arrays and structures (passed by reference) are accepted. On a
    machine whose numbers are not known every call is missing (ENOSYS).
    """
    number = _NUMBERS.get(name)
    if number is None:
        raise failed(name, about, _ENOSYS)
    result: int = _syscall(number, a, b, c, d, e, f)
    if result < 0:
        raise failed(name, about)
    return result
