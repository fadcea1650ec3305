"""Attached streams, exec and logs through the Docker Engine API: every byte, both ways, and a proper end."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures.engine import EngineUnderTest


class Stream:
    """A connection that was hijacked, read by frames or raw."""

    def __init__(
        self, engine: EngineUnderTest, path: str, body: object = None, extra: bytes = b"", upgrade: bool = True
    ):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(20)
        self.socket.connect(str(engine.socket))
        data = json.dumps(body).encode() if body is not None else b""
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\n"
        if upgrade:
            head += "Connection: Upgrade\r\nUpgrade: tcp\r\n"
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        self.socket.sendall(head.encode() + b"\r\n" + data + extra)
        self.file = self.socket.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        while line := self.file.readline().strip():
            name, _colon, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()

    def frames(self) -> list[tuple[int, bytes]]:
        """All frames until the end."""
        found = []
        while head := self.file.read(8):
            found.append((head[0], self.file.read(int.from_bytes(head[4:], "big"))))
        return found

    def text(self, kind: int = 1) -> bytes:
        """What one stream carried until the end."""
        return b"".join(data for number, data in self.frames() if number == kind)

    def end_input(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def create(engine: EngineUnderTest, image: str, *command: str, **config: Any) -> str:
    body = {"Image": image, "Cmd": list(command), "HostConfig": {"NetworkMode": "none"}, **config}
    status, answer = engine.api("POST", "/containers/create", body)
    assert status == 201, answer
    return str(answer["Id"])


def start(engine: EngineUnderTest, container: str) -> None:
    status, answer = engine.api("POST", f"/containers/{container}/start")
    assert status == 204, answer


@contextlib.contextmanager
def running(engine: EngineUnderTest, image: str, *command: str, **config: Any) -> Iterator[str]:
    """A container that runs, removed in the end."""
    container = create(engine, image, *command, **config)
    try:
        start(engine, container)
        yield container
    finally:
        engine.api("DELETE", f"/containers/{container}?force=1")


ALL = "stream=1&stdin=1&stdout=1&stderr=1"


def test_what_is_attached_before_the_start_sees_everything(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sh", "-c", "echo out; echo err >&2")
    with Stream(engine, f"/containers/{container}/attach?{ALL}") as stream:
        assert stream.status == 101
        assert stream.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
        start(engine, container)
        assert sorted(stream.frames()) == [(1, b"out\n"), (2, b"err\n")]
    engine.api("DELETE", f"/containers/{container}")


def test_bytes_right_behind_the_request_are_input(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "cat", OpenStdin=True, StdinOnce=True)
    with Stream(engine, f"/containers/{container}/attach?{ALL}", extra=b"early\n") as stream:
        stream.socket.sendall(b"later\n")
        stream.end_input()
        start(engine, container)
        assert stream.text() == b"early\nlater\n"
    engine.api("DELETE", f"/containers/{container}")


def test_everything_at_once_and_then_silence_is_a_whole_input(engine: EngineUnderTest, busybox: str) -> None:
    """The client sends request and input, and ends its side before the engine has answered."""
    container = create(engine, busybox, "cat", OpenStdin=True, StdinOnce=True)
    start(engine, container)
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    raw.settimeout(20)
    raw.connect(str(engine.socket))
    head = (
        f"POST /containers/{container}/attach?{ALL} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
    )
    raw.sendall(head.encode() + b"all of it")
    raw.shutdown(socket.SHUT_WR)
    answer = b""
    while data := raw.recv(4096):
        answer += data
    raw.close()
    assert answer.startswith(b"HTTP/1.1 101 ") and answer.endswith(b"all of it")
    engine.api("DELETE", f"/containers/{container}?force=1")


def test_the_end_of_input_leaves_output_open(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sh", "-c", "wc -c; sleep 0.3; echo after", OpenStdin=True, StdinOnce=True)
    with Stream(engine, f"/containers/{container}/attach?{ALL}") as stream:
        start(engine, container)
        for _ in range(100):
            stream.socket.sendall(b"x" * 10_000)
        stream.end_input()
        assert stream.text() == b"1000000\nafter\n"
    engine.api("DELETE", f"/containers/{container}")


def test_much_comes_back_unchanged(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "cat", OpenStdin=True, StdinOnce=True, HostConfig={
        "NetworkMode": "none", "LogConfig": {"Type": "none"}
    })  # fmt: skip
    sent = os.urandom(1 << 20) * 8
    with Stream(engine, f"/containers/{container}/attach?{ALL}") as stream:
        start(engine, container)

        def feed() -> None:
            stream.socket.sendall(sent)
            stream.end_input()

        feeder = threading.Thread(target=feed)
        feeder.start()
        assert stream.text() == sent
        feeder.join()
    engine.api("DELETE", f"/containers/{container}")


def test_a_reader_that_does_not_read_stops_the_writer_and_not_the_engine(engine: EngineUnderTest, busybox: str) -> None:
    def memory() -> int:
        with open(f"/proc/{engine.pid}/statm") as file:
            return int(file.read().split()[1]) * 4096

    config = {"HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": "none"}}}
    with running(engine, busybox, "sh", "-c", "sleep 0.3; yes", **config) as container:
        with Stream(engine, f"/containers/{container}/attach?{ALL}") as stream:
            before = memory()
            time.sleep(1.5)
            assert memory() - before < 20 << 20
            assert engine.api("GET", "/_ping")[0] == 200
            assert stream.file.read(8)[0] == 1
        assert engine.api("POST", f"/containers/{container}/kill")[0] == 204


def test_a_terminal_is_raw_and_has_a_size(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sh", Tty=True, OpenStdin=True, HostConfig={
        "NetworkMode": "none", "ConsoleSize": [33, 77]
    })  # fmt: skip
    with Stream(engine, f"/containers/{container}/attach?{ALL}") as stream:
        assert stream.headers["content-type"] == "application/vnd.docker.raw-stream"
        start(engine, container)
        stream.socket.sendall(b"stty size\n")
        seen = b""
        while b"33 77" not in seen:
            seen += stream.socket.recv(4096)
        assert engine.api("POST", f"/containers/{container}/resize?h=40&w=100")[0] == 200
        stream.socket.sendall(b"stty size; exit 4\n")
        while data := stream.socket.recv(4096):
            seen += data
        assert b"40 100" in seen
    assert engine.api("POST", f"/containers/{container}/wait") == (200, {"StatusCode": 4})
    engine.api("DELETE", f"/containers/{container}")


def test_detach_keys_let_the_container_live(engine: EngineUnderTest, busybox: str) -> None:
    with running(engine, busybox, "cat", OpenStdin=True, Tty=True) as container:
        with Stream(engine, f"/containers/{container}/attach?{ALL}&detachKeys=ctrl-a,x") as stream:
            stream.socket.sendall(b"hello\x01")
            stream.socket.sendall(b"x")
            while stream.socket.recv(4096):
                pass
        with Stream(engine, f"/containers/{container}/attach?{ALL}") as again:
            again.socket.sendall(b"more\n")
            seen = b""
            while b"more" not in seen:
                seen += again.socket.recv(4096)
        _status, found = engine.api("GET", f"/containers/{container}/json")
        assert found["State"]["Running"]


def test_several_clients_see_the_same(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sh", "-c", "for i in 1 2 3; do echo $i; done")
    streams = [Stream(engine, f"/containers/{container}/attach?stream=1&stdout=1") for _ in range(5)]
    start(engine, container)
    for stream in streams:
        assert stream.text() == b"1\n2\n3\n"
        stream.close()
    engine.api("DELETE", f"/containers/{container}")


def test_a_client_that_left_before_the_start_is_forgotten(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "cat", OpenStdin=True, StdinOnce=True)
    Stream(engine, f"/containers/{container}/attach?{ALL}").close()
    time.sleep(0.2)
    with Stream(engine, f"/containers/{container}/attach?{ALL}") as stream:
        start(engine, container)
        stream.socket.sendall(b"still\n")
        stream.end_input()
        assert stream.text() == b"still\n"
    engine.api("DELETE", f"/containers/{container}?force=1")


def test_attached_streams_end_when_the_start_fails(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "nothere")
    with Stream(engine, f"/containers/{container}/attach?{ALL}") as stream:
        assert engine.api("POST", f"/containers/{container}/start")[0] == 400
        assert stream.frames() == []
    engine.api("DELETE", f"/containers/{container}")


def test_the_log_comes_before_what_is_new(engine: EngineUnderTest, busybox: str) -> None:
    with running(engine, busybox, "sh", "-c", "echo old; sleep 0.5; echo new") as container:
        time.sleep(0.2)
        with Stream(engine, f"/containers/{container}/attach?logs=1&stream=1&stdout=1") as stream:
            assert stream.text() == b"old\nnew\n"


def test_an_old_client_gets_a_plain_answer(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "echo", "hi")
    with Stream(engine, f"/v1.24/containers/{container}/attach?stream=1&stdout=1", upgrade=False) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "application/vnd.docker.raw-stream"
        start(engine, container)
        assert stream.text() == b"hi\n"
    engine.api("DELETE", f"/containers/{container}")


def execute(engine: EngineUnderTest, container: str, *command: str, **config: Any) -> str:
    body = {"AttachStdout": True, "AttachStderr": True, "Cmd": list(command), **config}
    status, answer = engine.api("POST", f"/containers/{container}/exec", body)
    assert status == 201, answer
    return str(answer["Id"])


def test_exec_runs_in_the_container_and_keeps_its_code(engine: EngineUnderTest, busybox: str) -> None:
    with running(engine, busybox, "sleep", "100", Env=["A=1"], Hostname="inside") as container:
        which = execute(
            engine, container, "sh", "-c", "hostname; id -u; pwd; echo $A$B; echo bad >&2; exit 9",
            User="nobody", WorkingDir="/tmp", Env=["B=2"],
        )  # fmt: skip
        with Stream(engine, f"/exec/{which}/start", {"Detach": False, "Tty": False}) as stream:
            frames = stream.frames()
        assert b"".join(data for kind, data in frames if kind == 1) == b"inside\n65534\n/tmp\n12\n"
        assert (2, b"bad\n") in frames
        status, found = engine.api("GET", f"/exec/{which}/json")
        assert (status, found["ExitCode"], found["Running"]) == (200, 9, False)
        status, answer = engine.api("POST", f"/exec/{which}/start", {})
        assert status == 409 and "has already run" in answer["message"]


def test_input_behind_the_body_reaches_the_exec(engine: EngineUnderTest, busybox: str) -> None:
    with running(engine, busybox, "sleep", "100") as container:
        which = execute(engine, container, "cat", AttachStdin=True)
        with Stream(engine, f"/exec/{which}/start", {"Tty": False}, extra=b"right behind") as stream:
            stream.end_input()
            assert stream.text() == b"right behind"


def test_exec_with_a_terminal(engine: EngineUnderTest, busybox: str) -> None:
    with running(engine, busybox, "sleep", "100") as container:
        which = execute(engine, container, "sh", AttachStdin=True, Tty=True)
        with Stream(engine, f"/exec/{which}/start", {"Tty": True, "ConsoleSize": [11, 22]}) as stream:
            stream.socket.sendall(b"stty size\n")
            seen = b""
            while b"11 22" not in seen:
                seen += stream.socket.recv(4096)
            assert engine.api("POST", f"/exec/{which}/resize?h=12&w=23")[0] == 200
            stream.socket.sendall(b"stty size; exit\n")
            while data := stream.socket.recv(4096):
                seen += data
            assert b"12 23" in seen


@pytest.mark.parametrize(("command", "code"), [("nothere", 127), ("/etc/passwd", 126)])
def test_an_exec_that_cannot_run_says_so_in_its_stream(
    engine: EngineUnderTest, busybox: str, command: str, code: int
) -> None:
    with running(engine, busybox, "sleep", "100") as container:
        which = execute(engine, container, command)
        with Stream(engine, f"/exec/{which}/start", {}) as stream:
            assert command.encode() in stream.text(1)  # as Docker has it
        assert engine.api("GET", f"/exec/{which}/json")[1]["ExitCode"] == code
        detached = execute(engine, container, command)
        assert engine.api("POST", f"/exec/{detached}/start", {"Detach": True})[0] == 400


def test_exec_is_refused_where_nothing_runs(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "true")
    status, answer = engine.api("POST", f"/containers/{container}/exec", {"Cmd": ["true"]})
    assert (status, answer["message"]) == (409, f"Container {container} is not running")
    assert engine.api("POST", "/exec/nothere/start", {}) == (404, {"message": "No such exec instance: nothere"})
    engine.api("DELETE", f"/containers/{container}")
    with running(engine, busybox, "sleep", "100") as other:
        assert engine.api("POST", f"/containers/{other}/exec", {"Cmd": []})[0] == 400


def test_a_hundred_execs_and_none_stays(engine: EngineUnderTest, busybox: str) -> None:
    with running(engine, busybox, "sleep", "100") as container:
        descriptors = len(os.listdir(f"/proc/{engine.pid}/fd"))
        for number in range(100):
            which = execute(engine, container, "echo", str(number))
            with Stream(engine, f"/exec/{which}/start", {}) as stream:
                assert stream.text() == f"{number}\n".encode()
            assert engine.api("GET", f"/exec/{which}/json")[1]["ExitCode"] == 0
        time.sleep(0.2)
        assert len(os.listdir(f"/proc/{engine.pid}/fd")) <= descriptors + 2


def test_logs_are_followed_to_the_end(engine: EngineUnderTest, busybox: str) -> None:
    with running(engine, busybox, "sh", "-c", "for i in $(seq 50); do echo line $i; sleep 0.01; done") as container:
        status, data = engine.api("GET", f"/containers/{container}/logs?stdout=1&follow=1")
        assert status == 200
        text = b""
        while data:
            length = int.from_bytes(data[4:8], "big")
            text, data = text + data[8 : 8 + length], data[8 + length :]
        assert text == b"".join(b"line %d\n" % number for number in range(1, 51))


def test_a_follower_that_leaves_is_let_go_at_once(engine: EngineUnderTest, busybox: str) -> None:
    with running(engine, busybox, "sleep", "100") as container:
        descriptors = len(os.listdir(f"/proc/{engine.pid}/fd"))
        ends = []
        for path in (f"/containers/{container}/logs?stdout=1&follow=1", f"/containers/{container}/stats", "/events"):
            end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            end.connect(str(engine.socket))
            end.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert end.recv(15) == b"HTTP/1.1 200 OK"
            ends.append(end)
        assert len(os.listdir(f"/proc/{engine.pid}/fd")) > descriptors
        for end in ends:
            end.close()
        deadline = time.monotonic() + 10
        while len(os.listdir(f"/proc/{engine.pid}/fd")) > descriptors:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_hundreds_of_streams_need_no_threads(engine: EngineUnderTest, busybox: str) -> None:
    with running(engine, busybox, "sh", "-c", "sleep 2; echo bye") as container:
        threads = len(os.listdir(f"/proc/{engine.pid}/task"))
        streams = [Stream(engine, f"/containers/{container}/attach?stream=1&stdout=1") for _ in range(150)]
        assert len(os.listdir(f"/proc/{engine.pid}/task")) == threads
        for stream in streams:
            assert stream.text() == b"bye\n"
            stream.close()


def test_events_tell_a_containers_life(engine: EngineUnderTest, busybox: str) -> None:
    since = f"{time.time():.9f}"
    container = create(engine, busybox, "true", Labels={"mine": "yes"})
    start(engine, container)
    engine.api("POST", f"/containers/{container}/wait")
    engine.api("DELETE", f"/containers/{container}")
    path = f'/events?since={since}&until={time.time():.9f}&filters={{"label":["mine=yes"],"type":["container"]}}'
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.close()
    status, data = engine.api("GET", path)
    assert status == 200
    lines = data.splitlines() if isinstance(data, bytes) else [json.dumps(data)]
    assert [json.loads(line)["Action"] for line in lines] == ["create", "start", "die", "destroy"]


def test_requests_that_break_off_do_no_harm(engine: EngineUnderTest, busybox: str) -> None:
    for raw in (
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{",
        b"GET /containers/json",
        b"\0\1\2\3\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(str(engine.socket))
            connection.sendall(raw)
    for body in (b"{", b"[1", b"\xff\xfe", b'"x"', b"null", b"{}", b'{"Image":5}', b"[" * 100_000):
        status, answer = engine.api("POST", "/containers/create", body, headers={"Content-Type": "application/json"})
        assert status == 400 and answer["message"], body[:20]
    status, answer = engine.api("POST", "/containers/create", b" " * (17 << 20))
    assert status == 400 and "larger" in answer["message"]
    assert engine.api("GET", "/nowhere") == (404, {"message": "page not found"})
    assert engine.api("GET", "/v1.99/info")[0] == 400
    assert engine.api("GET", "/_ping")[0] == 200


def test_an_exec_may_have_as_many_arguments_as_the_kernel_allows(engine: EngineUnderTest, busybox: str) -> None:
    arguments = [str(number) * 10_000 for number in range(1, 10)] * 12
    with running(engine, busybox, "sleep", "1000") as container:
        config = {
            "Cmd": ["sh", "-c", "echo $# ${#1} ${#9} ${#LONG}", "sh", *arguments],
            "Env": ["LONG=" + "x" * 100_000],
            "AttachStdout": True,
        }
        _, made = engine.api("POST", f"/containers/{container}/exec", config)
        with Stream(engine, f"/exec/{made['Id']}/start", {}) as stream:
            assert stream.text() == b"108 10000 10000 100000\n"
        config["Cmd"] = ["true", *arguments * 3]
        _, made = engine.api("POST", f"/containers/{container}/exec", config)
        with Stream(engine, f"/exec/{made['Id']}/start", {}) as stream:
            assert b"argument list too long" in stream.text().lower()
