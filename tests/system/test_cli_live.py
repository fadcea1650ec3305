"""What stays on a terminal until it is interrupted, what asks, and what is piped into programs that leave."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from fixtures.engine import CAPSA
from fixtures.terminal import Terminal


@pytest.fixture(autouse=True)
def nothing_left(engine, busybox):
    yield
    engine.remove_containers()


@pytest.fixture
def capsa(engine):
    return engine.capsa


@pytest.fixture
def terminal(engine):
    return lambda *argv: Terminal([*CAPSA, *argv], engine.environment(), rows=24, columns=120)


def piped(engine, line):
    return subprocess.run(
        ["sh", "-c", line.replace("capsa", " ".join(CAPSA))],
        env=engine.environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_stats_are_drawn_again_and_again_until_interrupted(capsa, terminal):
    capsa("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    screen = terminal("stats")
    screen.expect("CONTAINER ID")
    screen.expect("one")
    capsa("run", "-d", "--name", "two", "busybox", "sleep", "1000")
    screen.expect("\x1b[H")
    screen.expect("two")
    screen.type("\x03")
    assert screen.wait() == 130
    assert b"Traceback" not in screen.screen


def test_stats_of_what_ends_meanwhile_are_unknown(capsa, terminal):
    capsa("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    screen = terminal("stats", "one")
    screen.expect("one ")
    capsa("kill", "one")
    screen.expect("-- / --")
    capsa("rm", "one")
    screen.expect("-- / --")
    screen.type("\x03")
    assert screen.wait() == 130


def test_stats_into_a_pipe_have_no_escapes_and_end_with_their_reader(engine, capsa):
    capsa("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    done = piped(engine, "capsa stats --format '{{.Name}}' | head -n 2")
    assert (done.stdout, done.stderr) == ("one\none\n", "")


def test_processor_and_memory_are_those_of_the_container(capsa):
    capsa("run", "-d", "--name", "busy", "-m", "64m", "busybox", "sh", "-c", "while :; do :; done")
    capsa("run", "-d", "--name", "idle", "busybox", "sleep", "1000")
    used, memory, processes = capsa(
        "stats", "--no-stream", "--format", "{{.CPUPerc}}|{{.MemUsage}}|{{.PIDs}}", "busy"
    ).stdout.split("|")
    assert float(used.rstrip("%")) > 2  # the machine may be busy
    assert memory.endswith(" / 64MiB")
    assert processes == "1\n"
    assert capsa("stats", "--no-stream", "--format", "{{.CPUPerc}}", "idle").stdout.startswith("0.")


def test_events_come_as_they_happen_until_interrupted(engine, capsa):
    client = subprocess.Popen(
        [*CAPSA, "events", "-f", "type=container", "--format", "{{.Action}} {{.Actor.Attributes.name}}"],
        env=engine.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # Until it listens, what happens is not for it.
    deadline = time.monotonic() + 30
    while not engine.api("GET", "/info")[1]["NEventsListener"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    capsa("run", "--name", "box", "busybox", "true")
    seen = [client.stdout.readline() for _ in range(4)]
    assert seen == ["create box\n", "attach box\n", "start box\n", "die box\n"]
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=30)
    assert (out, err, client.returncode) == ("", "", 130)


def test_events_of_the_past_end_at_once(capsa):
    capsa("run", "--rm", "--name", "box", "-l", "colour=red", "busybox", "true")
    done = capsa("events", "--since", "1h", "--until", "0s", "-f", "label=colour=red", "-f", "event=start")
    [line] = done.stdout.splitlines()
    moment, kind, action, _identifier, rest = line.split(" ", 4)
    assert (kind, action) == ("container", "start")
    assert rest == "(colour=red, image=busybox, name=box)"
    assert moment[:2] == "20" and len(moment.partition(".")[2].rstrip("Z")) >= 9


def test_events_end_with_the_one_who_reads_them(engine, capsa):
    capsa("run", "--rm", "busybox", "true")
    done = piped(engine, "capsa events --since 1h --until 0s | head -n 1 | wc -l")
    assert (done.stdout.strip(), done.stderr) == ("1", "")


def test_a_prune_asks_and_takes_the_answer_from_wherever_it_comes(capsa, terminal):
    capsa("create", "--name", "box", "busybox")
    for answer, left in (("n\n", ["box"]), ("", ["box"]), ("y\n", [])):
        done = capsa("container", "prune", input=answer)
        assert done.stdout.startswith("WARNING! This will remove all stopped containers.\nAre you sure")
        assert capsa("ps", "-a", "--format", "{{.Names}}").stdout.split() == left
    capsa("create", "--name", "box", "busybox")
    screen = terminal("system", "prune")
    screen.expect("all stopped containers")
    screen.expect("[y/N] ")
    screen.type("y\r")
    screen.expect("Deleted Containers:")
    screen.expect("Total reclaimed space: ")
    assert screen.wait() == 0
    screen = terminal("container", "prune")
    screen.expect("[y/N] ")
    screen.type("\x03")
    assert screen.wait() == 130


def test_an_attached_terminal_is_drawn_anew_and_left_with_the_keys(capsa, terminal):
    capsa("run", "-dit", "--name", "box", "busybox", "sh")
    screen = terminal("attach", "--detach-keys", "a,ctrl-x", "box")
    screen.expect("# ")  # nothing was typed: the shell has been told of another size
    screen.type("echo one$((1+1))\r")
    screen.expect("one2")
    screen.type("a\x18")
    assert screen.wait() == 1
    screen = terminal("exec", "-it", "box", "sh")
    screen.expect("# ")
    screen.type("\x10\x11")
    assert screen.wait() == 1
    assert capsa("ps", "--format", "{{.Names}}").stdout == "box\n"


def test_a_started_terminal_goes_on_where_it_is_attached(capsa, terminal):
    capsa("create", "-it", "--name", "box", "busybox", "sh")
    screen = terminal("start", "-ai", "box")
    screen.expect("# ")
    screen.type("exit 4\r")
    assert screen.wait() == 4


def test_signals_stay_with_the_client_where_they_are_not_passed_on(engine, capsa):
    client = subprocess.Popen(
        [*CAPSA, "run", "--name", "box", "--sig-proxy=false", "busybox", "sh", "-c", "echo up; sleep 1000"],
        env=engine.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert client.stdout.readline() == "up\n"
    client.send_signal(signal.SIGINT)
    assert client.communicate(timeout=30) == ("", "")
    assert client.returncode == 130
    assert capsa("ps", "--format", "{{.Names}}").stdout == "box\n"


@pytest.mark.parametrize("argv", [["logs", "-f", "box"], ["wait", "box"], ["attach", "--no-stdin", "box"]])
def test_what_waits_ends_with_an_interrupt_and_no_word(capsa, terminal, argv):
    capsa("run", "-d", "--name", "box", "busybox", "sh", "-c", "trap '' INT; while :; do echo tick; sleep 0.2; done")
    screen = terminal(*argv)
    if argv[0] != "wait":
        screen.expect("tick")
    else:
        time.sleep(0.5)
    if argv[0] == "attach":  # it passes signals on: only the container's end is its own
        screen.type("\x03")
        capsa("kill", "box")
        assert screen.wait() == 137
        return
    screen.type("\x03")
    assert screen.wait() == 130
    assert b"Traceback" not in screen.screen


def test_progress_is_bars_on_a_terminal_only(engine, capsa, terminal, tmp_path):
    archive = str(tmp_path / "image.tar")
    capsa("save", "-o", archive, "busybox")
    assert "\x1b" not in capsa("load", "-i", archive).stdout
    screen = terminal("load", "-i", archive)
    screen.expect("Loaded image: busybox:latest")
    assert screen.wait() == 0
    assert os.path.getsize(archive) > 0
