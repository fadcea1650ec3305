"""An engine, as the command line speaks with it: where it is, how to reach it, the Docker Engine API over it."""

from __future__ import annotations

import json

from capsa.cli.http import Connection, Response
from capsa.errors import CapsaError, InvalidArgument, Unavailable, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from capsa.cli.context import Context

_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
CONNECT_TIMEOUT = 30.0


class ApiError(CapsaError):
    """The engine refused; ``code`` is its HTTP status and the text its message."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def quote(text: str, safe: bytes = b"") -> str:
    """Percent-encode (RFC 3986) all but unreserved characters and ``safe``."""
    return "".join(
        chr(byte) if byte in _UNRESERVED or byte in safe else f"%{byte:02X}"
        for byte in text.encode(errors="surrogateescape")
    )


def query(parameters: Mapping[str, object]) -> str:
    """``?a=1&b=true``: None is left out, truths are ``1``, lists repeat, mappings are JSON."""
    parts = []
    for name, value in parameters.items():
        if value is None or value is False:
            continue
        if isinstance(value, dict):
            if value:
                parts.append(f"{name}={quote(json.dumps(value))}")
        elif isinstance(value, (list, tuple)):
            parts += [f"{name}={quote(str(one))}" for one in value]
        else:
            parts.append(f"{name}={quote('1' if value is True else str(value))}")
    return "?" + "&".join(parts) if parts else ""


class Engine:
    """A client of the engine that a `Context` selects."""

    def __init__(self, context: Context) -> None:
        self._connect = connector(context)
        self._connection = Connection(self._connect)

    def request(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, object] | None = None,
        *,
        json_body: object = None,
        body: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        own: bool = False,
    ) -> Response:
        """Send one request; ``own``: on a connection of its own (long answers, upgrades).

        Raises `ApiError` for an answer of 400 and up.
        """
        sent = dict(headers or {})
        data: bytes | Iterable[bytes] | None = body
        if json_body is not None:
            try:
                data = json.dumps(json_body, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                around = error.object[max(0, error.start - 20) : error.end]
                raise InvalidArgument(f"an argument is not UTF-8: {around!r}") from None
            sent.setdefault("Content-Type", "application/json")
        connection = Connection(self._connect) if own else self._connection
        target = path + query(parameters or {})
        try:
            response = connection.request(method, target, sent, data)
        except OSError as error:
            raise Unavailable(f"the engine does not answer: {reason(error)}") from error
        if response.status >= 400:
            text = response.read()
            raise ApiError(message(text) or f"{method} {path}: {response.status} {response.reason}", response.status)
        return response

    def call(
        self, method: str, path: str, parameters: Mapping[str, object] | None = None, *, json_body: object = None
    ) -> Any:
        """Send a request, read all of its answer, as decoded JSON (None if empty)."""
        data = self.request(method, path, parameters, json_body=json_body).read()
        try:
            return json.loads(data) if data.strip() else None
        except ValueError:
            raise CapsaError(f"the engine's answer to {method} {path} is not JSON: {data[:80]!r}") from None

    def upgrade(
        self, path: str, parameters: Mapping[str, object] | None = None, *, json_body: object = None
    ) -> tuple[socket.socket, bytes]:
        """A raw two-way stream (attach, exec): its socket, and what of it was read already."""
        headers = {"Connection": "Upgrade", "Upgrade": "tcp"}
        response = self.request("POST", path, parameters, json_body=json_body, headers=headers, own=True)
        if response.status not in (101, 200):
            raise CapsaError(f"the engine did not open a stream, but answered {response.status} {response.reason}")
        return response.take()

    def wait(self, container: str, condition: str) -> Response:
        """Begin to wait for a container (before it is started, so that nothing is missed)."""
        return self.request("POST", f"/containers/{container}/wait", {"condition": condition}, own=True)


def message(data: bytes) -> str:
    """The text of an API error."""
    try:
        decoded = json.loads(data)
    except ValueError:
        return data.decode(errors="replace").strip()
    return str(decoded.get("message", "")) if isinstance(decoded, dict) else ""


def connector(context: Context) -> Callable[[], socket.socket]:
    """How to reach the engine of ``context``; raises `InvalidArgument` for an address of an unknown form."""
    host = context.host
    scheme, separator, address = host.partition("://")
    if not separator or scheme not in ("unix", "tcp", "http", "https"):
        raise InvalidArgument(f"no such form of an engine's address: {host} (use unix://PATH or tcp://NAME:PORT)")
    if scheme == "unix":
        return lambda: _unix(context, address)
    name, _, port = address.rstrip("/").rpartition(":")
    secure = context.tls or scheme == "https"
    if not port.isdecimal():
        name, port = address.rstrip("/"), "2376" if secure else "2375"
    return lambda: _tcp(context, name.strip("[]"), int(port), secure)


def _unix(context: Context, path: str) -> socket.socket:
    import socket

    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
        return connection
    except OSError as error:
        connection.close()
        from capsa.cli.context import DEFAULT_HOST

        absent = isinstance(error, (FileNotFoundError, ConnectionRefusedError))
        if not (absent and context.host == DEFAULT_HOST):
            hint = "is it running?" if absent else "may you use it?"
            raise Unavailable(f"cannot reach the engine at {context.host}: {reason(error)} ({hint})") from None
    from capsa.cli.background import start

    return start(path)


def _tcp(context: Context, name: str, port: int, secure: bool) -> socket.socket:
    import socket

    try:
        connection = socket.create_connection((name, port), timeout=CONNECT_TIMEOUT)
    except OSError as error:
        raise Unavailable(f"cannot reach the engine at {context.host}: {reason(error)}") from None
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not secure:
        return connection
    from capsa.cli.tls import wrap

    return wrap(context, connection, name)
