"""Capabilities (config.md, Linux Process): names to numbers, and the five sets of a process."""

from __future__ import annotations

import contextlib
import os

import msgspec

from capsa.errors import InvalidArgument
from capsa.oci.runtime import Capabilities
from capsa.sys import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

NAMES: Final = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
]
_NUMBERS: Final = {name: number for number, name in enumerate(NAMES)}


class Sets:
    """The five sets as bit masks."""

    def __init__(self, wanted: Capabilities | None) -> None:
        """From the specification; without one the process has none. Raises `InvalidArgument`."""
        wanted = wanted or Capabilities()
        self.bounding = mask(wanted.bounding)
        self.effective = mask(wanted.effective)
        self.permitted = mask(wanted.permitted)
        self.inheritable = mask(wanted.inheritable)
        self.ambient = mask(wanted.ambient)


def mask(names: list[str]) -> int:
    """The bit mask of ``names``; raises `InvalidArgument` for an unknown one."""
    found = 0
    for name in names:
        try:
            found |= 1 << _NUMBERS[name]
        except KeyError:
            raise InvalidArgument(f"unknown capability {name!r} (they are written like CAP_NET_ADMIN)") from None
    return found


def grantable(wanted: Capabilities, warn: Callable[[str], None]) -> Capabilities:
    """``wanted`` without what this kernel does not know and this process does not have, of which ``warn`` is told.

    config.md, Linux Process: what cannot be granted is warned of and is no reason to fail.
    """
    _, permitted, _ = credentials.capget()
    sets: dict[str, list[str]] = msgspec.structs.asdict(wanted)
    refused = {
        name for names in sets.values() for name in names if name not in _NUMBERS or not permitted >> _NUMBERS[name] & 1
    }
    if refused:
        warn(f"left out capabilities that cannot be granted here: {', '.join(sorted(refused))}")
    return Capabilities(**{kind: [name for name in names if name not in refused] for kind, names in sets.items()})


def limit_bounding(sets: Sets) -> None:
    """Shrink the bounding set; needs CAP_SETPCAP."""
    for number in range(LAST + 1):
        if not sets.bounding >> number & 1:
            credentials.drop_bounding(number)


def apply(sets: Sets) -> None:
    """Take on the other four, after the change of user (which kept the permitted set).

    What the runtime itself does not have, it cannot pass on: such capabilities are left out, as a shell of that
    root user would have it.
    """
    _, permitted, _ = credentials.capget()
    credentials.capset(sets.effective & permitted, sets.permitted & permitted, sets.inheritable & permitted)
    credentials.clear_ambient()
    for number in range(LAST + 1):
        if sets.ambient >> number & sets.permitted >> number & sets.inheritable >> number & permitted >> number & 1:
            credentials.raise_ambient(number)


LAST = len(NAMES) - 1
"""The number of the last capability that this kernel knows."""


def look() -> None:
    """Ask the kernel. At import, as the zygote knows it for all its children, and to read it in them takes a proc."""
    global LAST
    with contextlib.suppress(OSError):
        fd = os.open("/proc/sys/kernel/cap_last_cap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            LAST = int(os.read(fd, 16))
        finally:
            os.close(fd)


look()
