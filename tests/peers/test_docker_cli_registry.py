"""Images on their way through a real registry, with credentials, by capsa's and docker's command lines."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest
from fixtures.registry import PASSWORD, USER, registry


@pytest.fixture(scope="module")
def guarded(need_root: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("guarded"), users=True) as address:
        yield address


@pytest.fixture(params=["capsa", "docker"])
def client(request, engine, docker_client):
    return getattr(engine, request.param)


def test_push_and_pull_with_a_login(client, engine, busybox, guarded):
    name = f"{guarded}/team/bb:1"
    client("tag", "busybox", name)
    refused = client("push", name, check=False)
    assert refused.returncode == 1
    assert "wants a user name and password" in refused.stderr
    wrong = client("login", "-u", USER, "--password-stdin", guarded, input="wrong", check=False)
    assert wrong.returncode == 1
    assert "Login Succeeded" in client("login", "-u", USER, "--password-stdin", guarded, input=PASSWORD).stdout
    config = json.loads((engine.base / "docker-config" / "config.json").read_text())
    assert base64.b64decode(config["auths"][guarded]["auth"]).decode() == f"{USER}:{PASSWORD}"
    assert (engine.base / "docker-config" / "config.json").stat().st_mode & 0o077 == 0
    assert "digest: sha256:" in client("push", name).stdout
    client("rmi", name)
    assert "Downloaded newer image" in client("pull", name).stdout
    assert client("run", "--rm", name, "echo", "pulled").stdout == "pulled\n"
    client("rmi", name)
    client("run", "--rm", "--quiet", name, "true")  # pulled on the way
    client("rmi", name)
    client("logout", guarded)
    assert guarded not in json.loads((engine.base / "docker-config" / "config.json").read_text()).get("auths", {})
    assert client("pull", name, check=False).returncode == 1


def test_credentials_from_a_helper(engine, busybox, guarded, tmp_path, monkeypatch):
    helper = tmp_path / "docker-credential-test"
    secret = json.dumps({"ServerURL": guarded, "Username": USER, "Secret": PASSWORD})
    helper.write_text(f"#!/bin/sh\ncat >>{tmp_path}/asked\ncase $1 in get) echo '{secret}' ;; esac\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
    folder = engine.base / "helper-config"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"credsStore": "test", "other": 1}))
    name = f"{guarded}/team/helped:1"
    engine.capsa("tag", "busybox", name)
    assert "digest:" in engine.capsa("--config", str(folder), "push", name).stdout
    engine.capsa("--config", str(folder), "login", "-u", USER, "--password-stdin", guarded, input=PASSWORD)
    asked = (tmp_path / "asked").read_text()
    assert guarded in asked and PASSWORD in asked
    config = json.loads((folder / "config.json").read_text())
    assert config["other"] == 1
    assert PASSWORD not in json.dumps(config) and "auth" not in config["auths"][guarded]


def test_a_registry_that_is_not_there_is_one_sentence(engine):
    done = engine.capsa("pull", "localhost:1/nosuch", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("capsa: the registry localhost:1 cannot be reached")
    assert len(done.stderr.splitlines()) == 1


def test_a_missing_image_is_one_sentence(engine, guarded):
    engine.capsa("login", "-u", USER, "--password-stdin", guarded, input=PASSWORD)
    done = engine.capsa("pull", f"{guarded}/team/nosuch:9", check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    done = engine.capsa("run", "--rm", f"{guarded}/team/nosuch:9", check=False)
    assert done.returncode == 125
