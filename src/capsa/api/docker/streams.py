"""Hijacked connections (Docker Engine API, "Attach to a container"): a client's connection becomes a raw stream.

`hijack` answers the request, then relays between the client and a socket of a sub-init until the process has ended or
the client has left. Nothing is buffered without bound: a side that does not take its bytes makes the other side wait,
down to the pipe of the process. The client may end its input alone (half-close).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import re
import socket
import termios
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from capsa.api.docker.call import HEADERS
from capsa.api.docker.connection import Connection
from capsa.errors import InvalidArgument

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
_CONTROL = re.compile(r"ctrl-([a-z@\[\\\]^_])")
_LINGER = 5.0
_EARLY = 1 << 16
_MOMENT, _MOMENTS = 0.001, 200


class Hijacked(web.StreamResponse):
    """An answer whose body is whatever the process says: no length, no chunks."""

    _length_check = False
    #: The client left by its detach keys.
    detached = False


class DetachKeys:
    """Finds the sequence of keys that ends an attachment; what may be its beginning is held back.

    A key that breaks the sequence does not begin it anew: docker's client, which looks for the keys as well, has it so,
    and would hang if both did not agree.
    """

    def __init__(self, keys: bytes) -> None:
        """``keys`` may be empty: nothing detaches."""
        self._keys = keys
        self._matched = 0

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on of ``data``, and whether the keys were complete."""
        keys = self._keys
        if not keys or (not self._matched and keys[0] not in data):
            return data, False
        out = bytearray()
        for byte in data:
            if byte == keys[self._matched]:
                self._matched += 1
                if self._matched == len(keys):
                    return bytes(out), True
                continue
            if self._matched:
                out += keys[: self._matched]
                self._matched = 0
            out.append(byte)
        return bytes(out), False


def detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` (the default) as bytes; raises `InvalidArgument`."""
    if not text:
        return b"\x10\x11"
    keys = bytearray()
    for key in text.split(","):
        control = _CONTROL.fullmatch(key)
        if control:
            keys.append(0 if control[1] == "@" else ord(control[1].upper()) & 0x1F)
        elif len(key) == 1 and key.isascii():
            keys.append(ord(key))
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided")
    return bytes(keys)


class _Relay(asyncio.Protocol):
    """Between the client's connection and the sub-init's socket, whose protocol it is."""

    def __init__(
        self, client: asyncio.Transport, keys: DetachKeys, *, stdin: bool, convert: Callable[[bytes], bytes] | None
    ) -> None:
        self._client = client
        self._convert = convert
        self._keys = keys
        self._stdin = stdin
        self._early = bytearray()
        self._input_over = False
        self._transport: asyncio.Transport | None = None
        self._congested = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.detached = False
        self.left = False

    # from the sub-init

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._congested:
            transport.pause_reading()
        if self._early:
            transport.write(bytes(self._early))
            self._early.clear()
            self._client.resume_reading()
        self._end_input()

    def data_received(self, data: bytes) -> None:
        if self._client.is_closing():
            self.stop()
        else:
            self._client.write(self._convert(data) if self._convert is not None else data)

    def eof_received(self) -> bool:
        self.stop()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.stop()

    def pause_writing(self) -> None:
        if not self._client.is_closing():
            self._client.pause_reading()

    def resume_writing(self) -> None:
        if not self._client.is_closing():
            self._client.resume_reading()

    # from the client

    def client_sent(self, data: bytes) -> None:
        """Bytes of the client."""
        if not self._stdin or self._input_over or self.done.done():
            return
        passed, detached = self._keys.take(data)
        if passed and self._transport is None:
            self._early += passed
            if len(self._early) > _EARLY:
                self._client.pause_reading()
        elif passed and self._transport is not None and not self._transport.is_closing():
            self._transport.write(passed)
        if detached:
            self.detached = True
            self.stop()

    def client_ended(self) -> None:
        """The client's input has ended; output goes on."""
        self._input_over = True
        self._end_input()

    def client_left(self) -> None:
        """The client is gone."""
        self.left = True
        self.stop()

    def client_congested(self, congested: bool) -> None:
        """The client does (not) take its bytes."""
        self._congested = congested
        if self._transport is not None and not self._transport.is_closing():
            if congested:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _end_input(self) -> None:
        if self._transport is not None and self._stdin and self._input_over and not self._transport.is_closing():
            self._transport.write_eof()

    def stop(self) -> None:
        """It is over."""
        if not self.done.done():
            self.done.set_result(None)

    def close(self) -> None:
        """Let go of the sub-init's socket."""
        if self._transport is not None:
            self._transport.close()


async def hijack(
    request: web.BaseRequest,
    end: socket.socket,
    *,
    stdin: bool,
    raw: bool,
    ended: Callable[[], Awaitable[object]],
    keys: bytes = b"",
    convert: Callable[[bytes], bytes] | None = None,
    version: tuple[int, int] = (1, 42),
    history: AsyncIterator[bytes] | None = None,
    starting: AsyncIterator[bytes] | None = None,
) -> Hijacked:
    """Answer ``request`` and relay between its client and ``end`` (which is closed in the end).

    ``raw``: the client wants no frames; ``convert`` makes it so where the sub-init thinks otherwise. ``history`` is
    sent before anything else, ``starting`` is run once the answer is out (its bytes are sent: why something could not
    be started). When the process has closed its side, the client learns of it only after ``ended()``, so that whoever
    asks then for the exit code finds it.
    """
    connection = request.protocol
    assert isinstance(connection, Connection)
    response = _head(connection, raw, version)
    try:
        await response.prepare(request)
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client left")
    except BaseException:
        end.close()
        raise
    relay = _Relay(transport, DetachKeys(keys), stdin=stdin, convert=convert)
    try:
        connection.hijack(relay)
        if history is not None:
            await _head_read(transport)
            async for data in history:
                await response.write(data)
        if starting is not None:
            async for data in starting:
                await _head_read(transport)
                await response.write(data)
        if history is None:
            await _head_read(transport)
        await asyncio.get_running_loop().create_connection(lambda: relay, sock=end)
        await relay.done
        if not relay.left and not relay.detached:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGER):
                    await ended()
    except BaseException:
        end.close()
        raise
    finally:
        relay.close()
    response.detached = relay.detached
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(_LINGER):
            await response.write_eof()
    return response


async def send(
    request: web.BaseRequest, data: AsyncIterator[bytes] | None, *, raw: bool, version: tuple[int, int]
) -> Hijacked:
    """Answer ``request`` as `hijack` does, with nothing but ``data``: the stream then ends."""
    connection = request.protocol
    assert isinstance(connection, Connection)
    response = _head(connection, raw, version)
    await response.prepare(request)
    if data is not None and request.transport is not None:
        await _head_read(request.transport)
        async for piece in data:
            await response.write(piece)
    return response


async def _head_read(transport: asyncio.BaseTransport) -> None:
    """Give the client a moment to read the head of the answer before anything follows.

    docker-py reads the head through a buffer, then the stream past it: what came along with the head is lost to it.
    """
    for _ in range(_MOMENTS):
        if not _unread(transport):
            return
        await asyncio.sleep(_MOMENT)


def _unread(transport: asyncio.BaseTransport) -> bool:
    """Whether there are bytes that the client has not taken (a unix socket knows, TCP that they were acknowledged)."""
    if transport.is_closing():
        return False
    try:
        return fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4)) != bytes(4)
    except OSError:
        return False


def _head(connection: Connection, raw: bool, version: tuple[int, int]) -> Hijacked:
    kind = RAW if raw or version < (1, 42) else MULTIPLEXED
    if connection.upgrade:
        response = Hijacked(
            status=101, reason="UPGRADED", headers={"Content-Type": kind, "Connection": "Upgrade", "Upgrade": "tcp"}
        )
    else:
        response = Hijacked(status=200, headers={"Content-Type": kind, "Connection": "close"})
    response.headers.update(HEADERS)
    response.force_close()
    return response
