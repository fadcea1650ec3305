"""The patterns of a schema's types.

They are Google's RE2 where its library is installed: linear in time, whatever a schema holds. Otherwise they are
Python's own, for schemas that one trusts.
"""

from __future__ import annotations

from capsa.hid.errors import BadSchema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_REMEMBERED = 1000


class Pattern:
    """A regular expression that a value matches as a whole."""

    __slots__ = ("_match", "matching", "text")

    def __init__(self, text: str) -> None:
        """Raises `BadSchema` for what is no expression."""
        self.text = text
        self.matching: set[str] = set()
        """Values that do match, as far as they are known."""
        self._match: Callable[[str], Any] | None = None if text == ".*" else _compiled(text)

    def matches(self, value: str) -> bool:
        """Whether the value is one of the type."""
        if self._match is not None and not self._match(value):
            return False
        if len(self.matching) < _REMEMBERED:
            self.matching.add(value)
        return True


def _compiled(text: str) -> Callable[[str], Any]:
    try:
        import re2  # type: ignore[import-untyped]
    except ImportError:
        import re

        try:
            return re.compile(text, re.ASCII).fullmatch
        except (re.error, OverflowError, RecursionError) as error:
            raise BadSchema(f"{text!r} is no pattern: {error}") from None
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 1 << 20
    try:
        return re2.compile(text, options=options).fullmatch  # type: ignore[no-any-return]
    except re2.error as error:
        reason = error.args[0]
        words = reason.decode() if isinstance(reason, bytes) else reason
        raise BadSchema(f"{text!r} is no pattern: {words}") from None
