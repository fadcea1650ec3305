"""Recipes: how to write an uncompressed layer again, byte for byte, from its unpacked files.

A layer that came as a plain tar (``docker load``, ``import``, ``commit``) would be on disk twice, as a blob and
unpacked. Its blob is dropped once a recipe is there: the tar's headers and padding as they were, and for each file
the name under which the unpacked layer has that content. A recipe is made by comparing every byte it leaves out,
and what is written from it is checked against the layer's digest again whenever it is read.

Layers that came compressed keep their blob, since no compressor is sure to produce the same bytes again.

``recipes/HEX`` is a zstd stream of records: a kind (0 bytes, 1 content of a file), a length in bytes, and the bytes, or
the length of a name and the name.
"""

from __future__ import annotations

import mmap
import os
import secrets
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

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

    def make(self, diff_id: str, blob: Path, tree: Path, go_on: Callable[[], bool] = lambda: True) -> None:
        """Write the recipe of the plain layer ``blob``, which is unpacked as ``tree``; synced to disk.

        Raises `Interrupted` when ``go_on()`` is false, `OSError`, `BrokenArchive`.
        """
        work = self._tmp / f"blob-{secrets.token_hex(8)}"
        root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with blob.open("rb") as source, work.open("xb") as target:
                with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    target.write(MAGIC)
                    with zstandard.ZstdCompressor(level=LEVEL).stream_writer(target, closefd=False) as packed:
                        _write(data, root, packed.write, go_on)
                target.flush()
                os.fsync(target.fileno())
            work.replace(self.path(diff_id))
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


def _write(data: mmap.mmap, root: int, write: Callable[[bytes], object], go_on: Callable[[], bool]) -> None:
    done = pulled = 0

    def pull() -> bytes:
        nonlocal pulled
        if not go_on():
            raise Interrupted
        chunk = data[pulled : pulled + CHUNK]
        pulled += len(chunk)
        return chunk

    def verbatim(end: int) -> None:
        nonlocal done
        while done < end:
            part = data[done : min(end, done + CHUNK)]
            write(_RECORD.pack(_BYTES, len(part)) + part)
            done += len(part)

    reader = tar.TarReader(pull)
    for entry in reader:
        if entry.type != tar.REGULAR or entry.size < SMALL or entry.extents is not None:
            continue
        start = reader.position
        if _is_there(root, entry.name, data, start, entry.size):
            verbatim(start)
            write(_RECORD.pack(_CONTENT, entry.size) + _NAME.pack(len(entry.name)) + entry.name)
            done = start + entry.size
    verbatim(len(data))


def _is_there(root: int, name: bytes, data: mmap.mmap, start: int, size: int) -> bool:
    """Whether the unpacked file ``name`` has exactly that content (a later entry may have replaced it)."""
    if len(name) > 4096:
        return False
    try:
        fd = _open(root, name)
    except OSError:
        return False
    with open(fd, "rb", buffering=0) as file:
        if os.fstat(fd).st_size != size:
            return False
        end = start + size
        while start < end:
            part = file.read(min(CHUNK, end - start))
            if not part or part != data[start : start + len(part)]:
                return False
            start += len(part)
    return True


def _read(packed: zstandard.ZstdDecompressionReader, root: int) -> Iterator[bytes]:
    while head := packed.read(_RECORD.size):
        kind, length = _RECORD.unpack(head)
        if kind == _BYTES:
            yield packed.read(length)
            continue
        (name_length,) = _NAME.unpack(packed.read(_NAME.size))
        fd = _open(root, packed.read(name_length))
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
