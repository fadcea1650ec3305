"""Resource limits: checked, and from Docker's ``HostConfig`` to the OCI runtime-spec's ``linux.resources``."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from capsa.engine.config import HostConfig
from capsa.engine.config import ThrottleDevice as Wanted
from capsa.errors import InvalidArgument, reason
from capsa.oci.runtime import CPU, BlockIO, Memory, Pids, Resources, ThrottleDevice, WeightDevice

PERIOD = 100_000
LEAST_MEMORY = 6 << 20
_RULE = re.compile(r"([acb]) ([0-9]{1,10}|\*):([0-9]{1,10}|\*) ([rwm]{1,3})", re.ASCII)
_SET = re.compile(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", re.ASCII)
_ULIMIT = re.compile(
    "as|core|cpu|data|fsize|locks|memlock|msgqueue|nice|nofile|nproc|rss|rtprio|rttime|sigpending|stack"
)


def check(host: HostConfig) -> None:
    """Raises `InvalidArgument` for limits of memory, processors, processes and devices that cannot be meant."""
    _check_memory(host)
    _check_cpu(host)
    _check_block_io(host)
    if not -1000 <= host.oom_score_adj <= 1000:
        raise InvalidArgument(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")
    for limit in host.ulimits:
        if not _ULIMIT.fullmatch(limit.name):
            raise InvalidArgument(f"invalid ulimit type: {limit.name}")
        if limit.hard >= 0 and not 0 <= limit.soft <= limit.hard:
            raise InvalidArgument(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
            )
    for device in host.devices:
        if not device.path_on_host.startswith("/"):
            raise InvalidArgument(f"invalid device path {device.path_on_host!r}: it has to be absolute")
        if set(device.cgroup_permissions) - set("rwm"):
            raise InvalidArgument(f"invalid device permissions {device.cgroup_permissions!r}: letters of rwm")
    for rule in host.device_cgroup_rules:
        device_rule(rule)


def device_rule(rule: str) -> tuple[str, int | None, int | None, str]:
    """``c 42:* rwm`` as type, major, minor (None: any), access; raises `InvalidArgument`."""
    found = _RULE.fullmatch(rule)
    if not found:
        raise InvalidArgument(f"invalid device cgroup rule format: '{rule}'")
    major = None if found[2] == "*" else int(found[2])
    minor = None if found[3] == "*" else int(found[3])
    return found[1], major, minor, found[4]


def _check_memory(host: HostConfig) -> None:
    for what, value in (("limit", host.memory), ("reservation", host.memory_reservation)):
        if value and value < LEAST_MEMORY:
            raise InvalidArgument(f"Minimum memory {what} allowed is 6MB")
    if host.memory_swap < -1:
        raise InvalidArgument(f"Invalid value: {host.memory_swap} for memory and swap (-1: as much swap as there is)")
    if host.memory_swap > 0 and not host.memory:
        raise InvalidArgument("You should always set the Memory limit when using Memoryswap limit, see usage")
    if host.memory > 0 and 0 < host.memory_swap < host.memory:
        raise InvalidArgument("Minimum memoryswap limit should be larger than memory limit, see usage")
    if host.memory and host.memory_reservation > host.memory:
        raise InvalidArgument("Minimum memory limit can not be less than memory reservation limit, see usage")
    if host.memory_swappiness is not None and not -1 <= host.memory_swappiness <= 100:
        raise InvalidArgument(f"Invalid value: {host.memory_swappiness}, valid memory swappiness range is 0-100")


def _check_cpu(host: HostConfig) -> None:
    for what, value in (
        ("shares", host.cpu_shares),
        ("period", host.cpu_period),
        ("realtime period", host.cpu_realtime_period),
        ("realtime runtime", host.cpu_realtime_runtime),
    ):
        if value < 0:
            raise InvalidArgument(f"CPU {what} cannot be negative")
    if host.nano_cpus:
        count = os.cpu_count() or 1
        if not 10**7 <= host.nano_cpus <= count * 10**9:
            raise InvalidArgument(f"Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available")
    if host.nano_cpus and (host.cpu_period or host.cpu_quota):
        raise InvalidArgument("Conflicting options: Nano CPUs and CPU Period or Quota cannot both be set")
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidArgument("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if 0 < host.cpu_quota < 1000:
        raise InvalidArgument("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if host.cpuset_cpus:
        _check_set(host.cpuset_cpus, "cpus", "CPUs", "/sys/devices/system/cpu/online")
    if host.cpuset_mems:
        _check_set(host.cpuset_mems, "mems", "memory nodes", "/sys/devices/system/node/online")


def _check_set(text: str, name: str, what: str, online: str) -> None:
    """A cpuset names only what the machine has."""
    if len(text) > 4096 or not _SET.fullmatch(text):
        raise InvalidArgument(f"Invalid value {text[:80]} for cpuset {name}")
    try:
        available = Path(online).read_text(encoding="ascii").strip()
    except OSError:  # a kernel without memory nodes has one
        available = "0"
    known = list(_ranges(available))
    for wanted in _ranges(text):
        if wanted[1] < wanted[0]:
            raise InvalidArgument(f"Invalid value {text} for cpuset {name}")
        if not any(first <= wanted[0] and wanted[1] <= last for first, last in known):
            raise InvalidArgument(f"Requested {what} are not available - requested {text}, available: {available}")


def _ranges(text: str) -> Iterator[tuple[int, int]]:
    for part in text.split(","):
        first, _dash, last = part.partition("-")
        yield int(first), int(last or first)


def _check_block_io(host: HostConfig) -> None:
    if host.blkio_weight and not 10 <= host.blkio_weight <= 1000:
        raise InvalidArgument("Range of blkio weight is from 10 to 1000")
    for weighed in host.blkio_weight_device:
        if not 10 <= weighed.weight <= 1000:
            raise InvalidArgument(f"Range of blkio weight is from 10 to 1000, not {weighed.weight} ({weighed.path})")
    for limited in (
        *host.blkio_device_read_bps,
        *host.blkio_device_write_bps,
        *host.blkio_device_read_iops,
        *host.blkio_device_write_iops,
    ):
        if limited.rate < 0:
            raise InvalidArgument(f"the rate of {limited.path} cannot be negative")


def resources(host: HostConfig) -> Resources:
    """All limits but the devices; raises `InvalidArgument` for a block device that isn't one."""
    return Resources(memory=_memory(host), cpu=_cpu(host), pids=_pids(host), block_io=_block_io(host))


