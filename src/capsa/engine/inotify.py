"""Being told when something in a directory changes (inotify(7)), for the event loop, all watches on one descriptor."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

IN_MODIFY = 0x002
IN_MOVED_TO = 0x080
IN_CREATE = 0x100
_EVENTS = IN_MODIFY | IN_MOVED_TO | IN_CREATE
_HEADER = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


class Watch:
    """One interest in a directory; `close` ends it."""

    def __init__(self, owner: _Inotify, number: int, callback: Callable[[], None]) -> None:
        self._owner = owner
        self._number = number
        self.callback = callback

    def close(self) -> None:
        """Not interested any more."""
        self._owner.drop(self._number, self)


class _Inotify:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._watches: dict[int, set[Watch]] = {}
        self._loop.add_reader(self._fd, self._ready)

    def add(self, directory: Path, callback: Callable[[], None]) -> Watch:
        number = _libc.inotify_add_watch(self._fd, os.fsencode(directory), _EVENTS)
        if number < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(directory))
        watch = Watch(self, number, callback)
        self._watches.setdefault(number, set()).add(watch)
        return watch

    def drop(self, number: int, watch: Watch) -> None:
        watches = self._watches.get(number)
        if watches is None:
            return
        watches.discard(watch)
        if not watches:
            del self._watches[number]
            _libc.inotify_rm_watch(self._fd, number)
        if not self._watches:
            self.close()

    def close(self) -> None:
        _current.pop(self._loop, None)
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _ready(self) -> None:
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        position = 0
        concerned: set[int] = set()
        while position < len(data):
            number, _mask, _cookie, length = _HEADER.unpack_from(data, position)
            concerned.add(number)
            position += _HEADER.size + length
        for number in concerned:
            for watch in tuple(self._watches.get(number, ())):
                watch.callback()


_current: dict[asyncio.AbstractEventLoop, _Inotify] = {}


def watch(directory: Path, callback: Callable[[], None]) -> Watch:
    """Call ``callback`` (on the running event loop) when a file in ``directory`` grows or appears; raises `OSError`."""
    loop = asyncio.get_running_loop()
    found = _current.get(loop)
    if found is None:
        found = _current[loop] = _Inotify()
    return found.add(directory, callback)
