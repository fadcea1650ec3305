"""Where an engine listens: several sockets, TCP with TLS that trusts nobody unknown, sockets of systemd."""

from __future__ import annotations

import grp
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.certificates import Certificates
from fixtures.engine import CAPSA, EngineUnderTest, UnixConnection


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    if shutil.which("openssl") is None:
        pytest.skip("needs Debian's openssl")
    return Certificates(tmp_path_factory.mktemp("certificates"))


def free_port(family: socket.AddressFamily = socket.AF_INET) -> int:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def ports() -> list[int]:
    return [free_port()]


@pytest.fixture(scope="module")
def engine(need_root: None, certificates: Certificates, ports: list[int]) -> Iterator[EngineUnderTest]:
    """One that listens on two unix sockets, of which a group may use both, and on TCP with TLS."""
    group = grp.getgrgid(os.stat("/etc/shadow").st_gid).gr_name
    second = f"/tmp/capsa-second-{os.getpid()}.sock"
    under_test = EngineUnderTest.start(
        "--host", f"unix://{second}", "--host", f"tcp://127.0.0.1:{ports[0]}", "--group", group,
        *Certificates.options(certificates.server),
    )  # fmt: skip
    try:
        yield under_test
    finally:
        under_test.close()
    assert not os.path.exists(second)


def client(port: int, directory: Path) -> list[str]:
    return ["--host", f"tcp://localhost:{port}", *Certificates.options(directory)]


def test_every_socket_serves_the_same_engine_to_its_group(engine: EngineUnderTest) -> None:
    for path in (str(engine.socket), f"/tmp/capsa-second-{os.getpid()}.sock"):
        connection = UnixConnection(path, 20)
        connection.request("GET", "/info")
        assert json.loads(connection.getresponse().read())["DockerRootDir"] == str(engine.root)
        connection.close()
        status = os.stat(path)
        assert status.st_mode & 0o777 == 0o660
        assert status.st_gid == os.stat("/etc/shadow").st_gid


def test_the_command_line_over_tls(
    engine: EngineUnderTest, busybox: str, ports: list[int], certificates: Certificates
) -> None:
    command = [*CAPSA, *client(ports[0], certificates.client)]
    text = "x" * 200_000 + "\n"
    done = subprocess.run(
        [*command, "run", "--rm", "-i", "--network", "none", busybox, "sh", "-c", "wc -c; sleep 0.3; echo after"],
        input=text, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "200001\nafter\n"), done.stderr


def test_only_clients_that_the_authority_signed_are_let_in(
    engine: EngineUnderTest, ports: list[int], certificates: Certificates
) -> None:
    def ping(settings: ssl.SSLContext) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", ports[0]), timeout=20) as raw,
            settings.wrap_socket(raw, server_hostname="localhost") as secure,
        ):
            secure.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return secure.recv(4096)

    def context(directory: Path | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(certificates.client / "ca.pem"))
        made.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if directory is not None:
            made.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        return made

    assert ping(context(certificates.client)).startswith(b"HTTP/1.1 200 ")
    for refused in (None, certificates.stranger):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            ping(context(refused))
    with socket.create_connection(("127.0.0.1", ports[0]), timeout=20) as plain:
        plain.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(4096).startswith(b"HTTP/")
    assert ping(context(certificates.client)).startswith(b"HTTP/1.1 200 ")


def refused(tmp_path: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    """What an engine with these arguments says before it ends."""
    directories = ["--root", str(tmp_path / "root"), "--run", str(tmp_path / "run")]
    done = subprocess.run(
        [*CAPSA, "engine", *directories, *arguments],
        capture_output=True, text=True, timeout=60, env={**os.environ, **(environment or {})},
    )  # fmt: skip
    assert done.returncode in (1, 125), done.stderr
    return done.stderr.splitlines()[-1]


def test_strangers_are_not_let_in_by_mistake(need_root: None, tmp_path: Path) -> None:
    said = refused(tmp_path, "--host", "tcp://0.0.0.0:0")
    assert "everybody who reaches it would be root" in said and "--tls=false" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "nonsense"], "cannot listen on nonsense"),
        (["--host", "unix://relative"], "unix:///PATH is needed"),
        (["--host", "ssh://x"], "cannot listen on ssh://x"),
        (["--host", "fd://"], "no sockets were passed in"),
        (["--host", "tcp://127.0.0.1:99999"], "cannot listen on tcp://127.0.0.1:99999"),
        (["--host", "tcp://127.0.0.1:0", "--tlscert", "/x"], "--tlscert is for TLS: add --tlsverify"),
        (["--host", "tcp://127.0.0.1:0", "--tlsverify", "--tlscert", "/nosuch"], "cannot use the certificate /nosuch"),
        (["--group", "nosuch"], "no such group"),
    ],
)
def test_what_cannot_be_listened_on_is_said_in_one_sentence(
    need_root: None, tmp_path: Path, arguments: list[str], words: str
) -> None:
    said = refused(tmp_path, *arguments)
    assert said.startswith("capsa: ") and words in said


def test_the_group_and_plain_tcp_where_it_was_asked_for(need_root: None) -> None:
    port = free_port(socket.AF_INET6)
    under_test = EngineUnderTest.start("--host", f"tcp://[::]:{port}", "--tls=false")
    try:
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, port), timeout=20) as plain:
                plain.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert plain.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert "insecure" in under_test.log.read_text()
    finally:
        under_test.close()


def test_sockets_that_systemd_opened(need_root: None, tmp_path: Path) -> None:
    """Passed in as sd_listen_fds(3) says; systemd is told when the engine is ready."""
    path, notify = tmp_path / "s", tmp_path / "n"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as word,
    ):
        listener.bind(str(path))
        listener.listen()
        word.bind(str(notify))
        word.settimeout(30)
        shell = 'exec 3<&"$1"; shift; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        directories = ["--root", str(tmp_path / "root"), "--run", str(tmp_path / "run")]
        engine = subprocess.Popen(
            ["bash", "-c", shell, "bash", str(listener.fileno()), *CAPSA, "engine", *directories, "-H", "fd://"],
            pass_fds=[listener.fileno()],
            env={**os.environ, "NOTIFY_SOCKET": str(notify)},
            stderr=subprocess.PIPE,
        )
        try:
            assert word.recv(100) == b"READY=1"
            connection = UnixConnection(str(path), 20)
            connection.request("GET", "/_ping")
            assert connection.getresponse().read() == b"OK"
            connection.close()
        finally:
            engine.terminate()
            assert engine.wait(20) == 0, engine.communicate()[1]
        assert path.exists(), "the socket is systemd's"
        shutil.rmtree(tmp_path / "root")
