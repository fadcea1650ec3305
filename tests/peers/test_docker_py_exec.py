"""Docker's SDK for Python: additional processes in a running container."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import docker
import pytest
from docker.errors import APIError, NotFound
from docker.models.containers import Container

BOTH = ["sh", "-c", "echo out; echo err >&2"]


@pytest.fixture(scope="module")
def box(sdk: docker.DockerClient, engine) -> Iterator[Container]:
    """A container in which to execute."""
    yield sdk.containers.run("busybox", ["sleep", "1000"], detach=True, environment={"OUTER": "1"}, init=True)
    engine.remove_containers()


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_all(stream) -> bytes:
    """Everything of what ``exec_start(socket=True)`` gives."""
    connection = stream._sock if hasattr(stream, "_sock") else stream
    connection.settimeout(20)
    return b"".join(iter(lambda: connection.recv(4096), b""))


def test_output_and_exit_code(box):
    assert box.exec_run(["echo", "a b"]) == (0, b"a b\n")
    assert box.exec_run("sh -c 'exit 7'") == (7, b"")
    assert box.exec_run(BOTH, stderr=False).output == b"out\n"
    assert box.exec_run(BOTH, stdout=False).output == b"err\n"


def test_output_apart_together_and_as_a_stream(box, sdk):
    assert box.exec_run(BOTH, demux=True).output == (b"out\n", b"err\n")
    pieces = list(box.exec_run(BOTH, stream=True, demux=True).output)
    assert b"".join(out for out, _ in pieces if out) == b"out\n"
    assert b"".join(err for _, err in pieces if err) == b"err\n"
    assert b"".join(box.exec_run(["sh", "-c", "echo 1; echo 2"], stream=True).output) == b"1\n2\n"
    api = sdk.api
    which = api.exec_create(box.id, BOTH)
    assert sorted(b"".join(api.exec_start(which, stream=True)).splitlines()) == [b"err", b"out"]


def test_a_stream_is_read_as_it_comes(box):
    output = box.exec_run(
        ["sh", "-c", "echo one; while [ ! -e /go ]; do sleep 0.05; done; echo two"], stream=True
    ).output
    assert next(output) == b"one\n"
    box.exec_run(["touch", "/go"])
    assert b"".join(output) == b"two\n"


def test_a_terminal(box, sdk):
    script = "test -t 0 && test -t 1 && stty size && echo $TERM"
    assert box.exec_run(["sh", "-c", "echo no; test -t 1 || echo none"]).output == b"no\nnone\n"
    api = sdk.api
    which = api.exec_create(box.id, ["sh", "-c", f"sleep 0.2; {script}"], tty=True, stdin=True)
    stream = api.exec_start(which, tty=True, socket=True)
    wait_for(lambda: api.exec_inspect(which)["Running"])
    api.exec_resize(which, height=33, width=77)
    assert read_all(stream) == b"33 77\r\nxterm\r\n"


def test_the_client_says_whether_it_wants_frames(box, sdk):
    api = sdk.api
    which = api.exec_create(box.id, ["printf", "text"], tty=True)
    assert read_all(api.exec_start(which, socket=True)) == b"\1\0\0\0\0\0\0\4text"
    which = api.exec_create(box.id, ["printf", "text"], tty=True)
    assert api.exec_start(which) == b"text"
    which = api.exec_create(box.id, ["printf", "text"])
    assert read_all(api.exec_start(which, tty=True, socket=True)) == b"text"


def test_input_and_its_end(box, sdk):
    api = sdk.api
    which = api.exec_create(box.id, ["sh", "-c", "cat; echo end"], stdin=True)
    stream = api.exec_start(which, socket=True)
    stream._sock.sendall(b"hello\n")
    stream._sock.shutdown(socket.SHUT_WR)
    received = read_all(stream)
    assert b"hello\n" in received and received.endswith(b"end\n")
    assert api.exec_inspect(which)["ExitCode"] == 0
    which = api.exec_create(box.id, ["cat"])  # nothing was said of input
    assert api.exec_start(which) == b""


def test_who_where_and_with_what(box):
    assert box.exec_run("id -u", user="nobody").output == b"65534\n"
    assert box.exec_run("id -u", user="7:8").output == b"7\n"
    assert box.exec_run("id -g", user="7:8").output == b"8\n"
    assert box.exec_run("id -gn", user="root:users").output == b"users\n"
    assert box.exec_run("pwd", workdir="/tmp").output == b"/tmp\n"
    assert box.exec_run("sh -c 'echo $A $B $OUTER'", environment={"A": "x y", "B": ""}).output == b"x y 1\n"
    assert box.exec_run("sh -c 'echo $A$OUTER'", environment=["A=1", "OUTER=2"]).output == b"12\n"
    assert box.exec_run("sh -c 'echo $HOME'", user="root").output == b"/root\n"


def test_privileges(box):
    effective = "sh -c 'grep CapEff /proc/self/status | cut -f2'"
    plain, privileged = box.exec_run(effective).output, box.exec_run(effective, privileged=True).output
    assert plain.strip() == b"00000000a80425fb"
    assert int(privileged, 16) > int(plain, 16)


def test_detached(box, sdk):
    api = sdk.api
    which = api.exec_create(box.id, ["sh", "-c", "echo unheard; touch /was-here; sleep 1000"])
    assert api.exec_start(which, detach=True) == ""
    wait_for(lambda: box.exec_run("ls /was-here").exit_code == 0)
    found = api.exec_inspect(which)
    assert found["Running"] and found["ExitCode"] is None and found["Pid"] > 0
    assert which["Id"] in api.inspect_container(box.id)["ExecIDs"]
    box.exec_run("pkill -f 'sleep 1000$'")
    assert box.exec_run(["echo"], detach=True).output == ""


@pytest.mark.parametrize("keys", ["", "ctrl-a,x"])
def test_detach_keys_leave_it_running(box, sdk, keys):
    api = sdk.api
    which = api.exec_create(box.id, ["cat"], stdin=True, tty=True, detach_keys=keys or None)
    stream = api.exec_start(which, tty=True, socket=True)
    stream._sock.sendall(b"a\r")
    received = b""
    while received.count(b"a") < 2:  # the terminal's echo, then cat's
        received += stream._sock.recv(100)
    stream._sock.sendall(b"\x01x" if keys else b"\x10\x11")
    read_all(stream)
    assert api.exec_inspect(which)["Running"]
    since = int(time.time()) - 600
    assert any(
        event["Action"] == "exec_detach" and event["Actor"]["Attributes"]["execID"] == which["Id"]
        for event in sdk.events(since=since, until=int(time.time()) + 1, decode=True)
    )


def test_inspect_before_and_after(box, sdk):
    api = sdk.api
    which = api.exec_create(box.id, ["sh", "-c", "exit 3"], user="nobody", privileged=True, tty=True, stdin=True)
    found = api.exec_inspect(which["Id"])
    assert (found["ID"], found["ContainerID"]) == (which["Id"], box.id)
    assert not found["Running"] and found["ExitCode"] is None and found["Pid"] == 0 and not found["CanRemove"]
    assert found["OpenStdin"] and found["OpenStdout"] and found["OpenStderr"]
    assert found["ProcessConfig"] == {
        "tty": True,
        "entrypoint": "sh",
        "arguments": ["-c", "exit 3"],
        "privileged": True,
        "user": "nobody",
    }
    assert which["Id"] in api.inspect_container(box.id)["ExecIDs"]
    api.exec_start(which, tty=True)
    found = api.exec_inspect(which)
    assert not found["Running"] and found["ExitCode"] == 3
    assert which["Id"] not in (api.inspect_container(box.id)["ExecIDs"] or [])


@pytest.mark.parametrize(
    ("command", "options", "code", "words"),
    [
        (["nosuch"], {}, 127, "executable file not found"),
        (["/nosuch"], {}, 127, "no such file or directory"),
        (["/etc/passwd"], {}, 126, "permission denied"),
        (["/etc"], {}, 126, "permission denied"),
        (["true"], {"workdir": "/nosuch"}, 127, "no such file or directory"),
        (["true"], {"workdir": "/etc/passwd"}, 126, "not a directory"),
        (["sh", "-c", "nosuch"], {}, 127, "not found"),
        (["sh", "-c", "kill -9 $$"], {}, 137, ""),
    ],
)
def test_exit_codes_of_what_fails(box, command, options, code, words):
    result = box.exec_run(command, **options)
    assert result.exit_code == code, result
    assert words in result.output.decode().lower()


def test_a_failed_start_in_the_background_is_an_error(box, sdk):
    which = sdk.api.exec_create(box.id, ["nosuch"])
    with pytest.raises(APIError) as failure:
        sdk.api.exec_start(which, detach=True)
    assert failure.value.status_code == 400 and "executable file not found" in failure.value.explanation
    assert sdk.api.exec_inspect(which)["ExitCode"] == 127


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"cmd": []}, "No exec command specified"),
        ({"cmd": ["true"], "user": "nosuch"}, "unable to find user nosuch: no matching entries in passwd file"),
        ({"cmd": ["true"], "user": "root:nosuch"}, "unable to find group nosuch: no matching entries in group file"),
        ({"cmd": ["true"], "detach_keys": "ctrl-ü"}, "detach keys"),
        ({"cmd": ["true"], "workdir": "relative"}, "absolute path"),
    ],
)
def test_what_cannot_be_meant(box, sdk, body, words):
    with pytest.raises(APIError) as failure:
        sdk.api.exec_create(box.id, **body)
    assert failure.value.status_code == 400 and words in failure.value.explanation


def test_what_is_not_there(sdk):
    with pytest.raises(NotFound, match="No such container: nosuch"):
        sdk.api.exec_create("nosuch", ["true"])
    for ask in (sdk.api.exec_start, sdk.api.exec_inspect, lambda which: sdk.api.exec_resize(which, 1, 1)):
        with pytest.raises(NotFound, match="No such exec instance"):
            ask("0" * 64)


def test_an_exec_runs_once(box, sdk):
    which = sdk.api.exec_create(box.id, ["true"])
    sdk.api.exec_start(which)
    with pytest.raises(APIError, match="has already run") as failure:
        sdk.api.exec_start(which)
    assert failure.value.status_code == 409


def test_paused_stopped_and_removed_containers(sdk, engine):
    api = sdk.api
    other = sdk.containers.run("busybox", ["sleep", "1000"], detach=True, init=True)
    early = api.exec_create(other.id, ["true"])
    other.pause()
    for ask in (lambda: api.exec_create(other.id, ["true"]), lambda: api.exec_start(early)):
        with pytest.raises(APIError, match="is paused, unpause the container before exec") as failure:
            ask()
        assert failure.value.status_code == 409
    other.unpause()
    which = api.exec_create(other.id, ["sleep", "1000"])
    stream = api.exec_start(which, socket=True)
    wait_for(lambda: api.exec_inspect(which)["Running"])
    other.kill()
    assert read_all(stream) == b""
    assert api.exec_inspect(which)["ExitCode"] == 137
    for ask in (lambda: api.exec_create(other.id, ["true"]), lambda: api.exec_start(early)):
        with pytest.raises(APIError, match="is not running") as failure:
            ask()
        assert failure.value.status_code == 409
    other.remove()
    with pytest.raises(NotFound):
        api.exec_inspect(which)


def test_many_at_once(box, sdk):
    numbers = itertools.count()

    def one(_: int) -> bool:
        number = next(numbers)
        which = sdk.api.exec_create(box.id, ["sh", "-c", f"echo {number}; exit {number % 5}"])
        text = sdk.api.exec_start(which)
        return text == f"{number}\n".encode() and sdk.api.exec_inspect(which)["ExitCode"] == number % 5

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(80)))
    ends = [sdk.api.exec_create(box.id, ["true"]) for _ in range(80)]
    for which in ends:
        sdk.api.exec_start(which)
    assert sdk.api.exec_inspect(ends[0])["ExitCode"] == 0  # still known after so many others


def test_the_events_of_an_exec(box, sdk):
    seen: list[dict] = []
    stream = sdk.events(decode=True, filters={"container": box.id, "type": "container"})
    reader = threading.Thread(target=lambda: seen.extend(itertools.islice(stream, 3)), daemon=True)
    reader.start()
    wait_for(lambda: sdk.info()["NEventsListener"] > 0)
    box.exec_run(["sh", "-c", "exit 4"])
    reader.join(20)
    stream.close()
    assert [event["Action"] for event in seen] == ["exec_create: sh -c exit 4", "exec_start: sh -c exit 4", "exec_die"]
    attributes = [event["Actor"]["Attributes"] for event in seen]
    assert len({each["execID"] for each in attributes}) == 1 and attributes[2]["exitCode"] == "4"
