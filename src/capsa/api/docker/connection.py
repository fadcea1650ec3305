"""A client's connection: HTTP until a handler takes it over ("hijacks" it) as a raw stream.

HTTP parsers have no room for what Docker's clients do: ``POST …/attach`` with ``Upgrade: tcp``, a body or none, and
input right behind it, perhaps before the answer is there, perhaps without ``Upgrade`` at all (old clients). So
`Connection` looks at the head of each request itself. Of one that may become a stream only head and body go to
aiohttp's parser, without the headers of the upgrade; what follows is kept for the stream, or is the next request if
there is none.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any, Protocol

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from capsa.api.docker.call import HEADERS
from capsa.api.docker.hangup import Hangups

_log = logging.getLogger("capsa.api")
_STREAM = re.compile(rb"POST /(?:v[0-9.]+/)?(?:containers/[^/ ?]+/attach|exec/[^/ ?]+/start)/?[? ]")
_HEADER = re.compile(rb"\r\n(upgrade|connection|content-length|transfer-encoding):[ \t]*([^\r\n]*)", re.IGNORECASE)
_LONGEST_HEAD = 1 << 16
_LONGEST_LENGTH = 19  # digits; what has more is refused by the parser
_MOST_EARLY = 1 << 16


def _without_upgrade(header: re.Match[bytes]) -> bytes:
    name, value = header[1].lower(), header[2].lower()
    return b"" if name == b"upgrade" or (name == b"connection" and b"upgrade" in value) else header[0]


class Stream(Protocol):
    """What a hijacked connection hands its bytes to."""

    def client_sent(self, data: bytes) -> None:
        """Bytes of the client."""

    def client_ended(self) -> None:
        """The client sends no more; it may still read."""

    def client_left(self) -> None:
        """The client is gone."""

    def client_congested(self, congested: bool) -> None:
        """The client does (not) take its bytes."""


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = (
        "_body_left",
        "_early",
        "_first",
        "_hangups",
        "_held",
        "_partial",
        "_patience",
        "input_over",
        "leaving",
        "stream",
        "upgrade",
    )

    def __init__(self, *args: Any, hangups: Hangups, **named: Any) -> None:
        super().__init__(*args, **named)
        self._hangups = hangups
        #: Where bytes go once the connection was hijacked.
        self.stream: Stream | None = None
        #: The request on its way asked for an upgrade (to ``tcp``).
        self.upgrade = False
        self.input_over = False
        #: What is cancelled when the client leaves.
        self.leaving: asyncio.Task[Any] | None = None
        self._partial = b""
        self._first = True
        self._held = False  # a request that may become a stream is on its way
        self._body_left = 0
        self._early = bytearray()
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client, who may take his time with his first request, but not all the time there is."""
        super().connection_made(transport)
        self._patience = asyncio.get_running_loop().call_later(self._keepalive_timeout, self._give_up)

    def _give_up(self) -> None:
        if self._first and self.transport is not None:
            self.transport.abort()

    # -- bytes of the client

    def data_received(self, data: bytes) -> None:
        """Bytes of the client: of requests, or of the stream."""
        if self.stream is not None:
            self.stream.client_sent(data)
        elif self._held:
            self._behind_head(data)
        elif self._partial or self._first or (self._waiter is not None and not self._messages):
            self._head(data)
        else:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        """For HTTP. A body that breaks the rules ends also the request that waits for the rest of it."""
        super().data_received(data)
        request = self._current_request
        if request is not None and self._messages and isinstance(self._messages[-1][0], _ErrInfo):
            request.content.set_exception(web.RequestPayloadError("the body is not what its head announced"))

    def _head(self, data: bytes) -> None:
        """The beginning of a request."""
        data = self._partial + data
        self._partial = b""
        line_end = data.find(b"\n")  # after a "\r", or the parser says what is wrong
        whole_line = line_end >= 0
        found = None if whole_line and data[line_end - 1] != 13 else _STREAM.match(data)
        end = data.find(b"\r\n\r\n") if found else 0
        if len(data) < _LONGEST_HEAD and (not whole_line or end < 0):
            self._partial = data
            return
        self._first = False
        if not found or end < 0:
            self._parse(data)
            return
        head, rest = data[: end + 2], data[end + 4 :]
        headers = {match[1].lower(): match[2].strip() for match in _HEADER.finditer(head)}
        self.upgrade = headers.get(b"upgrade", b"").lower() == b"tcp"
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" not in headers and length.isdigit() and len(length) <= _LONGEST_LENGTH:
            self._held = True
            self._body_left = int(length)
        head = _HEADER.sub(_without_upgrade, head)
        self._parse(head + b"\r\n")
        if rest:
            self.data_received(rest)

    def _behind_head(self, data: bytes) -> None:
        """The rest of the body, and what comes before the request is answered."""
        if self._body_left:
            body, data = data[: self._body_left], data[self._body_left :]
            self._body_left -= len(body)
            self._parse(body)
        if data:
            self._early += data
            if len(self._early) > _MOST_EARLY and self.transport is not None:
                self.transport.pause_reading()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more. A stream stays open the other way, unless the client is gone altogether."""
        if self.stream is None and not self._held:
            return None
        self.input_over = True
        if self.transport is not None and self.transport.get_extra_info("sslcontext") is None:
            self._hangups.watch(self.transport.get_extra_info("socket").fileno(), self._hung_up)
        if self.stream is not None:
            self.stream.client_ended()
        return True

    def _hung_up(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client left."""
        if self.input_over and self.transport is not None:
            self._hangups.forget(self.transport.get_extra_info("socket").fileno())
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)
        self.end_stream()

    def end_stream(self) -> None:
        """The engine ends: so does what would go on without end."""
        if self.stream is not None:
            self.stream.client_left()
        if self.leaving is not None:
            self.leaving.cancel()

    # -- becoming a stream, or not

    def hijack(self, stream: Stream) -> None:
        """From now on bytes go to ``stream``, those first that came before."""
        self.stream = stream
        early, self._early = bytes(self._early), bytearray()
        if self.transport is None:
            stream.client_left()
            return
        self.transport.resume_reading()
        if early:
            stream.client_sent(early)
        if self.input_over:
            stream.client_ended()

    def unhold(self) -> None:
        """The request is answered and was none for a stream: what came behind it is the next request."""
        if not self._held:
            return
        self._held = False
        early, self._early = bytes(self._early), bytearray()
        if self.transport is not None:
            self.transport.resume_reading()
        if early:
            self._parse(early)
        if self.input_over:
            self.close()

    # -- what is no HTTP

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be understood, or went wrong where nobody expected it."""
        if isinstance(exc, LineTooLong):
            status, text = 431, "a header, or the request's first line, is too long"
        elif status == 400:
            text = f"malformed request: {(message or str(exc)).strip().partition(chr(10))[0][:200]}"
        else:
            _log.error("a request failed", exc_info=exc)
            text = "the engine failed, see its log"
        response = web.json_response({"message": text}, status=status, headers=HEADERS)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **named: Any) -> None:
        """Not what clients did wrong: they were told."""
        if not isinstance(named.get("exc_info"), web.RequestPayloadError):
            _log.error(*args, **named)

    # -- flow control

    def pause_writing(self) -> None:
        """The client does not keep up."""
        super().pause_writing()
        if self.stream is not None:
            self.stream.client_congested(True)

    def resume_writing(self) -> None:
        """It caught up."""
        super().resume_writing()
        if self.stream is not None:
            self.stream.client_congested(False)
