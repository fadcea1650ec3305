"""The life of containers through the Docker Engine API."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.engine import EngineUnderTest
from fixtures.wait import until

from capsa.engine.times import parse


def create(engine: EngineUnderTest, image: str, *command: str, name: str = "", **config: Any) -> str:
    """Create a container without a network; its id."""
    host = {"NetworkMode": "none", **config.pop("HostConfig", {})}
    status, answer = engine.api(
        "POST", f"/containers/create?name={name}", {"Image": image, "Cmd": list(command), "HostConfig": host, **config}
    )
    assert status == 201, answer
    return str(answer["Id"])


def start(engine: EngineUnderTest, container: str) -> None:
    status, answer = engine.api("POST", f"/containers/{container}/start")
    assert status == 204, answer


def wait(engine: EngineUnderTest, container: str) -> int:
    status, answer = engine.api("POST", f"/containers/{container}/wait")
    assert status == 200, answer
    return int(answer["StatusCode"])


def inspect(engine: EngineUnderTest, container: str) -> dict[str, Any]:
    status, answer = engine.api("GET", f"/containers/{container}/json")
    assert status == 200, answer
    found: dict[str, Any] = answer
    return found


def output(engine: EngineUnderTest, container: str) -> str:
    """Standard output of a container with a terminal's or a framed log, as text."""
    _status, data = engine.api("GET", f"/containers/{container}/logs?stdout=1&stderr=1")
    text = b""
    data = data or b""
    assert isinstance(data, bytes)
    while data:
        length = int.from_bytes(data[4:8], "big")
        text += data[8 : 8 + length]
        data = data[8 + length :]
    return text.decode()


def remove(engine: EngineUnderTest, container: str) -> None:
    status, answer = engine.api("DELETE", f"/containers/{container}?force=1&v=1")
    assert status == 204, answer


def run(engine: EngineUnderTest, image: str, *command: str, **config: Any) -> tuple[int, str]:
    """Run a container to its end and remove it: exit code and output."""
    container = create(engine, image, *command, **config)
    try:
        start(engine, container)
        return wait(engine, container), output(engine, container)
    finally:
        remove(engine, container)


