"""The engine's side of the Genode platform: one process that runs a Genode, and a `Sandbox` for each container."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from capsa import errors
from capsa.errors import InvalidArgument, LaunchFailed, Unavailable
from capsa.platform import packets, sandbox
from capsa.platform.genode.equipment import Equipment, equipment
from capsa.platform.genode.host import Settings, missing
from capsa.platform.genode.image import Images
from capsa.platform.protocol import Launch
from capsa.platform.sandbox import Sandbox, SubInitGone
from capsa.vfs.tree import CopyOnWrite

START_SECONDS = 10.0


class Place(msgspec.Struct, frozen=True):
    """Where a Genode is: ``directory`` has its programs, or, with ``report``, the configurations of one that runs."""

    directory: Path
    report: Path | None = None


class GenodePlatform:
    """Launches containers on a Genode, and finds those that an earlier engine launched."""

    def __init__(self, run: Path, store: Path, place: Place) -> None:
        """``run`` holds the sockets, ``store`` what is made of images.

        Raises `InvalidArgument` where a directory is not what it has to be.
        """
        for directory in (place.directory, place.report) if place.report else ():
            if not os.access(directory, os.W_OK | os.X_OK) or not directory.is_dir():
                raise InvalidArgument(f"cannot attach to a Genode by {directory}: it is no directory to write to")
        if not place.report and (lacks := missing(place.directory)):
            raise InvalidArgument(
                f"{place.directory} is no directory of Genode's programs: it has no {', '.join(lacks)}"
            )
        self.run = run
        self.attached = place.report is not None
        self._settings = Settings(
            binaries=str(place.directory.absolute()),
            report=str(place.report.absolute()) if place.report else "",
            work=str(run / "genode"),
            store=str(store),
            control=str(run / "genode.sock"),
        )
        self._images = Images(store)
        self._end: socket.socket | None = None
        self._lock = asyncio.Lock()

    @property
    def equipment(self) -> Equipment:
        """What this Genode offers to the files of containers."""
        return equipment(Path(self._settings.binaries), attached=self.attached)

    def control(self, container: str) -> Path:
        """Where engines reach the sub-init of ``container``."""
        return self.run / "containers" / container / "control"

    async def launch(self, launch: Launch, fds: Sequence[int] = ()) -> Sandbox:
        """As of `capsa.platform.linux.platform.LinuxPlatform`; starts Genode if need be."""
        if isinstance(launch.root, CopyOnWrite):  # here, since a large image would hold up who runs all containers
            await asyncio.to_thread(self._images.get, launch.root.layers)
        for again in (True, False):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            made = Sandbox(launch.id, ours)
            try:
                with theirs:
                    end = await self._send(launch, [theirs.fileno(), *fds])
                await made.launched()
                return made
            except SubInitGone:
                made.close()
                if not again:
                    raise
                if self._end is end:  # that Genode was about to end, and has not looked at it any more
                    self._disconnect()
            except BaseException:
                made.close()
                raise
        raise AssertionError("not reached")

    async def _send(self, launch: Launch, fds: Sequence[int]) -> socket.socket:
        """The connection that it went through."""
        for attempt in range(2):
            async with self._lock:
                if self._end is None:
                    self._end = await self._connected()
                end = self._end
            try:
                packets.send(end, launch, list(fds))
                return end
            except OSError as error:  # that Genode has ended meanwhile
                if self._end is end:
                    self._disconnect()
                if attempt:
                    raise LaunchFailed(f"Genode cannot be reached: {errors.reason(error)}") from error
        raise AssertionError("not reached")

    async def reconnect(self, container: str) -> Sandbox | None:
        """Connect to the sub-init of a container that is there already; None if there is none."""
        found = await sandbox.reconnect(container, self.control(container))
        if found is not None and self._end is None:
            self._end = self._connect()
        return found

    async def close(self) -> None:
        """Let go; Genode and its containers live on."""
        self._disconnect()

    def _disconnect(self) -> None:
        if self._end is not None:
            self._end.close()
            self._end = None

    def _connect(self) -> socket.socket | None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            end.connect(self._settings.control)
        except OSError:
            end.close()
            return None
        end.setblocking(False)
        return end

    async def _connected(self) -> socket.socket:
        """A connection to the process that runs Genode, which is started if there is none; raises `Unavailable`."""
        found = self._connect()
        if found is not None:
            return found
        log_path = self.run / "genode.log"
        with open(log_path, "ab", opener=_private) as log:
            begin = log.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", "capsa.platform.genode.run", msgspec.json.encode(self._settings).decode()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env={**os.environ, "PYTHONPATH": str(Path(errors.__file__).parents[1])},
            )
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            found = self._connect()
            if found is not None:
                process.returncode = 0  # it is not waited for: it is to stay
                return found
            if process.poll() is not None:
                break
            await asyncio.sleep(0.01)
        raise Unavailable(f"Genode did not start: {_last_line(log_path, begin)}")


def _last_line(path: Path, begin: int) -> str:
    try:
        lines = path.read_bytes()[begin:].decode(errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else f"see {path}"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def parse(text: str) -> Place:
    """``genode=DIR`` or ``genode=attach:CONFIG,REPORT``, as of ``--platform``; raises `InvalidArgument`."""
    name, _, where = text.partition("=")
    how, colon, both = where.partition(":")
    if name == "genode" and how == "attach" and colon:
        config, comma, report = both.partition(",")
        if config and comma and report:
            return Place(Path(config), Path(report))
    elif name == "genode" and where:
        return Place(Path(where))
    raise InvalidArgument(f"invalid --platform {text!r}: write genode=DIRECTORY or genode=attach:CONFIG,REPORT")
