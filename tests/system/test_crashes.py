"""Processes of the engine die at any moment: no container, no line, no exit code is lost, and nothing is left."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import images, leftovers
from fixtures.engine import EngineUnderTest
from fixtures.processes import children, parent, title

SEED = 20240229
ROUNDS = 8
PIDFD_GETFD = 438  # on all machines


@pytest.fixture(scope="module")
def warm(engine: EngineUnderTest, busybox: str) -> EngineUnderTest:
    """The engine, after a first container with a network."""
    engine.capsa("run", "--rm", busybox, "true")
    before = leftovers.of(engine)
    while (now := leftovers.of(engine)) != before:
        before = now
        time.sleep(0.3)
    return engine


@pytest.fixture(autouse=True)
def nothing_left(warm: EngineUnderTest) -> Iterator[None]:
    """After each test all containers are removed, and then all is as it was."""
    before = lasting(warm)
    yield
    warm.remove_containers()
    deadline = time.monotonic() + 15
    while (now := lasting(warm)) - before:
        assert time.monotonic() < deadline, sorted(now - before)
        time.sleep(0.05)


def lasting(engine: EngineUnderTest) -> set[str]:
    """What outlives an engine: bridges and tables come and go with the need for them."""
    return {line for line in leftovers.of(engine) if not line.startswith(("nftables", "interface capsa-"))}


def create(engine: EngineUnderTest, *command: str, name: str = "", **fields: Any) -> str:
    host = {"NetworkMode": "none", **fields.pop("HostConfig", {})}
    body = {"Image": "busybox", "Cmd": list(command), "HostConfig": host, **fields}
    status, answer = engine.api("POST", f"/containers/create{f'?name={name}' if name else ''}", body)
    assert status == 201, answer
    return str(answer["Id"])


def run(engine: EngineUnderTest, *command: str, **fields: Any) -> str:
    identity = create(engine, *command, **fields)
    status, answer = engine.api("POST", f"/containers/{identity}/start")
    assert status == 204, answer
    return identity


def state(engine: EngineUnderTest, container: str) -> dict[str, Any]:
    status, answer = engine.api("GET", f"/containers/{container}/json")
    assert status == 200, answer
    found: dict[str, Any] = answer["State"]
    return found


def until(what: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)
    return found


def ended(engine: EngineUnderTest, container: str) -> dict[str, Any]:
    """Its state, once it has ended."""
    until(lambda: state(engine, container)["Status"] == "exited")
    return state(engine, container)


def logged(engine: EngineUnderTest, container: str) -> list[str]:
    path = engine.root / "containers" / container / f"{container}-json.log"
    return [json.loads(line)["log"].rstrip("\n") for line in path.read_text().splitlines()]


def cgroups(container: str) -> list[Path]:
    bases = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]
    return [path for base in bases for path in base.glob(f"capsa*/{container}")]


def tolerant(work: Callable[[], Any]) -> None:
    """Do it, whatever the engine's death makes of it."""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError, TypeError, KeyError, AssertionError):
        work()


# ---- the engine ----


