"""What does not fit on a real Genode is refused or ends in a sentence, and other containers go on."""

from __future__ import annotations

import io
import os
import shutil
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import genode
from fixtures.engine import EngineUnderTest
from fixtures.genode import component, config, state
from fixtures.images import busybox_layer, docker_archive
from fixtures.wait import until

LASTING = config("+ log | string: up", "+ sleep | ms: 600000")
DENIED = "GENODE_CONFIG=config | rom: nothing\n-\n"  # of rom_logger: a ROM that is not there
NO_FILES = "GENODE_CONFIG=config | base: /\n+ vfs | + fs | label: root -> /\n-\n"


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("dummy", "rom_logger")
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        genode.import_image(under_test, "dummy", "dummy", "dummy", "rom_logger")
        yield under_test
    finally:
        under_test.close()


@pytest.fixture(autouse=True)
def bystander(engine: EngineUnderTest) -> Iterator[None]:
    """A container that has to be there, and the same one, after each test."""
    engine.docker("run", "-d", "--name", "bystander", "-e", LASTING, "dummy")
    until(lambda: engine.docker("logs", "bystander").stdout == "up\n")
    before = component("bystander", engine)
    try:
        yield
        assert state(engine, "bystander")["Running"] and component("bystander", engine) == before
        assert engine.docker("run", "--rm", "-e", config("+ exit"), "dummy").returncode == 0
    finally:
        for name in engine.docker("ps", "-aq").stdout.split():
            engine.docker("rm", "-f", name)


def import_program(engine: EngineUnderTest, name: str, content: bytes) -> None:
    path = engine.base / f"{name}.tar"
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("bin/program")
        member.size, member.mode = len(content), 0o755
        archive.addfile(member, io.BytesIO(content))
    engine.capsa("import", "--platform", genode.PLATFORM, "-c", 'CMD ["program"]', str(path), name)


def ended(engine: EngineUnderTest, name: str) -> tuple[int, str]:
    """Exit code and reason of a container, once it is over."""
    until(lambda: not state(engine, name)["Running"])
    return state(engine, name)["ExitCode"], state(engine, name)["Error"]


def test_an_image_for_linux_is_refused(engine: EngineUnderTest) -> None:
    busybox = shutil.which("busybox", path="/bin:/usr/bin")
    if busybox is None:
        pytest.skip("needs busybox")
    engine.load(docker_archive([busybox_layer(busybox)], ["linux:latest"]))
    status, body = engine.api("POST", "/containers/create?platform=genode/amd64", {"Image": "linux", "Cmd": ["true"]})
    assert status == 404 and "does not match the specified platform (genode/amd64)" in body["message"]


@pytest.mark.parametrize(
    ("path", "code", "said"),
    [
        ("/bin/busybox", 134, "Uncaught exception of type 'Linker::Incompatible'"),  # linked statically
        ("/bin/true", 139, "Segmentation fault"),
        (__file__, 134, "Uncaught exception of type 'Linker::Incompatible'"),
    ],
)
def test_a_program_for_another_system_ends_with_a_reason(
    engine: EngineUnderTest, path: str, code: int, said: str
) -> None:
    if not os.path.exists(path):
        pytest.skip(f"needs {path}")
    import_program(engine, "foreign", Path(path).read_bytes())
    engine.docker("run", "-d", "--name", "foreign", "foreign", check=False)
    found = ended(engine, "foreign")
    assert found[0] == code and said in found[1]


def test_an_empty_program_is_not_there(engine: EngineUnderTest) -> None:
    import_program(engine, "empty", b"")
    done = engine.docker("run", "--name", "empty", "empty", check=False)
    assert done.returncode == 127 and "is not there" in done.stderr


def test_a_session_that_is_denied_is_an_exit_with_a_reason(engine: EngineUnderTest) -> None:
    engine.docker("run", "-d", "--name", "denied", "-e", DENIED, "dummy", "rom_logger", check=False)
    code, why = ended(engine, "denied")
    assert code == 126 and why.startswith("stop because parent denied ROM-session")
    done = engine.docker("exec", "-e", DENIED, "bystander", "rom_logger", check=False)
    assert done.returncode == 126 and "stop because parent denied ROM-session" in done.stdout


def test_a_container_without_files_gets_none(engine: EngineUnderTest) -> None:
    genode.binaries("test-vfs_cow")
    genode.import_image(engine, "files", "test-vfs_cow", "test-vfs_cow", vfs="no")
    engine.docker("run", "-d", "--name", "files", "-e", NO_FILES, "files", check=False)
    code, why = ended(engine, "files")
    assert code == 126 and "denied File_system-session" in why


def test_a_fault_of_an_additional_component_ends_only_that(engine: EngineUnderTest) -> None:
    import_program(engine, "linux-program", Path("/bin/true").read_bytes())
    with tarfile.open(engine.base / "both.tar", "w") as archive:
        archive.add("/bin/true", "bin/foreign")
        archive.add(genode.binaries("dummy") / "dummy", "bin/dummy")
    engine.capsa("import", "--platform", genode.PLATFORM, "-c", 'CMD ["dummy"]', str(engine.base / "both.tar"), "both")
    engine.docker("run", "-d", "--name", "outer", "-e", LASTING, "both")
    until(lambda: engine.docker("logs", "outer").stdout == "up\n")
    assert engine.docker("exec", "outer", "foreign", check=False).returncode == 139
    assert state(engine, "outer")["Running"]
    assert (
        engine.docker("exec", "-e", config("+ log | string: inside", "+ exit"), "outer", "dummy").stdout == "inside\n"
    )


@pytest.mark.parametrize("helper", ["vfs", "files"])
def test_a_helper_that_has_a_fault_ends_its_container(engine: EngineUnderTest, helper: str) -> None:
    engine.docker("run", "-d", "--name", "helped", "-e", LASTING, "dummy")
    until(lambda: engine.docker("logs", "helped").stdout == "up\n")
    os.kill(component("helped", engine, helper), signal.SIGSEGV)
    assert ended(engine, "helped") == (139, f"its component {helper} had a fault (Segmentation fault (signum=11))")


@pytest.mark.parametrize(
    "text",
    [
        "config\n+ log | : " + "y" * 60_000 + "\n+ exit\n-\n",
        "config\n" + "".join(f"+ log | string: {number}\n" for number in range(3000)) + "+ exit\n-\n",
        "config\n+ start main | version: 2 | caps: 900000\n+ exit\n-\n",
    ],
)
def test_a_strange_configuration_of_a_component_is_its_own_affair(engine: EngineUnderTest, text: str) -> None:
    engine.docker("run", "-d", "--name", "strange", "-e", f"GENODE_CONFIG={text}", "dummy")
    assert ended(engine, "strange") == (0, "")
