"""Files stored once: equal files are one inode, and what nothing refers to goes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest
from fixtures import tars
from fixtures.layers import left_over, names, objects, unpack

from capsa.errors import NotFound
from capsa.image.compression import identify
from capsa.image.layers import LayerStore
from capsa.image.objects import Metadata, ObjectStore
from capsa.image.rmtree import remove_tree

pytestmark = pytest.mark.usefixtures("need_root")


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(tmp_path / "image")


# Files stored once


def test_equal_files_of_different_layers_are_one_inode(store: LayerStore) -> None:
    one = unpack(
        store,
        tars.file(b"a", b"same"),
        tars.file(b"copy", b"same"),
        tars.file(b"e"),
        tars.file(b"big", b"x" * 9_000_000),
    )
    two = unpack(store, tars.file(b"other/name", b"same"), tars.file(b"big", b"x" * 9_000_000), tars.file(b"e2"))
    inodes = {
        (one.path / "a").stat().st_ino,
        (one.path / "copy").stat().st_ino,
        (two.path / "other/name").stat().st_ino,
    }
    assert len(inodes) == 1
    assert (one.path / "big").stat().st_ino == (two.path / "big").stat().st_ino
    assert (one.path / "e").stat().st_ino == (two.path / "e2").stat().st_ino
    assert objects(store) == 3
    assert store.links(one.diff_id) == []


@pytest.mark.parametrize(
    "other",
    [
        tars.file(b"f", b"Same"),
        tars.file(b"f", b"same", mode=0o600),
        tars.file(b"f", b"same", uid=1),
        tars.file(b"f", b"same", gid=1),
        tars.file(b"f", b"same", mtime=5),
        tars.pax([(b"mtime", b"1000000000.5")]) + tars.file(b"f", b"same"),
        tars.pax([(b"SCHILY.xattr.user.a", b"1")]) + tars.file(b"f", b"same"),
        tars.pax([(b"GNU.sparse.map", b"0,1,4,0"), (b"GNU.sparse.size", b"4")]) + tars.file(b"f", b"s"),
    ],
)
def test_files_that_differ_in_anything_do_not_share(store: LayerStore, other: bytes) -> None:
    one, two = unpack(store, tars.file(b"f", b"same")), unpack(store, other)
    assert (one.path / "f").stat().st_ino != (two.path / "f").stat().st_ino


def test_no_content_can_pose_as_a_sparse_file(store: LayerStore) -> None:
    """What is hashed for the sparse file is, byte by byte, this plain file's content."""
    sparse = tars.pax([(b"GNU.sparse.map", b"0,5,9,0"), (b"GNU.sparse.size", b"9")]) + tars.file(b"f", b"hello")
    one, two = unpack(store, tars.file(b"f", b"0+5\nhello")), unpack(store, sparse)
    assert (one.path / "f").read_bytes() == b"0+5\nhello"
    assert (two.path / "f").read_bytes() == b"hello\0\0\0\0"


def test_the_second_image_takes_only_what_is_new(store: LayerStore) -> None:
    shared = [tars.file(b"f%d" % number, os.urandom(100_000)) for number in range(20)]
    unpack(store, *shared, tars.file(b"own", os.urandom(100_000)))
    first = store.usage()
    unpack(store, *shared, tars.file(b"own", os.urandom(100_000)))
    assert first > 2_000_000
    assert store.usage() - first < 0.06 * first


def test_hard_links_of_the_archive_are_remembered(store: LayerStore) -> None:
    layer = unpack(
        store,
        tars.file(b"a", b"x"),
        tars.file(b"equal", b"x"),
        tars.hard_link(b"d/b", b"a"),
        tars.hard_link(b"c", b"d/b"),
    )
    assert len({(layer.path / name).stat().st_ino for name in ("a", "equal", "d/b", "c")}) == 1
    assert store.links(layer.diff_id) == [[b"a", b"c", b"d/b"]]


