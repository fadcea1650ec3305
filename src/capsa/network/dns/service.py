"""The engine's end of the process that answers containers' queries (`capsa.network.dns.process`)."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from capsa import errors
from capsa.network.model import Endpoint

LINGER_SECONDS = 5.0
RESTART_SECONDS = 1.0

_encode = msgspec.json.Encoder().encode


class NameService:
    """Who is called what; there is a process for it as long as somebody is.

    For one event loop. If the process dies, another one is told all there is to know, and ``on_new`` is called with the
    container whose sockets it needs again.
    """

    def __init__(self, run: Path) -> None:
        """``run`` is the engine's run directory; what the process complains of is in ``names.log`` there."""
        self._log = run / "names.log"
        self._endpoints: dict[str, dict[str, Any]] = {}
        self._guests: dict[str, dict[str, Any]] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._end: socket.socket | None = None
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.on_new: Callable[[str], None] = lambda _container: None

    def join(self, endpoint: Endpoint, names: Sequence[str], links: Mapping[str, str]) -> None:
        """``endpoint`` is called ``names`` in its network from now on; ``links``: its own names for others there."""
        told = {
            "do": "join",
            "id": endpoint.id,
            "network": endpoint.network,
            "network_name": endpoint.network_name,
            "container": endpoint.container,
            "names": list(dict.fromkeys(name.lower() for name in names)),
            "addresses": endpoint.addresses,
            "links": {alias.lower(): name.lower() for alias, name in links.items()},
        }
        self._endpoints[endpoint.id] = told
        self._need()
        self._tell(told)

    def leave(self, endpoint: Endpoint) -> None:
        """It is called nothing any more."""
        if self._endpoints.pop(endpoint.id, None) is not None:
            self._tell({"do": "leave", "id": endpoint.id})
            self._need()

    def serve(
        self, container: str, sockets: Sequence[int], *, servers: Sequence[str], forward: bool, dotted: bool
    ) -> None:
        """Answer the queries that arrive on ``sockets`` (UDP, TCP), which are closed here.

        Without sockets, change what is known of the container. ``servers``: whom to ask what is not about containers,
        empty: the host's; ``forward``: whether to ask anybody at all. ``dotted``: names without a dot are of no concern
        to those (the container has ``ndots`` above 0).
        """
        told = {
            "do": "serve",
            "container": container,
            "servers": list(servers),
            "forward": forward,
            "dotted": dotted,
        }
        self._guests[container] = told
        self._need()
        self._tell(told, sockets)

    def serves(self, container: str) -> bool:
        """Whether it has name service."""
        return container in self._guests

    def stop(self, container: str) -> None:
        """Its sockets are of no use any more."""
        if self._guests.pop(container, None) is not None:
            self._tell({"do": "stop", "container": container})
            self._need()

    @property
    def pid(self) -> int:
        """The process; 0 if there is none."""
        return self._child.pid if self._child is not None else 0

    async def close(self) -> None:
        """End the process."""
        self._closing = True
        self._cancel_timer()
        child = self._child
        self._hang_up()
        if child is not None:
            await asyncio.to_thread(_wait, child)

    # -- the process

    def _need(self) -> None:
        """Start or end the process, as it is needed."""
        if self._closing:
            return
        if self._endpoints or self._guests:
            self._cancel_timer()
            if self._end is None:
                self._start()
        elif self._end is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._leave_off)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave_off(self) -> None:
        self._timer = None
        child = self._child
        self._hang_up()
        if child is not None:
            asyncio.get_running_loop().run_in_executor(None, _wait, child)

    def _start(self) -> None:
        """Start it, and tell it what is known."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs, open(self._log, "ab", opener=_private) as log:
                self._child = subprocess.Popen(
                    [sys.executable, "-S", "-m", "capsa.network.dns.process", str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    cwd="/",
                    env={**os.environ, "PYTHONPATH": str(Path(errors.__file__).parents[1])},
                )
        except OSError:
            ours.close()
            self._again()
            return
        ours.setblocking(False)
        self._end = ours
        asyncio.get_running_loop().add_reader(ours.fileno(), self._gone)
        for told in (*self._endpoints.values(), *self._guests.values()):
            self._tell(told)
        for container in self._guests:
            self.on_new(container)

    def _gone(self) -> None:
        """It never says anything: this is its end."""
        child = self._child
        self._hang_up()
        if child is not None:
            asyncio.get_running_loop().run_in_executor(None, _wait, child)
        self._again()

    def _again(self) -> None:
        if not self._closing and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(RESTART_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._timer = None
        self._need()

    def _hang_up(self) -> None:
        if self._end is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._end.fileno())
            loop.remove_writer(self._end.fileno())
            self._end.close()
            self._end = None
        self._child = None
        for _, fds in self._queue:
            _close(fds)
        self._queue.clear()

    # -- what it is told

    def _tell(self, told: Mapping[str, Any], fds: Sequence[int] = ()) -> None:
        if self._end is None:
            _close(fds)
            return
        if not self._queue:
            asyncio.get_running_loop().add_writer(self._end.fileno(), self._send)
        self._queue.append((_encode(told), list(fds)))
        self._send()

    def _send(self) -> None:
        assert self._end is not None
        while self._queue:
            data, fds = self._queue[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._end.sendmsg([data], rights, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                pass  # it is gone: we hear of that, too
            _close(fds)
            self._queue.popleft()
        asyncio.get_running_loop().remove_writer(self._end.fileno())


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _wait(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
