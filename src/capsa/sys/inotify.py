"""Being told when something in a directory changes: inotify(7)."""

from __future__ import annotations

import ctypes
import os
import struct

IN_MODIFY = 0x002
IN_CLOSE_WRITE = 0x008
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
_HEADER = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Inotify:
    """One descriptor with any number of watched directories, which have numbers."""

    def __init__(self) -> None:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")

    def fileno(self) -> int:
        """Readable when something has happened."""
        return int(self._fd)

    def add(self, directory: str | os.PathLike[str], events: int) -> int:
        """Watch a directory for ``events``; the number it has. Raises `OSError`."""
        number: int = _libc.inotify_add_watch(self._fd, os.fsencode(directory), events)
        if number < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(directory))
        return number

    def remove(self, number: int) -> None:
        """Watch it no longer; harmless if the directory is gone."""
        _libc.inotify_rm_watch(self._fd, number)

    def happened(self) -> list[tuple[int, str]]:
        """What has happened, without waiting: numbers of directories, and the names of files in them."""
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return []
        found, position = [], 0
        while position < len(data):
            number, _mask, _cookie, length = _HEADER.unpack_from(data, position)
            position += _HEADER.size
            found.append((number, os.fsdecode(data[position : position + length].rstrip(b"\0"))))
            position += length
        return found

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)
