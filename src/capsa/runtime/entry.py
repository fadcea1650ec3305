"""Where `capsa-runtime` begins: ``python -I -S entry.py DIRECTORY OPTIONS…``; msgspec is installed in DIRECTORY.

Twice for what makes processes in containers: the second time from a read-only mount that is nowhere in the file tree
(see `capsa.sys.sealed`), so that a container's program which is a script for ``/proc/self/exe`` gets a Python that
nobody can write to. What comes before that costs each call of the runtime, so it imports nothing: not even ctypes, of
which only the C part is used.
"""

from __future__ import annotations

import posix
import sys

SEALED = ("create", "exec", "restore", "run")
_OPEN_TREE, _MOUNT_SETATTR = 428, 442  # the same numbers on all machines
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC, _AT_FDCWD, _AT_EMPTY_PATH = 1, 0o2000000, -100, 0x1000
_RDONLY_NOSUID_NODEV = 1 | 2 | 4


def is_sealed() -> bool:
    """Whether this process runs from a read-only mount."""
    return bool(posix.statvfs("/proc/self/exe").f_flag & 1)


def seal(arguments: list[str]) -> None:
    """Begin again from such a mount, if these ``arguments`` of the interpreter need it; without effect if it has to."""
    if is_sealed() or not any(word in SEALED for word in arguments):
        return
    import _ctypes

    address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "syscall")  # type: ignore[arg-type]
    program = posix.readlink("/proc/self/exe").encode()
    fd = _ctypes.call_function(address, (_OPEN_TREE, _AT_FDCWD, program, _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC))
    attributes = _RDONLY_NOSUID_NODEV.to_bytes(8, sys.byteorder) + bytes(24)  # struct mount_attr
    if fd < 0 or _ctypes.call_function(address, (_MOUNT_SETATTR, fd, b"", _AT_EMPTY_PATH, attributes, 32)) < 0:
        return  # not root, or an old kernel: whoever needs it says so
    posix.execve(
        f"/proc/self/fd/{fd}",
        [program, b"-I", b"-S", *(word.encode(errors="surrogateescape") for word in arguments)],
        posix.environ,
    )


if __name__ == "__main__":
    seal([__file__, *sys.argv[1:]])
    sys.path += [__file__.rpartition("/capsa/")[0], sys.argv.pop(1)]
    from capsa.runtime.main import main

    main()
