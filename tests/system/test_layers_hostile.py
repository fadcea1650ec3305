"""Hostile archives: no entry reads or writes outside its layer, and nothing grows without bound."""

from __future__ import annotations

import io
import os
import stat
import threading
from pathlib import Path

import pytest
from fixtures import tars
from fixtures.layers import compressed, left_over, names, unpack
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capsa.errors import BrokenArchive
from capsa.image.layers import Layer, LayerStore
from capsa.image.limits import Limits

pytestmark = pytest.mark.usefixtures("need_root")


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(tmp_path / "image")


# Hostile archives

TRAPS = {
    "dot dot": [tars.file(b"../escaped", b"x")],
    "dot dot later": [tars.file(b"a/../../escaped", b"x")],
    "dot dot as a directory": [tars.directory(b"..")],
    "absolute and dot dot": [tars.file(b"/../escaped", b"x")],
    "file as parent": [tars.file(b"a", b"x"), tars.file(b"a/b", b"x")],
    "device as parent": [tars.header(b"a", b"3", major=1, minor=3), tars.file(b"a/b", b"x")],
    "link loop as parent": [tars.symlink(b"a", b"b"), tars.symlink(b"b", b"a"), tars.file(b"a/x", b"x")],
    "link to itself as parent": [tars.symlink(b"a", b"a/a/a"), tars.file(b"a/x", b"x")],
    "hard link to outside": [tars.hard_link(b"a", b"../../../../../../../../etc/hostname")],
    "hard link to an absolute name": [tars.hard_link(b"a", b"/etc/hostname")],
    "hard link through a link": [tars.symlink(b"l", b"/etc"), tars.hard_link(b"a", b"l/hostname")],
    "hard link to a directory": [tars.directory(b"d/"), tars.hard_link(b"a", b"d")],
    "hard link to what comes later": [tars.hard_link(b"a", b"b"), tars.file(b"b", b"x")],
    "hard link to itself": [tars.hard_link(b"a", b"a")],
    "root as a file": [tars.file(b"./", b"x")],
    "root as a link": [tars.symlink(b".", b"/")],
    "root as a whiteout": [tars.header(b"/", b"3")],
    "whiteout of nothing": [tars.file(b".wh.")],
    "whiteout of dot": [tars.file(b"a/.wh..")],
    "whiteout of dot dot": [tars.file(b"a/.wh...")],
    "below a whiteout": [tars.file(b".wh.d/x")],
    "component too long": [tars.gnu_long(b"n" * 256) + tars.file(b"x")],
    "name too long": [tars.gnu_long(b"n/" * 2100) + tars.file(b"x")],
    "too deep": [tars.gnu_long(b"n/" * 300 + b"f") + tars.file(b"x")],
    "impossible owner": [tars.pax([(b"uid", b"4294967295")]) + tars.file(b"x")],
    "impossible device": [tars.header(b"x", b"3", raw={329: b"\x80\xff\xff\xff\xff\xff\xff\xff"})],
    "empty link": [tars.symlink(b"x", b"")],
    "link too long": [tars.gnu_long(b"t" * 5000, b"K") + tars.header(b"x", b"2")],
    "attribute too large": [tars.pax([(b"SCHILY.xattr.user.a", b"x" * 70000)]) + tars.file(b"x")],
}


@pytest.mark.parametrize("entries", TRAPS.values(), ids=TRAPS.keys())
def test_a_hostile_entry_is_refused_and_leaves_nothing(store: LayerStore, entries: list[bytes]) -> None:
    before = sorted(os.listdir(store.root.parent))
    with pytest.raises(BrokenArchive) as caught:
        unpack(store, tars.file(b"innocent", b"x"), *entries)
    assert "\n" not in str(caught.value)
    assert store.diff_ids() == [] and left_over(store) == []
    store.collect(set())
    assert store.usage() == 0
    assert sorted(os.listdir(store.root.parent)) == before


def test_links_lead_nowhere_outside(store: LayerStore, tmp_path: Path) -> None:
    """Links are taken as they are; what is written through them stays inside, as it would in the container."""
    outside = tmp_path / "outside"
    outside.mkdir()
    target = os.fsencode(outside)
    tree = unpack(
        store,
        tars.symlink(b"abs", target),
        tars.symlink(b"up", b"../" * 30 + target[1:]),
        tars.symlink(b"magic", b"/proc/self/root/" + target[1:]),
        tars.file(b"abs/1", b"x"),
        tars.file(b"up/2", b"x"),
        tars.file(b"magic/3", b"x"),
        tars.file(b"abs/.wh.4"),
        tars.directory(b"up/5/", 0o777),
    ).path
    assert os.listdir(outside) == []
    inside = tree / os.fsdecode(target[1:])
    assert names(inside) == ["1", "2", "4", "5"]
    assert names(tree / "proc/self/root" / os.fsdecode(target[1:])) == ["3"]  # a directory of the layer, like any other


def test_absolute_names_are_below_the_root(store: LayerStore) -> None:
    assert names(
        unpack(store, tars.file(b"/etc/x", b"1"), tars.file(b"//y", b"1"), tars.file(b"a/../z", b"1")).path
    ) == [
        "etc",
        "etc/x",
        "y",
        "z",
    ]


