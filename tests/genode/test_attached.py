"""An engine that is attached by two directories to a Genode that somebody else has started."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import genode
from fixtures.base_linux import BaseLinux
from fixtures.engine import EngineUnderTest
from fixtures.genode import config, state
from fixtures.wait import until

from capsa import hid

HELLO = config("+ log | string: hello", "+ exit")
LASTING = config("+ log | string: up", "+ sleep | ms: 600000")


class Attached:
    """A Genode with its two directories, and an engine."""

    def __init__(self, *, log: bool) -> None:
        self.binaries = genode.binaries("dummy", "log_file", "vfs", "vfs.lib.so")
        self.base = Path(tempfile.mkdtemp(prefix="capsa-attached-"))
        self.work = self.base / "genode"
        self.config = self.work / "host" / "config"
        self.report = self.work / "host" / "report"
        for each in (self.config, self.report):
            each.mkdir(parents=True)
        for name in ("init.hsd", "vfs_cow.lib.so", "vfs_random.lib.so", "vfs_pipe.lib.so"):
            if (self.binaries / name).is_file():
                shutil.copy(self.binaries / name, self.config)
        text = genode.documented()
        if (self.binaries / "linux_rtc").is_file():  # what a Genode may have besides
            rtc = "+ start rtc | ld: no\n  + binary linux_rtc\n  + provides | + service Rtc\n"
            text = text.replace("+ start containers", f"{rtc}+ start containers")
            last = "    + any-service                                 |"
            assert last in text
            text = text.replace(last, f"    + service Rtc | + child rtc\n{last}")
        if not log:
            top = hid.read(text)
            containers = top.node("start", "containers")
            assert containers is not None
            route = containers.node("route")
            assert route is not None
            for way in route.nodes("service"):
                if way.name == "LOG":
                    route.content.remove(way)
            start = top.node("start", "log_file")
            assert start is not None
            top.content.remove(start)
            text = hid.write(top)
        self.system = BaseLinux(self.work, text)
        self.system.__enter__()
        try:
            self.engine = EngineUnderTest.start("--platform", f"genode=attach:{self.config},{self.report}")
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """The Genode ends; its directories go."""
        self.system.__exit__(None, None, None)
        shutil.rmtree(self.base)

    def close(self) -> None:
        """Engine, and what it left in the directories; then the Genode."""
        try:
            self.engine.close()
        finally:
            self.end()


@pytest.fixture(scope="module")
def attached(need_root: None) -> Iterator[Attached]:
    made = Attached(log=True)
    try:
        genode.import_image(made.engine, "dummy", "dummy", "dummy", vfs="no")
        genode.import_image(made.engine, "watched", "dummy", "dummy", vfs="no", heartbeat="yes")
        yield made
    finally:
        made.close()


@pytest.fixture
def engine(attached: Attached) -> Iterator[EngineUnderTest]:
    yield attached.engine
    for name in attached.engine.docker("ps", "-aq").stdout.split():
        attached.engine.docker("rm", "-f", name)


def modules(attached: Attached) -> list[str]:
    return sorted(name for name in os.listdir(attached.config) if name.startswith(("rom-", "config-")))


def test_a_component_runs_writes_and_exits(engine: EngineUnderTest, attached: Attached) -> None:
    done = engine.docker("run", "--rm", "--platform", genode.PLATFORM, "-e", HELLO, "dummy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    until(lambda: modules(attached) == [])  # nothing of it stays


def test_life_of_a_container(engine: EngineUnderTest, attached: Attached) -> None:
    engine.docker("run", "-d", "--name", "life", "-e", LASTING, "dummy")
    until(lambda: engine.docker("logs", "life").stdout == "up\n")
    assert len(modules(attached)) == 2
    done = engine.docker("exec", "-e", config("+ log | string: inside", "+ exit"), "life", "dummy")
    assert (done.returncode, done.stdout) == (0, "inside\n")
    engine.docker("stop", "life")
    assert state(engine, "life")["ExitCode"] == 143
    engine.docker("start", "life")
    until(lambda: engine.docker("logs", "life").stdout == "up\nup\n")
    engine.restart(signal.SIGKILL)
    assert state(engine, "life")["Running"]
    engine.docker("rm", "-f", "life")
    until(lambda: modules(attached) == [])


def test_a_component_that_wants_more_memory_waits_until_it_gets_it(engine: EngineUnderTest) -> None:
    hungry = config("+ consume_ram | amount: 20M", "+ log | string: got it", "+ sleep | ms: 600000")
    engine.docker("run", "-d", "--name", "hungry", "--memory", "8m", "-e", hungry, "dummy")
    until(lambda: "blocked: the component waits for" in state(engine, "hungry")["Error"])
    engine.docker("update", "--memory", "64m", "--memory-swap", "-1", "hungry")
    until(lambda: engine.docker("logs", "hungry").stdout.endswith("got it\n"))


def test_missing_heartbeats_are_an_exit_with_a_reason(engine: EngineUnderTest) -> None:
    engine.docker("run", "-d", "--name", "hung", "-e", LASTING, "watched")
    until(lambda: not state(engine, "hung")["Running"])  # it sleeps, and does not answer meanwhile
    assert state(engine, "hung")["ExitCode"] == 137 and "heartbeats" in state(engine, "hung")["Error"]


def test_output_goes_on_when_the_file_is_begun_anew(engine: EngineUnderTest, attached: Attached) -> None:
    lines = [f"line {number}" for number in range(300)]
    writing = config(*(f"+ log | string: {line}" for line in lines), "+ exit")
    for _ in range(10):  # with labels more than 150 kB; the limit of that configuration is 64
        done = engine.docker("run", "--rm", "-e", writing, "dummy")
        assert done.stdout.splitlines() == lines
    assert (attached.report / "log").stat().st_size <= 64 << 10
    assert (attached.report / "log.old").stat().st_size <= 64 << 10


def test_what_is_not_there_is_refused_in_a_sentence(engine: EngineUnderTest, tmp_path: Path) -> None:
    engine.docker("run", "-d", "--name", "running", "-e", LASTING, "dummy")
    engine.docker("create", "--name", "stopped", "dummy")
    for command, said in (
        (["diff", "running"], "in the memory of the Genode that the engine is attached to"),
        (["cp", str(Path(__file__)), "stopped:/"], "in the memory of the Genode that the engine is attached to"),
        (["commit", "--pause=false", "running"], "in the memory of the Genode that the engine is attached to"),
        (["run", "-v", f"{tmp_path}:/data", "dummy"], "no directories of this host: leave the volume or mount"),
        (["run", "--label", "org.genode.services=Nic", "dummy"], "no networks of this host: use --network none"),
        (["run", "--network", "none", "--label", "org.genode.services=Nic", "dummy"], "leave Nic out"),
        (["network", "connect", "bridge", "running"], "in private (none) mode"),
        (["run", "-p", "80", "dummy"], "no networks of this host"),
        (["run", "--memory", "900g", "dummy"], "of RAM, and this Genode has"),
    ):
        done = engine.docker(*command, check=False)
        assert done.returncode and said in done.stderr, (command, done.stderr)


def test_files_of_an_image_are_there_and_changes_stay_in_memory(attached: Attached, engine: EngineUnderTest) -> None:
    from fixtures.cow import TREE, layer

    where = genode.binaries("vfs_cow.lib.so", "test-vfs_cow")
    files = {f"data/{name}": content for name, content in TREE.items()}
    archive = engine.base / "cow.tar"
    archive.write_bytes(layer(files | {"bin/test-vfs_cow": (where / "test-vfs_cow").read_bytes()}))
    changes = ('CMD ["test-vfs_cow"]', "LABEL org.genode.ram=32M", "LABEL org.genode.caps=400")
    flags = [word for change in changes for word in ("--change", change)]
    engine.capsa("import", "--platform", genode.PLATFORM, *flags, str(archive), "cow")
    text = """GENODE_CONFIG=config | phase: either | local: no | base: /data | mtime: no
