"""Linux namespaces: their flags, leaving one's own (``unshare(2)``), joining others (``setns(2)``)."""

from __future__ import annotations

import os
from contextlib import contextmanager

from capsa.sys.call import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

FLAGS: Final = {
    "user": 0x10000000,
    "mount": 0x00020000,
    "pid": 0x20000000,
    "network": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "time": 0x00000080,
}
"""OCI's name of a namespace type, and the CLONE_NEW… flag for it."""

FILES: Final = {
    "user": "user",
    "mount": "mnt",
    "pid": "pid",
    "network": "net",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "time": "time",
}
"""OCI's name of a namespace type, and its file below ``/proc/PID/ns``."""


def unshare(flags: int) -> None:
    """Move the calling process into new namespaces; raises `OSError`."""
    call("unshare", flags, about=names(flags))


def setns(fd: int, flags: int, about: str = "") -> None:
    """Join the namespace behind ``fd`` (or, with a pidfd, all of ``flags``); raises `OSError` naming ``about``."""
    call("setns", fd, flags, about=about or names(flags))


@contextmanager
def mounts_kept() -> Iterator[None]:
    """Come back to the present mount namespace and root directory, whichever were joined meanwhile.

    The calling process must have one thread. Joining a mount namespace makes its root the process's own, which is
    another one where that was changed (``chroot``). Raises `OSError`.
    """
    here = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            yield
        finally:
            setns(here, FLAGS["mount"], "the own mount namespace")
            os.fchdir(root)
            os.chroot(".")
    finally:
        os.close(here)
        os.close(root)


def set_host_name(name: str) -> None:
    """Set the host name of the calling process's uts namespace; raises `OSError`."""
    data = os.fsencode(name)
    call("sethostname", data, len(data), about=name)


def set_domain_name(name: str) -> None:
    """Set the NIS domain name of the calling process's uts namespace; raises `OSError`."""
    data = os.fsencode(name)
    call("setdomainname", data, len(data), about=name)


def names(flags: int) -> str:
    """The namespaces in ``flags``, for people."""
    return " ".join(name for name, flag in FLAGS.items() if flags & flag)
