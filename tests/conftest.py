"""What the tests share: a real engine, images for it, the docker client, and the watch over what tests leave behind."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fixtures import guest, images, leaks
from fixtures.bundle import Bundle
from fixtures.engine import EngineUnderTest
from fixtures.files import Create, Files
from fixtures.world import World, apart

MANY = 1000  # tests: so many are everything
CACHE = Path(__file__).parent.parent / ".cache"

# A shell starts what runs in its background with SIGINT ignored, and programs hand that on; some of ours are sent one.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-leak-check",
        action="store_true",
        help="do not look for what is left behind (other engines are at work on this machine)",
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """In a run of everything, the virtual machines (the ``GUEST`` of a module) work while other tests do."""
    if len(session.items) > MANY and not session.config.option.collectonly:
        modules = {item.module.__name__: item.module for item in session.items if isinstance(item, pytest.Function)}
        for name in sorted(modules, reverse=True):  # the longest is the last in the order of tests
            if wanted := getattr(modules[name], "GUEST", None):
                guest.begin(*wanted)


def pytest_sessionfinish() -> None:
    """No virtual machine outlives the tests."""
    guest.end()


@pytest.fixture(scope="module", autouse=True)
def leak_check(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the module whose tests leave something on the machine. Set up first, so it looks last."""
    plain = "plain" in Path(request.node.path).parts
    if plain or request.config.getoption("--no-leak-check"):
        yield
        return
    before = leaks.snapshot()
    yield
    left = leaks.left_since(before, patience=15)
    assert not left, f"{request.node.path.name} left behind:\n  " + "\n  ".join(left)


@pytest.fixture(scope="session")
def need_root() -> None:
    """Skips without root."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="module")
def engine(need_root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineUnderTest]:
    """A real engine with directories of its own; it and its containers are gone after the module's tests."""
    under_test = EngineUnderTest.start()
    try:
        yield under_test
    finally:
        under_test.close()


@pytest.fixture(scope="module")
def busybox(engine: EngineUnderTest) -> str:
    """An image of busybox alone, `busybox:latest`."""
    program = shutil.which("busybox", path="/bin:/usr/bin")
    if program is None:
        pytest.skip("needs Debian's busybox-static")
    engine.load(images.busybox_archive(program))
    return "busybox:latest"


@pytest.fixture
def files(engine: EngineUnderTest, busybox: str) -> Iterator[Create]:
    """Makes containers of busybox whose files are looked at: `files("sleep 9", start=True, HostConfig={...})`."""
    made = []

    def create(*arguments: object, **wanted: object) -> Files:
        made.append(Files.create(engine, *arguments, **wanted))  # type: ignore[arg-type]
        return made[-1]

    yield create
    for each in made:
        each.remove()


@pytest.fixture(scope="session")
def debian_archive(need_root: None) -> Path:
    """A minimal Debian of this machine's own release as a `docker save` archive; made once and kept."""
    if shutil.which("mmdebstrap") is None:
        pytest.skip("needs Debian's mmdebstrap")
    return images.debian_archive(CACHE)


@pytest.fixture(scope="module")
def debian(engine: EngineUnderTest, debian_archive: Path) -> str:
    """An image of a minimal Debian, `debian:latest`."""
    engine.capsa("load", "-i", str(debian_archive), timeout=180)
    return "debian:latest"


@pytest.fixture(scope="session")
def docker_client() -> str:
    """The path of the real docker client."""
    found = shutil.which("docker")
    if found is None:
        pytest.skip("needs the docker client (Debian's docker-cli or docker.io)")
    return found


@pytest.fixture
def docker(engine: EngineUnderTest, docker_client: str) -> Callable[..., object]:
    """Runs the real docker client with the engine: `docker("run", "--rm", ...)` gives a CompletedProcess."""
    return engine.docker


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Bundle]:
    """A bundle of busybox; nothing of it is mounted on the host afterwards."""
    yield Bundle(tmp_path)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A host of its own, with real bridges, rules and traffic."""
    with apart(tmp_path) as made:
        yield made
