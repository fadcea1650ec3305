"""``/containers/ID/attach/ws``: an attached stream as a WebSocket (RFC 6455), as browsers can have it.

Output comes as binary messages without frames of ours (text messages before version 1.28), stdout and stderr alike;
messages of the client are input.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import WSMsgType, web

from capsa.api.docker.call import HEADERS, Call
from capsa.api.docker.frames import Unframe
from capsa.api.docker.relay import DetachKeys
from capsa.errors import Forbidden, InvalidArgument

_LARGEST_MESSAGE = 1 << 20
_READ = 1 << 16
_LINGER = 5.0
_BINARY_SINCE = (1, 28)


def prepare(call: Call) -> web.WebSocketResponse:
    """The answer to come; raises `InvalidArgument` if the request does not ask for a WebSocket.

    No page of somebody else's site reaches an engine through its user's browser: raises `Forbidden`.
    """
    request = call.request
    origin = request.headers.get("Origin")
    remote = request.get_extra_info("socket").family != socket.AF_UNIX
    if origin and remote and urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
        raise Forbidden(f"a page of {origin[:200]} may not attach to containers of this engine")
    response = web.WebSocketResponse(max_msg_size=_LARGEST_MESSAGE, compress=False, timeout=_LINGER)
    if not response.can_prepare(request):
        raise InvalidArgument("this is for WebSockets: the request has to ask for an upgrade to one")
    response.headers.update(HEADERS)
    return response


async def relay(
    call: Call,
    response: web.WebSocketResponse,
    end: socket.socket | None,
    *,
    stdin: bool,
    terminal: bool,
    keys: bytes,
    history: AsyncIterator[bytes] | None,
    ended: Callable[[], Awaitable[object]],
) -> bool:
    """Copy both ways until the container's side (``end``, which is closed) or the client ends; true if it detached."""
    try:
        await response.prepare(call.request)
    except BaseException:
        if end is not None:
            end.close()
        raise
    call.end_when_left()
    plain = Unframe()

    async def show(data: bytes) -> None:
        data = data if terminal else plain(data)
        if not data:
            return
        if call.version >= _BINARY_SINCE:
            await response.send_bytes(data)
        else:
            await response.send_str(data.decode(errors="replace"))

    if history is not None:
        async for data in history:
            await show(data)
    if end is None:
        await response.close()
        return False
    reader, writer = await asyncio.open_connection(sock=end)
    finder = DetachKeys(keys)

    async def output() -> None:
        while data := await reader.read(_READ):
            await show(data)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER):
                await ended()

    async def take() -> bool:
        async for message in response:
            if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
                break
            if not stdin:
                continue
            data = message.data if message.type == WSMsgType.BINARY else message.data.encode()
            data, detached = finder.take(data)
            writer.write(data)
            await writer.drain()
            if detached:
                return True
        return False

    tasks: tuple[asyncio.Task[None], asyncio.Task[bool]] = (
        asyncio.ensure_future(output()),
        asyncio.ensure_future(take()),
    )
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[1].done() and not tasks[1].cancelled() and tasks[1].exception() is None and tasks[1].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
        with contextlib.suppress(ConnectionError, RuntimeError):
            await response.close()
