"""The runtime's program on a mount that nobody can write to, for verbs that make processes in containers.

A container's program which is a script for ``/proc/self/exe`` gets the program that executed it (see
`capsa.sys.sealed`). So these verbs begin again, from a read-only mount that is nowhere in the file tree, unless whoever
started them (``launcher.c``) has done so already. It costs a second start of the interpreter, so what comes before
imports nothing: not even ctypes, of which only the C part is used.
"""

import posix
import sys

SEALED = ("create", "exec", "restore", "run")
_OPEN_TREE, _MOUNT_SETATTR = 428, 442  # the same numbers on all machines
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _AT_FDCWD, _AT_EMPTY_PATH = 1, 0o2000000, -100, 0x1000
_RDONLY_NOSUID_NODEV = 1 | 2 | 4


def is_sealed() -> bool:
    """Whether this process runs from a read-only mount."""
    try:
        return bool(posix.statvfs("/proc/self/exe").f_flag & 1)
    except OSError:  # there is no proc
        return False


def begin_again(arguments: list[str]) -> None:
    """From such a mount, if these ``arguments`` of the interpreter need it; without effect if it has to."""
    if not any(word in SEALED for word in arguments) or is_sealed():
        return
    import _ctypes

    address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "syscall")  # type: ignore[arg-type]
    try:
        program = posix.readlink("/proc/self/exe").encode()
    except OSError:
        return
    fd = _ctypes.call_function(address, (_OPEN_TREE, _AT_FDCWD, program, _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC))
    attributes = _RDONLY_NOSUID_NODEV.to_bytes(8, sys.byteorder) + bytes(24)  # struct mount_attr
    if fd < 0 or _ctypes.call_function(address, (_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, attributes, 32)) < 0:
        return  # not root, or an old kernel: whoever needs it says so
    posix.execve(
        f"/proc/self/fd/{fd}",
        [program, b"-I", b"-S", *(word.encode(errors="surrogateescape") for word in arguments)],
        posix.environ,
    )
