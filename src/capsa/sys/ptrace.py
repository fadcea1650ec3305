"""A process under the control of this one (ptrace(2)), from its execution to its end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import IO, Final, Self

_TRACEME: Final = 0
_CONT: Final = 7
_GETREGS: Final = 12
_SETOPTIONS: Final = 0x4200
_GETEVENTMSG: Final = 0x4201
_EXITKILL: Final = 1 << 20
_TRACEEXEC: Final = 1 << 4
_TRACEEXIT: Final = 1 << 6
_EVENT_EXIT: Final = 6
# struct user_regs_struct of x86-64.
_REGISTERS: Final = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_rax", "rip", "cs", "eflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
_KERNELS: Final = ("[vvar]", "[vvar_vclock]", "[vdso]", "[vsyscall]")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]


class Area:
    """A line of ``/proc/PID/smaps`` (proc(5)): ``protection`` as for mmap(2), ``resident`` and ``own`` in bytes."""

    __slots__ = ("end", "own", "path", "protection", "resident", "start")

    def __init__(self, line: str) -> None:
        addresses, flags, _, _, _, *path = line.split(maxsplit=5)
        self.start, self.end = (int(each, 16) for each in addresses.split("-"))
        self.protection = sum(1 << bit for bit, flag in enumerate("rwx") if flag in flags)
        self.path = path[0].rstrip("\n") if path else ""
        self.resident = self.own = 0


class Traced:
    """A program that is executed under control; a context, at whose end it is killed.

    It has /dev/null for its streams, and no other descriptors. Raises `CapsaError`.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: str = "/") -> None:
        self._command = list(command)
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._begin(environment, directory)
            finally:
                os._exit(127)
        try:
            if self._wait() != signal.SIGTRAP:
                raise self._failed("it could not be executed")
            self._ask(_SETOPTIONS, _EXITKILL | _TRACEEXEC | _TRACEEXIT)
        except BaseException:
            self.close()
            raise

    def _begin(self, environment: Mapping[str, str], directory: str) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        os.closerange(3, 1 << 16)
        os.chdir(directory)
        if _libc.ptrace(_TRACEME, 0, None, None) == 0:
            os.execve(self._command[0], self._command, environment)  # noqa: S606

    def __str__(self) -> str:
        return " ".join(self._command)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill it, unless it has ended."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            while True:  # it stops once more, or is where it does so already, which even this signal does not end
                _libc.ptrace(_CONT, self.pid, None, None)
                _, status = os.waitpid(self.pid, 0)
                if not os.WIFSTOPPED(status):
                    return

    def until_signal(self, number: int) -> None:
        """Let it run until it gets this signal, which does not reach it."""
        self._run(number)

    def until_exit(self) -> int:
        """Let it run to its end, when its memory is still there; its wait status."""
        self._run(None)
        status = ctypes.c_ulong()
        self._ask(_GETEVENTMSG, ctypes.addressof(status))
        return status.value

    def _run(self, wanted: int | None) -> None:
        number: int = 0
        while True:
            self._ask(_CONT, number)
            stop = self._wait()
            if stop == wanted or (wanted is None and stop == signal.SIGTRAP | _EVENT_EXIT << 8):
                return
            if stop >> 8 == _EVENT_EXIT:
                raise self._failed("it ended")
            number = 0 if stop >> 8 else stop

    def _wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        if not os.WIFSTOPPED(status):
            raise self._failed(f"it ended with status {status}")
        return status >> 8

    def _ask(self, request: int, data: int = 0) -> None:
        if _libc.ptrace(request, self.pid, None, data) < 0:
            raise self._failed(os.strerror(ctypes.get_errno()))

    def _failed(self, why: str) -> CapsaError:
        return CapsaError(f"cannot trace {self}: {why}")

    # ---- what it has ----

    def registers(self) -> dict[str, int]:
        """By name, as long as it is stopped."""
        found = (ctypes.c_uint64 * len(_REGISTERS))()
        self._ask(_GETREGS, ctypes.addressof(found))
        return dict(zip(_REGISTERS, found, strict=True))

    def areas(self) -> list[Area]:
        """What it has mapped itself."""
        found: list[Area] = []
        with open(f"/proc/{self.pid}/smaps") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name == "Rss":
                    found[-1].resident = _bytes(value)
                elif name == "Anonymous":
                    found[-1].own = _bytes(value)
                elif "-" in line.split(" ", 1)[0]:
                    found.append(Area(line))
        return [area for area in found if area.path not in _KERNELS]

    @contextlib.contextmanager
    def memory(self) -> Iterator[IO[bytes]]:
        """All of its memory, as a file."""
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as file:
            yield file


def _bytes(value: str) -> int:
    return int(value.split()[0]) * 1024
