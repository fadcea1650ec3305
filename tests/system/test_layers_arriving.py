"""Layers that are unpacked while they arrive: what is written again from them, and what breaks off, stalls or lies."""

from __future__ import annotations

import asyncio
import io
import itertools
import os
import re
import resource
import signal
import tarfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fixtures import processes, tars
from fixtures.images import docker_archive
from fixtures.imagestore import Store, chunks, open_store, saved
from fixtures.layers import left_over, mounted, names
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capsa.errors import BrokenArchive, CapsaError, DigestMismatch
from capsa.image.arrivals import Arrivals
from capsa.image.layers import LayerStore
from capsa.image.limits import Limits
from capsa.image.progress import Meter, silent
from capsa.image.workers import Workers
from capsa.oci.image import OCI_LAYER_GZIP

pytestmark = pytest.mark.usefixtures("need_root")

BIG = os.urandom(300_000)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with open_store(tmp_path / "store") as opened:
        yield opened


def used(store: Store) -> set[str]:
    image = store.folder / "image"
    return {str(path.relative_to(image)) for path in image.rglob("*") if path.is_file() and path.name != "boot"}


def blobs(store: Store) -> list[int]:
    return sorted(path.stat().st_size for path in (store.folder / "image" / "blobs" / "sha256").iterdir())


def written_again(root: Path, archive: bytes, piece: int = 1 << 20) -> tuple[bytes, int]:
    """The archive as its recipe gives it after it was unpacked from pieces of that size; the recipe's size in bytes."""

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(piece if size is None or size < 0 else min(size, piece))

    layers = LayerStore(root)
    announced: list[str] = []
    layer = layers.unpack(Slow(archive), announce=announced.append)
    assert announced == [layer.diff_id] == [tars.diff_id(archive)] and left_over(layers) == []
    return b"".join(layers.recipes.read(layer.diff_id, layer.path)), layers.recipes.path(layer.diff_id).stat().st_size


