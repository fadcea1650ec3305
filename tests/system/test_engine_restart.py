"""The engine may end at any moment: no container, no line of output, no exit code is lost with it."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.engine import EngineUnderTest


def create(engine: EngineUnderTest, image: str, *command: str, name: str = "", **config: Any) -> str:
    host = {"NetworkMode": "none", **config.pop("HostConfig", {})}
    body = {"Image": image, "Cmd": list(command), "HostConfig": host, **config}
    status, answer = engine.api("POST", f"/containers/create?name={name}", body)
    assert status == 201, answer
    return str(answer["Id"])


def start(engine: EngineUnderTest, container: str) -> None:
    status, answer = engine.api("POST", f"/containers/{container}/start")
    assert status == 204, answer


def state(engine: EngineUnderTest, container: str) -> dict[str, Any]:
    status, answer = engine.api("GET", f"/containers/{container}/json")
    assert status == 200, answer
    found: dict[str, Any] = answer["State"]
    return found


def until(engine: EngineUnderTest, container: str, status: str) -> dict[str, Any]:
    deadline = time.monotonic() + 20
    while (found := state(engine, container))["Status"] != status:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def output(engine: EngineUnderTest, container: str) -> bytes:
    _status, data = engine.api("GET", f"/containers/{container}/logs?stdout=1")
    text = b""
    while data:
        length = int.from_bytes(data[4:8], "big")
        text, data = text + data[8 : 8 + length], data[8 + length :]
    return text


def remove(engine: EngineUnderTest, *containers: str) -> None:
    for container in containers:
        status, answer = engine.api("DELETE", f"/containers/{container}?force=1")
        assert status == 204, answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_containers_run_on_and_are_found_again(engine: EngineUnderTest, busybox: str, number: signal.Signals) -> None:
    container = create(engine, busybox, "sleep", "1000")
    paused = create(engine, busybox, "sleep", "1000")
    start(engine, container)
    start(engine, paused)
    engine.api("POST", f"/containers/{paused}/pause")
    pid = state(engine, container)["Pid"]
    engine.down(number)
    assert Path(f"/proc/{pid}").exists()
    engine.up()
    found = state(engine, container)
    assert (found["Status"], found["Pid"]) == ("running", pid)
    assert state(engine, paused)["Status"] == "paused"
    engine.api("POST", f"/containers/{paused}/unpause")
    status, answer = engine.api("POST", f"/containers/{container}/exec", {"Cmd": ["true"]})
    assert status == 201
    assert engine.api("POST", f"/exec/{answer['Id']}/start", {"Detach": True})[0] == 200
    assert engine.api("POST", f"/containers/{container}/stop?t=0")[0] == 204
    remove(engine, container, paused)


def test_what_ends_meanwhile_keeps_its_exit_code_and_output(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sh", "-c", "for i in $(seq 100); do echo line $i; sleep 0.005; done; exit 42")
    start(engine, container)
    engine.down(signal.SIGKILL)
    time.sleep(1.2)
    engine.up()
    assert until(engine, container, "exited")["ExitCode"] == 42
    assert output(engine, container) == b"".join(b"line %d\n" % number for number in range(1, 101))
    assert not (engine.run / "containers" / container).exists(), "the sub-init was released"
    remove(engine, container)


def test_killed_at_any_moment_nothing_is_lost(engine: EngineUnderTest, busybox: str) -> None:
    """Kills the engine while clients create, start and remove; in the end all that remains is whole."""
    dice = random.Random(7)
    for _round in range(5):
        names = [f"chaos-{_round}-{number}" for number in range(8)]

        def work(name: str) -> None:
            try:
                body = {"Image": busybox, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
                engine.api("POST", f"/containers/create?name={name}", body)
                engine.api("POST", f"/containers/{name}/start")
                if name.endswith(("1", "4")):
                    engine.api("DELETE", f"/containers/{name}?force=1")
            except (OSError, ValueError, AssertionError):
                pass
            except Exception as error:
                assert "HTTP" in type(error).__mro__[1].__name__ or "Disconnected" in type(error).__name__, error

        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        time.sleep(dice.uniform(0.0, 0.25))
        engine.down(signal.SIGKILL)
        for thread in threads:
            thread.join()
        engine.up()
        _status, found = engine.api("GET", "/containers/json?all=1")
        ids = {entry["Id"] for entry in found}
        on_disk = {name for name in os.listdir(engine.root / "containers") if not name.startswith(".gone-")}
        assert on_disk == ids
        for entry in found:
            now = state(engine, entry["Id"])
            assert now["Status"] in ("created", "running", "exited"), now
            if now["Status"] == "running":
                assert Path(f"/proc/{now['Pid']}").exists()
            else:
                start(engine, entry["Id"])
            remove(engine, entry["Id"])
        assert os.listdir(engine.run / "containers") == []


def test_a_container_goes_down_with_its_sub_init(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sh", "-c", "sleep 1000 & sleep 1000")
    start(engine, container)
    pid = state(engine, container)["Pid"]
    with open(f"/proc/{pid}/stat") as file:
        parent = int(file.read().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    found = until(engine, container, "exited")
    assert found["ExitCode"] == 137 and "was killed" in found["Error"]
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    start(engine, container)
    with open(f"/proc/{state(engine, container)['Pid']}/stat") as file:
        parent = int(file.read().rpartition(")")[2].split()[1])
    engine.down(signal.SIGKILL)
    os.kill(parent, signal.SIGKILL)
    engine.up()
    assert until(engine, container, "exited")["ExitCode"] == 137
    remove(engine, container)


def test_one_that_removes_itself_does_so_when_the_engine_is_back(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sleep", "0.3", HostConfig={"AutoRemove": True})
    start(engine, container)
    engine.down(signal.SIGKILL)
    time.sleep(0.6)
    engine.up()
    deadline = time.monotonic() + 10
    while engine.api("GET", f"/containers/{container}/json")[0] != 404:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_policies_hold_over_a_restart(engine: EngineUnderTest, busybox: str) -> None:
    always = create(engine, busybox, "sleep", "0.3", HostConfig={"RestartPolicy": {"Name": "always"}})
    stopped = create(engine, busybox, "sleep", "1000", HostConfig={"RestartPolicy": {"Name": "unless-stopped"}})
    start(engine, always)
    start(engine, stopped)
    engine.api("POST", f"/containers/{stopped}/stop?t=0")
    engine.down(signal.SIGKILL)
    time.sleep(0.6)
    engine.up()
    until(engine, always, "running")
    assert state(engine, stopped)["Status"] == "exited"
    remove(engine, always, stopped)


def test_one_that_fails_while_the_engine_ends_is_started_again(
    engine: EngineUnderTest, busybox: str, tmp_path: Path
) -> None:
    slow = create(engine, busybox, "sleep", "1000")
    start(engine, slow)
    config = engine.root / "containers" / slow / "config.json"
    hook = {"path": "/bin/sleep", "args": ["sleep", "8"]}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hooks": {"poststop": [hook]}}))
    failing = create(
        engine,
        busybox,
        *("sh", "-c", "[ -e /again ] && sleep 1000; touch /again; while [ ! -e /t/now ]; do usleep 9000; done; exit 3"),
        HostConfig={"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1}, "Binds": [f"{tmp_path}:/t"]},
    )
    start(engine, failing)
    engine.api("POST", f"/containers/{slow}/kill")  # its sub-init is now at its hook, and does not answer the engine
    ending = threading.Thread(target=engine.down)
    ending.start()
    time.sleep(1)
    (tmp_path / "now").touch()
    ending.join()
    engine.up()
    until(engine, failing, "running")
    assert engine.api("GET", f"/containers/{failing}/json")[1]["RestartCount"] == 1
    remove(engine, slow, failing)


def test_half_made_directories_go(engine: EngineUnderTest, busybox: str) -> None:
    engine.down()
    half = engine.root / "containers" / ("a" * 64)
    (half / "upper/deep").mkdir(parents=True)
    (engine.root / "volumes" / "half" / "_data").mkdir(parents=True)
    engine.up()
    assert not half.exists()
    assert not (engine.root / "volumes" / "half").exists()


def test_events_streams_and_waits_end_with_the_engine(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sleep", "1000")
    start(engine, container)
    ends = []
    for method, path in (("GET", "/events"), ("POST", f"/containers/{container}/wait")):
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.connect(str(engine.socket))
        end.settimeout(15)
        end.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert end.recv(15) == b"HTTP/1.1 200 OK"
        ends.append(end)
    before = time.monotonic()
    engine.down()
    assert time.monotonic() - before < 10
    for end in ends:
        while end.recv(4096):
            pass
        end.close()
    engine.up()
    assert state(engine, container)["Status"] == "running"
    remove(engine, container)


def test_only_one_engine_has_the_directories(engine: EngineUnderTest) -> None:
    other = subprocess.run(
        [sys.executable, "-m", "capsa.cli.main", "engine", "--root", engine.root, "--run", engine.run, "--host",
         f"unix://{engine.base}/other.sock"],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert other.returncode != 0
    assert "another engine uses" in other.stderr and "Traceback" not in other.stderr
    assert not (engine.base / "other.sock").exists()


def test_the_socket_is_roots_and_a_stale_one_is_replaced(engine: EngineUnderTest) -> None:
    assert stat.S_IMODE(engine.socket.stat().st_mode) == 0o660
    engine.down(signal.SIGKILL)
    assert engine.socket.exists()
    engine.up()
    assert engine.api("GET", "/_ping")[0] == 200
    engine.down()
    assert not engine.socket.exists()
    engine.up()
