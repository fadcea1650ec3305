"""Packing trees and removing them: everything is kept, nothing outside is touched, even while somebody interferes."""

from __future__ import annotations

import io
import os
import socket
import stat
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest
from fixtures import tars

from capsa.errors import CapsaError, InvalidArgument
from capsa.image.layers import LayerStore, remove_tree
from capsa.image.pack import write_layer, write_tar

pytestmark = pytest.mark.usefixtures("need_root")
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def packed(tree: Path, **options: object) -> bytes:
    out = io.BytesIO()
    size = write_tar(tree, out, **options)  # type: ignore[arg-type]
    assert size == len(out.getvalue())
    return out.getvalue()


def layer_of(upper: Path) -> bytes:
    out = io.BytesIO()
    write_layer(upper, out)
    return out.getvalue()


def names(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [member.name + "/" * member.isdir() for member in tar.getmembers()]


def facts(tree: Path) -> dict[str, tuple[object, ...]]:
    """All that there is to know about a tree, except for its root."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(tree.rglob("*")):
        status = path.lstat()
        content: object = None
        if path.is_symlink():
            content = os.readlink(path)
        elif path.is_file():
            content = path.read_bytes()
        attributes = {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
        found[str(path.relative_to(tree))] = (
            status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev, content, attributes,
        )  # fmt: skip
    return found


def rich_tree(tree: Path) -> Path:
    """One of everything."""
    (tree / "d/deep").mkdir(parents=True)
    (tree / "d").chmod(0o2710)
    (tree / "d/f").write_bytes(b"content")
    os.chown(tree / "d/f", 4_000_000_000, 7)
    (tree / "d/f").chmod(0o4755)
    os.setxattr(tree / "d/f", "security.capability", CAPABILITY)
    os.setxattr(tree / "d/f", "user.note", b"\0\n=")
    os.utime(tree / "d/f", ns=(1, 1_234_567_890_123_456_789))
    os.link(tree / "d/f", tree / "d/hard")
    (tree / "s").symlink_to("../" * 50 + "target")
    os.mknod(tree / "c", stat.S_IFCHR | 0o620, os.makedev(5, 1))
    os.mkfifo(tree / "p")
    (tree / ("n" * 200)).write_bytes(b"long")
    (tree / os.fsdecode(b"\xff" * 120)).write_bytes(b"not text")
    with open(tree / "sparse", "wb") as file:
        file.truncate(1 << 24)
        file.seek(1 << 20)
        file.write(b"data")
    os.utime(tree / "d", ns=(1, -5_000_000_000))
    return tree


def test_a_tree_comes_back_as_it_was(tmp_path: Path) -> None:
    tree = rich_tree(tmp_path / "tree")
    archive = packed(tree)
    assert packed(tree) == archive
    assert len(archive) < 1 << 20  # the hole is a hole
    store = LayerStore(tmp_path / "image")
    layer = store.unpack(io.BytesIO(archive))
    assert facts(layer.path) == facts(tree)
    assert store.links(layer.diff_id) == [[b"d/f", b"d/hard"]]


def test_gnu_tar_reads_it(tmp_path: Path) -> None:
    tree = rich_tree(tmp_path / "tree")
    (tmp_path / "out").mkdir()
    subprocess.run(
        ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", "-", "-C", tmp_path / "out"],
        input=packed(tree),
        check=True,
        capture_output=True,
    )
    assert facts(tmp_path / "out") == facts(tree)


def test_sockets_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/f").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "t/socket"))
        assert names(packed(tmp_path / "t")) == ["f"]


def test_equal_files_are_no_hard_links_unless_the_archive_said_so(tmp_path: Path) -> None:
    store = LayerStore(tmp_path / "image")
    layer = store.unpack(
        io.BytesIO(tars.archive(tars.file(b"a", b"x"), tars.file(b"equal", b"x"), tars.hard_link(b"b", b"a")))
    )
    with tarfile.open(fileobj=io.BytesIO(packed(layer.path, links=store.links(layer.diff_id)))) as tar:
        assert {member.name: member.linkname for member in tar.getmembers()} == {"a": "", "b": "a", "equal": ""}


def test_what_is_mounted_inside_is_not_of_the_tree(tmp_path: Path) -> None:
    tree = tmp_path / "t"
    (tree / "m").mkdir(parents=True)
    (tree / "f").touch()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/s").write_text("secret")
    subprocess.run(["mount", "--bind", tmp_path / "secret", tree / "m"], check=True)
    subprocess.run(["mount", "--bind", tmp_path / "secret/s", tree / "f"], check=True)
    try:
        archive = packed(tree)
        with pytest.raises(OSError, match=r"cross-device|busy"):
            remove_tree(tree)
        assert (tmp_path / "secret/s").read_text() == "secret"
    finally:
        subprocess.run(["umount", tree / "m", tree / "f"], check=True)
    assert names(archive) == ["f", "m/"]
    assert b"secret" not in archive
    remove_tree(tree)
    assert (tmp_path / "secret/s").read_text() == "secret"


def test_an_upper_directory_becomes_a_layer_and_that_the_same_upper_directory(tmp_path: Path) -> None:
    for name in ("lower/d/sub", "lower/replaced", "upper", "work", "merged"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("d/kept", "d/gone", "d/sub/x", "replaced/old", "top", "changed"):
        (tmp_path / "lower" / name).write_text(name)
    merged = tmp_path / "merged"
    below = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    options = f"index=off,metacopy=off,redirect_dir=off,{below}"
    subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", merged], check=True)
    try:
        (merged / "d/gone").unlink()
        (merged / "top").unlink()
        remove_tree(merged / "replaced")
        (merged / "replaced").mkdir()
        (merged / "replaced/new").write_text("new")
        (merged / "changed").write_text("other")
        os.link(merged / "changed", merged / "linked")
    finally:
        subprocess.run(["umount", merged], check=True)
    archive = layer_of(tmp_path / "upper")
    assert names(archive) == [
        "changed", "d/", "d/.wh.gone", "linked", "replaced/", "replaced/.wh..wh..opq", "replaced/new", ".wh.top",
    ]  # fmt: skip
    store = LayerStore(tmp_path / "image")
    layer = store.unpack(io.BytesIO(archive))
    with subprocess_overlay(f"{layer.path}:{tmp_path}/lower", merged):
        assert sorted(str(path.relative_to(merged)) for path in merged.rglob("*")) == [
            "changed", "d", "d/kept", "d/sub", "d/sub/x", "linked", "replaced", "replaced/new",
        ]  # fmt: skip
        assert (merged / "linked").read_text() == "other"
    assert layer_of(layer.path) == archive


class subprocess_overlay:
    """A read-only union, mounted for a while."""

    def __init__(self, layers: str, where: Path) -> None:
        self.layers, self.where = layers, where

    def __enter__(self) -> None:
        subprocess.run(
            ["mount", "-t", "overlay", "-o", f"ro,lowerdir={self.layers}", "overlay", self.where], check=True
        )

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", self.where], check=True)


def test_what_no_layer_can_hold_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/.wh.x").touch()
    with pytest.raises(InvalidArgument, match="removal"):
        layer_of(tmp_path / "a")
    (tmp_path / "b/moved").mkdir(parents=True)
    os.setxattr(tmp_path / "b/moved", "trusted.overlay.redirect", b"/old")
    with pytest.raises(CapsaError, match="redirect"):
        layer_of(tmp_path / "b")


def test_overlayfs_own_attributes_stay_behind(tmp_path: Path) -> None:
    (tmp_path / "a/d").mkdir(parents=True)
    os.setxattr(tmp_path / "a/d", "trusted.overlay.origin", b"x")
    os.setxattr(tmp_path / "a/d", "user.mine", b"x")
    with tarfile.open(fileobj=io.BytesIO(layer_of(tmp_path / "a"))) as tar:
        assert list(tar.getmember("d").pax_headers) == ["mtime", "SCHILY.xattr.user.mine"]


def test_a_missing_tree_and_a_full_disk_are_said(tmp_path: Path) -> None:
    with pytest.raises(CapsaError, match="no such file"):
        packed(tmp_path / "none")
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(CapsaError, match="no space left"):
        write_tar(tmp_path, full)


def test_packing_is_not_led_outside_while_the_tree_changes(tmp_path: Path) -> None:
    """A hostile container swaps a directory for a link, and a file for one, over and over."""
    tree, secret = tmp_path / "t", tmp_path / "secret"
    for path in (tree / "d", secret):
        path.mkdir(parents=True)
    (secret / "s").write_text("the secret")
    (tree / "d/f").write_text("plain")
    (tree / "f").write_text("plain")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for name, target in (("d", secret), ("f", secret / "s")):
                os.rename(tree / name, tree / f"{name}.away")
                (tree / name).symlink_to(target)
                (tree / name).unlink()
                os.rename(tree / f"{name}.away", tree / name)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(150):
            archive = packed(tree)
            assert b"the secret" not in archive
            names(archive)  # well-formed
    finally:
        stop.set()
        thread.join()


def test_a_file_that_shrinks_or_grows_does_not_break_the_archive(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    path = tmp_path / "t/f"
    path.write_bytes(b"x" * 500_000)
    (tmp_path / "t/z").write_text("last")
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for size in (0, 700_000, 1):
                os.truncate(path, size)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            assert names(packed(tmp_path / "t")) == ["f", "z"]
    finally:
        stop.set()
        thread.join()


# Removing


def test_removal_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept/inner").mkdir(parents=True)
    (tmp_path / "tree/d").mkdir(parents=True)
    (tmp_path / "tree/d/l").symlink_to(tmp_path / "kept")
    (tmp_path / "tree/up").symlink_to("../kept/inner")
    remove_tree(tmp_path / "tree")
    assert os.listdir(tmp_path) == ["kept"] and (tmp_path / "kept/inner").is_dir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "link")
    assert os.listdir(tmp_path) == ["kept"] and (tmp_path / "kept/inner").is_dir()
    remove_tree(tmp_path / "never was")
    remove_tree(tmp_path / "never/was")


def test_removal_of_modes_files_and_devices(tmp_path: Path) -> None:
    tree = rich_tree(tmp_path / "tree")
    (tree / "d").chmod(0)
    remove_tree(tree)
    (tmp_path / "file").touch()
    remove_tree(tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_removal_needs_no_privilege(tmp_path: Path) -> None:
    """As a user whose tree has directories without any permission."""
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgid(65534)
            os.setuid(65534)
            (tmp_path / "t/closed/inner").mkdir(parents=True)
            (tmp_path / "t/closed/f").touch()
            (tmp_path / "t/closed").chmod(0)
            (tmp_path / "t").chmod(0o500)
            remove_tree(tmp_path / "t")
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.listdir(tmp_path) == []


def test_removal_of_a_tree_deeper_than_names_and_descriptors(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    fd = os.open(tmp_path / "t", os.O_RDONLY)
    for _ in range(5000):
        os.mkdir("d", dir_fd=fd)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    with pytest.raises(InvalidArgument, match="deeper"):
        packed(tmp_path / "t")
    remove_tree(tmp_path / "t")
    assert os.listdir(tmp_path) == []


def test_removal_is_not_led_outside_while_the_tree_changes(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for number in range(50):
        (kept / str(number)).touch()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            try:
                os.rename(tmp_path / "t/d", tmp_path / "t/away")
                (tmp_path / "t/d").symlink_to(kept)
                (tmp_path / "t/d").unlink()
                os.rename(tmp_path / "t/away", tmp_path / "t/d")
            except OSError:
                continue

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(100):
            try:
                (tmp_path / "t/d/e").mkdir(parents=True, exist_ok=True)
                remove_tree(tmp_path / "t")
            except OSError:
                continue  # somebody put something back: said, not ignored
    finally:
        stop.set()
        thread.join()
    assert {str(number) for number in range(50)} <= set(os.listdir(kept))
