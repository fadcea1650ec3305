"""From directories to archives: a whole file tree, a part of one, or what a container changed as an image layer.

The tree may belong to a running, hostile container. Everything is opened by directory file descriptors, no link is
followed, no mount is crossed that was not asked for, and nothing that changes meanwhile can break the archive's form.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from capsa.errors import CapsaError, InvalidArgument, reason
from capsa.image import attributes, tar
from capsa.image.beneath import open_beneath
from capsa.image.filetree import OPAQUE, RESERVED, WHITEOUT
from capsa.image.tar import shown
from capsa.image.tarwriter import Header, Out, TarWriter

_DEPTH = 500
_READ = 1 << 20
_SAVING = 64 << 10  # holes worth a map, in bytes
_OPAQUE = b"trusted.overlay.opaque"
_ELSEWHERE = (b"trusted.overlay.redirect", b"trusted.overlay.metacopy")
_TYPES = {
    stat.S_IFDIR: tar.DIRECTORY,
    stat.S_IFREG: tar.REGULAR,
    stat.S_IFLNK: tar.SYMLINK,
    stat.S_IFCHR: tar.CHARACTER,
    stat.S_IFBLK: tar.BLOCK_DEVICE,
    stat.S_IFIFO: tar.FIFO,
}


Hidden = Callable[[int, bytes], bool]
"""Whether a name in an open directory is left out, with all below it."""


def write_tar(
    root: Path | int, out: Out, *, links: Collection[Sequence[bytes]] | None = None, hidden: Hidden | None = None
) -> int:
    """Write the tree below the directory ``root`` (a path, or open) to ``out``, as ``docker export`` does; returns
    the size.

    ``links`` are the names that are hard links of each other, by groups (`LayerStore.links` of all layers): needed
    for a union of layers, where files of one inode may be merely equal. None: all files of one inode are. Sockets are
    left out. Raises `CapsaError`.
    """
    return _Packer(out, links, hidden=hidden).run(root)


def write_part(
    directory: int,
    name: bytes,
    out: Out,
    *,
    rename: bytes,
    enter: Callable[[int], bool],
    links: Callable[[bytes], int | None] | None = None,
    hidden: Hidden | None = None,
) -> int:
    """Write ``name`` of the open ``directory`` (empty: that directory itself), with all below it, as ``rename``
    (empty: its entries begin with a slash); returns the size.

    ``enter`` decides whether to go into an open directory that another file system begins with. ``links`` tells the
    group of hard links that a name in the archive belongs to, None: none. Raises `CapsaError`.
    """
    return _Packer(out, links, enter=enter, hidden=hidden).part(directory, name, rename)


def write_layer(upper: Path | int, out: Out, *, skip: Collection[bytes] = (), markers: bool = False) -> int:
    """Write overlayfs' upper directory ``upper`` as a layer (OCI image-spec, layer.md); returns the size.

    Whiteouts and opaque directories become ``.wh.`` files; with ``markers`` they are such files already. ``skip`` are
    paths (without a leading slash) that are left out, with all below. Raises `CapsaError`, and `InvalidArgument` for
    names that no layer can hold.
    """
    return _Packer(out, None, layer=True, skip=skip, markers=markers).run(upper)


class _Packer:
    def __init__(
        self,
        out: Out,
        links: Collection[Sequence[bytes]] | Callable[[bytes], int | None] | None,
        *,
        layer: bool = False,
        skip: Collection[bytes] = (),
        enter: Callable[[int], bool] | None = None,
        hidden: Hidden | None = None,
        markers: bool = False,
    ) -> None:
        self._tar = TarWriter(out)
        self._layer = layer
        self._markers = markers
        self._hidden = hidden
        self._skip = skip
        self._enter = enter
        self._group = links
        if links is not None and not callable(links):
            self._group = {name: number for number, names in enumerate(links) for name in names}.get
        self._seen: dict[tuple[int, int, int], bytes] = {}

    def run(self, root: Path | int) -> int:
        def work() -> None:
            top = os.dup(root) if isinstance(root, int) else os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._walk(top, b"")

        return self._all(work, str(root))

    def part(self, directory: int, name: bytes, rename: bytes) -> int:
        def work() -> None:
            inner: int | None
            if name:
                inner = self._entry(directory, name, rename)
            else:
                inner = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
                self._directory(inner, rename)
            if inner is not None:
                self._walk(inner, rename + b"/")

        return self._all(work, os.fsdecode(rename))

    def _all(self, work: Callable[[], None], what: str) -> int:
        try:
            work()
        except OSError as error:
            about = os.fsdecode(error.filename) if error.filename else what
            raise CapsaError(f"cannot archive {about}: {reason(error)}") from error
        self._tar.close()
        return self._tar.total

    def _walk(self, top: int, prefix: bytes) -> None:
        """Depth first, in the order of the names' bytes. Closes ``top``."""
        trail: list[tuple[int, bytes, Iterator[bytes]]] = [(top, prefix, _names(top))]
        try:
            if self._layer and self._opaque(top, b""):
                self._marker(OPAQUE)
            while trail:
                fd, path, names = trail[-1]
                for name in names:
                    inside = path + name
                    inner = self._entry(fd, name, inside)
                    if inner is not None:
                        if len(trail) == _DEPTH:
                            os.close(inner)
                            raise InvalidArgument(f"{shown(inside)} lies deeper than {_DEPTH} directories")
                        trail.append((inner, inside + b"/", _names(inner)))
                        break
                else:
                    trail.pop()
                    os.close(fd)
        finally:
            for fd, _, _ in trail:
                os.close(fd)

    def _entry(self, directory: int, name: bytes, path: bytes) -> int | None:
        """Write one entry; returns the open directory if it is one to go into."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None  # gone since it was listed
        kind = _TYPES.get(stat.S_IFMT(status.st_mode))
        if kind is None or path in self._skip or (self._hidden is not None and self._hidden(directory, name)):
            return None
        if self._layer:
            if self._markers and name.startswith(WHITEOUT):
                if not name.startswith(RESERVED) and not _exists(directory, name[len(WHITEOUT) :]):
                    self._marker(path)
                return None
            if kind == tar.CHARACTER and status.st_rdev == 0:
                self._marker(path[: len(path) - len(name)] + WHITEOUT + name)
                return None
            if name.startswith(WHITEOUT):
                raise InvalidArgument(f"{shown(path)} cannot be in a layer: names with .wh. mean removal there")
        if kind in (tar.DIRECTORY, tar.REGULAR):
            return self._opened(directory, name, path, kind)
        header = _header(path, kind, status)
        try:
            header.xattrs = _kept(attributes.read(f"/proc/self/fd/{directory}/{os.fsdecode(name)}"))
            if kind == tar.SYMLINK:
                header.link = os.readlink(name, dir_fd=directory)
            elif kind != tar.FIFO:
                header.major, header.minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINVAL):
                return None  # gone, or not a link any more
            raise
        self._tar.begin(header)
        self._tar.end()
        return None

    def _opened(self, directory: int, name: bytes, path: bytes, kind: bytes) -> int | None:
        flags = os.O_RDONLY | os.O_NONBLOCK | (os.O_DIRECTORY if kind == tar.DIRECTORY else 0)
        try:
            fd = self._open(directory, name, flags)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
                return None  # not what it was a moment ago
            raise OSError(error.errno, error.strerror, os.fsdecode(path)) from error
        if fd < 0:  # a mount point: the place belongs to the tree, what is mounted there does not
            self._tar.begin(Header(name=path + (b"/" if kind == tar.DIRECTORY else b""), type=kind, mode=0o755))
            self._tar.end()
            return None
        keep = False
        try:
            status = os.fstat(fd)
            if kind == tar.DIRECTORY:
                self._directory(fd, path)
                if self._layer and (self._opaque(fd, path) or (self._markers and _exists(directory, WHITEOUT + name))):
                    self._marker(path + b"/" + OPAQUE)
                keep = True
                return fd
            if stat.S_ISREG(status.st_mode):
                self._regular(fd, path, status)
            return None
        finally:
            if not keep:
                os.close(fd)

    def _open(self, directory: int, name: bytes, flags: int) -> int:
        """-1 for a mount that is not to be entered, an error (ENXIO) for what is no file or directory any more."""
        try:
            handle = open_beneath(directory, name, os.O_PATH)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            if self._enter is None:
                return -1
            handle = open_beneath(directory, name, os.O_PATH, mounts=True)
            if not self._enter(handle):
                os.close(handle)
                return -1
        try:
            # Never open what has become a device meanwhile: that alone may have effects.
            if stat.S_IFMT(os.fstat(handle).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            return os.open(f"/proc/self/fd/{handle}", flags | os.O_CLOEXEC)
        finally:
            os.close(handle)

    def _directory(self, fd: int, path: bytes) -> None:
        header = _header(path + b"/", tar.DIRECTORY, os.fstat(fd))
        header.xattrs = _kept(attributes.read(fd))
        self._tar.begin(header)
        self._tar.end()

    def _regular(self, fd: int, path: bytes, status: os.stat_result) -> None:
        if status.st_nlink > 1 and (first := self._first(path, status)) is not None:
            self._tar.begin(_header(path, tar.HARD_LINK, status, link=first))
            self._tar.end()
            return
        xattrs = attributes.read(fd)
        if self._layer:
            _refuse_elsewhere(xattrs, path)
        header = _header(path, tar.REGULAR, status, size=status.st_size)
        header.xattrs = _kept(xattrs)
        if status.st_size - status.st_blocks * 512 >= _SAVING:
            header.extents = _extents(fd, status.st_size)
        self._tar.begin(header)
        for offset, length in [(0, status.st_size)] if header.extents is None else header.extents:
            os.lseek(fd, offset, os.SEEK_SET)
            while length and (data := os.read(fd, min(length, _READ))):
                self._tar.write(data)
                length -= len(data)
            self._tar.fill(length)
        self._tar.end()

    def _first(self, path: bytes, status: os.stat_result) -> bytes | None:
        """The name under which this very file is in the archive already."""
        group = 0
        if self._group is not None:
            assert callable(self._group)
            found = self._group(path)
            if found is None:
                return None
            group = found
        first = self._seen.setdefault((group, status.st_dev, status.st_ino), path)
        return None if first == path else first

    def _opaque(self, fd: int, path: bytes) -> bool:
        xattrs = attributes.read(fd)
        _refuse_elsewhere(xattrs, path)
        return xattrs.get(_OPAQUE) == b"y" or (self._markers and _exists(fd, OPAQUE))

    def _marker(self, path: bytes) -> None:
        self._tar.begin(Header(name=path, type=tar.REGULAR))
        self._tar.end()


def _header(path: bytes, kind: bytes, status: os.stat_result, *, size: int = 0, link: bytes = b"") -> Header:
    return Header(
        name=path,
        type=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=status.st_mtime_ns,
        size=size,
        link=link,
    )


def _exists(directory: int, name: bytes) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


def _names(directory: int) -> Iterator[bytes]:
    return iter(sorted(os.fsencode(name) for name in os.listdir(directory)))


def _kept(xattrs: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: value for name, value in xattrs.items() if attributes.kept(name)}


def _refuse_elsewhere(xattrs: dict[bytes, bytes], path: bytes) -> None:
    """With these, overlayfs keeps content or names in another layer; a mount with redirect_dir=off,metacopy=off has
    none.
    """
    for name in _ELSEWHERE:
        if name in xattrs:
            raise CapsaError(f"{shown(path)} depends on a lower layer ({name.decode()}) and cannot be archived alone")


def _extents(fd: int, size: int) -> list[tuple[int, int]] | None:
    """Where a file has content; the last entry marks its end. None where the file system does not know."""
    extents: list[tuple[int, int]] = []
    offset = 0
    try:
        while offset < size:
            start = os.lseek(fd, offset, os.SEEK_DATA)
            offset = os.lseek(fd, start, os.SEEK_HOLE)
            extents.append((start, min(offset, size) - start))
            if len(extents) > 100_000:
                return None
    except OSError as error:
        if error.errno != errno.ENXIO:  # no more data
            return None
    return [*(extent for extent in extents if extent[1] > 0), (size, 0)]
