"""``--filter name=value`` as the Engine API wants it."""

from __future__ import annotations

from capsa.cli.options import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


def filters(texts: Iterable[str]) -> dict[str, list[str]]:
    """Values by name; raises `UsageError` for what has no value."""
    result: dict[str, list[str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"invalid filter: {text} (name=value)")
        result.setdefault(name.strip().lower(), []).append(value.strip())
    return result
