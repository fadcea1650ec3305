"""Compressing a log that was rotated away, by a process of its own that nobody waits for."""

from __future__ import annotations

import contextlib
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

SUFFIX = ".gz"
_READ = 1 << 16


@contextlib.contextmanager
def renaming(path: str) -> Iterator[None]:
    """While the names of the log ``path`` and its predecessors change: one process at a time."""
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def compress(path: str, source: int, most: int) -> None:
    """Replace the predecessor of ``path`` that is open as ``source``, whatever its number is by then.

    The compressed file gets the times of the other one: so who reads that on knows it again.
    """
    import gzip

    half = f"{path}.{os.getpid()}.tmp"
    try:
        with open(half, "wb") as out, gzip.GzipFile("", "wb", 6, out, 0) as packed:
            while data := os.read(source, _READ):
                packed.write(data)
        status = os.fstat(source)
        os.chmod(half, status.st_mode & 0o777)
        os.utime(half, ns=(status.st_atime_ns, status.st_mtime_ns))
        with renaming(path):
            for number in range(1, most):
                name = f"{path}.{number}"
                with contextlib.suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(name), status):
                        os.rename(half, name + SUFFIX)
                        os.unlink(name)
                        return
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(half)


def compress_apart(path: str, most: int) -> None:
    """Begin to compress the newest predecessor of ``path``; raises OSError."""
    from capsa.sys import process

    source = os.open(f"{path}.1", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if process.clone(sibling=True) == 0:
            code = 1
            try:
                if source != 3:
                    os.dup2(source, 3)
                os.closerange(4, os.sysconf("SC_OPEN_MAX"))
                os.nice(10)
                compress(path, 3, most)
                code = 0
            finally:
                os._exit(code)
    finally:
        os.close(source)
