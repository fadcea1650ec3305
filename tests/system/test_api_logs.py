"""Logs: their options, what is chosen of them, and that they are followed to their end."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.engine import EngineUnderTest, UnixConnection


@contextlib.contextmanager
def ran(
    engine: EngineUnderTest, image: str, script: str, driver: str = "json-file", wait: bool = True, **config: Any
) -> Iterator[str]:
    """A container that has run, with these options of its log."""
    options = {name.replace("_", "-"): value for name, value in config.pop("options", {}).items()}
    body = {
        "Image": image,
        "Cmd": ["sh", "-c", script],
        "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": driver, "Config": options}},
        **config,
    }
    status, made = engine.api("POST", "/containers/create", body)
    assert status == 201, made
    try:
        assert engine.api("POST", f"/containers/{made['Id']}/start")[0] == 204
        if wait:
            assert engine.api("POST", f"/containers/{made['Id']}/wait")[1]["StatusCode"] == 0
        yield made["Id"]
    finally:
        engine.api("DELETE", f"/containers/{made['Id']}?force=1")


def read(engine: EngineUnderTest, container: str, query: str = "stdout=1&stderr=1") -> list[tuple[int, str]]:
    """The frames of its log."""
    connection = UnixConnection(str(engine.socket), 30)
    connection.request("GET", f"/containers/{container}/logs?{query}")
    response = connection.getresponse()
    data = response.read()
    assert response.status == 200, data
    assert response.headers["Content-Type"] == "application/vnd.docker.multiplexed-stream"
    connection.close()
    found = []
    while data:
        length = int.from_bytes(data[4:8], "big")
        found.append((data[0], data[8 : 8 + length].decode()))
        data = data[8 + length :]
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_lines_carry_what_their_options_ask_for(engine: EngineUnderTest, busybox: str) -> None:
    options = {"tag": "{{.Name}} of {{.ImageName}}", "labels": "team,nosuch", "env_regex": "^X_", "env": "PLAIN"}
    config = {"Labels": {"team": "a&b", "other": "o"}, "Env": ["X_1=one", "PLAIN=p", "Y=no"]}
    with ran(engine, busybox, "echo hello", options=options, **config) as container:
        _, about = engine.api("GET", f"/containers/{container}/json")
        entry = json.loads(Path(about["LogPath"]).read_text())
        name = about["Name"][1:]
        wanted = {"team": "a&b", "PLAIN": "p", "X_1": "one", "tag": f"{name} of busybox:latest"}
        assert entry["attrs"] == wanted and entry["log"] == "hello\n"
        plain = f"PLAIN=p,X_1=one,tag={name}+of+busybox%3Alatest,team=a%26b hello\n"
        assert read(engine, container, "stdout=1&details=1") == [(1, plain)]
        stamped = read(engine, container, "stdout=1&details=1&timestamps=1")[0][1]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z " + re.escape(plain), stamped)
        assert read(engine, container, "stdout=1") == [(1, "hello\n")]


@pytest.mark.parametrize("compress", ["true", "false"])
def test_rotated_files_are_read_as_one_log(engine: EngineUnderTest, busybox: str, compress: str) -> None:
    options = {"max_size": "200k", "max_file": "4", "compress": compress}
    with ran(engine, busybox, "seq 100000 112000", options=options) as container:
        log = Path(engine.api("GET", f"/containers/{container}/json")[1]["LogPath"])
        suffix = ".gz" if compress == "true" else ""
        until(lambda: all(log.with_name(f"{log.name}.{number}{suffix}").exists() for number in (1, 2, 3)))
        until(lambda: not list(log.parent.glob("*.tmp")))
        lines = [int(text) for _stream, text in read(engine, container)]
        assert lines == list(range(lines[0], 112_001)) and len(lines) > 6000
        assert [int(text) for _stream, text in read(engine, container, "stdout=1&tail=5000")] == lines[-5000:]
        assert read(engine, container, "stdout=1&tail=0") == []


def test_a_follower_misses_nothing_while_files_are_rotated_and_compressed(
    engine: EngineUnderTest, busybox: str
) -> None:
    options = {"max_size": "100k", "max_file": "10", "compress": "true"}
    script = "for n in 1 2 3 4 5 6; do seq ${n}0000 ${n}1000; sleep 0.2; done"
    with ran(engine, busybox, script, wait=False, options=options) as container:
        found = [int(text) for _stream, text in read(engine, container, "stdout=1&follow=1")]
        assert found == [number for n in range(1, 7) for number in range(n * 10_000, n * 10_000 + 1001)]


def test_the_local_driver_keeps_a_log_that_only_the_engine_reads(engine: EngineUnderTest, busybox: str) -> None:
    with ran(engine, busybox, "echo kept; echo error >&2", driver="local") as container:
        _, about = engine.api("GET", f"/containers/{container}/json")
        assert about["LogPath"] == "" and about["HostConfig"]["LogConfig"]["Type"] == "local"
        assert sorted(read(engine, container)) == [(1, "kept\n"), (2, "error\n")]
        assert read(engine, container, "stderr=1") == [(2, "error\n")]


def test_without_a_log_there_is_nothing_to_read(engine: EngineUnderTest, busybox: str) -> None:
    with ran(engine, busybox, "echo gone", driver="none") as container:
        status, answer = engine.api("GET", f"/containers/{container}/logs?stdout=1")
        assert status == 501 and answer["message"] == "configured logging driver does not support reading"
        status, answer = engine.api("GET", f"/containers/{container}/logs")
        assert status == 400 and answer["message"] == "Bad parameters: you must choose at least one stream"


def test_since_and_until_choose_by_time(engine: EngineUnderTest, busybox: str) -> None:
    with ran(engine, busybox, "echo one; sleep 1.2; echo two; sleep 1.2; echo three") as container:
        stamps = [text.split()[0] for _stream, text in read(engine, container, "stdout=1&timestamps=1")]
        assert read(engine, container, f"stdout=1&since={stamps[1]}") == [(1, "two\n"), (1, "three\n")]
        assert read(engine, container, f"stdout=1&until={stamps[1]}") == [(1, "one\n"), (1, "two\n")]
        assert read(engine, container, f"stdout=1&since={stamps[1]}&until={stamps[1]}") == [(1, "two\n")]
        assert read(engine, container, f"stdout=1&since={stamps[0]}&tail=1") == [(1, "three\n")]
        for query in ("since=x", "until=yesterday", "since=-5"):
            assert engine.api("GET", f"/containers/{container}/logs?stdout=1&{query}")[0] == 400


def test_following_ends_with_the_container(engine: EngineUnderTest, busybox: str) -> None:
    with ran(engine, busybox, "echo begun; exec sleep 1000", wait=False) as container:
        found: list[tuple[int, str]] = []
        follower = threading.Thread(target=lambda: found.extend(read(engine, container, "stdout=1&follow=1")))
        follower.start()
        until(lambda: read(engine, container) == [(1, "begun\n")])
        assert engine.api("POST", f"/containers/{container}/stop?t=0")[0] == 204
        follower.join(20)
        assert not follower.is_alive() and found == [(1, "begun\n")]
