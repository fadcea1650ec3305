"""Pull and push with a real registry, and with skopeo at its other side."""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.images import ARCHITECTURES, docker_archive
from fixtures.imagestore import Store, chunks, open_store, saved
from fixtures.registry import PASSWORD, USER, made_up, manifest_of, registry, skopeo

from capsa.errors import Forbidden, NotFound, Unauthorized, Unavailable
from capsa.image.credentials import Credentials


def layer(name: str, size: int = 100_000) -> bytes:
    import io
    import random
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = size
        tar.addfile(entry, io.BytesIO(random.Random(name).randbytes(size)))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("guarded"), users=True) as address:
        yield address


@pytest.fixture
async def store(need_root: None, tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "store") as opened:
        yield opened


async def test_an_image_pushed_and_pulled_is_the_same_image(store: Store, host: str, tmp_path: Path) -> None:
    await store.load(chunks(docker_archive([layer("a"), layer("b", 20_000_000)], [f"{host}/team/app:1"])))
    image = store.resolve(f"{host}/team/app:1")
    told: list[dict[str, Any]] = []
    digest = await store.push(f"{host}/team/app:1", progress=told.append)
    assert f"1: digest: {digest} size: {told[-1]['aux']['Size']}" in [each.get("status") for each in told]
    assert store.resolve(image.id).digests == (f"{host}/team/app@{digest}",)
    async with open_store(tmp_path / "other") as other:
        pulled = await other.pull(f"{host}/team/app:1")
        assert pulled.id == image.id
        assert pulled.names == (f"{host}/team/app:1",)
        assert (await other.pull(f"{host}/team/app@{digest}")).id == image.id
        assert other.resolve(f"{host}/team/app@{digest}").id == image.id
        assert [path.name for path in other.layers(image.id)[0].iterdir()] == ["a"]


async def test_a_second_push_sends_nothing_and_a_neighbour_is_mounted(store: Store, host: str) -> None:
    await store.load(chunks(docker_archive([layer("c")], [f"{host}/first/app:1"])))
    await store.push(f"{host}/first/app:1")
    told: list[dict[str, Any]] = []
    await store.push(f"{host}/first/app:1", progress=told.append)
    assert "Layer already exists" in [each.get("status") for each in told]
    store.tag(f"{host}/first/app:1", f"{host}/second/app:1")
    told.clear()
    await store.push(f"{host}/second/app:1", progress=told.append)
    assert "Mounted from first/app" in [each.get("status") for each in told]


async def test_skopeo_reads_what_was_pushed_and_the_digests_agree(store: Store, host: str, tmp_path: Path) -> None:
    await store.load(chunks(docker_archive([layer("d")], [f"{host}/s/read:1"])))
    digest = await store.push(f"{host}/s/read:1")
    seen = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{host}/s/read:1"))
    assert seen["Digest"] == digest
    skopeo("copy", "--src-tls-verify=false", f"docker://{host}/s/read:1", f"oci:{tmp_path}/layout:x")


@pytest.mark.parametrize("form", ["oci", "v2s2"])
async def test_what_skopeo_pushed_is_pulled_and_saved_with_its_digest(
    store: Store, host: str, tmp_path: Path, form: str
) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(docker_archive([layer("e"), layer("f")], ["skopeo/app:1"]))
    target = f"docker://{host}/skopeo/{form}:1"
    skopeo("copy", "--dest-tls-verify=false", f"--format={form}", f"docker-archive:{archive}", target)
    digest = json.loads(skopeo("inspect", "--tls-verify=false", target))["Digest"]
    told: list[dict[str, Any]] = []
    image = await store.pull(f"{host}/skopeo/{form}:1", progress=told.append)
    assert image.digests == (f"{host}/skopeo/{form}@{digest}",)
    states = [each["status"] for each in told]
    assert states[0] == f"Pulling from skopeo/{form}"
    assert states[-2:] == [f"Digest: {digest}", f"Status: Downloaded newer image for {host}/skopeo/{form}:1"]
    assert {"Pulling fs layer", "Download complete", "Pull complete"} <= set(states)
    out = tmp_path / "saved.tar"
    out.write_bytes(await saved(store, f"{host}/skopeo/{form}:1"))
    source = f"oci-archive:{out}:1" if form == "oci" else f"docker-archive:{out}:{host}/skopeo/{form}:1"
    assert len(json.loads(skopeo("inspect", "--raw", source))["layers"]) == 2
    assert await store.push(f"{host}/skopeo/{form}:1") == digest
    told.clear()
    await store.pull(f"{host}/skopeo/{form}:1", progress=told.append)
    assert told[-1]["status"] == f"Status: Image is up to date for {host}/skopeo/{form}:1"


