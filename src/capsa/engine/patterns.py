"""Regular expressions of clients, as Docker takes them: RE2's, in time that grows with the text and not beyond it.

Python's own need longer than anybody lives for ``(a+)+$``, and nothing interrupts them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from capsa.errors import InvalidArgument

LONGEST = 256


@lru_cache(64)
def compiled(text: str) -> Callable[[str], bool]:
    """A function that says whether ``text`` is found in a string; raises `InvalidArgument`."""
    import re2  # type: ignore[import-untyped]  # two megabytes that most engines never need

    if len(text) > LONGEST:
        raise InvalidArgument(f"a regular expression of {len(text)} characters, at most {LONGEST} are accepted")
    options = re2.Options()
    options.log_errors = False
    try:
        pattern = re2.compile(text, options)
    except re2.error as error:
        why = error.args[0] if error.args else b""
        why = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
        raise InvalidArgument(f"invalid regular expression {text[:80]!r}: {why}") from error
    return lambda value: pattern.search(value) is not None
