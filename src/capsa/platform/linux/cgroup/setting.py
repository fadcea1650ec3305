"""One value for one control file of a cgroup: what a plan consists of."""

from __future__ import annotations

import msgspec

from capsa.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[str], str | None]
    """Reads a control file of the cgroup being changed; ``None`` where it does not exist."""

UNLIMITED = -1


class Setting(msgspec.Struct, frozen=True):
    """``choices`` are (file, value) pairs, of which the first whose file exists is written.

    ``wanted`` is the property of the specification that asks for it, for messages. ``optional``: no error where
    there is no such file.
    """

    controller: str
    choices: tuple[tuple[str, str], ...]
    wanted: str
    optional: bool = False


def one(controller: str, file: str, value: object, wanted: str, optional: bool = False) -> Setting:
    """A setting with a single choice."""
    return Setting(controller, ((file, str(value)),), wanted, optional)


def page_size(text: str) -> str:
    """A huge page size as it stands in file names (``2MB``); raises `InvalidArgument`, as it becomes part of one."""
    if not (text[:-2].isascii() and text[:-2].isdigit() and text[-2:] in ("KB", "MB", "GB")):
        raise InvalidArgument(f"hugepageLimits: {text!r} is no page size (write it like 2MB)")
    return text


def word(text: str, wanted: str) -> str:
    """``text`` if it is one word; raises `InvalidArgument` for what would become a second value or line."""
    if not text or any(char.isspace() or char == "\0" for char in text):
        raise InvalidArgument(f"{wanted}: {text!r} is not one word")
    return text


def non_negative(value: int, wanted: str) -> int:
    """``value``; raises `InvalidArgument` if it is below zero."""
    if value < 0:
        raise InvalidArgument(f"{wanted}: {value} is below zero")
    return value
