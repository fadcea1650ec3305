"""What processes and the kernel use, in bytes."""

from __future__ import annotations

import contextlib
import re
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class System:
    """``MemAvailable`` and ``Slab`` of /proc/meminfo, the former with the pages that are free on a processor's list.

    Those lists (/proc/zoneinfo, ``pagesets``) are not free memory to the kernel's statistics, and since Linux 6.6 they
    grow to hundreds of megabytes where processes come and go. Without them the figure depends on who forked last.
    """

    available: int
    slab: int


@dataclass(frozen=True)
class Usage:
    """Sums over processes: proportional and resident set size; ``code`` is the share of executable files in ``pss``."""

    processes: int
    pss: int
    rss: int
    code: int


def system() -> System:
    """The machine's memory, after dropping nothing."""
    values = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0]) * 1024
    lists = re.findall(r"^ +count: +([0-9]+)$", Path("/proc/zoneinfo").read_text(), re.MULTILINE)
    return System(values["MemAvailable"] + sum(map(int, lists)) * resource.getpagesize(), values["Slab"])


def pss(pids: Iterable[int]) -> int:
    """Proportional set size of processes (smaps_rollup); those that end meanwhile do not count."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def usage(pids: Iterable[int]) -> Usage:
    """All of it, from smaps."""
    processes = proportional = resident = code = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            executable = False
            text = Path(f"/proc/{pid}/smaps").read_text()
            processes += 1
            for line in text.splitlines():
                words = line.split()
                if not words[0].endswith(":"):
                    executable = "x" in words[1] and len(words) > 5 and words[5].startswith("/")
                elif words[0] == "Pss:":
                    proportional += int(words[1])
                    code += int(words[1]) if executable else 0
                elif words[0] == "Rss:":
                    resident += int(words[1])
    return Usage(processes, proportional * 1024, resident * 1024, code * 1024)


def running(program: str, among: Iterable[int] | None = None) -> list[int]:
    """Processes whose executable's name is ``program``."""
    found = []
    pids = among if among is not None else (int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit())
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == program:
                found.append(pid)
    return found


def disk(path: Path) -> int:
    """Bytes on disk below ``path``, hard links once, other file systems not."""
    seen: set[tuple[int, int]] = set()
    total = 0
    pending = [path]
    device = path.stat().st_dev
    while pending:
        with contextlib.suppress(OSError):
            for entry in pending.pop().iterdir():
                status = entry.lstat()
                if status.st_dev != device or (status.st_dev, status.st_ino) in seen:
                    continue
                if status.st_nlink > 1:
                    seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
                if entry.is_dir() and not entry.is_symlink():
                    pending.append(entry)
    return total
