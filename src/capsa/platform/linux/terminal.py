"""The terminal of a process: one of the container's own pseudo-terminals, its master handed to the caller."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from capsa.errors import LaunchFailed, reason
from capsa.oci.runtime import Box
from capsa.platform.linux import inroot
from capsa.sys import mount
from capsa.sys import path as paths
from capsa.sys.call import failed

_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431
_FLAGS = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
_PTMX = os.makedev(5, 2)


def open_pair(terminals: int | None, size: Box | None) -> tuple[int, int]:
    """A new terminal of the devpts instance whose root directory is ``terminals``: master and slave.

    ``size`` in characters. Raises `LaunchFailed`.
    """
    if terminals is None:
        raise LaunchFailed("the process wants a terminal, but nothing of type devpts is mounted at /dev/pts")
    try:
        master = os.open("ptmx", _FLAGS, dir_fd=terminals)
        return master, _peer(master, size)
    except OSError as error:
        raise LaunchFailed(f"cannot open a terminal: {reason(error)}") from error


def open_pair_at(root: int, size: Box | None) -> tuple[int, int]:
    """The same in a container that is up already, whose files may lie: only a real devpts will do."""
    try:
        master = paths.open_in_root(root, "/dev/pts/ptmx", _FLAGS, links=False)
        found = os.fstat(master)
        if paths.file_system(master) != paths.DEVPTS_SUPER_MAGIC or found.st_rdev != _PTMX:
            raise failed("open", "/dev/pts/ptmx", errno.ENODEV)
        return master, _peer(master, size)
    except OSError as error:
        raise LaunchFailed(f"cannot open a terminal of the container: {reason(error)}") from error


def _peer(master: int, size: Box | None) -> int:
    """The other side, by descriptor: nothing is looked up by name, so nothing can be put in its place."""
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    if size is not None and (size.height or size.width):
        fcntl.ioctl(master, _TIOCSWINSZ, struct.pack("HHHH", size.height, size.width, 0, 0))
    return int(fcntl.ioctl(master, _TIOCGPTPEER, _FLAGS))


def put_console(root: int, slave: int) -> None:
    """Show the terminal as /dev/console, on a plain file that no link can redirect; raises `LaunchFailed`."""
    try:
        directory = inroot.make(root, "/dev", links=False)
        try:
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open("console", flags, 0o600, dir_fd=directory))
            except FileExistsError:
                pass
            target = os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)
        try:
            if stat.S_ISLNK(os.fstat(target).st_mode):
                raise failed("mount", "/dev/console", errno.ELOOP)
            own = mount.clone("", at=slave)
            try:
                mount.attach(own, target, "/dev/console")
            finally:
                os.close(own)
        finally:
            os.close(target)
    except OSError as error:
        raise LaunchFailed(f"cannot show the terminal as /dev/console: {reason(error)}") from error


def take(slave: int) -> None:
    """Make it the standard streams and the controlling terminal of this session."""
    fcntl.ioctl(slave, _TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(slave, fd)
