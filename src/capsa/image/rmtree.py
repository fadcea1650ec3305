"""Removing trees of strangers: no link is followed, no mode stops it, no depth is too deep, no mount is emptied."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from capsa.image.beneath import open_beneath

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH = 64


def remove_tree(path: Path | str | bytes) -> None:
    """Remove ``path`` and all below; nothing happens where there is nothing. A link is removed, not what it leads to.

    Works by directory file descriptors, so it does not leave the tree even if somebody moves its directories or
    replaces them by links meanwhile; gives itself the permissions on directories that it needs. The tree may be deeper
    than names can be long. A mount inside is an `OSError` (EXDEV, EBUSY), and what is mounted there is left alone.
    """
    parent, name = os.path.split(os.path.abspath(os.fsencode(path)))
    try:
        directory = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        remove_tree_at(directory, name)
    finally:
        os.close(directory)


def remove_tree_at(directory: int, name: bytes) -> None:
    """`remove_tree` for ``name`` in the open directory ``directory``."""
    if _unlinked(directory, name):
        return
    try:
        top = _open(directory, name)
    except FileNotFoundError:
        return
    try:
        # What lies deeper than _DEPTH is first moved up here, and found by the next round.
        while _emptied(top, top, 0):
            pass
    finally:
        os.close(top)
    _rmdir(directory, name)


def _emptied(directory: int, top: int, depth: int) -> bool:
    """Remove all of ``directory``; returns whether something was moved to ``top`` instead."""
    moved = False
    with os.scandir(directory) as entries:
        names = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_directory in names:
        if not is_directory and _unlinked(directory, name):
            continue
        try:
            inner = _open(directory, name)
        except FileNotFoundError:
            continue
        try:
            if depth == _DEPTH:
                os.rename(name, secrets.token_hex(16).encode(), src_dir_fd=directory, dst_dir_fd=top)
                moved = True
                continue
            moved |= _emptied(inner, top, depth + 1)
        finally:
            os.close(inner)
        _rmdir(directory, name)
    return moved


def _unlinked(directory: int, name: bytes) -> bool:
    """Whether ``name`` is gone now, without having been a directory."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return False
    return True


def _rmdir(directory: int, name: bytes) -> None:
    try:
        os.rmdir(name, dir_fd=directory)
    except FileNotFoundError:
        return


def _open(directory: int, name: bytes) -> int:
    """The sub-directory ``name``, readable and writable for us from now on."""
    handle = open_beneath(directory, name, os.O_PATH | os.O_DIRECTORY)
    try:
        mode = os.fstat(handle).st_mode
        if mode & 0o700 != 0o700 and os.geteuid() != 0:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(b".", _OPEN, dir_fd=handle)
    finally:
        os.close(handle)
