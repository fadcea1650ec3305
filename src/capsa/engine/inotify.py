"""Being told when something in a directory changes, for the event loop, all watches on one descriptor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from capsa.sys.inotify import IN_CREATE, IN_MODIFY, IN_MOVED_TO, Inotify

_EVENTS = IN_MODIFY | IN_MOVED_TO | IN_CREATE


class Watch:
    """One interest in a directory; `close` ends it."""

    def __init__(self, owner: _Watches, number: int, callback: Callable[[], None]) -> None:
        self._owner = owner
        self._number = number
        self.callback = callback

    def close(self) -> None:
        """Not interested any more."""
        self._owner.drop(self._number, self)


class _Watches:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._inotify = Inotify()
        self._watches: dict[int, set[Watch]] = {}
        self._loop.add_reader(self._inotify.fileno(), self._ready)

    def add(self, directory: Path, callback: Callable[[], None]) -> Watch:
        number = self._inotify.add(directory, _EVENTS)
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
            self._inotify.remove(number)
        if not self._watches:
            self.close()

    def close(self) -> None:
        _current.pop(self._loop, None)
        self._loop.remove_reader(self._inotify.fileno())
        self._inotify.close()

    def _ready(self) -> None:
        for number in {number for number, _name in self._inotify.happened()}:
            for watch in tuple(self._watches.get(number, ())):
                watch.callback()


_current: dict[asyncio.AbstractEventLoop, _Watches] = {}


def watch(directory: Path, callback: Callable[[], None]) -> Watch:
    """Call ``callback`` (on the running event loop) when a file in ``directory`` grows or appears; raises `OSError`."""
    loop = asyncio.get_running_loop()
    found = _current.get(loop)
    if found is None:
        found = _current[loop] = _Watches()
    return found.add(directory, callback)
