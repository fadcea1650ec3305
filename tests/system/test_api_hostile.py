"""Requests that break the rules: the right 4xx in JSON, nothing leaked, the engine up."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlencode

import pytest
from fixtures import leftovers
from fixtures.complaints import warm_up
from fixtures.engine import EngineUnderTest
from fixtures.wait import until

CREATE = b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
ATTACH = b"POST /containers/x/attach HTTP/1.1\r\nHost: x\r\n"
PING = b"GET /_ping HTTP/1.1\r\nHost: x\r\n"
CLOSE = b"Connection: close\r\n"


@pytest.fixture(scope="module")
def warm(engine: EngineUnderTest, busybox: str) -> EngineUnderTest:
    """The engine, once all is quiet."""
    warm_up(engine)
    deadline = time.monotonic() + 20
    while any(".gone-" in line for line in leftovers.of(engine)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return engine


@pytest.fixture(autouse=True)
def up_and_nothing_left(warm: EngineUnderTest) -> Iterator[None]:
    engine = warm
    with leftovers.nothing_left(engine):
        yield
        assert engine.api("GET", "/_ping") == (200, b"OK")
        assert "Traceback" not in engine.log.read_text()


def talk(engine: EngineUnderTest, *pieces: bytes, end: bool = False) -> bytes:
    """Send the pieces one after the other, and give all that comes back."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(engine.socket))
        answer = b""
        with contextlib.suppress(BrokenPipeError):  # it has answered already
            for number, piece in enumerate(pieces):
                if number:
                    time.sleep(0.05)
                client.sendall(piece)
            if end:
                client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(65536):
                answer += data
        return answer


def status(answer: bytes) -> int:
    return int(answer.split()[1]) if answer else 0


