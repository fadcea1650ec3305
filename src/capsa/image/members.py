"""The members of an image archive or an OCI layout folder: regular files and links, under names that stay inside.

Layers are tar archives, too; what is read here is what wraps them.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from capsa.errors import BrokenArchive, CapsaError, reason
from capsa.image import tar

MAX_MEMBERS = 50_000
MAX_NAME = 4096
PART = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One file of ``size`` bytes, or, with ``target``, a link to that member."""

    name: str
    size: int = 0
    target: str = ""


class Members(Protocol):
    """Iterates over members; between two of them, `parts` gives the content of the last one."""

    def __iter__(self) -> Iterator[Member]: ...

    def parts(self) -> Iterator[bytes | memoryview]: ...


class TarMembers:
    """The members of a tar archive; ``pull`` returns its next bytes, uncompressed, and nothing at the end."""

    def __init__(self, pull: Callable[[], bytes]) -> None:
        self._reader = tar.TarReader(pull)

    def __iter__(self) -> Iterator[Member]:
        count = 0
        for entry in self._reader:
            count += 1
            if count > MAX_MEMBERS:
                raise BrokenArchive(f"the archive has more than {MAX_MEMBERS} members")
            name = inside(_text(entry.name))
            if entry.type == tar.REGULAR:
                if entry.extents is not None:
                    raise BrokenArchive(f"the archive has a sparse file {name!r}, which image archives do not have")
                yield Member(name, size=entry.size)
            elif entry.type == tar.SYMLINK:
                yield Member(name, target=_target(name, _text(entry.link)))
            elif entry.type == tar.HARD_LINK:
                yield Member(name, target=inside(_text(entry.link)))
            elif entry.type != tar.DIRECTORY:
                raise BrokenArchive(f"the archive has a device or pipe {name!r}, which image archives do not have")
        if not count:
            raise BrokenArchive("the archive is empty")
        self._reader.drain()

    def parts(self) -> Iterator[bytes | memoryview]:
        """The last member's content, piece by piece."""
        return self._reader.parts()


class FolderMembers:
    """The files below a folder of this machine. The kernel is never made to follow a link that is in there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fd = -1

    def __iter__(self) -> Iterator[Member]:
        count = 0
        for top, _, files in os.walk(self._folder):
            for file in sorted(files):
                count += 1
                if count > MAX_MEMBERS:
                    raise BrokenArchive(f"{self._folder} has more than {MAX_MEMBERS} files")
                path = Path(top, file)
                name = inside(str(path.relative_to(self._folder)))
                if path.is_symlink():
                    yield Member(name, target=_target(name, str(path.readlink())))
                else:
                    yield from self._regular(path, name)

    def _regular(self, path: Path, name: str) -> Iterator[Member]:
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise CapsaError(f"cannot read {path}: {reason(error)}") from error
        try:
            found = os.fstat(self._fd)
            if stat.S_ISREG(found.st_mode):
                yield Member(name, size=found.st_size)
        finally:
            os.close(self._fd)

    def parts(self) -> Iterator[bytes | memoryview]:
        """The last member's content, piece by piece."""
        while part := os.read(self._fd, PART):
            yield part


def inside(name: str) -> str:
    """A name without ``./`` and doubled slashes; raises `BrokenArchive` for one that is absolute or leads upwards."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name or len(name) > MAX_NAME:
        raise BrokenArchive(f"the archive has the name {name[:200]!r}, which leads out of it")
    return "/".join(parts)


def _target(name: str, target: str) -> str:
    """Where a symbolic link leads, from the top of the archive."""
    where = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if where.startswith(("/", "../")) or where == "..":
        raise BrokenArchive(f"the archive has a link {name[:200]!r} that leads out of it")
    return inside(where)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise BrokenArchive(f"the archive has the name {tar.shown(name)}, which is not UTF-8") from None
