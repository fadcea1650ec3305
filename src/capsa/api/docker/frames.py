"""Frames of a multiplexed stream (Docker Engine API, "Attach to a container", Stream format).

Each is a header of eight bytes (the stream's number, three zeros, the length, big-endian) and so many bytes. A sub-init
frames the output of what has no terminal; an exec's client, however, says itself which of the two it wants to read.
"""

from __future__ import annotations

STDOUT, STDERR = 1, 2
_HEADER = 8


def frame(data: bytes, stream: int = STDOUT) -> bytes:
    """``data`` as one frame."""
    return stream.to_bytes(4, "little") + len(data).to_bytes(4, "big") + data


class Unframe:
    """Takes the headers out of a multiplexed stream, however its pieces are cut."""

    def __init__(self) -> None:
        self._header = b""
        self._left = 0

    def __call__(self, data: bytes) -> bytes:
        """What ``data`` has between its headers."""
        out = bytearray()
        while data:
            if self._left:
                taken, data = data[: self._left], data[self._left :]
                self._left -= len(taken)
                out += taken
                continue
            missing = _HEADER - len(self._header)
            self._header += data[:missing]
            data = data[missing:]
            if len(self._header) == _HEADER:
                self._left = int.from_bytes(self._header[4:], "big")
                self._header = b""
        return bytes(out)
