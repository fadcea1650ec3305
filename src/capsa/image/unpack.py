"""From an archive to a directory that overlayfs takes as a layer: plan first, then execute.

While the archive is read, file contents become objects, staged under numbers, and everything else goes into a
`FileTree`. Only then the directory is made, from the tree, by directory file descriptors that never follow a link.
What the archive says decides about content and names inside, never about where anything is written.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capsa.errors import BrokenArchive
from capsa.image import attributes, tar
from capsa.image.filetree import Directory, File, FileTree, Node, Special, Symlink, symlink
from capsa.image.limits import DEFAULT, MIB, Limits
from capsa.image.objects import Metadata, ObjectStore, hasher, set_xattr
from capsa.image.tar import Entry, TarReader, shown

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

    from capsa.image.recipes import Recording

_WHOLE = 8 * MIB  # up to here a file's key is known before anything is written
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FORMATS = {tar.CHARACTER: stat.S_IFCHR, tar.BLOCK_DEVICE: stat.S_IFBLK, tar.FIFO: stat.S_IFIFO}
_OPAQUE = b"trusted.overlay.opaque"
_TIME = (1 << 35) * 1_000_000_000  # a thousand years; file systems have narrower limits of their own
_NOBODY = (1 << 32) - 1  # -1: what chown(2) takes for "leave it"
_PAGE = 4096


@dataclass(slots=True)
class Unpacked:
    """``size``: bytes of all regular files; ``links``: names of each file that the archive had as hard links."""

    size: int
    entries: int
    opaque: bool
    links: list[list[bytes]]


class Unpacker:
    """Unpacks one archive; ``staging`` and ``target`` are open, empty directories on the file system of ``objects``.

    ``recording`` is told which content files will have; it sees the archive's bytes by itself.
    """

    def __init__(
        self,
        objects: ObjectStore,
        staging: int,
        target: int,
        limits: Limits = DEFAULT,
        recording: Recording | None = None,
    ) -> None:
        self._objects = objects
        self._staging = staging
        self._target = target
        self._limits = limits
        self._tree = FileTree(limits)
        self._slots = 0
        self._groups = 0
        self._size = 0
        self._sparse = 0
        self._recording = recording
        self._recorded: list[tuple[bytes, File]] = []

    def run(self, reader: TarReader) -> Unpacked:
        """Raises `BrokenArchive`, and `OSError` for what the file system refuses."""
        for entry in reader:
            self._add(entry, reader)
        reader.drain()
        links = _hard_links(self._tree.root) if self._groups else []
        if self._recording:
            self._recording.finish(self._lost(), self._staging)
        self._build()
        return Unpacked(self._size, self._tree.count, self._tree.root.opaque, links)

    def _add(self, entry: Entry, reader: TarReader) -> None:
        if self._tree.whiteout(entry.name):
            return
        kind = entry.type
        if kind == tar.REGULAR:
            recorded = self._record(entry, reader)
            file = self._file(entry, reader)
            self._tree.place(entry.name, file)
            if recorded:
                self._recorded.append((entry.name, file))
        elif kind == tar.HARD_LINK:
            node = self._tree.find(entry.name, entry.link)
            self._tree.place(entry.name, self._again(node) if isinstance(node, File) else node)
        elif kind == tar.DIRECTORY:
            self._tree.place(entry.name, Directory(_metadata(entry)))
        elif kind == tar.SYMLINK:
            self._tree.place(entry.name, symlink(entry.name, entry.link, _metadata(entry)))
        elif kind == tar.CHARACTER and entry.major == entry.minor == 0:
            self._tree.hide_at(entry.name)
        else:
            if entry.major >= 1 << 12 or entry.minor >= 1 << 20:
                raise BrokenArchive(f"the device {entry} has the impossible number {entry.major}:{entry.minor}")
            self._tree.place(entry.name, Special(_FORMATS[kind], entry.major, entry.minor, _metadata(entry)))

    def _record(self, entry: Entry, reader: TarReader) -> bool:
        """Whether the recipe leaves the content of ``entry`` out."""
        # Entries that replace each other are not counted by the tree, and would be remembered here without end.
        if self._recording is None or len(self._recorded) >= self._limits.entries:
            return False
        return self._recording.content(entry, reader.position)

    def _lost(self) -> dict[int, str]:
        """Which contents, by number, are no longer under their name, as a later entry took it; their staged files."""
        lost: dict[int, str] = {}
        for number, (name, file) in enumerate(self._recorded):
            there = self._tree.at(name)
            if not isinstance(there, File) or there.key != file.key:
                lost[number] = str(file.slot)
        return lost

    def _file(self, entry: Entry, reader: TarReader) -> File:
        metadata = _metadata(entry)
        slot = self._slot()
        self._size += entry.size
        if entry.extents is None and entry.size <= _WHOLE:
            content = reader.content()
            hash_ = hasher(metadata, entry.size)
            hash_.update(content)
            key = hash_.hexdigest()
            if not self._objects.link(key, entry.size, self._staging, str(slot)):
                self._write(slot, iter((content,)), metadata)
                self._objects.adopt(key, self._staging, str(slot))
            return File(slot, key, entry.size)
        # The key is known only at the end, so this is written in any case, and dropped if it is there already.
        hash_ = hasher(metadata, entry.size, sparse=entry.extents is not None)
        if entry.extents is None:

            def hashed() -> Iterator[memoryview]:
                for piece in reader.parts():
                    hash_.update(piece)
                    yield piece

            self._write(slot, hashed(), metadata)
        else:
            self._write_sparse(slot, entry, reader, metadata, hash_)
        key = hash_.hexdigest()
        other = self._slot()
        if self._objects.link(key, entry.size, self._staging, str(other)):
            os.unlink(str(slot), dir_fd=self._staging)
            return File(other, key, entry.size)
        self._objects.adopt(key, self._staging, str(slot))
        return File(slot, key, entry.size)

    def _write(self, slot: int, pieces: Iterator[memoryview], metadata: Metadata) -> None:
        fd = os.open(str(slot), _CREATE, 0o600, dir_fd=self._staging)
        try:
            for piece in pieces:
                written = os.write(fd, piece) if piece else 0
                while written < len(piece):
                    written += os.write(fd, piece[written:])
            metadata.apply(fd)
        finally:
            os.close(fd)

    def _write_sparse(self, slot: int, entry: Entry, reader: TarReader, metadata: Metadata, hash_: Hash) -> None:
        """Holes stay holes, and are hashed as a map: nobody has to read terabytes of zeros to know the key."""
        fd = os.open(str(slot), _CREATE, 0o600, dir_fd=self._staging)
        try:
            os.ftruncate(fd, entry.size)
            for offset, length in entry.extents or ():
                self._sparse += -(-length // _PAGE) * _PAGE
                if self._sparse > self._limits.size:
                    raise BrokenArchive(f"the sparse files of the layer hold more than {self._limits.size} bytes")
                hash_.update(b"%d+%d\n" % (offset, length))
                os.lseek(fd, offset, os.SEEK_SET)
                for piece in reader.parts(length):
                    hash_.update(piece)
                    written = 0
                    while written < len(piece):
                        written += os.write(fd, piece[written:])
            metadata.apply(fd)
        finally:
            os.close(fd)

    def _again(self, file: File) -> File:
        """One more name of ``file``, by a hard link of the archive."""
        if not file.group:
            self._groups += 1
            file.group = self._groups
        slot = self._slot()
        if not self._objects.link(file.key, file.size, self._staging, str(slot)):
            self._objects.duplicate(file.key, self._staging, str(file.slot), str(slot))
        return File(slot, file.key, file.size, file.group)

    def _slot(self) -> int:
        self._slots += 1
        return self._slots

    def _build(self) -> None:
        """Make the directories, depth first, each one's own metadata last: what is put into it changes its times."""
        root = self._tree.root
        trail = [(os.dup(self._target), root, iter(list(root.children.items())))]
        try:
            while trail:
                fd, directory, todo = trail[-1]
                for name, node in todo:
                    if isinstance(node, Directory):
                        if name in directory.whiteouts:
                            node.opaque = True  # hidden below, and here again: nothing of it shines through
                        os.mkdir(name, 0o700, dir_fd=fd)
                        trail.append((os.open(name, _DIRECTORY, dir_fd=fd), node, iter(list(node.children.items()))))
                        break
                    self._make(fd, name, node)
                else:
                    self._finish(fd, directory)
                    trail.pop()
                    os.close(fd)
        finally:
            for fd, _, _ in trail:
                os.close(fd)

    def _make(self, fd: int, name: bytes, node: File | Symlink | Special) -> None:
        if isinstance(node, File):
            os.rename(str(node.slot), name, src_dir_fd=self._staging, dst_dir_fd=fd)
            return
        if isinstance(node, Symlink):
            os.symlink(node.target, name, dir_fd=fd)
        else:
            os.mknod(name, node.format | 0o600, os.makedev(node.major, node.minor), dir_fd=fd)
        metadata = node.metadata
        os.chown(name, metadata.uid, metadata.gid, dir_fd=fd, follow_symlinks=False)
        if isinstance(node, Special):
            os.chmod(name, metadata.mode, dir_fd=fd)
        for attribute, value in metadata.xattrs.items():
            if not attribute.startswith(b"user."):  # the kernel has these on files and directories only
                set_xattr(f"/proc/self/fd/{fd}/{os.fsdecode(name)}", attribute, value)
        os.utime(name, ns=(metadata.mtime, metadata.mtime), dir_fd=fd, follow_symlinks=False)

    def _finish(self, fd: int, directory: Directory) -> None:
        if directory.opaque:
            set_xattr(fd, _OPAQUE, b"y")
        else:
            for name in directory.whiteouts - directory.children.keys():
                os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=fd)
        directory.metadata.apply(fd)


