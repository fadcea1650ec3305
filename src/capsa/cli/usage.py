"""What a container uses, computed from the Engine API's figures as docker's client does ("Get container stats")."""

from __future__ import annotations

from capsa.cli import units

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

HEADERS = {
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
DEFAULT = "ID Name CPUPerc MemUsage MemPerc NetIO BlockIO PIDs"
_UNKNOWN = "--"


def row(asked: str, identifier: str, name: str, now: Mapping[str, Any] | None) -> dict[str, str]:
    """The fields of a line; ``now`` is a sample with the one before in it, None where there is none (any more)."""
    known = {"Container": asked, "ID": identifier, "Name": name or _UNKNOWN}
    if now is None:
        pair = f"{_UNKNOWN} / {_UNKNOWN}"
        return {
            **known,
            **dict.fromkeys(("CPUPerc", "MemPerc", "NetIO", "BlockIO", "PIDs"), _UNKNOWN),
            "MemUsage": pair,
        }
    used, limit = memory(now)
    received, sent = network(now)
    read, written = blocks(now)
    return {
        **known,
        "CPUPerc": f"{processor(now):.2f}%",
        "MemUsage": f"{units.binary_size(used)} / {units.binary_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{units.size(received, 3)} / {units.size(sent, 3)}",
        "BlockIO": f"{units.size(read, 3)} / {units.size(written, 3)}",
        "PIDs": str((now.get("pids_stats") or {}).get("current") or 0),
    }


def processor(now: Mapping[str, Any]) -> float:
    """Per cent of one processor since the sample before (200: two processors all the time)."""
    new, old = now.get("cpu_stats") or {}, now.get("precpu_stats") or {}
    used = _total(new) - _total(old)
    passed = int(new.get("system_cpu_usage") or 0) - int(old.get("system_cpu_usage") or 0)
    count = int(new.get("online_cpus") or len((new.get("cpu_usage") or {}).get("percpu_usage") or ()))
    return used / passed * count * 100 if used > 0 and passed > 0 else 0.0


def _total(cpu: Mapping[str, Any]) -> int:
    return int((cpu.get("cpu_usage") or {}).get("total_usage") or 0)


def memory(now: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes in use, without the cache that the kernel could drop at once, and the limit."""
    figures = now.get("memory_stats") or {}
    usage, detail = int(figures.get("usage") or 0), figures.get("stats") or {}
    for name in ("total_inactive_file", "inactive_file"):  # cgroup v1, v2
        cache = int(detail.get(name) or 0)
        if name in detail and cache < usage:
            return usage - cache, int(figures.get("limit") or 0)
    return usage, int(figures.get("limit") or 0)


def network(now: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes received and sent by all interfaces."""
    interfaces = (now.get("networks") or {}).values()
    return sum(one["rx_bytes"] for one in interfaces), sum(one["tx_bytes"] for one in interfaces)


def blocks(now: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes read from and written to block devices."""
    read = written = 0
    for entry in (now.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []:
        operation = str(entry.get("op", ""))[:1].lower()
        if operation == "r":
            read += int(entry["value"])
        elif operation == "w":
            written += int(entry["value"])
    return read, written
