"""Passing bytes on between a client and a process, in both directions, until one of them has had enough.

Nothing is buffered without bound: a side that does not take its bytes makes the other side wait, down to the pipe of
the process. The client may end its input alone (half-close), and may leave by its detach keys.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

from capsa.errors import InvalidArgument

_CONTROL = re.compile(r"ctrl-([a-z@\[\\\]^_])")
_EARLY = 1 << 16  # bytes of input that are kept until there is a process


class DetachKeys:
    """Finds the sequence of keys that ends an attachment; what may be its beginning is held back.

    A key that breaks the sequence does not begin it anew: docker's client, which looks for the keys as well, has it so,
    and would hang if both did not agree.
    """

    def __init__(self, keys: bytes) -> None:
        """``keys`` may be empty: nothing detaches."""
        self._keys = keys
        self._matched = 0

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """What to pass on of ``data``, and whether the keys were complete."""
        keys = self._keys
        if not keys or (not self._matched and keys[0] not in data):
            return data, False
        out = bytearray()
        for byte in data:
            if byte == keys[self._matched]:
                self._matched += 1
                if self._matched == len(keys):
                    return bytes(out), True
                continue
            if self._matched:
                out += keys[: self._matched]
                self._matched = 0
            out.append(byte)
        return bytes(out), False


def detach_keys(text: str) -> bytes:
    """``ctrl-p,ctrl-q`` (the default) as bytes; raises `InvalidArgument`."""
    if not text:
        return b"\x10\x11"
    keys = bytearray()
    for key in text.split(","):
        control = _CONTROL.fullmatch(key)
        if control:
            keys.append(0 if control[1] == "@" else ord(control[1].upper()) & 0x1F)
        elif len(key) == 1 and key.isascii():
            keys.append(ord(key))
        else:
            raise InvalidArgument(f"Invalid detach keys ({text}) provided")
    return bytes(keys)


class Relay(asyncio.Protocol):
    """Between the client's connection and the sub-init's socket.

    It is the protocol of the latter; the former calls it as `capsa.api.docker.connection.Stream`, also before
    there is a socket. ``done`` is set when the process closed its side, the client left, or its detach keys were read;
    ``left`` and ``detached`` tell the last two.
    """

    def __init__(
        self, client: asyncio.Transport, keys: DetachKeys, *, stdin: bool, convert: Callable[[bytes], bytes] | None
    ) -> None:
        """``stdin``: what the client sends is passed on, up to ``keys``. ``convert`` is applied to what it is sent."""
        self._client = client
        self._convert = convert
        self._keys = keys
        self._stdin = stdin
        self._early = bytearray()
        self._input_over = False
        self._transport: asyncio.Transport | None = None
        self._congested = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.detached = False
        self.left = False

    # from the sub-init

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._congested:
            transport.pause_reading()
        if self._early:
            transport.write(bytes(self._early))
            self._early.clear()
            self._client.resume_reading()
        self._end_input()

    def data_received(self, data: bytes) -> None:
        if self._client.is_closing():
            self.stop()
        else:
            self._client.write(self._convert(data) if self._convert is not None else data)

    def eof_received(self) -> bool:
        self.stop()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.stop()

    def pause_writing(self) -> None:
        if not self._client.is_closing():
            self._client.pause_reading()

    def resume_writing(self) -> None:
        if not self._client.is_closing():
            self._client.resume_reading()

    # from the client

    def client_sent(self, data: bytes) -> None:
        """Bytes of the client."""
        if not self._stdin or self._input_over or self.done.done():
            return
        passed, detached = self._keys.take(data)
        if passed and self._transport is None:
            self._early += passed
            if len(self._early) > _EARLY:
                self._client.pause_reading()
        elif passed and self._transport is not None and not self._transport.is_closing():
            self._transport.write(passed)
        if detached:
            self.detached = True
            self.stop()

    def client_ended(self) -> None:
        """The client's input has ended; output goes on."""
        self._input_over = True
        self._end_input()

    def client_left(self) -> None:
        """The client is gone."""
        self.left = True
        self.stop()

    def client_congested(self, congested: bool) -> None:
        """The client does (not) take its bytes."""
        self._congested = congested
        if self._transport is not None and not self._transport.is_closing():
            if congested:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _end_input(self) -> None:
        if self._transport is not None and self._stdin and self._input_over and not self._transport.is_closing():
            self._transport.write_eof()

    def stop(self) -> None:
        """It is over."""
        if not self.done.done():
            self.done.set_result(None)

    def close(self) -> None:
        """Let go of the sub-init's socket."""
        if self._transport is not None:
            self._transport.close()
