"""Compressed layers: recognised by their first bytes, decompressed in pieces of bounded size.

gzip (RFC 1952, any number of members) through isal, zstd (RFC 8878, any number of frames, zstd:chunked included)
through zstandard, bzip2 and xz through the standard library.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from capsa.errors import BrokenArchive
from capsa.image.limits import DEFAULT, MIB, Limits

PIECE = MIB
_READ = 256 << 10
_ZSTD_SLICE = 2 << 10  # 4 bytes of a frame can make 128 KiB: this bounds one call's output to 64 MiB
_XZ_MEMORY = 256 * MIB
_MAGIC = (
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
)

Read = Callable[[int], bytes]


def kind(head: bytes) -> str:
    """Which compression a blob with these first (six or more) bytes has: ``gzip zstd bzip2 xz``, or ``""`` for none."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    # zstd's skippable frames, with which some tools begin
    return "zstd" if head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50 else ""


class _Counted:
    """The blob as a file that counts, can be looked at ahead, and tells how far it was read."""

    def __init__(self, file: BinaryIO, progress: Callable[[int], None] | None) -> None:
        self._file = file
        self._progress = progress
        self.head = file.read(16)
        while self.head and len(self.head) < 16 and (more := file.read(16 - len(self.head))):
            self.head += more  # a pipe or a connection may have had less
        self._ahead = self.head
        self.total = 0

    def read(self, size: int = -1, /) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            data = self._file.read(size)
        self.total += len(data)
        if self._progress and data:
            self._progress(self.total)
        return data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def pieces(
    file: BinaryIO, *, progress: Callable[[int], None] | None = None, limits: Limits = DEFAULT
) -> Iterator[bytes]:
    """The uncompressed content of ``file`` from its present position, in pieces of at most 64 MiB, mostly `PIECE`.

    ``progress`` is called with the number of bytes read so far. Raises `BrokenArchive` for content that is damaged,
    cut off, or larger than ``limits`` allow.
    """
    source = _Counted(file, progress)
    name = kind(source.head)
    total = 0
    for piece in _DECOMPRESSORS[name](source.read):
        total += len(piece)
        if total > limits.size:
            raise BrokenArchive(f"the layer holds more than {limits.size} bytes")
        if total > limits.ratio_free and total > limits.ratio * source.total:
            raise BrokenArchive(f"the layer is a compression bomb: more than {limits.ratio} times its compressed size")
        yield piece


def _plain(read: Read) -> Iterator[bytes]:
    while piece := read(PIECE):
        yield piece


def _gzip(read: Read) -> Iterator[bytes]:
    from isal import isal_zlib

    data = read(_READ)
    while data:
        member = isal_zlib.decompressobj(wbits=16 + isal_zlib.MAX_WBITS)
        try:
            while not member.eof:
                piece = member.decompress(data, PIECE)
                data = member.unconsumed_tail
                if piece:
                    yield piece
                if not data and not member.eof and not piece:
                    data = read(_READ)
                    if not data:
                        raise _cut("gzip")
        except isal_zlib.error as error:  # type: ignore[misc]
            raise _damaged("gzip") from error
        data = member.unused_data or read(_READ)
        while data and not data.strip(b"\0"):  # tape blocks are filled up with zeros
            data = read(_READ)


def _zstd(read: Read) -> Iterator[bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=128 * MIB)
    data = read(_READ)
    while data:
        frame = decompressor.decompressobj(write_size=PIECE)
        try:
            while not frame.eof:
                view = memoryview(data)
                for at in range(0, len(data), _ZSTD_SLICE):
                    piece = frame.decompress(view[at : at + _ZSTD_SLICE])
                    if piece:
                        yield piece
                    if frame.eof:
                        data = frame.unused_data + data[at + _ZSTD_SLICE :]
                        break
                else:
                    data = read(_READ)
                    if not data:
                        raise _cut("zstd")
        except zstandard.ZstdError as error:
            raise _damaged("zstd") from error
        data = data or read(_READ)


def _bzip2(read: Read) -> Iterator[bytes]:
    return _standard(read, "bzip2", bz2.BZ2Decompressor)


def _xz(read: Read) -> Iterator[bytes]:
    return _standard(read, "xz", lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY))


def _standard(
    read: Read, name: str, make: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]
) -> Iterator[bytes]:
    data = read(_READ)
    while data:
        stream = make()
        try:
            while not stream.eof:
                piece = stream.decompress(data, PIECE)
                data = b""
                if piece:
                    yield piece
                if stream.needs_input and not stream.eof:
                    data = read(_READ)
                    if not data:
                        raise _cut(name)
        except (OSError, EOFError, lzma.LZMAError) as error:
            raise _damaged(name) from error
        data = stream.unused_data or read(_READ)
        while data and not data.strip(b"\0"):
            data = read(_READ)


def _cut(name: str) -> BrokenArchive:
    return BrokenArchive(f"the archive's {name} data is cut off")


def _damaged(name: str) -> BrokenArchive:
    return BrokenArchive(f"the archive's {name} data is damaged")


_DECOMPRESSORS: dict[str, Callable[[Read], Iterator[bytes]]] = {
    "": _plain,
    "gzip": _gzip,
    "zstd": _zstd,
    "bzip2": _bzip2,
    "xz": _xz,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What a blob is called, as it is and uncompressed; ``compression`` as `kind` names it."""

    digest: str
    size: int
    diff_id: str
    compression: str


def identify(file: BinaryIO) -> Identity:
    """Digest, size and diff id of a layer blob, whatever its compression (for images made from a plain root file
    system).

    Raises `BrokenArchive`.
    """
    digest = hashlib.sha256()
    size = 0
    head = b""

    class Tee:
        def read(self, count: int = -1, /) -> bytes:
            nonlocal size, head
            data = file.read(count)
            digest.update(data)
            size += len(data)
            head = head or data[:16]
            return data

    diff = hashlib.sha256()
    for piece in pieces(Tee()):  # type: ignore[arg-type]
        diff.update(piece)
    return Identity(f"sha256:{digest.hexdigest()}", size, f"sha256:{diff.hexdigest()}", kind(head))
