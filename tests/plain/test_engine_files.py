"""Looking into a container's tree without leaving it: users, groups, volumes filled from images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from capsa.engine import copyup, users
from capsa.engine.union import Union, merged
from capsa.errors import InvalidArgument

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nbob:x:1000:100:Bob:/home/bob:/bin/sh\nbroken\nhuge:x:99999999999:0::/:/x\n"
GROUP = b"root:x:0:\nusers:x:100:\nvideo:x:44:bob,alice\nwheel:x:10:root,bob\n"
KNOWN = users.parse(PASSWD, GROUP)


@pytest.mark.parametrize(
    ("wanted", "uid", "gid", "more", "home"),
    [
        ("", 0, 0, [0, 10], "/root"),
        ("root", 0, 0, [0, 10], "/root"),
        ("bob", 1000, 100, [100, 44, 10], "/home/bob"),
        ("1000", 1000, 100, [100, 44, 10], "/home/bob"),
        ("bob:video", 1000, 44, [44], "/home/bob"),
        ("4711", 4711, 0, [0], "/"),
        ("4711:4712", 4711, 4712, [4712], "/"),
        (":users", 0, 100, [100], "/root"),
    ],
)
def test_users_are_resolved_with_the_containers_own_files(
    wanted: str, uid: int, gid: int, more: list[int], home: str
) -> None:
    user, found_home = users.resolve(wanted, [], KNOWN)
    assert (user.uid, user.gid, user.additional_gids, found_home) == (uid, gid, more, home)


@pytest.mark.parametrize("wanted", ["nobody", "bob:nogroup", "4294967295", "-1", "huge"])
def test_unknown_names_are_refused(wanted: str) -> None:
    with pytest.raises(InvalidArgument, match="unable to find"):
        users.resolve(wanted, [], KNOWN)


def test_groups_are_added_by_name_or_number() -> None:
    user, _home = users.resolve("bob", ["users", "4000"], KNOWN)
    assert user.additional_gids == [100, 44, 10, 4000]
    with pytest.raises(InvalidArgument, match="Unable to find group nothere"):
        users.resolve("bob", ["nothere"], KNOWN)


def test_an_image_without_accounts_has_numbers_only() -> None:
    nobody = users.parse(None, None)
    assert users.resolve("12:13", [], nobody)[0].gid == 13
    with pytest.raises(InvalidArgument):
        users.resolve("root", [], nobody)


@pytest.fixture
def layers(tmp_path: Path) -> list[str]:
    """Two layers, uppermost first."""
    for name in ("upper", "lower"):
        (tmp_path / name / "etc").mkdir(parents=True)
    (tmp_path / "lower/etc/passwd").write_bytes(PASSWD)
    (tmp_path / "lower/etc/group").write_bytes(GROUP)
    return [str(tmp_path / "upper"), str(tmp_path / "lower")]


def test_the_uppermost_layer_wins(layers: list[str]) -> None:
    Path(layers[0], "etc/group").write_bytes(b"other:x:5:\n")
    with Union(layers) as tree:
        assert tree.read("/etc/group") == b"other:x:5:\n"
        assert tree.read("/etc/passwd") == PASSWD
        assert tree.read("/etc/shadow") is None
        assert tree.read("/etc") is None


def test_links_stay_inside_the_tree(layers: list[str], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("the host's")
    etc = Path(layers[0], "etc")
    (etc / "absolute").symlink_to("/etc/passwd")
    (etc / "outside").symlink_to(tmp_path / "secret")
    (etc / "above").symlink_to("../../../../../../secret")
    (etc / "round").symlink_to("round")
    Path(layers[0], "link").symlink_to("etc")
    with Union(layers) as tree:
        assert tree.read("/etc/absolute") == PASSWD
        assert tree.read("/link/passwd") == PASSWD
        assert tree.read("/etc/../../../etc/passwd") == PASSWD
        for name in ("outside", "above", "round"):
            assert tree.read(f"/etc/{name}") is None


def test_a_fifo_or_an_endless_file_does_not_stop_the_engine(layers: list[str]) -> None:
    os.mkfifo(Path(layers[0], "etc/passwd"))
    with open(Path(layers[0], "etc/group"), "wb") as file:
        file.truncate(1 << 40)
    with Union(layers) as tree:
        assert tree.read("/etc/passwd") is None
        with pytest.raises(InvalidArgument, match="larger"):
            tree.read("/etc/group")


def test_a_containers_own_accounts_count(layers: list[str]) -> None:
    assert users.accounts([layers[1]], layers[0]).users == KNOWN.users
    Path(layers[0], "etc/passwd").write_bytes(b"eve:x:7:7::/e:/x\n")
    assert [account.name for account in users.accounts([layers[1]], layers[0]).users] == ["eve"]


def test_no_descriptor_is_left_open(layers: list[str]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Union(layers) as tree:
        tree.read("/etc/passwd")
        tree.read("/no/such/thing")
        with tree.directory("/etc") as found:
            assert set(merged(found)) == {"passwd", "group"}
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_new_volume_is_filled_with_the_images_content(layers: list[str], tmp_path: Path) -> None:
    data = Path(layers[1], "data")
    (data / "sub").mkdir(parents=True)
    (data / "sub/file").write_text("content")
    (data / "sub/file").chmod(0o640)
    (data / "link").symlink_to("/anywhere")
    os.link(data / "sub/file", data / "twin")
    Path(layers[0], "data").mkdir(mode=0o750)
    Path(layers[0], "data/above").write_text("upper")
    volume = tmp_path / "volume/_data"
    volume.mkdir(parents=True)
    await copyup.fill(volume, layers, "/data")
    assert sorted(entry.name for entry in volume.iterdir()) == ["above", "link", "sub", "twin"]
    assert (volume / "sub/file").read_text() == "content"
    assert (volume / "sub/file").stat().st_mode & 0o777 == 0o640
    assert os.readlink(volume / "link") == "/anywhere"
    assert volume.stat().st_mode & 0o777 == 0o750
    # equal files of layers share an inode: that must not make them one file of the volume
    assert (volume / "twin").stat().st_ino != (volume / "sub/file").stat().st_ino


async def test_a_volume_with_content_is_left_alone(layers: list[str], tmp_path: Path) -> None:
    volume = tmp_path / "volume/_data"
    volume.mkdir(parents=True)
    (volume / "mine").write_text("x")
    await copyup.fill(volume, layers, "/etc")
    assert [entry.name for entry in volume.iterdir()] == ["mine"]