CASES = {
    "files": [tars.directory(b"d"), tars.file(b"d/a", BIG), tars.file(b"d/b", b"b" * 1000), tars.file(b"e")],
    "a file that a later one replaces": [
        tars.file(b"a", BIG),
        tars.file(b"b", b"b" * 700),
        tars.file(b"a", b"n" * 900),
    ],
    "a file that becomes a directory": [tars.file(b"a", BIG), tars.directory(b"a"), tars.file(b"a/b", BIG[::-1])],
    "below what a link replaces": [tars.directory(b"d"), tars.file(b"d/f", BIG), tars.symlink(b"d", b"elsewhere")],
    "through a link": [tars.directory(b"d"), tars.symlink(b"l", b"d"), tars.file(b"l/f", BIG)],
    "through a link that is gone later": [
        *(tars.directory(b"d"), tars.symlink(b"l", b"d"), tars.file(b"l/f", BIG)),
        *(tars.directory(b"l"), tars.file(b"l/f", b"other" * 200)),
    ],
    "a file that a hard link replaces": [tars.file(b"a", BIG), tars.file(b"b", b"b" * 600), tars.hard_link(b"b", b"a")],
    "the same file once more": [tars.file(b"a", BIG), tars.file(b"a", BIG)],
    "content of aufs and of whiteouts": [tars.file(b".wh..wh.plnk", BIG), tars.file(b"d/.wh.x", b"x" * 999)],
    "names with dots": [tars.file(b"./a/../b", BIG), tars.file(b"./c//d", BIG[:5000])],
    "an odd end": [tars.file(b"a", BIG), b"\0" * 1024, os.urandom(70_000)],
    "no end": [tars.file(b"a", BIG)],
    "old GNU sparse": [
        tars.header(
            b"s",
            b"S",
            size=1024,
            magic=b"ustar  \0",
            raw={386: b"%011o\0" % 512 + b"%011o\0" % 1024, 483: b"%011o" % 9999},
        )
        + os.urandom(1024),
        tars.file(b"a", BIG),
    ],
    "long names": [
        tars.gnu_long(b"n" * 200),
        tars.file(b"n", BIG),
        tars.pax([(b"path", b"p" * 150)]),
        tars.file(b"p", BIG),
    ],
    "longer than the kernel takes names": [tars.pax([(b"path", b"./" * 2047 + b"ab")]), tars.file(b"p", BIG)],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("piece", [1 << 20, 4096, 77])
def test_what_arrived_is_written_again_byte_for_byte(case: str, piece: int, tmp_path: Path) -> None:
    archive = b"".join(CASES[case])
    archive = archive if case in ("an odd end", "no end") else archive + bytes(1024)
    again, size = written_again(tmp_path, archive, piece)
    assert again == archive
    if case in ("files", "the same file once more", "long names"):
        assert size < 5000  # the content is in the files


def test_entries_that_replace_each_other_are_not_remembered_without_end(tmp_path: Path) -> None:
    """The tree counts their name once; of contents beyond as many as a layer may have, the recipe has the bytes."""
    archive = tars.archive(*[tars.file(b"f", BIG)] * 5)
    sizes = []
    for most in (3, 5):
        layers = LayerStore(tmp_path / str(most), Limits(entries=most))
        layer = layers.unpack(io.BytesIO(archive), announce=lambda diff_id: None)
        assert b"".join(layers.recipes.read(layer.diff_id, layer.path)) == archive
        sizes.append(layers.recipes.path(layer.diff_id).stat().st_size)
    assert sizes[0] > len(BIG) > sizes[1]


_name = st.lists(st.sampled_from([b"a", b"b", b"c", b".", b".wh.a", b".wh..wh..opq"]), min_size=1, max_size=3).map(
    b"/".join
)
_entry = st.one_of(
    st.builds(tars.file, _name, st.sampled_from([b"", b"x" * 511, b"y" * 512, b"z" * 5000, BIG[:4096]])),
    st.builds(tars.directory, _name),
    st.builds(tars.symlink, _name, _name),
    st.builds(tars.hard_link, _name, _name),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(entries=st.lists(_entry, max_size=12), piece=st.sampled_from([100, 512, 3000, 1 << 20]))
def test_so_is_whatever_can_be_unpacked(tmp_path: Path, entries: list[bytes], piece: int) -> None:
    archive = tars.archive(*entries)
    try:
        again, _ = written_again(tmp_path / str(next(_numbers)), archive, piece)
    except BrokenArchive:
        return
    assert again == archive


_numbers: Iterator[int] = itertools.count()


async def test_a_loaded_layer_never_is_a_blob(store: Store) -> None:
    layers = [tars.archive(tars.file(b"f", BIG)), tars.archive(tars.file(b"g", BIG), tars.file(b"h", BIG[:777]))]
    messages: list[dict[str, object]] = []
    [loaded] = await store.load(chunks(docker_archive(layers, ["foo:1"])), progress=messages.append)
    assert max(blobs(store)) < 5000
    assert {message["status"] for message in messages} == {"Loading layer"}
    assert [names(path) for path in store.layers(loaded.id)] == [["f"], ["g", "h"]]
    with tarfile.open(fileobj=io.BytesIO(await saved(store, "foo:1"))) as tar:
        contents = {file.read() for member in tar if (file := tar.extractfile(member)) is not None}
    assert contents >= set(layers)
    await store.remove("foo:1")
    assert await store.collect() == 0 and not [path for path in used(store) if path.startswith(("objects", "recipes"))]


async def test_an_import_never_is_a_blob(store: Store) -> None:
    archive = tars.archive(tars.file(b"f", BIG))
    image = await store.import_(chunks(archive, 100), "foo:1")
    assert max(blobs(store)) < 5000 and store.config(image.id).rootfs.diff_ids == [tars.diff_id(archive)]
    assert archive in await saved(store, "foo")


async def test_a_layer_that_no_image_has_does_not_stay(store: Store) -> None:
    archive = bytearray(docker_archive([tars.archive(tars.file(b"f", BIG))], ["foo:1"]))
    extra = tars.file(b"extra/layer.tar", tars.archive(tars.file(b"extra", BIG[::-1])))
    broken = tars.file(b"broken", tars.file(b"../x", BIG))
    await store.load(chunks(extra + broken + bytes(archive)))
    [layer] = (store.folder / "image" / "layers").iterdir()
    assert names(layer / "tree") == ["f"]
    assert len(list((store.folder / "image" / "recipes").iterdir())) == 1


async def test_a_broken_layer_is_said_and_leaves_nothing(store: Store) -> None:
    before = used(store)
    for layer in (
        tars.archive(tars.file(b"f", BIG), tars.file(b"../x", b"1")),
        tars.archive(tars.file(b"../x", b"1"), *[tars.file(b"%d" % number, BIG) for number in range(20)]),
        tars.file(b"f", BIG)[:280_000],
    ):
        with pytest.raises(BrokenArchive):
            await store.load(chunks(docker_archive([layer], ["foo:1"])))
        assert used(store) == before and store.list() == []


async def test_a_layer_that_is_not_what_its_name_says_is_refused(store: Store) -> None:
    before = used(store)
    lie = tars.file(b"blobs/sha256/" + b"0" * 64, tars.archive(tars.file(b"f", BIG)))
    with pytest.raises(DigestMismatch):
        await store.load(chunks(lie + docker_archive([tars.archive(tars.file(b"f", BIG))], ["foo:1"])))
    assert used(store) == before


async def test_a_document_that_looks_like_a_layer_is_none(store: Store) -> None:
    """A manifest that names an unpacked layer as the configuration gets no answer from it."""
    data = docker_archive([tars.archive(tars.file(b"f", BIG))], ["foo:1"])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        config = next(member.name for member in tar if member.name.endswith(".json") and member.name != "manifest.json")
    swapped = data.replace(b'"Config": "' + config.encode(), b'"Config": "' + b"0/layer.tar".ljust(len(config)))
    with pytest.raises(BrokenArchive, match="lacks the configuration"):
        await store.load(chunks(swapped))


async def _stalled(data: bytes, at: int, reached: asyncio.Event, go_on: asyncio.Event) -> AsyncIterator[bytes]:
    yield data[:at]
    reached.set()
    await go_on.wait()
    yield data[at:]


def _workers() -> list[int]:
    return [child for child in processes.children(os.getpid()) if re.search(r"image.worker", processes.title(child))]


async def _at_work(store: Store, count: int) -> None:
    while len(list((store.folder / "image" / "tmp").glob("layer-*/files/1"))) < count:
        await asyncio.sleep(0.01)


async def test_clients_that_stall_keep_nobody_waiting(store: Store) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))  # far fewer than there are clients
    go_on = asyncio.Event()
    loads = []
    try:
        async with asyncio.timeout(60):
            for number in range(5):
                reached = asyncio.Event()
                data = docker_archive(
                    [tars.archive(tars.file(b"n%d" % number, BIG), tars.file(b"z", BIG * 8))], [f"stalled:{number}"]
                )
                loads.append(asyncio.ensure_future(store.load(_stalled(data, len(data) - 1_200_000, reached, go_on))))
                await reached.wait()
            await _at_work(store, 2)
            await store.load(chunks(docker_archive([tars.archive(tars.file(b"quick", BIG))], ["quick:1"])))
            assert await store.collect() == 0
    finally:
        go_on.set()
        await asyncio.gather(*loads)
    for number in range(5):
        [path] = store.layers(store.resolve(f"stalled:{number}").id)
        assert names(path) == [f"n{number}", "z"]
    # Of those that became blobs, a recipe may be just being written.
    assert not [each for each in left_over(LayerStore(store.folder / "image")) if each.startswith("layer-")]


