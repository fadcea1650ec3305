"""The form of CRIU's messages: protocol buffers, as far as they go (protobuf.dev, Encoding). Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from capsa.errors import CapsaError

Value = bool | int | str | bytes | Mapping[int, "Value"] | Sequence["Value"]
_VARINT, _LENGTH = 0, 2
_FIXED = {1: 8, 5: 4}


def encode(message: Mapping[int, Value]) -> bytes:
    """A message as bytes; by field number, a list being a repeated field, a mapping a message within."""
    return b"".join(_field(number, value) for number, value in message.items())


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, (bool, int)):
        return _varint(number << 3 | _VARINT) + _varint(int(value))
    if isinstance(value, Mapping):
        value = encode(value)
    elif isinstance(value, str):
        value = value.encode(errors="surrogateescape")
    if isinstance(value, bytes):
        return _varint(number << 3 | _LENGTH) + _varint(len(value)) + value
    return b"".join(_field(number, one) for one in value)


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative one has ten bytes
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)


class Message:
    """A message that was received; a field that it does not have is 0, or empty."""

    def __init__(self, data: bytes) -> None:
        """Raises `CapsaError` for what is none."""
        self._numbers: dict[int, int] = {}
        self._bytes: dict[int, bytes] = {}
        at = 0
        while at < len(data):
            key, at = _read(data, at)
            number, kind = key >> 3, key & 7
            if kind == _VARINT:
                self._numbers[number], at = _read(data, at)
            elif kind == _LENGTH:
                size, at = _read(data, at)
                self._bytes[number] = data[at : at + size]
                at += size
            elif kind in _FIXED:
                at += _FIXED[kind]
            else:
                raise CapsaError("CRIU answers in a form that is not known")
        if at > len(data):
            raise CapsaError("CRIU's answer is incomplete")

    def number(self, field: int) -> int:
        """A whole number below 2^31 in amount, or a truth value as 0 or 1."""
        value = self._numbers.get(field, 0)
        return value - (1 << 64) if value >> 63 else value

    def text(self, field: int) -> str:
        """A string."""
        return self._bytes.get(field, b"").decode(errors="replace")

    def message(self, field: int) -> Message:
        """A message within."""
        return Message(self._bytes.get(field, b""))


def _read(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise CapsaError("CRIU's answer is incomplete")
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 128:
            return value & ((1 << 64) - 1), at
