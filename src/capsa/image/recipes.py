"""Recipes: how to write an uncompressed layer again, byte for byte, from its unpacked files.

A layer that came as a plain tar (``docker load``, ``import``, ``commit``) would be on disk twice, as a blob and
unpacked. Its recipe takes the blob's place: the tar's headers and padding as they were, and for each file the name
under which the unpacked layer has that content. Where a layer is unpacked while it arrives, the recipe is written along
with it and there never is a blob (`Recording`); else it is made afterwards, by comparing every byte it leaves out
(`Recipes.make`). What is written from a recipe is checked against the layer's digest again whenever it is read.

Layers that came compressed keep their blob, since no compressor is sure to produce the same bytes again.

``recipes/HEX`` is a zstd stream of records: a kind (0 bytes, 1 content of a file), a length in bytes, and the bytes, or
the length of a name and the name.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Self

import zstandard

from capsa.errors import CapsaError, reason
from capsa.image import tar
from capsa.image.digest import check
from capsa.sys.path import open_in_root

CHUNK = 1 << 20
SMALL = 512
LEVEL = 3
MAGIC = b"capsa-recipe-1\n"
_RECORD = struct.Struct("<BQ")
_NAME = struct.Struct("<H")
_BYTES, _CONTENT = 0, 1
_LONGEST = 4095  # bytes of a name that the kernel opens a file by


class Interrupted(Exception):
    """The making of a recipe was given up."""


class Recipes:
    """The recipes below ``root``; all methods block, and any thread may call them."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "recipes"
        self._tmp = root / "tmp"
        for each in (self._folder, self._tmp):
            each.mkdir(parents=True, exist_ok=True)

    def path(self, diff_id: str) -> Path:
        """Where the recipe of a layer is or would be."""
        return self._folder / check(diff_id, "a layer").removeprefix("sha256:")

    def has(self, diff_id: str) -> bool:
        """Whether there is one."""
        return self.path(diff_id).exists()

    def __iter__(self) -> Iterator[str]:
        """The diff ids of all recipes."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                yield "sha256:" + entry.name

    def remove(self, diff_id: str) -> int:
        """Remove a recipe; returns the bytes freed."""
        path = self.path(diff_id)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def adopt(self, diff_id: str, recipe: Path, *, sync: bool) -> None:
        """Take the finished ``recipe``, of the same file system, as that of a layer, unless there is one.

        ``sync``: not before it has reached the disk, as nothing else tells that it may not have. Raises `OSError`.
        """
        if self.has(diff_id):
            return
        if sync:
            with recipe.open("rb") as file:
                os.fsync(file.fileno())
        recipe.replace(self.path(diff_id))

    def make(self, diff_id: str, blob: Path, tree: Path, go_on: Callable[[], bool] = lambda: True) -> None:
        """Write the recipe of the plain layer ``blob``, which is unpacked as ``tree``; synced to disk.

        Raises `Interrupted` when ``go_on()`` is false, `OSError`, `BrokenArchive`.
        """
        work = self._tmp / f"blob-{secrets.token_hex(8)}"
        root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with (
                Recording(work) as recording,
                blob.open("rb") as source,
                mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data,
            ):
                _compare(data, root, recording, go_on)
                recording.finish()
            self.adopt(diff_id, work, sync=True)
        finally:
            os.close(root)
            work.unlink(missing_ok=True)

    def read(self, diff_id: str, tree: Path) -> Iterator[bytes]:
        """The layer's tar, piece by piece; the caller checks its digest. Raises `CapsaError`."""
        root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self.path(diff_id).open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise CapsaError(f"the recipe {file.name} was damaged: remove its image and get it again")
                yield from _read(zstandard.ZstdDecompressor().stream_reader(file), root)
        except (OSError, zstandard.ZstdError, struct.error) as error:
            said = reason(error) if isinstance(error, OSError) else str(error)
            raise CapsaError(f"the layer {diff_id} cannot be written again from {tree}: {said}") from error
        finally:
            os.close(root)


