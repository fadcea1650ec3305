"""Reading tar archives as a stream: every dialect that image builders write, and nothing trusted.

Formats: POSIX.1-2017 *pax* and *ustar* ("pax Interchange Format", "ustar Interchange Format"), the GNU manual's
"Basic Tar Format" and "Storing Sparse Files" (old GNU, PAX 0.0, 0.1, 1.0), star's trailing fields and v7. Where
readers disagree, this one sides with Go's ``archive/tar``, because that is what builds, signs and scans images:
global PAX headers change nothing, entries without content by nature have none whatever their size field says, a lone
zero block is an error, a missing end mark is not.

Names, link targets and attribute values are bytes, as the kernel has them. The standard library's ``tarfile`` needs
six times as long for a header, decodes names, and believes much of what it reads.
"""

from __future__ import annotations

import re
import struct
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from capsa.errors import BrokenArchive
from capsa.image.limits import DEFAULT, Limits

BLOCK = 512
REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"

_ZERO = bytes(BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8s1s100s8s32s32s8s8s155s12s")
_POSIX, _GNU = b"ustar\x0000", b"ustar  \0"
_CONTIGUOUS, _SPARSE, _DUMPDIR, _VOLUME = b"7", b"S", b"D", b"V"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_SOLARIS, _PAX_GLOBAL = b"L", b"K", b"x", b"X", b"g"
_TIME = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?")
_OCTAL = re.compile(rb"[0-7]+")
_DECIMAL = re.compile(rb"[0-9]{1,19}")
_XATTR, _XATTR_LIBARCHIVE = b"SCHILY.xattr.", b"LIBARCHIVE.xattr."
_NANO = 1_000_000_000
_known = {b"%07o\0" % number: number for number in (0, 0o755, 0o644, 0o777, 0o600, 0o700, 0o444, 0o555)}
_known[b"%011o\0" % 0] = _known[bytes(8)] = _known[bytes(12)] = 0


@dataclass(slots=True)
class Entry:
    """One entry, all extension headers applied.

    ``type`` is one of the seven constants of this module, ``mode`` the twelve permission bits, ``mtime`` nanoseconds
    since the epoch, ``stored`` the bytes of content in the archive, ``size`` those of the file. These differ for a
    sparse file only, whose content belongs at ``extents`` (offset and length, ascending; None: not sparse).
    """

    name: bytes
    type: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    stored: int
    link: bytes
    major: int
    minor: int
    extents: list[tuple[int, int]] | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        return shown(self.name)


def shown(name: bytes) -> str:
    """A name as it appears in an error: quoted, bounded, nothing a terminal would obey."""
    text = ascii(name[:200].decode(errors="replace"))
    return text if len(name) <= 200 else text + "…"


class TarReader:
    """Iterate over the entries of an archive; between two of them, `content` or `parts` reads what belongs to the
    current.

    ``pull`` returns the next bytes of the archive, empty at its end. Raises `BrokenArchive`.
    """

    def __init__(self, pull: Callable[[], bytes], limits: Limits = DEFAULT) -> None:
        self._pull = pull
        self._limits = limits
        self._chunk = b""
        self._view = memoryview(b"")
        self._at = 0
        self._before = 0  # bytes of all earlier chunks
        self._left = 0  # of the current entry's content
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry

    def content(self) -> memoryview:
        """All that is left of the current entry's content, at once; valid until the next entry."""
        size, self._left = self._left, 0
        if size <= len(self._chunk) - self._at:
            start = self._at
            self._at += size
            return self._view[start : self._at]
        return memoryview(self._take(size))

    def parts(self, size: int | None = None, /) -> Iterator[memoryview]:
        """The entry's content (its next ``size`` bytes) in pieces as they come; stopping early skips nothing."""
        todo = self._left if size is None else size
        while todo:
            if self._at == len(self._chunk) and not self._fill():
                raise _truncated()
            piece = self._view[self._at : self._at + todo]
            todo -= len(piece)
            self._at += len(piece)
            self._left -= len(piece)
            yield piece

    def drain(self) -> None:
        """Read on to the very end, past the end mark: a diff id covers those bytes, too."""
        self._at = len(self._chunk)
        while self._fill():
            pass

    @property
    def position(self) -> int:
        """How many bytes of the archive lie before what is read next (right after an entry: before its content)."""
        return self._before + self._at

    def _fill(self) -> bool:
        self._before += len(self._chunk)
        self._chunk = self._pull()
        self._view = memoryview(self._chunk)
        self._at = 0
        return bool(self._chunk)

    def _take(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        start = self._at
        if size <= len(self._chunk) - start:
            self._at += size
            return self._chunk[start : self._at]
        pieces = [self._chunk[start:]]
        size -= len(pieces[0])
        while size:
            if not self._fill():
                raise _truncated()
            piece = self._chunk[:size]
            self._at = len(piece)
            size -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _skip(self, size: int) -> None:
        while size > len(self._chunk) - self._at:
            size -= len(self._chunk) - self._at
            if not self._fill():
                raise _truncated()
        self._at += size

    def _header(self) -> bytes | None:
        """The next header block, or None at the end of the archive."""
        if self._left or self._padding:
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
        if self._at == len(self._chunk) and not self._fill():
            return None
        block = self._take(BLOCK)
        if block != _ZERO:
            return block
        if (self._at < len(self._chunk) or self._fill()) and self._take(BLOCK) != _ZERO:
            raise BrokenArchive("malformed tar archive: a single zero block between entries")
        return None

    def _extension(self, size: int, what: str) -> bytes:
        if size > self._limits.header:
            raise BrokenArchive(
                f"malformed tar archive: {what} of {size} bytes, at most {self._limits.header} are accepted"
            )
        data = self._take(size)
        self._padding = -size % BLOCK
        return data

    def _next(self) -> Entry | None:
        records: dict[bytes, bytes] = {}
        sparse: list[bytes] = []
        long_name = long_link = b""
        while True:
            block = self._header()
            if block is None:
                return None
            fields = _HEADER.unpack(block)
            _verify(block, fields[6])
            kind: bytes = fields[7]
            if kind in b"01256\0":  # by far the most
                break
            if kind in (_PAX, _PAX_SOLARIS):
                records, sparse = _records(self._extension(_number(fields[4]), "a PAX header"))
            elif kind == _LONG_NAME:
                long_name = self._extension(_number(fields[4]), "a long name").split(b"\0", 1)[0]
            elif kind == _LONG_LINK:
                long_link = self._extension(_number(fields[4]), "a long link name").split(b"\0", 1)[0]
            elif kind in (_PAX_GLOBAL, _VOLUME):
                self._extension(_number(fields[4]), "a global header")
            else:
                break
        entry = _entry(fields, block)
        if records:
            _apply(entry, records)
        if long_name:
            entry.name = long_name
        if long_link:
            entry.link = long_link
        if not entry.name:
            raise BrokenArchive("malformed tar archive: an entry without a name")
        if b"\0" in entry.name or b"\0" in entry.link:
            raise BrokenArchive(f"malformed tar archive: a zero byte in the name or link of {entry}")
        self._classify(entry, kind)
        self._left = entry.stored
        self._padding = -entry.stored % BLOCK
        if kind == _SPARSE:
            self._old_sparse(entry, block)
        elif records and entry.type == REGULAR:
            self._pax_sparse(entry, records, sparse)
        return entry

    def _classify(self, entry: Entry, kind: bytes) -> None:
        if kind in b"\x000" or kind in (_CONTIGUOUS, _SPARSE):
            directory = kind == b"\0" and entry.name.endswith(b"/")
            entry.type = DIRECTORY if directory else REGULAR
            if directory:
                entry.size = entry.stored = 0
        elif kind in b"123456":
            entry.type = kind
            entry.size = entry.stored = 0
        elif kind == _DUMPDIR:
            entry.type = DIRECTORY
        else:
            raise BrokenArchive(f"malformed tar archive: {entry} is of the unknown type {kind.decode('latin-1')!a}")

    def _old_sparse(self, entry: Entry, block: bytes) -> None:
        """The map of an old GNU sparse file: four extents in the header, 21 in each extension block."""
        extents: list[tuple[int, int]] = []
        table, more = block[386:482], block[482]
        entry.size = _number(block[483:495])
        while True:
            for at in range(0, len(table), 24):
                if table[at] == 0:
                    more = 0
                    break
                extents.append((_number(table[at : at + 12]), _number(table[at + 12 : at + 24])))
            if len(extents) > self._limits.extents:
                raise BrokenArchive(f"the sparse file {entry} has more than {self._limits.extents} extents")
            if not more:
                break
            extension = self._take(BLOCK)
            table, more = extension[:504], extension[504]
        entry.extents = _checked(entry, extents)

    def _pax_sparse(self, entry: Entry, records: dict[bytes, bytes], pairs: list[bytes]) -> None:
        """The map of a PAX sparse file: its own records (0.0), one record (0.1), or the content's head (1.0)."""
        major, minor = records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b"")
        if (major, minor) == (b"1", b"0"):
            numbers = self._sparse_head(entry)
        elif b"GNU.sparse.map" in records:
            numbers = [_decimal(value) for value in records[b"GNU.sparse.map"].split(b",") if value]
        elif pairs:
            numbers = [_decimal(value) for value in pairs]
        elif major:
            raise BrokenArchive(f"the sparse file {entry} is of the unknown version {shown(major + b'.' + minor)}")
        elif b"GNU.sparse.size" in records and b"GNU.sparse.numblocks" in records:
            numbers = []
        else:
            return
        size = records.get(b"GNU.sparse.realsize") or records.get(b"GNU.sparse.size")
        if size is None or len(numbers) % 2 or len(numbers) > 2 * self._limits.extents:
            raise BrokenArchive(f"the map of the sparse file {entry} is malformed")
        entry.size = _decimal(size)
        entry.name = records.get(b"GNU.sparse.name") or entry.name
        entry.extents = _checked(entry, list(zip(numbers[::2], numbers[1::2], strict=True)))

    def _sparse_head(self, entry: Entry) -> list[int]:
        """Decimal numbers, one a line, the first their count in pairs, padded to a block (PAX 1.0)."""
        lines: list[bytes] = []
        rest = b""
        wanted = 1
        while len(lines) < wanted:
            if self._left < BLOCK or len(lines) > 2 * self._limits.extents or len(rest) > BLOCK:
                raise BrokenArchive(f"the map of the sparse file {entry} is malformed")
            self._left -= BLOCK
            entry.stored -= BLOCK
            *complete, rest = (rest + self._take(BLOCK)).split(b"\n")
            lines += complete
            if wanted == 1 and lines:
                wanted = 1 + 2 * _decimal(lines[0])
        return [_decimal(line) for line in lines[1:wanted]]


def looks_like_tar(head: bytes) -> bool:
    """Whether an archive begins so; v7 archives, which nobody can tell from other files, do not."""
    return len(head) >= BLOCK and head[257:262] == _POSIX[:5]


def _truncated() -> BrokenArchive:
    return BrokenArchive("malformed tar archive: it ends in the middle of an entry")


def _verify(block: bytes, stated: bytes) -> None:
    """The header checksum; some old writers summed signed bytes."""
    checksum = _number(stated) - 8 * 32
    if checksum == sum(block) - sum(stated):
        return
    if checksum != sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]):
        raise BrokenArchive("malformed tar archive: a header with a wrong checksum (it is none, or damaged)")


