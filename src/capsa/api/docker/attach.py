"""``/containers/ID/attach`` and ``/containers/ID/logs``: the streams of a container."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from capsa.api.docker.call import Call
from capsa.api.docker.relay import detach_keys
from capsa.api.docker.streams import MULTIPLEXED, RAW, hijack, send
from capsa.engine import logs
from capsa.engine.container import Container
from capsa.engine.times import parse as parse_time
from capsa.errors import Conflict, InvalidArgument, Unsupported
from capsa.platform.protocol import Attach

if TYPE_CHECKING:
    from capsa.api.docker.router import Router


def routes(router: Router) -> None:
    """Serve them."""
    router.add("POST", "/containers/{}/attach", attach)
    router.add("GET", "/containers/{}/attach/ws", attach_websocket)
    router.add("GET", "/containers/{}/logs", read_logs)


class _Wish(msgspec.Struct):
    """What a client wants of a container's streams."""

    container: Container
    streams: Attach
    keys: bytes
    history: AsyncIterator[bytes] | None


def _wish(call: Call, streams: Attach) -> _Wish:
    """Check what the query asks for; raises `Conflict` where the container's state does not allow it."""
    container = call.engine.containers.find(call.name)
    keys = detach_keys(call.query.get("detachKeys", ""))
    if container.state.status == "paused":
        raise Conflict(f"Container {container.id} is paused, unpause the container before attach")
    if container.state.status == "restarting":
        raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
    streams.stdin = streams.stdin and container.config.open_stdin
    history = None
    if call.flag("logs") and container.logs:
        history = logs.read(container, logs.Selection(stdout=streams.stdout, stderr=streams.stderr))
    return _Wish(container, streams, keys if container.config.tty else b"", history)  # bytes of a pipe are not keys


async def attach(call: Call) -> web.StreamResponse:
    """Attach to a container that runs, or wait for its start."""
    engine = call.engine
    wish = _wish(call, Attach(stdin=call.flag("stdin"), stdout=call.flag("stdout"), stderr=call.flag("stderr")))
    container = wish.container
    if not call.flag("stream"):
        call.end_when_left()
        return await send(call.request, wish.history, raw=container.config.tty, version=call.version)
    end = await engine.attach(container, wish.streams)
    engine.events.container("attach", container)
    try:
        response = await hijack(
            call.request,
            end,
            stdin=wish.streams.stdin,
            raw=container.config.tty,
            keys=wish.keys,
            version=call.version,
            history=wish.history,
            ended=container.ended,
        )
    finally:
        engine.forget_waiting(container, end)
    if response.detached:
        engine.events.container("detach", container)
    return response


async def attach_websocket(call: Call) -> web.StreamResponse:
    """The same as a WebSocket; before version 1.42 it always had all streams."""
    from capsa.api.docker import websocket

    response = websocket.prepare(call)
    every = call.version < (1, 42)
    wish = _wish(
        call,
        Attach(
            stdin=every or call.flag("stdin"),
            stdout=every or call.flag("stdout"),
            stderr=every or call.flag("stderr"),
        ),
    )
    engine, container = call.engine, wish.container
    end = await engine.attach(container, wish.streams) if call.flag("stream") else None
    if end is not None:
        engine.events.container("attach", container)
    try:
        detached = await websocket.relay(
            call,
            response,
            end,
            stdin=wish.streams.stdin,
            terminal=container.config.tty,
            keys=wish.keys,
            history=wish.history,
            ended=container.ended,
        )
    finally:
        if end is not None:
            engine.forget_waiting(container, end)
    if detached:
        engine.events.container("detach", container)
    return response


def stream_type(container: Container, call: Call) -> str:
    """The media type of its output."""
    return RAW if container.config.tty or call.version < (1, 42) else MULTIPLEXED


async def read_logs(call: Call) -> web.StreamResponse:
    """The log, and with ``follow`` what is added to it."""
    container = call.engine.containers.find(call.name)
    selection = logs.Selection(
        stdout=call.flag("stdout"),
        stderr=call.flag("stderr"),
        follow=call.flag("follow"),
        timestamps=call.flag("timestamps"),
        details=call.flag("details"),
        tail=_tail(call.query.get("tail", "all")),
        since=_time(call, "since"),
        until=_time(call, "until"),
    )
    if not (selection.stdout or selection.stderr):
        raise InvalidArgument("Bad parameters: you must choose at least one stream")
    if not container.logs:
        raise Unsupported("configured logging driver does not support reading")
    response = await call.stream(stream_type(container, call))
    async for data in logs.read(container, selection):
        await response.write(data)
    return response


def _tail(text: str) -> int:
    if text in ("", "all"):
        return -1
    try:
        return max(-1, int(text))
    except ValueError:
        return -1


def _time(call: Call, name: str) -> int:
    text = call.query.get(name, "")
    return parse_time(text) if text and text != "0" else 0
