"""What a container changed in its image's files (``docker diff``), found out without a mount.

Only the container's own writable directory is walked, and compared with the layers below: by type, mode, owner, and of
what is no directory time and size, as Docker does it. All is opened by descriptors and no link is followed, since the
container may run meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

import msgspec

from capsa.engine import markers, places
from capsa.engine.union import down, merged, opaque
from capsa.errors import InvalidArgument

MODIFIED, ADDED, DELETED = 0, 1, 2
_DEPTH = 500
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACES = frozenset(
    f"/{name}"
    for name in (
        *(*places.DIRECTORIES, *places.FILES, ".dockerenv"),
        *("dev/console", "dev/mqueue", "dev/pts", "dev/shm"),
    )
)
"""Where the engine mounts something of its own: made for that, they are no change of the container's."""


class Change(msgspec.Struct, frozen=True):
    """One change; ``kind`` is 0 for modified, 1 for added, 2 for deleted."""

    path: str = msgspec.field(name="Path")
    kind: int = msgspec.field(name="Kind")


class Changes:
    """The changes in the directory ``upper`` above ``layers`` (uppermost first).

    ``untouched`` has in the end what lies there and is no change, nor is anything below it (without leading slashes).
    """

    def __init__(self, upper: str, layers: Sequence[str], *, marked: bool = False) -> None:
        """``marked``: removals are in ``upper`` as `capsa.engine.markers` has them."""
        self.untouched: set[bytes] = set()
        self._marked = marked
        self._upper = upper
        self._layers = layers

    def __iter__(self) -> Iterator[Change]:
        """A directory before what is in it; raises `InvalidArgument` for a tree that is too deep, `OSError`."""
        level = [os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for layer in self._layers]
        top = os.open(self._upper, _DIRECTORY)
        try:
            yield from self._directory(top, level, "", 0, opaque(top))
        finally:
            _close([top, *level])

    def _directory(self, upper: int, level: list[int], path: str, depth: int, solid: bool) -> Iterator[Change]:
        """``solid``: what the layers have there does not shine through."""
        if depth > _DEPTH:
            raise InvalidArgument(f"the container's directories are nested deeper than {_DEPTH}")
        names, hidden = set(os.listdir(upper)), set[str]()
        if self._marked:
            names, hidden, all_hidden = markers.split(names)
            solid = solid or all_hidden
        gone = set[str]()
        if level and (solid or hidden):
            below = merged(level)
            gone = {name for name in below if name not in names and (solid or name in hidden)}
        for name in sorted(names | gone):
            if name in gone:
                yield Change(f"{path}/{name}", DELETED)
            else:
                yield from self._entry(upper, level, f"{path}/{name}", name, depth, solid or name in hidden)

    def _entry(self, upper: int, level: list[int], path: str, name: str, depth: int, solid: bool) -> Iterator[Change]:
        try:
            now = os.stat(name, dir_fd=upper, follow_symlinks=False)
        except FileNotFoundError:
            return  # just removed
        before, where = _below(level, name)
        if stat.S_ISCHR(now.st_mode) and now.st_rdev == 0:
            if before is not None:
                yield Change(path, DELETED)
            return
        if before is None:
            own: Change | None = Change(path, ADDED)
        elif _differ(before, now) or _capability(level[where], name) != _capability(upper, name):
            own = Change(path, MODIFIED)
        else:
            own = None
        place = before is None and path in _PLACES and not (stat.S_ISREG(now.st_mode) and now.st_size)
        if own is not None and not place:
            yield own
        told = own is not None and not place
        if stat.S_ISDIR(now.st_mode):
            below = level[where:] if before is not None else []
            for change in self._inside(upper, below, path, name, depth, solid):
                if not told:
                    yield Change(path, ADDED if before is None else MODIFIED)
                    told = True
                yield change
        if not told:
            self.untouched.add(os.fsencode(path[1:]))

    def _inside(self, upper: int, level: list[int], path: str, name: str, depth: int, solid: bool) -> Iterator[Change]:
        try:
            inner = os.open(name, _DIRECTORY, dir_fd=upper)
        except OSError:
            return  # no directory any more
        below = down(level, name)
        try:
            yield from self._directory(inner, below, path, depth + 1, solid or opaque(inner))
        finally:
            _close([inner, *below])


def _below(level: list[int], name: str) -> tuple[os.stat_result | None, int]:
    """What the layers have at ``name``, and which of them."""
    for number, fd in enumerate(level):
        try:
            found = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0:
            break
        return found, number
    return None, 0


def _differ(before: os.stat_result, now: os.stat_result) -> bool:
    same = (before.st_mode, before.st_uid, before.st_gid, before.st_rdev)
    if same != (now.st_mode, now.st_uid, now.st_gid, now.st_rdev):
        return True
    if stat.S_ISDIR(now.st_mode):
        return False
    return (before.st_mtime_ns, before.st_size) != (now.st_mtime_ns, now.st_size)


def _capability(parent: int, name: str) -> bytes:
    try:
        return os.getxattr(f"/proc/self/fd/{parent}/{name}", "security.capability", follow_symlinks=False)
    except OSError:
        return b""


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
