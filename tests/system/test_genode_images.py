"""Layers merged for Genode: programs by their content, and one archive that its VFS reads."""

from __future__ import annotations

import os
import stat
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from capsa.errors import LaunchFailed
from capsa.platform.genode.image import Contents, Images


@pytest.fixture
def layers(need_root: None, tmp_path: Path) -> list[Path]:
    made = [tmp_path / "lower", tmp_path / "upper"]
    for each in made:
        each.mkdir()
    return made


def write(path: Path, text: str = "x") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def hide(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR, 0)


def merged(images: Images, layers: list[Path]) -> tuple[Contents, dict[str, str]]:
    """What became of them, and the archive's files with their content or their target."""
    found = images.get([str(layer) for layer in layers])
    files = {}
    with tarfile.open(images.path(found.archive)) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            files[member.name] = file.read().decode() if file else f"-> {member.linkname}" if member.issym() else "/"
    return found, files


def test_upper_layers_hide_and_replace(layers: list[Path], tmp_path: Path) -> None:
    lower, upper = layers
    for name in ("bin/hello", "gone", "kept", "opaque/old", "becomes-directory", "becomes-file/x"):
        write(lower / name, name)
    (lower / "link").symlink_to("kept")
    hide(upper / "gone")
    write(upper / "opaque/new")
    os.setxattr(upper / "opaque", "trusted.overlay.opaque", b"y")
    write(upper / "becomes-directory/y")
    write(upper / "becomes-file")
    found, files = merged(Images(tmp_path / "store"), layers)
    assert files == {
        "becomes-directory": "/",
        "becomes-directory/y": "x",
        "becomes-file": "x",
        "bin": "/",
        "bin/hello": "bin/hello",
        "kept": "kept",
        "link": "-> kept",
        "opaque": "/",
        "opaque/new": "x",
    }
    assert set(found.roms) == {"becomes-file", "y", "hello", "kept", "new"}
    assert found.texts["/bin/hello"] == "bin/hello"


def test_equal_files_of_all_images_are_one_rom(layers: list[Path], tmp_path: Path) -> None:
    lower, upper = layers
    for path in (lower / "a", lower / "b", upper / "sub/c"):
        write(path, "same")
    images = Images(tmp_path / "store")
    one, files = merged(images, [lower])
    other, _ = merged(images, [upper])
    assert one.roms["a"] == one.roms["b"] == other.roms["c"]
    assert files == {"a": "same", "b": "same"}
    assert images.path(one.roms["a"]).read_text() == "same" and len(one.roms["a"]) == 43


def test_links_of_a_lower_layer_lead_no_upper_one_astray(layers: list[Path], tmp_path: Path) -> None:
    lower, upper = layers
    outside = tmp_path / "outside"
    write(outside / "file", "mine")
    (lower / "directory").symlink_to(outside)
    (lower / "file").symlink_to(outside / "file")
    write(upper / "directory/file", "theirs")
    write(upper / "file", "theirs")
    _, files = merged(Images(tmp_path / "store"), layers)
    assert files == {"directory": "/", "directory/file": "theirs", "file": "theirs"}
    assert (outside / "file").read_text() == "mine"
    (upper / "directory/file").unlink()
    (upper / "directory").rmdir()
    (upper / "root").symlink_to("/etc")
    _, files = merged(Images(tmp_path / "other"), layers)
    assert files["root"] == "-> /etc" and files["directory"] == f"-> {outside}"


def test_many_at_once_make_one(layers: list[Path], tmp_path: Path) -> None:
    for number in range(200):
        write(layers[0] / f"file{number}", f"{number}")
    images = Images(tmp_path / "store")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: images.get([str(layers[0])]), range(8)))
    assert all(each == found[0] for each in found) and len(found[0].roms) == 200
    assert [path.suffix for path in (tmp_path / "store/image").iterdir()] == [".json"]


def test_what_cannot_be_merged_is_named_and_leaves_nothing(layers: list[Path], tmp_path: Path) -> None:
    write(layers[0] / "file")
    (tmp_path / "store").write_text("no directory")
    with pytest.raises(LaunchFailed, match="cannot merge the layers of the image"):
        Images(tmp_path / "store").get([str(layers[0])])
