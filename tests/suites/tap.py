"""Reads what test programs print in the Test Anything Protocol (testanything.org, versions 12 and 13)."""

from __future__ import annotations

import re
from typing import NamedTuple

_LINE = re.compile(r"(?P<no>not )?ok\b *(?P<number>\d+)? *(?:- )?(?P<rest>.*)")
_PLAN = re.compile(r"1\.\.(?P<count>\d+)")
_DIRECTIVE = re.compile(r"#\s*(?P<kind>skip|todo)\b\S*\s*(?P<why>[^#]*)", re.IGNORECASE)


class Line(NamedTuple):
    """One test: what it is about, and its result: ``ok``, ``not ok``, ``skip`` or ``todo``, for the last two why."""

    about: str
    result: str
    why: str = ""


def read(text: str) -> list[Line]:
    """The tests in ``text``; what is indented (YAML, subtests) or a comment is not one."""
    found = []
    for each in text.splitlines():
        match = _LINE.match(each)
        if match is None:
            continue
        rest = match["rest"]
        directive = _DIRECTIVE.search(rest)
        about = rest.partition("#")[0].strip()
        if directive is not None:
            found.append(Line(about, directive["kind"].lower(), directive["why"].strip()))
        else:
            found.append(Line(about, "not ok" if match["no"] else "ok"))
    return found


def planned(text: str) -> int | None:
    """How many tests there were to be; None where the program has not said so."""
    plans = [int(match["count"]) for match in map(_PLAN.fullmatch, text.splitlines()) if match]
    return sum(plans) if plans else None
