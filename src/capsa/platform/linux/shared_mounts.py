"""The root of a container that has no mount namespace of its own, but its caller's (config-linux.md, Namespaces).

Its mounts are everybody's. So that they can be told apart and taken away again, they are made in a mount of the root on
itself, private, which goes away with all below it.
"""

from __future__ import annotations

import os

from capsa.errors import InvalidArgument, LaunchFailed, reason
from capsa.sys import mount


def expose(root: str) -> int:
    """Mount directory ``root`` on itself; the id of the mount. Raises `InvalidArgument`, `LaunchFailed`."""
    if os.path.realpath(root) == "/":
        raise InvalidArgument("the host's root as root needs a mount namespace: add one")
    try:
        made = mount.clone(root, recursive=True)
        try:
            mount.attributes(made, propagation=mount.MS_PRIVATE, recursive=True)
            place = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                mount.attach(made, place, root)
            finally:
                os.close(place)
            return _id(made)
        finally:
            os.close(made)
    except OSError as error:
        raise LaunchFailed(f"cannot mount {root} on itself: {reason(error)}") from error


def withdraw(root: str, id: int) -> None:
    """Take the mount ``id`` away from ``root``, with all below it; without effect where something else is there."""
    try:
        found = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        if _id(found) == id:
            mount.umount(root)
    finally:
        os.close(found)


def _id(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))
