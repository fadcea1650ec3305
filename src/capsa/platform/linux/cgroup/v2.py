"""OCI ``Resources`` as settings of cgroup v2, converted where v1 counts otherwise. Pure.

config-linux.md, Control groups. What has no equivalent and no conversion is an error, as its section Unified asks.
"""

from __future__ import annotations

from math import ceil, log2

from capsa.errors import InvalidArgument, Unsupported
from capsa.oci.runtime import CPU, BlockIO, Memory, Resources
from capsa.platform.linux.cgroup import v1
from capsa.platform.linux.cgroup.setting import UNLIMITED, Setting, non_negative, one, page_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.platform.linux.cgroup.setting import Read


def settings(resources: Resources, read: Read) -> list[Setting]:
    """All but devices and ``unified``; ``read`` tells present values that a new one depends on.

    Raises `InvalidArgument` for what cannot be meant, `Unsupported` for what cgroup v2 does not have.
    """
    plan: list[Setting] = []
    if resources.memory is not None:
        plan += _memory(resources.memory, read)
    if resources.cpu is not None:
        plan += _cpu(resources.cpu, read)
    if resources.pids is not None and resources.pids.limit is not None:
        plan.append(one("pids", "pids.max", "max" if resources.pids.limit < 0 else resources.pids.limit, "pids.limit"))
    if resources.block_io is not None:
        plan += _io(resources.block_io)
    for huge in resources.hugepage_limits:
        prefix = f"hugetlb.{page_size(huge.page_size)}"
        limit = non_negative(huge.limit, "hugepageLimits.limit")
        plan.append(one("hugetlb", f"{prefix}.max", limit, "hugepageLimits"))
        plan.append(one("hugetlb", f"{prefix}.rsvd.max", limit, "hugepageLimits", optional=True))
    if resources.network is not None and resources.network.class_id is not None:
        plan.append(one("net_cls", "net_cls.classid", resources.network.class_id, "network.classID"))
    if resources.network is not None and resources.network.priorities:
        plan.append(one("net_prio", "net_prio.ifpriomap", "", "network.priorities"))
    return plan + v1.rdma(resources)


def unified(resources: Resources) -> list[Setting]:
    """``unified``: files and values as they are; a value of several lines is as many writes."""
    plan = []
    for file, value in resources.unified.items():
        controller, dot, rest = file.partition(".")
        if not (controller and dot and rest) or "/" in file or "\0" in file:
            raise InvalidArgument(f"unified: {file!r} is not the name of a cgroup file")
        plan += [one(controller, file, line, f"unified {file}") for line in value.splitlines() or [""]]
    return plan


def _amount(value: int) -> str:
    return "max" if value == UNLIMITED else str(value)


def swap_max(limit: int | None, swap: int, read: Read) -> str:
    """``memory.swap.max``, which counts swap alone, from a limit of memory *and* swap."""
    if swap == UNLIMITED:
        return "max"
    if not limit:
        present = read("memory.max") or "max"
        limit = UNLIMITED if present == "max" else int(present)
    if limit == UNLIMITED:
        raise InvalidArgument("memory.swap: a limit of memory and swap together needs a limit of memory (memory.limit)")
    if swap < limit:
        raise InvalidArgument(f"memory.swap: {swap} counts memory and swap, so it cannot be below memory.limit")
    return str(swap - limit)


def weight(shares: int) -> int:
    """``cpu.weight`` (1 to 10000, default 100) for v1 shares (2 to 262144, default 1024).

    A curve through both ends and both defaults, in place of the straight line that gave a default container 39:
    log10(weight) = (l² + 125·l) / 612 − 7/34 with l = log2(shares), the conversion of current OCI runtimes.
    """
    exponent = log2(min(max(shares, 2), 262144))
    return min(max(ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34)), 1), 10000)


