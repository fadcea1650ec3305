"""The engine's end of a sub-init, on whichever platform that is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from capsa import errors
from capsa.errors import CapsaError, LaunchFailed, Unavailable
from capsa.platform import packets, protocol
from capsa.platform.protocol import Command, Failure, Reply, Report, Request, Result, Status

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 60.0

_from_subinit = msgspec.json.Decoder(protocol.FromSubInit)


def raise_failure(failure: Failure) -> None:
    """Raise a sub-init's failure as the exception it was there."""
    kind = getattr(errors, failure.kind, CapsaError)
    if kind is LaunchFailed:
        raise LaunchFailed(failure.message, failure.code)
    if isinstance(kind, type) and issubclass(kind, CapsaError):
        raise kind(failure.message)
    raise CapsaError(failure.message)


class SubInitGone(LaunchFailed):
    """It ended without a word while it made the container, or there never was one."""


class Sandbox:
    """One container's sub-init, as the engine sees it.

    ``status`` is the newest report of its state. ``on_report`` is called with every report (those that came before
    it was set, when it is set), ``on_lost`` once when the sub-init has gone without having been released.
    """

    def __init__(self, container: str, end: socket.socket) -> None:
        """``end``: this side's end of a control connection."""
        self.id = container
        self.status = Status(state="creating")
        self._on_report: Callable[[Report], None] | None = None
        self._early: list[Report] = []
        self.on_lost: Callable[[], None] = lambda: None
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[tuple[Reply, list[int]]]] = {}
        self._last_number = 0
        self._launched: asyncio.Future[None] = self._loop.create_future()
        self._released = False
        self._closed = False
        self._end_of_connection = asyncio.Event()
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._ready)

    @property
    def on_report(self) -> Callable[[Report], None] | None:
        """Who is told every report."""
        return self._on_report

    @on_report.setter
    def on_report(self, callback: Callable[[Report], None]) -> None:
        self._on_report = callback
        early, self._early = self._early, []
        for report in early:
            callback(report)

    @property
    def alive(self) -> bool:
        """The connection stands."""
        return not self._closed

    async def launched(self) -> None:
        """Wait until it runs, or has run; raises `LaunchFailed` if it could not."""
        while self.status.state in ("creating", "failed"):
            if self.status.state == "failed":
                assert self.status.failure is not None
                raise_failure(self.status.failure)
            if self._closed:
                raise SubInitGone(f"the sub-init of container {self.id[:12]} ended before the container was made")
            self._launched = self._loop.create_future()
            await self._launched

    async def request(self, command: Command, fds: Sequence[int] = ()) -> Result:
        """Have ``command`` carried out and return its result; raises the failure. ``fds`` stay the caller's."""
        result, handed = await self._request(command, fds)
        for fd in handed:
            os.close(fd)
        return result

    async def name_sockets(self) -> list[int]:
        """The sockets of the container's name service, UDP and TCP, the caller's from now on; none if it has none."""
        return (await self._request(protocol.NameSockets(), ()))[1]

    async def _request(self, command: Command, fds: Sequence[int]) -> tuple[Result, list[int]]:
        if self._closed:
            raise Unavailable(f"the sub-init of container {self.id[:12]} is gone")
        self._last_number += 1
        number = self._last_number
        future: asyncio.Future[tuple[Reply, list[int]]] = self._loop.create_future()
        self._waiting[number] = future
        try:
            await self._send(Request(number=number, command=command), fds)
            async with asyncio.timeout(REQUEST_SECONDS):
                reply, handed = await future
        except TimeoutError:
            raise Unavailable(
                f"the sub-init of container {self.id[:12]} did not answer within {REQUEST_SECONDS:.0f} seconds"
            ) from None
        finally:
            self._waiting.pop(number, None)
        if reply.failure is not None:
            raise_failure(reply.failure)
        assert reply.result is not None
        if isinstance(command, protocol.Release):
            self._released = True
        return reply.result, handed

    async def _send(self, message: Request, fds: Sequence[int]) -> None:
        deadline = self._loop.time() + CONNECT_SECONDS
        while True:
            try:
                packets.send(self._end, message, list(fds))
                return
            except BlockingIOError:
                if self._loop.time() > deadline:
                    raise Unavailable(f"the sub-init of container {self.id[:12]} takes no requests") from None
                await asyncio.sleep(0.005)
            except OSError as error:
                raise Unavailable(
                    f"the sub-init of container {self.id[:12]} cannot be reached: {errors.reason(error)}"
                ) from error

    async def ended(self) -> None:
        """Wait until the connection ends: a released sub-init hangs up when it has unmounted everything."""
        await self._end_of_connection.wait()

    def close(self) -> None:
        """Let go of the connection; the sub-init and its container live on."""
        if not self._closed:
            self._closed = True
            self._end_of_connection.set()
            self._loop.remove_reader(self._end.fileno())
            self._end.close()
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(Unavailable(f"the sub-init of container {self.id[:12]} is gone"))
            self._wake()

    def _wake(self) -> None:
        if not self._launched.done():
            self._launched.set_result(None)

    def _ready(self) -> None:
        while not self._closed:
            try:
                packet = packets.receive(self._end)
            except BlockingIOError:
                return
            except OSError:
                packet = None
            if packet is None:
                self.close()
                if not self._released and self.status.state != "failed":
                    self.on_lost()
                return
            data, fds = packet
            message = _from_subinit.decode(data)
            self._take(message, fds)
            if isinstance(message, Reply):
                return  # who asked goes on before the reports that follow are told: a kill comes before its death

    def _take(self, message: Reply | Report, fds: list[int]) -> None:
        future = self._waiting.get(message.number) if isinstance(message, Reply) else None
        if isinstance(message, Reply) and future is not None and not future.done():
            future.set_result((message, fds))
            return
        for fd in fds:
            os.close(fd)
        if isinstance(message, Reply):
            return
        if isinstance(message, Status):
            self.status = message
            self._wake()
        if self._on_report is None:
            self._early.append(message)
        else:
            self._on_report(message)


async def reconnect(container: str, path: Path) -> Sandbox | None:
    """Connect to the sub-init of ``container``, which listens at ``path``; None if there is none."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        end.close()
        return None
    try:
        end.settimeout(CONNECT_SECONDS)
        end.connect(f"/proc/self/fd/{directory}/{path.name}")
    except OSError:
        end.close()
        return None
    finally:
        os.close(directory)
    sandbox = Sandbox(container, end)
    with contextlib.suppress(LaunchFailed, TimeoutError):
        async with asyncio.timeout(CONNECT_SECONDS):
            await sandbox.launched()
    if not sandbox.alive:
        return None
    return sandbox


def stream_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair for one attached stream: the engine's end (not blocking), the sub-init's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    ours.setblocking(False)
    return ours, theirs
