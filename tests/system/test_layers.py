"""Layers: what an archive says is what the directory is."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest
from fixtures import tars
from fixtures.layers import compressed, is_opaque, is_whiteout, left_over, mounted, names, unpack

from capsa.errors import BrokenArchive, CapsaError, DigestMismatch, InvalidArgument, Unsupported
from capsa.image.compression import identify
from capsa.image.layers import LayerStore

pytestmark = pytest.mark.usefixtures("need_root")


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(tmp_path / "image")


# What the entries become


def test_every_kind_of_entry(store: LayerStore) -> None:
    tree = unpack(
        store,
        tars.directory(b"./", 0o711, uid=5, gid=6, mtime=100),
        tars.directory(b"./d/", 0o2750, uid=7, gid=8, mtime=200),
        tars.pax([(b"mtime", b"1234567890.123456789"), (b"uid", b"4294967294"), (b"gid", b"3000000000")]),
        tars.file(b"./d/f", b"content", mode=0o4755),
        tars.symlink(b"./d/s", b"../../../etc/passwd"),
        tars.hard_link(b"./d/h", b"./d/f"),
        tars.hard_link(b"./d/hs", b"d/s"),
        tars.header(b"c", b"3", mode=0o620, gid=5, major=5, minor=1),
        tars.header(b"b", b"4", mode=0o660, major=259, minor=70000),
        tars.header(b"p", b"6", mode=0o600),
        tars.file(b"empty"),
    ).path
    status = tree.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (0o711, 5, 6, 100)
    status = (tree / "d").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime) == (0o2750, 7, 8, 200)
    status = (tree / "d/f").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o4755, 4294967294, 3000000000)
    assert status.st_mtime_ns == 1234567890_123456789
    assert (tree / "d/f").read_bytes() == b"content"
    assert (tree / "d/h").stat().st_ino == status.st_ino
    assert os.readlink(tree / "d/s") == os.readlink(tree / "d/hs") == "../../../etc/passwd"
    assert (tree / "d/s").lstat().st_mtime == 1_000_000_000
    status = (tree / "c").stat()
    assert (status.st_mode, status.st_rdev, status.st_gid) == (stat.S_IFCHR | 0o620, os.makedev(5, 1), 5)
    status = (tree / "b").stat()
    assert (status.st_mode, status.st_rdev) == (stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    assert (tree / "p").stat().st_mode == stat.S_IFIFO | 0o600
    assert (tree / "empty").stat().st_size == 0


def test_attributes_and_capabilities(store: LayerStore) -> None:
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    attributes = [
        (b"SCHILY.xattr.security.capability", capability),
        (b"SCHILY.xattr.user.note", b"\0\xff"),
        (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
        (b"SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        (b"SCHILY.xattr.security.selinux", b"system_u:object_r:etc_t:s0"),
    ]
    tree = unpack(
        store,
        tars.pax(attributes) + tars.file(b"ping", b"x", mode=0o755, uid=3),
        tars.pax(attributes[1:]) + tars.directory(b"d/"),
        tars.pax(attributes[1:]) + tars.symlink(b"s", b"d"),
    ).path
    assert {name: os.getxattr(tree / "ping", name) for name in os.listxattr(tree / "ping")} == {
        "security.capability": capability,
        "user.note": b"\0\xff",
    }
    assert os.listxattr(tree / "d") == ["user.note"]
    assert os.listxattr(tree / "s", follow_symlinks=False) == []


def test_sparse_files_stay_sparse(store: LayerStore) -> None:
    size = 1 << 30
    tree = unpack(
        store,
        tars.pax([(b"GNU.sparse.map", b"4096,3,%d,0" % size), (b"GNU.sparse.size", b"%d" % size)])
        + tars.file(b"s", b"abc"),
    ).path
    status = (tree / "s").stat()
    assert (status.st_size, status.st_blocks < 64) == (size, True)
    with open(tree / "s", "rb") as file:
        assert file.read(8192) == bytes(4096) + b"abc" + bytes(4093)


def test_names_that_are_not_text(store: LayerStore) -> None:
    tree = unpack(store, tars.file(b"\xff\xfe\n", b"x"), tars.gnu_long(b"d/" + b"n" * 255) + tars.file(b"x", b"y")).path
    assert sorted(os.listdir(os.fsencode(tree))) == [b"d", b"\xff\xfe\n"]
    assert os.listdir(tree / "d") == ["n" * 255]


def test_the_last_of_repeated_entries_wins(store: LayerStore) -> None:
    tree = unpack(
        store,
        tars.directory(b"d/", 0o700),
        tars.file(b"d/kept", b"1"),
        tars.file(b"f", b"1"),
        tars.directory(b"gone/"),
        tars.file(b"gone/inner", b"1"),
        tars.symlink(b"l", b"d"),
        tars.file(b"f", b"2"),
        tars.directory(b"d/", 0o755),
        tars.file(b"gone", b"file now"),
        tars.directory(b"l/"),
        tars.file(b"l/own", b"1"),
    ).path
    assert names(tree) == ["d", "d/kept", "f", "gone", "l", "l/own"]
    assert (tree / "f").read_bytes() == b"2"
    assert stat.S_IMODE((tree / "d").stat().st_mode) == 0o755
    assert (tree / "gone").read_bytes() == b"file now"
    assert not (tree / "l").is_symlink()


def test_parents_without_an_entry(store: LayerStore) -> None:
    tree = unpack(store, tars.file(b"a/b/c", b"x")).path
    status = (tree / "a/b").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_mtime) == (0o755, 0, 0)


def test_links_to_directories_of_the_same_layer_lead_there(store: LayerStore) -> None:
    tree = unpack(
        store,
        tars.directory(b"usr/lib/"),
        tars.symlink(b"lib", b"usr/lib"),
        tars.symlink(b"abs", b"/usr/../../usr/lib"),
        tars.file(b"lib/one", b"1"),
        tars.file(b"abs/two", b"2"),
    ).path
    assert names(tree) == ["abs", "lib", "usr", "usr/lib", "usr/lib/one", "usr/lib/two"]


# Whiteouts


def test_whiteouts_take_overlayfs_form(store: LayerStore) -> None:
    tree = unpack(
        store, tars.file(b"d/.wh.gone"), tars.file(b".wh.top"), tars.file(b"o/.wh..wh..opq"), tars.file(b"o/new")
    ).path
    assert names(tree) == ["d", "d/gone", "o", "o/new", "top"]
    assert is_whiteout(tree / "d/gone") and is_whiteout(tree / "top")
    assert is_opaque(tree / "o") and not is_opaque(tree / "d")


@pytest.mark.parametrize("opaque_first", [True, False])
def test_an_opaque_mark_hides_lower_layers_only_wherever_it_stands(store: LayerStore, opaque_first: bool) -> None:
    entries = [
        tars.directory(b"d/"),
        tars.file(b"d/.wh..wh..opq"),
        tars.file(b"d/new", b"x"),
        tars.file(b"d/sub/deep", b"x"),
    ]
    if not opaque_first:
        entries = [entries[0], *entries[2:], entries[1]]
    tree = unpack(store, *entries).path
    assert names(tree) == ["d", "d/new", "d/sub", "d/sub/deep"]
    assert is_opaque(tree / "d")


@pytest.mark.parametrize("whiteout_first", [True, False])
def test_a_whiteout_does_not_hide_what_its_own_layer_has(store: LayerStore, whiteout_first: bool) -> None:
    hidden = [tars.file(b".wh.file"), tars.file(b".wh.dir")]
    there = [tars.file(b"file", b"x"), tars.file(b"dir/inner", b"x")]
    tree = unpack(store, *(hidden + there if whiteout_first else there + hidden)).path
    assert names(tree) == ["dir", "dir/inner", "file"]
    assert (tree / "file").read_bytes() == b"x"
    assert is_opaque(tree / "dir")


def test_a_device_0_0_is_a_whiteout(store: LayerStore) -> None:
    tree = unpack(store, tars.file(b"d/inner", b"x"), tars.header(b"d", b"3"), tars.header(b"new", b"3")).path
    assert names(tree) == ["d", "new"]
    assert is_whiteout(tree / "d") and is_whiteout(tree / "new")


def test_what_aufs_left_behind_is_ignored(store: LayerStore) -> None:
    tree = unpack(
        store, tars.directory(b".wh..wh.plnk/"), tars.file(b".wh..wh.plnk/12.34", b"x"), tars.file(b".wh..wh.aufs")
    ).path
    assert names(tree) == []


def test_overlayfs_agrees(store: LayerStore, tmp_path: Path) -> None:
    lower = unpack(
        store, tars.file(b"a/x", b"1"), tars.file(b"a/y", b"1"), tars.file(b"b/x", b"1"), tars.file(b"c", b"1")
    )
    upper = unpack(
        store, tars.file(b"a/.wh.x"), tars.file(b"b/.wh..wh..opq"), tars.file(b"b/z", b"2"), tars.file(b".wh.c")
    )
    layers = ":".join(str(path) for path in reversed(store.stack([lower.diff_id, upper.diff_id])))
    with mounted("overlay", tmp_path / "m", f"ro,index=off,lowerdir={layers}") as merged:
        assert names(merged) == ["a", "a/y", "b", "b/z"]


def test_an_opaque_root_cuts_the_stack(store: LayerStore) -> None:
    first = unpack(store, tars.file(b"a"))
    second = unpack(store, tars.file(b".wh..wh..opq"), tars.file(b"b"))
    third = unpack(store, tars.file(b"c"))
    assert store.stack([first.diff_id, second.diff_id, third.diff_id]) == [second.path, third.path]
    assert store.stack([first.diff_id, third.diff_id]) == [first.path, third.path]


# Digests, compressions, failures


@pytest.mark.parametrize("name", ["", "gzip", "zstd", "bzip2", "xz"])
def test_compressions(store: LayerStore, name: str, tmp_path: Path) -> None:
    data = tars.archive(tars.file(b"f", os.urandom(5_000_000)), tars.file(b"g", b"x"))
    blob = tmp_path / "blob"
    blob.write_bytes(compressed(name, data))
    seen: list[int] = []
    layer = store.unpack(blob, diff_id=tars.diff_id(data), progress=seen.append)
    assert names(layer.path) == ["f", "g"]
    assert (layer.size, layer.entries) == (5_000_001, 2)
    assert seen == sorted(seen) and seen[-1] == blob.stat().st_size
    with open(blob, "rb") as file:
        identity = identify(file)
    assert (identity.diff_id, identity.size, identity.compression) == (layer.diff_id, blob.stat().st_size, name)
    assert identity.digest == tars.diff_id(blob.read_bytes())


@pytest.mark.parametrize("name", ["", "gzip", "zstd", "bzip2", "xz"])
def test_layers_cut_short_are_refused(store: LayerStore, name: str) -> None:
    data = compressed(name, tars.archive(tars.file(b"f", os.urandom(300_000))))
    for end in (len(data) // 2, 700) if name != "" else (len(data) // 2,):
        with pytest.raises(BrokenArchive):
            store.unpack(io.BytesIO(data[:end]))
    assert store.diff_ids() == [] and left_over(store) == []


@pytest.mark.parametrize("name", ["gzip", "zstd", "bzip2", "xz"])
def test_damaged_layers_are_refused(store: LayerStore, name: str) -> None:
    data = bytearray(compressed(name, tars.archive(tars.file(b"f", os.urandom(300_000)))))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(BrokenArchive):
        store.unpack(io.BytesIO(bytes(data)), diff_id="sha256:" + "0" * 64)
    with pytest.raises(BrokenArchive):
        store.unpack(io.BytesIO(bytes(data[:20]) + b"rubbish" * 100))


def test_garbage_is_no_layer(store: LayerStore) -> None:
    for data in (b"<html>not found</html>", os.urandom(5000)):
        with pytest.raises(BrokenArchive):
            store.unpack(io.BytesIO(data))


def test_an_empty_layer_is_one(store: LayerStore) -> None:
    assert names(store.unpack(io.BytesIO(bytes(1024))).path) == []
    assert store.unpack(io.BytesIO(b"")).entries == 0


def test_a_wrong_diff_id_is_refused(store: LayerStore) -> None:
    data = tars.archive(tars.file(b"f", b"x"))
    with pytest.raises(DigestMismatch, match=tars.diff_id(data)):
        store.unpack(io.BytesIO(data), diff_id="sha256:" + "0" * 64)
    assert store.diff_ids() == [] and left_over(store) == []
    with pytest.raises(InvalidArgument):
        store.path("sha256:../../../../etc")


def test_content_after_the_end_mark_counts_for_the_diff_id_only(store: LayerStore) -> None:
    data = tars.archive(tars.file(b"f", b"x")) + tars.archive(tars.file(b"hidden", b"x")) + bytes(9000)
    assert names(store.unpack(io.BytesIO(data), diff_id=tars.diff_id(data)).path) == ["f"]


def test_a_layer_that_is_there_is_not_read_again(store: LayerStore, tmp_path: Path) -> None:
    layer = unpack(store, tars.file(b"f", b"x"))
    assert store.unpack(tmp_path / "no such blob", diff_id=layer.diff_id) == layer
    with pytest.raises(CapsaError, match="no such file"):
        store.unpack(tmp_path / "no such blob")


def test_what_is_no_file_system_is_refused_by_its_type(store: LayerStore) -> None:
    data = tars.archive(tars.file(b"f", b"x"))
    with pytest.raises(Unsupported, match="wasm"):
        store.unpack(io.BytesIO(data), media_type="application/wasm")
    assert store.unpack(io.BytesIO(data), media_type="application/vnd.oci.image.layer.v1.tar+gzip").entries == 1


def test_a_full_disk_is_said_and_undone(tmp_path: Path) -> None:
    with mounted("tmpfs", tmp_path / "small", "size=2m") as small:
        store = LayerStore(small / "image")
        unpack(store, tars.file(b"kept", b"x" * 5000))
        with pytest.raises(CapsaError, match="no space left on device"):
            unpack(store, tars.file(b"a", os.urandom(1_000_000)), tars.file(b"b", os.urandom(3_000_000)))
        assert len(store.diff_ids()) == 1 and left_over(store) == []
        store.collect(store.diff_ids())
        assert store.usage() <= 8192
        store.close()