def _number(text: bytes) -> int:
    """A size, id or device number: octal digits, or base 256 when the first bit is set."""
    value = _known.get(text)
    if value is not None:
        return value
    if text[0] & 0x80:
        value = _signed(text)
        if value < 0:
            raise BrokenArchive("malformed tar archive: a negative number in a header")
        return value
    text = text.strip(b" \0").split(b"\0", 1)[0]
    if not text:
        return 0
    if not _OCTAL.fullmatch(text):
        raise BrokenArchive(f"malformed tar archive: {shown(text)} in a header is not an octal number")
    return int(text, 8)


def _signed(text: bytes) -> int:
    """Base 256 in two's complement (GNU manual, "Extensions to Tar Format"); bit 7 is the mark, bit 6 the sign."""
    value = int.from_bytes(text, "big") & ~(1 << (8 * len(text) - 1))
    return value - (1 << (8 * len(text) - 1)) if text[0] & 0x40 else value


def _decimal(text: bytes) -> int:
    if not _DECIMAL.fullmatch(text):
        raise BrokenArchive(f"malformed tar archive: {shown(text)} in a PAX header is not a number")
    return int(text)


def _entry(fields: tuple[bytes, ...], block: bytes) -> Entry:
    """What the header block alone says."""
    name, mode, uid, gid, size, mtime, _, kind, link, magic, _, _, major, minor, prefix, _ = fields
    name = name.split(b"\0", 1)[0]
    posix = magic == _POSIX
    if prefix[0] and (posix or magic[:6] == _POSIX[:6]):
        if block[508:] == b"tar\0":  # star keeps times in the last 24 bytes
            prefix = prefix[:131]
        name = prefix.split(b"\0", 1)[0] + b"/" + name
    device = kind in b"34" and magic[:5] == b"ustar"
    stored = _number(size)
    return Entry(
        name,
        kind,
        _number(mode) & 0o7777,
        _number(uid),
        _number(gid),
        (_signed(mtime) if mtime[0] & 0x80 else _number(mtime)) * _NANO,
        stored,
        stored,
        link.split(b"\0", 1)[0],
        _number(major) if device else 0,
        _number(minor) if device else 0,
    )


