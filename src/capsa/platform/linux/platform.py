"""The engine's side of the Linux platform: the zygote to launch from, and a `Sandbox` for each sub-init."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from capsa import errors
from capsa.errors import LaunchFailed
from capsa.platform import packets, sandbox
from capsa.platform.protocol import Launch
from capsa.platform.sandbox import Sandbox, SubInitGone
from capsa.sys import sealed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_ZYGOTES = 10  # that may be killed with one launch in their hands, until that fails


class _TakenAlong(SubInitGone):
    """The zygote was killed with the launch in its hands."""


class LinuxPlatform:
    """Launches containers from a zygote, and finds those that an earlier engine launched."""

    def __init__(self, run: Path, cache: Path) -> None:
        """``run`` holds the sub-inits' sockets and the platform's log, ``cache`` compiled seccomp filters."""
        self.run = run
        self.cache = cache
        self._zygote: subprocess.Popen[bytes] | None = None
        self._zygote_end: socket.socket | None = None
        self._files = resource.getrlimit(resource.RLIMIT_NOFILE)

    def control(self, container: str) -> Path:
        """Where the sub-init of ``container`` listens."""
        return self.run / "containers" / container / "control"

    async def start(self) -> None:
        """Start the zygote."""
        (self.run / "containers").mkdir(parents=True, exist_ok=True)
        self.cache.mkdir(parents=True, exist_ok=True)
        self._spawn()

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        padding = "-" * 40  # its command line is the room for the titles of sub-inits
        log_path = self.run / "platform.log"
        with theirs, open(log_path, "ab", opener=_private) as log, sealed.opened(sys.executable) as program:
            self._zygote = subprocess.Popen(
                executable=f"/proc/self/fd/{program}",
                args=[sys.executable, *_program(), str(theirs.fileno()), padding],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno(), program],
                start_new_session=True,
                cwd="/",
            )
        with contextlib.suppress(OSError):  # the engine may have allowed itself more since
            resource.prlimit(self._zygote.pid, resource.RLIMIT_NOFILE, self._files)
        ours.setblocking(False)
        self._zygote_end = ours

    async def launch(self, launch: Launch, fds: Sequence[int] = ()) -> Sandbox:
        """Launch a container and wait until it runs.

        ``fds``: stream sockets, then held sockets, as `Launch` says; they stay the caller's. Raises `LaunchFailed`;
        nothing is left then.
        """
        for _ in range(MOST_ZYGOTES - 1):
            try:
                return await self._launch(launch, fds)
            except _TakenAlong:
                continue
        return await self._launch(launch, fds)

    async def _launch(self, launch: Launch, fds: Sequence[int]) -> Sandbox:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made = Sandbox(launch.id, ours)
        zygote: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                await self._to_zygote(launch, [theirs.fileno(), *fds])
                zygote = self._zygote
            await made.launched()
        except SubInitGone as error:
            made.close()
            if await _ended(zygote):
                raise _TakenAlong(str(error)) from error
            raise
        except BaseException:
            made.close()
            raise
        return made

    async def _to_zygote(self, launch: Launch, fds: Sequence[int]) -> None:
        if len(fds) > packets.MOST_FDS:
            raise LaunchFailed(f"{len(fds)} streams and published ports, at most {packets.MOST_FDS} are possible")
        for attempt in range(200):
            if self._zygote_end is None or (self._zygote is not None and self._zygote.poll() is not None):
                self._spawn()
            assert self._zygote_end is not None
            try:
                packets.send(self._zygote_end, launch, list(fds))
                return
            except BlockingIOError:
                await asyncio.sleep(0.005)
            except OSError as error:
                if attempt:
                    raise LaunchFailed(f"the zygote cannot be reached: {errors.reason(error)}") from error
                self._zygote_end.close()
                self._zygote_end = None
        raise LaunchFailed("the zygote takes no launches; try again when the machine is less busy")

    async def reconnect(self, container: str) -> Sandbox | None:
        """Connect to the sub-init of a container that is there already; None if there is none."""
        return await sandbox.reconnect(container, self.control(container))

    async def close(self) -> None:
        """End the zygote; containers live on."""
        if self._zygote_end is not None:
            self._zygote_end.close()
            self._zygote_end = None
        if self._zygote is not None:
            zygote = self._zygote
            self._zygote = None
            try:
                await asyncio.to_thread(zygote.wait, 5)
            except subprocess.TimeoutExpired:
                zygote.kill()
                zygote.wait()


def _program() -> list[str]:
    """Options of Python, and the program that becomes a zygote (`capsa.runtime.zygote`), with where its modules are."""
    own, packages = Path(errors.__file__).parent, str(Path(msgspec.__file__).parents[1])
    others = [path for path in sys.path if path.startswith("/") and path not in (str(own.parent), packages)]
    options = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
    return [*options, str(own / "runtime" / "zygote.py"), ":".join([str(own.parent), *others, packages])]


def _private(path: str, flags: int) -> int:
    """For `open`: what sub-inits say when they fail is for nobody else."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


async def _ended(zygote: subprocess.Popen[bytes] | None) -> bool:
    """Whether it has ended; its sockets close a little earlier."""
    for _ in range(10):
        if zygote is None or zygote.poll() is not None:
            return True
        await asyncio.sleep(0.005)
    return False
