"""The words of HID, and the bounds that this package puts on a text (doc/hid.txt of Genode, Syntax)."""

from __future__ import annotations

import re

from capsa.hid.errors import NotRepresentable, SyntaxViolation, TooLarge

TYPE_CHECKING = False
if TYPE_CHECKING:
    from re import Pattern

IDENTIFIER = "[a-z][a-z0-9_-]*"
"""A node's type or an attribute's tag, as a regular expression."""

MAX_BYTES = 16 << 20
"""The longest text that is read, in bytes."""
MAX_DEPTH = 100
"""How many levels of sub nodes are read or written."""

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What is never part of HID; line breaks and tabs have places of their own."""

_identifier = re.compile(IDENTIFIER)
_value = re.compile("(?! )[^\x00-\x1f\x7f-\x9f|\ud800-\udfff]*(?<! )")
_line = re.compile("[^\x00-\x08\x0a-\x1f\x7f-\x9f\ud800-\udfff]*")
_tab_behind_bar = re.compile(r"\| *(?![.: ])[^|]*\t")

_identifiers: set[str] = set()


def identifier(text: str) -> bool:
    """Whether ``text`` may be a type or a tag."""
    if text in _identifiers:
        return True
    if not _identifier.fullmatch(text):
        return False
    if len(_identifiers) < 10_000:
        _identifiers.add(text)
    return True


def value(text: str, matches: Pattern[str] = _value) -> bool:
    """Whether ``text`` may be the value of an attribute; space around it would not be part of it."""
    return matches.fullmatch(text) is not None


def bare(name: str) -> bool:
    """Whether a name may stand behind the type without its tag, and all readers take it for the name."""
    return bool(name) and ":" not in name and name[0] not in ".+"


def why_no_value(text: str) -> str:
    """What keeps ``text`` from being a value, as the end of a sentence."""
    if "|" in text:
        return "values cannot hold '|' (quoted content can)"
    if text != text.strip(" "):
        return "space around a value is not part of it (quoted content keeps it)"
    return "it has characters that cannot be printed"


def check_line(text: str, what: str) -> None:
    """Raise `NotRepresentable` unless ``text`` may be a line of quoted content or of a comment."""
    if not _line.fullmatch(text):
        reason = "a line break" if "\n" in text else "characters that cannot be printed"
        raise NotRepresentable(f"{what} {shown(text)} cannot be written: it has {reason}")
    if "\t" in text and _tab_behind_bar.search(text):
        raise NotRepresentable(
            f"{what} {shown(text)} cannot be written: at a tab behind a '|', Genode refuses the whole configuration"
        )


def shown(text: str, most: int = 60) -> str:
    """``text`` for a message: in quotes, with escapes for what cannot be printed, and not too long."""
    return repr(text if len(text) <= most else text[:most] + "…")


def decode(text: str | bytes, most: int) -> str:
    """The characters of a text of at most ``most`` bytes; raises `TooLarge` and `SyntaxViolation`."""
    if isinstance(text, str):
        if len(text) > most or (len(text) * 4 > most and len(text.encode("utf-8", "surrogatepass")) > most):
            raise TooLarge(f"more than {most} bytes")
        return text
    if len(text) > most:
        raise TooLarge(f"more than {most} bytes")
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        begin = text.rfind(b"\n", 0, error.start) + 1
        column = len(text[begin : error.start].decode("utf-8", "replace")) + 1
        raise SyntaxViolation(f"byte 0x{text[error.start]:02x} is not UTF-8", line, column) from None
