"""Running programs: measured ones, daemons, and both inside namespaces of their own."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from capsa.sys.netlink import Netlink

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
UNIFIED = "/sys/fs/cgroup/unified"


class BenchError(Exception):
    """A measurement could not be made; the text says why."""


def _check(result: int, call: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), call)


class Namespaces:
    """A network and a mount namespace, held by a process: what runs in them leaves nothing on the machine.

    ``hide_unified``: without the (almost empty) cgroup v2 of a hybrid layout, which crun and podman take for the real
    one. ``cover``: directories that are theirs alone, empty at first.
    """

    def __init__(self, *, hide_unified: bool = False, cover: Sequence[str] = ("/dev/shm", "/run/lock")) -> None:
        ready, done = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                _check(_libc.unshare(CLONE_NEWNS | CLONE_NEWNET), "unshare")
                _check(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "mount")
                if hide_unified and os.path.ismount(UNIFIED):
                    _check(_libc.umount2(UNIFIED.encode(), MNT_DETACH), "umount2")
                for each in cover:
                    if os.path.isdir(each):
                        _check(_libc.mount(b"none", each.encode(), b"tmpfs", 0, None), f"mount {each}")
                with Netlink() as netlink:
                    netlink.up("lo")
                os.write(done, b"x")
                signal.pause()
            finally:
                os._exit(1)
        os.close(done)
        started = os.read(ready, 1)
        os.close(ready)
        if not started:
            self.close()
            raise BenchError("cannot make network and mount namespaces (is this root?)")

    def enter(self) -> None:
        """Move the calling process into them."""
        for name, kind in (("net", CLONE_NEWNET), ("mnt", CLONE_NEWNS)):
            descriptor = os.open(f"/proc/{self.pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            _check(_libc.setns(descriptor, kind), "setns")
            os.close(descriptor)

    def processes(self) -> list[int]:
        """All processes in this network namespace with the machine's pids: an engine without its containers."""
        network, pids = os.readlink(f"/proc/{self.pid}/ns/net"), os.readlink("/proc/self/ns/pid")
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if not entry.isdigit() or int(entry) == self.pid:
                    continue
                if (os.readlink(f"/proc/{entry}/ns/net"), os.readlink(f"/proc/{entry}/ns/pid")) == (network, pids):
                    found.append(int(entry))
        return found

    def close(self) -> None:
        """End the holder, and whatever was left running in them."""
        try:
            left = self.processes()
        except OSError:
            left = []
        for pid in [*left, self.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def start(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    inside: Namespaces | None = None,
    stdin: Path | None = None,
    output: int | None = None,
    words: int | None = None,
    prepare: Callable[[], None] | None = None,
    began: mmap.mmap | None = None,
) -> int:
    """Start a program: standard output goes to ``output`` (none: nowhere), standard error to ``words`` (none: there).

    Returns its pid. In ``began`` is written when it was executed (`time.perf_counter`).
    """
    target = os.open(os.devnull, os.O_WRONLY) if output is None else output
    pid = os.fork()
    if pid == 0:
        try:
            if inside is not None:
                inside.enter()
            if prepare is not None:
                prepare()
            os.dup2(os.open(stdin or os.devnull, os.O_RDONLY), 0)
            os.dup2(target, 1)
            os.dup2(target if words is None else words, 2)
            if began is not None:
                began[:] = struct.pack("d", time.perf_counter())
            os.execvpe(argv[0], list(argv), dict(environment or os.environ))
        except BaseException as error:
            os.write(2, f"{argv[0]}: {error}\n".encode())
        finally:
            os._exit(127)
    if output is None:
        os.close(target)
    return pid


def run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    inside: Namespaces | None = None,
    stdin: Path | None = None,
    timeout: float = 300,
) -> float:
    """Run a program to its end: seconds from when it is executed. Raises `BenchError` with its last words if it fails.

    What is not its own does not count: to fork this process and to enter namespaces takes 2 ms. Nor does what takes
    its output, which goes nowhere: docker's client writes a long list in thousands of pieces, each of them a change
    of a file.
    """
    with mmap.mmap(-1, struct.calcsize("d")) as began, open(os.memfd_create("words"), "w+b", buffering=0) as words:
        pid = start(argv, environment=environment, inside=inside, stdin=stdin, words=words.fileno(), began=began)
        try:
            _, status = os.waitpid(pid, 0)
        except BaseException:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
            raise
        took: float = time.perf_counter() - struct.unpack("d", began[:])[0]
        if status:
            words.seek(0)
            said = words.read()[-600:].decode(errors="replace").strip().replace("\n", " / ")
            raise BenchError(f"{' '.join(argv)} ended with {os.waitstatus_to_exitcode(status)}: {said}")
    return took


def daemon(
    argv: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None, inside: Namespaces | None = None
) -> int:
    """Start a program that stays; it is killed when this process ends. Its words go to ``log``."""

    def prepare() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()

    with open(log, "ab") as output:
        return start(argv, environment=environment, inside=inside, output=output.fileno(), prepare=prepare)


def end(pid: int, patience: float = 20) -> None:
    """End a child: SIGTERM, and SIGKILL if it does not obey."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
            time.sleep(0.02)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