@pytest.mark.parametrize(
    ("pieces", "wanted"),
    [
        ([b"\0\1garbage\r\n\r\n"], 400),
        ([b"\x16\x03\x01\x02\0\1\0\1\xfc\3\3" + b"x" * 40 + b"\r\n\r\n"], 400),
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], 400),
        ([PING + b"X: " + b"a" * (2 << 20) + b"\r\n\r\n"], 431),
        ([PING + b"".join(b"H%d: x\r\n" % number for number in range(5000)) + b"\r\n"], 400),
        ([CREATE + CLOSE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"], 400),
        ([CREATE + CLOSE + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello", b"XX\r\n0\r\n\r\n"], 400),
        ([CREATE + CLOSE + b"Content-Length: -5\r\n\r\n{"], 400),
        ([CREATE + CLOSE + b"Content-Length: 99999999999999999999999\r\n\r\n{"], 400),
        ([CREATE + CLOSE + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}}"], 400),
        ([CREATE + CLOSE + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"], 400),
        ([CREATE + CLOSE + b"Content-Length: 2\r\nExpect: magic\r\n\r\n{}"], 417),
        ([CREATE + CLOSE + b"Content-Length: 200000\r\n\r\n" + b'{"a":' * 40_000], 400),
        ([CREATE.replace(b"application/json", b"text/plain") + CLOSE + b"Content-Length: 2\r\n\r\n{}"], 400),
        ([b"GET /containers/json?limit=" + b"9" * 5000 + b" HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n"], 400),
        ([b"GET /containers/%00%ff%zz/json HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n"], 404),
        ([b"GET /containers/../images/json HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n"], 404),
        ([ATTACH + CLOSE + b"Content-Length: " + b"9" * 6000 + b"\r\n\r\n"], 400),
        ([ATTACH.replace(b"\r", b"") + b"Content-Length: 2\n\n{}"], 400),
        ([b"GET /_ping HTTP/1.1\nHost: x\n\n"], 400),
        ([b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n" + CLOSE + b"\r\n"], 404),
    ],
)
def test_what_breaks_the_rules_is_refused(engine: EngineUnderTest, pieces: Sequence[bytes], wanted: int) -> None:
    answer = talk(engine, *pieces)
    assert status(answer) == wanted, answer[:300]
    found = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert set(found) == {"message"} and len(found["message"]) < 300


def test_a_request_that_breaks_off_leaves_nothing(engine: EngineUnderTest) -> None:
    for cut in (PING[:9], CREATE, CREATE + b"Content-Length: 100\r\n\r\n{", b"POST /containers/x/atta"):
        assert status(talk(engine, cut, end=True)) in (0, 400)
    head = b"POST /images/load HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000\r\n"
    talk(engine, head + b"x" * 5000, end=True)


def test_large_headers_and_queries_of_real_clients_pass(engine: EngineUnderTest) -> None:
    registries = b"X-Registry-Config: " + b"a" * 200_000 + b"\r\n"
    assert status(talk(engine, PING + registries + CLOSE + b"\r\n")) == 200
    names = json.dumps({"name": [f"container{number}" for number in range(5000)]}).replace(" ", "").replace('"', "%22")
    query = f"GET /containers/json?filters={names} HTTP/1.1\r\nHost: x\r\n".encode()
    assert status(talk(engine, query + CLOSE + b"\r\n")) == 200


def test_requests_one_behind_the_other_are_answered_in_order(engine: EngineUnderTest) -> None:
    paths = ["_ping", "nosuch", "version", "containers/json"] * 25
    sent = b"".join(f"GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths)
    answer = talk(engine, sent + PING + CLOSE + b"\r\n")
    found = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert found == [200, 404, 200, 200] * 25 + [200]


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked(engine: EngineUnderTest) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(engine.socket))
        client.sendall(CREATE + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"{}")
        assert client.recv(12) == b"HTTP/1.1 400"


def test_one_name_goes_to_one_of_many_who_want_it(engine: EngineUnderTest) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}
    found: list[int] = []

    def create() -> None:
        found.append(engine.api("POST", "/containers/create?name=wanted", body)[0])

    threads = [threading.Thread(target=create) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [201] + [409] * 11
    assert engine.api("DELETE", "/containers/wanted")[0] == 204


def test_all_at_once_on_one_container(engine: EngineUnderTest) -> None:
    """Starting, stopping, killing, removing: whatever comes first, each gets a sensible answer."""
    for _ in range(3):
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
        _, made = engine.api("POST", "/containers/create", body)
        path = f"/containers/{made['Id']}"
        found: list[tuple[str, int]] = []

        def ask(method: str, verb: str, path: str = path, found: list[tuple[str, int]] = found) -> None:
            found.append((verb, engine.api(method, path + verb)[0]))

        asked = [("POST", "/start"), ("POST", "/stop?t=0"), ("POST", "/kill"), ("POST", "/restart?t=0")] * 3
        threads = [threading.Thread(target=ask, args=each) for each in [*asked, ("DELETE", "?force=1")]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        engine.api("DELETE", path + "?force=1")
        assert engine.api("GET", path + "/json")[0] == 404
        assert all(code in (204, 304, 404, 409) for _verb, code in found), found


def descriptors(engine: EngineUnderTest) -> int:
    return len(os.listdir(f"/proc/{engine.pid}/fd"))


def resident(engine: EngineUnderTest) -> int:
    """Megabytes."""
    text = Path(f"/proc/{engine.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) // 1024


def test_a_client_that_never_reads_costs_little(engine: EngineUnderTest) -> None:
    """Of logs, events and attached streams the engine keeps no more than a little for whoever does not read."""
    script = "yes 0123456789012345678901234567890123456789 | head -c 30000000; sleep 1000"
    body = {"Image": "busybox", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}}
    _, made = engine.api("POST", "/containers/create", body)
    engine.api("POST", f"/containers/{made['Id']}/start")
    log = Path(engine.api("GET", f"/containers/{made['Id']}/json")[1]["LogPath"])
    deadline = time.monotonic() + 60
    while not log.exists() or log.stat().st_size < 50_000_000:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    before, open_before = resident(engine), descriptors(engine)
    clients = []
    for _ in range(20):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(str(engine.socket))
        client.sendall(f"GET /containers/{made['Id']}/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        clients.append(client)
    time.sleep(1)
    assert engine.api("GET", "/_ping")[0] == 200
    assert resident(engine) < before + 60
    for client in clients:
        client.close()
    deadline = time.monotonic() + 20
    while descriptors(engine) > open_before:
        assert time.monotonic() < deadline, os.listdir(f"/proc/{engine.pid}/fd")
        time.sleep(0.05)
    engine.api("DELETE", f"/containers/{made['Id']}?force=1")


def test_clients_that_leave_at_any_moment_leave_nothing(engine: EngineUnderTest) -> None:
    _, made = engine.api("POST", "/containers/create", {"Image": "busybox", "Cmd": ["sleep", "1000"], "Tty": True})
    container = f"/containers/{made['Id']}"
    assert engine.api("POST", f"{container}/start")[0] == 204
    stream = "HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\nUpgrade: tcp\r\n\r\n{}"
    before = descriptors(engine)
    for number in range(300):
        _, command = engine.api("POST", f"{container}/exec", {"Cmd": ["true"], "AttachStdout": True})
        for request in (
            f"GET {container}/archive?path=/bin HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET {container}/export HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET {container}/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET {container}/stats HTTP/1.1\r\nHost: x\r\n\r\n",
            f"POST {container}/attach?stream=1&stdout=1&logs=1 {stream}",
            f"POST /exec/{command['Id']}/start {stream}",
        ):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.connect(str(engine.socket))
                client.sendall(request.encode())
                time.sleep((0, 0.0005, 0.002)[number % 3])
    until(lambda: descriptors(engine) <= before + 4, 60)  # those of the helpers' parent stay for a while
    assert engine.api("DELETE", f"{container}?force=1")[0] == 204


def test_networks_change_while_a_thousand_connections_are_open(engine: EngineUnderTest) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(1100):
            client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            client.connect(str(engine.socket))
            client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
        engine.docker("network", "create", "crowded")
        engine.docker("run", "--rm", "--network", "crowded", "--publish", "127.0.0.1::80", "busybox", "true")
        engine.docker("network", "rm", "crowded")


def test_a_filter_has_bounds(engine: EngineUnderTest) -> None:
    def listed(values: list[str]) -> tuple[int, str]:
        code, answer = engine.api("GET", "/containers/json?" + urlencode({"filters": json.dumps({"name": values})}))
        return code, answer["message"] if code != 200 else ""

    assert listed([f"name{number}" for number in range(1000)]) == (200, "")
    assert listed([f"na.*me{number}$" for number in range(60)]) == (200, "")
    assert listed([f"na.*me{number}$" for number in range(2000)]) == (
        400,
        "invalid filter 'name': more than 64 regular expressions",
    )
    assert listed([f"{number}" for number in range(20_000)])[0] == 400


def test_thousands_of_anonymous_volumes_come_and_go(engine: EngineUnderTest) -> None:
    volumes = {f"/v/{number}": {} for number in range(2000)}
    code, made = engine.api("POST", "/containers/create", {"Image": "busybox", "Volumes": volumes})
    assert code == 201, made
    assert len(engine.api("GET", "/volumes")[1]["Volumes"]) == len(volumes)
    assert engine.api("DELETE", f"/containers/{made['Id']}?v=1")[0] == 204
    assert not engine.api("GET", "/volumes")[1]["Volumes"]
