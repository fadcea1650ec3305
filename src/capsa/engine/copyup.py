"""Filling a new volume with what the image has at its place, as Docker does on first use.

Another container may have the same volume already, and may exchange its directories for links while they are filled.
So all is done by descriptors of directories, and no link in the volume is ever followed.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from capsa.engine.union import Union, down, merged
from capsa.errors import CapsaError, InvalidArgument, reason
from capsa.image.rmtree import remove_tree

_CHUNK = 1 << 20
_DEEPEST = 200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


async def fill(volume: Path, layers: Sequence[str], place: str) -> None:
    """Copy ``place`` of the layers (uppermost first) into the directory ``volume`` if that is empty.

    Raises `CapsaError`; what was copied until then is removed, so that the next try begins anew.
    """
    if any(os.scandir(volume)):
        return
    with Union(layers) as tree, tree.directory(place) as level:
        if not level:
            return
        try:
            target = os.open(volume, _DIRECTORY)
            try:
                _like(os.fstat(level[0]), target)
                if merged(level):
                    await asyncio.to_thread(_copy, level, target, _DEEPEST)
            finally:
                os.close(target)
        except (OSError, InvalidArgument) as error:
            for entry in os.listdir(volume):
                remove_tree(volume / entry)
            name = volume.parent.name
            why = reason(error) if isinstance(error, OSError) else str(error)
            raise CapsaError(f"cannot copy {place} of the image into the volume {name}: {why}") from error


def _copy(level: list[int], target: int, depth: int) -> None:
    """Copy the merged directory ``level`` into the open directory ``target``."""
    if not depth:
        raise InvalidArgument(f"its directories are nested more than {_DEEPEST} deep")
    for name, number in merged(level).items():
        parent = level[number]
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            _copy_link(parent, name, status, target)
            continue
        made = _make(parent, name, status, target)
        try:
            if stat.S_ISDIR(status.st_mode):
                below = down(level[number:], name)
                try:
                    _copy(below, made, depth - 1)
                finally:
                    for fd in below:
                        os.close(fd)
            _like(status, made)
            _copy_attributes(f"/proc/self/fd/{parent}/{name}", f"/proc/self/fd/{made}", follow=True)
            os.utime(f"/proc/self/fd/{made}", ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(made)


def _make(parent: int, name: str, status: os.stat_result, target: int) -> int:
    """A descriptor of the new ``name`` in ``target``; a file has its content already."""
    if stat.S_ISDIR(status.st_mode):
        os.mkdir(name, 0o700, dir_fd=target)
        return os.open(name, _DIRECTORY, dir_fd=target)
    if stat.S_ISREG(status.st_mode):
        return _copy_file(parent, name, target)  # equal files of layers are one inode: links say nothing here
    os.mknod(name, status.st_mode & ~0o7777, status.st_rdev, dir_fd=target)
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)


def _copy_file(parent: int, name: str, target: int) -> int:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        made = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=target)
        try:
            while os.sendfile(made, source, None, _CHUNK):
                pass
        except BaseException:
            os.close(made)
            raise
        return made
    finally:
        os.close(source)


def _copy_link(parent: int, name: str, status: os.stat_result, target: int) -> None:
    os.symlink(os.readlink(name, dir_fd=parent), name, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    _copy_attributes(f"/proc/self/fd/{parent}/{name}", f"/proc/self/fd/{target}/{name}", follow=False)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns), dir_fd=target, follow_symlinks=False)


def _like(status: os.stat_result, made: int) -> None:
    """Owner and mode; the descriptor may be one of ``O_PATH``."""
    path = f"/proc/self/fd/{made}"
    os.chown(path, status.st_uid, status.st_gid)
    os.chmod(path, stat.S_IMODE(status.st_mode))


def _copy_attributes(source: str, target: str, *, follow: bool) -> None:
    """``follow`` the last component of ``target``, which is a descriptor then; that of ``source`` never."""
    for attribute in os.listxattr(source, follow_symlinks=False):
        if not attribute.startswith(("trusted.overlay.", "user.overlay.")):
            value = os.getxattr(source, attribute, follow_symlinks=False)
            os.setxattr(target, attribute, value, follow_symlinks=follow)
