"""What is mounted, before it has a place: copies of the host's mounts and merged layers, as detached mounts.

All of it happens in the container's mount namespace and raises `OSError`.
"""

from __future__ import annotations

import errno
import os

from capsa.sys import mount
from capsa.sys import path as paths
from capsa.sys.call import failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Equal files of different layers are one inode: with an index, overlayfs would take a write to one for a write to all.
# The others would leave upper directories that only overlayfs can read.
_OVERLAY = ",index=off,metacopy=off,redirect_dir=off"


def overlay(chains: Sequence[Sequence[str]], upper: str = "", work: str = "") -> int:
    """The merged directory; mounted at the upper directory, or at the topmost layer where there is none.

    Overlayfs gets its layers as numbers below /proc/self/fd, so any number of them fits into one page.
    """
    where = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    opened: list[int] = []
    merged: int | None = None
    try:
        os.chdir("/proc/self/fd")
        for number, chain in enumerate(chains):
            opened = [os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for layer in chain]
            lower = [str(fd) for fd in reversed(opened)]
            place, on = opened[-1], chain[-1]
            if merged is not None:
                opened.append(merged)
                lower.append(str(merged))
            data = "lowerdir=" + ":".join(lower) + _OVERLAY
            last = number == len(chains) - 1
            if last and upper:
                opened += [os.open(each, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for each in (upper, work)]
                data += f",upperdir={opened[-2]},workdir={opened[-1]}"
                place, on = opened[-2], upper
            mount.mount("overlay", str(place), "overlay", 0 if last and upper else mount.MS_RDONLY, data)
            merged = os.open(on, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if paths.file_system(merged) != paths.OVERLAYFS_SUPER_MAGIC:
                raise failed("open", on, errno.ESTALE)
            for fd in opened:
                os.close(fd)
            opened = []
        os.fchdir(where)
    finally:
        os.close(where)
        for fd in opened:
            os.close(fd)
    assert merged is not None
    return merged


def stack(chains: Sequence[Sequence[str]], subdir: str) -> int:
    """Layers merged, read-only, or the directory ``subdir`` in them."""
    merged = overlay(chains)
    try:
        return beneath(merged, subdir)
    finally:
        os.close(merged)
        mount.umount(chains[-1][-1])


def renewed(mounted: int, *, recursive: bool) -> int:
    """A copy of a detached mount in its place: the kernel lists mounts by age, and readers expect the order of setup.

    Kernels before 6.15 cannot do that; those before 6.8 list them by the time of attachment.
    """
    try:
        copy = mount.clone("", at=mounted, recursive=recursive)
    except OSError:
        return mounted
    os.close(mounted)
    return copy


def inside(source: str, subdir: str, *, recursive: bool) -> int:
    """A detached copy of the mount at ``source``, or of what ``subdir`` in it is at this moment."""
    if not subdir:
        return mount.clone(source, recursive=recursive)
    top = os.open(source, os.O_PATH | os.O_CLOEXEC)
    try:
        return beneath(top, subdir, recursive=recursive)
    finally:
        os.close(top)


def beneath(top: int, subdir: str, *, recursive: bool = False) -> int:
    """A detached copy of the mount of directory ``top``, or of what ``subdir`` in it is at this moment."""
    if not subdir:
        return mount.clone("", at=top, recursive=recursive)
    found = paths.open_in_root(top, subdir, os.O_PATH)
    try:
        return mount.clone("", at=found, recursive=recursive)
    finally:
        os.close(found)
