"""One container's queries: its sockets, what it may use up, and its answers.

Everything is counted for each container, so that one that asks without end, or opens connections and says nothing,
is only its own problem.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

from capsa.network.dns import message
from capsa.network.dns.forward import Forward, HostServers
from capsa.network.dns.loop import READ, WRITE, Loop
from capsa.network.dns.message import Malformed
from capsa.network.dns.zone import Zone

TTL = 10  # seconds; containers come and go
LARGEST_QUERY = 4096
MOST_UNDER_WAY = 100  # forwarded queries
MOST_CONNECTIONS = 32
CONNECTION_SECONDS = 5.0
IN_A_TURN = 16
IN_A_PERIOD, PERIOD_SECONDS = 250, 0.05
TRACEBACKS = 20


class Guest:
    """A container with name service.

    ``servers``: whom to ask, empty: the host's; ``forward``: whether to ask at all; ``dotted``: only names with dots.
    """

    def __init__(
        self,
        loop: Loop,
        zone: Zone,
        host: HostServers,
        container: str,
        datagrams: socket.socket,
        listener: socket.socket,
    ) -> None:
        self.servers: list[str] = []
        self.forward = True
        self.dotted = False
        self.container = container
        self._loop = loop
        self._zone = zone
        self._host = host
        self._datagrams = datagrams
        self._listener = listener
        self._connections: set[Connection] = set()
        self._under_way: set[Forward] = set()
        self._closed = False
        self._allowance = IN_A_PERIOD
        self._resting = False
        for each in (datagrams, listener):
            each.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        self._loop.watch(self._datagrams.fileno(), READ, self._read)
        self._loop.watch(self._listener.fileno(), READ, self._accept)

    def close(self) -> None:
        """Forget it."""
        self._closed = True
        for each in (self._datagrams, self._listener):
            self._loop.forget(each.fileno())
            each.close()
        for connection in list(self._connections):
            connection.close()
        for forward in self._under_way:
            forward.close()
        self._under_way.clear()

    def spend(self) -> bool:
        """Take one query from the period's allowance; False if there is nothing left, and it has to wait."""
        if self._allowance == IN_A_PERIOD:
            self._loop.after(PERIOD_SECONDS, self._renew)
        self._allowance -= 1
        return self._allowance >= 0

    def _renew(self) -> None:
        self._allowance = IN_A_PERIOD
        if self._resting and not self._closed:
            self._resting = False
            self._listen()

    def _rest(self) -> None:
        """Until the next period its queries wait in its own buffers, and then get lost."""
        self._resting = True
        for each in (self._datagrams, self._listener):
            self._loop.forget(each.fileno())

    def _read(self, _events: int) -> None:
        for _ in range(IN_A_TURN):
            if not self.spend():
                self._rest()
                return
            try:
                packet, address = self._datagrams.recvfrom(LARGEST_QUERY + 1)
            except OSError:  # nothing more, or an error that an earlier answer met with
                return

            def reply(answer: bytes, address: tuple[str, int] = address) -> None:
                try:
                    if not self._closed:
                        self._datagrams.sendto(answer, address)
                except OSError:
                    pass  # its asker is gone or does not read; it will ask again

            if len(packet) <= LARGEST_QUERY:
                self.handle(packet, False, reply)

    def _accept(self, _events: int) -> None:
        if not self.spend():
            self._rest()
            return
        try:
            end, _address = self._listener.accept()
        except OSError:
            return
        if len(self._connections) >= MOST_CONNECTIONS:
            end.close()
            return
        self._connections.add(Connection(self, self._loop, end, self._connections.discard))

    def handle(self, packet: bytes, stream: bool, reply: Callable[[bytes], None]) -> None:
        """Answer one query, now or later; what must not be answered is not."""
        global _tracebacks
        try:
            self._handle(packet, stream, reply)
        except Exception:
            _tracebacks += 1
            if _tracebacks <= TRACEBACKS:
                sys.excepthook(*sys.exc_info())

    def _handle(self, packet: bytes, stream: bool, reply: Callable[[bytes], None]) -> None:
        try:
            query = message.parse(packet)
        except Malformed as error:
            if error.reply:
                reply(error.reply)
            return
        records = self._zone.lookup(self.container, query)
        if records is not None:
            limit = message.LARGEST if stream else query.size
            reply(message.answer(query, records, ttl=TTL, limit=limit))
            return
        if self.dotted and "." not in query.name and query.kind in (message.A, message.AAAA):
            # With ndots above 0 the client tries its search list for such a name; outside nobody knows it.
            reply(message.answer(query, [], ttl=TTL, limit=message.LEAST_SIZE))
            return
        if not self.forward:
            reply(message.failure(query, message.SERVFAIL))
            return
        if len(self._under_way) >= MOST_UNDER_WAY:
            reply(message.failure(query, message.REFUSED))
            return

        def done(answer: bytes) -> None:
            self._under_way.discard(forward)
            reply(answer)

        forward = Forward(self._loop, query, packet, self.servers or self._host.get(), stream, done)
        self._under_way.add(forward)
        forward.start()


_tracebacks = 0


class Connection:
    """A TCP connection: one query after the other, each with its length before it."""

    def __init__(self, guest: Guest, loop: Loop, end: socket.socket, closed: Callable[[Connection], None]) -> None:
        self._guest = guest
        self._loop = loop
        self._end = end
        self._closed = closed
        self._received = bytearray()
        self._to_send = b""
        self._answering = False
        self._taking = False
        self.alive = True
        end.setblocking(False)
        self._timer = loop.after(CONNECTION_SECONDS, self.close)
        loop.watch(end.fileno(), READ, self._readable)

    def close(self) -> None:
        """End it."""
        if self.alive:
            self.alive = False
            self._timer.cancel()
            self._loop.forget(self._end.fileno())
            self._end.close()
            self._closed(self)

    def _readable(self, _events: int) -> None:
        try:
            data = self._end.recv(LARGEST_QUERY + 2 - len(self._received))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._received += data
        self._next()

    def _next(self) -> None:
        """Take the next whole query, if there is one and the last was answered."""
        if self._taking:
            return  # an answer that was there at once: the loop below goes on
        self._taking = True
        try:
            self._take()
        finally:
            self._taking = False

    def _take(self) -> None:
        while self.alive and not self._answering and len(self._received) >= 2:
            size = int.from_bytes(self._received[:2], "big")
            if size > LARGEST_QUERY or not self._guest.spend():
                self.close()
                return
            if len(self._received) < size + 2:
                return
            packet = bytes(self._received[2 : size + 2])
            del self._received[: size + 2]
            self._answering = True
            self._loop.forget(self._end.fileno())  # until it is answered nothing is read, and nothing piles up
            self._guest.handle(packet, True, self._reply)

    def _reply(self, answer: bytes) -> None:
        if self.alive:
            self._to_send = len(answer).to_bytes(2, "big") + answer
            self._send(0)

    def _send(self, _events: int) -> None:
        try:
            self._to_send = self._to_send[self._end.send(self._to_send) :]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._to_send:
            self._loop.watch(self._end.fileno(), WRITE, self._send)
            return
        self._answering = False
        self._timer.cancel()
        self._timer = self._loop.after(CONNECTION_SECONDS, self.close)
        self._loop.watch(self._end.fileno(), READ, self._readable)
        if self._received:
            self._next()