def test_the_link_limit_of_the_file_system_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's EMLINK, at five links instead of ext4's 65,000."""
    real = os.link

    def link(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool = True) -> None:
        if os.stat(source, dir_fd=src_dir_fd).st_nlink >= 5:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(os, "link", link)
    store = LayerStore(tmp_path / "image")
    pax = tars.pax([(b"SCHILY.xattr.user.a", b"1")])
    layer = unpack(
        store,
        *(pax + tars.file(b"f%02d" % number, b"x", mode=0o4711, uid=9) for number in range(20)),
        *(tars.hard_link(b"h%02d" % number, b"f00") for number in range(20)),
    )
    statuses = [path.stat() for path in layer.path.iterdir()]
    assert len(statuses) == 40
    assert {(stat.S_IMODE(each.st_mode), each.st_uid, each.st_size, each.st_mtime) for each in statuses} == {
        (0o4711, 9, 1, 1e9)
    }
    assert {path.read_bytes() for path in layer.path.iterdir()} == {b"x"}
    assert {os.getxattr(path, "user.a") for path in layer.path.iterdir()} == {b"1"}
    assert len({each.st_ino for each in statuses}) == objects(store) == 10


def test_the_real_link_limit(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "objects")
    (tmp_path / "work").mkdir()
    work = os.open(tmp_path / "work", os.O_RDONLY)
    try:
        (tmp_path / "work/first").write_bytes(b"x")
        key = "ab" + "0" * 62
        store.adopt(key, work, "first")
        limit = os.pathconf(tmp_path, "PC_LINK_MAX")
        if limit > 70_000:
            pytest.skip(f"this file system allows {limit} links of a file")
        for number in range(limit):
            if not store.link(key, 1, work, f"n{number}"):
                break
        else:
            pytest.skip(f"this file system has no limit, though the C library says {limit}")
        assert (tmp_path / "work/first").stat().st_nlink == limit
        store.duplicate(key, work, "first", "beyond")
        assert store.link(key, 1, work, "further")
        assert (tmp_path / "work/further").stat().st_ino == (tmp_path / "work/beyond").stat().st_ino
    finally:
        os.close(work)


def test_two_makers_of_one_object_end_up_with_one(tmp_path: Path) -> None:
    store = ObjectStore(tmp_path / "objects")
    work = os.open(tmp_path, os.O_RDONLY)
    try:
        for name in ("1", "2"):
            (tmp_path / name).write_bytes(b"x")
            store.adopt("ab" + "0" * 62, work, name)
        assert (tmp_path / "1").stat().st_ino == (tmp_path / "2").stat().st_ino
        assert sorted(os.listdir(tmp_path)) == ["1", "2", "objects"]
    finally:
        os.close(work)


def test_a_damaged_object_is_not_used(store: LayerStore) -> None:
    """As a power failure leaves it: the name is there, the content is not."""
    layer = unpack(store, tars.file(b"f", b"content"), tars.file(b"g", b"1"))
    for path in (store.root / "objects").rglob("*"):
        if path.is_file() and path.stat().st_size == 7:
            os.truncate(path, 0)
    store.remove(layer.diff_id)
    again = unpack(store, tars.file(b"f", b"content"), tars.file(b"g", b"1"))
    assert (again.path / "f").read_bytes() == b"content"


def test_metadata_survives_in_any_order(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"x")
    fd = os.open(file, os.O_WRONLY)
    try:
        Metadata(
            0o6755, 12, 34, 5, {b"security.capability": bytes.fromhex("0100000200040000000000000000000000000000")}
        ).apply(fd)
    finally:
        os.close(fd)
    status = file.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns) == (0o6755, 12, 34, 5)
    assert os.listxattr(file) == ["security.capability"]


# Keeping and dropping


def test_collect_drops_what_nothing_refers_to(store: LayerStore) -> None:
    one = unpack(store, tars.file(b"shared", b"x" * 5000), tars.file(b"one", b"1" * 5000))
    two = unpack(store, tars.file(b"shared", b"x" * 5000), tars.file(b"two", b"2" * 5000))
    assert store.collect({one.diff_id, two.diff_id}) == 0 and objects(store) == 3
    assert store.collect({two.diff_id}) == 8192
    assert store.diff_ids() == [two.diff_id] and objects(store) == 2
    assert not store.has(one.diff_id)
    with pytest.raises(NotFound):
        store.path(one.diff_id)
    with pytest.raises(NotFound):
        store.stack([one.diff_id])
    store.collect(())
    assert store.diff_ids() == [] and objects(store) == 0 and left_over(store) == []


def test_collecting_meanwhile_harms_nobody(store: LayerStore) -> None:
    stop = threading.Event()
    archives = [
        tars.archive(*(tars.file(b"%d" % each, b"%d %d" % (each, kind)) for each in range(100))) for kind in range(3)
    ]
    # Known beforehand: a layer that is just being unpacked has to be among those that are kept.
    keep = {f"sha256:{hashlib.sha256(data).hexdigest()}" for data in archives}

    def collect() -> None:
        while not stop.is_set():
            store.collect(keep)

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        for number in range(15):
            layer = store.unpack(io.BytesIO(archives[number % 3]))
            assert layer.diff_id in keep
            assert {path.name: path.read_bytes() for path in layer.path.iterdir()} == {
                str(each): b"%d %d" % (each, number % 3) for each in range(100)
            }
            store.remove(layer.diff_id)
    finally:
        stop.set()
        thread.join()


def test_a_crash_leaves_nothing_after_recovery(store: LayerStore) -> None:
    kept = unpack(store, tars.file(b"kept", b"x"))
    program = """
