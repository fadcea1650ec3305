"""What attaching to a Genode needs, as far as no Genode is needed for it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from fixtures.genode import documented

from capsa import hid
from capsa.errors import InvalidArgument
from capsa.platform.genode import budget, compile, file_servers, output
from capsa.platform.genode.budget import MIB, Quota
from capsa.platform.genode.bundle import Bundle
from capsa.platform.genode.equipment import Equipment
from capsa.platform.genode.log_file import LogFile
from capsa.platform.genode.platform import GenodePlatform, Place, parse

HAS = Equipment(cow=True)
MADE = Bundle(name="c-1", binary="hello", roms=(("hello", "H" * 43),), quota=Quota(4 * MIB, 100), volatile=True)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("genode=/srv/bin", Place(Path("/srv/bin"))),
        ("genode=attach:/a/config,/a/report", Place(Path("/a/config"), Path("/a/report"))),
        ("genode=./attach", Place(Path("attach"))),
    ],
)
def test_a_genode_is_started_or_attached_to(text: str, place: Place) -> None:
    assert parse(text) == place


@pytest.mark.parametrize(
    "text", ["genode", "genode=", "linux=/x", "genode=attach:", "genode=attach:/a", "genode=attach:,/b"]
)
def test_other_places_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="write genode=DIRECTORY or genode=attach:CONFIG,REPORT"):
        parse(text)


def test_directories_that_are_none_are_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for config, report in (("none", "."), (".", "file")):
        with pytest.raises(InvalidArgument, match="it is no directory to write to"):
            GenodePlatform(tmp_path, tmp_path, Place(tmp_path / config, tmp_path / report))


def test_the_documented_configuration_is_one_and_delivers_what_containers_need() -> None:
    top = hid.read(documented())
    names = [start.name for start in top.nodes("start")]
    assert names == ["timer", "lx_fs", "config_rom", "fs_report", "log_file", compile.CONTAINERS]
    containers = top.node("start", compile.CONTAINERS)
    assert containers is not None
    route = containers.node("route")
    assert route is not None
    served = {way.name for way in route.nodes("service")}
    assert served >= {"ROM", "File_system", "Report", "LOG", "Timer"}


def test_changes_of_files_are_kept_in_memory() -> None:
    tree = file_servers.Tree("IMAGE", "")
    text = " ".join(hid.write(compile.subinit(MADE, tree, has=HAS)).split())
    assert "+ upper | limit: 16M | + ram + lower | + tar image" in text
    assert "lx_fs" not in text and "+ fs" not in text
    text = " ".join(hid.write(compile.subinit(MADE, tree)).split())
    assert "+ ram + tar image" in text
    assert compile.quota(MADE) == budget.INIT + budget.VFS + file_servers.CHANGES + MADE.quota
    fixed = msgspec.structs.replace(MADE, read_only=True)
    assert "ram" not in [each.type for each in _vfs(fixed, tree).nodes()]
    assert compile.quota(fixed) == budget.INIT + budget.VFS + MADE.quota


def _vfs(bundle: Bundle, tree: file_servers.Tree) -> hid.Node:
    start = compile.subinit(bundle, tree, has=HAS).node("start", "vfs")
    assert start is not None
    config = start.node("config")
    assert config is not None
    vfs = config.node("vfs")
    assert vfs is not None
    return vfs


def test_lines_of_a_file_begin_with_labels_of_which_core_is_no_part() -> None:
    lines = output.Lines("")
    found = lines.feed(
        b"[containers -> c-1 -> main] hello\x1b[0m\n[containers -> c-1 -> main -> x] [containers -> c-2 -> main] no\n"
        b"[init -> containers -> c-3 -> main] not from here\n[containers] child\n"
    )
    assert [each.container for each in found] == ["c-1", "c-1", "", ""]
    assert [each.component for each in found] == ["main", "main", "", ""]
    assert [each.text for each in found[:2]] == [b"hello", b"[containers -> c-2 -> main] no"]


def test_a_log_is_read_from_now_on_and_through_the_change_of_files(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    log = LogFile(path)
    assert log.there and list(log.read()) == []
    with path.open("ab") as file:
        file.write(b"one\n")
        file.flush()
        assert list(log.read()) == [b"one\n"]
        file.write(b"two\n")
        file.flush()
        os.rename(path, tmp_path / "log.old")
        assert list(log.read()) == [b"two\n"]  # the new one is not there yet
        file.write(b"three\n")
    path.write_bytes(b"four\n")
    assert list(log.read()) == [b"three\n", b"four\n"]
    log.close()


def test_a_log_that_appears_late_is_read_as_a_whole_and_nothing_but_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(path)
    assert not log.there and list(log.read()) == []
    os.mkfifo(path)
    assert not log.there
    path.unlink()
    (tmp_path / "secret").write_text("secret")
    path.symlink_to(tmp_path / "secret")
    assert not log.there and list(log.read()) == []
    path.unlink()
    path.write_text("first\n")
    assert list(log.read()) == [b"first\n"]
    log.close()