def _metadata(entry: Entry) -> Metadata:
    if entry.uid >= _NOBODY or entry.gid >= _NOBODY:
        raise BrokenArchive(f"{entry} belongs to the impossible user or group {entry.uid}:{entry.gid}")
    mtime = min(max(entry.mtime, -_TIME), _TIME)
    return Metadata(entry.mode, entry.uid, entry.gid, mtime, _xattrs(entry) if entry.xattrs else {})


def _xattrs(entry: Entry) -> dict[bytes, bytes]:
    """Those that a layer may have."""
    kept: dict[bytes, bytes] = {}
    for name, value in sorted(entry.xattrs.items()):
        if not attributes.kept(name):
            continue
        if len(name) > 255 or len(value) > 65536 or b"\0" in name:
            raise BrokenArchive(f"the extended attribute {shown(name)} of {entry} is larger than possible")
        kept[name] = value
    return kept


def _hard_links(root: Directory) -> list[list[bytes]]:
    """The names of files that the archive has as hard links to each other."""
    groups: dict[int, list[bytes]] = {}
    todo: list[tuple[bytes, Node]] = [(b"", root)]
    while todo:
        path, node = todo.pop()
        if isinstance(node, Directory):
            todo += [(path + b"/" + name if path else name, child) for name, child in node.children.items()]
        elif isinstance(node, File) and node.group:
            groups.setdefault(node.group, []).append(path)
    return sorted(sorted(names) for names in groups.values() if len(names) > 1)
