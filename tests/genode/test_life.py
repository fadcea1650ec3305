"""Containers on a real Genode, through the engine and its clients."""

from __future__ import annotations

import io
import os
import signal
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import genode
from fixtures.engine import EngineUnderTest
from fixtures.genode import component, config, process, state
from fixtures.processes import parent
from fixtures.wait import until

HELLO = config("+ log | string: hello", "+ exit")
LASTING = config("+ log | string: up", "+ sleep | ms: 600000")


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("dummy")
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        genode.import_image(under_test, "dummy", "dummy", "dummy")
        genode.import_image(under_test, "watched", "dummy", "dummy", heartbeat="yes")
        yield under_test
    finally:
        under_test.close()


def run(engine: EngineUnderTest, name: str, configuration: str, *flags: str, image: str = "dummy") -> None:
    engine.docker("run", "-d", "--name", name, "-e", configuration, *flags, image)


def reported(engine: EngineUnderTest, name: str, word: str) -> None:
    until(lambda: word in engine.docker("logs", name).stdout)


def test_a_component_runs_writes_and_exits(engine: EngineUnderTest) -> None:
    done = engine.docker("run", "--rm", "--platform", genode.PLATFORM, "-e", HELLO, "dummy")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    assert engine.docker("ps", "-aq").stdout == ""


def test_a_component_has_the_processors_that_it_asks_for(engine: EngineUnderTest) -> None:
    log = engine.run / "genode.log"
    before = log.stat().st_size
    done = engine.docker("run", "--rm", "-l", "org.genode.affinity=0/2", "-e", HELLO, "dummy")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert "affinity" not in log.read_text()[before:]  # what `init` says of one that it cannot use
    for text in ("2/2", "-1/2"):
        done = engine.docker("run", "--rm", "-l", f"org.genode.affinity={text}", "-e", HELLO, "dummy", check=False)
        assert done.returncode != 0 and f"org.genode.affinity is '{text}'" in done.stderr


def test_both_platforms_are_in_one_list(engine: EngineUnderTest, busybox: str) -> None:
    run(engine, "native", LASTING)
    engine.docker("run", "-d", "--name", "linux", "--network", "none", busybox, "sleep", "600")
    listed = engine.docker("ps", "--format", "{{.Names}} {{.Image}} {{.State}}").stdout.splitlines()
    assert sorted(listed) == ["linux busybox:latest running", "native dummy running"]
    platforms = engine.docker("inspect", "-f", "{{.Platform}}", "native", "linux").stdout.split()
    assert platforms == ["genode", "linux"]
    engine.docker("rm", "-f", "native", "linux")


def test_stop_start_and_kill(engine: EngineUnderTest) -> None:
    run(engine, "life", LASTING)
    reported(engine, "life", "up\n")
    engine.docker("stop", "life")
    assert state(engine, "life")["ExitCode"] == 143
    engine.docker("start", "life")
    until(lambda: engine.docker("logs", "life").stdout == "up\nup\n")
    engine.docker("restart", "life")
    until(lambda: engine.docker("logs", "life").stdout == "up\nup\nup\n")
    engine.docker("kill", "life")
    found = state(engine, "life")
    assert (found["Status"], found["ExitCode"]) == ("exited", 137)
    engine.docker("rm", "life")


def test_what_genode_lacks_is_refused_in_a_sentence(engine: EngineUnderTest) -> None:
    run(engine, "plain", LASTING)
    for command, said in (
        (["pause", "plain"], "Genode cannot stop the processors"),
        (["kill", "-s", "USR1", "plain"], "Genode has no signals: SIGUSR1 cannot be sent"),
        (["top", "plain"], "has components, not processes"),
        (["run", "-t", "dummy"], "--tty means nothing on Genode to a component that does not ask"),
        (["run", "-i", "dummy"], "--interactive means nothing on Genode to a component that does not ask"),
        (["exec", "-i", "plain", "dummy"], "have no standard input and no terminal"),
        (["exec", "-t", "plain", "dummy"], "have no standard input and no terminal"),
        (["run", "--cap-add", "NET_ADMIN", "dummy"], "--cap-add means nothing on Genode"),
        (["run", "--network", "host", "dummy"], "cannot share the network of host"),
        (["run", "dummy", "nothing"], "there is no nothing in the image: its files are dummy"),
        (["run", "-e", "GENODE_CONFIG=config\n+++", "dummy"], "is not HID"),
        (["run", "--memory", "900g", "dummy"], "of RAM, and this Genode has"),
        (["run", "--label", "org.genode.caps=30000", "dummy"], "capabilities, and this Genode has"),
        (["run", "-v", "/etc/hostname:/x", "dummy"], "only directories can be mounted"),
        (["run", "--label", "org.genode.caps=x", "dummy"], "org.genode.caps is 'x'"),
        (["run", "--label", "org.genode.sevices=Rtc", "dummy"], "unknown setting org.genode.sevices"),
        (["run", "--label", "org.genode.services=IO_MEM", "dummy"], "org.genode.services names 'IO_MEM'"),
    ):
        done = engine.docker(*command, check=False)
        output = done.stdout + done.stderr  # of exec it is the output, as docker has it
        assert done.returncode and said in output, (command, output)
    status, body = engine.api("POST", "/containers/plain/resize?h=10&w=10")
    assert (status, body["message"]) == (409, "it has no terminal to resize")
    assert state(engine, "plain")["Running"]
    for name in engine.docker("ps", "-aq").stdout.split():
        engine.docker("rm", "-f", name)


