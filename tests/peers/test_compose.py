"""docker-compose, version 1 and 2, against a capsa engine: what a project's file says holds, command by command."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from fixtures.compose import Compose, find
from fixtures.debs import NoPackage
from fixtures.ports import free_port
from fixtures.wait import until

from capsa.engine.times import parse

CACHE = Path(__file__).parent.parent.parent / ".cache"


@pytest.fixture(scope="module", params=[1, 2], ids=["v1", "v2"])
def generation(request: pytest.FixtureRequest, need_root: None) -> tuple[int, Path]:
    """A docker-compose: its generation and its program."""
    try:
        return request.param, find(request.param, CACHE)
    except NoPackage as error:
        pytest.skip(str(error))


# What version 1 asks of the engine no differently than version 2 does; it takes a second for each command
newer = pytest.mark.parametrize("generation", [2], ids=["v2"], indirect=True)


@pytest.fixture
def compose(engine, busybox, generation, tmp_path) -> Iterator[Compose]:
    """A project without a file, in a directory `shop`."""
    made = Compose(engine, generation[1], generation[0], tmp_path / "shop")
    yield made
    made.gone()


def get(port: int, path: str = "/") -> str:
    """What a server on this host answers, once it listens."""

    def answer() -> str:
        with suppress(ConnectionError, URLError), urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as reply:
            return reply.read().decode()
        return ""

    return until(answer)


WEB = """
    services:
      web:
        image: busybox
        command: httpd -f -p 80 -h /www
        init: true
        ports: ["127.0.0.1:{port}:80"]
        volumes: ["site:/www", "./conf:/conf:ro"]
        environment: {{GREETING: "good day", FROM_SHELL: }}
        labels: {{tier: front}}
        networks: [front]
      worker:
        image: busybox
        command: sh -c 'trap "exit 0" TERM; i=0; while :; do i=$$((i+1)); echo tick $$i; sleep 0.2 & wait; done'
        depends_on: [web]
        networks: [front]
    networks: {{front: }}
    volumes: {{site: }}