def _memory(memory: Memory, read: Read) -> list[Setting]:
    plan = []
    if memory.disable_oom_killer:
        raise Unsupported(
            "memory.disableOOMKiller: cgroup v2 cannot keep the kernel from ending processes (leave it out)"
        )
    if memory.swappiness is not None and memory.swappiness != UNLIMITED:
        raise Unsupported("memory.swappiness: cgroup v2 has none for each cgroup (leave it out)")
    if memory.use_hierarchy is False:
        raise Unsupported("memory.useHierarchy: cgroup v2 always accounts hierarchically (leave it out)")
    for value, wanted in ((memory.kernel, "memory.kernel"), (memory.kernel_tcp, "memory.kernelTCP")):
        if value and value != UNLIMITED:
            raise Unsupported(
                f"{wanted}: cgroup v2 counts kernel memory in memory.limit and has no limit of its own for it"
            )
    if memory.swap:
        # Swap may be absent (swapaccount=0); then all of it is free to use.
        swap = swap_max(memory.limit, memory.swap, read)
        plan.append(one("memory", "memory.swap.max", swap, "memory.swap", optional=swap == "max"))
    elif memory.limit == UNLIMITED:
        plan.append(one("memory", "memory.swap.max", "max", "memory.limit", optional=True))
    if memory.limit:
        plan.append(one("memory", "memory.max", _amount(memory.limit), "memory.limit"))
    if memory.reservation:
        plan.append(one("memory", "memory.low", _amount(memory.reservation), "memory.reservation"))
    return plan


def _cpu(cpu: CPU, read: Read) -> list[Setting]:
    plan = []
    if cpu.realtime_runtime or cpu.realtime_period:
        raise Unsupported("cpu.realtimeRuntime: cgroup v2 does not divide real-time (leave it out)")
    if cpu.shares:
        plan.append(one("cpu", "cpu.weight", weight(non_negative(cpu.shares, "cpu.shares")), "cpu.shares"))
    if cpu.idle is not None:
        plan.append(one("cpu", "cpu.idle", cpu.idle, "cpu.idle"))
    if cpu.burst is not None:
        plan.append(one("cpu", "cpu.max.burst", 0, "cpu.burst"))
    if cpu.quota or cpu.period:
        present = (read("cpu.max") or "max").split(" ")[0]
        quota = present if not cpu.quota else str(cpu.quota) if cpu.quota > 0 else "max"
        value = f"{quota} {non_negative(cpu.period, 'cpu.period')}" if cpu.period else quota
        plan.append(one("cpu", "cpu.max", value, "cpu.quota" if cpu.quota else "cpu.period"))
    if cpu.burst:
        plan.append(one("cpu", "cpu.max.burst", non_negative(cpu.burst, "cpu.burst"), "cpu.burst"))
    if cpu.cpus:
        plan.append(one("cpuset", "cpuset.cpus", cpu.cpus, "cpu.cpus"))
    if cpu.mems:
        plan.append(one("cpuset", "cpuset.mems", cpu.mems, "cpu.mems"))
    return plan


def io_weight(weight: int) -> int:
    """``io.weight`` (1 to 10000) for a v1 weight (10 to 1000)."""
    return 1 + (min(max(weight, 10), 1000) - 10) * 9999 // 990


def _io(blkio: BlockIO) -> list[Setting]:
    plan = []
    if blkio.leaf_weight or any(device.leaf_weight for device in blkio.weight_device):
        raise Unsupported("blockIO.leafWeight: cgroup v2 has no leaf weights (leave it out)")
    if blkio.weight:
        choices = (("io.bfq.weight", str(blkio.weight)), ("io.weight", str(io_weight(blkio.weight))))
        plan.append(Setting("io", choices, "blockIO.weight"))
    for device in blkio.weight_device:
        if device.weight is not None:
            name = f"{device.major}:{device.minor}"
            weights = (
                ("io.bfq.weight", f"{name} {device.weight}"),
                ("io.weight", f"{name} {io_weight(device.weight)}"),
            )
            plan.append(Setting("io", weights, "blockIO.weightDevice"))
    for key, wanted, devices in (
        ("rbps", "blockIO.throttleReadBpsDevice", blkio.throttle_read_bps_device),
        ("wbps", "blockIO.throttleWriteBpsDevice", blkio.throttle_write_bps_device),
        ("riops", "blockIO.throttleReadIOPSDevice", blkio.throttle_read_iops_device),
        ("wiops", "blockIO.throttleWriteIOPSDevice", blkio.throttle_write_iops_device),
    ):
        for limit in devices:
            rate = non_negative(limit.rate, wanted) or "max"  # 0 lifts the limit in v1
            plan.append(one("io", "io.max", f"{limit.major}:{limit.minor} {key}={rate}", wanted))
    return plan
