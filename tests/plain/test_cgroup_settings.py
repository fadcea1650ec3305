"""OCI resources as cgroup settings: pure functions, the same on every machine."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsa.errors import InvalidArgument, Unsupported
from capsa.oci.runtime import (
    CPU,
    BlockIO,
    HugepageLimit,
    InterfacePriority,
    Memory,
    NetworkClass,
    Pids,
    RdmaLimit,
    Resources,
    ThrottleDevice,
    WeightDevice,
    loads,
)
from capsa.platform.linux.cgroup import v1, v2
from capsa.platform.linux.cgroup.group import normalised
from capsa.platform.linux.cgroup.hierarchy import Hierarchy, Layout, parse
from capsa.platform.linux.cgroup.plan import plan
from capsa.platform.linux.cgroup.setting import Setting

MIB = 1 << 20
EVERYTHING = Resources(
    memory=Memory(limit=64 * MIB, swap=96 * MIB, reservation=32 * MIB),
    cpu=CPU(shares=512, quota=50000, period=100000, burst=1000, cpus="0-1", mems="0", idle=0),
    pids=Pids(limit=100),
    block_io=BlockIO(
        weight=500,
        weight_device=[WeightDevice(major=8, minor=0, weight=300)],
        throttle_read_bps_device=[ThrottleDevice(major=8, minor=0, rate=1000)],
        throttle_write_iops_device=[ThrottleDevice(major=8, minor=16, rate=0)],
    ),
    hugepage_limits=[HugepageLimit(page_size="2MB", limit=4 * MIB)],
    rdma={"mlx5_1": RdmaLimit(hca_handles=3, hca_objects=10000)},
)


def nothing(file: str) -> str | None:
    return None


def written(settings: list[Setting]) -> list[tuple[str, str]]:
    return [setting.choices[0] for setting in settings]


def test_v1_settings() -> None:
    assert written(v1.settings(EVERYTHING)) == [
        ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", "100663296"),
        ("memory.soft_limit_in_bytes", "33554432"),
        ("cpu.shares", "512"),
        ("cpu.idle", "0"),
        ("cpu.cfs_burst_us", "0"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpu.cfs_burst_us", "1000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "100"),
        ("blkio.bfq.weight", "500"),
        ("blkio.bfq.weight_device", "8:0 300"),
        ("blkio.throttle.read_bps_device", "8:0 1000"),
        ("blkio.throttle.write_iops_device", "8:16 0"),
        ("hugetlb.2MB.limit_in_bytes", "4194304"),
        ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
        ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
    ]


def test_v2_settings() -> None:
    assert written(v2.settings(EVERYTHING, nothing)) == [
        ("memory.swap.max", "33554432"),
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("cpu.weight", "59"),
        ("cpu.idle", "0"),
        ("cpu.max.burst", "0"),
        ("cpu.max", "50000 100000"),
        ("cpu.max.burst", "1000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "100"),
        ("io.bfq.weight", "500"),
        ("io.bfq.weight", "8:0 300"),
        ("io.max", "8:0 rbps=1000"),
        ("io.max", "8:16 wiops=max"),
        ("hugetlb.2MB.max", "4194304"),
        ("hugetlb.2MB.rsvd.max", "4194304"),
        ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
    ]


def test_network_is_for_v1_only() -> None:
    network = NetworkClass(class_id=0x100001, priorities=[InterfacePriority(name="eth0", priority=5)])
    assert written(v1.settings(Resources(network=network))) == [
        ("net_cls.classid", "1048577"),
        ("net_prio.ifpriomap", "eth0 5"),
    ]


def test_nothing_asked_is_nothing_written() -> None:
    empty = Resources(memory=Memory(), cpu=CPU(), block_io=BlockIO(), network=NetworkClass())
    assert v1.settings(empty) == []
    assert v2.settings(empty, nothing) == []


def test_no_limit_of_pids_is_max_and_none_at_all_is_none_at_all() -> None:
    assert written(v1.settings(Resources(pids=Pids(limit=-1)))) == [("pids.max", "max")]
    assert written(v2.settings(Resources(pids=Pids(limit=0)), nothing)) == [("pids.max", "0")]
    assert written(v2.settings(Resources(pids=Pids()), nothing)) == []


@pytest.mark.parametrize(
    ("version", "limit", "meant"),
    [("1.0.2-dev", 0, -1), ("1.2.1", 0, -1), ("1.3.0", 0, 0), ("1.0.2", 7, 7), ("1.0.2", None, None)],
)
def test_a_limit_of_no_pids_once_was_no_limit(version: str, limit: int | None, meant: int | None) -> None:
    config = {"ociVersion": version, "linux": {"resources": {"pids": {} if limit is None else {"limit": limit}}}}
    linux = loads(json.dumps(config).encode()).linux
    assert linux is not None and linux.resources is not None and linux.resources.pids == Pids(limit=meant)


@pytest.mark.parametrize(("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000), (1, 1), (10**9, 10000)])
def test_shares_become_weights_through_the_defaults(shares: int, weight: int) -> None:
    assert v2.weight(shares) == weight


@given(st.integers(2, 262144), st.integers(2, 262144))
def test_more_shares_never_weigh_less(one: int, other: int) -> None:
    assert (one <= other) == (v2.weight(one) <= v2.weight(other)) or v2.weight(one) == v2.weight(other)
    assert 1 <= v2.weight(one) <= 10000


@pytest.mark.parametrize(("weight", "converted"), [(10, 1), (100, 910), (1000, 10000)])
def test_block_weights_are_stretched(weight: int, converted: int) -> None:
    assert v2.io_weight(weight) == converted


def test_swap_counts_from_the_limit_in_force() -> None:
    def read(file: str) -> str | None:
        return "1000\n".strip() if file == "memory.max" else None

    assert v2.swap_max(None, 1500, read) == "500"
    assert v2.swap_max(1500, 1500, read) == "0"
    assert v2.swap_max(None, -1, read) == "max"
    with pytest.raises(InvalidArgument, match="cannot be below"):
        v2.swap_max(None, 999, read)
    with pytest.raises(InvalidArgument, match="needs a limit of memory"):
        v2.swap_max(None, 1500, nothing)


def test_lifting_the_memory_limit_lifts_that_of_swap() -> None:
    unlimited = Resources(memory=Memory(limit=-1))
    assert ("memory.memsw.limit_in_bytes", "-1") in written(v1.settings(unlimited))
    assert ("memory.swap.max", "max") in written(v2.settings(unlimited, nothing))


def test_a_new_period_keeps_the_quota() -> None:
    assert written(v2.settings(Resources(cpu=CPU(period=5000)), lambda file: "2000 10000")) == [
        ("cpu.max", "2000 5000")
    ]


@pytest.mark.parametrize(
    "resources",
    [
        Resources(hugepage_limits=[HugepageLimit(page_size=size, limit=1)])
        for size in ("", "2", "MB", "2mb", "/2MB", "2 MB", "2MB.x", "٢MB")
    ]
    + [
        Resources(rdma={"a b": RdmaLimit(hca_handles=1)}),
        Resources(rdma={"": RdmaLimit(hca_handles=1)}),
        Resources(memory=Memory(limit=1000, swap=500)),
        Resources(memory=Memory(limit=-1, swap=500)),
        Resources(cpu=CPU(period=-5)),
        Resources(block_io=BlockIO(throttle_read_bps_device=[ThrottleDevice(major=1, minor=1, rate=-1)])),
    ],
)
def test_what_cannot_be_meant_is_refused_by_both(resources: Resources) -> None:
    with pytest.raises(InvalidArgument):
        v1.settings(resources)
    with pytest.raises(InvalidArgument):
        v2.settings(resources, nothing)


@pytest.mark.parametrize("file", ["", "memory", ".max", "memory.", "../a.b", "a/b.c", "x\0.y"])
def test_unified_names_files_of_the_cgroup_only(file: str) -> None:
    with pytest.raises(InvalidArgument, match="unified"):
        v2.unified(Resources(unified={file: "1"}))


def test_unified_values_of_several_lines_are_several_writes() -> None:
    settings = v2.unified(Resources(unified={"io.max": "8:0 rbps=1\n8:16 wbps=2"}))
    assert written(settings) == [("io.max", "8:0 rbps=1"), ("io.max", "8:16 wbps=2")]
    assert {setting.controller for setting in settings} == {"io"}


# ---- layouts ----

HYBRID = Layout(
    (Hierarchy(1, "/c/memory", ("memory",)), Hierarchy(1, "/c/cpu", ("cpu", "cpuacct"))),
    Hierarchy(2, "/c/unified", ("hugetlb", "pids", "cpuset")),
)


def test_on_a_hybrid_machine_each_controller_is_written_where_it_is() -> None:
    resources = Resources(
        memory=Memory(limit=MIB),
        cpu=CPU(shares=2, cpus="0"),
        pids=Pids(limit=3),
        hugepage_limits=[HugepageLimit(page_size="2MB", limit=0)],
    )
    assert written(plan(resources, HYBRID, nothing)) == [
        ("memory.limit_in_bytes", "1048576"),
        ("cpu.shares", "2"),
        ("cpuset.cpus", "0"),
        ("pids.max", "3"),
        ("hugetlb.2MB.max", "0"),
        ("hugetlb.2MB.rsvd.max", "0"),
    ]


def test_a_plan_does_not_change_what_it_was_given() -> None:
    resources = Resources(memory=Memory(limit=MIB), pids=Pids(limit=3), cpu=CPU(cpus="0"))
    plan(resources, HYBRID, nothing)
    assert resources == Resources(memory=Memory(limit=MIB), pids=Pids(limit=3), cpu=CPU(cpus="0"))


def test_unified_needs_v2() -> None:
    with pytest.raises(Unsupported, match="cgroup v2 is not mounted"):
        plan(Resources(unified={"pids.max": "1"}), Layout(HYBRID.v1), nothing)


V1_MOUNTS = r"""31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpuacct,cpu
33 31 0:30 / /sys/fs/cgroup/a\040b rw,relatime shared:5 - cgroup cgroup rw,memory
34 31 0:31 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
V1_CGROUPS = "4:name=systemd:/system.slice/x.service\n3:memory:/\n2:cpu,cpuacct:/user\n0::/\n"
V2_MOUNT = "38 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"


