"""Reading a container's log: the json-file and its rotated predecessors, from the end, from a time, and as it grows.

A follower costs a watch of the log's directory, no thread; all watches share one inotify descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import quote_plus

import msgspec

from capsa.engine import inotify
from capsa.engine.container import Container
from capsa.engine.times import parse as parse_time
from capsa.errors import InvalidArgument

_BLOCK = 1 << 16
_BATCH = 1 << 17
_LONGEST = 1 << 20
_NOTHING = -1  # an offset: this file is not read at all


class Entry(msgspec.Struct):
    """A line of the log."""

    log: str = ""
    stream: str = "stdout"
    time: str = ""


class DetailedEntry(Entry):
    """With the labels, variables and tag that the container's log options ask for."""

    attrs: dict[str, str] = {}


_decoder = msgspec.json.Decoder(Entry)
_detailed_decoder: msgspec.json.Decoder[Entry] = cast(
    "msgspec.json.Decoder[Entry]", msgspec.json.Decoder(DetailedEntry)
)


class Selection(msgspec.Struct, kw_only=True):
    """Which entries: ``tail`` the newest so many (-1: all); ``since``, ``until`` ns since the epoch (0: no bound)."""

    stdout: bool = True
    stderr: bool = True
    tail: int = -1
    since: int = 0
    until: int = 0
    follow: bool = False
    timestamps: bool = False
    details: bool = False


def files(path: Path) -> list[Path]:
    """The log and its predecessors, oldest first."""
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)(\.gz)?")
    older = []
    with contextlib.suppress(FileNotFoundError):
        for entry in os.scandir(path.parent):
            found = pattern.fullmatch(entry.name)
            if found:
                older.append((int(found[1]), found[2] is not None, Path(entry.path)))
    return [file for _number, _packed, file in sorted(older, reverse=True)] + ([path] if path.exists() else [])


def _open(path: Path) -> BinaryIO:
    """A log file for reading; of a compressed one a copy without a name. Raises `FileNotFoundError`."""
    if path.suffix != ".gz":
        return open(path, "rb", buffering=0)
    import gzip
    import shutil
    import tempfile

    copy = tempfile.TemporaryFile(dir=path.parent, buffering=0)  # noqa: SIM115
    try:
        with gzip.open(path) as packed, contextlib.suppress(EOFError, gzip.BadGzipFile):  # what a full disk left
            shutil.copyfileobj(packed, copy)
    except BaseException:
        copy.close()
        raise
    copy.seek(0)
    return cast(BinaryIO, copy)


