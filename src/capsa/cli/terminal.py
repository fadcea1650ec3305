"""The user's terminal: raw while a container's terminal is shown in it, restored whatever happens."""

from __future__ import annotations

import os
import signal
import termios
import tty
from contextlib import contextmanager

from capsa.cli.options import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

DETACH_KEYS = "ctrl-p,ctrl-q"
_DEADLY = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT)


def is_terminal(descriptor: int) -> bool:
    """Whether a file descriptor is open and a terminal."""
    return os.isatty(descriptor)


def size() -> tuple[int, int]:
    """Rows and columns of the terminal at standard output or input; (0, 0) where there is none."""
    for descriptor in (1, 0, 2):
        try:
            columns, rows = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return rows, columns
    return 0, 0


def detach_keys(text: str | None) -> bytes:
    """The bytes of a key sequence such as ``ctrl-p,ctrl-q`` or ``a,ctrl-x``; raises `UsageError`."""
    result = bytearray()
    for key in (text or DETACH_KEYS).split(","):
        if len(key) == 1 and key.isascii():
            result += key.encode()
        elif len(key) == 6 and key.startswith("ctrl-") and key[5] in "@abcdefghijklmnopqrstuvwxyz[\\]^_":
            result.append(ord(key[5].upper()) - 64)
        else:
            raise UsageError(
                f"invalid detach keys ({text}): each is a character or ctrl- and one of a-z @ [ \\ ] ^ _", 1
            )
    return bytes(result)


@contextmanager
def raw(descriptor: int = 0) -> Iterator[None]:
    """Bytes go through untouched while this lasts; a deadly signal restores the terminal before it kills."""
    saved = termios.tcgetattr(descriptor)

    def restore() -> None:
        # What came in meanwhile is the next program's; TCSADRAIN lets output reach the screen first.
        termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)

    def die(number: int, frame: FrameType | None) -> None:
        restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    handlers = {number: signal.signal(number, die) for number in _DEADLY}
    try:
        # What was typed ahead is kept: it is meant for the container.
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        restore()
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def on_resize(tell: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``tell(rows, columns)`` now and whenever the terminal changes its size."""

    def changed(number: int = 0, frame: FrameType | None = None) -> None:
        rows, columns = size()
        if rows and columns:
            tell(rows, columns)

    before = signal.signal(signal.SIGWINCH, changed)
    try:
        changed()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
