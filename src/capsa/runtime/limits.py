"""``update`` and ``events``: what a container may use, and what it uses."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time

import msgspec

from capsa.errors import Conflict, InvalidArgument, reason
from capsa.oci.runtime import CPU, BlockIO, Memory, Pids, Resources, interpret
from capsa.runtime import lean
from capsa.runtime.container import Container
from capsa.runtime.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.cli.options import Options
    from capsa.platform.linux.cgroup import Cgroup
    from capsa.platform.linux.cgroup.stats import Stats
    from capsa.runtime.verb import Settings

_UPDATE = """
      --blkio-weight int          Share of block I/O, 10 to 1000
      --cpu-burst int             Microseconds that unused quota may add up to
      --cpu-idle int              1: run only when nothing else does
      --cpu-period int            Period of the quota, in microseconds
      --cpu-quota int             Microseconds of processor time in a period
      --cpu-rt-period int         Period of real-time processor time, in microseconds
      --cpu-rt-runtime int        Microseconds of real-time processor time in a period
      --cpu-share int             Share of processor time, relative to others
      --cpuset-cpus string        Processors to run on (0-3,7)
      --cpuset-mems string        Memory nodes to use
      --memory bytes              Memory limit
      --memory-reservation bytes  Memory to be kept when the machine runs short
      --memory-swap bytes         Memory and swap together, -1: no limit
      --pids-limit int            Number of processes and threads, -1: no limit
  -r, --resources string          All of it as JSON (linux.resources), from this file, - for standard input
"""
_EVENTS = """
      --interval duration   Time between two reports (default 5s)
      --stats               Report once, then end