import io, os, sys
from pathlib import Path
from capsa.image.layers import LayerStore
data = sys.stdin.buffer.read()
class Deadly(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > 2 << 20:
            os.kill(os.getpid(), 9)
        return super().read(size)
LayerStore(Path(sys.argv[1])).unpack(Deadly(data))
"""
    data = tars.archive(*(tars.file(b"%d" % number, os.urandom(300_000)) for number in range(100)))
    died = subprocess.run([sys.executable, "-c", program, str(store.root)], input=data, check=False)
    assert died.returncode == -9
    assert left_over(store) != []
    store.recover()
    assert left_over(store) == [] and store.diff_ids() == [kept.diff_id] and objects(store) == 1
    assert store.unpack(io.BytesIO(data)).entries == 100


def test_recovery_leaves_running_work_alone(store: LayerStore) -> None:
    data = tars.archive(*(tars.file(b"%d" % number, os.urandom(300_000)) for number in range(20)))

    class Recovering(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            LayerStore(store.root).recover()
            return super().read(size)

    assert store.unpack(Recovering(data)).entries == 20


def test_recovery_leaves_beginning_work_alone(store: LayerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory is there before it is locked; what is removed under the lock, the other notices."""
    (store.root / "tmp" / "layer-0").mkdir()

    def watched(path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
        remove_tree(path)

    with monkeypatch.context() as patch:
        patch.setattr("capsa.image.layers.remove_tree", watched)
        store.recover()
    assert left_over(store) == []
    mkdir, recovered = Path.mkdir, 0

    def overtaken(path: Path, *arguments: Any, **keywords: Any) -> None:
        nonlocal recovered
        mkdir(path, *arguments, **keywords)
        if path.name.startswith("layer-") and not recovered:
            recovered += 1
            store.recover()

    monkeypatch.setattr(Path, "mkdir", overtaken)
    assert unpack(store, tars.file(b"f", b"x")).entries == 1 and recovered == 1


def test_layers_that_a_power_failure_may_have_damaged_are_dropped(store: LayerStore) -> None:
    settled = unpack(store, tars.file(b"old", b"x"))
    store.settle()
    recent = unpack(store, tars.file(b"new", b"y"))
    store.recover()
    assert store.has(recent.diff_id)
    marker = store.root / "layers" / recent.diff_id.removeprefix("sha256:") / "unsettled"
    marker.write_text("another boot")
    store.recover()
    assert store.diff_ids() == [settled.diff_id] and objects(store) == 1


def test_importing_a_plain_root_file_system(store: LayerStore, tmp_path: Path) -> None:
    """As made by any tool: here the standard library, with directories, owners and links."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, type_ in (("etc", tarfile.DIRTYPE), ("etc/motd", tarfile.REGTYPE), ("etc/link", tarfile.SYMTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.linkname = type_, 0o755, "motd" if name == "etc/link" else ""
            archive.addfile(member, io.BytesIO())
    layer = store.unpack(io.BytesIO(out.getvalue()))
    assert names(layer.path) == ["etc", "etc/link", "etc/motd"]
    assert layer.diff_id == identify(io.BytesIO(out.getvalue())).diff_id
