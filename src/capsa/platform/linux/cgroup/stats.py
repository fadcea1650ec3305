"""What a cgroup uses and may use: one form for v1 and v2."""

from __future__ import annotations

import os

import msgspec

from capsa.platform.linux.cgroup import files, oom
from capsa.platform.linux.cgroup.hierarchy import Layout

# v1 says "no limit" with the largest multiple of the page size that fits.
_V1_UNLIMITED = 0x7FFF_FFFF_FFFF_0000


class Memory(msgspec.Struct, omit_defaults=True):
    """In bytes; a limit of ``None`` is no limit. ``swap`` counts swap alone, as does its limit.

    ``failures``: how often a limit was hit. ``detail`` are the counters of ``memory.stat`` by their names.
    """

    usage: int = 0
    peak: int = 0
    limit: int | None = None
    swap: int = 0
    swap_limit: int | None = None
    failures: int = 0
    oom_kills: int = 0
    detail: dict[str, int] = {}

    @property
    def working_set(self) -> int:
        """``usage`` without file pages not used lately, as docker shows it."""
        inactive = self.detail.get("total_inactive_file", self.detail.get("inactive_file", 0))
        return max(self.usage - inactive, 0)


class Cpu(msgspec.Struct, omit_defaults=True):
    """In nanoseconds; ``per_cpu`` only on v1. ``periods`` and ``throttled_…`` count where there is a quota."""

    usage: int = 0
    user: int = 0
    system: int = 0
    per_cpu: list[int] = []
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0


class Pids(msgspec.Struct, omit_defaults=True):
    """Processes and threads; a limit of ``None`` is no limit."""

    current: int = 0
    limit: int | None = None


class Device(msgspec.Struct):
    """Transfers to and from one block device, in bytes and operations."""

    major: int
    minor: int
    read_bytes: int = 0
    write_bytes: int = 0
    discard_bytes: int = 0
    reads: int = 0
    writes: int = 0
    discards: int = 0


class Huge(msgspec.Struct):
    """Huge pages of one size, in bytes."""

    usage: int = 0
    peak: int = 0
    failures: int = 0


class Stats(msgspec.Struct, omit_defaults=True):
    """All of it, at one moment; a part whose controller is missing is ``0``."""

    version: int
    memory: Memory
    cpu: Cpu
    pids: Pids
    devices: list[Device]
    huge: dict[str, Huge] = {}


def collect(path: str, layout: Layout) -> Stats:
    """Read everything of cgroup ``path``. What vanishes meanwhile counts as 0."""

    def where(controller: str) -> tuple[int, str]:
        hierarchy = layout.where(controller)
        return (hierarchy.version, hierarchy.mount + path) if hierarchy else (0, "")

    version, directory = where("memory")
    memory = {0: lambda _: Memory(), 1: _memory_v1, 2: _memory_v2}[version](directory)
    version, directory = where("cpuacct")
    cpu = Cpu()
    if version == 1:
        _cpuacct(cpu, directory)
    elif layout.v2 is not None:
        # cpu.stat is there in every v2 cgroup, with usage at least.
        _cpu_v2(cpu, layout.v2.mount + path)
    version, directory = where("cpu")
    if version == 1:
        throttling = _table(f"{directory}/cpu.stat")
        cpu.periods, cpu.throttled_periods = throttling.get("nr_periods", 0), throttling.get("nr_throttled", 0)
        cpu.throttled = throttling.get("throttled_time", 0)
    _, directory = where("pids")
    pids = Pids(_number(f"{directory}/pids.current"), _limit(f"{directory}/pids.max"))
    version, directory = where("io")
    blocks = {0: lambda _: [], 1: _blkio_v1, 2: _io_v2}[version](directory)
    version, directory = where("hugetlb")
    return Stats(2 if not layout.v1 else 1, memory, cpu, pids, blocks, _huge(version, directory) if version else {})


def _table(path: str) -> dict[str, int]:
    """A file of ``key number`` lines."""
    found = {}
    for line in (files.read(path) or "").splitlines():
        key, _, value = line.rpartition(" ")
        if value.isdigit():
            found[key] = int(value)
    return found


def _number(path: str) -> int:
    text = (files.read(path) or "").strip()
    return int(text) if text.isdigit() else 0


def _limit(path: str) -> int | None:
    """A limit; ``None`` for ``max`` and for v1's huge number."""
    text = (files.read(path) or "").strip()
    return int(text) if text.isdigit() and int(text) < _V1_UNLIMITED else None


