"""Makes the snapshot from which `capsa-runtime` goes on: ``python -m capsa.runtime.snapshot VENV``.

To start Python and to load what a call needs takes 12 ms of its 20, and it is always the same. So at set-up that is done
once (`awake`), and the memory of that process is written down, with what a called function has to preserve of the
processor's registers. The launcher (``launcher.c``) maps the file where the memory was, private and thus read and copied
page by page as it is needed, and returns from the system call in which the process had stopped. The file is ::

    struct header            its mark, the processor, registers
    struct file, …           all files that the process has read: with another one of them the snapshot does not fit
    struct region, …         memory: address, length, protection, place in this file
    paths                    of the files
    contents                 from `HEAD` on

Nothing in the memory may be of the kernel: the process does without its vDSO, and its addresses were drawn as usual, but far
from where the launcher is, and from where the kernel puts things for a program that it does not randomize.
Registers are those of x86-64; on other machines there is no snapshot, and capsa-runtime starts Python each time.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from capsa.errors import CapsaError, Unsupported
from capsa.runtime import awake, together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MARK = b"capsa001"
"""What a snapshot begins with; another one with each change of its form."""
HEAD = 1 << 16
PAGE = resource.getpagesize()
_HEADER = struct.Struct("=8s2Q8I8QQ")
_FILE = struct.Struct("=3Q")
_REGION = struct.Struct("=4Q")
# ptrace(2), and user_regs_struct of x86-64.
_TRACEME, _CONT, _GETREGS, _SETOPTIONS, _EXITKILL = 0, 7, 12, 0x4200, 1 << 20
_REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
_KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15", "rsp", "rip")
_AT_NULL, _AT_IGNORE, _AT_SYSINFO_EHDR = 0, 1, 33
# Where the kernel puts the stack and the vDSO of a program that is not randomized; and where the launcher is, below all
# that Python has: its heap ends there for the kernel, so that of Python cannot grow, and malloc maps memory instead.
_KERNELS = range(0x7FFF_0000_0000, 1 << 47)
_LAUNCHERS = range(0x20_0000, 0x40_0000)
_ATTEMPTS = 20
_STACK = 8 << 20  # bytes that the stack can grow by
_RUN = 16 * PAGE  # the kernel maps as many at once
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


class Area(NamedTuple):
    """A line of ``/proc/PID/maps`` (proc(5))."""

    start: int
    end: int
    protection: int
    path: str


class Region(NamedTuple):
    """Memory of the process; what has no ``content`` is zero."""

    address: int
    length: int
    protection: int
    content: bytes


class _Collision(Exception):
    """The process has memory where the launcher or the kernel will have theirs."""


def make(venv: Path) -> None:
    """Write that of a virtual environment whose launcher is compiled; it appears whole.

    Raises `CapsaError`, `Unsupported`.
    """
    if platform.machine() != "x86_64":
        raise Unsupported(f"there are no snapshots for {platform.machine()}: capsa-runtime starts Python each time")
    home = Path(os.path.realpath(venv)) / "lib" / "capsa-runtime"  # as .ci/launcher has it
    target, python = home / "snapshot", home / "bin" / "python"
    launcher = venv / "bin" / "capsa-runtime"
    packages = os.path.dirname(msgspec.__path__[0])
    processor = subprocess.run(["processor"], executable=launcher, stdout=subprocess.PIPE, check=True).stdout
    command = [str(python), "-I", "-S", _awake(), packages]
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(_Collision), _stopped(command) as pid:
            content = _written(pid, processor)
            break
    else:
        raise CapsaError(f"cannot make a snapshot of {python}: it always has memory where the kernel's would be")
    hidden = target.with_suffix(f".{os.getpid()}")
    try:
        hidden.write_bytes(content)
        hidden.rename(target)
    except OSError as error:
        hidden.unlink(missing_ok=True)
        raise CapsaError(f"cannot write the snapshot {target}: {error.strerror}") from error


def _awake() -> str:
    assert awake.__file__ is not None
    return awake.__file__


# ---- the process ----


@contextlib.contextmanager
def _stopped(command: Sequence[str]) -> Iterator[int]:
    """A process of this command, which has come to its stop; it is killed at the end."""
    pid = os.fork()
    if pid == 0:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1):
                os.dup2(null, number)
            os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            _ptrace(_TRACEME, 0)
            # All of its libraries' symbols are looked up now: later the processor's state would be saved for that.
            os.execve(command[0], command, {"LC_ALL": "C", "LD_BIND_NOW": "1"})
        finally:
            os._exit(127)
    try:
        _expect(pid, signal.SIGTRAP, command)
        _ptrace(_SETOPTIONS, pid, _EXITKILL)
        _hide_vdso(pid)
        _ptrace(_CONT, pid)
        _expect(pid, signal.SIGSTOP, command)
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, None, data) < 0:
        raise CapsaError(f"cannot make a snapshot: ptrace: {os.strerror(ctypes.get_errno())}")


def _expect(pid: int, number: int, command: Sequence[str]) -> None:
    _, status = os.waitpid(pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != number:
        raise CapsaError(f"cannot make a snapshot: {' '.join(command)} did not come to its stop (status {status})")


def _registers(pid: int) -> dict[str, int]:
    found = (ctypes.c_uint64 * len(_REGISTERS))()
    if _libc.ptrace(_GETREGS, pid, None, found) < 0:
        raise CapsaError(f"cannot make a snapshot: ptrace: {os.strerror(ctypes.get_errno())}")
    return dict(zip(_REGISTERS, found, strict=True))


def _hide_vdso(pid: int) -> None:
    """Take the vDSO out of the auxiliary vector (getauxval(3)) of a process that has just been executed."""
    stack = _registers(pid)["rsp"]
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:

        def word(place: int) -> int:
            memory.seek(place)
            return int.from_bytes(memory.read(8), sys.byteorder)

        place = stack + 8 * (word(stack) + 2)
        while word(place):
            place += 8
        place += 8
        while (kind := word(place)) != _AT_NULL:
            if kind == _AT_SYSINFO_EHDR:
                memory.seek(place)
                memory.write(_AT_IGNORE.to_bytes(8, sys.byteorder))
            place += 16


# ---- the file ----


def _written(pid: int, processor: bytes) -> bytes:
    areas = list(_areas(pid))
    for area in areas:
        for others in (_KERNELS, _LAUNCHERS):
            if area.start < others.stop and others.start < area.end:
                raise _Collision
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        regions = [region for area in areas for region in _regions(area, memory)]
    stack = next(area for area in areas if area.path == "[stack]")
    regions.append(Region(stack.start - _STACK, _STACK, stack.protection, b""))
    registers = _registers(pid)
    files = _files(areas)
    paths = b"".join(os.fsencode(path) + b"\0" for path, _, _ in files)
    place = _HEADER.size + len(files) * _FILE.size + len(regions) * _REGION.size
    if place + len(paths) > HEAD:
        raise CapsaError(f"cannot make a snapshot: {len(files)} files and {len(regions)} regions are too many")
    kept = (registers[name] for name in _KEPT)
    head = [_HEADER.pack(MARK, len(files), len(regions), *struct.unpack("=8I", processor), *kept, registers["fs_base"])]
    for path, changed, size in files:
        head.append(_FILE.pack(changed, size, place))
        place += len(os.fsencode(path)) + 1
    contents = []
    at = HEAD
    for region in regions:
        head.append(_REGION.pack(region.address, region.length, region.protection, at if region.content else 0))
        contents.append(region.content)
        at += len(region.content)
    return b"".join((*head, paths)).ljust(HEAD, b"\0") + b"".join(contents)


def _areas(pid: int) -> Iterator[Area]:
    """What the process has mapped itself."""
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            addresses, flags, _, _, _, *path = line.split(maxsplit=5)
            name = path[0].rstrip("\n") if path else ""
            if name in ("[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]"):
                continue
            start, end = (int(each, 16) for each in addresses.split("-"))
            yield Area(start, end, sum(1 << bit for bit, flag in enumerate("rwx") if flag in flags), name)


def _regions(area: Area, memory: IO[bytes]) -> Iterator[Region]:
    """Its memory, in runs of pages that have something in them and of such that have not."""
    if not area.protection & 1:
        yield Region(area.start, area.end - area.start, area.protection, b"")
        return
    memory.seek(area.start)
    content = memory.read(area.end - area.start)
    place = area.start
    for empty, pages in itertools.groupby(_pages(content), lambda page: not any(page)):
        run = b"".join(pages)
        yield Region(place, len(run), area.protection, b"" if empty else run)
        place += len(run)


def _pages(content: bytes) -> Iterator[bytes]:
    return (content[start : start + _RUN] for start in range(0, len(content), _RUN))


def _files(areas: Sequence[Area]) -> list[tuple[str, int, int]]:
    """Paths, times (ns) and sizes of what the process has read: it is mapped, or one of the modules."""
    paths = {area.path for area in areas if area.path.startswith("/")}
    paths |= {os.path.realpath(together.path()), os.path.realpath(_awake()), *together.sources()}
    found = []
    for path in sorted(paths):
        known = os.stat(path)
        found.append((path, known.st_mtime_ns, known.st_size))
    return found


if __name__ == "__main__":
    try:
        make(Path(sys.argv[1]))
    except Unsupported as error:
        print(f"capsa: {error}", file=sys.stderr)
