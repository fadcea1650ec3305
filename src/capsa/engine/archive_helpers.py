"""The engine's end of file helpers: a process that they are forked from, and one helper at work."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

import msgspec

import capsa.errors
from capsa.engine.archive_worker import DONE, Failed, Request, Stat
from capsa.errors import CapsaError, NotFound, Unavailable

_CHUNK = 1 << 18
_IDLE_SECONDS = 30.0
_KILL_SECONDS = 10.0
_head = msgspec.json.Decoder(Stat)
_failed = msgspec.json.Decoder(Failed)


class Helpers:
    """Starts helpers; the process that they come from is there while there are any, and a while longer."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._lock = asyncio.Lock()
        self._busy = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def helper(self, request: Request, namespace: int, container: str) -> AsyncIterator[Helper]:
        """A helper for ``request`` about ``container`` (its name), gone when the block ends; raises `CapsaError`."""
        self._busy += 1
        try:
            helper = await self._start(request, namespace, container)
            try:
                yield helper
            finally:
                await asyncio.shield(helper.end())
        finally:
            self._busy -= 1
            if not self._busy and self._connection is not None:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._end_idle)

    async def _start(self, request: Request, namespace: int, container: str) -> Helper:
        with contextlib.ExitStack() as theirs:
            number = os.memfd_create("request")
            theirs.callback(os.close, number)
            os.write(number, msgspec.json.encode(request))
            os.lseek(number, 0, os.SEEK_SET)
            (stdin, source), (output, stdout), (trouble, stderr) = os.pipe(), os.pipe(), os.pipe()
            for fd in (stdin, stdout, stderr):
                theirs.callback(os.close, fd)
            helper = await Helper.connect(source, output, trouble, container, request.path)
            fds = [number, stdin, stdout, stderr, *([namespace] if namespace >= 0 else [])]
            fork = asyncio.ensure_future(self._fork([os.dup(fd) for fd in fds]))
            try:
                helper.handle = await asyncio.shield(fork)
            except BaseException:
                fork.add_done_callback(_forget)
                helper.close()
                raise
        return helper

    async def _fork(self, fds: list[int]) -> int:
        """The helper's pidfd, -1 if it has ended; closes ``fds``."""
        try:
            async with self._lock:
                for _ in range(2):
                    connection = self._open()
                    try:
                        socket.send_fds(connection, [b"."], fds)
                        data, found, _, _ = await asyncio.to_thread(socket.recv_fds, connection, 16, 1)
                    except OSError:
                        data, found = b"", []
                    if data:
                        return found[0] if found else -1
                    self.close()  # somebody killed it: once more
        finally:
            for fd in fds:
                os.close(fd)
        raise CapsaError("the process that helpers for files are forked from cannot be started")

    def _open(self) -> socket.socket:
        if self._connection is not None:
            return self._connection
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._server = subprocess.Popen(
                [*(sys.executable, "-P", "-m", "capsa.engine.archive_server", str(theirs.fileno()), str(os.getpid()))],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                pass_fds=(theirs.fileno(),),
            )
        self._connection = ours
        return ours

    def _end_idle(self) -> None:
        if not self._busy and not self._lock.locked():
            self.close()

    def close(self) -> None:
        """End the process, and with it all helpers."""
        if self._timer is not None:
            self._timer.cancel()
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None