def test_pure_v1_is_recognised() -> None:
    layout = parse(V1_MOUNTS, V1_CGROUPS)
    assert layout.v2 is None
    assert [(h.mount, h.controllers, h.name, h.own) for h in layout.v1] == [
        ("/sys/fs/cgroup/cpu,cpuacct", ("cpu", "cpuacct"), "", "/user"),
        ("/sys/fs/cgroup/a b", ("memory",), "", "/"),
        ("/sys/fs/cgroup/systemd", (), "systemd", "/system.slice/x.service"),
    ]
    assert layout.where("cpuacct") == layout.v1[0]
    assert layout.where("pids") is None


def test_a_hierarchy_outside_of_the_core_is_joined_where_somebody_put_us_somewhere() -> None:
    assert parse(V1_MOUNTS, V1_CGROUPS).v1[2].joined
    assert not parse(V1_MOUNTS, "4:name=systemd:/\n").v1[0].joined
    mount = "35 31 0:32 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n"
    assert parse(mount, "5:freezer:/conmon\n").v1[0].joined
    assert not parse(mount, "5:freezer:/\n").v1[0].joined


def test_hybrid_and_pure_v2_are_recognised() -> None:
    hybrid = parse(V1_MOUNTS + V2_MOUNT, V1_CGROUPS)
    assert len(hybrid.v1) == 3
    assert hybrid.v2 is not None and hybrid.v2.mount == "/sys/fs/cgroup/unified"
    pure = parse("30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/user.slice/a\n")
    assert pure.v1 == ()
    assert pure.v2 is not None
    assert (pure.v2.version, pure.v2.mount, pure.v2.controllers) == (2, "/sys/fs/cgroup", ())
    assert pure.v2.own == "/user.slice/a"


def test_seen_from_inside_of_a_container_paths_count_from_the_mount() -> None:
    mounts = "30 23 0:26 /docker/ID /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"
    layout = parse(mounts, "0::/docker/ID/sub\n")
    assert layout.v2 is not None and layout.v2.own == "/sub"


def test_a_mount_of_the_whole_hierarchy_is_preferred_to_one_of_a_part() -> None:
    part = "40 1 0:38 /part /elsewhere rw - cgroup2 cgroup2 rw\n"
    layout = parse(part + V2_MOUNT, "0::/\n")
    assert layout.v2 is not None and layout.v2.mount == "/sys/fs/cgroup/unified"


@pytest.mark.parametrize(
    ("path", "absolute"), [("/a/b", "/a/b"), ("a", "/a"), ("//a/./b/", "/a/b"), ("a:b:c", "/a:b:c")]
)
def test_paths_mean_the_same_place_always(path: str, absolute: str) -> None:
    assert normalised(path) == absolute
