"""A file that a Genode writes its output to, read as it grows (``genode/src/server/log_file``).

Once it has reached its limit it is renamed, and a new one begins: the old one is read to its end first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

_READ = 1 << 16


class LogFile:
    """What is written to ``path`` from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = self._open()
        if self._fd is not None:
            os.lseek(self._fd, 0, os.SEEK_END)

    @property
    def there(self) -> bool:
        """Whether the Genode writes such a file."""
        if self._fd is None:
            self._fd = self._open()
        return self._fd is not None

    def read(self) -> Iterator[bytes]:
        """All that has been written since the last call."""
        while self.there:
            assert self._fd is not None
            # Before it is read: what is renamed by now is not written to any more.
            replaced = self._replaced(self._fd)
            while data := os.read(self._fd, _READ):
                yield data
            if not replaced:
                return
            self.close()

    def close(self) -> None:
        """Close it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _replaced(self, fd: int) -> bool:
        try:
            status = os.lstat(self._path)
        except OSError:
            return False  # the new one is not there yet
        return status.st_ino != os.fstat(fd).st_ino

    def _open(self) -> int | None:
        """It is somebody else's: no link is followed, and nothing but a file is read."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return None
