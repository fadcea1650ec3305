"""The real docker client and what streams: detach keys, events, statistics, details of logs."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest
from fixtures.engine import EngineUnderTest
from fixtures.terminal import Terminal

Docker = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def nothing_left(engine: EngineUnderTest, busybox: str, docker_client: str) -> Iterator[None]:
    yield
    engine.remove_containers()


@pytest.mark.parametrize(("options", "typed"), [([], "\x10\x11"), (["--detach-keys", "ctrl-a,d"], "\x01d")])
def test_detach_keys_leave_the_container_running(
    engine: EngineUnderTest, docker: Docker, docker_client: str, options: list[str], typed: str
) -> None:
    docker("run", "-dit", "--name", "box", "busybox", "sh")
    screen = Terminal([docker_client, "attach", *options, "box"], engine.environment(), rows=24, columns=80)
    screen.type("echo $((40+2))\r")
    screen.expect("42")
    screen.type(typed[0] + typed)  # a key too many is no sequence, for the client and for the engine
    screen.type("\x15echo $((50+2))\r")
    screen.expect("52")
    screen.type(typed)
    screen.expect("read escape sequence")
    screen.wait()
    assert docker("inspect", "-f", "{{.State.Running}}", "box").stdout == "true\n"


def test_statistics_of_several_containers(docker: Docker) -> None:
    for name in ("one", "two"):
        docker("run", "-d", "--name", name, "--memory", "64m", "busybox", "sleep", "1000")
    lines = docker("stats", "--no-stream", "--format", "{{json .}}").stdout.splitlines()
    found = {line["Name"]: line for line in map(json.loads, lines)}
    assert set(found) == {"one", "two"}
    assert all(line["PIDs"] == "1" and line["MemUsage"].endswith("/ 64MiB") for line in found.values())
    assert all(line["CPUPerc"].endswith("%") and "B / " in line["NetIO"] for line in found.values())


def test_details_of_logs(docker: Docker) -> None:
    docker("run", "--name", "box", "--label", "team=a", "--log-opt", "labels=team", "busybox", "echo", "hello")
    assert docker("logs", "--details", "box").stdout == "team=a hello\n"
    assert docker("logs", "box").stdout == "hello\n"


def test_info_tells_of_the_engine(docker: Docker) -> None:
    found = json.loads(docker("info", "--format", "{{json .}}").stdout)
    assert found["Plugins"]["Log"] == ["json-file", "local", "none"] and found["Swarm"]["LocalNodeState"] == "inactive"
    assert "Server Version" in docker("info").stdout