def test_a_link_replaced_by_a_directory_is_not_written_through(store: LayerStore) -> None:
    tree = unpack(
        store,
        tars.symlink(b"d", b"/tmp"),
        tars.directory(b"d/"),
        tars.file(b"d/inside", b"x"),
        tars.symlink(b"d/l", b"/tmp"),
    ).path
    assert names(tree) == ["d", "d/inside", "d/l"]


def test_a_file_is_never_written_through_a_link_of_its_name(store: LayerStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("unharmed")
    tree = unpack(store, tars.symlink(b"f", os.fsencode(victim)), tars.file(b"f", b"evil", mode=0o777)).path
    assert victim.read_text() == "unharmed" and stat.S_IMODE(victim.stat().st_mode) != 0o777
    assert (tree / "f").read_bytes() == b"evil"


def test_a_hard_link_to_a_link_changes_only_the_link(store: LayerStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("unharmed")
    tree = unpack(
        store, tars.symlink(b"l", os.fsencode(victim)), tars.hard_link(b"h", b"l"), tars.file(b"h", b"evil")
    ).path
    assert victim.read_text() == "unharmed"
    assert (tree / "h").read_bytes() == b"evil" and (tree / "l").is_symlink()


@pytest.mark.parametrize(
    ("limits", "entries"),
    [
        (Limits(size=100_000), [tars.file(b"f", bytes(200_000))]),
        (Limits(entries=50), [tars.file(b"%d" % number) for number in range(60)]),
        (Limits(entries=50), [tars.gnu_long(b"/".join(b"%d" % number for number in range(60))) + tars.file(b"x")]),
        (Limits(entries=50), [tars.file(b".wh.%d" % number) for number in range(60)]),
        (Limits(depth=20), [tars.symlink(b"l", b"/".join([b"d"] * 15)), tars.file(b"l/" + b"/".join([b"d"] * 15))]),
        (
            Limits(size=1 << 20),
            [
                tars.pax(
                    [
                        (b"GNU.sparse.map", b",".join(b"%d,1" % (4096 * at) for at in range(1000))),
                        (b"GNU.sparse.size", b"9999999"),
                    ]
                )
                + tars.file(b"s", b"x" * 1000)
            ],
        ),
    ],
    ids=["bytes", "entries", "parents", "whiteouts", "depth through links", "sparse"],
)
def test_bombs_are_bounded(tmp_path: Path, limits: Limits, entries: list[bytes]) -> None:
    store = LayerStore(tmp_path / "image", limits)
    with pytest.raises(BrokenArchive):
        unpack(store, *entries)
    assert left_over(store) == []


@pytest.mark.parametrize("name", ["gzip", "zstd", "bzip2", "xz"])
def test_compression_bombs_are_bounded(tmp_path: Path, name: str) -> None:
    store = LayerStore(tmp_path / "image", Limits(ratio=100, ratio_free=4 << 20))
    with pytest.raises(BrokenArchive, match="bomb"):
        store.unpack(io.BytesIO(compressed(name, tars.archive(tars.file(b"f", bytes(64 << 20))))))


HOSTILE_NAMES = st.lists(
    st.sampled_from([b"a", b"b", b"..", b".", b"", b".wh.a", b".wh..wh..opq", b".wh..wh.x", b".wh.", b"l", b"/"]),
    min_size=1,
    max_size=4,
).map(b"/".join)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(HOSTILE_NAMES, HOSTILE_NAMES, st.sampled_from([b"0", b"1", b"2", b"3", b"5", b"6"])), max_size=12
    )
)
def test_any_mixture_is_unpacked_whole_or_refused(store: LayerStore, entries: list[tuple[bytes, bytes, bytes]]) -> None:
    around = sorted(os.listdir(store.root.parent))
    data = tars.archive(
        *(
            tars.header(name, type_, link=link, size=0) if type_ != b"0" else tars.file(name, link)
            for name, link, type_ in entries
            if name
        )
    )
    try:
        layer = store.unpack(io.BytesIO(data))
    except BrokenArchive:
        assert store.diff_ids() == []
    else:
        found = names(layer.path)
        store.remove(layer.diff_id)
        assert layer.diff_id == tars.diff_id(data)
        assert ".wh." not in " ".join(found)
    assert left_over(store) == []
    assert sorted(os.listdir(store.root.parent)) == around


def test_two_unpackings_at_once_do_not_meet(store: LayerStore) -> None:
    """A link in one archive, a directory of the same name in the other: each stays what it is."""
    first = tars.archive(
        *(tars.symlink(b"d%d" % number, b"/tmp") for number in range(300)), tars.file(b"same", b"x" * 9000)
    )
    second = tars.archive(
        *(tars.file(b"d%d/f" % number, b"x") for number in range(300)), tars.file(b"same", b"x" * 9000)
    )
    results: list[Layer | BaseException] = []

    def run(data: bytes) -> None:
        try:
            results.append(store.unpack(io.BytesIO(data)))
        except BaseException as error:
            results.append(error)

    threads = [threading.Thread(target=run, args=(data,)) for data in (first, second) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(isinstance(result, Layer) for result in results), results
    assert sorted(store.diff_ids()) == sorted([tars.diff_id(first), tars.diff_id(second)])
    one, two = store.path(tars.diff_id(first)), store.path(tars.diff_id(second))
    assert all((one / f"d{number}").is_symlink() for number in range(300))
    assert all((two / f"d{number}" / "f").is_file() for number in range(300))
    assert (one / "same").stat().st_ino == (two / "same").stat().st_ino
    assert left_over(store) == []
