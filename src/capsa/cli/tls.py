"""TLS to an engine over TCP, with the certificates that docker's clients use (ca.pem, cert.pem, key.pem).

Python's own TLS sockets cannot end their input and read on, as attached streams need it; so the records pass through
memory here, and `SecureSocket` has the methods of a socket that the command line uses.
"""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from typing import cast

from capsa.errors import Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.cli.context import Context

_READ = 65536


class SecureSocket:
    """A socket with TLS in it; `shutdown` ends input alone."""

    def __init__(self, connection: socket.socket, settings: ssl.SSLContext, name: str) -> None:
        """Shake hands; raises `OSError`."""
        self._socket = connection
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = settings.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._clear = bytearray()  # read ahead
        self._over = False
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill():
                    raise ConnectionResetError("it closed the connection") from None
            except ssl.SSLError:
                with suppress(OSError):
                    self._flush()
                raise
        self._flush()

    def _fill(self) -> bool:
        data = self._socket.recv(_READ)
        if data:
            self._incoming.write(data)
        return bool(data)

    def _flush(self) -> None:
        """Send all; what is sent through here is small enough to wait for."""
        data = memoryview(self._outgoing.read())
        while data:
            try:
                data = data[self._socket.send(data) :]
            except BlockingIOError:
                import select

                poll = select.poll()
                poll.register(self._socket, select.POLLOUT)
                poll.poll()

    def _decrypt(self) -> None:
        """Everything readable of what has arrived goes to the buffer."""
        while not self._over:
            try:
                data = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:
                data = b""
            self._clear += data
            self._over = not data

    def recv(self, most: int) -> bytes:
        """At most ``most`` bytes, none at the end; raises BlockingIOError on a socket that does not block."""
        while not self._clear and not self._over:
            self._decrypt()
            if not self._clear and not self._over and not self._fill():
                self._over = True
        found = bytes(self._clear[:most])
        del self._clear[:most]
        return found

    def pending(self) -> int:
        """Bytes that were read ahead, of which poll(2) does not know."""
        return len(self._clear)

    def send(self, data: bytes) -> int:
        """Send all of ``data``."""
        self._tls.write(data)
        self._flush()
        return len(data)

    sendall = send

    def shutdown(self, how: int) -> None:
        """End the input (close_notify); what the other side says can still be read."""
        self._decrypt()
        with suppress(ssl.SSLError):  # the other side's own close_notify is not waited for
            self._tls.unwrap()
        self._flush()

    def setblocking(self, blocking: bool) -> None:
        """As of a socket."""
        self._socket.setblocking(blocking)

    def fileno(self) -> int:
        """As of a socket."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def wrap(context: Context, connection: socket.socket, name: str) -> socket.socket:
    """Secure a connection to the server ``name``; raises `Unavailable` when either side is not trusted."""
    try:
        authority = context.tlscacert if os.path.exists(context.tlscacert) else None
        settings = ssl.create_default_context(cafile=authority)
        # From Python 3.13 on, an authority made as Docker's documentation says (without key usage) would be refused.
        settings.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if not context.tlsverify:
            settings.check_hostname = False
            settings.verify_mode = ssl.CERT_NONE
        if os.path.exists(context.tlscert):
            settings.load_cert_chain(context.tlscert, context.tlskey)
        return cast(socket.socket, SecureSocket(connection, settings, name))
    except OSError as error:
        connection.close()
        raise Unavailable(f"no secure connection to {context.host}: {error}") from error
