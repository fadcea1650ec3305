"""Attached streams as WebSockets, and detach keys, which the server recognises."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fixtures.engine import EngineUnderTest, UnixConnection

TEXT, BINARY, CLOSE = 1, 2, 8


class WebSocket:
    """A client as RFC 6455 has it; bytes as they are on the wire."""

    def __init__(self, engine: EngineUnderTest, path: str, headers: str = "") -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(str(engine.socket))
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n{headers}\r\n".encode()
        )
        self.file = self.socket.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        while line := self.file.readline().strip():
            name, _colon, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()

    def send(self, data: bytes, opcode: int = BINARY) -> None:
        mask = os.urandom(4)
        length = len(data)
        head = bytes([0x80 | opcode, 0x80 | (length if length < 126 else 126)])
        if length >= 126:
            head += struct.pack(">H", length)
        self.socket.sendall(head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(data)))

    def receive(self) -> tuple[int, bytes]:
        head = self.file.read(2)
        if len(head) < 2:
            return CLOSE, b""
        length = head[1] & 0x7F
        if length == 126:
            length = struct.unpack(">H", self.file.read(2))[0]
        elif length == 127:
            length = struct.unpack(">Q", self.file.read(8))[0]
        return head[0] & 0x0F, self.file.read(length)

    def rest(self) -> bytes:
        """All data until the end."""
        found = b""
        while True:
            opcode, data = self.receive()
            if opcode == CLOSE:
                return found
            found += data

    def until(self, words: bytes) -> bytes:
        found = b""
        while words not in found:
            opcode, data = self.receive()
            assert opcode != CLOSE, found
            found += data
        return found

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()


@contextlib.contextmanager
def container(engine: EngineUnderTest, image: str, *command: str, **config: Any) -> Iterator[str]:
    body = {"Image": image, "Cmd": list(command), "HostConfig": {"NetworkMode": "none"}, **config}
    status, answer = engine.api("POST", "/containers/create", body)
    assert status == 201, answer
    try:
        yield answer["Id"]
    finally:
        engine.api("DELETE", f"/containers/{answer['Id']}?force=1")


def start(engine: EngineUnderTest, identity: str) -> None:
    assert engine.api("POST", f"/containers/{identity}/start")[0] == 204


ALL = "stream=1&stdin=1&stdout=1&stderr=1"


def test_a_websocket_is_both_ways_and_ends_with_the_container(engine: EngineUnderTest, busybox: str) -> None:
    command = ["sh", "-c", "echo ready; read a; echo got $a; echo error >&2"]
    with (
        container(engine, busybox, *command, OpenStdin=True) as identity,
        WebSocket(engine, f"/containers/{identity}/attach/ws?{ALL}") as client,
    ):
        assert client.status == 101 and client.headers["upgrade"].lower() == "websocket"
        start(engine, identity)
        assert client.until(b"ready\n") == b"ready\n"
        client.send(b"hello\n")
        assert sorted(client.rest().splitlines()) == [b"error", b"got hello"]


def test_old_versions_get_text_and_all_streams(engine: EngineUnderTest, busybox: str) -> None:
    with (
        container(engine, busybox, "sh", "-c", "echo out; echo err >&2; read a", OpenStdin=True) as identity,
        WebSocket(engine, f"/v1.27/containers/{identity}/attach/ws?stream=1") as client,
    ):
        start(engine, identity)
        opcode, first = client.receive()
        assert opcode == TEXT
        client.send(b"end\n", TEXT)
        assert sorted((first + client.rest()).splitlines()) == [b"err", b"out"]


def test_only_the_log_where_no_stream_is_wanted(engine: EngineUnderTest, busybox: str) -> None:
    with container(engine, busybox, "sh", "-c", "echo logged; sleep 1000") as identity:
        start(engine, identity)
        deadline = time.monotonic() + 20
        while engine.api("GET", f"/containers/{identity}/logs?stdout=1")[1] is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with WebSocket(engine, f"/containers/{identity}/attach/ws?logs=1&stdout=1") as client:
            assert client.rest() == b"logged\n"


def test_a_websocket_that_is_none_is_refused(engine: EngineUnderTest, busybox: str) -> None:
    with container(engine, busybox, "true") as identity:
        status, answer = engine.api("GET", f"/containers/{identity}/attach/ws?{ALL}")
        assert status == 400 and "WebSocket" in answer["message"]
    with WebSocket(engine, "/containers/nosuch/attach/ws") as client:
        assert client.status == 404


def waited(engine: EngineUnderTest, since: float, action: str) -> dict[str, Any]:
    """The event ``action``, once it happened."""
    wanted = quote(json.dumps({"event": [action]}))
    asked = UnixConnection(str(engine.socket), 30)
    asked.request("GET", f"/events?since={since:.3f}&until={time.time() + 20:.3f}&filters={wanted}")
    line = asked.getresponse().readline()
    asked.close()
    return dict(json.loads(line))


def hijacked(engine: EngineUnderTest, path: str, body: object = None) -> socket.socket:
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    raw.settimeout(20)
    raw.connect(str(engine.socket))
    data = json.dumps(body).encode() if body is not None else b""
    raw.sendall(
        f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: {len(data)}\r\n"
        f"Content-Type: application/json\r\n\r\n".encode()
        + data
    )
    assert raw.recv(12) == b"HTTP/1.1 101"
    return raw


def drained(raw: socket.socket) -> bytes:
    found = b""
    while data := raw.recv(65536):
        found += data
    return found


@pytest.mark.parametrize(("given", "typed"), [("", b"\x10\x11"), ("ctrl-a,x", b"\x01x"), ("q", b"q")])
def test_detach_keys_leave_a_terminal_and_it_runs_on(
    engine: EngineUnderTest, busybox: str, given: str, typed: bytes
) -> None:
    with container(engine, busybox, "cat", Tty=True, OpenStdin=True) as identity:
        start(engine, identity)
        since = time.time()
        with hijacked(engine, f"/containers/{identity}/attach?{ALL}&detachKeys={given}") as raw:
            raw.sendall(b"kept\r")
            found = b""
            while b"kept" not in found:
                found += raw.recv(4096)
            raw.sendall(typed)
            drained(raw)
        assert waited(engine, since, "detach")["Actor"]["ID"] == identity
        assert engine.api("GET", f"/containers/{identity}/json")[1]["State"]["Running"]
        with WebSocket(engine, f"/containers/{identity}/attach/ws?{ALL}&detachKeys={given}") as client:
            client.send(b"again\r")
            client.until(b"again")
            client.send(typed)
            client.rest()
        assert engine.api("GET", f"/containers/{identity}/json")[1]["State"]["Running"]


def test_detach_keys_of_an_exec(engine: EngineUnderTest, busybox: str) -> None:
    with container(engine, busybox, "sleep", "1000") as identity:
        start(engine, identity)
        config = {"Cmd": ["cat"], "Tty": True, "AttachStdin": True, "AttachStdout": True, "DetachKeys": "ctrl-x"}
        _, made = engine.api("POST", f"/containers/{identity}/exec", config)
        since = time.time()
        with hijacked(engine, f"/exec/{made['Id']}/start", {"Tty": True}) as raw:
            raw.sendall(b"\x18")
            drained(raw)
        assert waited(engine, since, "exec_detach")["Actor"]["Attributes"]["execID"] == made["Id"]
        assert engine.api("GET", f"/exec/{made['Id']}/json")[1]["Running"]


def test_keys_that_cannot_be_are_refused(engine: EngineUnderTest, busybox: str) -> None:
    with container(engine, busybox, "sleep", "1000", Tty=True) as identity:
        start(engine, identity)
        for keys in ("ctrl-", "ctrl-%C3%BC", "xx", "a,,b"):
            status, answer = engine.api("POST", f"/containers/{identity}/attach?{ALL}&detachKeys={keys}")
            assert status == 400 and answer["message"].startswith("Invalid detach keys"), keys


def test_bytes_of_a_pipe_are_not_keys(engine: EngineUnderTest, busybox: str) -> None:
    with container(engine, busybox, "cat", OpenStdin=True, StdinOnce=True) as identity:
        start(engine, identity)
        with hijacked(engine, f"/containers/{identity}/attach?{ALL}") as raw:
            raw.sendall(b"a\x10\x11b")
            raw.shutdown(socket.SHUT_WR)
            assert drained(raw).endswith(b"a\x10\x11b")
