"""Copies what an image has at a place into the file system in memory that will cover it (option ``tmpcopyup``).

Both are directories given as descriptors; symbolic links are copied, never followed.
"""

from __future__ import annotations

import os
import stat

_CHUNK = 1 << 20


def copy(source: int, target: int) -> None:
    """Copy the tree below the directory ``source`` (``O_PATH``) into ``target``; raises `OSError`."""
    _directory(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=source), target)


def _directory(source: int, target: int) -> None:
    try:
        for name in os.listdir(source):
            _entry(source, target, name)
    finally:
        os.close(source)


def _entry(source: int, target: int, name: str) -> None:
    found = os.stat(name, dir_fd=source, follow_symlinks=False)
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    elif stat.S_ISDIR(found.st_mode):
        os.mkdir(name, mode, dir_fd=target)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        inner = os.open(name, flags, dir_fd=target)
        try:
            _directory(os.open(name, flags, dir_fd=source), inner)
        finally:
            os.close(inner)
    elif stat.S_ISREG(found.st_mode):
        _file(source, target, name, mode)
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
    os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(name, mode, dir_fd=target)  # a change of owner takes setuid bits away
    times = (found.st_atime_ns, found.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _file(source: int, target: int, name: str, mode: int) -> None:
    old = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        new = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=target)
        try:
            while os.sendfile(new, old, None, _CHUNK):
                pass
        finally:
            os.close(new)
    finally:
        os.close(old)