def test_a_component_that_wants_more_memory_waits_until_it_gets_it(engine: EngineUnderTest) -> None:
    hungry = config("+ consume_ram | amount: 20M", "+ log | string: got it", "+ sleep | ms: 600000")
    run(engine, "hungry", hungry, "--memory", "8m")
    until(lambda: "blocked: the component waits for" in state(engine, "hungry")["Error"])
    assert state(engine, "hungry")["Running"]
    events = engine.docker("events", "--since", "0", "--until", str(time.time()), "--filter", "container=hungry")
    assert " oom " in events.stdout
    engine.docker("update", "--memory", "64m", "--memory-swap", "-1", "hungry")
    reported(engine, "hungry", "got it\n")
    until(lambda: not state(engine, "hungry")["Error"])
    engine.docker("rm", "-f", "hungry")


def test_more_memory_gets_there_even_if_the_parent_is_late(engine: EngineUnderTest) -> None:
    """A sub-init that hears of it before it has it must not hand out what little is there, and be done with it."""
    hungry = config("+ consume_ram | amount: 20M", "+ log | string: got it", "+ sleep | ms: 600000")
    run(engine, "hungry", hungry, "--memory", "8m")
    until(lambda: "blocked: the component waits for" in state(engine, "hungry")["Error"])
    init = process("init -> containers", parent(component("hungry", engine)))
    os.kill(init, signal.SIGSTOP)
    try:
        engine.docker("update", "--memory", "64m", "--memory-swap", "-1", "hungry")
        time.sleep(1)  # for the sub-init, which goes on
    finally:
        os.kill(init, signal.SIGCONT)
    reported(engine, "hungry", "got it\n")
    done = engine.docker("exec", "-e", config("+ log | string: inside", "+ exit"), "hungry", "dummy")
    assert (done.returncode, done.stdout) == (0, "inside\n")
    engine.docker("rm", "-f", "hungry")


def test_one_more_component_in_a_container(engine: EngineUnderTest) -> None:
    run(engine, "outer", LASTING)
    done = engine.docker("exec", "-e", config("+ log | string: inside", "+ exit"), "outer", "dummy")
    assert (done.returncode, done.stdout) == (0, "inside\n")
    done = engine.docker("exec", "outer", "absent", check=False)
    assert done.returncode == 127 and "there is no absent in the image" in done.stdout + done.stderr
    assert engine.docker("logs", "outer").stdout == "up\n"
    engine.docker("rm", "-f", "outer")


def test_a_fault_is_an_exit_with_a_reason_and_others_go_on(engine: EngineUnderTest) -> None:
    run(engine, "sound", LASTING)
    run(engine, "faulty", LASTING)
    reported(engine, "faulty", "up\n")
    os.kill(component("faulty", engine), signal.SIGSEGV)
    until(lambda: not state(engine, "faulty")["Running"])
    found = state(engine, "faulty")
    assert (found["ExitCode"], found["Error"]) == (139, "Segmentation fault (signum=11)")
    assert state(engine, "sound")["Running"], state(engine, "sound")
    engine.docker("rm", "-f", "sound", "faulty")


def test_a_restart_policy_brings_a_crashed_component_back(engine: EngineUnderTest) -> None:
    run(engine, "again", LASTING, "--restart", "on-failure")
    reported(engine, "again", "up\n")
    os.kill(component("again", engine), signal.SIGSEGV)
    until(lambda: engine.docker("logs", "again").stdout == "up\nup\n")
    assert state(engine, "again")["Running"]
    engine.docker("rm", "-f", "again")


def test_missing_heartbeats_are_an_exit_with_a_reason(engine: EngineUnderTest) -> None:
    run(engine, "hung", LASTING, image="watched")
    reported(engine, "hung", "up\n")
    until(lambda: not state(engine, "hung")["Running"])  # it sleeps, and does not answer meanwhile
    found = state(engine, "hung")
    assert found["ExitCode"] == 137 and "heartbeats" in found["Error"]
    engine.docker("rm", "-f", "hung")


