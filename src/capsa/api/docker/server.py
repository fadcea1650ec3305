"""The Docker Engine API over HTTP: every request, its version, its handler, its answer."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Callable

from aiohttp import HttpVersion11, web
from aiohttp.web_protocol import RequestHandler

import capsa
from capsa.api.docker import (
    absent,
    archive,
    attach,
    call,
    containers,
    distribution,
    errors,
    events,
    exec,
    images,
    info,
    networks,
    processes,
    stats,
    system,
    transfers,
    versions,
    volumes,
)
from capsa.api.docker.call import Call
from capsa.api.docker.connection import Connection
from capsa.api.docker.hangup import Hangups
from capsa.api.docker.router import Router
from capsa.api.docker.tls import Tls
from capsa.engine.engine import Engine
from capsa.engine.listen import BACKLOG
from capsa.errors import ExpectationFailed, NotFound

_LINGER = 2.0
_IDLE = 300  # seconds
_LONGEST_LINE = 1 << 20  # as Go's servers have it: credentials of many registries are one header
_MOST_HEADERS = 1000
_LEFT = 499  # for nobody to see: the client has left
call.HEADERS.update(
    {
        "Api-Version": versions.text(versions.NEWEST),
        "Docker-Experimental": "false",
        "Ostype": "linux",
        "Server": f"Capsa/{capsa.__version__} (linux)",
    }
)


def router() -> Router:
    """Everything that is served (docs/api.md)."""
    complete = Router()
    for noun in (
        containers,
        archive,
        attach,
        exec,
        images,
        transfers,
        distribution,
        volumes,
        networks,
        system,
        info,
        events,
        processes,
        stats,
        absent,
    ):
        noun.routes(complete)
    return complete


class _Server(web.Server):
    hangups: Hangups

    def __call__(self) -> RequestHandler:
        loop = asyncio.get_running_loop()
        return Connection(
            self,
            loop=loop,
            hangups=self.hangups,
            access_log=None,
            keepalive_timeout=_IDLE,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
            max_headers=_MOST_HEADERS,
            auto_decompress=False,  # archives may be compressed, and say so themselves
        )


class Api:
    """Serves one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._router = router()
        self._server = _Server(self._handle)
        self._server.hangups = Hangups()
        self._listeners: list[asyncio.AbstractServer] = []

    async def listen(self, listener: socket.socket, context: ssl.SSLContext | None = None) -> None:
        """Serve connections to a listening socket, too; by TLS where there is a ``context``."""
        loop = asyncio.get_running_loop()
        factory: Callable[[], asyncio.Protocol] = self._server
        if context is not None:
            factory = functools.partial(Tls, context, self._server)
        self._listeners.append(await loop.create_server(factory, sock=listener, backlog=BACKLOG))

    async def close(self) -> None:
        """Take no more connections, and end those that there are."""
        for listener in self._listeners:
            listener.close()
        for connection in self._server.connections:
            if isinstance(connection, Connection):
                connection.end_stream()
        await self._server.shutdown(_LINGER)
        self._server.hangups.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        try:
            version, path = versions.split(request.path)
            if request.method == "OPTIONS":
                return web.Response(headers=call.HEADERS)
            handler, name = self._router.find(request.method, path)
            if handler is None:
                raise NotFound("page not found")
            if "Expect" in request.headers:
                await _go_on(request)
            response = await handler(Call(self._engine, request, connection, version, name))
        except asyncio.CancelledError:
            if connection.connected:
                raise
            return web.Response(status=_LEFT)
        except ConnectionError:
            return web.Response(status=_LEFT)
        except Exception as error:
            response = errors.response(error)
        finally:
            connection.leaving = None
            if connection.stream is None:
                connection.unhold()
        if not response.prepared:
            response.headers.update(call.HEADERS)
        return response


async def _go_on(request: web.BaseRequest) -> None:
    """Tell a client that waits for it to send its body (RFC 9110, 10.1.1); raises `ExpectationFailed`."""
    if request.headers["Expect"].lower() != "100-continue":
        raise ExpectationFailed(f"unknown expectation: {request.headers['Expect'][:80]}")
    if request.transport is not None and request.version >= HttpVersion11:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
