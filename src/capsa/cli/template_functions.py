"""The functions of ``--format`` templates: Go's own and docker's (``json join lower upper title split pad …``)."""

from __future__ import annotations

import json
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class _Nothing:
    """A key that a map does not have."""


NOTHING = _Nothing()
NIL_LIST: list[object] = []
"""Go's list that there is none of: empty, but null in JSON."""
NIL_MAP: dict[str, object] = {}


def dumps(value: object) -> str:
    """JSON on one line; fields that are calls are left out."""
    if value is NIL_LIST or value is NIL_MAP:
        return "null"
    if isinstance(value, dict):
        value = {name: one for name, one in value.items() if not callable(one)}
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def text(value: object) -> str:
    """A value as Go prints it (``%v``)."""
    if value is True:
        return "true"
    if value is False:
        return "false"
    if value is None:
        return "<nil>"
    if value is NOTHING:
        return "<no value>"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{text(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, (list, tuple)):
        return "[" + " ".join(text(one) for one in value) + "]"
    if callable(value):
        return text(value())
    return str(value)


def truth(value: Any) -> bool:
    """Whether ``if`` takes it for true."""
    return bool(value) and value is not NOTHING


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(text(key), NOTHING)
        elif isinstance(value, (list, str)):
            if not isinstance(key, int) or not 0 <= key < len(value):
                raise IndexError(f"index out of range: {key}")
            value = value[key]
        elif value is None or value is NOTHING:
            return NOTHING
        else:
            raise TypeError(f"can't index {text(value)}")
    return value


def _printf(form: str, *values: Any) -> str:
    rest = list(values)

    def one(found: re.Match[str]) -> str:
        flags, verb = found[1], found[2]
        if verb == "%":
            return "%"
        if not rest:
            return f"%!{verb}(MISSING)"
        value = rest.pop(0)
        if verb in "sv":
            return f"%{flags}s" % text(value)
        if verb == "q":
            return f"%{flags}s" % json.dumps(text(value), ensure_ascii=False)
        if verb == "t":
            return text(value)
        return str(f"%{flags}{verb}" % value)

    return re.sub(r"%([-+# 0]*\d*(?:\.\d+)?)([a-zA-Z%])", one, form)


def _and(*values: Any) -> Any:
    return next((value for value in values if not truth(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if truth(value)), values[-1])


def _urlquery(value: Any) -> str:
    from urllib.parse import quote_plus

    return quote_plus(text(value))


def _html(value: Any) -> str:
    import html

    return html.escape(text(value))


def _slice(value: Any, begin: int = 0, end: int | None = None) -> Any:
    return value[begin:end]


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "and": _and,
    "eq": lambda value, *others: any(value == other for other in others),
    "ge": lambda a, b: a >= b,
    "gt": lambda a, b: a > b,
    "html": _html,
    "index": _index,
    "join": lambda values, separator: separator.join(text(value) for value in values or []),
    "json": dumps,
    "le": lambda a, b: a <= b,
    "len": lambda value: 0 if value is None or value is NOTHING else len(value),
    "lower": lambda value: text(value).lower(),
    "lt": lambda a, b: a < b,
    "ne": lambda a, b: a != b,
    "not": lambda value: not truth(value),
    "or": _or,
    "pad": lambda value, before, after: " " * before + text(value) + " " * after if text(value) else "",
    "print": lambda *values: "".join(text(value) for value in values),
    "printf": _printf,
    "println": lambda *values: " ".join(text(value) for value in values) + "\n",
    "slice": _slice,
    "split": lambda value, separator: text(value).split(separator),
    "title": lambda value: text(value)[:1].upper() + text(value)[1:],
    "truncate": lambda value, length: text(value)[:length],
    "urlquery": _urlquery,
    "upper": lambda value: text(value).upper(),
}
