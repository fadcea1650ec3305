"""Mounts, through the descriptor-based interface of Linux 5.2 (``fsopen(2)`` and its kin) where possible.

A mount is made detached, as a descriptor, and then put on a place that is a descriptor as well: no path is looked up
twice, so nobody can exchange it in between. ``mount(2)`` remains for overlayfs, which before Linux 6.5 takes its
layers only as one string, and ``fsconfig(2)`` cuts strings at 256 bytes.
"""

from __future__ import annotations

import ctypes
import os

from capsa.sys.call import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
_CLOEXEC: Final = 0o2000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_SYNCHRONOUS: Final = 16
MS_REMOUNT: Final = 32
MS_MANDLOCK: Final = 64
MS_DIRSYNC: Final = 128
MS_NOATIME: Final = 1 << 10
MS_NODIRATIME: Final = 1 << 11
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_UNBINDABLE: Final = 1 << 17
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MS_SHARED: Final = 1 << 20
MS_RELATIME: Final = 1 << 21
MS_STRICTATIME: Final = 1 << 24

MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

ATTR_RDONLY: Final = 0x1
ATTR_NOSUID: Final = 0x2
ATTR_NODEV: Final = 0x4
ATTR_NOEXEC: Final = 0x8
ATTR_ATIME: Final = 0x70
ATTR_RELATIME: Final = 0x0
ATTR_NOATIME: Final = 0x10
ATTR_STRICTATIME: Final = 0x20
ATTR_NODIRATIME: Final = 0x80
ATTR_IDMAP: Final = 0x100000
ATTR_NOSYMFOLLOW: Final = 0x200000

_FSCONFIG_SET_FLAG: Final = 0
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_MOVE_MOUNT_EMPTY_PATHS: Final = 0x04 | 0x40
_OPEN_TREE_CLONE: Final = 1


class _Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """``mount(2)``; raises `OSError` naming ``target``."""
    call("mount", os.fsencode(source), os.fsencode(target), kind.encode(), flags, os.fsencode(data), about=target)


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """``umount2(2)``; raises `OSError`."""
    call("umount2", os.fsencode(target), flags, about=target)


def pivot_root(new: str, old: str) -> None:
    """Make ``new`` the root and put the old one on ``old``; raises `OSError`."""
    call("pivot_root", os.fsencode(new), os.fsencode(old), about=new)


def create(kind: str, options: tuple[tuple[str, str], ...] = (), *, source: str = "", attributes: int = 0) -> int:
    """Make a file system of type ``kind`` and mount it detached; returns the mount's descriptor.

    ``options`` are pairs of a key and a value; an empty value stands for a flag. ``attributes``: ATTR_….
    Raises `OSError`; its message ends with what the kernel has to say about it, if anything.
    """
    context = call("fsopen", kind.encode(), 1, about=kind)
    try:
        try:
            if source:
                call("fsconfig", context, _FSCONFIG_SET_STRING, b"source", os.fsencode(source), 0, about=kind)
            for key, value in options:
                about = f"{kind} {key}={value}" if value else f"{kind} {key}"
                if value:
                    call("fsconfig", context, _FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0, about=about)
                else:
                    call("fsconfig", context, _FSCONFIG_SET_FLAG, key.encode(), None, 0, about=about)
            call("fsconfig", context, _FSCONFIG_CMD_CREATE, None, None, 0, about=kind)
            return call("fsmount", context, 1, attributes, about=kind)
        except OSError as error:
            said = _complaint(context)
            if said:
                error.filename = f"{error.filename} ({said})"
            raise
    finally:
        os.close(context)


def _complaint(context: int) -> str:
    """What the kernel wrote to the log of a file system context: lines of ``e SENTENCE``."""
    try:
        return os.read(context, 4096).decode(errors="replace").strip()[2:]
    except OSError:
        return ""


def clone(path: str, *, at: int = AT_FDCWD, recursive: bool = False) -> int:
    """A detached copy of the mount at ``path`` (of ``at`` itself where it is empty), as ``mount --bind`` makes one."""
    flags = _OPEN_TREE_CLONE | _CLOEXEC | AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    return call("open_tree", at, os.fsencode(path), flags, about=path or f"descriptor {at}")


def attach(mounted: int, target: int, about: str = "", *, name: str = "") -> None:
    """Put the detached mount ``mounted`` on the file or directory behind ``target``; raises `OSError`.

    ``name``: on what is called so in the directory ``target``; no symbolic link at its end is followed.
    """
    call("move_mount", mounted, b"", target, os.fsencode(name), _MOVE_MOUNT_EMPTY_PATHS, about=about)


def attributes(
    mounted: int,
    *,
    set: int = 0,
    clear: int = 0,
    propagation: int = 0,
    user_namespace: int | None = None,
    recursive: bool = False,
    path: str = "",
) -> None:
    """``mount_setattr(2)`` on ``path`` below ``mounted`` (or itself); raises `OSError`."""
    arguments = _Attributes(set=set, clear=clear, propagation=propagation)
    if user_namespace is not None:
        arguments.set |= ATTR_IDMAP
        arguments.userns = user_namespace
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    call("mount_setattr", mounted, os.fsencode(path), flags, ctypes.byref(arguments), 32, about=path)
