"""What a helper process does that reads or writes a container's files (``docker cp``, ``docker export``).

A `Request` comes in a file. Standard output begins with one line of JSON, `Stat`; an archive follows, or comes in on
standard input. Standard error ends with `DONE`, or with a `Failed` that says what went wrong.
"""

from __future__ import annotations

import base64
import errno
import functools
import os
import posixpath
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from capsa.engine import archive_view as view
from capsa.errors import CapsaError, Forbidden, InvalidArgument, NotFound, reason
from capsa.image import pack

if TYPE_CHECKING:
    from capsa.engine.changes import Changes

DONE = b"done\n"
_BUFFER = 1 << 18
_DEPTH = 500
_READ_ONLY = "container rootfs is marked read-only"
_GO_TYPES = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
}
_GO_BITS = ((stat.S_ISUID, 1 << 23), (stat.S_ISGID, 1 << 22), (stat.S_ISVTX, 1 << 20))


class Request(msgspec.Struct, kw_only=True):
    """What to do: ``stat``, ``read`` or ``write`` at ``path``, ``export`` all, tell ``changes``, write
    them as a ``layer``.

    ``owner`` and ``replace`` are for `Extractor`; ``places`` are mounts (destination, writable), ``locked`` is why
    nothing can be written elsewhere. ``links`` are the hard links of the image's layers, ``upper`` the directory that
    may have more.
    """

    action: str
    view: view.View
    path: str = "/"
    owner: tuple[int, int] | None = None
    replace: bool = True
    places: list[tuple[str, bool]] = []
    locked: str = ""
    links: Sequence[Sequence[bytes]] = []
    upper: str = ""


class Stat(msgspec.Struct, kw_only=True, tag="stat"):
    """A file as Docker's ``X-Docker-Container-Path-Stat`` has it; ``mode`` in Go's bits, ``mtime`` in nanoseconds."""

    name: str
    size: int = 0
    mode: int = 0
    mtime: int = 0
    link_target: str = ""


class Failed(msgspec.Struct, kw_only=True, tag="failed"):
    """It cannot be done; ``kind`` is the name of a class in `capsa.errors`."""

    kind: str
    message: str


def cleaned(path: str) -> str:
    """``path`` from the root and without dots, but for a last slash or ``/.``, which say that it is a directory."""
    clean = "/" + posixpath.normpath("/" + path).lstrip("/")
    if path.rstrip("/").rpartition("/")[2] == "." and not path.endswith("/"):
        return clean.rstrip("/") + "/."
    return clean + "/" if path.endswith("/") and clean != "/" else clean


def base(path: str) -> str:
    """The last component, as Go's ``filepath.Base`` has it."""
    return path.rstrip("/").rpartition("/")[2] or "/"


def mode_of(mode: int) -> int:
    """A ``st_mode`` in the bits of Go's ``os.FileMode``."""
    return mode & 0o777 | _GO_TYPES.get(stat.S_IFMT(mode), 0) | sum(bit for unix, bit in _GO_BITS if mode & unix)