def test_killed_with_any_request_under_way(warm: EngineUnderTest, busybox: str) -> None:
    """Clients of all kinds work, the engine dies, the next one finds all as it was told or as it had been asked."""
    dice = random.Random(SEED)
    archive = images.docker_archive([images.busybox_layer("/bin/busybox")], ["again:1"], {"Labels": {"crash": "yes"}})
    for number in range(ROUNDS):
        counting = run(warm, "sh", "-c", "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; done; exit 42")
        living = [run(warm, "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done") for _ in range(3)]
        prepared = [create(warm, "sh", "-c", "echo started; exit 5") for _ in range(3)]
        answered: dict[str, int] = {}

        def ask(method: str, path: str, body: object = None, answered: dict[str, int] = answered) -> None:
            answered[path] = warm.api(method, path, body)[0]

        def execute(container: str = living[0], ask: Callable[..., None] = ask) -> None:
            made = warm.api("POST", f"/containers/{container}/exec", {"Cmd": ["true"], "AttachStdout": True})[1]
            ask("POST", f"/exec/{made['Id']}/start", {})

        work: list[Callable[[], None]] = [
            execute,
            lambda a=ask, c=living[1]: a("POST", f"/containers/{c}/stop?t=5"),
            lambda a=ask, c=living[2]: a("DELETE", f"/containers/{c}?force=1"),
            lambda a=ask: a("POST", "/images/load?quiet=1", archive),
            lambda a=ask, n=number: a(
                "POST",
                f"/containers/create?name=new-{n}",
                {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Binds": [f"crash{n}:/x"]}},
            ),
            *(lambda a=ask, c=each: a("POST", f"/containers/{c}/start") for each in prepared),
        ]  # fmt: skip
        threads = [threading.Thread(target=tolerant, args=(each,)) for each in work]
        for thread in threads:
            thread.start()
        time.sleep(dice.uniform(0, 0.15))
        warm.down(signal.SIGKILL)
        for thread in threads:
            thread.join()
        warm.up()

        found = ended(warm, counting)
        assert found["ExitCode"] == 42 and not found["Error"], found
        assert logged(warm, counting) == [str(line) for line in range(1, 401)]
        assert state(warm, living[0])["Running"], "nobody asked it to end"
        status, stopped = warm.api("GET", f"/containers/{living[1]}/json")
        assert status == 200
        if answered.get(f"/containers/{living[1]}/stop?t=5") == 204:
            assert stopped["State"]["Status"] == "exited"
        if stopped["State"]["Status"] == "exited":
            assert stopped["State"]["ExitCode"] == 9, stopped["State"]
        for each in prepared:
            ran = state(warm, each)
            if answered.get(f"/containers/{each}/start") == 204 or ran["Status"] != "created":
                assert ended(warm, each)["ExitCode"] == 5
                assert logged(warm, each) == ["started"]
            else:
                assert (ran["Status"], ran["Pid"]) == ("created", 0)
                assert not cgroups(each), "half a launch is undone"
                assert warm.api("POST", f"/containers/{each}/start")[0] == 204, "and can be done again"
                assert ended(warm, each)["ExitCode"] == 5
        if answered.get(f"/containers/{living[2]}?force=1") == 204:
            assert warm.api("GET", f"/containers/{living[2]}/json")[0] == 404
        if answered.get(f"/containers/create?name=new-{number}") == 201:
            assert warm.api("GET", f"/containers/new-{number}/json")[0] == 200
        status, _ = warm.api("GET", "/images/again:1/json")
        if answered.get("/images/load?quiet=1") == 200:
            assert status == 200
        if status == 200:
            assert warm.capsa("run", "--rm", "--network", "none", "again:1", "echo", "whole").stdout == "whole\n"
            assert warm.api("DELETE", "/images/again:1")[0] == 200
        assert not os.listdir(warm.root / "image" / "tmp")
        warm.remove_containers()
        warm.api("DELETE", f"/volumes/crash{number}")
        until(lambda: not os.listdir(warm.root / "containers"))
        until(lambda: not os.listdir(warm.run / "containers"))


def test_output_goes_on_while_engines_come_and_go(warm: EngineUnderTest) -> None:
    lines = 1500
    count = f"i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo $i; [ $((i%10)) = 0 ] && usleep 4000; done; exit 3"
    container = run(warm, "sh", "-c", count)
    dice = random.Random(SEED)
    for _ in range(4):
        time.sleep(dice.uniform(0, 0.1))
        warm.restart(signal.SIGKILL)
    assert ended(warm, container)["ExitCode"] == 3
    assert logged(warm, container) == [str(number) for number in range(1, lines + 1)]


def test_a_terminated_engine_leaves_its_containers_and_the_command_line_finds_them(warm: EngineUnderTest) -> None:
    container = run(warm, "sh", "-c", "read x; echo got $x; exit 4", name="kept", OpenStdin=True)
    pid = state(warm, container)["Pid"]
    warm.down(signal.SIGTERM)
    assert Path(f"/proc/{pid}").exists()
    warm.up()
    assert warm.capsa("ps", "--format", "{{.Names}} {{.State}}").stdout == "kept running\n"
    assert warm.capsa("exec", "kept", "echo", "hello").stdout == "hello\n"
    done = warm.capsa("attach", "--sig-proxy=false", "kept", input="it\n", check=False)
    assert (done.stdout, done.returncode) == ("got it\n", 4)
    assert warm.capsa("wait", "kept").stdout == "4\n"


def test_containers_with_a_network_keep_it_and_give_it_back(warm: EngineUnderTest) -> None:
    container = run(warm, "sleep", "1000", HostConfig={"NetworkMode": "bridge", "PortBindings": {"80/tcp": [{}]}})
    _, before = warm.api("GET", f"/containers/{container}/json")
    warm.restart(signal.SIGKILL)
    _, after = warm.api("GET", f"/containers/{container}/json")
    assert after["NetworkSettings"]["Ports"] == before["NetworkSettings"]["Ports"] != {}
    assert after["NetworkSettings"]["Networks"] == before["NetworkSettings"]["Networks"]
    port = after["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
    other = create(warm, "true", HostConfig={"NetworkMode": "bridge", "PortBindings": {"80/tcp": [{"HostPort": port}]}})
    status, answer = warm.api("POST", f"/containers/{other}/start")
    assert status == 500 and "port is already allocated" in answer["message"]
    assert warm.api("DELETE", f"/containers/{container}?force=1")[0] == 204
    assert warm.api("POST", f"/containers/{other}/start")[0] == 204, "the port is free again"
    ended(warm, other)


def test_a_restart_policy_and_a_removal_by_itself_hold_over_a_crash(warm: EngineUnderTest) -> None:
    again = run(warm, "sh", "-c", "sleep 0.3; exit 1", HostConfig={"RestartPolicy": {"Name": "on-failure"}})
    gone = run(warm, "sleep", "0.3", HostConfig={"AutoRemove": True})
    stays = run(warm, "sleep", "1000", HostConfig={"RestartPolicy": {"Name": "always"}})
    pid = state(warm, stays)["Pid"]
    warm.down(signal.SIGKILL)
    time.sleep(0.5)
    warm.up()
    until(lambda: warm.api("GET", f"/containers/{gone}/json")[0] == 404)
    until(lambda: state(warm, again)["Running"])
    assert state(warm, stays)["Pid"] == pid


# ---- the zygote, sub-inits, attendants ----


def zygotes(engine: EngineUnderTest) -> list[int]:
    return [pid for pid in children(engine.pid) if "zygote" in title(pid)]


def zygote_of(engine: EngineUnderTest) -> int:
    """The one that serves; after a former one was killed it is there once something was launched."""
    engine.capsa("run", "--rm", "--network", "none", "busybox", "true")
    (zygote,) = until(lambda: zygotes(engine))
    return int(zygote)


def reserves(zygote: int) -> list[int]:
    """The newest is last; an older one may just have been launched."""
    return [pid for pid in children(zygote) if "zygote" in title(pid)]


def test_a_killed_zygote_is_replaced(warm: EngineUnderTest) -> None:
    container = run(warm, "sleep", "1000")
    for _ in range(3):
        zygote = zygote_of(warm)
        os.kill(zygote, signal.SIGKILL)
        assert warm.capsa("run", "--rm", "--network", "none", "busybox", "echo", "on").stdout == "on\n"
        assert zygotes(warm) != [zygote]
    assert state(warm, container)["Running"]
    assert warm.api("POST", f"/containers/{container}/stop?t=0")[0] == 204
    assert state(warm, container)["ExitCode"] == 137


def test_a_launch_that_a_killed_zygote_took_along_is_made_by_the_next(warm: EngineUnderTest) -> None:
    prepared = [create(warm, "sh", "-c", "exit 5") for _ in range(12)]
    statuses: list[int] = []

    def start() -> None:
        for each in prepared:
            statuses.append(warm.api("POST", f"/containers/{each}/start")[0])

    thread = threading.Thread(target=start)
    thread.start()
    for _ in range(8):  # fewer than a launch tries
        for zygote in zygotes(warm):
            os.kill(zygote, signal.SIGKILL)
        thread.join(0.3)
    thread.join()
    assert statuses == [204] * len(prepared)
    assert {ended(warm, each)["ExitCode"] for each in prepared} <= {5}


def test_a_killed_reserve_is_replaced(warm: EngineUnderTest) -> None:
    zygote = zygote_of(warm)
    for _ in range(3):
        reserve = until(lambda: reserves(zygote))[-1]
        os.kill(reserve, signal.SIGKILL)
        until(lambda gone=reserve: gone not in reserves(zygote))
        assert warm.capsa("run", "--rm", "--network", "none", "busybox", "echo", "on").stdout == "on\n"
    assert zygotes(warm) == [zygote]


def dead(engine: EngineUnderTest, container: str, pid: int) -> None:
    """It died with its sub-init, the engine says so, and it can be used and removed."""
    found = ended(engine, container)
    assert found["ExitCode"] == 137 and found["Pid"] == 0
    assert "sub-init" in found["Error"] and "killed" in found["Error"], found
    until(lambda: not Path(f"/proc/{pid}").exists())
    until(lambda: not cgroups(container))
    assert not (engine.run / "containers" / container).exists()
    assert engine.capsa("inspect", "--format", "{{.State.Error}}", container).stdout.strip() == found["Error"]
    assert engine.api("POST", f"/containers/{container}/start")[0] == 204, "it can be started again"
    assert state(engine, container)["Error"] == ""
    assert engine.capsa("rm", "-f", container).stdout.strip() == container


def test_a_killed_sub_init_takes_its_container_along_and_the_engine_says_so(warm: EngineUnderTest) -> None:
    container = run(warm, "sh", "-c", "sleep 1000 & sleep 1000", HostConfig={"NetworkMode": "bridge"})
    pid = state(warm, container)["Pid"]
    os.kill(parent(pid), signal.SIGKILL)
    dead(warm, container, pid)


@pytest.mark.parametrize("quiet", [False, True])
def test_a_killed_attendant_takes_its_container_along_and_the_engine_says_so(
    warm: EngineUnderTest, quiet: bool
) -> None:
    container = run(warm, "sh", "-c", "trap '' TERM; while :; do sleep 1000; done", OpenStdin=True)
    pid = state(warm, container)["Pid"]
    sub_init = parent(pid)
    attendants = [each for each in children(sub_init) if each != pid]
    assert len(attendants) == 1
    if quiet:  # the second one, which came because something happened after a while
        until(lambda: children(sub_init) == [pid], 10)
        warm.api("POST", f"/containers/{container}/kill?signal=TERM")
        attendants = until(lambda: [each for each in children(sub_init) if each != pid])
    os.kill(attendants[0], signal.SIGKILL)
    dead(warm, container, pid)


def test_a_sub_init_killed_while_no_engine_runs(warm: EngineUnderTest) -> None:
    killed = run(warm, "sleep", "1000")
    pid = state(warm, killed)["Pid"]
    warm.down(signal.SIGKILL)
    os.kill(parent(pid), signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())
    warm.up()
    found = state(warm, killed)
    assert (found["Status"], found["ExitCode"]) == ("exited", 137) and "sub-init" in found["Error"], found
    until(lambda: not cgroups(killed))
    assert warm.api("DELETE", f"/containers/{killed}")[0] == 204


def test_waits_and_streams_end_with_a_killed_sub_init(warm: EngineUnderTest) -> None:
    container = run(warm, "sh", "-c", "echo first; sleep 1000")
    pid = state(warm, container)["Pid"]
    codes: list[Any] = []
    followed: list[str] = []
    threads = [
        threading.Thread(target=lambda: codes.append(warm.api("POST", f"/containers/{container}/wait")[1])),
        threading.Thread(target=lambda: followed.append(warm.capsa("logs", "-f", container).stdout)),
        threading.Thread(target=lambda: codes.append(warm.capsa("exec", container, "sleep", "1000", check=False))),
    ]
    for thread in threads:
        thread.start()
    until(lambda: len(children(parent(pid))) > 2, 10)
    os.kill(parent(pid), signal.SIGKILL)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert followed == ["first\n"]


def test_an_engine_that_does_not_listen_for_a_while_loses_nothing(warm: EngineUnderTest) -> None:
    """More happens meanwhile than the kernel keeps for it."""
    container = run(warm, "sleep", "1000")
    main = state(warm, container)["Pid"]
    execs = []
    for _ in range(350):
        execs.append(warm.api("POST", f"/containers/{container}/exec", {"Cmd": ["sleep", "1000"]})[1]["Id"])
        assert warm.api("POST", f"/exec/{execs[-1]}/start", {"Detach": True})[0] == 200
    others = [each for each in children(parent(main)) if "sleep" in title(each)]
    os.kill(warm.pid, signal.SIGSTOP)
    try:
        for each in others:
            if each != main:
                os.kill(each, signal.SIGKILL)
        until(lambda: len(children(parent(main))) < 4, 20)
        time.sleep(0.5)
    finally:
        os.kill(warm.pid, signal.SIGCONT)
    until(lambda: all(warm.api("GET", f"/exec/{each}/json")[1]["ExitCode"] == 137 for each in execs[-5:]), 20)
    assert state(warm, container)["Running"] and warm.capsa("exec", container, "echo", "alive").stdout == "alive\n"


def break_connections(engine: EngineUnderTest) -> int:
    """Shut the engine's connections to sub-inits and zygote down, from outside; how many there were."""
    broken = 0
    libc = ctypes.CDLL(None)
    pidfd = os.pidfd_open(engine.pid)
    try:
        for number in os.listdir(f"/proc/{engine.pid}/fd"):
            try:
                end = socket.socket(fileno=libc.syscall(PIDFD_GETFD, pidfd, int(number), 0))
            except (OSError, ValueError):
                continue  # it is none, or closed meanwhile
            with end:
                if end.type == socket.SOCK_SEQPACKET:
                    end.shutdown(socket.SHUT_RDWR)
                    broken += 1
    finally:
        os.close(pidfd)
    return broken


def test_a_broken_connection_to_a_sub_init_is_made_anew(warm: EngineUnderTest) -> None:
    containers = [run(warm, "sh", "-c", "while sleep 0.1; do echo x; done") for _ in range(3)]
    running = warm.api("POST", f"/containers/{containers[0]}/exec", {"Cmd": ["sh", "-c", "sleep 2; exit 7"]})[1]["Id"]
    assert warm.api("POST", f"/exec/{running}/start", {"Detach": True})[0] == 200
    before = [state(warm, each) for each in containers]
    assert break_connections(warm) >= len(containers)

    def works(container: str) -> bool:
        return warm.capsa("exec", container, "echo", "on", check=False).stdout == "on\n"

    until(lambda: all(works(each) for each in containers))
    assert [state(warm, each) for each in containers] == before
    assert until(lambda: warm.api("GET", f"/exec/{running}/json")[1]["ExitCode"]) == 7
    assert "is anew" in warm.log.read_text()
    for each in containers:
        assert warm.capsa("stop", "-t", "0", each).stdout.strip() == each
        assert ended(warm, each)["ExitCode"] == 137
        assert not state(warm, each)["Error"]
        warm.capsa("rm", each)
