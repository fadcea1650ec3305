"""RAM and capability quotas: what a container asks for, and what its helpers take of it.

A quota is not a limit that may be passed and then punished. It is handed down from parent to child when the child is
made, and a component that needs more waits until somebody gives it more. So what a container gets is counted before,
against what the Genode has left.
"""

from __future__ import annotations

import re

import msgspec

from capsa.errors import InvalidArgument, LaunchFailed

MIB = 1 << 20
# What an `init` keeps for itself and its sessions, seen on Genode 26.02 for amd64.
INIT_RAM, INIT_CAPS = 2 * MIB, 120
VFS_RAM, VFS_CAPS = 12 * MIB, 120
DEFAULT_RAM, DEFAULT_CAPS = 8 * MIB, 100
NETWORK_CAPS = 100  # more, for sessions at a router
LEAST_RAM, LEAST_CAPS = 1 * MIB, 50
EXEC_RAM, EXEC_CAPS = 4 * MIB, 100
# Files that base-linux' core has open: for a component that does little, and what is to be left for those that do more.
DESCRIPTORS, SPARE_DESCRIPTORS = 125, 1500
_UNITS = {"": 1, "K": 1 << 10, "M": MIB, "G": 1 << 30}
_BYTES = re.compile(r"(\d{1,18})([KMG]?)")


class Quota(msgspec.Struct, frozen=True):
    """RAM in bytes, and a number of capabilities."""

    ram: int
    caps: int

    def __add__(self, other: Quota) -> Quota:
        return Quota(self.ram + other.ram, self.caps + other.caps)

    def __sub__(self, other: Quota) -> Quota:
        return Quota(self.ram - other.ram, self.caps - other.caps)

    def larger(self, other: Quota) -> Quota:
        """Enough for each of both."""
        return Quota(max(self.ram, other.ram), max(self.caps, other.caps))

    def fits(self, available: Quota) -> bool:
        """Whether it can be taken out of ``available``."""
        return self.ram <= available.ram and self.caps <= available.caps


INIT = Quota(INIT_RAM, INIT_CAPS)
VFS = Quota(VFS_RAM, VFS_CAPS)
EXEC = Quota(EXEC_RAM, EXEC_CAPS)


def bytes_of(text: str, where: str) -> int:
    """A number of bytes as Genode writes it (``4M``); raises `InvalidArgument` naming ``where``."""
    found = _BYTES.fullmatch(text.strip())
    if found is None:
        raise InvalidArgument(f"{where} is {text[:80]!r}: write a number of bytes such as 4M")
    return int(found[1]) * _UNITS[found[2]]


def shown(amount: int) -> str:
    """A number of bytes in the largest unit that leaves none over."""
    for unit in ("G", "M", "K"):
        if amount and amount % _UNITS[unit] == 0:
            return f"{amount // _UNITS[unit]}{unit}"
    return str(amount)


def check(wanted: Quota, available: Quota, what: str) -> None:
    """Raises `LaunchFailed` where ``what`` would take more than Genode has left: it would starve the others."""
    if wanted.ram > available.ram:
        raise LaunchFailed(
            f"{what} needs {-(-wanted.ram // MIB)} MiB of RAM, and this Genode has {max(0, available.ram) // MIB} MiB "
            "left: lower its memory limit or stop another container"
        )
    if wanted.caps > available.caps:
        raise LaunchFailed(
            f"{what} needs {wanted.caps} capabilities, and this Genode has {max(0, available.caps)} left: "
            "lower org.genode.caps or stop another container"
        )


def check_descriptors(components: int, used: int, limit: int, what: str) -> None:
    """Raises `LaunchFailed` where core would have more files open than it may: that is the end of all components."""
    room = limit - used - SPARE_DESCRIPTORS
    if limit and components * DESCRIPTORS > room:
        raise LaunchFailed(
            f"{what} needs some {components * DESCRIPTORS} open files of core, and {max(0, room)} are left of {limit}: "
            "stop another container, or start the engine with a higher limit (ulimit -n)"
        )