"""
_REFUSED = {
    "kernel-memory": "Linux has given up limits of kernel memory",
    "kernel-memory-tcp": "Linux has given up limits of kernel memory",
    "l3-cache-schema": "resource control (intelRdt) is not supported",
    "mem-bw-schema": "resource control (intelRdt) is not supported",
}


def update(settings: Settings, options: Options) -> int:
    """``capsa-runtime update ID``."""
    container = Container(settings.root, options.arguments[0])
    wanted = _from_file(options.text("resources")) if options.given("resources") else _from_options(options)
    with container.locked():
        if container.status() == "stopped":
            raise Conflict(f"cannot update container {container.id}: it has ended")
        interpret(wanted, container.spec.oci_version)
        if name := container.record.unit:
            from capsa.runtime import unit

            unit.update(container.cgroup(), name, wanted)
        else:
            container.cgroup().update(wanted)
    return 0


def _from_file(path: str | None) -> Resources:
    try:
        if path in (None, "-"):
            data = sys.stdin.buffer.read()
        else:
            assert path is not None
            with open(path, "rb") as file:
                data = file.read()
        return msgspec.json.decode(data, type=Resources)
    except OSError as error:
        raise InvalidArgument(f"cannot read the resources from {path}: {reason(error)}") from error
    except msgspec.DecodeError as error:
        raise InvalidArgument(f"malformed resources in {path}: {error}") from error


def _from_options(options: Options) -> Resources:
    number = options.number
    weight, pids = number("blkio-weight"), number("pids-limit")
    return Resources(
        memory=Memory(
            limit=_bytes(options, "memory"),
            reservation=_bytes(options, "memory-reservation"),
            swap=_bytes(options, "memory-swap"),
        ),
        cpu=CPU(
            shares=number("cpu-share"),
            quota=number("cpu-quota"),
            burst=number("cpu-burst"),
            period=number("cpu-period"),
            realtime_runtime=number("cpu-rt-runtime"),
            realtime_period=number("cpu-rt-period"),
            cpus=options.text("cpuset-cpus") or "",
            mems=options.text("cpuset-mems") or "",
            idle=number("cpu-idle"),
        ),
        pids=Pids(limit=pids) if pids is not None else None,
        block_io=BlockIO(weight=weight) if weight is not None else None,
    )


_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _bytes(options: Options, name: str) -> int | None:
    """A size such as ``64M``; -1 is no limit."""
    text = options.text(name)
    if text is None:
        return None
    digits = text.lower().removesuffix("ib").removesuffix("b")
    unit = digits[-1:] if digits[-1:].isalpha() else ""
    number = digits.removesuffix(unit) if unit else digits
    if text == "-1":
        return -1
    if unit not in _UNITS or not number.isdecimal():
        raise InvalidArgument(f"invalid --{name} {text!r}: a size is written like 67108864, 64M or 1G, none as -1")
    return int(number) * _UNITS[unit]


# ---- events ----


def events(settings: Settings, options: Options) -> int:
    """``capsa-runtime events ID``: statistics, and lack of memory, as JSON lines, until the container ends."""
    container = Container(settings.root, options.arguments[0])
    interval = _seconds(options.text("interval") or "5s")
    if container.status() == "stopped":
        raise Conflict(f"cannot tell events of container {container.id}: it has ended")
    cgroup = container.cgroup()
    if options.switch("stats"):
        _tell("stats", container.id, statistics(cgroup.stats()))
        return 0
    watch = cgroup.oom_watch()
    poll = select.poll()
    if watch is not None:
        poll.register(watch, select.POLLIN)
    killed = cgroup.oom_kills()
    due = time.monotonic()
    lean.collect()
    while container.alive():
        now = time.monotonic()
        if now >= due:
            _tell("stats", container.id, statistics(cgroup.stats()))
            due = now + interval
        if poll.poll(min(due - now, 0.2) * 1000 if now < due else 0):
            _drain(watch)
        killed = _oom(container.id, cgroup, killed)
    _oom(container.id, cgroup, killed)
    return 0


def _oom(identity: str, cgroup: Cgroup, before: int) -> int:
    now = cgroup.oom_kills()
    if now > before:
        _tell("oom", identity, None)
    return max(now, before)


def _drain(watch: int | None) -> None:
    assert watch is not None
    with contextlib.suppress(BlockingIOError):
        os.read(watch, 4096)


def _tell(kind: str, identity: str, data: object) -> None:
    line = {"type": kind, "id": identity} | ({"data": data} if data is not None else {})
    print(msgspec.json.encode(line).decode(), flush=True)


def _seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    for unit in ("ms", "s", "m", "h"):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdecimal() and float(number) * units[unit] > 0:
            return float(number) * units[unit]
    raise InvalidArgument(f"invalid --interval {text!r}: it is written like 500ms or 5s")


def statistics(found: Stats) -> dict[str, object]:
    """In the form that runc's ``events`` has, which containerd and others read."""
    memory, cpu = found.memory, found.cpu
    unlimited = (1 << 64) - 1

    def limit(value: int | None) -> int:
        return unlimited if value is None else value

    def blocks(*pairs: tuple[str, str]) -> list[dict[str, object]]:
        return [
            {"major": each.major, "minor": each.minor, "op": operation, "value": getattr(each, field)}
            for each in found.devices
            for operation, field in pairs
        ]

    return {
        "cpu": {
            "usage": {"total": cpu.usage, "percpu": cpu.per_cpu, "kernel": cpu.system, "user": cpu.user},
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled,
            },
        },
        "memory": {
            "cache": memory.detail.get("total_cache", memory.detail.get("file", 0)),
            "usage": {
                "limit": limit(memory.limit),
                "usage": memory.usage,
                "max": memory.peak,
                "failcnt": memory.failures,
            },
            "swap": {"limit": limit(memory.swap_limit), "usage": memory.swap, "failcnt": 0},
            "raw": memory.detail,
        },
        "pids": {"current": found.pids.current, "limit": found.pids.limit or 0},
        "blkio": {
            "ioServiceBytesRecursive": blocks(("Read", "read_bytes"), ("Write", "write_bytes")),
            "ioServicedRecursive": blocks(("Read", "reads"), ("Write", "writes")),
        },
        "hugetlb": {
            size: {"usage": each.usage, "max": each.peak, "failcnt": each.failures} for size, each in found.huge.items()
        },
    }


VERBS = {
    "events": Verb("events", "ID", "Report what a container uses, as JSON lines", _EVENTS, events),
    "update": Verb("update", "ID", "Change the limits of a container", _UPDATE, update, refused=_REFUSED),
}
