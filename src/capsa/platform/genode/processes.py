"""On base-linux each component is a process: which of them the kernel has stopped.

Core says that there was a fault, but not whose. A component sets handlers for such signals, and a handler that has
reported one gives way to the kernel's default, so who has a handler less, or is no more, it was.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

# SIGILL, SIGBUS, SIGFPE, SIGSEGV as bits of SigCgt in /proc/PID/status.
_FAULTS = sum(1 << (number - 1) for number in (4, 7, 8, 11))
_PREFIX = "[Genode] "


def children(pid: int) -> list[int]:
    """The children of a process, whichever of its threads made them."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        return found
    except OSError:  # it is gone, or the kernel has no such lists (CONFIG_PROC_CHILDREN): ask all processes
        found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(name))
    return found


def descriptors(pid: int) -> tuple[int, int]:
    """How many files a process has open, and how many it may; zeros where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/limits").read_text().partition("Max open files")[2].split()
        # Its size is their number since Linux 6.2.
        return os.stat(f"/proc/{pid}/fd").st_size or len(os.listdir(f"/proc/{pid}/fd")), int(fields[0])
    except (OSError, ValueError, IndexError):
        return 0, 0


def faulted(core: int, labels: list[str]) -> list[str]:
    """Those of ``labels`` (``init -> timer``) whose process has had a fault, or is no more."""
    sound = set()
    for pid in children(core):
        label = _label(pid)
        if label in labels and _sound(pid):
            sound.add(label)
    return [label for label in labels if label not in sound]


def _label(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            text = os.fsdecode(file.read(400).partition(b"\0")[0])
    except OSError:
        return ""
    return text.removeprefix(_PREFIX) if text.startswith(_PREFIX) else ""


def _sound(pid: int) -> bool:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    if fields.get("State", "Z").split()[0] in "ZX":
        return False
    return int(fields.get("SigCgt", "0"), 16) & _FAULTS == _FAULTS
