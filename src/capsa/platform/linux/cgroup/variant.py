"""Values written in GVariant's text format, as D-Bus wants them. Pure.

That is how annotations say what a systemd property is set to: ``'inactive-or-failed'``, ``uint64 5``, ``['a', 'b']``,
``@as []`` (GLib, GVariant Text Format). Dictionaries and maybe types are left out: no property of a unit has them.
"""

from __future__ import annotations

import re

from capsa.errors import InvalidArgument

Value = bool | int | float | str | list["Value"] | tuple["Value", ...]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|\.?\d[\w.]*(?:(?<=[eE])[-+]\d+)?|inf(?:inity)?\b|nan\b))
      | @(?P<type>[a-z()]+)
      | (?P<word>[a-z]+\d*)
      | (?P<sign>[][(),])
    )""",
    re.VERBOSE,
)
_WHOLE = re.compile("[-+]?(?:0|[1-9][0-9]*|0[xX][0-9a-fA-F]+)")
_WORDS = {
    "boolean": "b",
    "byte": "y",
    "int16": "n",
    "uint16": "q",
    "int32": "i",
    "uint32": "u",
    "int64": "x",
    "uint64": "t",
    "double": "d",
    "string": "s",
    "objectpath": "o",
    "signature": "g",
}
_RANGES = {
    "y": (0, 1 << 8),
    "n": (-1 << 15, 1 << 15),
    "q": (0, 1 << 16),
    "i": (-1 << 31, 1 << 31),
    "u": (0, 1 << 32),
    "x": (-1 << 63, 1 << 63),
    "t": (0, 1 << 64),
}
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_DEEPEST = 16


def parse(text: str) -> tuple[str, Value]:
    """The D-Bus signature and the value of ``text``; raises `InvalidArgument`."""
    reader = _Reader(text)
    signature, value = reader.value("", 0)
    reader.end()
    return signature, value


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def end(self) -> None:
        if self._text[self._at :].strip():
            raise self._wrong()

    def _wrong(self) -> InvalidArgument:
        return InvalidArgument(
            f"{self._text!r} is not a value in GVariant's text format, from {self._text[self._at :][:20]!r} on"
            " (write it like 'text', uint64 5, true or ['a', 'b'])"
        )

    def _next(self) -> re.Match[str]:
        found = _TOKEN.match(self._text, self._at)
        if found is None:
            raise self._wrong()
        self._at = found.end()
        return found

    def _sign(self, *signs: str) -> str:
        """The next sign, if it is one of these; else an empty text, and nothing is taken."""
        found = _TOKEN.match(self._text, self._at)
        if found is None or found["sign"] not in signs:
            return ""
        self._at = found.end()
        return found["sign"]

    def value(self, wanted: str, depth: int) -> tuple[str, Value]:
        """One value, of the type ``wanted`` unless that is empty."""
        if depth > _DEEPEST:
            raise self._wrong()
        token = self._next()
        if token["type"] is not None:
            kinds = split(token["type"])
            if len(kinds) != 1 or wanted not in ("", kinds[0]):
                raise self._wrong()
            return self.value(kinds[0], depth + 1)
        if token["word"] in _WORDS:
            kind = _WORDS[token["word"]]
            if wanted not in ("", kind):
                raise self._wrong()
            return self.value(kind, depth + 1)
        if token["word"] in ("true", "false") and wanted in ("", "b"):
            return "b", token["word"] == "true"
        if token["text"] is not None and wanted in ("", "s", "o", "g"):
            return wanted or "s", _unquoted(token["text"])
        if token["number"] is not None:
            return self._number(token["number"], wanted)
        if token["sign"] == "[" and wanted[:1] in ("", "a"):
            return self._array(wanted[1:], depth)
        if token["sign"] == "(" and wanted[:1] in ("", "("):
            return self._tuple(split(wanted[1:-1]), bool(wanted), depth)
        raise self._wrong()

    def _number(self, text: str, wanted: str) -> tuple[str, Value]:
        if not _WHOLE.fullmatch(text):
            try:
                if wanted in ("", "d") and any(char in text for char in ".eEn"):
                    return "d", float(text)
            except ValueError:
                pass
            raise self._wrong()
        whole = int(text, 0)
        if wanted == "d":
            return "d", float(whole)
        kind = wanted or "i"
        if kind not in _RANGES:
            raise self._wrong()
        lowest, end = _RANGES[kind]
        if not lowest <= whole < end:
            raise InvalidArgument(f"{text} in {self._text!r} is not between {lowest} and {end - 1}")
        return kind, whole

    def _array(self, element: str, depth: int) -> tuple[str, Value]:
        values: list[Value] = []
        while not self._sign("]"):
            if values and not self._sign(","):
                raise self._wrong()
            element, value = self.value(element, depth + 1)
            values.append(value)
        if not element:
            raise InvalidArgument(f"{self._text!r} has an array of no known type (write it like @as [])")
        return f"a{element}", values

    def _tuple(self, wanted: list[str], typed: bool, depth: int) -> tuple[str, Value]:
        kinds: list[str] = []
        values: list[Value] = []
        while not self._sign(")"):
            if values and not self._sign(","):
                raise self._wrong()
            if self._sign(")"):  # a tuple of one has a comma behind it
                break
            if typed and len(values) == len(wanted):
                raise self._wrong()
            kind, value = self.value(wanted[len(values)] if typed else "", depth + 1)
            kinds.append(kind)
            values.append(value)
        if not values or (typed and len(values) != len(wanted)):
            raise self._wrong()
        return f"({''.join(kinds)})", tuple(values)


def split(signature: str) -> list[str]:
    """A signature as its complete types (``a(ss)t`` is two); raises `InvalidArgument`."""
    found: list[str] = []
    start = at = 0
    while at < len(signature):
        if signature[at] == "a":
            at += 1
            continue
        if signature[at] == "(":
            depth = 1
            while depth and (at := at + 1) < len(signature):
                depth += {"(": 1, ")": -1}.get(signature[at], 0)
            if depth or not split(signature[signature.index("(", start) + 1 : at]):
                raise InvalidArgument(f"{signature!r} is not the type of a D-Bus value")
        elif signature[at] not in _WORDS.values():
            raise InvalidArgument(f"{signature!r} is not the type of a D-Bus value")
        at += 1
        found.append(signature[start:at])
        start = at
    if start < len(signature) or len(signature) > 64:
        raise InvalidArgument(f"{signature!r} is not the type of a D-Bus value")
    return found


def _unquoted(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        digits = found[1] or found[2]
        return chr(int(digits, 16)) if digits else _ESCAPES.get(found[3], found[3])

    try:
        made = re.sub(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", plain, text[1:-1], flags=re.DOTALL)
        made.encode()
    except (ValueError, OverflowError):
        raise InvalidArgument(f"{text} names a character that there is not") from None
    if "\0" in made:
        raise InvalidArgument(f"{text} has a character that D-Bus does not allow")
    return made
