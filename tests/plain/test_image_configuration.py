"""What people write about images: changes, credentials, apt's sources."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from capsa.errors import CapsaError, InvalidArgument, Unsupported
from capsa.image.changes import apply
from capsa.image.credentials import Credentials, from_header, stored, to_header
from capsa.image.debian import Source, choose, make_debian, sources
from capsa.oci.image import ContainerConfig


def test_changes_are_dockerfile_instructions() -> None:
    config = ContainerConfig(env=["A=1", "B=2"])
    apply(
        config,
        [
            'CMD ["a", "b"]',
            "entrypoint run me",
            'ENV A=3 C="x y"',
            "ENV D some words",
            "LABEL k=v other='a b'",
            "EXPOSE 80 53/udp 8000-8002",
            "VOLUME /a /b",
            'VOLUME ["/c d"]',
            "USER 1:2",
            "WORKDIR /srv",
            "WORKDIR sub",
            "STOPSIGNAL SIGQUIT",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl x",
            "ONBUILD RUN x",
        ],
    )
    assert config.cmd == ["a", "b"] and config.entrypoint == ["/bin/sh", "-c", "run me"]
    assert config.env == ["B=2", "A=3", "C=x y", "D=some words"]
    assert config.labels == {"k": "v", "other": "a b"}
    assert sorted(config.exposed_ports) == ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]
    assert sorted(config.volumes) == ["/a", "/b", "/c d"]
    assert (config.user, config.working_dir, config.stop_signal) == ("1:2", "/srv/sub", "SIGQUIT")
    assert config.healthcheck and config.healthcheck.test == ["CMD-SHELL", "curl x"]
    assert config.healthcheck.interval == 90 * 10**9 and config.healthcheck.retries == 3


@pytest.mark.parametrize(
    "change",
    [
        "RUN x",
        "ENV",
        "ENV A",
        "EXPOSE 0",
        "EXPOSE 70000",
        "EXPOSE x",
        "LABEL k",
        "ENV 'a",
        "SHELL x",
        "HEALTHCHECK x",
        "HEALTHCHECK --retries=x CMD y",
        "HEALTHCHECK --interval=5 CMD y",
    ],
)
def test_a_change_that_cannot_be_is_quoted(change: str) -> None:
    with pytest.raises(InvalidArgument, match="the change"):
        apply(ContainerConfig(), [change])


def test_credentials_survive_the_header() -> None:
    for credentials in (Credentials("u", "p:ü"), Credentials(identity_token="x"), Credentials(registry_token="y")):
        assert from_header(to_header(credentials, "docker.io")) == credentials
    assert not from_header("") and not from_header(base64.b64encode(b"{}").decode())
    with pytest.raises(InvalidArgument, match="X-Registry-Auth"):
        from_header("!!!")
    assert "secret" not in repr(Credentials("u", "secret"))


def config(folder: Path, document: object) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(document))
    return path


async def test_what_docker_login_kept_is_found(tmp_path: Path) -> None:
    auth = base64.b64encode(b"user:pass:word").decode()
    path = config(
        tmp_path, {"auths": {"https://index.docker.io/v1/": {"auth": auth}, "https://h.example/v2/": {"auth": auth}}}
    )
    assert await stored("docker.io", path) == Credentials("user", "pass:word")
    assert await stored("h.example", path) == Credentials("user", "pass:word")
    assert not await stored("other.example", path)
    assert not await stored("other.example", tmp_path / "none.json")


async def test_a_helper_is_asked_and_its_failures_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-test"
    helper.write_text(
        "#!/bin/sh\nread server\n"
        'case "$1 $server" in\n'
        '"get h.example") echo \'{"Username":"u","Secret":"s"}\';;\n'
        '"get t.example") echo \'{"Username":"<token>","Secret":"s"}\';;\n'
        '"get none.example") echo "credentials not found in native keychain"; exit 1;;\n'
        "*) echo broken; exit 1;;\nesac\n"
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = config(tmp_path, {"credsStore": "test", "credHelpers": {"x.example": "missing"}})
    assert await stored("h.example", path) == Credentials("u", "s")
    assert await stored("t.example", path) == Credentials(identity_token="s")
    assert not await stored("none.example", path)
    with pytest.raises(CapsaError, match="docker-credential-test failed: broken"):
        await stored("bad.example", path)
    with pytest.raises(CapsaError, match="docker-credential-missing is not installed"):
        await stored("x.example", path)


@pytest.mark.parametrize(
    "document", ["", [], {"auths": {"h.example": {"auth": "!"}}}, {"auths": 5}, {"credHelpers": {"h.example": "../x"}}]
)
async def test_a_malformed_configuration_is_named(tmp_path: Path, document: object) -> None:
    path = config(tmp_path, document)
    with pytest.raises(InvalidArgument):
        await stored("h.example", path)


def apt(folder: Path) -> Path:
    (folder / "sources.list.d").mkdir()
    (folder / "sources.list").write_text(
        "# deb http://old.example/debian bookworm main\n"
        "deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # local\n"
        "deb-src http://mirror.example/debian bookworm main\n"
    )
    (folder / "sources.list.d" / "a.sources").write_text(
        "Types: deb deb-src\nURIs: http://sec.example/security\nSuites: bookworm-security\nComponents: main\n"
        "Signed-By:\n -----BEGIN\n\nTypes: deb\nEnabled: no\n"
        "URIs: http://off.example\nSuites: bookworm\nComponents: main\n"
    )
    (folder / "sources.list.d" / "third.list").write_text("deb https://third.example/x nodistro main\n")
    return folder


def test_the_machines_own_mirror_is_used(tmp_path: Path) -> None:
    known = sources(apt(tmp_path))
    assert choose(known, "bookworm", "bookworm") == [
        Source("http://mirror.example/debian", "bookworm", ("main",), "arch=amd64 signed-by=/k.gpg"),
        Source("http://sec.example/security", "bookworm-security", ("main",)),
    ]
    assert [(each.uri, each.suite) for each in choose(known, "sid", "bookworm")] == [
        ("http://mirror.example/debian", "sid")
    ]
    with pytest.raises(Unsupported, match="no Debian mirror"):
        choose([Source("https://third.example/x", "nodistro", ("main",))], "bookworm", "bookworm")


def test_impossible_names_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "mmdebstrap"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidArgument, match="suite"), make_debian("x:1", suite="--evil"):
        pass
    with pytest.raises(InvalidArgument, match="package"), make_debian("x:1", suite="sid", include=["a,--b"]):
        pass
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Unsupported, match="apt-get install mmdebstrap"), make_debian("x:1"):
        pass