def changed(old: HostConfig, new: HostConfig) -> Resources | None:
    """What to tell a running container's cgroup, which keeps what it is not told; None: nothing changes."""
    wanted = resources(new)
    if wanted == resources(old):
        return None
    if old.pids_limit is not None and new.pids_limit is None:
        wanted.pids = Pids(limit=-1)
    return wanted


def swap_limit(host: HostConfig) -> int:
    """Memory and swap together, in bytes: without a word about swap as much swap as memory; -1: unlimited."""
    if host.memory > 0 and host.memory_swap == 0:
        return host.memory * 2
    return host.memory_swap


def _memory(host: HostConfig) -> Memory | None:
    wanted = Memory()
    if host.memory > 0:
        wanted.limit = host.memory
    if host.memory_reservation > 0:
        wanted.reservation = host.memory_reservation
    swap = swap_limit(host)
    if swap:
        wanted.swap = swap
    if host.memory_swappiness is not None and host.memory_swappiness >= 0:
        wanted.swappiness = host.memory_swappiness
    if host.oom_kill_disable:
        wanted.disable_oom_killer = True
    return wanted if wanted != Memory() else None


def _cpu(host: HostConfig) -> CPU | None:
    wanted = CPU(cpus=host.cpuset_cpus, mems=host.cpuset_mems)
    if host.cpu_shares:
        wanted.shares = host.cpu_shares
    if host.nano_cpus > 0:
        wanted.period = PERIOD
        wanted.quota = host.nano_cpus * PERIOD // 10**9
    if host.cpu_quota:
        wanted.quota = host.cpu_quota
    if host.cpu_period:
        wanted.period = host.cpu_period
    if host.cpu_realtime_period:
        wanted.realtime_period = host.cpu_realtime_period
    if host.cpu_realtime_runtime:
        wanted.realtime_runtime = host.cpu_realtime_runtime
    return wanted if wanted != CPU() else None


def _pids(host: HostConfig) -> Pids | None:
    return Pids(limit=host.pids_limit) if host.pids_limit is not None and host.pids_limit > 0 else None


def _block_io(host: HostConfig) -> BlockIO | None:
    wanted = BlockIO()
    if host.blkio_weight:
        wanted.weight = host.blkio_weight
    for entry in host.blkio_weight_device:
        major, minor = _block_device(entry.path)
        wanted.weight_device = [*wanted.weight_device, WeightDevice(major=major, minor=minor, weight=entry.weight)]
    wanted.throttle_read_bps_device = _throttle(host.blkio_device_read_bps)
    wanted.throttle_write_bps_device = _throttle(host.blkio_device_write_bps)
    wanted.throttle_read_iops_device = _throttle(host.blkio_device_read_iops)
    wanted.throttle_write_iops_device = _throttle(host.blkio_device_write_iops)
    return wanted if wanted != BlockIO() else None


def _throttle(wanted: list[Wanted]) -> list[ThrottleDevice]:
    found = []
    for entry in wanted:
        major, minor = _block_device(entry.path)
        found.append(ThrottleDevice(major=major, minor=minor, rate=entry.rate))
    return found


def _block_device(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else str(error)
        raise InvalidArgument(f"cannot limit the device {path!r}: {why}") from error
    if not stat.S_ISBLK(status.st_mode):
        raise InvalidArgument(f"cannot limit {path!r}: it is not a block device")
    return os.major(status.st_rdev), os.minor(status.st_rdev)
