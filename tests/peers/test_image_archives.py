"""Archives that go to and come from skopeo and a real dockerd."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fixtures.images import busybox_layer, docker_archive
from fixtures.imagestore import Store, chunks, open_store, saved
from fixtures.registry import need, skopeo

pytestmark = pytest.mark.usefixtures("need_root")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture(scope="module")
def image() -> bytes:
    return docker_archive([busybox_layer(need("busybox", "busybox-static"))], ["foo/bar:1", "foo/bar:2"])


@pytest.mark.parametrize(
    "form", ["oci:{}/x:foo/bar:1", "oci-archive:{}/x.tar:foo/bar:1", "docker-archive:{}/x.tar:foo/bar:1"]
)
async def test_skopeo_reads_ours_and_we_read_its(store: Store, image: bytes, tmp_path: Path, form: str) -> None:
    await store.load(chunks(image))
    ours = tmp_path / "ours.tar"
    ours.write_bytes(await saved(store, "foo/bar:1"))
    skopeo("copy", f"docker-archive:{ours}:foo/bar:1", form.format(tmp_path))
    [loaded] = await store.load(tmp_path / ("x" if form.startswith("oci:") else "x.tar"))
    assert loaded.name == "foo/bar:1"
    files = sorted(path.name for path in store.layers(loaded.id)[0].iterdir())
    assert files == ["bin", "etc", "root", "tmp", "usr", "var"]


async def test_skopeo_reads_ours_as_an_oci_archive(store: Store, image: bytes, tmp_path: Path) -> None:
    await store.load(chunks(image))
    ours = tmp_path / "ours.tar"
    ours.write_bytes(await saved(store, "foo/bar:1"))
    skopeo("copy", f"oci-archive:{ours}", f"oci:{tmp_path}/y:1")
    layout = json.loads((tmp_path / "y" / "index.json").read_text())
    assert layout["manifests"][0]["digest"]


@pytest.fixture(scope="module")
def dockerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The docker command with a private dockerd behind it."""
    program = need("dockerd", "docker.io")
    need("containerd", "containerd")
    docker = need("docker", "docker.io")
    folder = tmp_path_factory.mktemp("dockerd")
    host = f"unix://{folder}/docker.sock"
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [
            *(program, f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--host={host}"),
            *(f"--pidfile={folder}/pid", "--iptables=false", "--ip6tables=false", "--bridge=none"),
            "--storage-driver=vfs",
        ],
        stdout=log,
        stderr=log,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    command = [docker, f"--host={host}"]
    try:
        deadline = time.monotonic() + 60
        while subprocess.run([*command, "version"], capture_output=True).returncode:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-2000:]
            time.sleep(0.2)
        yield command
    finally:
        process.terminate()
        process.wait(60)
        log.close()
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if line.split()[4].startswith(str(folder)):
                subprocess.run(["umount", line.split()[4]], check=False)


async def test_docker_loads_what_we_save_and_we_load_what_it_saves(
    store: Store, image: bytes, dockerd: list[str], tmp_path: Path
) -> None:
    await store.load(chunks(image))
    ours, its = tmp_path / "ours.tar", tmp_path / "its.tar"
    ours.write_bytes(await saved(store, "foo/bar"))
    said = subprocess.run([*dockerd, "load", "-i", str(ours)], capture_output=True, text=True, check=True).stdout
    assert "Loaded image: foo/bar:1" in said and "Loaded image: foo/bar:2" in said
    id = store.resolve("foo/bar:1").id
    seen = subprocess.run(
        [*dockerd, "image", "inspect", "foo/bar:2", "--format", "{{.Id}}"], capture_output=True, text=True, check=True
    )
    assert seen.stdout.strip() == id
    subprocess.run([*dockerd, "save", "-o", str(its), "foo/bar:1", "foo/bar:2"], check=True)
    async with open_store(tmp_path / "other") as other:
        loaded = await other.load(its)
        assert {(each.name, each.id) for each in loaded} == {("foo/bar:1", id), ("foo/bar:2", id)}
