"""The running program on a mount that cannot be written (CVE-2019-5736).

A container's program may be a script whose interpreter is ``/proc/self/exe``. What it gets then is the program of the
process that executed it: the runtime's own, Python. With enough privileges it could open that for writing and change it
for the whole host. So the runtime runs from a read-only mount that is nowhere in the file tree: through
``/proc/PID/exe`` the same mount is reached, and nobody in a container can remount what is in no mount namespace. Unlike
a copy in memory this costs nothing: pages of the program stay those of the file.
"""

from __future__ import annotations

import contextlib
import os

from capsa.sys import mount

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def program(path: str = "/proc/self/exe") -> int:
    """A descriptor of the program at ``path`` on a detached, read-only mount; raises `OSError`.

    To be executed as ``/proc/self/fd/NUMBER``; it is close-on-exec.
    """
    fd = mount.clone(os.path.realpath(path))
    mount.attributes(fd, set=mount.ATTR_RDONLY | mount.ATTR_NOSUID | mount.ATTR_NODEV)
    return fd


@contextlib.contextmanager
def opened(path: str) -> Iterator[int]:
    """`program`, closed at the end."""
    fd = program(path)
    try:
        yield fd
    finally:
        os.close(fd)


def is_sealed() -> bool:
    """Whether this process runs from such a mount."""
    return bool(os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY)