async def test_a_client_that_goes_away_in_the_middle_of_a_layer_leaves_nothing(store: Store) -> None:
    before = used(store)
    descriptors = len(os.listdir("/proc/self/fd"))
    data = docker_archive([tars.archive(tars.file(b"f", BIG), tars.file(b"g", BIG * 8))], ["foo:1"])
    reached = asyncio.Event()
    load = asyncio.ensure_future(store.load(_stalled(data, len(data) - 200_000, reached, asyncio.Event())))
    await _at_work(store, 1)
    load.cancel()
    with pytest.raises(asyncio.CancelledError):
        await load
    assert used(store) == before and _workers() == [] and len(os.listdir("/proc/self/fd")) <= descriptors

    async def breaks_off() -> AsyncIterator[bytes]:
        yield data[:400_000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.load(breaks_off())
    assert used(store) == before and not left_over(LayerStore(store.folder / "image"))
    await store.load(chunks(data))


async def test_an_import_that_breaks_off_makes_no_image(store: Store) -> None:
    """However the break is called: an end between two entries would be taken for the archive's own."""
    before = used(store)
    for error in (ConnectionResetError, BrokenPipeError):

        async def breaks_off(error: type[Exception] = error) -> AsyncIterator[bytes]:
            yield tars.file(b"f", BIG) * 5
            raise error

        with pytest.raises(error):
            await store.import_(breaks_off(), "half:1")
        assert used(store) == before and store.list() == []


async def test_layers_arrive_again_once_there_are_descriptors(tmp_path: Path) -> None:
    async def announced(diff_id: str) -> None:
        pass

    archive = tars.archive(tars.file(b"f", BIG))
    workers = Workers(LayerStore(tmp_path))
    async with Arrivals(workers, announced, lambda label, size: Meter(silent, "", label, size)) as arrivals:
        allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
        for _ in range(4):
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, allowed[1]))
            try:
                with pytest.raises(CapsaError, match=r"^cannot make a pipe for the layer that arrives: too many"):
                    arrivals.begin(archive, "", len(archive))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, allowed)
        arrival = arrivals.begin(archive, "", len(archive))
        assert arrival is not None
        await asyncio.to_thread(arrival.hand_on, [archive])
        assert (await asyncio.to_thread(arrival.layer)).diff_id == tars.diff_id(archive)
    await workers.close()


