"""User and group ids, capabilities, keyrings of the calling process.

The C library's wrappers tell all threads it knows about; these do not, see `capsa.sys.call`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

from capsa.sys.call import call
from capsa.sys.process import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_SET_KEEPCAPS,
    prctl,
)

_VERSION_3: Final = 0x20080522
_JOIN_SESSION_KEYRING: Final = 1


def setresuid(uid: int) -> None:
    """Set real, effective and saved user id."""
    call("setresuid", uid, uid, uid, about=str(uid))


def setresgid(gid: int) -> None:
    """Set real, effective and saved group id."""
    call("setresgid", gid, gid, gid, about=str(gid))


def setgroups(gids: Sequence[int]) -> None:
    """Set the additional groups."""
    call("setgroups", len(gids), (ctypes.c_uint32 * len(gids))(*gids), about=" ".join(map(str, gids)))


def keep_capabilities(keep: bool) -> None:
    """Whether a change from root to another user leaves the permitted set alone."""
    prctl(PR_SET_KEEPCAPS, int(keep))


def drop_bounding(capability: int) -> None:
    """Remove one capability from the bounding set."""
    prctl(PR_CAPBSET_DROP, capability)


def capget() -> tuple[int, int, int]:
    """The effective, permitted and inheritable sets of the calling thread, as bit masks."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    call("capget", header, data)
    effective, permitted, inheritable = (data[i] | data[i + 3] << 32 for i in range(3))
    return effective, permitted, inheritable


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set them; raises `OSError` (EPERM) for what the process does not have."""
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    words = (effective, permitted, inheritable)
    data = (ctypes.c_uint32 * 6)(*[w & 0xFFFFFFFF for w in words], *[w >> 32 for w in words])
    call("capset", header, data)


def clear_ambient() -> None:
    """Empty the ambient set."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)


def raise_ambient(capability: int) -> None:
    """Add to the ambient set what is permitted and inheritable already."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)


def join_session_keyring(name: str) -> None:
    """Begin a session keyring, so that the caller's keys are out of reach."""
    call("keyctl", _JOIN_SESSION_KEYRING, name.encode(), about=name)
