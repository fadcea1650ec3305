"""Unpacking an archive into a tree that others may be changing (``docker cp``), entry by entry as Docker does it.

Every name of the archive is looked up by a `Tree`, which nothing leads out of, and each file is made anew in a
directory that is held open: nothing that is there already is ever opened for writing, and no link is followed by its
last component.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from typing import Protocol

from capsa.errors import InvalidArgument
from capsa.image import attributes, tar
from capsa.image.objects import set_xattr
from capsa.image.rmtree import remove_tree_at
from capsa.image.tar import Entry
from capsa.sys.path import open_below

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FORMATS = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
_NOBODY = (1 << 32) - 1
_TIME = (1 << 33) * 1_000_000_000


class Tree(Protocol):
    """Directories below a root that no name leads out of; paths begin with a slash."""

    def find(self, path: str, flags: int = 0) -> int:
        """``path`` as a descriptor (``O_PATH``); raises `OSError`."""

    def make(self, path: str) -> int:
        """The directory ``path``, made with all above it that is missing."""


class Beneath:
    """A directory of one's own machine as a `Tree`: a link may lead anywhere inside it, and nowhere else."""

    def __init__(self, place: str) -> None:
        """Raises `OSError`."""
        self._fd = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Beneath:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def find(self, path: str, flags: int = 0) -> int:
        """See `Tree`; EXDEV for what leads out."""
        return open_below(self._fd, path.lstrip("/") or ".", flags | os.O_PATH)

    def make(self, path: str) -> int:
        """See `Tree`."""
        done = ""
        for name in path.strip("/").split("/"):
            above = self.find(done or "/")
            try:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=above)
            finally:
                os.close(above)
            done += f"/{name}"
        return self.find(path, os.O_DIRECTORY)


class Source(Protocol):
    """What `Extractor` needs of a `TarReader`."""

    def __iter__(self) -> Iterator[Entry]: ...

    def parts(self, size: int | None = None, /) -> Iterator[memoryview]:
        """See `TarReader.parts`."""


