"""OCI ``Resources`` as settings of cgroup v1 (runtime-spec, config-linux.md, Control groups). Pure: nothing is written.

Settings that bound one another (a limit and its swap limit, quota and period) may be refused in the order given here,
depending on the values before; who writes them tries again those that failed after the others.
"""

from __future__ import annotations

from capsa.errors import InvalidArgument, Unsupported
from capsa.oci.runtime import CPU, BlockIO, Memory, Resources
from capsa.platform.linux.cgroup.setting import UNLIMITED, Setting, non_negative, one, page_size, word


def settings(resources: Resources) -> list[Setting]:
    """All but devices; raises `InvalidArgument` for what cannot be meant."""
    plan: list[Setting] = []
    if resources.memory is not None:
        plan += _memory(resources.memory)
    if resources.cpu is not None:
        plan += _cpu(resources.cpu)
    if resources.pids is not None and resources.pids.limit is not None:
        plan.append(one("pids", "pids.max", "max" if resources.pids.limit < 0 else resources.pids.limit, "pids.limit"))
    if resources.block_io is not None:
        plan += _blkio(resources.block_io)
    for huge in resources.hugepage_limits:
        prefix = f"hugetlb.{page_size(huge.page_size)}"
        limit = non_negative(huge.limit, "hugepageLimits.limit")
        plan.append(one("hugetlb", f"{prefix}.limit_in_bytes", limit, "hugepageLimits"))
        plan.append(one("hugetlb", f"{prefix}.rsvd.limit_in_bytes", limit, "hugepageLimits", optional=True))
    if resources.network is not None:
        if resources.network.class_id is not None:
            plan.append(one("net_cls", "net_cls.classid", resources.network.class_id, "network.classID"))
        for entry in resources.network.priorities:
            value = f"{word(entry.name, 'network.priorities.name')} {entry.priority}"
            plan.append(one("net_prio", "net_prio.ifpriomap", value, "network.priorities"))
    return plan + rdma(resources)


def rdma(resources: Resources) -> list[Setting]:
    """The same in v1 and v2."""
    plan = []
    for device, limit in resources.rdma.items():
        values = [word(device, "rdma")]
        if limit.hca_handles is not None:
            values.append(f"hca_handle={limit.hca_handles}")
        if limit.hca_objects is not None:
            values.append(f"hca_object={limit.hca_objects}")
        if len(values) == 1:
            raise InvalidArgument(f"rdma: {device} has neither hcaHandles nor hcaObjects")
        plan.append(one("rdma", "rdma.max", " ".join(values), "rdma"))
    return plan


