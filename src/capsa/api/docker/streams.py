"""Hijacked connections (Docker Engine API, "Attach to a container"): a client's connection becomes a raw stream.

`hijack` answers the request, then relays (`capsa.api.docker.relay`) between the client and a socket of a sub-init until
the process has ended or the client has left. `send` is for streams that have a beginning and an end already.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import termios
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from capsa.api.docker.call import HEADERS
from capsa.api.docker.connection import Connection
from capsa.api.docker.relay import DetachKeys, Relay

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"
_LINGER = 5.0
_MOMENT, _MOMENTS = 0.001, 200


class Hijacked(web.StreamResponse):
    """An answer whose body is whatever the process says: no length, no chunks."""

    _length_check = False
    #: The client left by its detach keys.
    detached = False


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
    relay = Relay(transport, DetachKeys(keys), stdin=stdin, convert=convert)
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
