"""An epoll loop as small as a sub-init needs it: file descriptors, callbacks, child processes.

asyncio would cost each sub-init more private memory than all the rest of it.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR


class Loop:
    """Calls back when file descriptors are ready and when children of the sub-init end; for one thread."""

    def __init__(self, epoll: select.epoll, children: int, on_child: Callable[[int, int], None]) -> None:
        """``epoll`` may be in use already: what it has is taken over as it is watched anew.

        ``children``: a pipe that does not block, with a pair of C integers for each ended child, its pid and its
        status as of waitpid(2); ``on_child`` gets them.
        """
        self._epoll = epoll
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._children = children
        self._on_child = on_child
        self.watch(children, READ, self._ended)

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call ``callback(events)`` whenever ``fd`` is ready for ``events``; replaces an earlier watch of it.

        With no events only hang-up and error are told.
        """
        known = self._watched.get(fd)
        if known is None:
            try:
                self._epoll.register(fd, events)
            except FileExistsError:
                self._epoll.modify(fd, events)
        elif known[0] != events:
            self._epoll.modify(fd, events)
        self._watched[fd] = (events, callback)

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``; to be called before it is closed."""
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def turn(self, timeout: float | None = None) -> bool:
        """Wait (``timeout`` seconds, None: for ever) for something to happen, do what it asks for; whether it did."""
        happened = self._epoll.poll(timeout)
        for fd, events in happened:
            watched = self._watched.get(fd)  # an earlier callback of this turn may have removed it
            if watched is not None:
                watched[1](events)
        return bool(happened)

    def _ended(self, _events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                pid, status = struct.unpack("=ii", os.read(self._children, 8))
                self._on_child(pid, status)
