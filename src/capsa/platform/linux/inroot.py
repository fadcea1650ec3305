"""Places inside a container's root, as descriptors; whatever links an image has, none leads out.

Looking up is the kernel's work (`capsa.sys.path`). Making what is missing is done here, component by component: each
is opened without following links and read if it is one, so that a link to nowhere (``/etc/resolv.conf`` of many images)
gets its target made inside the root.
"""

from __future__ import annotations

import errno
import os
import stat

from capsa.sys import path as paths
from capsa.sys.call import failed

_LINKS = 255


def find(root: int, path: str, *, links: bool = True) -> int | None:
    """An ``O_PATH`` descriptor of ``path``, or None if it is not there."""
    try:
        return paths.open_in_root(root, path, os.O_PATH, links=links)
    except (FileNotFoundError, NotADirectoryError):
        return None


def make(root: int, path: str, *, directory: bool = True, links: bool = True) -> int:
    """An ``O_PATH`` descriptor of ``path``; made, with all directories on the way, if it is not there.

    With ``links`` false no component may be a symbolic link. Raises `OSError`.
    """
    found = find(root, path, links=links)
    return _walk(root, path, directory, links) if found is None else found


def parent(root: int, path: str) -> tuple[int, str]:
    """A descriptor of the directory that ``path`` is in, made if it is not there, and the name in it."""
    above, _, name = path.rpartition("/")
    return make(root, above or "/"), name


def _walk(root: int, path: str, directory: bool, links: bool) -> int:
    trail = [os.dup(root)]
    followed = 0
    pending = path.split("/")[::-1]
    try:
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                if len(trail) > 1:
                    os.close(trail.pop())
                continue
            try:
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=trail[-1])
            except FileNotFoundError:
                _add(trail[-1], name, directory or any(part not in ("", ".") for part in pending))
                pending.append(name)
                continue
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                trail.append(fd)
                continue
            target = os.readlink("", dir_fd=fd)
            os.close(fd)
            followed += 1
            if followed > _LINKS or not links:
                raise failed("open", path, errno.ELOOP)
            if target.startswith("/"):
                while len(trail) > 1:
                    os.close(trail.pop())
            pending += target.split("/")[::-1]
        return trail.pop()
    finally:
        for fd in trail:
            os.close(fd)


def _add(where: int, name: str, directory: bool) -> None:
    """Make one missing component; another process may have been faster."""
    try:
        if directory:
            os.mkdir(name, 0o755, dir_fd=where)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(name, flags, 0o644, dir_fd=where))
    except FileExistsError:
        pass