class Helper:
    """One helper: its pipes, and what it said."""

    def __init__(
        self,
        input: asyncio.StreamWriter,
        output: asyncio.StreamReader,
        trouble: asyncio.StreamReader,
        about: tuple[str, str],
    ) -> None:
        self.handle = -1
        self._interrupted = ""
        self._input = input
        self._output = output
        self._told = asyncio.ensure_future(_all(trouble))
        self._container, self._path = about
        self._transports: list[asyncio.BaseTransport] = []

    @classmethod
    async def connect(cls, source: int, output: int, trouble: int, container: str, path: str) -> Helper:
        """With our ends of its pipes."""
        loop = asyncio.get_running_loop()
        pipes = [os.fdopen(fd, "rb", buffering=0) for fd in (output, trouble)]
        sink = os.fdopen(source, "wb", buffering=0)
        transports: list[asyncio.BaseTransport] = []
        readers = []
        try:
            for pipe in pipes:
                reader = asyncio.StreamReader(limit=_CHUNK)
                protocol = asyncio.StreamReaderProtocol(reader)
                transport, _ = await loop.connect_read_pipe(lambda protocol=protocol: protocol, pipe)  # type: ignore[misc]
                transports.append(transport)
                readers.append(reader)
            writing, flow = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sink)
        except BaseException:  # the client has left
            for opened in transports:
                opened.close()
            for file in (*pipes, sink):
                file.close()
            raise
        writer = asyncio.StreamWriter(writing, flow, None, loop)
        found = cls(writer, readers[0], readers[1], (container, path))
        found._transports = [*transports, writing]
        return found

    async def head(self) -> Stat:
        """The answer's first line; raises what went wrong."""
        line = await self._output.readline()
        if not line.endswith(b"\n"):
            raise await self._failure()
        return _head.decode(line)

    async def rest(self) -> AsyncIterator[bytes]:
        """What follows; raises `CapsaError` if it is not all."""
        while data := await self._output.read(_CHUNK):
            yield data
        if not (await self._told).endswith(DONE):
            raise await self._failure()

    async def feed(self, content: AsyncIterable[bytes]) -> None:
        """Send what comes in; stops when the helper has ended before."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            async for data in self._until_end(content):
                self._input.write(data)
                await self._input.drain()
        self._input.close()

    async def _until_end(self, content: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """The pieces until the helper has ended, as a client may wait for an answer before it goes on."""
        pieces = aiter(content)
        while True:
            piece = asyncio.ensure_future(_next(pieces))
            await asyncio.wait((piece, self._told), return_when=asyncio.FIRST_COMPLETED)
            if not piece.done():
                piece.cancel()
                return
            data = piece.result()
            if data is None:
                return
            yield data

    async def _failure(self) -> CapsaError:
        told = (await self._told).strip().splitlines()
        if self._interrupted:
            return Unavailable(
                f"the files of container {self._container} cannot be reached any more: {self._interrupted}"
            )
        try:
            failed = _failed.decode(told[-1])
        except (IndexError, msgspec.DecodeError, msgspec.ValidationError):
            said = told[-1].decode(errors="replace") if told else "the helper was killed"
            return CapsaError(f"the files of container {self._container} cannot be reached: {said}")
        if failed.kind == NotFound.__name__ and not failed.message:
            return NotFound(f"Could not find the file {self._path} in container {self._container}")
        kind: type[CapsaError] = getattr(capsa.errors, failed.kind, CapsaError)
        return kind(failed.message)

    async def interrupt(self, why: str) -> None:
        """Kill it; who waits for it is told ``why``. Returns when it has ended, or is stuck in the kernel."""
        self._interrupted = why
        self._kill()
        await asyncio.wait([self._told], timeout=_KILL_SECONDS)

    def _kill(self) -> None:
        if self.handle >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.handle, signal.SIGKILL)

    async def end(self) -> None:
        """Kill it if it is still there, and wait for its end."""
        self._kill()
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1
        await self._told
        self.close()

    def close(self) -> None:
        """Close the pipes."""
        self._told.cancel()
        for transport in self._transports:
            if not transport.is_closing():
                transport.close()


def _forget(fork: asyncio.Future[int]) -> None:
    """Nobody wants the helper any more: it ends with its pipes."""
    if not fork.cancelled() and fork.exception() is None and fork.result() >= 0:
        os.close(fork.result())


async def _next(pieces: AsyncIterator[bytes]) -> bytes | None:
    return await anext(pieces, None)


async def _all(reader: asyncio.StreamReader) -> bytes:
    """The last of what comes; standard error ends when the helper has."""
    found = b""
    while data := await reader.read(_CHUNK):
        found = (found + data)[-_CHUNK:]
    return found
