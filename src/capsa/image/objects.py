"""Files stored once: an object is one regular file, named by its content and its metadata together.

A layer's files are hard links to objects, so equal files of whatever layers and images are one inode: one copy on
disk, one in the page cache, one in every process that maps it. Mode, owner, modification time and extended attributes
belong to the inode, hence to the name. Nobody writes to an object: containers see it through overlayfs, which copies
first.

``objects/AB/REST`` is the object with the key ``ABREST``; ``REST.1``, ``REST.2`` … are further copies for when a file
has all the links that the file system allows (ext4: 65,000).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

_COPY = 1 << 30
_HEAD = struct.Struct("<16sIQQqqI")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a file is, besides its content. ``mtime`` in nanoseconds; ``mode`` the twelve permission bits."""

    mode: int
    uid: int
    gid: int
    mtime: int
    xattrs: Mapping[bytes, bytes]

    def apply(self, fd: int) -> None:
        """Give it to the open file or directory ``fd``; raises `OSError`."""
        # In this order: a change of the owner takes setuid bits and capabilities away.
        os.fchown(fd, self.uid, self.gid)
        os.fchmod(fd, self.mode)
        for name, value in self.xattrs.items():
            set_xattr(fd, name, value)
        os.utime(fd, ns=(self.mtime, self.mtime))


def set_xattr(file: int | str, name: bytes, value: bytes) -> None:
    """Set an extended attribute of an open file or of a path (links are not followed); raises `OSError` that names it.

    Attributes of no consequence for the kernel are left out on file systems that cannot have them (as Docker does).
    """
    try:
        os.setxattr(file, name, value, follow_symlinks=isinstance(file, int))
    except OSError as error:
        if error.errno == errno.ENOTSUP and not name.startswith((b"security.", b"trusted.")):
            return
        raise OSError(error.errno, error.strerror, f"the extended attribute {os.fsdecode(name)}") from error


def hasher(metadata: Metadata, size: int, *, sparse: bool = False) -> Hash:
    """A hash to be updated with the content (of a ``sparse`` file: its map and what is in it); its hex digest is the
    object's key.
    """
    xattrs = metadata.xattrs
    magic = b"capsa sparse 1\n" if sparse else b"capsa object 1\n"
    head = _HEAD.pack(magic, metadata.mode, metadata.uid, metadata.gid, metadata.mtime, size, len(xattrs))
    if xattrs:
        for name, value in sorted(xattrs.items()):
            head += struct.pack("<II", len(name), len(value)) + name + value
    return hashlib.sha256(head)


class ObjectStore:
    """The objects below ``root``. Any number of threads and processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let go of the directory; the store cannot be used any more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()

    def link(self, key: str, size: int, directory: int, name: str) -> bool:
        """Make the object ``key`` (``size`` bytes) appear as ``name`` in the open ``directory``; False: there is none.

        An object of another size was damaged when the machine lost power; it is dropped, and there is none. Raises
        `OSError`.
        """
        for path in _generations(key):
            try:
                os.link(path, name, src_dir_fd=self._fd, dst_dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                return False
            except OSError as error:
                if error.errno != errno.EMLINK:
                    raise
                continue
            if os.stat(name, dir_fd=directory, follow_symlinks=False).st_size == size:
                return True
            os.unlink(name, dir_fd=directory)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path, dir_fd=self._fd)
        return False

    def adopt(self, key: str, directory: int, name: str) -> None:
        """Make the finished file ``name`` of the open ``directory`` the object ``key``.

        Should somebody else have made the same object meanwhile, ``name`` becomes a link to that. Raises `OSError`.
        """
        twin = f"{name}.twin"
        for path in _generations(key):
            while True:
                try:
                    os.link(name, path, src_dir_fd=directory, dst_dir_fd=self._fd, follow_symlinks=False)
                    return
                except FileNotFoundError:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(key[:2], 0o700, dir_fd=self._fd)
                    continue
                except FileExistsError:
                    pass
                try:
                    os.link(path, twin, src_dir_fd=self._fd, dst_dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    continue  # collected just now
                except OSError as error:
                    if error.errno != errno.EMLINK:
                        raise
                    break
                os.rename(twin, name, src_dir_fd=directory, dst_dir_fd=directory)
                return

    def duplicate(self, key: str, directory: int, source: str, name: str) -> None:
        """Make ``name`` in the open ``directory`` one more object ``key``, since ``source``, which is one, has all
        its links.
        """
        original = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            status = os.fstat(original)
            xattrs = {name: os.getxattr(original, name) for name in map(os.fsencode, os.listxattr(original))}
            copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
            try:
                while os.sendfile(copy, original, None, _COPY):
                    pass
                mode = stat.S_IMODE(status.st_mode)
                Metadata(mode, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs).apply(copy)
            finally:
                os.close(copy)
        finally:
            os.close(original)
        self.adopt(key, directory, name)

    def collect(self) -> int:
        """Drop the objects that no layer has; returns the bytes on disk that this freed. Raises `OSError`.

        A file is linked to its layer before it becomes an object, so one that is just being made is safe. One that a
        layer takes up between look and removal stays that layer's file, it merely is not shared any more.
        """
        freed = 0
        for path, status in self._files():
            if status.st_nlink == 1:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path, dir_fd=self._fd)
                    freed += status.st_blocks * 512
        return freed

    def usage(self) -> int:
        """Bytes on disk."""
        return sum(status.st_blocks * 512 for _, status in self._files())

    def _files(self) -> Iterator[tuple[str, os.stat_result]]:
        for fan in os.listdir(self._fd):
            try:
                directory = os.open(fan, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._fd)
            except (FileNotFoundError, NotADirectoryError):
                continue
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        with contextlib.suppress(FileNotFoundError):
                            yield f"{fan}/{entry.name}", entry.stat(follow_symlinks=False)
            finally:
                os.close(directory)


def _generations(key: str) -> Iterator[str]:
    path = f"{key[:2]}/{key[2:]}"
    yield path
    for number in count(1):
        yield f"{path}.{number}"