class Extractor:
    """Unpacks into the directory ``place`` (absolute, without links) of ``tree``.

    ``owner`` gets everything, None: whom the archive names; without ``chown`` everything belongs to this process's
    user. ``replace``: a directory may take the place of something else, and the other way round.
    """

    def __init__(
        self,
        tree: Tree,
        place: str = "/",
        *,
        owner: tuple[int, int] | None = None,
        chown: bool = True,
        replace: bool = True,
    ) -> None:
        self._tree = tree
        self._place = place
        self._owner = owner
        self._chown = chown
        self._replace = replace
        self._parent = ""
        self._parent_fd = -1
        self._times: dict[str, int] = {}

    def run(self, reader: Source) -> None:
        """Raises `OSError`, `InvalidArgument`, `BrokenArchive`; what was unpacked until then stays."""
        try:
            for entry in reader:
                self._entry(entry, reader)
            for path, mtime in reversed(self._times.items()):
                self._touch(path, mtime)
        finally:
            if self._parent_fd >= 0:
                os.close(self._parent_fd)

    def _entry(self, entry: Entry, reader: Source) -> None:
        path = self._path(entry.name, entry)
        if path == self._place:
            if entry.type != tar.DIRECTORY:
                raise self._mismatch("non-directory", path, entry)
            return
        parent, name = posixpath.split(path)
        directory = self._open(parent)
        try:
            old = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            pass
        else:
            was, is_ = stat.S_ISDIR(old.st_mode), entry.type == tar.DIRECTORY
            if was != is_ and not self._replace:
                raise self._mismatch("directory" if is_ else "non-directory", path, entry)
            if not (was and is_):
                remove_tree_at(directory, os.fsencode(name))
        match entry.type:
            case tar.DIRECTORY:
                self._directory(directory, path, entry)
                self._times[path] = _mtime(entry)
            case tar.REGULAR:
                self._file(directory, name, entry, reader)
            case tar.HARD_LINK:
                self._link(directory, name, entry)
            case _:
                self._special(directory, name, entry)

    def _path(self, name: bytes, entry: Entry) -> str:
        """Where ``name`` of the archive belongs."""
        path = posixpath.normpath(f"{self._place}/{os.fsdecode(name)}").replace("//", "/")
        if path != self._place and not path.startswith(self._place.rstrip("/") + "/"):
            raise InvalidArgument(f"{entry} is outside of {self._place!r}")
        return path

    def _mismatch(self, kind: str, path: str, entry: Entry) -> InvalidArgument:
        other = "non-directory" if kind == "directory" else "directory"
        return InvalidArgument(f'cannot overwrite {other} "{path}" with {kind} "{os.path.basename(path)}"')

    def _apply(self, fd: int, entry: Entry) -> None:
        """Owner, mode, attributes and time of an open file or directory."""
        if self._chown:  # first, since it takes setuid bits and capabilities away
            os.fchown(fd, *self._owner_of(entry))
        os.fchmod(fd, entry.mode)
        self._attributes(fd, entry)
        mtime = _mtime(entry)
        os.utime(fd, ns=(mtime, mtime))

    def _owner_of(self, entry: Entry) -> tuple[int, int]:
        uid, gid = self._owner or (entry.uid, entry.gid)
        if uid >= _NOBODY or gid >= _NOBODY:
            raise InvalidArgument(f"{entry} belongs to the impossible user or group {uid}:{gid}")
        return uid, gid

    def _attributes(self, file: int | str, entry: Entry) -> None:
        for name, value in entry.xattrs.items():
            if not attributes.kept(name) or (isinstance(file, str) and name.startswith(b"user.")):
                continue  # the kernel has the latter on files and directories only
            try:
                set_xattr(file, name, value)
            except OSError as error:
                if self._chown or error.errno not in (errno.EPERM, errno.ENOTSUP):
                    raise

    def _open(self, parent: str) -> int:
        """The directory ``parent``, the same one for names that follow one another."""
        if self._parent_fd >= 0 and parent == self._parent:
            return self._parent_fd
        try:
            handle = self._tree.find(parent, os.O_DIRECTORY)
        except FileNotFoundError:
            handle = self._tree.make(parent)
        if self._parent_fd >= 0:
            os.close(self._parent_fd)
        self._parent, self._parent_fd = parent, handle
        return handle

    def _directory(self, parent: int, path: str, entry: Entry) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(posixpath.basename(path), 0o700, dir_fd=parent)
        try:
            handle = self._tree.find(path, os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return  # removed just now, or a place of the kernel's
        try:
            fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
            try:
                self._apply(fd, entry)
            finally:
                os.close(fd)
        finally:
            os.close(handle)

    def _file(self, parent: int, name: str, entry: Entry, reader: Source) -> None:
        fd = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            if entry.extents is None:
                _write(fd, reader, None)
            else:
                os.ftruncate(fd, entry.size)
                for offset, length in entry.extents:
                    os.lseek(fd, offset, os.SEEK_SET)
                    _write(fd, reader, length)
            self._apply(fd, entry)
        finally:
            os.close(fd)

    def _link(self, parent: int, name: str, entry: Entry) -> None:
        above, base = posixpath.split(self._path(entry.link, entry))
        source = self._tree.find(above, os.O_DIRECTORY)
        try:
            os.link(base, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _special(self, parent: int, name: str, entry: Entry) -> None:
        if entry.type == tar.SYMLINK:
            if not 0 < len(entry.link) < 4096:
                raise InvalidArgument(f"the symbolic link {entry} has a target of {len(entry.link)} bytes")
            os.symlink(entry.link, os.fsencode(name), dir_fd=parent)
        else:
            if entry.major >= 1 << 12 or entry.minor >= 1 << 20:
                raise InvalidArgument(f"the device {entry} has the impossible number {entry.major}:{entry.minor}")
            os.mknod(name, _FORMATS[entry.type] | 0o600, os.makedev(entry.major, entry.minor), dir_fd=parent)
        if self._chown:
            os.chown(name, *self._owner_of(entry), dir_fd=parent, follow_symlinks=False)
        if entry.type != tar.SYMLINK:
            made = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                if stat.S_IFMT(os.fstat(made).st_mode) == _FORMATS[entry.type]:
                    os.chmod(f"/proc/self/fd/{made}", entry.mode)
            finally:
                os.close(made)
        self._attributes(f"/proc/self/fd/{parent}/{name}", entry)
        mtime = _mtime(entry)
        os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)

    def _touch(self, path: str, mtime: int) -> None:
        """A directory's time, last, since what is put into it changes it."""
        try:
            fd = self._tree.find(path, os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return  # somebody has removed or exchanged it
            raise
        try:
            os.utime(f"/proc/self/fd/{fd}", ns=(mtime, mtime))
        finally:
            os.close(fd)


def _write(fd: int, reader: Source, length: int | None) -> None:
    for piece in reader.parts(length):
        written = 0
        while written < len(piece):
            written += os.write(fd, piece[written:])


def _mtime(entry: Entry) -> int:
    return min(max(entry.mtime, 0), _TIME)
