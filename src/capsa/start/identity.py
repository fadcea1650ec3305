"""What Python and libc ask their process at its beginning, for one that goes on from a snapshot: asked a second time.

The words of the command line, the environment, the streams, the signals.
"""

from __future__ import annotations

import ctypes
import os
import posix
import signal
import sys

from capsa.sys.call import adopt_environment, call, keep_freed_memory

_MANY = 1 << 20  # words; the kernel allows fewer


def stop() -> int:
    """Stop, until a launcher goes on; returns where that has put what is to be known of its process.

    The launcher gives the memory of this process to another one, in which the same system call returns once more
    (``setjmp(3)`` in large).
    """
    keep_freed_memory()
    told = call("kill", os.getpid(), signal.SIGSTOP)
    if not told:  # somebody has let this very process go on
        os._exit(1)
    return told


def adopt(told: int) -> None:
    """Be the process that is described at this address (``struct told`` of launcher.c)."""
    stack, ignored = (ctypes.c_uint64 * 2).from_address(told)
    number: int = ctypes.c_long.from_address(stack).value
    sys.argv[:] = [os.fsdecode(word) for word in (ctypes.c_char_p * number).from_address(stack + 8) if word is not None]
    _environment(stack + 8 * (number + 2))
    for fd, stream in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            setattr(sys, stream, None)
    _signals(ignored)


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