def _memory(memory: Memory) -> list[Setting]:
    plan = []
    swap = memory.swap
    if memory.limit:
        plan.append(one("memory", "memory.limit_in_bytes", memory.limit, "memory.limit"))
        if memory.limit == UNLIMITED and swap is None:
            plan.append(one("memory", "memory.memsw.limit_in_bytes", UNLIMITED, "memory.limit", optional=True))
    if swap:
        if swap > 0 and memory.limit and not 0 < memory.limit <= swap:
            raise InvalidArgument(f"memory.swap: {swap} counts memory and swap, so it cannot be below memory.limit")
        # Without swap accounting all swap is free to use, which is what unlimited asks for.
        plan.append(one("memory", "memory.memsw.limit_in_bytes", swap, "memory.swap", optional=swap == UNLIMITED))
    if memory.reservation:
        plan.append(one("memory", "memory.soft_limit_in_bytes", memory.reservation, "memory.reservation"))
    if memory.kernel:
        plan.append(
            one("memory", "memory.kmem.limit_in_bytes", memory.kernel, "memory.kernel", memory.kernel == UNLIMITED)
        )
    if memory.kernel_tcp:
        plan.append(one("memory", "memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp, "memory.kernelTCP"))
    if memory.swappiness is not None and memory.swappiness != UNLIMITED:
        if not 0 <= memory.swappiness <= 100:
            raise InvalidArgument(f"memory.swappiness: {memory.swappiness} is not between 0 and 100")
        plan.append(one("memory", "memory.swappiness", memory.swappiness, "memory.swappiness"))
    if memory.disable_oom_killer is not None:
        plan.append(one("memory", "memory.oom_control", int(memory.disable_oom_killer), "memory.disableOOMKiller"))
    if memory.use_hierarchy is not None:
        # Kernels since 5.11 know no other way; older ones refuse the write once there are sub-cgroups.
        if not memory.use_hierarchy:
            raise Unsupported("memory.useHierarchy: memory is always accounted hierarchically here (leave it out)")
        plan.append(one("memory", "memory.use_hierarchy", 1, "memory.useHierarchy", optional=True))
    return plan


def _cpu(cpu: CPU) -> list[Setting]:
    plan = []
    if cpu.shares:
        plan.append(one("cpu", "cpu.shares", non_negative(cpu.shares, "cpu.shares"), "cpu.shares"))
    if cpu.idle is not None:
        plan.append(one("cpu", "cpu.idle", cpu.idle, "cpu.idle"))
    if cpu.burst is not None:
        # Nothing else can be refused for a burst that is no longer there.
        plan.append(one("cpu", "cpu.cfs_burst_us", 0, "cpu.burst"))
    if cpu.period:
        plan.append(one("cpu", "cpu.cfs_period_us", non_negative(cpu.period, "cpu.period"), "cpu.period"))
    if cpu.quota:
        plan.append(one("cpu", "cpu.cfs_quota_us", cpu.quota, "cpu.quota"))
    if cpu.burst:
        plan.append(one("cpu", "cpu.cfs_burst_us", non_negative(cpu.burst, "cpu.burst"), "cpu.burst"))
    if cpu.realtime_period:
        plan.append(one("cpu", "cpu.rt_period_us", cpu.realtime_period, "cpu.realtimePeriod"))
    if cpu.realtime_runtime:
        plan.append(one("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime, "cpu.realtimeRuntime"))
    if cpu.cpus:
        plan.append(one("cpuset", "cpuset.cpus", cpu.cpus, "cpu.cpus"))
    if cpu.mems:
        plan.append(one("cpuset", "cpuset.mems", cpu.mems, "cpu.mems"))
    return plan


def _blkio(blkio: BlockIO) -> list[Setting]:
    plan = []
    if blkio.weight:
        choices = tuple((file, str(blkio.weight)) for file in ("blkio.bfq.weight", "blkio.weight"))
        plan.append(Setting("blkio", choices, "blockIO.weight"))
    if blkio.leaf_weight:
        plan.append(one("blkio", "blkio.leaf_weight", blkio.leaf_weight, "blockIO.leafWeight"))
    for device in blkio.weight_device:
        name = f"{device.major}:{device.minor}"
        if device.weight is not None:
            choices = tuple(
                (file, f"{name} {device.weight}") for file in ("blkio.bfq.weight_device", "blkio.weight_device")
            )
            plan.append(Setting("blkio", choices, "blockIO.weightDevice"))
        if device.leaf_weight is not None:
            plan.append(
                one(
                    "blkio",
                    "blkio.leaf_weight_device",
                    f"{name} {device.leaf_weight}",
                    "blockIO.weightDevice.leafWeight",
                )
            )
    for file, wanted, devices in (
        ("read_bps", "blockIO.throttleReadBpsDevice", blkio.throttle_read_bps_device),
        ("write_bps", "blockIO.throttleWriteBpsDevice", blkio.throttle_write_bps_device),
        ("read_iops", "blockIO.throttleReadIOPSDevice", blkio.throttle_read_iops_device),
        ("write_iops", "blockIO.throttleWriteIOPSDevice", blkio.throttle_write_iops_device),
    ):
        for limit in devices:
            value = f"{limit.major}:{limit.minor} {non_negative(limit.rate, wanted)}"
            plan.append(one("blkio", f"blkio.throttle.{file}_device", value, wanted))
    return plan