def test_a_container_goes_through_its_life(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sh", "-c", "echo hello; exit 3", name="life")
    found = inspect(engine, "life")
    assert (found["State"]["Status"], found["Name"], found["Path"]) == ("created", "/life", "sh")
    start(engine, container)
    assert wait(engine, container) == 3
    state = inspect(engine, container[:12])["State"]
    assert (state["Status"], state["ExitCode"], state["Pid"], state["Running"]) == ("exited", 3, 0, False)
    assert state["StartedAt"] < state["FinishedAt"]
    assert output(engine, container) == "hello\n"
    remove(engine, container)
    assert engine.api("GET", f"/containers/{container}/json")[0] == 404
    assert not (engine.root / "containers" / container).exists()


def test_a_container_can_be_started_again_and_keeps_its_files(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sh", "-c", "cat /kept; echo again > /kept")
    for _ in range(2):
        start(engine, container)
        wait(engine, container)
    assert output(engine, container).endswith("again\n")
    remove(engine, container)


def test_starting_what_runs_changes_nothing(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sleep", "100")
    start(engine, container)
    pid = inspect(engine, container)["State"]["Pid"]
    assert engine.api("POST", f"/containers/{container}/start")[0] == 304
    assert inspect(engine, container)["State"]["Pid"] == pid
    remove(engine, container)
    assert not os.path.exists(f"/proc/{pid}")


def test_stop_asks_first_and_kills_then(engine: EngineUnderTest, busybox: str) -> None:
    polite = create(engine, busybox, "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done")
    deaf = create(engine, busybox, "sleep", "100")
    for container, code in ((polite, 5), (deaf, 137)):
        start(engine, container)
        time.sleep(0.2)
        assert engine.api("POST", f"/containers/{container}/stop?t=1")[0] == 204
        assert inspect(engine, container)["State"]["ExitCode"] == code
        assert engine.api("POST", f"/containers/{container}/stop")[0] == 304
        remove(engine, container)


def test_a_stop_signal_of_its_own(engine: EngineUnderTest, busybox: str) -> None:
    command = ("sh", "-c", "trap 'exit 6' USR1; while :; do sleep 0.05; done")
    container = create(engine, busybox, *command, StopSignal="SIGUSR1")
    start(engine, container)
    time.sleep(0.2)
    engine.api("POST", f"/containers/{container}/stop?t=5")
    assert inspect(engine, container)["State"]["ExitCode"] == 6
    remove(engine, container)


def test_kill_sends_any_signal(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sleep", "100")
    assert engine.api("POST", f"/containers/{container}/kill")[0] == 409
    start(engine, container)
    assert engine.api("POST", f"/containers/{container}/kill?signal=NONSENSE")[0] == 400
    assert engine.api("POST", f"/containers/{container}/kill?signal=SIGKILL")[0] == 204
    assert inspect(engine, container)["State"]["ExitCode"] == 137
    remove(engine, container)


def test_pause_freezes_and_unpause_thaws(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sh", "-c", "while :; do echo x; sleep 0.02; done")
    start(engine, container)
    time.sleep(0.2)
    assert engine.api("POST", f"/containers/{container}/pause")[0] == 204
    assert inspect(engine, container)["State"]["Status"] == "paused"
    assert engine.api("POST", f"/containers/{container}/pause")[0] == 409
    assert engine.api("POST", f"/containers/{container}/exec", {"Cmd": ["true"]})[0] == 409
    time.sleep(0.1)
    before = output(engine, container)
    time.sleep(0.2)
    assert output(engine, container) == before
    assert engine.api("POST", f"/containers/{container}/unpause")[0] == 204
    time.sleep(0.3)
    assert len(output(engine, container)) > len(before)
    engine.api("POST", f"/containers/{container}/pause")
    remove(engine, container)


def test_restart_gives_a_new_process(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sleep", "100")
    start(engine, container)
    pid = inspect(engine, container)["State"]["Pid"]
    assert engine.api("POST", f"/containers/{container}/restart?t=0")[0] == 204
    state = inspect(engine, container)["State"]
    assert state["Running"] and state["Pid"] != pid
    remove(engine, container)


@pytest.mark.parametrize("condition", ["not-running", "next-exit", "removed"])
def test_wait_returns_at_its_condition(engine: EngineUnderTest, busybox: str, condition: str) -> None:
    container = create(engine, busybox, "sh", "-c", "sleep 0.3; exit 4", HostConfig={"AutoRemove": True})
    found: list[Any] = []
    if condition != "not-running":
        thread = threading.Thread(
            target=lambda: found.append(engine.api("POST", f"/containers/{container}/wait?condition={condition}"))
        )
        thread.start()
        time.sleep(0.1)
        start(engine, container)
        thread.join(20)
    else:
        start(engine, container)
        found.append(engine.api("POST", f"/containers/{container}/wait?condition={condition}"))
    assert found[0] == (200, {"StatusCode": 4})
    if condition == "removed":
        assert engine.api("GET", f"/containers/{container}/json")[0] == 404
    deadline = time.monotonic() + 10
    while engine.api("GET", f"/containers/{container}/json")[0] != 404:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_policy_starts_it_again_with_growing_pauses(engine: EngineUnderTest, busybox: str) -> None:
    policy = {"Name": "on-failure", "MaximumRetryCount": 2}
    container = create(engine, busybox, "sh", "-c", "echo run; exit 1", HostConfig={"RestartPolicy": policy})
    start(engine, container)
    deadline = time.monotonic() + 20
    while inspect(engine, container)["State"]["Status"] != "exited":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert output(engine, container) == "run\n" * 3
    assert inspect(engine, container)["RestartCount"] == 2
    remove(engine, container)


def test_a_followed_log_ends_with_each_run_and_a_restart_counts_anew(engine: EngineUnderTest, busybox: str) -> None:
    policy = {"Name": "on-failure"}
    script = "echo run; [ -e /on ] || { touch /on; exit 1; }; exec sleep 1000"
    container = create(
        engine, busybox, "sh", "-c", script, Tty=True, HostConfig={"RestartPolicy": policy, "Init": True}
    )
    start(engine, container)
    logs = f"/containers/{container}/logs?follow=1&stdout=1"
    engine.api("GET", logs)  # of the first run, if that goes on
    until(lambda: inspect(engine, container)["State"]["Status"] == "running")
    begun = inspect(engine, container)
    assert begun["RestartCount"] == 1
    since = parse(begun["State"]["StartedAt"])
    engine.api("POST", f"/containers/{container}/stop?t=0")
    # as Compose does it: what was written from the new start on
    assert engine.api("GET", f"{logs}&since={since // 10**9}.{since % 10**9:09}")[1] == b"run\r\n"
    engine.api("POST", f"/containers/{container}/restart?t=0")
    assert inspect(engine, container)["RestartCount"] == 0
    remove(engine, container)


def test_between_two_runs_a_container_can_be_killed(engine: EngineUnderTest, busybox: str) -> None:
    host = {"RestartPolicy": {"Name": "always"}}
    container = create(engine, busybox, "sh", "-c", "exit 7", HostConfig=host)
    start(engine, container)
    until(lambda: inspect(engine, container)["RestartCount"] >= 6)  # the pauses grow
    until(lambda: inspect(engine, container)["State"]["Restarting"])
    status, answer = engine.api("GET", f"/containers/{container}/top")
    assert status == 409 and "is restarting, wait until the container is running" in answer["message"]
    assert engine.api("POST", f"/containers/{container}/kill?signal=HUP")[0] == 204
    assert engine.api("POST", f"/containers/{container}/kill")[0] == 204
    assert wait(engine, container) == 7
    count = inspect(engine, container)["RestartCount"]
    time.sleep(0.5)
    assert inspect(engine, container)["State"]["Status"] == "exited"
    assert inspect(engine, container)["RestartCount"] == count
    remove(engine, container)


def test_a_stopped_container_is_not_restarted(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sleep", "100", HostConfig={"RestartPolicy": {"Name": "always"}})
    start(engine, container)
    engine.api("POST", f"/containers/{container}/stop?t=0")
    time.sleep(0.4)
    assert inspect(engine, container)["State"]["Status"] == "exited"
    remove(engine, container)


def test_names_are_unique_and_can_be_given_again(engine: EngineUnderTest, busybox: str) -> None:
    first = create(engine, busybox, "true", name="taken")
    status, answer = engine.api("POST", "/containers/create?name=taken", {"Image": busybox, "Cmd": ["true"]})
    assert status == 409
    assert answer["message"] == (
        f'Conflict. The container name "/taken" is already in use by container "{first}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )
    assert engine.api("POST", "/containers/taken/rename?name=given")[0] == 204
    second = create(engine, busybox, "true", name="taken")
    assert engine.api("POST", "/containers/given/rename?name=taken")[0] == 409
    for container in (first, second):
        remove(engine, container)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/containers/nothere/json"),
        ("POST", "/containers/nothere/start"),
        ("DELETE", "/containers/nothere"),
        ("GET", "/containers/nothere/logs?stdout=1"),
        ("POST", "/containers/nothere/attach?stream=1"),
        ("POST", "/containers/nothere/wait"),
    ],
)
def test_what_is_not_there_is_said_in_dockers_words(engine: EngineUnderTest, method: str, path: str) -> None:
    assert engine.api(method, path) == (404, {"message": "No such container: nothere"})


def test_lists_are_filtered(engine: EngineUnderTest, busybox: str) -> None:
    one = create(engine, busybox, "true", name="list-one", Labels={"kind": "a", "x": "1"})
    two = create(engine, busybox, "sleep", "100", name="list-two", Labels={"kind": "b"})
    start(engine, two)

    def names(query: str) -> set[str]:
        status, found = engine.api("GET", f"/containers/json{query}")
        assert status == 200, found
        return {entry["Names"][0] for entry in found if entry["Names"][0].startswith("/list-")}

    assert names("") == {"/list-two"}
    assert names("?all=1") == {"/list-one", "/list-two"}
    assert names('?all=1&filters={"label":["kind=a"]}') == {"/list-one"}
    assert names('?filters={"status":["created"]}') == {"/list-one"}
    assert names('?all=1&filters={"name":["two"]}') == {"/list-two"}
    assert names(f'?all=1&filters={{"id":["{one[:8]}"]}}') == {"/list-one"}
    assert names('?all=1&filters={"ancestor":["busybox"]}') == {"/list-one", "/list-two"}
    assert names(f'?filters={{"since":["{one}"]}}') == {"/list-two"}
    assert names("?limit=1") == {"/list-two"}
    assert engine.api("GET", '/containers/json?filters={"bogus":["x"]}')[0] == 400
    assert engine.api("GET", '/containers/json?filters={"status":["tired"]}')[0] == 400
    for container in (one, two):
        remove(engine, container)


def test_processes_are_what_was_asked_for(engine: EngineUnderTest, busybox: str) -> None:
    code, text = run(
        engine,
        busybox,
        "sh", "-c", "id -u; id -G; pwd; echo $A $B $HOME; hostname; ulimit -n; cat /proc/self/oom_score_adj; umask",
        User="nobody", WorkingDir="/var", Env=["A=1", "B=2"], Hostname="myhost",
        HostConfig={"Ulimits": [{"Name": "nofile", "Soft": 99, "Hard": 100}], "OomScoreAdj": 77, "GroupAdd": ["4000"]},
    )  # fmt: skip
    assert (code, text.split("\n")) == (
        0,
        ["65534", "65534 100 4000", "/var", "1 2 /", "myhost", "99", "77", "0022", ""],
    )


def test_the_default_container_is_confined(engine: EngineUnderTest, busybox: str) -> None:
    _code, text = run(
        engine, busybox, "sh", "-c",
        "grep -e CapEff -e Seccomp: /proc/self/status; (touch /sys/x; echo x > /proc/sys/kernel/hostname) 2>&1;"
        "mount -t tmpfs x /tmp 2>&1; wc -c < /proc/kcore; ls /dev | sort | tr '\\n' ' '; cat /dev/kmsg 2>&1",
    )  # fmt: skip
    assert "CapEff:\t00000000a80425fb" in text
    assert "Seccomp:\t2" in text
    assert text.count("Read-only file system") >= 2
    assert "mount: permission denied" in text or "Operation not permitted" in text
    assert "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero" in text
    assert "can't open '/dev/kmsg'" in text


def test_a_read_only_container_writes_where_it_was_given_memory_only(engine: EngineUnderTest, busybox: str) -> None:
    code, text = run(
        engine, busybox, "sh", "-c", "touch /x; touch /tmp/x && df -k /tmp | tail -1",
        HostConfig={"ReadonlyRootfs": True, "Tmpfs": {"/tmp": "size=1m"}},
    )  # fmt: skip
    assert code == 0
    assert "/x: Read-only file system" in text and " 1024 " in text


def test_memory_is_limited_and_the_kill_is_noticed(engine: EngineUnderTest, busybox: str) -> None:
    limits = {"Memory": 16 << 20, "MemorySwap": 16 << 20}
    container = create(engine, busybox, "sh", "-c", "tail /dev/zero", HostConfig=limits)
    start(engine, container)
    assert wait(engine, container) == 137
    assert inspect(engine, container)["State"]["OOMKilled"]
    remove(engine, container)


def test_limits_change_while_it_runs(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sleep", "100", HostConfig={"PidsLimit": 10})
    start(engine, container)
    status, answer = engine.api("POST", f"/containers/{container}/update", {"Memory": 64 << 20, "PidsLimit": 20})
    assert (status, answer) == (200, {"Warnings": []})
    host = inspect(engine, container)["HostConfig"]
    assert (host["Memory"], host["PidsLimit"]) == (64 << 20, 20)
    _status, usage = engine.api("GET", f"/containers/{container}/stats?stream=0&one-shot=1")
    assert usage["memory_stats"]["limit"] == 64 << 20
    assert usage["pids_stats"]["limit"] == 20
    assert engine.api("POST", f"/containers/{container}/update", {"Binds": ["/x:/y"]})[0] == 400
    remove(engine, container)


def test_binds_and_volumes(engine: EngineUnderTest, busybox: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    code, text = run(
        engine, busybox, "sh", "-c", "cat /a/file; touch /a/new; touch /b/x && echo there > /c/y",
        HostConfig={"Binds": [f"{tmp_path}:/a:ro", "data:/b"], "Mounts": [{"Type": "volume", "Target": "/c"}]},
    )  # fmt: skip
    assert code == 0 and text.startswith("from the host\n") and "Read-only" in text
    assert not (tmp_path / "new").exists()
    assert (engine.root / "volumes/data/_data/x").exists()
    _status, volumes = engine.api("GET", "/volumes")
    assert [volume["Name"] for volume in volumes["Volumes"]] == ["data"], "the anonymous one went with its container"
    assert engine.api("DELETE", "/volumes/data")[0] == 204
    assert engine.api("GET", "/volumes/data")[0] == 404


def test_a_volume_in_use_stays(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "true", HostConfig={"Binds": ["used:/x"]})
    status, answer = engine.api("DELETE", "/volumes/used")
    assert status == 409 and answer["message"] == f"remove used: volume is in use - [{container}]"
    remove(engine, container)
    assert engine.api("DELETE", "/volumes/used")[0] == 204


def test_a_new_volume_begins_with_the_images_files(engine: EngineUnderTest, busybox: str) -> None:
    _code, text = run(engine, busybox, "cat", "/etc/passwd", HostConfig={"Binds": ["copied:/etc"]})
    assert text.startswith("root:x:0:0")
    assert (engine.root / "volumes/copied/_data/passwd").exists()
    engine.api("DELETE", "/volumes/copied")


def test_volumes_of_another_container(engine: EngineUnderTest, busybox: str) -> None:
    first = create(engine, busybox, "sh", "-c", "echo shared > /x/y", name="donor", Volumes={"/x": {}})
    start(engine, first)
    wait(engine, first)
    assert run(engine, busybox, "cat", "/x/y", HostConfig={"VolumesFrom": ["donor"]}) == (0, "shared\n")
    remove(engine, first)


def test_an_unknown_image_leaves_nothing(engine: EngineUnderTest) -> None:
    def bundles() -> list[str]:
        return sorted(name for name in os.listdir(engine.root / "containers") if not name.startswith(".gone-"))

    before = bundles()
    status, answer = engine.api("POST", "/containers/create", {"Image": "nothere"})
    assert (status, answer) == (404, {"message": "No such image: nothere:latest"})
    assert bundles() == before


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [("nothere", 127, "executable file not found"), ("/etc/passwd", 126, "permission denied"), ("/etc", 126, "")],
)
def test_a_command_that_cannot_run_says_why_and_leaves_nothing(
    engine: EngineUnderTest, busybox: str, command: str, code: int, words: str
) -> None:
    container = create(engine, busybox, command)
    status, answer = engine.api("POST", f"/containers/{container}/start")
    assert status == 400 and words in answer["message"]
    state = inspect(engine, container)["State"]
    assert (state["Status"], state["ExitCode"], state["Error"] != "") == ("created", code, True)
    assert not (engine.run / "containers" / container).exists()
    remove(engine, container)


def test_a_failed_create_removes_the_volumes_it_made(engine: EngineUnderTest, busybox: str) -> None:
    host = {"Binds": ["made:/x"], "Mounts": [{"Type": "bind", "Source": "/not/there", "Target": "/y"}]}
    status, answer = engine.api("POST", "/containers/create", {"Image": busybox, "Cmd": ["x"], "HostConfig": host})
    assert status == 400 and "bind source path does not exist: /not/there" in answer["message"]
    assert engine.api("GET", "/volumes/made")[0] == 404


def test_removing_what_runs_needs_force(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sleep", "100")
    start(engine, container)
    status, answer = engine.api("DELETE", f"/containers/{container}")
    assert status == 409 and "stop the container before removing or force remove" in answer["message"]
    remove(engine, container)


def test_two_clients_start_the_same_container_once(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sleep", "100")
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(engine.api("POST", f"/containers/{container}/start")[0]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [204] + [304] * 7
    threads = [
        threading.Thread(target=lambda: found.append(engine.api("DELETE", f"/containers/{container}?force=1")[0]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(204) == 2 and set(found[8:]) <= {204, 404, 409}


def test_many_containers_at_once(engine: EngineUnderTest, busybox: str) -> None:
    results: list[tuple[int, str]] = []
    threads = [
        threading.Thread(target=lambda number=number: results.append(run(engine, busybox, "echo", str(number))))
        for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == sorted((0, f"{number}\n") for number in range(16))


def test_processes_are_listed(engine: EngineUnderTest, busybox: str) -> None:
    container = create(engine, busybox, "sh", "-c", "sleep 99 & sleep 98; true")
    start(engine, container)
    time.sleep(0.2)
    status, answer = engine.api("GET", f"/containers/{container}/top")
    assert status == 200 and answer["Titles"][1] == "PID"
    assert {row[-1] for row in answer["Processes"]} == {"sh -c sleep 99 & sleep 98; true", "sleep 99", "sleep 98"}
    remove(engine, container)


def test_a_containers_tree_is_exported(engine: EngineUnderTest, busybox: str) -> None:
    import io
    import tarfile

    container = create(engine, busybox, "sh", "-c", 'echo new > /made; rm /etc/group; test -z "$W" || sleep 100')
    start(engine, container)
    wait(engine, container)
    _status, data = engine.api("GET", f"/containers/{container}/export")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        made = archive.extractfile("made")
        assert made is not None and made.read() == b"new\n"
        assert "etc/passwd" in names and "etc/group" not in names
    remove(engine, container)


def test_health_is_watched(engine: EngineUnderTest, busybox: str) -> None:
    check = {"Test": ["CMD-SHELL", "test -e /well && echo fine"], "Interval": 10**8, "Retries": 2}
    container = create(engine, busybox, "sh", "-c", "touch /well; sleep 100", Healthcheck=check)
    start(engine, container)

    def until(status: str) -> dict[str, Any]:
        deadline = time.monotonic() + 20
        while True:
            health: dict[str, Any] = inspect(engine, container)["State"]["Health"]
            if health["Status"] == status:
                return health
            assert time.monotonic() < deadline, health
            time.sleep(0.05)

    assert until("healthy")["Log"][-1]["Output"] == "fine\n"
    status, answer = engine.api("POST", f"/containers/{container}/exec", {"Cmd": ["rm", "-f", "/well"]})
    assert status == 201
    engine.api("POST", f"/exec/{answer['Id']}/start", {"Detach": True})
    assert until("unhealthy")["FailingStreak"] >= 2
    remove(engine, container)


def test_probes_that_time_out_before_they_run_do_not_pile_up(engine: EngineUnderTest, busybox: str) -> None:
    check = {"Test": ["CMD", "sleep", "1000"], "Interval": 10**7, "Timeout": 10**6, "Retries": 3}
    container = create(engine, busybox, "sleep", "1000", Healthcheck=check)
    engine.api("POST", f"/containers/{container}/start")
    deadline = time.monotonic() + 20
    while inspect(engine, container)["State"]["Health"]["FailingStreak"] < 50:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(engine.api("GET", f"/containers/{container}/top")[1]["Processes"]) <= 3
    assert engine.api("DELETE", f"/containers/{container}?force=1", timeout=5)[0] == 204
