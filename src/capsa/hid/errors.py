"""What can be wrong with HID: one sentence, and where."""

from __future__ import annotations


class HidError(ValueError):
    """A failure of this package.

    ``line`` and ``column`` count from 1; 0 where there is no place in a text (a tree that was built, a path of a
    query).
    """

    def __init__(self, message: str, line: int = 0, column: int = 0) -> None:
        place = f"line {line}, column {column}: " if column else f"line {line}: " if line else ""
        super().__init__(place + message)
        self.message = message
        self.line = line
        self.column = column


class SyntaxViolation(HidError):
    """A text is not HID (or not XML, where XML was asked for)."""


class TooLarge(HidError):
    """A text is longer, or a tree is deeper, than what this package takes."""


class NotRepresentable(HidError):
    """A tree holds what HID, or XML, has no way to write: a value with ``|``, a line break in a line."""


class BadPath(HidError):
    """A path of a query or of an edit cannot be understood."""


class BadSchema(HidError):
    """A schema definition cannot be understood."""
