"""A writable layer in the form of OCI image layers, as Genode's plugin `cow` keeps it (genode/README.md).

Where overlayfs has a device 0:0 and an attribute, there are files: ``.wh.NAME`` hides NAME of the layers below,
``.wh..wh..opq`` all that they have in a directory, and ``.wh..wh.work`` is scratch space. Such a layer is shown by an
overlay as a lower one, above a `veil` that hides what the markers hide. What is written goes into a writable layer in
overlayfs' own form, which `apply` then puts into the one with markers.

The component may change its layer meanwhile, and made it what it is: all is opened by descriptors, no link followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager

from capsa.errors import InvalidArgument, Unsupported
from capsa.image import attributes
from capsa.image.rmtree import remove_tree_at

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
_RESERVED = ".wh..wh."
_ATTRIBUTE = "trusted.overlay.opaque"
_DEPTH = 500
_LONGEST = 127  # bytes of a name in Genode's VFS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MARKER = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


def is_marker(name: str) -> bool:
    """Whether an entry of such a layer is the plugin's: no component sees it."""
    return name.startswith(WHITEOUT)


def split(names: Iterable[str]) -> tuple[set[str], set[str], bool]:
    """What the names in a directory mean: entries, names that are hidden below, and whether all are."""
    entries, hidden, opaque = set(), set(), False
    for name in names:
        if not is_marker(name):
            entries.add(name)
        elif name == OPAQUE:
            opaque = True
        elif not name.startswith(_RESERVED):
            hidden.add(name.removeprefix(WHITEOUT))
    return entries, hidden - {"", ".", ".."}, opaque


# ---- looking ----


def veil(upper: str, target: str) -> None:
    """Make ``target``, an empty directory, a layer that hides from those below what the markers in ``upper`` hide.

    An entry beside its own whiteout counts, and hides what is below it. Raises `OSError`, `InvalidArgument` for a tree
    that is too deep.
    """
    top = os.open(upper, _DIRECTORY)
    place = os.open(target, _DIRECTORY)
    try:
        _veil(top, place, [], 0)
    finally:
        os.close(place)
        os.close(top)


def _veil(upper: int, target: int, path: list[str], depth: int) -> None:
    """``path``: directories below ``target`` that ``upper`` stands for, made when the first marker needs them."""
    if depth > _DEPTH:
        raise InvalidArgument(f"the container's directories are nested deeper than {_DEPTH}")
    entries, hidden, opaque = split(os.listdir(upper))
    if hidden or opaque:
        here = _made(target, path)
        try:
            for name in hidden:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=here)
            if opaque:
                os.setxattr(here, _ATTRIBUTE, b"y")
        finally:
            os.close(here)
    for name in entries - hidden:  # below a whiteout nothing is left to hide
        with _opened(upper, name) as inner:
            if inner is not None:
                _veil(inner, target, [*path, name], depth + 1)


def _made(target: int, path: list[str]) -> int:
    here = os.dup(target)
    for name in path:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=here)
        inner = os.open(name, _DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    return here


# ---- writing ----

Known = Mapping[str, tuple[int, ...]]
"""What was in a writable directory before somebody used it, by path from there on: mode, owner and time."""


def known(scratch: int) -> Known:
    """What is in an open directory now; raises `InvalidArgument` for a tree that is too deep."""
    return {path: _state(status) for path, _name, status in _walk(scratch)}


def check(scratch: int, before: Known) -> None:
    """Refuse what a component could not see, or would take for a marker, before any of it is applied.

    Raises `InvalidArgument`, `Unsupported`.
    """
    for path, name, status in _walk(scratch):
        kind = stat.S_IFMT(status.st_mode)
        if path in before or (kind == stat.S_IFCHR and status.st_rdev == 0):
            continue
        if is_marker(name):
            raise InvalidArgument(f"{path} cannot be in a layer: names with {WHITEOUT} mean removal there")
        if len(os.fsencode(name)) > _LONGEST:
            raise InvalidArgument(f"the name of {path[:200]} is longer than Genode's {_LONGEST} bytes")
        if kind == stat.S_IFLNK:
            raise Unsupported(f"{path} is a symbolic link, which a container on Genode cannot have: leave it out")
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise Unsupported(f"{path} is neither a file nor a directory: a container on Genode cannot have it")


def apply(scratch: int, upper: int, before: Known) -> None:
    """Move what came into ``scratch``, an overlay's writable directory, to ``upper``, which has markers; both are open.

    What was there ``before`` was made for mounts, and is left out. Both have to be on one file system. Raises
    `OSError`, and `InvalidArgument` for a tree that is too deep.
    """
    wanted = set()
    for path, _name, status in _walk(scratch):
        if before.get(path) != _state(status):
            while path not in wanted:
                wanted.add(path)
                path = path.rpartition("/")[0]
    _apply(scratch, upper, "", wanted)


def _walk(directory: int, path: str = "", depth: int = 0) -> Iterator[tuple[str, str, os.stat_result]]:
    """Paths from an open directory on, with a leading slash, their last component, and what is there."""
    if depth > _DEPTH:
        raise InvalidArgument(f"the archive's directories are nested deeper than {_DEPTH}")
    for name in os.listdir(directory):
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        yield f"{path}/{name}", name, status
        if stat.S_ISDIR(status.st_mode):
            with _opened(directory, name) as inner:
                if inner is not None:
                    yield from _walk(inner, f"{path}/{name}", depth + 1)


def _state(status: os.stat_result) -> tuple[int, ...]:
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns


def _apply(source: int, target: int, path: str, wanted: Container[str]) -> None:
    for name in sorted(os.listdir(source)):
        inside = f"{path}/{name}"
        if inside not in wanted:
            continue
        status = os.stat(name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            with _opened(source, name) as inner:
                if inner is not None:
                    _directory(inner, target, name, inside, wanted)
        elif stat.S_ISCHR(status.st_mode):
            if not is_marker(name):
                _mark(target, WHITEOUT + name)
            remove_tree_at(target, os.fsencode(name))
        else:
            if _is_directory(target, name):
                remove_tree_at(target, os.fsencode(name))
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
            _unmark(target, WHITEOUT + name)
    _like(source, target)


def _directory(source: int, parent: int, name: str, path: str, wanted: Container[str]) -> None:
    solid = _has_attribute(source)
    if solid or not _is_directory(parent, name):
        remove_tree_at(parent, os.fsencode(name))
        os.mkdir(name, 0o700, dir_fd=parent)
    target = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        if solid or _exists(parent, WHITEOUT + name):
            _mark(target, OPAQUE)
        _unmark(parent, WHITEOUT + name)
        _apply(source, target, path, wanted)
    finally:
        os.close(target)


def _like(source: int, target: int) -> None:
    """Owner, mode, attributes and times of a directory."""
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, stat.S_IMODE(status.st_mode))
    for name, value in attributes.read(source).items():
        if attributes.kept(name):
            os.setxattr(target, name, value)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _mark(directory: int, name: str) -> None:
    os.close(os.open(name, _MARKER, 0o644, dir_fd=directory))


def _unmark(directory: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_directory(directory: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _has_attribute(directory: int) -> bool:
    try:
        return os.getxattr(directory, _ATTRIBUTE) == b"y"
    except OSError:
        return False


@contextmanager
def _opened(directory: int, name: str) -> Iterator[int | None]:
    """``name`` if it is a directory, and still there."""
    try:
        inner = os.open(name, _DIRECTORY, dir_fd=directory)
    except OSError:
        yield None
        return
    try:
        yield inner
    finally:
        os.close(inner)
