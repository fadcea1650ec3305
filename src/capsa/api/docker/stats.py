"""``/containers/ID/stats``: what a container uses (Docker Engine API, "Get container stats")."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from capsa.api.docker.call import Call, answer
from capsa.engine import genode
from capsa.engine.container import Container
from capsa.engine.times import NEVER, rfc3339
from capsa.errors import CapsaError, NotFound
from capsa.platform.protocol import Measure, Measured

if TYPE_CHECKING:
    from capsa.api.docker.router import Router
    from capsa.engine.engine import Engine
    from capsa.platform.linux.cgroup.stats import Stats

_encode = msgspec.json.Encoder().encode
_INTERVAL = 1.0
_FRESH = 500_000_000  # nanoseconds in which several streams share a sample
_UNLIMITED = (1 << 64) - 1
_BLOCK_TABLES = (
    "io_service_bytes_recursive",
    "io_serviced_recursive",
    "io_queue_recursive",
    "io_service_time_recursive",
    "io_wait_time_recursive",
    "io_merged_recursive",
    "io_time_recursive",
    "sectors_recursive",
)


def routes(router: Router) -> None:
    """Serve them."""
    router.add("GET", "/containers/{}/stats", stats)


class _Sample(msgspec.Struct):
    """The counters at one moment (``at`` in nanoseconds, 0: it does not run)."""

    at: int = 0
    system: int = 0
    stats: Stats | None = None
    networks: dict[str, Any] = {}


async def stats(call: Call) -> web.StreamResponse:
    """Once, or every second until the container or the client goes."""
    container = call.engine.containers.find(call.name)
    before: _Sample | None = None
    if not call.flag("stream", True):
        call.end_when_left()
        if not (call.flag("one-shot") and call.version >= (1, 41)) and container.running:
            before = await _sample(call.engine, container)
            await asyncio.sleep(_INTERVAL)
        return answer(_document(call, container, before, await _sample(call.engine, container)))
    response = await call.stream()
    ended = container.exited()
    try:
        while True:
            sample = await _shared(call.engine, container)
            await response.write(_encode(_document(call, container, before, sample)) + b"\n")
            before = sample
            await asyncio.wait((ended,), timeout=_INTERVAL)
            if ended.done():
                ended = container.exited()
            if container.id not in call.engine.containers:
                break
    finally:
        ended.cancel()
        _newest.pop(container.id, None)
    return response


_newest: dict[str, _Sample] = {}


async def _shared(engine: Engine, container: Container) -> _Sample:
    """A fresh sample; that of another stream just now will do."""
    found = _newest.get(container.id)
    if found is None or not container.running or time.time_ns() - found.at > _FRESH:
        found = _newest[container.id] = await _sample(engine, container)
    return found


async def _sample(engine: Engine, container: Container) -> _Sample:
    from capsa.platform.linux.cgroup import Cgroup

    if not container.running:
        return _Sample()
    if container.document.platform == genode.OS:
        return await _measured(container)
    try:
        found = Cgroup.open(engine.cgroup_path(container)).stats()
    except (OSError, NotFound):  # it has ended just now
        return _Sample()
    networks = {} if container.host.network_mode == "host" else _networks(container.state.pid)
    return _Sample(time.time_ns(), _system_time(), found, networks)


async def _measured(container: Container) -> _Sample:
    """What its Genode reports: memory alone."""
    from capsa.platform.linux.cgroup.stats import Cpu, Memory, Pids, Stats

    try:
        assert container.sandbox is not None
        found = await container.sandbox.request(Measure())
    except CapsaError:  # it has ended just now
        return _Sample()
    assert isinstance(found, Measured)
    memory = Memory(usage=found.memory, limit=found.limit or None)
    return _Sample(time.time_ns(), _system_time(), Stats(0, memory, Cpu(), Pids(), []))


def _system_time() -> int:
    """Processor time of the whole machine in nanoseconds."""
    with open("/proc/stat", encoding="ascii") as file:
        fields = file.readline().split()[1:9]
    return sum(int(field) for field in fields) * 10**9 // os.sysconf("SC_CLK_TCK")


def _networks(pid: int) -> dict[str, Any]:
    """Counters by interface (proc_net(5))."""
    found: dict[str, Any] = {}
    try:
        with open(f"/proc/{pid}/net/dev", encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()[2:]
    except OSError:
        return found
    for line in lines:
        name, _colon, rest = line.partition(":")
        values = [int(value) for value in rest.split()]
        if name.strip() != "lo" and len(values) >= 12:
            found[name.strip()] = {
                "rx_bytes": values[0],
                "rx_packets": values[1],
                "rx_errors": values[2],
                "rx_dropped": values[3],
                "tx_bytes": values[8],
                "tx_packets": values[9],
                "tx_errors": values[10],
                "tx_dropped": values[11],
            }
    return found


def _document(call: Call, container: Container, before: _Sample | None, now: _Sample) -> dict[str, Any]:
    stats = now.stats
    found: dict[str, Any] = {
        "name": f"/{container.name}",
        "id": container.id,
        "read": rfc3339(now.at) if now.at else NEVER,
        "preread": rfc3339(before.at) if before is not None and before.at else NEVER,
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _cpu(now),
        "precpu_stats": _cpu(before),
        "memory_stats": _memory(stats) if stats is not None else {},
        "blkio_stats": _blocks(stats),
        "pids_stats": {},
    }
    if call.version >= (1, 52):
        found["os_type"] = "linux"
    if stats is not None:
        found["pids_stats"] = {"current": stats.pids.current, "limit": stats.pids.limit or _UNLIMITED}
        if now.networks:
            found["networks"] = now.networks
    return found


def _memory(stats: Stats) -> dict[str, Any]:
    memory = stats.memory
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = {"usage": memory.usage, "stats": memory.detail, "limit": min(memory.limit or machine, machine)}
    if stats.version == 1:
        found |= {"max_usage": memory.peak, "failcnt": memory.failures}
    return found


def _blocks(stats: Stats | None) -> dict[str, Any]:
    """Two tables have a source in every kernel; the others are null, as Docker's on cgroup v2."""
    found: dict[str, Any] = dict.fromkeys(_BLOCK_TABLES)
    if stats is None:
        return found
    for name, read, written, discarded in (
        (_BLOCK_TABLES[0], "read_bytes", "write_bytes", "discard_bytes"),
        (_BLOCK_TABLES[1], "reads", "writes", "discards"),
    ):
        found[name] = [
            {"major": device.major, "minor": device.minor, "op": op, "value": getattr(device, field)}
            for device in stats.devices
            for op, field in (("read", read), ("write", written), ("discard", discarded))
        ]
    return found


def _cpu(sample: _Sample | None) -> dict[str, Any]:
    if sample is None or sample.stats is None:
        return {
            "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
            "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
        }
    cpu = sample.stats.cpu
    usage: dict[str, Any] = {
        "total_usage": cpu.usage,
        "usage_in_kernelmode": cpu.system,
        "usage_in_usermode": cpu.user,
    }
    if cpu.per_cpu:
        usage["percpu_usage"] = cpu.per_cpu
    return {
        "cpu_usage": usage,
        "system_cpu_usage": sample.system,
        "online_cpus": len(cpu.per_cpu) or os.cpu_count() or 1,
        "throttling_data": {
            "periods": cpu.periods,
            "throttled_periods": cpu.throttled_periods,
            "throttled_time": cpu.throttled,
        },
    }