"""


def test_a_project_comes_up_works_and_goes(compose):
    port = free_port()
    compose.file(WEB.format(port=port))
    (compose.directory / "conf").mkdir()
    (compose.directory / "conf/site.conf").write_text("of the host")
    compose("up", "-d")
    web, worker = compose.container("web"), compose.container("worker")
    assert compose.states() == {web: "running", worker: "running"}

    assert compose("exec", "-T", "web", "sh", "-c", "echo $GREETING; cat /conf/site.conf").stdout == (
        "good day\nof the host"
    )
    compose("exec", "-T", "web", "sh", "-c", "cat >/www/index.html", input="<h1>hello</h1>")
    assert get(port) == "<h1>hello</h1>"

    listed = compose("ps").stdout
    assert web in listed and worker in listed and f"127.0.0.1:{port}->80/tcp" in listed
    if compose.generation == 2:
        assert compose("exec", "-T", "web", "sh", "-c", "echo x >/conf/site.conf", check=False).returncode == 1
        assert compose("exec", "-T", "web", "sh", "-c", "exit 7", check=False).returncode == 7
        assert compose("port", "web", "80").stdout == f"127.0.0.1:{port}\n"
        assert compose("ps", "-q", "worker").stdout.strip() == compose.inspect("worker")["Id"]
        assert "httpd -f -p 80" in compose("top", "web").stdout
        assert "busybox" in compose("images").stdout
        assert compose("config", "--services").stdout.split() == ["web", "worker"]
    assert "tick 1" in compose("logs", "--tail", "all", "worker").stdout

    compose("down")  # without its volume
    assert compose.states() == {}
    compose("up", "-d", "web")
    assert get(port) == "<h1>hello</h1>"
    compose("down", "-v", "-t", "0")
    _, volumes = compose.engine.api("GET", "/volumes")
    assert not volumes["Volumes"]
    _, networks = compose.engine.api("GET", "/networks")
    assert {each["Name"] for each in networks} == {"bridge", "host", "none"}


@newer
def test_stop_start_restart_pause_kill_and_rm(compose):
    compose.file(WEB.format(port=free_port()))
    (compose.directory / "conf").mkdir()
    compose("create") if compose.generation == 2 else compose("up", "--no-start")
    web, worker = compose.container("web"), compose.container("worker")
    assert compose.states() == {web: "created", worker: "created"}
    compose("start")
    assert compose.states() == {web: "running", worker: "running"}
    compose("pause", "worker")
    assert compose.states()[worker] == "paused"
    assert "Paused" in compose("ps", "-a").stdout
    compose("unpause", "worker")
    before = compose.inspect("worker")["State"]["StartedAt"]
    compose("restart", "worker")
    assert compose.inspect("worker")["State"]["StartedAt"] != before
    compose("stop", "worker")
    assert compose.inspect("worker")["State"]["ExitCode"] == 0  # it was asked, not killed
    compose("kill", "-s", "KILL", "web")
    assert compose.inspect("web")["State"]["ExitCode"] == 137
    assert compose.states() == {web: "exited", worker: "exited"}
    compose("rm", "-f")
    assert compose.states() == {}


def test_only_what_changed_is_made_anew(compose):
    def file(value: str) -> None:
        compose.file(
            f"""
            services:
              same: {{image: busybox, command: sleep 1000, init: true}}
              changed:
                image: busybox
                command: sleep 1000
                init: true
                environment: [VALUE={value}]
                volumes: [/data]
            """
        )

    file("one")
    compose("up", "-d")
    compose("exec", "-T", "changed", "sh", "-c", "echo kept >/data/file")
    same, changed = compose.inspect("same")["Id"], compose.inspect("changed")["Id"]
    compose("up", "-d")
    assert (compose.inspect("same")["Id"], compose.inspect("changed")["Id"]) == (same, changed)
    file("two")
    compose("up", "-d")
    assert compose.inspect("same")["Id"] == same
    assert compose.inspect("changed")["Id"] != changed
    # the anonymous volume goes from the old container to the new one
    assert compose("exec", "-T", "changed", "sh", "-c", "echo $VALUE; cat /data/file").stdout == "two\nkept\n"
    assert set(compose.states()) == {compose.container("same"), compose.container("changed")}
    compose.file("services: {same: {image: busybox, command: sleep 1000, init: true}}")
    said = compose("up", "-d")
    assert "orphan" in said.stderr
    compose("up", "-d", "--remove-orphans")
    assert set(compose.states()) == {compose.container("same")}
    compose("up", "-d", "--force-recreate")
    assert compose.inspect("same")["Id"] != same


@newer
def test_scale_and_profiles(compose):
    compose.file(
        """
        services:
          box: {image: busybox, command: sleep 1000, init: true}
          debug: {image: busybox, command: sleep 1000, init: true, profiles: [debug]}
        """
    )
    compose("up", "-d", "--scale", "box=3")
    assert set(compose.states()) == {compose.container("box", number) for number in (1, 2, 3)}
    compose("up", "-d", "--scale", "box=1")
    assert set(compose.states()) == {compose.container("box")}
    compose("--profile", "debug", "up", "-d")
    assert set(compose.states()) == {compose.container("box"), compose.container("debug")}
    compose("--profile", "debug", "down", "-t", "0")
    assert compose.states() == {}


@newer
def test_a_one_off_container(compose):
    compose.file(
        """
        services:
          base: {image: busybox, command: sleep 1000, init: true}
          tool:
            image: busybox
            command: echo default
            environment: {ONE: "1"}
            depends_on: [base]
        """
    )
    assert compose("run", "--rm", "tool").stdout == "default\n"
    assert compose.states() == {compose.container("base"): "running"}
    done = compose("run", "--rm", "-T", "-e", "TWO=2", "tool", "sh", "-c", "cat; echo $ONE $TWO; exit 9",
                   input="in\n", check=False)  # fmt: skip
    assert (done.stdout, done.returncode) == ("in\n1 2\n", 9)
    assert compose.states() == {compose.container("base"): "running"}


def test_a_service_waits_for_the_health_of_another(compose):
    compose.file(
        """
        services:
          late:
            image: busybox
            command: sh -c 'sleep 1; touch /ready; exec sleep 1000'
            init: true
            healthcheck: {test: [CMD, test, -e, /ready], interval: 300ms, retries: 40}
          user:
            image: busybox
            command: sh -c 'echo up; exec sleep 1000'
            init: true
            depends_on:
              late: {condition: service_healthy}
              once: {condition: service_completed_successfully}
          once: {image: busybox, command: "true"}
        """
    )
    compose("up", "-d")
    assert compose.inspect("late")["State"]["Health"]["Status"] == "healthy"
    assert "healthy" in compose("ps").stdout
    filters = '{"event":["health_status"]}'
    _, told = compose.engine.api("GET", f"/events?since=1&until={time.time() + 0.1}&filters={filters}")
    healthy = [json.loads(line) for line in told.splitlines()] if isinstance(told, bytes) else [told]
    started = parse(compose.inspect("user")["State"]["StartedAt"])
    name = compose.container("late")
    assert min(each["timeNano"] for each in healthy if each["Actor"]["Attributes"]["name"] == name) < started
    assert compose.inspect("once")["State"]["FinishedAt"] < compose.inspect("user")["State"]["StartedAt"]


@newer
def test_a_service_does_not_start_beside_a_sick_one(compose):
    compose.file(
        """
        services:
          sick:
            image: busybox
            command: sleep 1000
            init: true
            healthcheck: {test: "echo no way; exit 1", interval: 100ms, retries: 2}
          user: {image: busybox, command: sleep 1000, depends_on: {sick: {condition: service_healthy}}}
        """
    )
    done = compose("up", "-d", check=False)
    assert done.returncode == 1
    assert "unhealthy" in done.stderr
    assert compose.states().get(compose.container("user"), "created") == "created"
    assert compose.inspect("sick")["State"]["Health"]["Log"][0]["Output"] == "no way\n"


@newer
def test_logs_are_followed_until_their_containers_end(compose):
    compose.file(
        """
        services:
          one: {image: busybox, command: "sh -c 'for i in 1 2 3; do echo one $$i; sleep 0.3; done'"}
          two: {image: busybox, command: "sh -c 'echo two out; echo two err >&2'"}
        """
    )
    compose("up", "-d")
    said = compose("logs", "-f", "--no-color", timeout=60).stdout
    assert {line.partition("|")[2].strip() for line in said.splitlines() if "|" in line} >= {
        *(f"one {number}" for number in (1, 2, 3)), "two out", "two err",
    }  # fmt: skip
    until(lambda: set(compose.states().values()) == {"exited"})
    tail = compose("logs", "--no-color", "--tail", "1", "one").stdout
    assert "one 3" in tail and "one 2" not in tail
    assert "Z one 3" in compose("logs", "--no-color", "-t", "one").stdout


def test_events_tell_what_happens_to_the_project(compose):
    compose.file("services: {box: {image: busybox, command: sleep 1000, init: true}}")
    compose("up", "-d")
    seen: list[dict[str, str]] = []
    with compose.background("events", "--json") as events:
        try:
            reader = Thread(target=lambda: seen.extend(map(json.loads, events.stdout)))
            reader.start()
            until(
                lambda: compose.engine.api("POST", f"/containers/{compose.container('box')}/kill?signal=CONT") and seen
            )
            compose("stop", "-t", "0")
            until(lambda: "stop" in {event["action"] for event in seen})
        finally:
            events.kill()
            reader.join()
    assert {event["service"] for event in seen} == {"box"}
    assert {"kill", "die", "stop"} <= {event["action"] for event in seen}


def test_in_the_foreground_an_interrupt_stops_the_project_gracefully(compose):
    compose.file(
        """
        services:
          polite:
            image: busybox
            command: sh -c 'trap "echo bye; exit 3" TERM; echo ready; while :; do sleep 0.1 & wait; done'
        """
    )
    screen = compose.terminal("up")
    screen.expect("ready")
    screen.type("\x03")
    screen.expect("topping")
    screen.wait()
    assert compose.inspect("polite")["State"]["ExitCode"] == 3
    assert "bye" in compose("logs", "polite").stdout
    screen = compose.terminal("up")  # once more, to the same container
    screen.expect("ready")
    screen.type("\x03")
    screen.wait()


@newer
def test_up_ends_with_the_container_that_it_is_told_to_watch(compose):
    compose.file(
        """
        services:
          server: {image: busybox, command: sleep 1000, init: true}
          tests: {image: busybox, command: "sh -c 'echo tested; exit 6'"}
        """
    )
    done = compose("up", "--exit-code-from", "tests", "-t", "1", check=False)
    assert done.returncode == 6
    assert "tested" in done.stdout
    assert set(compose.states().values()) == {"exited"}


def test_what_is_wrong_is_said(compose):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        compose.file(f"services: {{web: {{image: busybox, command: sleep 9, ports: ['127.0.0.1:{port}:80']}}}}")
        done = compose("up", "-d", check=False)
        assert done.returncode == 1
        assert str(port) in done.stderr and "already" in done.stderr
        assert done.stderr.count("Traceback") == 0
    compose("up", "-d")  # once it is free the same container starts
    assert compose.states() == {compose.container("web"): "running"}
    compose("down", "-t", "0")

    compose.file("services: {web: {image: 'localhost:1/nosuch:1', command: sleep 9}}")
    done = compose("up", "-d", check=False)
    assert done.returncode in (1, 18) and "localhost:1" in done.stderr and "Traceback" not in done.stderr

    compose.file(
        "services: {web: {image: busybox, command: sleep 9, volumes: [{type: bind, source: /nosuch/x, target: /x}]}}"
    )
    done = compose("up", "-d", check=False)
    assert done.returncode == 1
    assert "bind source path does not exist: /nosuch/x" in done.stderr

    compose.file("services: {web: {image: busybox, command: nosuchcommand}}")
    done = compose("up", "-d", check=False)
    assert done.returncode == 1
    assert "nosuchcommand" in done.stderr and "not found" in done.stderr
    assert compose("down", "-v").returncode == 0
