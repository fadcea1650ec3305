"""Asking other name servers what is not about containers, from the network namespace of the host."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence

from capsa.network.dns import message
from capsa.network.dns.loop import READ, WRITE, Loop, Timer
from capsa.network.dns.message import Query

SERVER_SECONDS = 2.5
MOST_SERVERS = 3
PORT = 53
RESOLV_CONF = "/etc/resolv.conf"
RESOLV_CONF_SIZE = 65536


class HostServers:
    """The host's name servers, read again when its ``resolv.conf`` has changed."""

    def __init__(self, path: str = RESOLV_CONF) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._servers: list[str] = []

    def get(self) -> list[str]:
        """The servers' addresses; the machine itself where none is named."""
        try:
            status = os.stat(self._path)
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen != self._seen:
                with open(self._path, encoding="ascii", errors="replace") as file:
                    lines = [line.split() for line in file.read(RESOLV_CONF_SIZE).splitlines()]
                self._servers = [words[1] for words in lines if len(words) > 1 and words[0] == "nameserver"]
                self._seen = seen
        except OSError:
            self._servers = []
        return self._servers or ["127.0.0.1"]


class Forward:
    """One query on its way; ``done`` gets the answer, or a failure in the end.

    Each has a socket with a port of its own and an unpredictable number, so that nobody can guess what to answer.
    """

    def __init__(
        self,
        loop: Loop,
        query: Query,
        packet: bytes,
        servers: Sequence[str],
        stream: bool,
        done: Callable[[bytes], None],
    ) -> None:
        """``stream``: over TCP, as the query came."""
        self._loop = loop
        self._query = query
        self._packet = packet
        self._servers = list(servers[:MOST_SERVERS])
        self._stream = stream
        self._done = done
        self._id = 0
        self._socket: socket.socket | None = None
        self._timer: Timer | None = None
        self._received = bytearray()
        self._refusal = b""

    def start(self) -> None:
        """Ask the next server; after the last one, say what is known."""
        self.close()
        while self._servers:
            server = self._servers.pop(0)
            try:
                self._ask(server)
            except (OSError, ValueError):
                self.close()
                continue
            self._timer = self._loop.after(SERVER_SECONDS, self.start)
            return
        self._done(self._refusal or message.failure(self._query, message.SERVFAIL))

    def close(self) -> None:
        """Give up what is under way."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._received.clear()

    def _ask(self, server: str) -> None:
        kind = socket.SOCK_STREAM if self._stream else socket.SOCK_DGRAM
        family, _, _, _, address = socket.getaddrinfo(server, PORT, type=kind, flags=socket.AI_NUMERICHOST)[0]
        self._id = int.from_bytes(os.urandom(2), "big")
        self._socket = socket.socket(family, kind)
        self._socket.setblocking(False)
        if self._stream:
            if self._socket.connect_ex(address) not in (0, errno.EINPROGRESS):
                raise OSError
            self._loop.watch(self._socket.fileno(), WRITE, self._writable)
        else:
            self._socket.connect(address)
            self._socket.send(message.with_id(self._packet, self._id))
            self._loop.watch(self._socket.fileno(), READ, self._datagram)

    def _datagram(self, _events: int) -> None:
        assert self._socket is not None
        try:
            packet = self._socket.recv(message.LARGEST)
        except BlockingIOError:
            return
        except OSError:  # nobody there
            self.start()
            return
        self._take(packet)

    def _writable(self, _events: int) -> None:
        assert self._socket is not None
        packet = message.with_id(self._packet, self._id)
        try:
            # A new connection takes a query as a whole: its buffer is larger.
            if self._socket.send(len(packet).to_bytes(2, "big") + packet) != len(packet) + 2:
                raise OSError
        except OSError:
            self.start()
            return
        self._loop.watch(self._socket.fileno(), READ, self._readable)

    def _readable(self, _events: int) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(message.LARGEST)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._received += data
        size = int.from_bytes(self._received[:2], "big") + 2
        if len(self._received) >= max(size, 3):
            self._take(bytes(self._received[2:size]))
        elif not data:
            self.start()

    def _take(self, packet: bytes) -> None:
        if not message.answers(packet, self._id, self._query.question):
            if self._stream:
                self.start()
            return
        found = message.with_id(packet, self._query.id)
        if message.code(packet) in (message.SERVFAIL, message.REFUSED) and self._servers:
            self._refusal = found
            self.start()
            return
        self.close()
        self._done(found)
