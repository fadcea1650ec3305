"""Core's standard output: which component wrote a line, and what a line says about its end."""

from __future__ import annotations

import re

import msgspec

from capsa.platform.genode.compile import CONTAINERS

LONGEST = 1 << 16
CORE = "init -> "
_LABEL = rb"\[%b%b -> ([^\]> ]+)(?: -> ([^\]]*))?\] ?"
_COLOUR = re.compile(rb"\x1b\[[0-9;]*m")
_LAST_WORDS = {b"Uncaught exception": 134, b"stop because parent denied": 126}
_RESETS = re.compile(rb"(?:\x1b\[0m)+\Z")  # core ends each line with them, coloured or not


class Line(msgspec.Struct, frozen=True):
    """One line. ``container`` and ``component`` are empty for those of the Genode itself.

    ``inner``: it is of something that the component has started itself, or has named so.
    """

    container: str
    component: str
    text: bytes
    inner: bool = False

    @property
    def plain(self) -> bytes:
        """Its text without colours."""
        return _COLOUR.sub(b"", self.text).strip()

    @property
    def end(self) -> tuple[int, str] | None:
        """The exit code and the reason, where a component says with its last words that it goes no further.

        One that was refused a session stays there and waits for ever, as one does after an uncaught exception.
        """
        plain = self.plain
        if self.inner or not plain.startswith(b"Error:"):
            return None
        words = plain.removeprefix(b"Error:").strip()
        for said, code in _LAST_WORDS.items():
            if words.startswith(said):
                return code, words.decode(errors="replace")[:300]
        return None


class Lines:
    """Splits what is read into lines; those that are longer than `LONGEST` are cut.

    ``root``: what labels begin with, up to the `init` of the containers.
    """

    def __init__(self, root: str = CORE) -> None:
        self._label = re.compile(_LABEL % (re.escape(root.encode()), CONTAINERS.encode()))
        self._rest = b""

    def feed(self, data: bytes) -> list[Line]:
        """All lines that are whole by now."""
        data = self._rest + data
        *whole, self._rest = data.split(b"\n")
        if len(self._rest) > LONGEST:
            whole.append(self._rest)
            self._rest = b""
        return [self._line(each) for each in whole]

    def _line(self, data: bytes) -> Line:
        """Who wrote a line."""
        found = self._label.match(_COLOUR.sub(b"", data[:400]))
        if found is None:
            return Line("", "", data)
        label = found.group(0)
        start = data.find(b"] ", 0, 400)
        text = _RESETS.sub(b"", data[start + 2 :] if start >= 0 else data[len(label) :])
        if b"\x1b[" in text:
            text += b"\x1b[0m"
        component, inner, _ = (found.group(2) or b"").partition(b" -> ")
        return Line(found.group(1).decode(errors="replace"), component.decode(errors="replace"), text, bool(inner))