class Worker:
    """Answers one request."""

    def __init__(self, request: Request, out: BinaryIO) -> None:
        self._request = request
        self._out = out
        self._path = cleaned(request.path)

    @functools.cached_property
    def _root(self) -> view.Root:
        return view.root_of(self._request.view)

    def run(self) -> None:
        """Raises `CapsaError`, `OSError`."""
        match self._request.action:
            case "stat":
                self._head(self._stat()[0])
            case "read":
                self._read()
            case "export":
                self._export()
            case "changes":
                self._changes()
            case "layer":
                self._layer()
            case _:
                self._write()

    def _head(self, head: Stat) -> None:
        self._out.write(msgspec.json.encode(head) + b"\n")
        self._out.flush()

    def _stat(self) -> tuple[Stat, int]:
        """And the open file (``O_PATH``)."""
        fd = self._root.find(self._path, os.O_NOFOLLOW)
        status = os.fstat(fd)
        link = stat.S_ISLNK(status.st_mode)
        return Stat(
            name=base(self._path),
            size=status.st_size,
            mode=mode_of(status.st_mode),
            mtime=status.st_mtime_ns,
            link_target=self._root.resolved(self._path) if link else "",
        ), fd

    def _read(self) -> None:
        head, fd = self._stat()
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            _measure(fd, mounts=True)
            directory, name = fd, b""
            rename = b"" if head.name == "/" else os.fsencode(head.name)
            inside = self._root.resolved(self._path)
        else:
            above, last = posixpath.split(self._path)
            directory, name = self._root.find(above, os.O_DIRECTORY), os.fsencode(last)
            rename = name
            inside = self._root.resolved(above).rstrip("/") + "/" + last
        self._head(head)
        links = _Links(self._request, rename, os.fsencode(inside).strip(b"/"))
        pack.write_part(directory, name, self._out, rename=rename, enter=_shown, links=links, hidden=self._root.hides)

    def _export(self) -> None:
        head, fd = self._stat()
        _measure(fd, mounts=False)
        self._head(head)
        top = os.open(".", os.O_RDONLY, dir_fd=fd)
        pack.write_tar(top, self._out, links=_Links(self._request).groups(), hidden=self._root.hides)

    def _changes(self) -> None:
        _measure(os.open(self._request.view.upper, os.O_PATH | os.O_DIRECTORY), mounts=False)
        self._head(Stat(name="/"))
        encode = msgspec.json.Encoder().encode
        comma = b"["
        for change in self._found():
            self._out.write(comma + encode(change))
            comma = b","
        self._out.write(b"null" if comma == b"[" else b"]")

    def _layer(self) -> None:
        found = self._found()
        for _ in found:
            pass
        self._head(Stat(name="/"))
        own = self._request.view
        pack.write_layer(Path(own.upper), self._out, skip=found.untouched, markers=own.marked)

    def _found(self) -> Changes:
        from capsa.engine.changes import Changes

        own = self._request.view
        return Changes(own.upper, own.layers[::-1], marked=own.marked)

    def _write(self) -> None:
        from capsa.image.compression import pieces
        from capsa.image.extract import Extractor
        from capsa.image.tar import TarReader

        place = self._root.resolved(self._path)
        fd = self._root.find(self._path)
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise InvalidArgument("extraction point is not a directory")
        self._check_writable(place)
        content = pieces(open(0, "rb", buffering=0, closefd=False))  # noqa: SIM115
        extractor = Extractor(self._root, place, owner=self._request.owner, replace=self._request.replace)
        try:
            extractor.run(TarReader(lambda: next(content, b"")))
        except OSError as error:
            if error.errno == errno.EROFS:
                raise Forbidden(self._locked(place) or self._request.locked or _READ_ONLY) from error
            raise
        if self._root.writable is not None:
            self._root.writable.keep()
        for _ in content:  # what follows the archive's end
            pass
        self._head(Stat(name=base(place)))

    def _check_writable(self, place: str) -> None:
        locked = self._locked(place)
        if locked:
            raise Forbidden(locked)

    def _locked(self, place: str) -> str:
        """Why nothing can be written at ``place``; the innermost mount decides."""
        for destination, writable in sorted(self._request.places, key=lambda each: -len(each[0])):
            if place == destination or place.startswith(destination.rstrip("/") + "/"):
                return "" if writable else "mounted volume is marked read-only"
        return self._request.locked


def _shown(fd: int) -> bool:
    """Whether an archive goes into a mount that it comes to."""
    return not view.is_kernel(fd)