def _memory_v1(directory: str) -> Memory:
    prefix = f"{directory}/memory."
    usage, limit = _number(f"{prefix}usage_in_bytes"), _limit(f"{prefix}limit_in_bytes")
    both, both_limit = _number(f"{prefix}memsw.usage_in_bytes"), _limit(f"{prefix}memsw.limit_in_bytes")
    return Memory(
        usage=usage,
        peak=_number(f"{prefix}max_usage_in_bytes"),
        limit=limit,
        swap=max(both - usage, 0),
        swap_limit=both_limit - limit if both_limit is not None and limit is not None else None,
        failures=_number(f"{prefix}failcnt") + _number(f"{prefix}memsw.failcnt"),
        oom_kills=oom.kills(1, directory),
        detail=_table(f"{prefix}stat"),
    )


def _memory_v2(directory: str) -> Memory:
    prefix = f"{directory}/memory."
    return Memory(
        usage=_number(f"{prefix}current"),
        peak=_number(f"{prefix}peak"),
        limit=_limit(f"{prefix}max"),
        swap=_number(f"{prefix}swap.current"),
        swap_limit=_limit(f"{prefix}swap.max"),
        failures=_table(f"{prefix}events").get("max", 0),
        oom_kills=oom.kills(2, directory),
        detail=_table(f"{prefix}stat"),
    )


def _cpuacct(cpu: Cpu, directory: str) -> None:
    cpu.usage = _number(f"{directory}/cpuacct.usage")
    cpu.per_cpu = [int(word) for word in (files.read(f"{directory}/cpuacct.usage_percpu") or "").split()]
    cpu.user = _number(f"{directory}/cpuacct.usage_user")
    cpu.system = _number(f"{directory}/cpuacct.usage_sys")


def _cpu_v2(cpu: Cpu, directory: str) -> None:
    table = _table(f"{directory}/cpu.stat")
    cpu.usage, cpu.user, cpu.system = (table.get(f"{key}_usec", 0) * 1000 for key in ("usage", "user", "system"))
    cpu.periods, cpu.throttled_periods = table.get("nr_periods", 0), table.get("nr_throttled", 0)
    cpu.throttled = table.get("throttled_usec", 0) * 1000


def _device(found: dict[str, Device], name: str) -> Device:
    if name not in found:
        major, _, minor = name.partition(":")
        found[name] = Device(int(major), int(minor))
    return found[name]


_V1_FIELDS = {
    ("bytes", "Read"): "read_bytes",
    ("bytes", "Write"): "write_bytes",
    ("bytes", "Discard"): "discard_bytes",
    ("serviced", "Read"): "reads",
    ("serviced", "Write"): "writes",
    ("serviced", "Discard"): "discards",
}
_V2_FIELDS = {
    "rbytes": "read_bytes",
    "wbytes": "write_bytes",
    "dbytes": "discard_bytes",
    "rios": "reads",
    "wios": "writes",
    "dios": "discards",
}


def _blkio_v1(directory: str) -> list[Device]:
    found: dict[str, Device] = {}
    for kind, file in (("bytes", "io_service_bytes"), ("serviced", "io_serviced")):
        text = files.read(f"{directory}/blkio.throttle.{file}_recursive") or ""
        for line in text.splitlines():
            words = line.split()
            field = _V1_FIELDS.get((kind, words[1])) if len(words) == 3 else None
            if field:
                setattr(_device(found, words[0]), field, int(words[2]))
    return list(found.values())


def _io_v2(directory: str) -> list[Device]:
    found: dict[str, Device] = {}
    for line in (files.read(f"{directory}/io.stat") or "").splitlines():
        name, *pairs = line.split()
        for pair in pairs:
            key, _, value = pair.partition("=")
            if key in _V2_FIELDS and value.isdigit():
                setattr(_device(found, name), _V2_FIELDS[key], int(value))
    return list(found.values())


def _huge(version: int, directory: str) -> dict[str, Huge]:
    try:
        names = os.listdir(directory)
    except OSError:
        return {}
    suffix = ".current" if version == 2 else ".usage_in_bytes"
    found = {}
    for name in names:
        size = name.removeprefix("hugetlb.").removesuffix(suffix)
        if not name.startswith("hugetlb.") or not name.endswith(suffix) or "." in size:
            continue
        prefix = f"{directory}/hugetlb.{size}."
        if version == 2:
            failures = _table(f"{prefix}events").get("max", 0)
            found[size] = Huge(_number(f"{prefix}current"), 0, failures)
        else:
            found[size] = Huge(
                _number(f"{prefix}usage_in_bytes"), _number(f"{prefix}max_usage_in_bytes"), _number(f"{prefix}failcnt")
            )
    return found
