"""Writing tar archives of regular files with short names (POSIX.1, "ustar Interchange Format"): what wraps images."""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)


def header(name: str, size: int, *, directory: bool = False) -> bytes:
    """The header of a file or directory of root, at the epoch; sizes beyond 8 GiB are in GNU's binary form."""
    encoded = name.encode()
    if len(encoded) > 100:
        raise ValueError(f"the name {name!r} does not fit into a header")
    block = (
        encoded.ljust(100, b"\0")
        + (b"0000755\0" if directory else b"0000644\0")
        + b"0000000\0" * 2
        + (b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big"))
        + b"00000000000\0"
        + b" " * 8
        + (b"5" if directory else b"0")
        + bytes(100)
        + b"ustar\x0000"
    ).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padding(size: int) -> bytes:
    """What follows ``size`` bytes of content."""
    return bytes(-size % BLOCK)


def file(name: str, data: bytes) -> bytes:
    """A whole small file."""
    return header(name, len(data)) + data + padding(len(data))