async def test_a_layer_that_is_there_keeps_its_type_wherever_pieces_end(store: Store) -> None:
    layer = tars.archive(tars.file(b"f", BIG))
    packed = tars.gzipped(layer)
    with tarfile.open(fileobj=io.BytesIO(docker_archive([layer], ["foo:1"]))) as tar:
        documents = {member.name: file.read() for member in tar if (file := tar.extractfile(member))}
    documents.pop("0/layer.tar")
    name = "blobs/sha256/" + tars.diff_id(packed).removeprefix("sha256:")
    documents["manifest.json"] = documents["manifest.json"].replace(b"0/layer.tar", name.encode())
    members = [tars.file(name.encode(), packed), *(tars.file(each.encode(), documents[each]) for each in documents)]
    filler = tars.file(b"filler", bytes((1 << 20) - 1024))
    archive = tars.archive(filler, *members)

    async def cut() -> AsyncIterator[bytes]:
        yield archive[: (1 << 20) + 1]  # one byte of the layer
        yield archive[(1 << 20) + 1 :]

    for source in (chunks(archive), cut()):
        [loaded] = await store.load(source)
        manifest = store.manifest(loaded.id)
        assert manifest is not None
        with tarfile.open(fileobj=io.BytesIO(await saved(store, "foo:1"))) as tar:
            file = tar.extractfile("blobs/sha256/" + manifest.digest.removeprefix("sha256:"))
            assert file is not None and OCI_LAYER_GZIP.encode() in file.read()


async def test_a_killed_worker_is_an_error_and_leaves_nothing(store: Store) -> None:
    before = used(store)
    data = docker_archive([tars.archive(*[tars.file(b"%d" % number, BIG) for number in range(30)])], ["foo:1"])
    reached, go_on = asyncio.Event(), asyncio.Event()
    load = asyncio.ensure_future(store.load(_stalled(data, len(data) - 200_000, reached, go_on)))
    await _at_work(store, 1)
    [worker] = _workers()
    os.kill(worker, signal.SIGKILL)
    go_on.set()
    with pytest.raises(CapsaError, match=r"^the process that unpacked a layer that arrives was ended by SIGKILL"):
        await load
    assert used(store) == before
    await store.load(chunks(data))


async def test_what_arrives_is_not_collected_before_an_image_has_it(store: Store) -> None:
    stop = asyncio.Event()

    async def collect() -> None:
        while not stop.is_set():
            await store.collect()
            await asyncio.sleep(0)

    collecting = asyncio.ensure_future(collect())
    for number in range(25):
        layers = [tars.archive(tars.file(b"%d" % number, BIG), tars.file(each, BIG)) for each in (b"a", b"b")]
        [loaded] = await store.load(chunks(docker_archive(layers, [f"foo:{number}"]), 400_000))
        assert [names(path) for path in store.layers(loaded.id)] == [[str(number), "a"], [str(number), "b"]]
    stop.set()
    await collecting
    assert len(await saved(store, "foo")) > 25 * 4 * len(BIG)


async def test_after_a_power_failure_a_layer_goes_with_its_recipe(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        await store.load(chunks(docker_archive([tars.archive(tars.file(b"f", BIG))], ["foo:1"])))
        image = tmp_path / "image"
        [marker] = (image / "layers").glob("*/unsettled")
        marker.write_text("another boot")
        assert len(list((image / "recipes").iterdir())) == 1
    async with open_store(tmp_path) as store:
        assert (
            store.list() == []
            and list((image / "recipes").iterdir()) == []
            and list((image / "layers").iterdir()) == []
        )


async def test_two_at_once_may_bring_the_same_layer(store: Store) -> None:
    """Whoever is second reads and verifies all of his own."""
    [loaded] = await store.load(chunks(docker_archive([tars.archive(tars.file(b"f", BIG * 8))], ["foo:1"])))
    layout = await saved(store, "foo:1")
    await store.remove("foo:1")
    for cut in (100_000, 1_100_000, 2_000_000):
        reached, go_on = asyncio.Event(), asyncio.Event()
        second = asyncio.ensure_future(store.load(_stalled(layout, cut, reached, go_on)))
        await reached.wait()
        [first] = await store.load(chunks(layout))
        go_on.set()
        assert [first] == list(await second) == [loaded]
        await store.remove("foo:1")


async def test_a_disk_that_is_full_is_said_without_the_pipe(tmp_path: Path) -> None:
    async with open_store(tmp_path) as store:
        with mounted("tmpfs", tmp_path / "image" / "tmp", "size=1m"), pytest.raises(CapsaError) as caught:
            await store.load(chunks(docker_archive([tars.archive(tars.file(b"f", BIG * 8))], ["foo:1"])))
    assert str(caught.value).startswith("cannot unpack the layer that arrives: ") and "/proc" not in str(caught.value)
