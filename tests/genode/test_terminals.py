"""Input and terminals of containers on Genode: `docker run -i`, `-t`, `attach`, `exec`, and what a component sees."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest
from fixtures import genode
from fixtures.engine import CAPSA, EngineUnderTest
from fixtures.genode import component, config, state
from fixtures.terminal import Terminal
from fixtures.wait import until

PROGRAM = "test-dev_nodes"
FILE = ("+ vfs | + fs | label: root -> /", "+ echo /dev/terminal | size: /dev/.terminal")  # of the container's files
OWN = ("+ vfs | + terminal", "+ echo /terminal | size: /.terminal")  # by a Terminal session of its own
BOTH = pytest.mark.parametrize("steps", [FILE, OWN], ids=["file", "session"])


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("fifo_terminal", "vfs_cow.lib.so", PROGRAM, "dummy")
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        genode.import_image(under_test, "nodes", PROGRAM, PROGRAM, "dummy", services="Terminal")
        genode.import_image(under_test, "plain", "dummy", "dummy", vfs="no")
        yield under_test
    finally:
        under_test.close()


@pytest.fixture(autouse=True)
def _alone(engine: EngineUnderTest, alone: None) -> Iterator[None]:
    yield
    for name in engine.docker("ps", "-aq").stdout.split():
        engine.docker("rm", "-f", name)
    until(lambda: fifos(engine) == [])  # none is left


def fifos(engine: EngineUnderTest) -> list[str]:
    """The terminals that there are."""
    where = engine.run / "genode" / "terminal"
    return sorted(f"{each.parent.name}/{each.name}" for each in where.glob("*/*")) if where.is_dir() else []


def at(engine: EngineUnderTest, *arguments: str, rows: int = 24, columns: int = 80) -> Terminal:
    """Docker's client in a terminal, once what is typed goes through it."""
    screen = Terminal(["docker", *arguments], engine.environment(), rows=rows, columns=columns)
    until(screen.is_raw)
    return screen


@BOTH
def test_what_is_typed_reaches_the_component(engine: EngineUnderTest, steps: tuple[str, ...]) -> None:
    screen = at(engine, "run", "-it", "--rm", "--name", "box", "-e", config(*steps), "nodes", rows=30, columns=101)
    until(lambda: engine.docker("ps", "-q", "--filter", "status=running").stdout)
    until(lambda: "columns: 101" in (engine.run / "genode/host/config" / configuration(engine)).read_text())
    screen.type("hello\r")
    screen.expect("101x30 hello\r\n")
    screen.type("\x03\x7f ü\r")  # nobody between makes something of it, but for Genode's own files of ^C
    screen.expect("101x30 ")
    screen.expect("\x7f ü\r\n")
    screen.resize(40, 120)
    screen.remind()
    until(lambda: "columns: 120" in (engine.run / "genode/host/config" / configuration(engine)).read_text())
    until(lambda: "120x40 again" in answer(screen, "again"))
    screen.type("bye\r")
    screen.expect("120x40 bye\r\n")
    screen.expect("done\r\n")  # what it writes to LOG is there as well
    assert screen.wait() == 0


def configuration(engine: EngineUnderTest) -> str:
    """The file that is the configuration of the one container."""
    (name,) = [each for each in genode.nodes(engine) if not each.startswith("sub-")]
    return f"config-{name}"


def answer(screen: Terminal, text: str) -> str:
    screen.type(f"{text}\r")
    screen.expect(f" {text}\r\n")
    return screen.screen.decode()


@BOTH
def test_input_of_a_pipe_is_all_there_though_it_comes_before_the_component(
    engine: EngineUnderTest, steps: tuple[str, ...]
) -> None:
    lines = [f"line {number} {'x' * 80}" for number in range(2000)]  # 180 kB
    given = "".join(f"{line}\n" for line in (*lines, "bye"))
    steps = tuple(each.partition(" | size")[0] for each in steps)
    done = engine.docker("run", "-i", "--rm", "-e", config(*steps), "nodes", input=given)
    assert done.stdout == f"{given}done\n"


def test_output_is_all_there_at_the_end_and_a_slow_reader_slows_it_down(engine: EngineUnderTest) -> None:
    command = config("+ vfs | + terminal", "+ flood /terminal | lines: 5000")
    wanted = "".join(f"line {number} {'x' * 60}\n" for number in range(5000)) + "done\n"
    assert engine.docker("run", "--name", "one", "-e", command, "nodes").stdout == wanted
    assert engine.docker("logs", "one").stdout == wanted
    slow = subprocess.Popen(
        ["docker", "run", "--rm", "-e", config("+ vfs | + terminal", "+ flood /terminal | lines: 100000"), "nodes"],
        env=engine.environment(),
        stdout=subprocess.PIPE,
    )
    assert slow.stdout is not None
    os.set_blocking(slow.stdout.fileno(), True)
    first = slow.stdout.read(1000)
    time.sleep(2)  # more than a megabyte waits for it meanwhile
    assert slow.poll() is None
    output = first + slow.stdout.read()
    assert slow.wait() == 0 and output.count(b"\n") == 100001 and output.endswith(b"\ndone\n")