def test_containers_outlive_the_engine(engine: EngineUnderTest) -> None:
    run(engine, "lasting", LASTING)
    ending = config("+ log | string: first", "+ sleep | ms: 3000", "+ log | string: second", "+ exit")
    run(engine, "ending", ending)
    reported(engine, "ending", "first\n")
    engine.restart(signal.SIGKILL)
    assert state(engine, "lasting")["Running"]
    until(lambda: not state(engine, "ending")["Running"])
    assert state(engine, "ending")["ExitCode"] == 0
    assert engine.docker("logs", "ending").stdout == "first\nsecond\n"
    engine.docker("rm", "-f", "lasting", "ending")


def test_a_genode_that_ends_takes_its_containers_along_and_another_is_started(engine: EngineUnderTest) -> None:
    run(engine, "victim", LASTING)
    reported(engine, "victim", "up\n")
    os.kill(parent(component("victim", engine)), signal.SIGKILL)
    until(lambda: not state(engine, "victim")["Running"])
    assert "the Genode that the container ran on has ended" in state(engine, "victim")["Error"]
    engine.docker("start", "victim")
    until(lambda: engine.docker("logs", "victim").stdout == "up\nup\n")
    engine.docker("rm", "-f", "victim")


def test_statistics_are_what_the_genode_reports(engine: EngineUnderTest) -> None:
    run(engine, "measured", config("+ consume_ram | amount: 5M", "+ sleep | ms: 600000"), "--memory", "32m")

    def used() -> int:
        _, found = engine.api("GET", "/containers/measured/stats?stream=0&one-shot=1")
        assert found["memory_stats"].get("limit", 32 << 20) == 32 << 20
        return int(found["memory_stats"].get("usage", 0))

    until(lambda: 5 << 20 < used() < 8 << 20)
    engine.docker("rm", "-f", "measured")


def test_a_genode_that_reports_nothing_is_ended(engine: EngineUnderTest) -> None:
    run(engine, "silenced", LASTING)
    reported(engine, "silenced", "up\n")
    os.kill(parent(component("silenced", engine)), signal.SIGSTOP)  # no component gets anywhere without core
    engine.docker("stop", "silenced")  # another configuration, which nobody reads
    assert state(engine, "silenced")["ExitCode"] == 143
    failed = engine.docker("run", "--rm", "-e", HELLO, "dummy", check=False)
    assert failed.returncode and "it reported nothing for" in failed.stderr
    assert engine.docker("run", "--rm", "-e", HELLO, "dummy").stdout == "hello\n"
    engine.docker("rm", "silenced")


def test_links_in_a_volume_lead_nowhere(engine: EngineUnderTest, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    run(engine, "linked", LASTING, "-v", f"{tmp_path}:/data:ro")
    reported(engine, "linked", "up\n")
    server = component("linked", engine, "files")  # lx_fs, which would follow them
    mounts = Path(f"/proc/{server}/mountinfo").read_text().splitlines()
    (found,) = [line.split() for line in mounts if line.split()[4].endswith("/volume-0")]
    assert {"ro", "nosymfollow", "nosuid", "nodev"} <= set(found[5].split(","))
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    engine.docker("rm", "-f", "linked")
    assert (tmp_path / "link").is_symlink()


def test_a_package_of_the_depot_runs(engine: EngineUnderTest, tmp_path: Path) -> None:
    runtime = b"runtime | ram: 3M | caps: 150 | binary: dummy\n+ config\n  + log | string: packed\n  + exit\n-\n"
    program = (genode.binaries() / "dummy").read_bytes()
    archives = []
    for kind, name, data in (("pkg", "runtime", runtime), ("bin", "dummy", program)):
        archives.append(tmp_path / f"{kind}.tar.xz")
        with tarfile.open(archives[-1], "w:xz") as archive:
            member = tarfile.TarInfo(f"2026-01-01/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    flags = [word for each in archives for word in ("--archive", str(each))]
    assert engine.capsa("image", "make", "genode", *flags, "-t", "packed").stdout == "Made image: packed:latest\n"
    assert engine.docker("run", "--rm", "packed").stdout == "packed\n"
    assert engine.docker("inspect", "-f", "{{.Os}}", "packed").stdout == "genode\n"


def test_a_plan_is_what_would_be_run(engine: EngineUnderTest) -> None:
    text = engine.capsa("plan", "-e", HELLO, "--label", "org.genode.ram=3M", "dummy").stdout
    assert "+ start main | caps: 100 | ram: 3M\n" in text and "+ log | string: hello\n" in text
    assert engine.docker("ps", "-aq").stdout == ""


def test_nothing_of_a_container_that_was_stopped_or_killed_runs(engine: EngineUnderTest) -> None:
    for command in ("stop", "kill", "stop", "kill", "stop"):
        run(engine, "leaving", LASTING)
        reported(engine, "leaving", "up\n")
        before = [component("leaving", engine, which) for which in ("main", "files", "vfs")]
        engine.docker(command, "leaving")
        assert [pid for pid in before if alive(pid)] == []
        engine.docker("rm", "leaving")


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
