"""Makes the snapshots from which our programs go on.

To start Python and to load what a call needs takes half of its time, and it is always the same. So at set-up that is
done once, up to a stop (`identity.stop`), and the memory of that process is written down, with what a called function
has to preserve of the processor's registers. The launcher (``launcher.c``) maps the file where the memory was, private
and thus read and copied page by page as it is needed, and returns from the system call in which the process had
stopped. The file is ::

    struct header            its mark, the processor, registers
    struct file, …           all files that the process has read: with another one of them the snapshot does not fit
    struct region, …         memory: address, length, protection, place in this file
    paths                    of the files
    contents                 from `HEAD` on

Nothing in the memory may be of the kernel: the process does without its vDSO, and its addresses were drawn as usual,
but far from where the launcher is, and from where the kernel puts things for a program that it does not randomize.
Registers are those of x86-64; on other machines there is no snapshot, and Python starts each time.

Where the kernel maps a page of a file it maps 16, which then count as the process's memory whether it uses them or not.
So pages that usual calls use are regions of their own, and first in the file; others are there in case of need.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import msgspec

from capsa.errors import CapsaError, Unsupported
from capsa.sys.ptrace import Area, Traced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
    from typing import IO

MARK = b"capsa001"
"""What a snapshot begins with; another one with each change of its form."""
HEAD = 1 << 18
PAGE = resource.getpagesize()
_HEADER = struct.Struct("=8s3Q8I8QQQ")
_FILE = struct.Struct("=3Q")
_REGION = struct.Struct("=4Q")
_KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15", "rsp", "rip")
_AT_NULL, _AT_IGNORE, _AT_SYSINFO_EHDR = 0, 1, 33
# Where the kernel puts the stack and the vDSO of a program that is not randomized; and where the launcher is, below all
# that Python has: its heap ends there for the kernel, so that of Python cannot grow, and malloc maps memory instead.
_KERNELS = range(0x7FFF_0000_0000, 1 << 47)
_LAUNCHERS = range(0x20_0000, 0x40_0000)
_ATTEMPTS = 20
_STACK = 8 << 20  # bytes that the stack can grow by
_GAP = 6  # pages between two that are used, from which on there are two regions


class Page(msgspec.Struct, frozen=True):
    """A page of the process; None for ``content`` is zeros."""

    address: int
    protection: int
    content: bytes | None


class Memory(msgspec.Struct, frozen=True):
    """A process as it was when it stopped. ``files``: paths, times (ns) and sizes of what it had read."""

    registers: dict[str, int]
    pages: list[Page]
    stack: Page
    files: list[tuple[str, int, int]]


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A program with a compiled launcher, which looks for a ``snapshot``.

    ``command`` starts the process that is written down: it has to stop (`identity.stop`); ``locale`` is its LC_ALL.
    ``mode``: who may read the snapshot, and know addresses and seeds of all processes that go on from it.
    ``sources`` are files that it reads, besides what it maps. ``calls`` runs usual commands one after the other; None:
    nobody knows what they use.
    """

    launcher: Path
    snapshot: Path
    mode: int
    command: list[str]
    locale: str
    sources: list[str]
    calls: Callable[[], Generator[Traced]] | None = None


def provide(program: Program) -> None:
    """Have a snapshot that fits, if one can be made here; a program starts Python otherwise, and a line says why."""
    try:
        make(program)
    except (CapsaError, OSError, subprocess.CalledProcessError) as error:
        print(f"capsa: {program.launcher.name} will start Python each time, as it has no snapshot: {error}")


def make(program: Program) -> bool:
    """Write a program's snapshot, unless there is one that fits; whether it did so.

    It appears whole. Raises `CapsaError`, `Unsupported`, `OSError`.
    """
    if platform.machine() != "x86_64":
        raise Unsupported(f"there are none for {platform.machine()}")
    tell = subprocess.run(["processor"], executable=program.launcher, stdout=subprocess.PIPE, check=True)
    processor, target = tell.stdout, program.snapshot
    if fits(target, processor):
        return False
    memory = _memory(program)
    used: Collection[int] = {page.address for page in memory.pages}
    if program.calls is not None:
        # Each page alone, and none before the next one: then the kernel tells of each whether it is used.
        single = [[page] for page in memory.pages]
        _write(target, _file(memory, processor, single, is_trial=True), program.mode)
        try:
            used = _used(program.calls)
        except (CapsaError, OSError) as error:
            print(f"capsa: {program.launcher.name} will take more memory than it needs, as it cannot be tried: {error}")
    _write(target, _file(memory, processor, _runs(memory.pages, used)), program.mode)
    return True


def _used(calls: Callable[[], Generator[Traced]]) -> set[int]:
    """Addresses of pages that are resident at the end of any of these calls; raises `CapsaError`, `OSError`."""
    found: set[int] = set()
    with contextlib.closing(calls()) as processes:
        for process in processes:
            if status := process.until_exit():
                raise CapsaError(f"{process} ended with status {status}")
            found |= {area.start for area in process.areas() if area.resident}
    return found


def fits(snapshot: Path, processor: bytes) -> bool:
    """Whether that file is a snapshot which the launcher would take on this kind of processor, and not a trial's."""
    try:
        content = snapshot.read_bytes()
    except FileNotFoundError:
        return False
    if len(content) < HEAD:
        return False
    mark, length, files, _, *rest = _HEADER.unpack_from(content)
    if (mark, length) != (MARK, len(content)) or struct.pack("=8I", *rest[:8]) != processor or rest[-1]:
        return False
    for changed, size, place in _FILE.iter_unpack(content[_HEADER.size : _HEADER.size + files * _FILE.size]):
        path = os.fsdecode(content[place : content.index(b"\0", place)])
        if not os.path.exists(path) or _known(path) != (path, changed, size):
            return False
    return True


