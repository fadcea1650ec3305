"""Writing tar archives: ustar headers, with PAX records for what these cannot hold (POSIX.1-2017, *pax*)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from capsa.image.tar import BLOCK

_NANO = 1_000_000_000
_ZERO = bytes(BLOCK)


class Out(Protocol):
    """Where an archive goes; all of ``data`` is taken."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(slots=True, kw_only=True)
class Header:
    """What one entry says, in the units of `capsa.image.tar.Entry`; ``extents`` make it a sparse file (PAX 1.0)."""

    name: bytes
    type: bytes
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    link: bytes = b""
    major: int = 0
    minor: int = 0
    extents: list[tuple[int, int]] | None = None
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)


class TarWriter:
    """Writes entries to ``out``: `begin`, as many bytes as that asks for through `write`, then `end`; finally `close`.

    The same entries give the same bytes. ``total`` counts them.
    """

    def __init__(self, out: Out) -> None:
        self._out = out
        self._todo = 0
        self._padding = 0
        self.total = 0

    def begin(self, header: Header) -> int:
        """Write a header; returns how many bytes of content belong after it."""
        records: dict[bytes, bytes] = {}
        stored, head = header.size, b""
        name = header.name
        if header.extents is not None:
            head = _map(header.extents)
            stored = len(head) + sum(length for _, length in header.extents)
            records[b"GNU.sparse.major"], records[b"GNU.sparse.minor"] = b"1", b"0"
            records[b"GNU.sparse.name"] = name
            records[b"GNU.sparse.realsize"] = b"%d" % header.size
            name = b"GNUSparseFile.0/" + name[-80:]
        if len(name) > 100:
            records[b"path"] = name
        if len(header.link) > 100:
            records[b"linkpath"] = header.link
        seconds, fraction = divmod(header.mtime, _NANO)
        if fraction or not 0 <= seconds < 1 << 33:
            records[b"mtime"] = _seconds(header.mtime)
        for key, value, bound in (
            (b"size", stored, 1 << 33),
            (b"uid", header.uid, 1 << 21),
            (b"gid", header.gid, 1 << 21),
        ):
            if value >= bound:
                records[key] = b"%d" % value
        for key, content in header.xattrs.items():
            records[b"SCHILY.xattr." + key] = content
        if records:
            self._pax(records)
        self._block(header, name, stored)
        self._todo = stored
        self._padding = -stored % BLOCK
        if head:
            self.write(head)
        return self._todo

    def write(self, data: bytes) -> None:
        """Content of the current entry; what exceeds its size is dropped."""
        if len(data) > self._todo:
            data = data[: self._todo]
        self._todo -= len(data)
        self._put(data)

    def fill(self, count: int) -> None:
        """``count`` zero bytes of content, for a file that has shrunk meanwhile."""
        while count > 0:
            self.write(bytes(min(count, 1 << 20)))
            count -= 1 << 20

    def end(self) -> None:
        """Finish the current entry; missing content becomes zeros, as GNU tar does it."""
        self.fill(self._todo)
        self._put(bytes(self._padding))
        self._padding = 0

    def close(self) -> None:
        """Write the end mark; ``out`` stays open."""
        self._put(2 * _ZERO)

    def _put(self, data: bytes) -> None:
        if data:
            self.total += len(data)
            self._out.write(data)

    def _pax(self, records: dict[bytes, bytes]) -> None:
        data = b"".join(_record(key, value) for key, value in records.items())
        if any(not _utf8(value) for key, value in records.items() if key in _TEXT):
            data = _record(b"hdrcharset", b"BINARY") + data
        self._block(Header(name=b"PaxHeaders/x", type=b"x", mode=0o644), b"PaxHeaders/x", len(data))
        self._put(data + bytes(-len(data) % BLOCK))

    def _block(self, header: Header, name: bytes, size: int) -> None:
        fields = (
            name[:100].ljust(100, b"\0"),
            _octal(header.mode, 7),
            _octal(header.uid, 7),
            _octal(header.gid, 7),
            _octal(size, 11),
            _octal(header.mtime // _NANO, 11),
            b" " * 8,
            header.type,
            header.link[:100].ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            _octal(header.major, 7),
            _octal(header.minor, 7),
            bytes(167),
        )
        block = b"".join(fields)
        self._put(block[:148] + b"%06o\0 " % sum(block) + block[156:])


_TEXT = (b"path", b"linkpath", b"GNU.sparse.name")


def directory(name: bytes) -> bytes:
    """A directory's name as archives have it."""
    return name + b"/"


def _octal(value: int, digits: int) -> bytes:
    """A number field; what does not fit is in a PAX record and 0 here."""
    return b"%0*o\0" % (digits, value if 0 <= value < 1 << (3 * digits) else 0)


def _record(key: bytes, value: bytes) -> bytes:
    """``LENGTH KEY=VALUE\\n``, where the length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _seconds(time: int) -> bytes:
    sign = b"-" if time < 0 else b""
    seconds, fraction = divmod(abs(time), _NANO)
    return sign + (b"%d.%09d" % (seconds, fraction)).rstrip(b"0").rstrip(b".")


def _map(extents: list[tuple[int, int]]) -> bytes:
    """The map at the head of a sparse file's content (GNU manual, "PAX Format, Version 1.0")."""
    text = b"%d\n" % len(extents) + b"".join(b"%d\n%d\n" % extent for extent in extents)
    return text + bytes(-len(text) % BLOCK)


def _utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