class Recording:
    """The recipe that is being written to ``path`` while the layer's archive is read.

    Whoever reads the archive hands over each piece (`passed`) before looking at it, and says of which bytes a file will
    have them (`content`). The rest is kept as it is. A context manager: without `finish` the file is no recipe.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("xb")
        self._file.write(MAGIC)
        self._packed = zstandard.ZstdCompressor(level=LEVEL).stream_writer(self._file, closefd=False)
        self._pending = memoryview(b"")  # what is not kept yet, as it may be a file's content
        self._start = 0  # where in the archive that lies
        self._skipped = 0  # how many of the next bytes a file has

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def passed(self, piece: bytes) -> None:
        """The archive's next bytes."""
        self._keep(self._pending)
        self._start += len(self._pending)
        self._pending = memoryview(piece)
        self._skip()

    def content(self, entry: tar.Entry, position: int) -> bool:
        """The content of ``entry`` begins at ``position``, within the last piece, and the unpacked file will have it.

        Returns whether it is left out (contents that are have numbers, from 0 on); else it would be no shorter.
        """
        if entry.type != tar.REGULAR or entry.size < SMALL or entry.extents is not None or len(entry.name) > _LONGEST:
            return False
        before = position - self._start
        self._keep(self._pending[:before])
        self._start = position
        self._pending = self._pending[before:]
        self._packed.write(_content(entry.size, entry.name))
        self._skipped = entry.size
        self._skip()
        return True

    def finish(self, lost: Mapping[int, str] | None = None, directory: int = -1) -> None:
        """All was read. ``lost``: contents, by number, that will not be there after all under the name they had, with
        the names of the files in the open ``directory`` that have them. Raises `OSError`.
        """
        self._keep(self._pending)
        self._pending = memoryview(b"")
        self._packed.flush(zstandard.FLUSH_FRAME)
        self._file.close()
        if lost:
            self._restore(lost, directory)

    def _skip(self) -> None:
        skipped = min(self._skipped, len(self._pending))
        self._pending = self._pending[skipped:]
        self._start += skipped
        self._skipped -= skipped

    def _keep(self, data: memoryview) -> None:
        for at in range(0, len(data), CHUNK):
            part = data[at : at + CHUNK]
            self._packed.write(_RECORD.pack(_BYTES, len(part)))
            self._packed.write(part)

    def _restore(self, lost: Mapping[int, str], directory: int) -> None:
        """Write the recipe anew, with the contents that are ``lost``."""
        old = self._path.rename(self._path.with_name(f"{self._path.name}.lossy"))
        with Recording(self._path) as new, old.open("rb") as file:
            file.seek(len(MAGIC))
            number = 0
            for length, data, name in _records(zstandard.ZstdDecompressor().stream_reader(file)):
                if not name:
                    new._keep(memoryview(data))
                elif number not in lost:
                    new._packed.write(_content(length, name))
                else:
                    fd = os.open(lost[number], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
                    for part in _file_parts(fd, length):
                        new._keep(memoryview(part))
                number += bool(name)
            new.finish()
        old.unlink()


def _compare(data: mmap.mmap, root: int, recording: Recording, go_on: Callable[[], bool]) -> None:
    """Record what of an archive is not in the unpacked layer ``root``."""
    pulled = 0

    def pull() -> bytes:
        nonlocal pulled
        if not go_on():
            raise Interrupted
        chunk = data[pulled : pulled + CHUNK]
        pulled += len(chunk)
        recording.passed(chunk)
        return chunk

    reader = tar.TarReader(pull)
    for entry in reader:
        if _is_there(root, entry, data, reader.position):
            recording.content(entry, reader.position)
    reader.drain()


def _is_there(root: int, entry: tar.Entry, data: mmap.mmap, start: int) -> bool:
    """Whether the unpacked file of that name has exactly that content (a later entry may have replaced it)."""
    if entry.type != tar.REGULAR or len(entry.name) > _LONGEST:
        return False
    try:
        fd = _open(root, entry.name)
    except OSError:
        return False
    with open(fd, "rb", buffering=0) as file:
        if os.fstat(fd).st_size != entry.size:
            return False
        end = start + entry.size
        while start < end:
            part = file.read(min(CHUNK, end - start))
            if not part or part != data[start : start + len(part)]:
                return False
            start += len(part)
    return True


def _content(length: int, name: bytes) -> bytes:
    return _RECORD.pack(_CONTENT, length) + _NAME.pack(len(name)) + name


def _records(packed: zstandard.ZstdDecompressionReader) -> Iterator[tuple[int, bytes, bytes]]:
    """A length in bytes, and the bytes or the name of the file that has them."""
    while head := packed.read(_RECORD.size):
        kind, length = _RECORD.unpack(head)
        if kind == _BYTES:
            yield length, packed.read(length), b""
        else:
            (name_length,) = _NAME.unpack(packed.read(_NAME.size))
            yield length, b"", packed.read(name_length)


def _read(packed: zstandard.ZstdDecompressionReader, root: int) -> Iterator[bytes]:
    for length, data, name in _records(packed):
        if name:
            yield from _file_parts(_open(root, name), length)
        else:
            yield data


def _file_parts(fd: int, length: int) -> Iterator[bytes]:
    """The content of an open file, which is closed."""
    with open(fd, "rb", buffering=0) as file:
        while length and (part := file.read(min(CHUNK, length))):
            length -= len(part)
            yield part
    if length:
        raise CapsaError("a file of an unpacked layer was cut off: remove its image and get it again")


def _open(root: int, name: bytes) -> int:
    """Open a regular file inside the layer; no link is followed on the way."""
    path = os.fsdecode(name).strip("/")
    return open_in_root(root, path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, links=False)
