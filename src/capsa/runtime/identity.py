"""What Python and libc ask their process at its beginning, for one that goes on from a snapshot: asked a second time.

The words of the command line, the environment, the streams, the signals; and what our modules have asked the machine.
"""

from __future__ import annotations

import ctypes
import os
import posix
import signal
import sys

from capsa.platform.linux import capabilities
from capsa.sys.call import adopt_environment, call

_MANY = 1 << 20  # words; the kernel allows fewer
_PROT_WRITE, _MADV_DONTNEED = 2, 4
_MUCH = 1 << 17  # bytes
_shared: list[tuple[int, int]] = []


def adopt(told: int) -> None:
    """Be the process that is described at this address (``struct told`` of launcher.c)."""
    stack, ignored, table, regions = (ctypes.c_uint64 * 4).from_address(told)
    number: int = ctypes.c_long.from_address(stack).value
    sys.argv[:] = [os.fsdecode(word) for word in (ctypes.c_char_p * number).from_address(stack + 8) if word is not None]
    _environment(stack + 8 * (number + 2))
    for fd, stream in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            setattr(sys, stream, None)
    _signals(ignored)
    capabilities.look()
    for region in range(table, table + 32 * regions, 32):
        address, length, protection, place = (ctypes.c_uint64 * 4).from_address(region)
        if place and length >= _MUCH and not protection & _PROT_WRITE:
            _shared.append((address, length))
    shed()


def shed() -> None:
    """Give back what is mapped of programs and libraries: the kernel maps 16 pages for each that is used, and maps them again.

    Only what was read of the file, which no other process has to do without. At the end of a part of the work that is done
    once: otherwise what that took would be counted all the time.
    """
    for address, length in _shared:
        call("madvise", address, length, _MADV_DONTNEED)


def _environment(address: int) -> None:
    adopt_environment(address)
    posix.environ.clear()  # which os.environ is made of
    for word in (ctypes.c_char_p * _MANY).from_address(address):
        if word is None:
            break
        name, equals, value = word.partition(b"=")
        if equals:
            posix.environ.setdefault(name, value)


def _signals(ignored: int) -> None:
    """A pipe that nobody reads is an error for Python, and so is a file that gets too long."""
    for number in signal.valid_signals():
        if ignored >> (number - 1) & 1:
            signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if not ignored >> (signal.SIGINT - 1) & 1:
        signal.signal(signal.SIGINT, signal.default_int_handler)
