"""Times: nanoseconds since the epoch inside, RFC 3339 and Docker's other forms outside."""

from __future__ import annotations

import calendar
import re
import time

from capsa.errors import InvalidArgument

NEVER = "0001-01-01T00:00:00Z"
_RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?)?(Z|[+-]\d\d:\d\d)?", re.ASCII
)
_UNIX = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)", re.ASCII)
_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def rfc3339(nanoseconds: int) -> str:
    """RFC 3339 in UTC as Go writes it, without trailing zeros; 0 is Go's zero time, "never"."""
    if not nanoseconds:
        return NEVER
    seconds, rest = divmod(nanoseconds, 10**9)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{text}.{rest:09d}".rstrip("0") + "Z" if rest else text + "Z"


def parse(text: str) -> int:
    """Nanoseconds since the epoch from a Unix time stamp (``1700000000.5``), RFC 3339, or a duration ago (``10m``).

    Raises `InvalidArgument`.
    """
    unix = _UNIX.fullmatch(text)
    if unix:
        return int(unix[1]) * 10**9 + int((unix[2] or "0").ljust(9, "0"))
    if _DURATION.match(text) and not _DURATION.sub("", text):
        return time.time_ns() - duration(text)
    stamp = _RFC3339.fullmatch(text)
    if not stamp:
        raise _unreadable(text)
    year, month, day, hour, minute, second = (int(part or 0) for part in stamp.groups()[:6])
    try:
        seconds = calendar.timegm((year, month, day, hour, minute, second))
    except ValueError:  # the 30th of February
        raise _unreadable(text) from None
    zone = stamp[8] or "Z"
    if zone != "Z":
        offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
        seconds -= offset if zone[0] == "+" else -offset
    return seconds * 10**9 + int((stamp[7] or "0").ljust(9, "0"))


def _unreadable(text: str) -> InvalidArgument:
    return InvalidArgument(
        f"cannot read the time {text[:80]!r} (a Unix time stamp, RFC 3339, or a duration such as 10m)"
    )


def duration(text: str) -> int:
    """Nanoseconds from Go's form of a duration (``1h30m``, ``2s``); raises `InvalidArgument`."""
    if not text or _DURATION.sub("", text):
        raise InvalidArgument(f"cannot read the duration {text!r} (such as 1m30s)")
    return sum(int(float(number) * _UNITS[unit]) for number, unit in _DURATION.findall(text))


def ago(nanoseconds: int, now: int | None = None) -> str:
    """How long something took, as Docker puts it (``About an hour``)."""
    seconds = ((now or time.time_ns()) - nanoseconds) // 10**9
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    minutes = seconds // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = (seconds + 1800) // 3600
    if hours <= 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 7 * 2:
        return f"{hours // 24} days"
    if hours < 24 * 30 * 2:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"