class _Links:
    """Which names are hard links of each other.

    On an overlay the numbers of files do not tell: equal files of layers are one inode, and a copy keeps the number of
    what it was copied from. So names do: those that the layers' archives had as links, and what has several names in
    the writable directory. On every other file system inodes are what they are.
    """

    def __init__(self, request: Request, rename: bytes = b"", inside: bytes = b"") -> None:
        """The names in the archive begin with ``rename`` where those in the tree begin with ``inside``."""
        self._request = request
        self._rename = rename
        self._inside = inside
        self._names: dict[bytes, int] | None = None

    def groups(self) -> list[list[bytes]]:
        """All of them."""
        groups: dict[int, list[bytes]] = {}
        for name, number in self._known().items():
            groups.setdefault(number, []).append(name)
        return list(groups.values())

    def __call__(self, name: bytes) -> int | None:
        path = (self._inside + name[len(self._rename) :]).strip(b"/")
        found = self._known().get(path)
        if found is not None:
            return found
        for destination, _ in self._request.places:
            if path.startswith(os.fsencode(destination).strip(b"/") + b"/"):
                return -1
        return None

    def _known(self) -> dict[bytes, int]:
        if self._names is None:
            self._names = {name: number for number, names in enumerate(self._request.links) for name in names}
            self._names.update(_own_links(self._request.upper, len(self._request.links)))
        return self._names


def _own_links(upper: str, first: int) -> dict[bytes, int]:
    """Names in the writable directory that share an inode, by groups counted from ``first``."""
    groups: dict[int, list[bytes]] = {}
    if upper:
        top = os.fsencode(upper)
        for path, _, files, directory in os.fwalk(top):
            for name in files:
                try:
                    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
                    groups.setdefault(status.st_ino, []).append(os.path.join(path, name)[len(top) :].strip(b"/"))
    return {name: first + number for number, names in enumerate(groups.values()) for name in names}


def _measure(fd: int, *, mounts: bool) -> None:
    """Refuse a tree that is too deep before an archive of it has begun."""
    trail = [os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)]
    todo = [_directories(trail[0])]
    device = os.fstat(fd).st_dev
    try:
        while trail:
            if not todo[-1]:
                todo.pop()
                os.close(trail.pop())
                continue
            try:
                inner = os.open(todo[-1].pop(), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=trail[-1])
            except OSError:
                continue
            if os.fstat(inner).st_dev != device and (not mounts or view.is_kernel(inner)):
                os.close(inner)
                continue
            trail.append(inner)
            if len(trail) > _DEPTH:
                raise InvalidArgument(f"the tree is nested deeper than {_DEPTH} directories: copy a part of it")
            todo.append(_directories(inner))
    finally:
        for each in trail:
            os.close(each)


def _directories(fd: int) -> list[bytes]:
    with os.scandir(fd) as entries:
        return [os.fsencode(entry.name) for entry in entries if entry.is_dir(follow_symlinks=False)]


def failure(error: Exception, path: str) -> Failed:
    """An exception for the engine."""
    if isinstance(error, OSError):
        if error.errno == errno.ENOENT:
            return Failed(kind=NotFound.__name__, message="")
        refused = (errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EBUSY, errno.EXDEV, errno.EACCES, errno.ENAMETOOLONG)
        kind = InvalidArgument if error.errno in refused else CapsaError
        about = f" ({error.filename})" if error.filename else ""
        return Failed(kind=kind.__name__, message=f"{path}: {reason(error)}{about}")
    return Failed(kind=type(error).__name__, message=str(error))


def header(found: Stat) -> str:
    """The value of ``X-Docker-Container-Path-Stat``."""
    from capsa.engine.times import rfc3339

    document = {
        "name": found.name,
        "size": found.size,
        "mode": found.mode,
        "mtime": rfc3339(found.mtime),
        "linkTarget": found.link_target,
    }
    return base64.b64encode(msgspec.json.encode(document)).decode()


def main(request_file: int, namespace: int) -> int:
    """Do what the file says, with an open mount namespace of the container or -1; returns the exit code."""
    with open(request_file, "rb") as file:
        request = msgspec.json.decode(file.read(), type=Request)
    request.view.namespace = namespace
    out = open(1, "wb", buffering=_BUFFER, closefd=False)  # noqa: SIM115
    try:
        Worker(request, out).run()
        out.flush()
    except BrokenPipeError:
        return 1
    except (CapsaError, OSError) as error:
        os.write(2, msgspec.json.encode(failure(error, request.path)) + b"\n")
        return 1
    os.write(2, DONE)
    return 0