def test_clients_come_and_go_and_the_engine_as_well(engine: EngineUnderTest) -> None:
    engine.docker("run", "-dit", "--name", "box", "-e", config(*FILE), "nodes")
    for number in range(2):
        screen = at(engine, "attach", "--detach-keys", "ctrl-x", "box")
        screen.type(f"hello {number}\r")
        screen.expect(f" hello {number}\r\n")
        screen.type("\x18")
        screen.wait()
        if not number:
            engine.restart(signal.SIGKILL)
            assert state(engine, "box")["Running"]
    assert " hello 0\n" in engine.docker("logs", "box").stdout
    engine.docker("restart", "-t", "0", "box")
    screen = at(engine, "attach", "box")
    screen.type("bye\r")
    screen.expect("bye\r\n")
    assert screen.wait() == 0


def test_of_many_sizes_the_last_one_counts(engine: EngineUnderTest) -> None:
    engine.docker("run", "-dit", "--name", "box", "-e", config(*FILE), "nodes")
    for number in range(200):
        status, _ = engine.api("POST", f"/containers/box/resize?h={number + 1}&w={2 * number + 1}")
        assert status == 200
    screen = Terminal([*CAPSA, "attach", "box"], engine.environment(), rows=200, columns=399)
    until(lambda: "399x200 x" in answer(screen, "x"))
    screen.type("bye\r")
    assert screen.wait() == 0


def test_additional_components_have_terminals_of_their_own(engine: EngineUnderTest) -> None:
    engine.docker("run", "-dit", "--name", "box", "-e", config(*FILE), "nodes")
    screen = at(engine, "exec", "-it", "-e", config(*OWN), "box", PROGRAM, rows=20, columns=70)
    screen.type("inside\r")
    screen.expect(" inside\r\n")
    assert component("box", engine, "terminal") != component("box", engine, "terminal-exec-1")
    screen.resize(41, 121)
    screen.remind()
    until(lambda: "121x41 more" in answer(screen, "more"))
    assert len(fifos(engine)) == 2
    screen.type("bye\r")
    assert screen.wait() == 0
    until(lambda: len(fifos(engine)) == 1)
    plain = tuple(each.partition(" | size")[0] for each in OWN)
    done = engine.docker("exec", "-i", "-e", config(*plain), "box", PROGRAM, input="one\ntwo\nbye\n")
    assert (done.returncode, done.stdout) == (0, "one\ntwo\nbye\ndone\n")
    assert "inside" not in engine.docker("logs", "box").stdout
    other = config("+ vfs | + fs | label: root -> /", "+ echo /dev/terminal")  # the container's
    waiting = subprocess.Popen(["docker", "exec", "-e", other, "box", PROGRAM], env=engine.environment())
    assert component("box", engine, "exec-3")
    screen = at(engine, "attach", "box")
    screen.type("shared\r")
    screen.expect("shared\r\n")
    engine.docker("rm", "-f", "box")
    screen.wait()
    assert waiting.wait() == 137


def test_without_a_terminal_of_its_own_input_is_refused_in_a_sentence(engine: EngineUnderTest) -> None:
    engine.docker("run", "-d", "--name", "plain", "-e", config("+ sleep | ms: 600000"), "plain")
    for command, said in (
        (["run", "-t", "plain"], "--tty means nothing on Genode to a component that does not ask for a terminal"),
        (["run", "-i", "plain"], "let it ask (org.genode.services=Terminal)"),
        (["exec", "-i", "plain", "dummy"], "have no standard input and no terminal"),
    ):
        done = engine.docker(*command, check=False)
        assert done.returncode and said in done.stdout + done.stderr, (command, done)
    status, body = engine.api("POST", "/containers/plain/resize?h=10&w=10")
    assert (status, body["message"]) == (409, "it has no terminal to resize")


def test_a_terminal_that_has_a_fault_ends_the_container_with_a_reason(engine: EngineUnderTest) -> None:
    engine.docker("run", "-dit", "--name", "box", "-e", config(*FILE), "nodes")
    os.kill(component("box", engine, "terminal"), signal.SIGSEGV)
    until(lambda: not state(engine, "box")["Running"])
    found = state(engine, "box")
    assert found["ExitCode"] == 139 and "its component terminal had a fault" in found["Error"]