def _known(path: str) -> tuple[str, int, int]:
    found = os.stat(path)
    return path, found.st_mtime_ns, found.st_size


# ---- the process ----


def _memory(program: Program) -> Memory:
    # All symbols of its libraries are looked up at once: later the processor's state would be saved for that.
    environment = {"LC_ALL": program.locale, "LD_BIND_NOW": "1"}
    for _ in range(_ATTEMPTS):
        sources = {path: _known(path) for path in program.sources}
        with Traced(program.command, environment) as process:
            _hide_vdso(process)
            process.until_signal(signal.SIGSTOP)
            areas = process.areas()
            if any(area.start < other.stop and other.start < area.end for area in areas for other in _TAKEN):
                continue
            with process.memory() as memory:
                pages = [page for area in areas for page in _pages(area, memory)]
            stack = next(area for area in areas if area.path == "[stack]")
            below = Page(stack.start - _STACK, stack.protection, None)
            files = {path: _known(path) for path in (*sources, *(each.path for each in areas)) if path.startswith("/")}
            if all(files[path] == known for path, known in sources.items()):  # otherwise one was changed meanwhile
                return Memory(process.registers(), pages, below, [files[path] for path in sorted(files)])
    raise CapsaError(f"cannot make a snapshot for {program.launcher}: it has memory where others would be")


_TAKEN = (_KERNELS, _LAUNCHERS)


def _hide_vdso(process: Traced) -> None:
    """Take the vDSO out of the auxiliary vector (getauxval(3)) of a process that has just been executed."""
    place = process.registers()["rsp"]
    with process.memory() as memory:

        def word() -> int:
            nonlocal place
            memory.seek(place)
            place += 8
            return int.from_bytes(memory.read(8), sys.byteorder)

        count = word()
        place += 8 * (count + 1)
        while word():
            pass
        while (kind := word()) != _AT_NULL:
            if kind == _AT_SYSINFO_EHDR:
                memory.seek(place - 8)
                memory.write(_AT_IGNORE.to_bytes(8, sys.byteorder))
            place += 8


def _pages(area: Area, memory: IO[bytes]) -> Iterator[Page]:
    """Its pages. A few zeros are written down like anything else: without content they would be one more region."""
    contents = [bytes(PAGE)] * ((area.end - area.start) // PAGE)
    if area.protection:
        for number in range(len(contents)):
            memory.seek(area.start + number * PAGE)
            contents[number] = memory.read(PAGE)
    address = area.start
    for filled, run in itertools.groupby(contents, any):
        alike = list(run)
        for content in alike:
            yield Page(address, area.protection, content if filled or len(alike) < _GAP else None)
            address += PAGE


# ---- the file ----


def _runs(pages: Iterable[Page], used: Collection[int]) -> list[list[Page]]:
    """What will be a region each: pages that follow one another and are alike; those that are ``used`` come first."""
    hot: list[list[Page]] = []
    cold: list[list[Page]] = []
    for _, alike in itertools.groupby(enumerate(pages), lambda each: _kind(*each)):
        run = [page for _, page in alike]
        for is_hot, part in itertools.groupby(zip(run, _near(run, used), strict=True), lambda each: each[1]):
            (hot if is_hot else cold).append([page for page, _ in part])
    return hot + cold


def _kind(number: int, page: Page) -> tuple[int, int, bool]:
    return page.address - number * PAGE, page.protection, page.content is None


def _near(run: Sequence[Page], used: Collection[int]) -> list[bool]:
    """Of each page whether it is used, or between two that are close together."""
    marks = [page.address in used for page in run]
    last = -_GAP - 2
    for number, mark in enumerate(list(marks)):
        if mark:
            if number - last <= _GAP:
                marks[last:number] = [True] * (number - last)
            last = number
    return marks


def _file(memory: Memory, processor: bytes, runs: Sequence[Sequence[Page]], *, is_trial: bool = False) -> bytes:
    """The whole file; its contents in the order of ``runs``, or for a trial the other way round."""
    paths = b"".join(os.fsencode(path) + b"\0" for path, _, _ in memory.files)
    place = _HEADER.size + len(memory.files) * _FILE.size + (len(runs) + 1) * _REGION.size
    if place + len(paths) > HEAD:
        raise CapsaError(f"cannot make a snapshot: {len(memory.files)} files and {len(runs)} regions are too many")
    contents = [b"".join(page.content or b"" for page in run) for run in runs]
    *places, length = itertools.accumulate(map(len, reversed(contents) if is_trial else contents), initial=HEAD)
    kept = [memory.registers[name] for name in (*_KEPT, "fs_base")]
    kind = struct.unpack("=8I", processor)
    head = [_HEADER.pack(MARK, length, len(memory.files), len(runs) + 1, *kind, *kept, is_trial)]
    for path, changed, size in memory.files:
        head.append(_FILE.pack(changed, size, place))
        place += len(os.fsencode(path)) + 1
    for run, content, at in zip(runs, contents, reversed(places) if is_trial else places, strict=True):
        head.append(_REGION.pack(run[0].address, len(run) * PAGE, run[0].protection, at if content else 0))
    head.append(_REGION.pack(memory.stack.address, _STACK, memory.stack.protection, 0))
    return b"".join((b"".join((*head, paths)).ljust(HEAD, b"\0"), *(reversed(contents) if is_trial else contents)))


def _write(target: Path, content: bytes, mode: int) -> None:
    hidden = target.with_suffix(f".{os.getpid()}")
    try:
        hidden.touch(mode)
        hidden.chmod(mode)
        hidden.write_bytes(content)
        hidden.rename(target)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise CapsaError(f"cannot write the snapshot {target}: {error.strerror}") from error
