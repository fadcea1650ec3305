"""Sizes, durations and times, read and written as docker does."""

from __future__ import annotations

import re
import time

from capsa.errors import InvalidArgument

_BINARY = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_DECIMAL_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_size(text: str) -> int:
    """Bytes, from ``512m``, ``1.5GiB``, ``100`` (powers of 1024); raises `InvalidArgument`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgtp]?)i?b?", text.strip(), re.IGNORECASE)
    if found is None:
        raise InvalidArgument(f'invalid size: "{text}" (a number with b, k, m, g or t, such as 512m)')
    return int(float(found[1]) * _BINARY[found[2].lower()])


def parse_duration(text: str) -> float:
    """Seconds, from Go's form (``1m30s``, ``500ms``); raises `InvalidArgument`."""
    total, position = 0.0, 0
    for part in re.finditer(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)", text):
        if part.start() != position:
            break
        total += float(part[1]) * _SECONDS[part[2]]
        position = part.end()
    if position != len(text) or not text:
        if text == "0":
            return 0.0
        raise InvalidArgument(f'invalid duration: "{text}" (such as 1m30s or 500ms)')
    return total


def nanoseconds(text: str) -> int:
    """A duration (`parse_duration`) in nanoseconds, as the Engine API wants it."""
    return round(parse_duration(text) * 1e9)


def moment(text: str) -> str:
    """A point in time for the Engine API: seconds since 1970 as a decimal.

    ``text`` is that already, a duration before now (``10m``), or a date in RFC 3339's form, as a whole or shortened.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return text
    from datetime import UTC, datetime

    try:
        return f"{time.time() - parse_duration(text):.9f}"
    except InvalidArgument:
        pass
    try:
        fraction = re.search(r"\.(\d+)", text)
        when = datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00"))
    except ValueError:
        raise InvalidArgument(f'invalid time: "{text}" (2024-01-31T12:00:00, 10m, or seconds since 1970)') from None
    if when.tzinfo is None:
        when = when.astimezone() if "T" in text else when.replace(tzinfo=UTC)
    return f"{int(when.timestamp())}.{(fraction[1] if fraction else '0'):0<9.9}"


def size(count: float, precision: int = 4) -> str:
    """Bytes for people, powers of 1000: ``1.23MB``."""
    unit = 0
    while count >= 1000 and unit < len(_DECIMAL_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.{precision}g}{_DECIMAL_UNITS[unit]}"


def binary_size(count: float) -> str:
    """Bytes for people, powers of 1024: ``1.5GiB``."""
    unit = 0
    while count >= 1024 and unit < len(_BINARY_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.4g}{_BINARY_UNITS[unit]}"


def ago(seconds: float) -> str:
    """An age for people, in docker's words: ``About a minute``, ``3 hours``."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if int(seconds) == 1 else f"{int(seconds)} seconds"
    minutes = int(seconds / 60)
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    days = hours // 24
    if hours < 24 * 7 * 2:
        return f"{days} days"
    if hours < 24 * 30 * 2:
        return f"{days // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{days // 30} months"
    return f"{days // 365} years"


def since(stamp: float) -> str:
    """``3 hours ago``, for seconds since 1970."""
    return f"{ago(max(0.0, time.time() - stamp))} ago"


def local_time(stamp: float) -> str:
    """A point in time as docker lists it: ``2024-01-31 12:00:00 +0100 CET``."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(stamp))


def precise_time(text: str) -> str:
    """A time in RFC 3339's form as `local_time` shows it, with its fraction of a second."""
    if not text:
        return ""
    fraction = re.search(r"\.\d*[1-9]", text)
    when = local_time(timestamp(text))
    return f"{when[:19]}{fraction[0] if fraction else ''}{when[19:]}"


def rfc3339(stamp: float) -> str:
    """A point in time, to the second, with the local zone: ``2024-01-31T12:00:00+01:00``."""
    when = time.localtime(stamp)
    zone = time.strftime("%z", when)
    return time.strftime("%Y-%m-%dT%H:%M:%S", when) + ("Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}")


def timestamp(text: str) -> float:
    """Seconds since 1970, of a time in RFC 3339's form; 0 for the zero time and for none."""
    if not text or text.startswith("0001-"):
        return 0.0
    from datetime import datetime

    return datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00")).timestamp()
