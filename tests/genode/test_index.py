"""One name for two platforms: an image index in a real registry, from which each gets its own image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from fixtures import genode
from fixtures.engine import EngineUnderTest
from fixtures.genode import config
from fixtures.images import busybox_layer, docker_archive
from fixtures.registry import registry
from fixtures.wait import until

LASTING = config("+ log | string: up", "+ sleep | ms: 600000")
HELLO = config("+ log | string: from genode", "+ exit")


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("dummy")
    program = shutil.which("busybox", path="/bin:/usr/bin")
    if program is None:
        pytest.skip("needs busybox")
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        genode.import_image(under_test, "native", "dummy", "dummy")
        layer = busybox_layer(program)
        under_test.load(docker_archive([layer], ["linux:latest"], {"Cmd": ["sleep", "600"], "Env": ["PATH=/bin"]}))
        yield under_test
    finally:
        under_test.close()


@pytest.fixture(scope="module")
def name(engine: EngineUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An index of both in a registry, put there by docker's client; nothing of it is left in the engine."""
    with registry(tmp_path_factory.mktemp("registry")) as address:
        found = f"{address}/team/both:1"
        parts = [f"{address}/team/both:{each}" for each in ("linux", "native")]
        for image, part in zip(("linux", "native"), parts, strict=True):
            engine.docker("tag", image, part)
            assert "digest: sha256:" in engine.docker("push", part).stdout
        engine.docker("manifest", "create", "--insecure", found, *parts)
        engine.docker("manifest", "push", "--insecure", found)
        engine.docker("rmi", *parts, "linux", "native")
        yield found


def test_each_platform_gets_its_image_of_the_index(engine: EngineUnderTest, name: str) -> None:
    index = json.loads(engine.docker("manifest", "inspect", "--insecure", name).stdout)
    platforms = {(each["platform"]["os"], each["platform"]["architecture"]) for each in index["manifests"]}
    assert platforms == {("genode", "amd64"), ("linux", "amd64")}

    done = engine.docker("run", "--rm", "--platform", "genode/amd64", "-e", HELLO, name)
    assert done.stdout == "from genode\n" and "Pulling from team/both" in done.stderr
    assert engine.docker("image", "inspect", "-f", "{{.Os}}", name).stdout == "genode\n"
    done = engine.docker("run", "--rm", "--platform", "linux/amd64", "--network", "none", name, "echo", "from linux")
    assert done.stdout == "from linux\n" and "Pulling from team/both" in done.stderr

    engine.docker("run", "-d", "--name", "native", "--platform", "genode/amd64", "-e", LASTING, name)
    engine.docker("run", "-d", "--name", "linux", "--platform", "linux/amd64", "--network", "none", name)
    until(lambda: engine.docker("logs", "native").stdout == "up\n")
    listed = engine.docker("ps", "--format", "{{.Names}} {{.State}}").stdout.splitlines()
    assert sorted(listed) == ["linux running", "native running"]
    assert engine.docker("inspect", "-f", "{{.Platform}} {{.Config.Image}}", "native", "linux").stdout.splitlines() == [
        f"genode {name}",
        f"linux {name}",
    ]
    engine.docker("restart", "-t", "0", "native", "linux")
    until(lambda: engine.docker("logs", "native").stdout == "up\nup\n")
    engine.docker("rm", "-f", "native", "linux")


def test_without_a_platform_it_is_the_one_of_this_machine(engine: EngineUnderTest, name: str) -> None:
    engine.docker("rmi", "-f", name, check=False)
    engine.docker("pull", name)
    assert engine.docker("image", "inspect", "-f", "{{.Os}}", name).stdout == "linux\n"


def test_a_platform_that_the_index_lacks_is_refused(engine: EngineUnderTest, name: str) -> None:
    done = engine.docker("pull", "--platform", "genode/arm64", name, check=False)
    assert done.returncode and "genode/arm64" in done.stderr
