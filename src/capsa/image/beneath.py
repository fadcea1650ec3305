"""Opening what lies directly in a directory, and nothing else: ``openat2(2)`` without links, across no mount."""

from __future__ import annotations

import ctypes
import os

from capsa.sys.call import call
from capsa.sys.path import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV


class _How(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_hows: dict[tuple[int, bool], _How] = {}


def open_beneath(directory: int, name: bytes, flags: int, *, mounts: bool = False) -> int:
    """Open ``name`` in the open ``directory``, close-on-exec.

    Raises `OSError` naming it: ELOOP for a link, EXDEV for a mount point unless ``mounts`` may be crossed.
    """
    how = _hows.get((flags, mounts))
    if how is None:
        resolve = _RESOLVE if mounts else _RESOLVE | RESOLVE_NO_XDEV
        how = _hows[flags, mounts] = _How(flags=flags | os.O_NOFOLLOW | os.O_CLOEXEC, resolve=resolve)
    while True:
        try:
            return call("openat2", directory, name, ctypes.byref(how), ctypes.sizeof(_How), about=name)
        except BlockingIOError:
            continue  # the kernel asks for that when something was renamed at the same moment
