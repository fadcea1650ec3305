"""The Docker Engine API over a raw unix socket: little enough to measure the engine and not the client."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from bench.spawn import BenchError

VERSION = "/v1.41"


class Api:
    """One kept-alive connection; the same code drives docker and capsa."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket: socket.socket | None = None
        self._buffer = b""

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def request(self, method: str, path: str, body: object = None, *, expect: tuple[int, ...] = (200, 201, 204)) -> Any:
        """One request; its decoded answer. Raises `BenchError` for any status not in ``expect``."""
        data = b"" if body is None else json.dumps(body).encode()
        try:
            self._send(self._head(method, path, len(data)) + data)
            status, answer = self._answer()
        except BaseException:
            self.close()
            raise
        if status not in expect:
            raise BenchError(f"{method} {path} answered {status}: {answer[:400].decode(errors='replace')}")
        return json.loads(answer) if answer.strip() else None

    def load(self, archive: Path) -> None:
        """``POST /images/load`` of a file."""
        self._send(self._head("POST", "/images/load?quiet=1", archive.stat().st_size, "application/x-tar"))
        assert self._socket is not None
        with archive.open("rb") as file:
            self._socket.sendfile(file)
        status, answer = self._answer()
        if status != 200 or b'"error' in answer:
            raise BenchError(f"loading {archive} answered {status}: {answer[-400:].decode(errors='replace')}")

    def exec(self, container: str, command: list[str]) -> None:
        """Run ``command`` in a container, read its output to the end, ask for its exit code (0 is expected)."""
        created = self.request(
            "POST",
            f"/containers/{container}/exec",
            {"AttachStdout": True, "AttachStderr": True, "Cmd": command},
        )
        identity = created["Id"]
        body = json.dumps({"Detach": False, "Tty": False}).encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.connect(self.path)
            stream.sendall(
                f"POST {VERSION}/exec/{identity}/start HTTP/1.1\r\nHost: bench\r\n"
                "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            received = b""
            while chunk := stream.recv(65536):
                received += chunk
        if b" 101 " not in received[:20] and b" 200 " not in received[:20]:
            raise BenchError(f"exec answered {received[:300].decode(errors='replace')}")
        code = None
        while code is None:
            code = self.request("GET", f"/exec/{identity}/json")["ExitCode"]
        if code != 0:
            raise BenchError(f"exec of {command} ended with {code}")

    def _head(self, method: str, path: str, length: int, kind: str = "application/json") -> bytes:
        return (
            f"{method} {VERSION}{path} HTTP/1.1\r\nHost: bench\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    def _send(self, data: bytes) -> None:
        if self._socket is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.settimeout(300)
            connection.connect(self.path)
            self._socket = connection
        self._socket.sendall(data)

    def _more(self) -> None:
        assert self._socket is not None
        chunk = self._socket.recv(65536)
        if not chunk:
            raise BenchError(f"the engine at {self.path} closed the connection")
        self._buffer += chunk

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            self._more()
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line

    def _take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._more()
        data, self._buffer = self._buffer[:length], self._buffer[length:]
        return data

    def _answer(self) -> tuple[int, bytes]:
        status = int(self._line().split()[1])
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip().lower()
        body = b""
        if headers.get("transfer-encoding") == "chunked":
            while size := int(self._line().split(b";")[0], 16):
                body += self._take(size)
                self._line()
            self._line()
        elif "content-length" in headers:
            body = self._take(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return status, body
