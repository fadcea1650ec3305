"""The sub-init that waits for a container: who gets it, what is left of it, and that it is in nobody's way."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest
from fixtures import genode
from fixtures.engine import EngineUnderTest
from fixtures.genode import component, config, core_of, has, nodes, process, state, waiting
from fixtures.processes import parent
from fixtures.wait import until

LASTING = config("+ log | string: up", "+ sleep | ms: 600000")


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("dummy")
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        genode.import_image(under_test, "dummy", "dummy", "dummy", vfs="no")
        genode.import_image(under_test, "files", "dummy", "dummy")
        yield under_test
    finally:
        under_test.close()


@pytest.fixture(autouse=True)
def bystander(engine: EngineUnderTest) -> Iterator[None]:
    """A container that runs all the while."""
    run(engine, "bystander")
    before = component("bystander", engine)
    try:
        yield
        assert component("bystander", engine) == before
    finally:
        for name in engine.docker("ps", "-aq").stdout.split():
            engine.docker("rm", "-f", name)


def run(engine: EngineUnderTest, name: str, *flags: str, image: str = "dummy") -> None:
    engine.docker("run", "-d", "--name", name, "-e", LASTING, *flags, image)
    until(lambda: engine.docker("logs", name).stdout == "up\n")


def inits(engine: EngineUnderTest, name: str) -> int:
    """The process of a sub-init."""
    return process(f"init -> containers -> {name}", core_of(engine))


@pytest.mark.parametrize("image", ["dummy", "files"])
def test_an_ordinary_container_gets_it_with_its_quota(engine: EngineUnderTest, image: str) -> None:
    name = waiting(engine)
    before = inits(engine, name)
    run(engine, "ordinary", image=image)
    assert has(engine, "ordinary", name)
    main = component("ordinary", engine)
    assert waiting(engine) != name
    assert re.sub(" +", " ", nodes(engine)[name]) == "caps: 420 | ram: 30M"
    assert state(engine, "ordinary")["Running"]
    assert (inits(engine, name), component("ordinary", engine)) == (before, main)
    done = engine.docker("exec", "-e", config("+ log | string: inside", "+ exit"), "ordinary", "dummy")
    assert (done.returncode, done.stdout) == (0, "inside\n")
    engine.docker("stop", "ordinary")
    assert name not in nodes(engine)
    assert engine.docker("run", "--rm", "-e", config("+ exit"), image).returncode == 0


@pytest.mark.parametrize(
    "flags", [["--memory", "100m"], ["--label", "org.genode.priority=-1"], ["--label", "org.genode.services=Rtc"]]
)
def test_another_container_gets_one_of_its_own(engine: EngineUnderTest, flags: list[str]) -> None:
    name = waiting(engine)
    engine.docker("run", "-d", "--name", "other", "-e", LASTING, *flags, "dummy")
    own = engine.api("GET", "/containers/other/json")[1]["Id"][:12]
    assert [each for each in nodes(engine) if each.startswith(own)] and waiting(engine) == name


def test_more_memory_later_is_more(engine: EngineUnderTest) -> None:
    waiting(engine)
    hungry = config("+ consume_ram | amount: 90M", "+ log | string: got it", "+ sleep | ms: 600000")
    engine.docker("run", "-d", "--name", "hungry", "-e", hungry, "--memory", "8m", "dummy")
    until(lambda: "blocked: the component waits for" in state(engine, "hungry")["Error"])
    engine.docker("update", "--memory", "128m", "--memory-swap", "-1", "hungry")
    until(lambda: engine.docker("logs", "hungry").stdout.endswith("got it\n"))


def test_it_is_in_nobodys_way(engine: EngineUnderTest) -> None:
    """A container that needs all that is left gets it, and one waits again when there is room."""
    name = waiting(engine)
    refused = engine.docker("run", "--rm", "--memory", "900g", "dummy", check=False).stderr
    left = int(re.findall(r"this Genode has (\d+) MiB left", refused)[0])
    most = left - 3  # its `init` has two, and what is left may be a part of one more
    run(engine, "large", "--memory", f"{most}m")
    assert name not in nodes(engine)
    failed = engine.docker("run", "--rm", "-e", config("+ exit"), "dummy", check=False)
    assert failed.returncode and "this Genode has" in failed.stderr
    until(lambda: not (engine.run / "genode" / "host" / "config" / f"config-{name}").exists())
    engine.docker("rm", "-f", "large")
    assert waiting(engine) != name


def test_it_waits_for_the_next_engine_too(engine: EngineUnderTest) -> None:
    name = waiting(engine)
    engine.restart(signal.SIGKILL)
    run(engine, "after")
    assert has(engine, "after", name)


def test_a_fault_of_it_is_the_end_of_nothing_else(engine: EngineUnderTest) -> None:
    name = waiting(engine)
    os.kill(inits(engine, name), signal.SIGSEGV)
    until(lambda: name not in nodes(engine))
    run(engine, "next")
    assert component("next", engine) and parent(component("next", engine)) == core_of(engine)