class _Reader:
    """Whole lines of one open log file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self._rest = b""

    @classmethod
    def of(cls, path: Path) -> _Reader | None:
        """A reader of the file ``path``, None if it is gone."""
        try:
            return cls(_open(path))
        except FileNotFoundError:
            return None

    def lines(self) -> list[bytes]:
        """The next whole lines, at most about `_BATCH` bytes; empty when there are none now."""
        while True:
            data = self.file.read(_BATCH)
            if not data:
                return []
            data = self._rest + data
            end = data.rfind(b"\n") + 1
            if end:
                self._rest = data[end:]
                return data[:end].splitlines()
            self._rest = data if len(data) < _LONGEST else b""

    def close(self) -> None:
        self.file.close()


def _entries(lines: list[bytes], decoder: msgspec.json.Decoder[Entry] = _decoder) -> Iterator[Entry]:
    for line in lines:
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError:  # what a full disk left
            continue


def _tail_offsets(paths: list[Path], wanted: Callable[[Entry], bool], count: int) -> dict[Path, int]:
    """Where to begin to read in each file so as to see the last ``count`` wanted entries."""
    offsets: dict[Path, int] = {}
    left = count
    for path in reversed(paths):
        offsets[path] = 0
        if left <= 0:
            offsets[path] = _NOTHING
            continue
        try:
            with _open(path) as file:
                position, left = _scan_back(file, wanted, left)
        except FileNotFoundError:
            continue
        offsets[path] = position
    return offsets


def _scan_back(file: BinaryIO, wanted: Callable[[Entry], bool], left: int) -> tuple[int, int]:
    end = file.seek(0, os.SEEK_END)
    rest = b""
    while end > 0:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        block = file.read(end - begin) + rest
        lines = block.split(b"\n")
        position = begin + len(block)
        first = lines[0]
        for line in reversed(lines[1:]):
            position -= len(line)
            if line:
                for entry in _entries([line]):
                    left -= wanted(entry)
                if left == 0:
                    return position, 0
            position -= 1
        rest = first
        end = begin
        if len(rest) > _LONGEST:
            rest = b""
    if rest:
        for entry in _entries([rest]):
            left -= wanted(entry)
    return 0, left


async def read(container: Container, selection: Selection) -> AsyncIterator[bytes]:
    """The selected entries in the form of the Docker Engine API: framed, or raw where there is a terminal.

    With ``follow`` on until this run of the container ends, also where its policy starts it again: clients follow anew
    then, from its new start on. A batch a time, the next one is read when the last one was taken.
    """
    form = _Form(container.config.tty, selection)
    paths = files(container.log_path)
    offsets: dict[Path, int] = {}
    if selection.tail >= 0:
        offsets = await asyncio.to_thread(_tail_offsets, paths, form.wanted, selection.tail)
    for path in paths if not selection.follow else paths[:-1]:
        if offsets.get(path) == _NOTHING:
            continue
        reader = await asyncio.to_thread(_Reader.of, path) if path.suffix == ".gz" else _Reader.of(path)
        if reader is None:
            continue
        reader.file.seek(offsets.get(path, 0))
        try:
            for data in _pieces(reader, form):
                yield data
            if form.over:
                return
        finally:
            reader.close()
    if selection.follow:
        last = offsets.get(container.log_path, 0)
        if last == _NOTHING:
            with contextlib.suppress(FileNotFoundError):
                last = container.log_path.stat().st_size
        async for data in _follow(container, form, last):
            yield data


def _pieces(reader: _Reader, form: _Form) -> Iterator[bytes]:
    """What the file has by now and was not read yet, a batch a time; it stops when nothing later is wanted."""
    while lines := reader.lines():
        if data := form.batch(lines):
            yield data
        if form.over:
            return


async def _follow(container: Container, form: _Form, offset: int) -> AsyncIterator[bytes]:
    """What is written from ``offset`` of the newest file on: read on at every change there, over rotations.

    A change of the directory wakes it (`inotify`), as do the end of the run and the ``until`` of the selection.
    """
    news = asyncio.Event()
    watch = inotify.watch(container.bundle, news.set)
    container.on_end.add(news.set)
    run = container.state.started_at
    reader: _Reader | None = None
    timer: asyncio.TimerHandle | None = None
    if form.selection.until:

        def end() -> None:
            form.end()
            news.set()

        delay = (form.selection.until - time.time_ns()) / 1e9
        timer = asyncio.get_running_loop().call_later(max(0.0, delay), end)
    try:
        while True:
            news.clear()
            going = container.running and container.state.started_at == run
            if reader is None:
                reader = _Reader.of(container.log_path)
                if reader is not None:
                    reader.file.seek(max(0, offset))
                    offset = 0
            while reader is not None:
                for data in _pieces(reader, form):
                    yield data
                if form.over:
                    return
                if os.fstat(reader.file.fileno()).st_size < reader.file.tell():  # emptied, since only one file is kept
                    reader.file.seek(0)
                    continue
                successor = _successor(container.log_path, reader.file)
                if successor is None:
                    break
                for data in _pieces(reader, form):  # what was written between the last look and the rotation
                    yield data
                reader.close()
                reader = successor
            if form.over or not going:
                return
            await news.wait()
    finally:
        if timer is not None:
            timer.cancel()
        container.on_end.discard(news.set)
        watch.close()
        if reader is not None:
            reader.close()


def _successor(path: Path, file: BinaryIO) -> _Reader | None:
    """The file that came after ``file`` when that was rotated away; None while it is the newest."""
    ours = os.fstat(file.fileno())
    newer: Path | None = None
    try:
        for candidate in reversed(files(path)):
            status = candidate.stat()
            if os.path.samestat(status, ours):
                break
            if candidate.suffix == ".gz" and status.st_mtime_ns <= ours.st_mtime_ns:
                break  # ours has been compressed meanwhile, and kept its time
            newer = candidate
    except FileNotFoundError:
        return None
    return _Reader.of(newer) if newer is not None else None


class _Form:
    """Selects entries and puts them into their form on the wire."""

    def __init__(self, raw: bool, selection: Selection) -> None:
        self._raw = raw
        self.selection = selection
        self._plain = not selection.since and not selection.until
        self._decoder: msgspec.json.Decoder[Entry] = _detailed_decoder if selection.details else _decoder
        self.over = False

    def end(self) -> None:
        """Nothing later is wanted."""
        self.over = True

    def wanted(self, entry: Entry) -> bool:
        """Whether this entry is selected."""
        if not (self.selection.stdout if entry.stream == "stdout" else self.selection.stderr):
            return False
        if self._plain:
            return True
        at = _nanoseconds(entry.time)
        if self.selection.until and at > self.selection.until:
            self.over = True
            return False
        return at >= self.selection.since

    def batch(self, lines: list[bytes]) -> bytes:
        """The wanted ones among ``lines``."""
        out = bytearray()
        for entry in _entries(lines, self._decoder):
            if not self.wanted(entry):
                if self.over:
                    break
                continue
            text = entry.log.encode(errors="surrogateescape")
            if isinstance(entry, DetailedEntry):
                text = _details(entry.attrs) + text
            if self.selection.timestamps:
                text = entry.time.encode() + b" " + text
            if not self._raw:
                out += (b"\x01" if entry.stream == "stdout" else b"\x02") + b"\0\0\0" + len(text).to_bytes(4, "big")
            out += text
        return bytes(out)


def _details(attributes: dict[str, str]) -> bytes:
    """As Docker writes them before a line."""
    pairs = (f"{quote_plus(name)}={quote_plus(value)}" for name, value in sorted(attributes.items()))
    return ",".join(pairs).encode() + b" "


def _nanoseconds(text: str) -> int:
    try:
        return parse_time(text)
    except InvalidArgument:
        return 0
