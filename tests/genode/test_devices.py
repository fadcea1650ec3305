"""The device nodes of a container's files, by a component that reads them (genode/src/test/dev_nodes)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fixtures import genode
from fixtures.base_linux import BaseLinux
from fixtures.engine import EngineUnderTest
from fixtures.genode import component, config, has, waiting
from fixtures.wait import until

PROGRAM = "test-dev_nodes"
FILES = "+ vfs | + fs | label: root -> /"
READ_RANDOM = ("+ hex /dev/random | bytes: 512", "+ hex /dev/urandom | bytes: 512")
# RFC 8439, section 2.3.2: the serialized block.
BLOCK = """
10 f1 e7 e4 d1 3b 59 15 50 0f dd 1f a3 20 71 c4 c7 d1 f4 c7 33 c0 68 03 04 22 aa 9a c3 d4 6c 4e
d2 82 64 46 07 9f aa 09 14 c2 d7 05 d9 8b 02 a2 b5 12 9c d1 de 16 4e b9 cb d0 83 e8 a2 50 3c 4e
"""


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("vfs_cow.lib.so", "vfs_random.lib.so", "vfs_pipe.lib.so", PROGRAM)
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        genode.import_image(under_test, "nodes", PROGRAM, PROGRAM)
        yield under_test
    finally:
        under_test.close()


@pytest.fixture(autouse=True)
def _alone(alone: None) -> None:
    pass


def steps(*wanted: str) -> str:
    return config(FILES, *wanted)


def read(output: str) -> bytes:
    """All bytes that a component has shown."""
    return b"".join(map(bytes.fromhex, re.findall(r"hex: ([0-9a-f]+)", output)))


def check_random(*outputs: str) -> None:
    """What two files have yielded, each time: nothing twice, and each bit as often as not."""
    found = b"".join(map(read, outputs))
    assert len(found) == 1024 * len(outputs), outputs
    pieces = [found[at : at + 8] for at in range(0, len(found), 8)]
    assert len(set(pieces)) == len(pieces)
    assert 0.45 < sum(each.bit_count() for each in found) / (8 * len(found)) < 0.55


def test_random_bytes_are_others_for_each_file_reader_container_and_run(engine: EngineUnderTest) -> None:
    name = waiting(engine) if engine.docker("run", "--rm", "-e", steps(), "nodes").returncode == 0 else ""
    outputs = [engine.docker("run", "--name", "one", "-e", steps(*READ_RANDOM), "nodes").stdout]
    assert has(engine, "one", name)  # the sub-init that waited
    outputs.append(engine.docker("start", "-a", "one").stdout)
    read_only = ("--read-only", "-l", "org.genode.services=Report")  # a sub-init of its own
    outputs.append(engine.docker("run", *read_only, "-e", steps(*READ_RANDOM), "nodes").stdout)
    engine.docker("run", "-d", "--name", "other", "-e", steps("+ sleep"), "nodes")
    outputs += [engine.docker("exec", "-e", steps(*READ_RANDOM), "other", PROGRAM).stdout for _ in range(2)]
    check_random(*outputs)


def test_what_is_written_to_them_is_taken_and_does_no_harm(engine: EngineUnderTest) -> None:
    text = "+ write /dev/random | content: " + 40 * "known"
    done = engine.docker("run", "--rm", "-e", steps(text, *READ_RANDOM, text, *READ_RANDOM), "nodes")
    assert done.returncode == 0 and done.stdout.count("wrote: 200\n") == 2
    check_random(done.stdout[: done.stdout.rindex("wrote")], done.stdout[done.stdout.rindex("wrote") :])


def test_the_seed_is_reached_by_nobody_and_goes_with_its_container(engine: EngineUnderTest) -> None:
    engine.docker("run", "-d", "--name", "one", "-e", steps("+ sleep"), "nodes")
    name = waiting(engine)
    where = engine.run / "genode"
    seeds = [path for path in where.iterdir() if path.name.startswith("rom-seed-")]
    assert len(seeds) == 2 and where / f"rom-seed-{name}" in seeds
    asked = [rom for path in seeds for rom in ("seed", path.name, f"{name} -> seed")]
    for rom in asked:  # one who asks for what the parent has not is stopped
        wanted = config(f"+ vfs | + rom file | label: {rom}", "+ read /file")
        done = engine.docker("run", "--rm", "-e", wanted, "nodes", check=False)
        assert done.returncode and f'denied ROM-session: label="{rom}"' in done.stdout + done.stderr
        assert "read:" not in done.stdout
    engine.docker("rm", "-f", "one")
    name = waiting(engine)
    assert [path.name for path in where.iterdir() if path.name.startswith("rom-seed-")] == [f"rom-seed-{name}"]
    plan = engine.capsa("plan", "nodes").stdout
    assert "random urandom" in plan and seeds[0].name not in plan and not re.search("[0-9a-f]{64}", plan.lower())


def test_a_pipe_leads_from_one_end_to_the_other(engine: EngineUnderTest) -> None:
    done = engine.docker("run", "--rm", "-e", steps("+ pipe /dev/pipe | content: through it"), "nodes")
    assert (done.returncode, done.stdout) == (0, "piped: through it\ndone\n")


def test_a_clock_shows_the_time_of_the_host(engine: EngineUnderTest) -> None:
    genode.binaries("linux_rtc")
    flags = ("-l", "org.genode.services=Rtc")
    engine.docker("run", "-d", "--name", "one", *flags, "-e", steps("+ read /dev/rtc", "+ sleep"), "nodes")
    until(lambda: engine.docker("logs", "one").stdout.endswith("done\n"))
    outputs = [
        engine.docker("logs", "one").stdout,
        engine.docker("exec", "-e", steps("+ read /dev/rtc"), "one", PROGRAM).stdout,
        # by a session of its own
        engine.docker("exec", "-e", config("+ vfs | + rtc", "+ read /rtc"), "one", PROGRAM).stdout,
    ]
    now = datetime.now(UTC).replace(tzinfo=None)
    for output in outputs:
        shown = datetime.strptime(output, "read: %Y-%m-%d %H:%M:%S\ndone\n")
        assert timedelta(seconds=-1) <= now - shown < timedelta(seconds=20)
    assert component("one", engine, "rtc")
    done = engine.docker("run", "--rm", "-e", steps("+ read /dev/rtc"), "nodes")
    assert done.stdout == "none: /dev/rtc\ndone\n"  # who does not ask has none


def test_without_the_plugins_the_rest_is_there(engine: EngineUnderTest, tmp_path: Path) -> None:
    for path in genode.binaries().iterdir():
        if path.name not in ("vfs_random.lib.so", "vfs_pipe.lib.so", "linux_rtc"):
            (tmp_path / path.name).symlink_to(path)
    poor = EngineUnderTest.start("--platform", f"genode={tmp_path}")
    try:
        genode.import_image(poor, "nodes", PROGRAM, PROGRAM)
        wanted = steps("+ hex /dev/zero | bytes: 4", "+ hex /dev/urandom", "+ pipe /dev/pipe", "+ read /dev/rtc")
        absent = "hex: 00000000\nnone: /dev/urandom\nnone: /dev/pipe\nnone: /dev/rtc\ndone\n"
        for flags in ((), ("-l", "org.genode.services=Rtc")):
            assert poor.docker("run", "--rm", *flags, "-e", wanted, "nodes").stdout == absent
        said = ". there is no /dev/random and no /dev/urandom: this Genode has no vfs_random.lib.so\n"
        assert said in poor.capsa("plan", "nodes").stdout
        log = (poor.run / "genode.log").read_text()
        assert said[2:] in log and "no service Rtc and no /dev/rtc: this Genode has no linux_rtc\n" in log
    finally:
        poor.close()


def alone_with(work: Path, seed: bytes, *wanted: str) -> str:
    """What the component says that has the plugin in a VFS of its own."""
    config = "config\n+ parent-provides\n"
    config += "".join(f"  + service {each}\n" for each in ("ROM", "PD", "RM", "CPU", "LOG"))
    config += "+ default-route | + any-service | + parent\n+ default | caps: 200 | ram: 8M\n"
    config += f"+ start {PROGRAM}\n  + config\n    + vfs\n      + dir dev\n        + random\n        + random urandom\n"
    config += "".join(f"    {each}\n" for each in wanted) + "-\n"
    with BaseLinux(work, config, {"seed": seed}) as running:
        return running.wait_for(f'child "{PROGRAM}" exited with exit value 0')


def test_it_is_chacha20(tmp_path: Path) -> None:
    genode.binaries("vfs_random.lib.so", PROGRAM)
    log = alone_with(tmp_path, 64 * b"0", "+ vector")
    assert f"vector: {''.join(BLOCK.split())}" in log


def test_the_same_seed_is_not_the_same_sequence(tmp_path: Path) -> None:
    genode.binaries("vfs_random.lib.so", PROGRAM)
    check_random(*(alone_with(tmp_path / each, 64 * b"a", *READ_RANDOM) for each in ("one", "other")))


@pytest.mark.parametrize("seed", [63 * b"a", 64 * b"G", 32 * b"\0", b"x"], ids=["short", "text", "zeros", "x"])
def test_what_is_no_seed_is_refused(tmp_path: Path, seed: bytes) -> None:
    genode.binaries("vfs_random.lib.so", PROGRAM)
    log = alone_with(tmp_path, seed, *READ_RANDOM)
    assert "none: /dev/random" in log and "none: /dev/urandom" in log and "hex:" not in log
    assert "random: the seed" in log
