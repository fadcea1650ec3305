"""A container's log in Docker's json-file form: ``{"log":"…\\n","stream":"stdout","time":"…"}``, a line each.

Written by the sub-init, read by the engine. A line of output longer than `LONGEST` bytes is cut into several
entries of which only the last ends in a newline, as Docker does.
"""

from __future__ import annotations

import contextlib
import os
import time

import msgspec

from capsa.platform import logpack
from capsa.platform.protocol import Log

LONGEST = 16_384


class Entry(msgspec.Struct):
    """One entry; ``time`` is RFC 3339 in UTC with nanoseconds."""

    log: str
    stream: str
    time: str
    attrs: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def timestamp(nanoseconds: int) -> str:
    """Nanoseconds since the epoch as RFC 3339 in UTC, nine decimals."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


class LogWriter:
    """Appends the output of ``stdout`` and ``stderr`` to a log file, and rotates it."""

    def __init__(self, log: Log, rest: dict[str, bytes] | None = None) -> None:
        """``rest``: unfinished lines by stream, from the writer before. Raises OSError."""
        self.path = log.path
        self._max_size = log.max_size
        self._max_files = max(1, log.max_files)
        self._compress = log.compress
        self._attributes: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
        if log.attributes:
            self._attributes = msgspec.Raw(msgspec.json.encode(log.attributes))
        self.rest: dict[str, bytes] = dict(rest or {})
        self._encoder = msgspec.json.Encoder()
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        self._size = os.fstat(self._fd).st_size

    def write(self, stream: str, data: bytes) -> None:
        """Take ``data`` of ``stream``; what is not a whole line waits for the rest.

        Raises OSError, with no entry half written.
        """
        rest = self.rest.pop(stream, b"")
        if rest:
            data = rest + data
        end = data.rfind(b"\n") + 1
        if len(data) - end >= LONGEST:
            end += (len(data) - end) // LONGEST * LONGEST
            end = _whole_characters(data, end)
        if end < len(data):
            self.rest[stream] = data[end:]
        if end:
            self._append(stream, data[:end])

    def flush(self) -> None:
        """Write out unfinished lines; the output has ended. Raises OSError."""
        for stream, rest in list(self.rest.items()):
            del self.rest[stream]
            self._append(stream, rest)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _append(self, stream: str, data: bytes) -> None:
        at = timestamp(time.time_ns())
        attributes = self._attributes
        entries = []
        for line in _lines(data):
            start = 0
            while len(line) - start > LONGEST:
                end = _whole_characters(line, start + LONGEST)
                entries.append(Entry(line[start:end].decode(errors="replace"), stream, at, attributes))
                start = end
            entries.append(Entry(line[start:].decode(errors="replace"), stream, at, attributes))
        encoded = self._encoder.encode_lines(entries)
        while self._max_size and self._size + len(encoded) > self._max_size:
            fitting = encoded.rfind(b"\n", 0, max(0, self._max_size - self._size)) + 1
            if not fitting and not self._size:  # one entry that is longer than a file may be
                fitting = encoded.find(b"\n") + 1
            if fitting:
                self._put(encoded[:fitting])
                encoded = encoded[fitting:]
            if not encoded:
                return
            self._rotate()
        self._put(encoded)

    def _put(self, encoded: bytes) -> None:
        view = memoryview(encoded)
        done = 0
        try:
            while done < len(view):
                done += os.write(self._fd, view[done:])
        except OSError:
            if done:
                os.ftruncate(self._fd, self._size)  # no half entry: a reader would choke on it
            raise
        self._size += done

    def _rotate(self) -> None:
        if self._max_files == 1:
            os.ftruncate(self._fd, 0)
            self._size = 0
            return
        with logpack.renaming(self.path):
            for number in range(self._max_files - 2, 0, -1):
                self._age(number)
            self._forget(1)  # only if two are kept is it still there
            os.rename(self.path, f"{self.path}.1")
        old = self._fd
        self._open()
        os.close(old)
        if self._compress:
            with contextlib.suppress(OSError):  # then it stays as it is
                logpack.compress_apart(self.path, self._max_files)

    def _age(self, number: int) -> None:
        """Give a predecessor, compressed or not, the next number."""
        self._forget(number + 1)
        for suffix in ("", logpack.SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{self.path}.{number}{suffix}", f"{self.path}.{number + 1}{suffix}")

    def _forget(self, number: int) -> None:
        for suffix in ("", logpack.SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}.{number}{suffix}")


def _lines(data: bytes) -> list[bytes]:
    """Split after each newline only; ``bytes.splitlines`` would also split at a carriage return."""
    parts = data.split(b"\n")
    last = parts.pop()
    lines = [part + b"\n" for part in parts]
    if last:
        lines.append(last)
    return lines


def _whole_characters(data: bytes, end: int) -> int:
    """The largest cut at or shortly before ``end`` that does not split a UTF-8 character."""
    for start in range(end - 1, max(end - 4, 0), -1):
        byte = data[start]
        if byte & 0xC0 != 0x80:  # where the last character begins
            length = 1 if byte < 0xC0 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return start if start + length > end else end
    return end
