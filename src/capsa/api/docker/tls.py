"""TLS below HTTP, with a half-closed state: a client that has ended its input (close_notify) still gets output.

asyncio's own TLS closes both directions then, and ``docker run -i`` over TCP would lose what the container says after
the end of its input. TLS 1.3 (RFC 8446, 6.1) closes each direction by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any

_HANDSHAKE_SECONDS = 30.0
_READ = 1 << 16


class Tls(asyncio.Protocol):
    """Between a TCP transport and the protocol that is spoken inside."""

    def __init__(self, context: ssl.SSLContext, inner: Callable[[], asyncio.Protocol]) -> None:
        """``inner`` makes the protocol, once the client is trusted."""
        self._context = context
        self._make = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._inner: asyncio.Protocol | None = None
        self._transport: _Transport | None = None
        self._raw: asyncio.Transport
        self._patience: asyncio.TimerHandle | None = None
        self._input_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client: it has half a minute to say who it is."""
        assert isinstance(transport, asyncio.Transport)
        self._raw = transport
        self._patience = asyncio.get_running_loop().call_later(_HANDSHAKE_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """Records of the client."""
        self._incoming.write(data)
        if self._inner is None and not self._shake_hands():
            return
        self.read()

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.flush()
            return False
        except ssl.SSLError:
            self.flush()  # the alert that says why
            self._raw.close()
            return False
        self.flush()
        if self._patience is not None:
            self._patience.cancel()
        self._inner = self._make()
        self._transport = _Transport(self, self._raw, self._tls, self._inner)
        self._inner.connection_made(self._transport)
        return True

    def read(self) -> None:
        """Hand on what can be read, as long as it is wanted."""
        transport = self._transport
        assert transport is not None
        while not transport.paused and not self._input_over and not transport.is_closing():
            try:
                data = self._tls.read(_READ)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError:
                self.flush()
                self._raw.abort()
                return
            if data:
                transport.inner.data_received(data)
                continue
            self._input_over = True
            if not transport.inner.eof_received():
                transport.close()
        self.flush()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        try:
            self._tls.write(data)
        except ssl.SSLError:
            self._raw.abort()
            return
        self.flush()

    def end(self) -> None:
        """Say that no more comes, and close once all is out."""
        with contextlib.suppress(ssl.SSLError, OSError):  # the client's own word is not waited for
            self._tls.unwrap()
        self.flush()
        self._raw.close()

    def flush(self) -> None:
        """Send what there is to send."""
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())

    def eof_received(self) -> bool | None:
        """The connection itself has ended: without a close_notify nobody knows whether that was the client's will."""
        return None

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        if self._patience is not None:
            self._patience.cancel()
        if self._transport is not None:
            self._transport.lost = True
            self._transport.inner.connection_lost(error)

    def pause_writing(self) -> None:
        """The client does not keep up."""
        if self._transport is not None:
            self._transport.inner.pause_writing()

    def resume_writing(self) -> None:
        """It caught up."""
        if self._transport is not None:
            self._transport.inner.resume_writing()


class _Transport(asyncio.Transport):
    """What the protocol inside writes to."""

    def __init__(self, tls: Tls, raw: asyncio.Transport, secured: ssl.SSLObject, inner: asyncio.Protocol) -> None:
        super().__init__()
        self._tls = tls
        self._raw = raw
        self._secured = secured
        self._closing = False
        self.inner = inner
        self.paused = False
        self.lost = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "sslcontext":
                return self._secured.context
            case "ssl_object":
                return self._secured
            case "peercert":
                return self._secured.getpeercert()
            case _:
                return self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self.inner = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.inner

    def is_closing(self) -> bool:
        return self._closing or self._raw.is_closing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if data and not self.is_closing():
            self._tls.write(data)

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._tls.end()

    def abort(self) -> None:
        self._closing = True
        self._raw.abort()

    def is_reading(self) -> bool:
        return not self.paused

    def pause_reading(self) -> None:
        self.paused = True
        if not self.is_closing():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if not self.paused:
            return
        self.paused = False
        if not self.is_closing():
            self._raw.resume_reading()
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if not self.lost and not self.is_closing():
            self._tls.read()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._raw.get_write_buffer_limits()
