"""The real docker client over TCP and TLS."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest
from fixtures.certificates import Certificates
from fixtures.engine import EngineUnderTest
from fixtures.terminal import Terminal

Docker = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("needs Debian's openssl")
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture(scope="module")
def engine(need_root: None, certificates: Certificates, address: str) -> Iterator[EngineUnderTest]:
    under_test = EngineUnderTest.start("--host", address, *Certificates.options(certificates.server))
    try:
        yield under_test
    finally:
        under_test.close()


@pytest.fixture
def command(
    engine: EngineUnderTest, busybox: str, docker_client: str, address: str, certificates: Certificates
) -> list[str]:
    return [docker_client, "--host", address, *Certificates.options(certificates.client)]


@pytest.fixture
def docker(engine: EngineUnderTest, command: list[str]) -> Docker:
    environment = {name: value for name, value in engine.environment().items() if name != "DOCKER_HOST"}

    def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, timeout=60, **options
        )

    return run


def test_input_ends_and_output_goes_on(docker: Docker) -> None:
    text = "y" * 300_000
    done = docker("run", "--rm", "-i", "busybox", "sh", "-c", "wc -c; sleep 0.3; echo after", input=text)
    assert (done.returncode, done.stdout) == (0, "300000\nafter\n"), done.stderr


def test_much_output_comes_whole_and_with_its_exit_code(docker: Docker) -> None:
    done = docker("run", "--rm", "busybox", "sh", "-c", "seq 200000; echo e >&2; exit 3")
    assert (done.returncode, done.stderr) == (3, "e\n")
    assert done.stdout == "".join(f"{number}\n" for number in range(1, 200_001))


def test_exec_with_a_terminal_and_detach_keys(docker: Docker, command: list[str]) -> None:
    assert docker("run", "-d", "--name", "box", "busybox", "sleep", "1000").returncode == 0
    environment = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    screen = Terminal([*command, "exec", "-it", "box", "sh"], environment, rows=30, columns=90)
    screen.expect("# ")
    screen.type("stty size; echo $((6*7))\r")
    screen.expect("30 90")
    screen.expect("42")
    screen.type("\x10\x11")
    screen.wait()
    assert docker("exec", "-i", "box", "cat", input="in").stdout == "in"
    assert docker("rm", "-f", "box").returncode == 0


def test_a_stranger_and_a_client_without_tls_are_refused(
    engine: EngineUnderTest, docker_client: str, address: str, certificates: Certificates
) -> None:
    stranger = [docker_client, "--host", address, *Certificates.options(certificates.stranger), "ps"]
    for arguments in (stranger, [docker_client, "--host", address, "ps"]):
        environment = {name: value for name, value in engine.environment().items() if name != "DOCKER_HOST"}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and done.stdout == ""
    assert engine.api("GET", "/_ping")[0] == 200
