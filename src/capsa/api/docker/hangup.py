"""Noticing that a client which ended its input has left for good.

To asyncio both look the same: end of file. The kernel tells them apart (EPOLLHUP: both directions are over), so an
epoll of our own watches, for nothing else, the connections whose input has ended.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable


class Hangups:
    """The watched connections of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` once when the other side of ``fd`` is gone."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, 0)  # EPOLLHUP and EPOLLERR are always told

    def forget(self, fd: int) -> None:
        """Not any more; before ``fd`` is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        """Watch nothing any more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._callbacks.clear()

    def _ready(self) -> None:
        for fd, _events in self._epoll.poll(0):
            callback = self._callbacks.get(fd)
            self.forget(fd)
            if callback is not None:
                callback()
