"""The image store: names, removal, sharing, commits, and what a crash or a broken image leaves (nothing)."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fixtures.images import docker_archive
from fixtures.imagestore import Store, chunks, open_store, saved

from capsa.errors import BrokenArchive, CapsaError, Conflict, DigestMismatch, InvalidArgument, NotFound
from capsa.image.store import Deleted, Untagged, User
from capsa.oci.image import ContainerConfig

pytestmark = pytest.mark.usefixtures("need_root")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "store") as opened:
        yield opened


def layer(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


BASE = layer(base=b"b" * 100_000, both=b"1" * 5000)
TOP = layer(top=b"t" * 200_000)


def used(store: Store) -> set[str]:
    """All files of the store, but for the database."""
    image = store.folder / "image"
    return {str(path.relative_to(image)) for path in image.rglob("*") if path.is_file() and path.name != "boot"}


async def settled(store: Store) -> None:
    """Wait until plain layers have become recipes."""
    for _ in range(200):
        if not [
            path for path in (store.folder / "image" / "blobs" / "sha256").iterdir() if path.stat().st_size > 50_000
        ]:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("blobs of plain layers stay")


async def test_a_loaded_image_has_configuration_layers_and_history(store: Store) -> None:
    loaded = await store.load(chunks(docker_archive([BASE, TOP], ["foo:1", "foo:2"], {"User": "5"})))
    assert [each.name for each in loaded] == ["foo:1", "foo:2"]
    image = store.resolve("foo:2")
    assert image.names == ("foo:1", "foo:2") and image.size == 305_000
    assert store.config(image.id).config.user == "5"
    assert [sorted(path.name for path in each.iterdir()) for each in store.layers(image.id)] == [
        ["base", "both"],
        ["top"],
    ]
    assert [(step.id, step.size) for step in store.history(image.id)] == [(image.id, 200_000), ("<missing>", 105_000)]
    assert store.list() == [image]


async def test_images_are_found_by_name_digest_and_beginning_of_the_id(store: Store) -> None:
    [loaded, *_] = await store.load(chunks(docker_archive([BASE], ["foo:latest"])))
    digits = loaded.id.removeprefix("sha256:")
    for name in ("foo", "foo:latest", "docker.io/library/foo", loaded.id, digits, digits[:12], "sha256:" + digits[:6]):
        assert store.resolve(name).id == loaded.id
    for name, words in [("bar", "bar:latest"), ("foo:2", "foo:2"), ("sha256:" + "0" * 64, "sha256:" + "0" * 64)]:
        with pytest.raises(NotFound, match=f"^No such image: {words}$"):
            store.resolve(name)
    with pytest.raises(InvalidArgument, match="invalid reference format"):
        store.resolve("a//b")


async def test_an_ambiguous_id_is_refused(store: Store) -> None:
    seen: dict[str, int] = {}
    for number in range(17):
        [loaded] = await store.load(chunks(docker_archive([BASE], [f"foo:{number}"], {"User": str(number)})))
        first = loaded.id.removeprefix("sha256:")[0]
        seen[first] = seen.get(first, 0) + 1
    twice = next(first for first, count in seen.items() if count > 1)
    with pytest.raises(InvalidArgument, match="ambiguous"):
        store.resolve(f"sha256:{twice}")


async def test_names_are_removed_first_and_the_image_with_its_last(store: Store) -> None:
    before = used(store)
    await store.load(chunks(docker_archive([BASE, TOP], ["foo:1"])))
    store.tag("foo:1", "bar:2")
    image = store.resolve("foo:1")
    with pytest.raises(Conflict, match=r"must be forced\) - image is referenced in multiple repositories"):
        await store.remove(image.id)
    assert await store.remove("foo:1") == [Untagged("foo:1")]
    removed = await store.remove(image.id[7:19])
    assert removed[:2] == [Untagged("bar:2"), Deleted(image.id)] and len(removed) == 4
    with pytest.raises(NotFound):
        store.config(image.id)
    assert used(store) == before


async def test_an_image_in_use_stays(store: Store) -> None:
    [loaded] = await store.load(chunks(docker_archive([BASE], ["foo:1"])))
    store.containers[loaded.id] = [User("c" * 64, True)]
    with pytest.raises(
        Conflict, match=r'unable to remove repository reference "foo:1" \(must force\) - container cccccccccccc'
    ):
        await store.remove("foo:1")
    with pytest.raises(Conflict, match=r"cannot be forced\) - image is being used by running container cccccccccccc"):
        await store.remove(loaded.id, force=True)
    store.containers[loaded.id] = [User("c" * 64, False)]
    with pytest.raises(Conflict, match=r"must be forced\) - image is being used by stopped container"):
        await store.remove(loaded.id)
    assert Deleted(loaded.id) in await store.remove(loaded.id, force=True)
    assert store.list() == []
    assert store.config(loaded.id) and store.layers(loaded.id)[0].is_dir()
    del store.containers[loaded.id]
    await store.collect()
    assert not [path for path in used(store) if not path.startswith("tmp")]


async def test_a_layer_is_on_disk_once_and_saved_byte_for_byte(store: Store, tmp_path: Path) -> None:
    await store.load(chunks(docker_archive([BASE, TOP], ["foo:1"])))
    await settled(store)
    archive = await saved(store, "foo:1")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for data in (BASE, TOP):
            member = tar.extractfile(f"blobs/sha256/{hashlib.sha256(data).hexdigest()}")
            assert member and member.read() == data
    image = store.resolve("foo:1")
    async with open_store(tmp_path / "other") as other:
        [loaded] = await other.load(chunks(archive))
        assert (loaded.id, loaded.name) == (image.id, "foo:1")


async def test_a_damaged_file_is_noticed_when_the_image_is_saved(store: Store) -> None:
    await store.load(chunks(docker_archive([TOP], ["foo:1"])))
    await settled(store)
    path = store.layers(store.resolve("foo:1").id)[0] / "top"
    with path.open("r+b") as file:
        file.write(b"x")
    with pytest.raises(DigestMismatch, match="damaged"):
        await saved(store, "foo:1")


async def test_equal_files_of_two_images_are_one(store: Store) -> None:
    await store.load(chunks(docker_archive([layer(a=b"same" * 50_000, x=b"1")], ["foo:1"])))
    await store.load(chunks(docker_archive([layer(b=b"same" * 50_000, x=b"2")], ["foo:2"])))
    one, two = (store.layers(store.resolve(f"foo:{number}").id)[0] for number in (1, 2))
    assert (one / "a").stat().st_ino == (two / "b").stat().st_ino


async def test_a_name_moves_to_the_image_loaded_last(store: Store) -> None:
    [first] = await store.load(chunks(docker_archive([BASE], ["foo:1"])))
    [second] = await store.load(chunks(docker_archive([TOP], ["foo:1"])))
    assert second.renamed == first.id and store.resolve("foo:1").id == second.id
    pruned = await store.prune()
    assert Deleted(first.id) in pruned.removed and pruned.reclaimed > 0
    assert [each.id for each in store.list()] == [second.id]


@pytest.mark.parametrize("packed", ["", "gzip", "zstd"])
async def test_a_root_file_system_is_imported(store: Store, packed: str) -> None:
    data = subprocess.run([packed, "-c"], input=BASE, capture_output=True, check=True).stdout if packed else BASE
    image = await store.import_(chunks(data), "mine:1", changes=['CMD ["a"]', "ENV X=1"], message="why")
    config = store.config(image.id)
    assert config.config.cmd == ["a"] and config.config.env == ["X=1"] and config.history[0].comment == "why"
    assert config.rootfs.diff_ids == ["sha256:" + hashlib.sha256(BASE).hexdigest()]


async def test_a_commit_goes_on_top_and_its_parent_stays_while_it_is_there(store: Store) -> None:
    [base] = await store.load(chunks(docker_archive([BASE], ["foo:1"])))
    child = await store.commit(
        chunks(TOP), name="foo:2", parent=base.id, config=ContainerConfig(cmd=["x"]), author="me"
    )
    assert len(store.layers(child.id)) == 2 and child.parent == base.id
    assert store.history(child.id)[1].created_by == "test"
    with pytest.raises(Conflict, match=r"cannot be forced\) - image has dependent child images"):
        await store.remove(base.id, force=True)
    assert list(await store.remove("foo:1")) == [Untagged("foo:1")]
    assert {Deleted(child.id), Deleted(base.id)} <= set(await store.remove("foo:2"))


async def test_a_broken_image_leaves_nothing(store: Store) -> None:
    before = used(store)
    wrong = docker_archive([BASE, TOP], ["foo:1"]).replace(b"t" * 1000, b"u" * 1000, 1)
    for data, error in [
        (wrong, DigestMismatch),
        (wrong[:250_000], BrokenArchive),
        (docker_archive([b"x" * 9000], ["a:1"]), BrokenArchive),
    ]:
        with pytest.raises(error):
            await store.load(chunks(data))
    assert store.list() == [] and used(store) == before


async def test_a_client_that_goes_away_leaves_nothing(store: Store) -> None:
    before = used(store)
    data = docker_archive([TOP], ["foo:1"])

    async def endless() -> AsyncIterator[bytes]:
        yield data[:100_000]
        await asyncio.sleep(3600)

    task = asyncio.ensure_future(store.load(endless()))
    await asyncio.sleep(0.3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert used(store) == before

    async def broken() -> AsyncIterator[bytes]:
        yield data[:100_000]
        raise ConnectionError("gone")

    with pytest.raises((ConnectionError, CapsaError)):
        await store.load(broken())
    assert used(store) == before


async def test_after_a_crash_half_done_work_is_gone_and_images_are_whole(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as store:
        [kept] = await store.load(chunks(docker_archive([BASE], ["foo:1"])))
        [lost] = await store.load(chunks(docker_archive([TOP], ["foo:2"])))
        await settled(store)
        image = store.folder / "image"
        files = used(store)
        (image / "tmp" / "blob-0123").write_bytes(b"half")
        (image / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"orphan")
    async with open_store(tmp_path / "store") as store:
        assert {each for each in used(store) if not each.endswith("unsettled")} <= files
        assert {each.id for each in store.list()} == {kept.id, lost.id}
        (image / "blobs" / "sha256" / lost.id[7:]).write_bytes(b"{}")
    async with open_store(tmp_path / "store") as store:
        assert [each.id for each in store.list()] == [kept.id]


async def test_what_had_not_reached_the_disk_before_a_power_failure_is_dropped(tmp_path: Path) -> None:
    async with open_store(tmp_path / "store") as store:
        await store.load(chunks(docker_archive([BASE], ["foo:1"])))
        await settled(store)
        assert store._catalog.unsettled()
    (tmp_path / "store" / "image" / "boot").write_text("another boot")
    async with open_store(tmp_path / "store") as store:
        assert store.list() == []


async def test_two_loads_of_the_same_image_at_once_are_one(store: Store) -> None:
    data = docker_archive([BASE, TOP], ["foo:1"])
    results = await asyncio.gather(*[store.load(chunks(data)) for _ in range(4)])
    assert len({each[0].id for each in results}) == 1 and len(store.list()) == 1


async def test_a_repository_without_tag_is_saved_with_all_its_tags(store: Store) -> None:
    await store.load(chunks(docker_archive([BASE], ["foo:1", "foo:2", "foobar:1"])))
    with tarfile.open(fileobj=io.BytesIO(await saved(store, "foo"))) as tar:
        member = tar.extractfile("manifest.json")
        assert member and json.load(member)[0]["RepoTags"] == ["foo:1", "foo:2"]
    with pytest.raises(NotFound, match="No such image: none:latest"):
        await saved(store, "none")


async def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "capsa-test", str(tmp_path / "small")], check=True)
    try:
        async with open_store(tmp_path / "small") as store:
            before = used(store)
            with pytest.raises(CapsaError, match="no space left on device"):
                await store.load(chunks(docker_archive([layer(big=b"x" * 4_000_000)], ["foo:1"])))
            twice = gzip.compress(layer(big=os.urandom(2_000_000)))  # as a blob and unpacked
            with pytest.raises(CapsaError, match="no space left on device"):
                await store.load(chunks(docker_archive([twice], ["foo:1"])))
            assert store.list() == [] and used(store) == before
            await store.load(chunks(docker_archive([layer(big=b"x" * 2_000_000)], ["foo:1"])))
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)