async def test_tags_are_listed(store: Store, host: str) -> None:
    await store.load(chunks(docker_archive([layer("g")], [f"{host}/many/tags:{number}" for number in range(5)])))
    for number in range(5):
        await store.push(f"{host}/many/tags:{number}")
    assert sorted(await store.tags(f"{host}/many/tags")) == ["0", "1", "2", "3", "4"]


async def test_what_is_not_there_is_said_and_leaves_nothing(store: Store, host: str) -> None:
    with pytest.raises(NotFound, match=rf"manifest for {host}/no/such:1 not found"):
        await store.pull(f"{host}/no/such:1")
    with pytest.raises(NotFound, match="An image does not exist locally with the tag: foo"):
        await store.push("foo")
    with pytest.raises(Unavailable, match=r"cannot connect to 127\.0\.0\.1:1: connect.*failed"):
        await store.pull("127.0.0.1:1/foo")
    assert not list((store.folder / "image" / "blobs" / "sha256").iterdir())


async def test_a_password_is_asked_for_and_checked(store: Store, guarded: str) -> None:
    await store.load(chunks(docker_archive([layer("h")], [f"{guarded}/p/app:1"])))
    with pytest.raises(Unauthorized, match="wants a user name and password"):
        await store.push(f"{guarded}/p/app:1")
    with pytest.raises((Unauthorized, Forbidden), match=r"refuses access|denied"):
        await store.push(f"{guarded}/p/app:1", auth=Credentials(USER, "wrong"))
    digest = await store.push(f"{guarded}/p/app:1", auth=Credentials(USER, PASSWORD))
    await store.login(f"http://{guarded}/v1/", Credentials(USER, PASSWORD))
    with pytest.raises(Unauthorized):
        await store.login(guarded, Credentials(USER, "wrong"))
    with pytest.raises(Unauthorized):
        await store.pull(f"{guarded}/p/app:1")
    image = await store.pull(f"{guarded}/p/app:1", auth=Credentials(USER, PASSWORD))
    assert image.digests == (f"{guarded}/p/app@{digest}",)


async def test_a_layer_is_unpacked_while_others_are_on_their_way(store: Store) -> None:
    layers = [layer("i"), layer("j")]
    first, last = [hashlib.sha256(each).hexdigest() for each in layers]
    config = json.dumps(
        {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{first}", f"sha256:{last}"]},
        }
    ).encode()
    blobs = {hashlib.sha256(each).hexdigest(): each for each in (config, *layers)}
    go_on = threading.Event()

    def asked(path: str) -> None:
        if path.endswith(last):
            go_on.wait(60)

    with made_up(blobs, manifest_of(config, layers), asked) as address:
        pull = asyncio.ensure_future(store.pull(f"{address}/slow/app:1"))
        try:
            async with asyncio.timeout(50):
                while not (store.folder / "image" / "layers" / first / "layer.json").exists():
                    await asyncio.sleep(0.02)
            assert not pull.done()
        finally:
            go_on.set()
        image = await pull
    assert [[path.name for path in each.iterdir()] for each in store.layers(image.id)] == [["i"], ["j"]]