+ vfs | + fs | label: root -> /
-
"""
    for _ in range(2):
        done = engine.docker("run", "--rm", "-e", text, "cow")
        assert ", 0 failed" in done.stdout, done.stdout


def test_device_nodes_are_those_whose_plugins_were_put_there(engine: EngineUnderTest, attached: Attached) -> None:
    genode.binaries("vfs_random.lib.so", "vfs_pipe.lib.so", "test-dev_nodes")
    genode.import_image(engine, "nodes", "test-dev_nodes", "test-dev_nodes")
    wanted = ("+ hex /dev/random", "+ hex /dev/urandom", "+ pipe /dev/pipe | content: through it")
    done = engine.docker("run", "--rm", "-e", config("+ vfs | + fs | label: root -> /", *wanted), "nodes")
    lines = done.stdout.splitlines()
    assert lines[2:] == ["piped: through it", "done"] and len(set(lines)) == 4 and lines[0].startswith("hex: ")
    until(lambda: modules(attached) == [])


def test_services_are_those_of_the_genode(engine: EngineUnderTest, attached: Attached) -> None:
    genode.binaries("linux_rtc", "fifo_terminal", "test-dev_nodes")
    genode.import_image(engine, "nodes", "test-dev_nodes", "test-dev_nodes")
    flags = ("-l", "org.genode.services=Rtc", "-e", config("+ vfs | + fs | label: root -> /", "+ read /dev/rtc"))
    done = engine.docker("run", "--rm", *flags, "nodes")
    assert re.fullmatch(r"read: 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\ndone\n", done.stdout)
    flags = ("-l", "org.genode.services=Terminal", "-e", config("+ vfs | + fs | label: root -> /"))
    done = engine.docker("run", "--name", "one", *flags, "nodes", check=False)
    assert done.returncode and "denied Terminal-session" in done.stderr + state(engine, "one")["Error"]
    done = engine.docker("run", "-i", *flags, "nodes", check=False)
    assert done.returncode and "attached to has its own terminals" in done.stderr
    engine.docker("rm", "-f", "one")


def test_a_second_engine_is_refused(engine: EngineUnderTest, attached: Attached) -> None:
    engine.docker("run", "-d", "--name", "first", "-e", LASTING, "dummy")
    other = EngineUnderTest.start("--platform", f"genode=attach:{attached.config},{attached.report}")
    try:
        genode.import_image(other, "dummy", "dummy", "dummy", vfs="no")
        done = other.docker("run", "--rm", "-e", HELLO, "dummy", check=False)
        assert done.returncode and "another engine is attached to the Genode of" in done.stderr
    finally:
        other.close()
    assert state(engine, "first")["Running"]


def test_a_genode_that_is_not_heard_of_is_noticed_though_nothing_happens(
    engine: EngineUnderTest, attached: Attached
) -> None:
    engine.docker("run", "-d", "--name", "forgotten", "-e", LASTING, "dummy")
    until(lambda: engine.docker("logs", "forgotten").stdout == "up\n")
    core = attached.system.pid
    os.kill(core, signal.SIGSTOP)  # no component gets anywhere without it
    try:
        until(lambda: not state(engine, "forgotten")["Running"], seconds=120)
        assert "is not heard of any more: it reported nothing for" in state(engine, "forgotten")["Error"]
        failed = engine.docker("run", "--rm", "-e", HELLO, "dummy", check=False)
        assert failed.returncode and "the Genode does not answer" in failed.stderr
    finally:
        os.kill(core, signal.SIGCONT)
    # It has what was asked for meanwhile: the old container does not come back.
    assert engine.docker("run", "--rm", "-e", HELLO, "dummy").stdout == "hello\n"
    assert engine.docker("logs", "forgotten").stdout == "up\n"


def test_without_a_log_server_the_logs_say_so(need_root: None) -> None:
    silent = Attached(log=False)
    try:
        genode.import_image(silent.engine, "dummy", "dummy", "dummy", vfs="no")
        done = silent.engine.docker("run", "-e", HELLO, "--name", "mute", "dummy")
        assert done.returncode == 0
        logs = silent.engine.docker("logs", "mute")
        assert logs.stdout == "" and "this Genode has no LOG server that writes to the file 'log'" in logs.stderr
    finally:
        silent.close()
