"""One request: what it asks for, and how it is answered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from capsa.errors import CapsaError, InvalidArgument

if TYPE_CHECKING:
    from capsa.api.docker.connection import Connection
    from capsa.api.docker.filters import Filters
    from capsa.engine.engine import Engine

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("capsa.api")
_LARGEST = 16 << 20


class Call:
    """A request on its way through a handler. ``name`` is what the path names (a container, an image)."""

    __slots__ = ("connection", "engine", "name", "query", "request", "version")

    def __init__(
        self, engine: Engine, request: web.BaseRequest, connection: Connection, version: tuple[int, int], name: str
    ) -> None:
        self.connection = connection
        self.engine = engine
        self.request = request
        self.version = version
        self.name = name
        self.query = request.rel_url.query

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query, as Docker reads it."""
        value = self.query.get(name)
        if value is None:
            return default
        return value.strip().lower() not in ("", "0", "no", "false", "none")

    def number(self, name: str, default: int | None = None) -> int | None:
        """An integer of the query; raises `InvalidArgument`."""
        value = self.query.get(name, "")
        if not value:
            return default
        try:
            return int(value)
        except ValueError:
            raise InvalidArgument(f"invalid value for {name}: {value[:80]!r} is not a number") from None

    def size(self) -> tuple[int, int]:
        """Height and width of a terminal; raises `InvalidArgument`."""
        height, width = self.number("h"), self.number("w")
        if height is None or width is None or not 0 <= height < 65536 or not 0 <= width < 65536:
            raise InvalidArgument("the terminal's size needs h and w, numbers below 65536")
        return height, width

    def filters(self, *known: str) -> Filters:
        """The filters of the query, of which ``known`` may be used; raises `InvalidArgument`."""
        from capsa.api.docker.filters import Filters

        return Filters.parse(self.query.get("filters", ""), known)

    async def json(self) -> Any:
        """The decoded body, None without one; raises `InvalidArgument`, also if it is not said to be JSON.

        Pages of browsers may send anything else to anybody without being asked for permission.
        """
        data = await self.body()
        if not data.strip():
            return None
        kind = self.request.headers.get("Content-Type", "")
        if kind.partition(";")[0].strip().lower() != "application/json":
            raise InvalidArgument(f"unsupported Content-Type header ({kind[:80]}): must be 'application/json'")
        try:
            return msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidArgument(f"invalid JSON: {error}") from error

    async def body(self) -> bytes:
        """The whole body, up to 16 MiB; raises `InvalidArgument`."""
        if not self.request.body_exists:
            return b""
        data = bytearray()
        async for chunk in self.request.content.iter_any():
            data += chunk
            if len(data) > _LARGEST:
                raise InvalidArgument(f"the body is larger than {_LARGEST >> 20} MiB")
        return bytes(data)

    def end_when_left(self) -> None:
        """From now on the handler is cancelled when its client leaves."""
        self.connection.leaving = asyncio.current_task()

    async def stream(
        self, content_type: str = "application/json", headers: Mapping[str, str] | None = None
    ) -> web.StreamResponse:
        """Begin an answer that is written bit by bit, as long as the client is there."""
        self.end_when_left()
        response = web.StreamResponse(headers={"Content-Type": content_type, **(headers or {})})
        response.headers.update(HEADERS)
        await response.prepare(self.request)
        return response

    async def send(self, response: web.StreamResponse, pieces: AsyncIterable[bytes]) -> None:
        """Write all ``pieces``; a failure midway breaks the connection off: the log alone can tell why."""
        try:
            async for piece in pieces:
                await response.write(piece)
        except CapsaError as error:
            _log.warning("the answer to %s %s breaks off: %s", self.request.method, self.request.path, error)
            if self.request.transport is not None:
                self.request.transport.abort()
            raise ConnectionError(str(error)) from error


def answer(value: Any, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(status=status, body=_encode(value) + b"\n", content_type="application/json")


def nothing(status: int = 204) -> web.Response:
    """An answer without a body."""
    return web.Response(status=status)


HEADERS: dict[str, str] = {}
