"""Device nodes (config-linux.md, Devices): made, or in a user namespace borrowed from the host."""

from __future__ import annotations

import errno
import os
import stat

from capsa.errors import CapsaError, reason
from capsa.sys import mount
from capsa.sys.call import failed
from capsa.vfs.tree import DeviceNode

_KINDS = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}


def make(device: DeviceNode, directory: int, name: str) -> None:
    """Make it as ``name`` in ``directory``; one that is there already has to be the same. Expects a umask of 0."""
    kind = _KINDS[device.kind]
    number = 0 if device.kind == "p" else os.makedev(device.major, device.minor)
    try:
        os.mknod(name, device.mode | kind, number, dir_fd=directory)
    except FileExistsError:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_IFMT(found.st_mode) != kind or found.st_rdev != number:
            raise CapsaError(f"{device.path} is there already and is not the device that was asked for") from None
    except OSError as error:
        raise CapsaError(f"cannot make the device {device.path}: {reason(error)}") from error
    if device.uid or device.gid:
        os.chown(name, device.uid, device.gid, dir_fd=directory, follow_symlinks=False)


def borrow(device: DeviceNode, directory: int, name: str) -> None:
    """Put the host's device of the same path on a file ``name`` in ``directory``."""
    host = mount.clone(device.path)
    try:
        found = os.fstat(host)
        same = stat.S_IFMT(found.st_mode) == _KINDS[device.kind] and found.st_rdev == os.makedev(
            device.major, device.minor
        )
        if not same:
            raise failed("mknod", device.path, errno.EPERM)
        mount.attributes(host, set=mount.ATTR_NOSUID | mount.ATTR_NOEXEC)  # as those of /dev
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(name, flags, 0o666, dir_fd=directory))
        target = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            mount.attach(host, target, device.path)
        finally:
            os.close(target)
    finally:
        os.close(host)
