"""Images on Genode: a merged directory of the layers, and every file of it as a ROM named by its content.

Core's ROM service hands out the files of its working directory, and the same file is the same dataspace for everybody.
So files get a name there that follows from their content: equal files of all images are one ROM.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from capsa.errors import LaunchFailed, reason

MOST_ROMS = 2000
MOST_TEXT, MOST_TEXTS = 64 << 10, 4 << 20  # bytes of a file that may be a configuration, and of all of them
_NAME = re.compile(r"[A-Za-z0-9_.+-]{1,63}")
_OPAQUE = "trusted.overlay.opaque"


class Contents(msgspec.Struct):
    """A merged image: the SHA-256 (base64url) of its files by ROM name, small texts by path, and an archive of all."""

    archive: str
    roms: dict[str, str]
    texts: dict[str, str]


class Images:
    """All images that this Genode has been given, below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._merged = directory / "image"
        self._pool = directory / "rom"

    def get(self, layers: Sequence[str]) -> Contents:
        """The image of these layers (directories, lowest first); made when first asked for. Raises `LaunchFailed`."""
        key = hashlib.sha256("\0".join(layers).encode()).hexdigest()
        where = self._merged / f"{key}.json"
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(where.read_bytes(), type=Contents)
        try:
            self._merged.mkdir(parents=True, exist_ok=True)
            self._pool.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._merged) as scratch:
                found = self._make(layers, Path(scratch))
                index = Path(scratch, "index.json")
                index.write_bytes(msgspec.json.encode(found))
                os.rename(index, where)
        except OSError as error:
            raise LaunchFailed(f"cannot merge the layers of the image: {error.filename}: {reason(error)}") from error
        return found

    def path(self, content: str) -> Path:
        """The file of that content."""
        return self._pool / content

    def _make(self, layers: Sequence[str], scratch: Path) -> Contents:
        tree = scratch / "tree"
        tree.mkdir()
        for layer in layers:
            _lay(Path(layer), tree)
        found = Contents(self._archive(tree, scratch / "image.tar"), {}, {})
        room = MOST_TEXTS
        for path in sorted(_files(tree), key=lambda path: (path.count("/"), path)):
            name = path.rpartition("/")[2]
            known = name in found.roms or name == "config"  # which is another one for each component
            if not known and _NAME.fullmatch(name) and len(found.roms) < MOST_ROMS:
                found.roms[name] = self._add(tree / path)
            size = (tree / path).stat().st_size
            if size <= min(MOST_TEXT, room):
                with contextlib.suppress(UnicodeDecodeError):
                    found.texts[f"/{path}"] = (tree / path).read_text("utf-8")
                    room -= size
        return found

    def _archive(self, tree: Path, path: Path) -> str:
        """One archive of the merged image: the VFS reads it in place, for all containers of the image together."""
        with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
            for inside in sorted(str(each.relative_to(tree)) for each in tree.rglob("*")):
                archive.inodes.clear()  # type: ignore[attr-defined]  # a hard link is a file: Genode knows none
                archive.add(tree / inside, inside, recursive=False, filter=_plain)
        return self._add(path)

    def _add(self, path: Path) -> str:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        # Core takes names of at most 63 bytes, which hexadecimal digits would not leave room for.
        content = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        try:
            os.link(path, self._pool / content)
        except FileExistsError:
            pass
        except OSError:  # too many links already, or another file system
            part = f"{path}.part"
            shutil.copyfile(path, part)
            os.rename(part, self._pool / content)
        return content


def _files(tree: Path) -> list[str]:
    """Paths of all regular files, from ``tree`` on."""
    found = []
    for directory, _names, files in os.walk(tree):
        for name in files:
            path = Path(directory, name)
            if stat.S_ISREG(path.lstat().st_mode):
                found.append(str(path.relative_to(tree)))
    return found


def _lay(layer: Path, tree: Path) -> None:
    """Lay one layer over what is in ``tree``; files are links to those of the layer."""
    for source, names, files in os.walk(layer):
        at = tree / Path(source).relative_to(layer)
        if source != str(layer):
            if not _is_directory(at):
                _remove(at)
                at.mkdir()
            elif _opaque(source):
                for name in os.listdir(at):
                    _remove(at / name)
        for name in [*files, *(each for each in names if os.path.islink(os.path.join(source, each)))]:
            path, target = Path(source, name), at / name
            status = path.lstat()
            _remove(target)
            if stat.S_ISREG(status.st_mode):
                try:
                    os.link(path, target)
                except OSError:
                    shutil.copyfile(path, target)
            elif stat.S_ISLNK(status.st_mode):
                os.symlink(os.readlink(path), target)
            # A whiteout is a device 0:0, which is gone now; other devices mean nothing to Genode.


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """What Genode's VFS knows: directories, files and symbolic links."""
    return member if member.isreg() or member.isdir() or member.issym() else None


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    if _is_directory(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _opaque(path: str) -> bool:
    try:
        return os.getxattr(path, _OPAQUE) == b"y"
    except OSError:
        return False
