"""User and group ids, capabilities, keyrings of the calling process.

The C library's wrappers tell all threads it knows about; these do not, see `capsa.sys.call`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

from capsa.sys.call import call
from capsa.sys.process import (
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_CLEAR_ALL,
    PR_CAP_AMBIENT_RAISE,
    PR_CAPBSET_DROP,
    PR_SET_KEEPCAPS,
    prctl,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Final

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


@contextlib.contextmanager
def real_ids(uid: int, gid: int, groups: Sequence[int]) -> Iterator[None]:
    """Let ``access(2)``, which goes by the real ids and has no privileges then, answer for another user.

    Nothing else changes for the calling process, not even its parent-death signal. Raises `OSError` where a user
    namespace does not know the ids, or does not let groups be set.
    """
    before = os.getuid(), os.getgid(), os.getgroups()
    try:
        setgroups(groups)
        call("setresgid", gid, -1, -1, about=str(gid))
        call("setresuid", uid, -1, -1, about=str(uid))
        yield
    finally:
        call("setresuid", before[0], -1, -1, about=str(before[0]))
        call("setresgid", before[1], -1, -1, about=str(before[1]))
        if os.getgroups() != before[2]:
            setgroups(before[2])


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
