"""Looking up names below a directory without ever leaving it: ``openat2(2)``."""

from __future__ import annotations

import ctypes
import os

from capsa.sys.call import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

PROC_SUPER_MAGIC: Final = 0x9FA0
SYSFS_MAGIC: Final = 0x62656572
DEVPTS_SUPER_MAGIC: Final = 0x1CD1
CGROUP2_SUPER_MAGIC: Final = 0x63677270
OVERLAYFS_SUPER_MAGIC: Final = 0x794C7630


class _How(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def open_in_root(root: int, path: str, flags: int, mode: int = 0, *, links: bool = True) -> int:
    """Open ``path`` with the directory ``root`` as its root directory; close-on-exec.

    Symbolic links are followed inside the root; with ``links`` false any link on the way is refused (ELOOP).
    Magic links (those of ``/proc/PID``) are refused always. Raises `OSError` naming ``path``.
    """
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    if not links:
        resolve |= RESOLVE_NO_SYMLINKS
    return _open(root, path, flags, mode, resolve)


def open_below(directory: int, path: str, flags: int, mode: int = 0) -> int:
    """Open ``path`` in ``directory``; raises `OSError` naming it, EXDEV if it (or a link in it) leads out of there."""
    return _open(directory, path, flags, mode, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)


def _open(root: int, path: str, flags: int, mode: int, resolve: int) -> int:
    how = _How(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    while True:
        try:
            return call("openat2", root, os.fsencode(path), ctypes.byref(how), 24, about=path)
        except BlockingIOError:
            # The kernel gives up on ".." when a rename or mount happens anywhere at the same moment.
            continue


def file_system(fd: int) -> int:
    """The magic number of the file system that ``fd`` lies on."""
    buffer = (ctypes.c_long * 32)()
    call("fstatfs", fd, buffer)
    return buffer[0]
