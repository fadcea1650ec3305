"""HTTP/1.1 as a client of an engine needs it (RFC 9112): requests, streamed responses, upgraded connections.

Own code because ``http.client`` takes longer to import than a container takes to start, and does not hand out
upgraded connections.
"""

from __future__ import annotations

from capsa.errors import CapsaError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator, Mapping

_HEAD_LIMIT = 65536
_READ = 65536


class Response:
    """The head of a response, and its body as it comes in."""

    def __init__(
        self, connection: Connection, status: int, reason: str, headers: dict[str, str], bodiless: bool = False
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self._connection = connection
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        length = headers.get("content-length")
        self._left: int | None = int(length) if length is not None and not self._chunked else None
        if bodiless or status in (204, 304) or 100 <= status < 200:
            self._left, self._chunked = 0, False
        self._done = False

    def chunks(self) -> Iterator[bytes]:
        """The body, in pieces as they arrive; raises `Unavailable` when it breaks off."""
        connection = self._connection
        if self._chunked:
            while True:
                line = connection.line()
                try:
                    size = int(line.split(b";")[0], 16)
                except ValueError:
                    raise Unavailable("the engine's answer broke off") from None
                if size == 0:
                    while connection.line():
                        pass
                    break
                while size:
                    piece = connection.some(size)
                    if not piece:
                        raise Unavailable("the engine's answer broke off")
                    size -= len(piece)
                    yield piece
                connection.line()
        elif self._left is not None:
            while self._left:
                piece = connection.some(self._left)
                if not piece:
                    raise Unavailable("the engine's answer broke off")
                self._left -= len(piece)
                yield piece
        else:
            while piece := connection.some(_READ):
                yield piece
            connection.close()
        self._done = True
        if self.headers.get("connection", "").lower() == "close":
            connection.close()

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())

    def lines(self) -> Iterator[bytes]:
        """The body as lines, without their ends (JSON streams)."""
        rest = b""
        for piece in self.chunks():
            *complete, rest = (rest + piece).split(b"\n")
            yield from (line for line in complete if line.strip())
        if rest.strip():
            yield rest

    def take(self) -> tuple[socket.socket, bytes]:
        """The connection itself, after an upgrade, and what was read of it already."""
        return self._connection.take()

    def close(self) -> None:
        """Give up the rest of the body."""
        if not self._done:
            self._connection.close()


class Connection:
    """One connection to an engine; requests follow one another on it."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        """``connect`` makes the connected socket, when it is first needed and again after a close."""
        self._connect = connect
        self._socket: socket.socket | None = None
        self._buffer = b""

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
    ) -> Response:
        """Send a request and read the head of its response.

        A ``body`` that is no bytes is sent in chunks. Raises `CapsaError` if the engine does not speak HTTP,
        `OSError` from the socket.
        """
        if self._socket is not None and self._stale():
            self.close()
        again = self._socket is not None and method in ("GET", "HEAD")
        try:
            return self._ask(method, target, headers, body)
        except Unavailable:
            if not again:
                raise
        self.close()  # the engine closed an idle connection at the very moment that this was sent
        return self._ask(method, target, headers, body)

    def _ask(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None
    ) -> Response:
        if self._socket is None:
            self._socket = self._connect()
        head = [f"{method} {target} HTTP/1.1", "Host: capsa", "User-Agent: capsa"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        if isinstance(body, bytes):
            head.append(f"Content-Length: {len(body)}")
        elif body is not None:
            head.append("Transfer-Encoding: chunked")
        elif method in ("POST", "PUT"):
            head.append("Content-Length: 0")
        data = ("\r\n".join(head) + "\r\n\r\n").encode()
        try:
            self._socket.sendall(data + body if isinstance(body, bytes) else data)
            if body is not None and not isinstance(body, bytes):
                self._send_chunks(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the engine has answered early; its answer says why
        try:
            return self._response(bodiless=method == "HEAD")
        except ConnectionResetError:
            raise Unavailable("the engine closed the connection without an answer") from None

    def _stale(self) -> bool:
        """Whether the engine has closed the idle connection meanwhile: then there is something to read."""
        import select

        poll = select.poll()
        assert self._socket is not None
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def _send_chunks(self, body: Iterable[bytes]) -> None:
        assert self._socket is not None
        for piece in body:
            if piece:
                self._socket.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        self._socket.sendall(b"0\r\n\r\n")

    def _response(self, bodiless: bool) -> Response:
        while True:
            status_line = self.line()
            version, _, rest = status_line.partition(b" ")
            if not version.startswith(b"HTTP/1."):
                self.close()
                raise CapsaError("what listens at the engine's address does not speak HTTP")
            code, _, reason = rest.decode("latin-1").partition(" ")
            headers: dict[str, str] = {}
            while line := self.line():
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            if code != "100":
                try:
                    return Response(self, int(code), reason, headers, bodiless)
                except ValueError:
                    self.close()
                    raise CapsaError(f"the head of the engine's answer makes no sense: {status_line[:80]!r}") from None

    def line(self) -> bytes:
        """Read one line, without its end."""
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                found, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
                return found.rstrip(b"\r")
            if len(self._buffer) > _HEAD_LIMIT:
                raise CapsaError("the engine's answer has a line without end")
            piece = self._receive(_READ)
            if not piece:
                raise Unavailable("the engine closed the connection without an answer")
            self._buffer += piece

    def some(self, most: int) -> bytes:
        """At most ``most`` bytes, none at the end of the connection."""
        if self._buffer:
            found, self._buffer = self._buffer[:most], self._buffer[most:]
            return found
        return self._receive(min(most, _READ))

    def _receive(self, most: int) -> bytes:
        return self._socket.recv(most) if self._socket else b""

    def take(self) -> tuple[socket.socket, bytes]:
        """Give the socket away, with what was read ahead."""
        assert self._socket is not None
        taken, rest = self._socket, self._buffer
        self._socket, self._buffer = None, b""
        return taken, rest

    def close(self) -> None:
        """Close it; a further request connects anew."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""