def _records(data: bytes) -> tuple[dict[bytes, bytes], list[bytes]]:
    """PAX records (``LENGTH KEY=VALUE\\n``), and the values of those that repeat in sparse format 0.0, in order."""
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 20)
        if space < 0 and not data[at:].strip(b"\0"):
            break  # padding that some writers count in
        end = at + _decimal(data[at:space]) if space > 0 else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if space < at or end <= space or end > len(data) or data[end - 1] != 10 or not equals or not key:
            raise BrokenArchive("malformed tar archive: a PAX record with a wrong length")
        if key == b"GNU.sparse.offset" or key == b"GNU.sparse.numbytes":
            sparse.append(value)
            if (len(sparse) % 2 == 1) != (key == b"GNU.sparse.offset"):
                raise BrokenArchive("malformed tar archive: the map of a sparse file is out of order")
        records[key] = value
        at = end
    return records, sparse


def _apply(entry: Entry, records: dict[bytes, bytes]) -> None:
    """Let PAX records override what the header block says; an empty value withdraws the record."""
    for key, value in records.items():
        if key == b"path":
            entry.name = value or entry.name
        elif key == b"linkpath":
            entry.link = value or entry.link
        elif key == b"mtime" and value:
            entry.mtime = _time(value)
        elif key == b"size" and value:
            entry.size = entry.stored = _decimal(value)
        elif key == b"uid" and value:
            entry.uid = _decimal(value)
        elif key == b"gid" and value:
            entry.gid = _decimal(value)
        elif key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :]] = value
        elif key.startswith(_XATTR_LIBARCHIVE):
            name = unquote_to_bytes(key[len(_XATTR_LIBARCHIVE) :])
            if _XATTR + name not in records:
                try:
                    entry.xattrs[name] = b64decode(value + b"=" * (-len(value) % 4), validate=True)
                except ValueError:
                    raise BrokenArchive(f"malformed tar archive: the attribute {shown(name)} is not base64") from None


def _time(text: bytes) -> int:
    """Decimal seconds with any number of digits after the point, as nanoseconds."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise BrokenArchive(f"malformed tar archive: {shown(text)} in a PAX header is not a time")
    sign, seconds, fraction = match.groups()
    value = int(seconds) * _NANO + int(((fraction or b"") + b"000000000")[:9])
    return -value if sign else value


def _checked(entry: Entry, extents: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Extents must ascend, not overlap, lie within the file and account for all stored bytes."""
    end = total = 0
    for offset, length in extents:
        if offset < end or offset + length > entry.size:
            raise BrokenArchive(f"the map of the sparse file {entry} is malformed")
        end = offset + length
        total += length
    if total != entry.stored:
        raise BrokenArchive(f"the map of the sparse file {entry} does not fit its content")
    return [extent for extent in extents if extent[1]]
