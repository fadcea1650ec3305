"""What is particular to cgroup v2, seen in the guest (see run.py). Not collected by itself."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from struct import pack

import pytest

from capsa.errors import Conflict, InvalidArgument, Unsupported
from capsa.oci.runtime import (
    CPU,
    BlockIO,
    DeviceRule,
    HugepageLimit,
    Memory,
    NetworkClass,
    Pids,
    Resources,
    ThrottleDevice,
    WeightDevice,
)
from capsa.platform.linux.cgroup import Cgroup, Layout, bpf, devices, hierarchy, layout, prime, remove_parent

ROOT = Path("/sys/fs/cgroup")
MIB = 1 << 20
CLONE_NEWCGROUP = 0x02000000


@pytest.fixture(autouse=True)
def only_v2() -> Iterator[None]:
    assert not layout().v1 and layout().v2 is not None, "this is for a machine with cgroup v2 only"
    yield
    remove_parent("/capsa")
    assert not (ROOT / "capsa").exists()


@contextlib.contextmanager
def made(resources: Resources | None = None, name: str = "a") -> Iterator[tuple[Cgroup, Path]]:
    cgroup = Cgroup.create(f"/capsa/{name}", resources)
    try:
        yield cgroup, ROOT / "capsa" / name
    finally:
        cgroup.kill()
        cgroup.remove()


def test_the_controllers_for_accounting_are_delegated() -> None:
    with made() as (_, path):
        assert set((path / "cgroup.controllers").read_text().split()) >= {"cpu", "io", "memory", "pids"}


def test_other_controllers_are_delegated_when_something_is_asked_of_them() -> None:
    with made(Resources(hugepage_limits=[HugepageLimit(page_size="2MB", limit=4 * MIB)])) as (_, path):
        assert (path / "hugetlb.2MB.max").read_text() == f"{4 * MIB}\n"
        assert (path / "hugetlb.2MB.rsvd.max").read_text() == f"{4 * MIB}\n"
    with made() as (cgroup, path):
        cgroup.update(Resources(cpu=CPU(cpus="0", mems="0")))
        assert (path / "cpuset.cpus").read_text() == "0\n"


def test_memory_and_swap_are_converted() -> None:
    memory = Memory(limit=64 * MIB, swap=96 * MIB, reservation=32 * MIB)
    with made(Resources(memory=memory)) as (cgroup, path):
        assert (path / "memory.max").read_text() == f"{64 * MIB}\n"
        assert (path / "memory.swap.max").read_text() == f"{32 * MIB}\n"
        assert (path / "memory.low").read_text() == f"{32 * MIB}\n"
        cgroup.update(Resources(memory=Memory(swap=64 * MIB)))
        assert (path / "memory.swap.max").read_text() == "0\n"
        cgroup.update(Resources(memory=Memory(swap=-1)))
        assert (path / "memory.swap.max").read_text() == "max\n"
        with pytest.raises(InvalidArgument, match="cannot be below"):
            cgroup.update(Resources(memory=Memory(swap=MIB)))
        cgroup.update(Resources(memory=Memory(limit=-1)))
        with pytest.raises(InvalidArgument, match="needs a limit of memory"):
            cgroup.update(Resources(memory=Memory(swap=MIB)))


def test_shares_quota_and_idle_are_converted() -> None:
    with made(Resources(cpu=CPU(shares=1024, quota=50000, period=200000, burst=10000))) as (cgroup, path):
        assert (path / "cpu.weight").read_text() == "100\n"
        assert (path / "cpu.max").read_text() == "50000 200000\n"
        assert (path / "cpu.max.burst").read_text() == "10000\n"
        cgroup.update(Resources(cpu=CPU(period=100000)))
        assert (path / "cpu.max").read_text() == "50000 100000\n"
        cgroup.update(Resources(cpu=CPU(quota=-1, burst=0)))
        assert (path / "cpu.max").read_text() == "max 100000\n"
        cgroup.update(Resources(cpu=CPU(idle=1)))
        assert (path / "cpu.idle").read_text() == "1\n"


@pytest.fixture(scope="module")
def disk() -> Iterator[tuple[int, int]]:
    """A block device with an I/O scheduler: a loop device over a file."""
    subprocess.run(["modprobe", "loop"], check=True)
    subprocess.run(["modprobe", "bfq"], check=False)
    image = Path("/run/guest/disk")
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["losetup", "/dev/loop0", str(image)], check=True)
    yield (7, 0)
    subprocess.run(["losetup", "-d", "/dev/loop0"], check=True)


def test_block_devices_are_throttled_and_weighted(disk: tuple[int, int]) -> None:
    major, minor = disk

    def rate(value: int) -> list[ThrottleDevice]:
        return [ThrottleDevice(major=major, minor=minor, rate=value)]

    limits = BlockIO(
        throttle_read_bps_device=rate(MIB),
        throttle_write_bps_device=rate(2 * MIB),
        throttle_read_iops_device=rate(100),
        throttle_write_iops_device=rate(200),
    )
    with made(Resources(block_io=limits)) as (cgroup, path):
        assert (path / "io.max").read_text() == f"7:0 rbps={MIB} wbps={2 * MIB} riops=100 wiops=200\n"
        cgroup.update(Resources(block_io=BlockIO(throttle_read_bps_device=rate(0))))
        assert (path / "io.max").read_text() == f"7:0 rbps=max wbps={2 * MIB} riops=100 wiops=200\n"
    weights = BlockIO(weight=100, weight_device=[])
    with made(Resources(block_io=weights)) as (_, path):
        file = path / "io.bfq.weight"
        value = "100" if file.exists() else str(1 + 90 * 9999 // 990)
        assert value in (file if file.exists() else path / "io.weight").read_text()


def test_a_block_device_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidArgument, match=r"io\.max.*'99:99 rbps=5'.*block device"):
        limits = BlockIO(throttle_read_bps_device=[ThrottleDevice(major=99, minor=99, rate=5)])
        Cgroup.create("/capsa/a", Resources(block_io=limits))


def test_transfers_are_counted_by_device(disk: tuple[int, int]) -> None:
    with made() as (cgroup, _):
        pid = os.fork()
        if pid == 0:
            try:
                cgroup.join()
                descriptor = os.open("/dev/loop0", os.O_RDWR)
                os.write(descriptor, os.urandom(MIB))
                os.fsync(descriptor)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        found = [device for device in cgroup.stats().devices if (device.major, device.minor) == disk]
        # Written back by the kernel, on behalf of the cgroup where the file system and device support that.
        assert not found or found[0].write_bytes <= 2 * MIB


def test_unified_is_written_as_it_stands(disk: tuple[int, int]) -> None:
    unified = {
        "memory.high": str(48 * MIB),
        "pids.max": "77",
        "cpu.weight": "33",
        "cgroup.max.depth": "3",
        "io.max": "7:0 rbps=1048576\n7:0 wiops=120",
        "cpuset.cpus": "0",
    }
    with made(Resources(unified=unified)) as (_, path):
        assert (path / "memory.high").read_text() == f"{48 * MIB}\n"
        assert (path / "pids.max").read_text() == "77\n"
        assert (path / "cpu.weight").read_text() == "33\n"
        assert (path / "cgroup.max.depth").read_text() == "3\n"
        assert (path / "io.max").read_text() == "7:0 rbps=1048576 wbps=max riops=max wiops=120\n"
        assert (path / "cpuset.cpus").read_text() == "0\n"


def test_unified_files_that_do_not_exist_are_an_error() -> None:
    for file in ("memory.nonsense", "nonsense.max"):
        with pytest.raises(Unsupported, match=f"unified {file}"):
            Cgroup.create("/capsa/a", Resources(unified={file: "1"}))


@pytest.mark.parametrize(
    ("resources", "word"),
    [
        (Resources(memory=Memory(disable_oom_killer=True)), "disableOOMKiller"),
        (Resources(memory=Memory(swappiness=10)), "swappiness"),
        (Resources(memory=Memory(kernel=MIB)), "memory.kernel"),
        (Resources(memory=Memory(kernel_tcp=MIB)), "memory.kernelTCP"),
        (Resources(memory=Memory(use_hierarchy=False)), "useHierarchy"),
        (Resources(cpu=CPU(realtime_runtime=1000)), "realtimeRuntime"),
        (Resources(block_io=BlockIO(leaf_weight=10)), "leafWeight"),
        (Resources(block_io=BlockIO(weight_device=[WeightDevice(major=7, minor=0, leaf_weight=5)])), "leafWeight"),
        (Resources(network=NetworkClass(class_id=1)), "classID"),
    ],
)
def test_what_v2_does_not_have_is_refused(resources: Resources, word: str) -> None:
    with pytest.raises(Unsupported, match=word):
        Cgroup.create("/capsa/a", resources)


def attached(cgroup: Cgroup) -> list[bytes]:
    assert cgroup.fd is not None
    programs = bpf.attached(cgroup.fd)
    names = [bpf._name(program) for program in programs]
    for program in programs:
        os.close(program)
    return names


def test_device_rules_are_one_program_that_is_replaced() -> None:
    deny = DeviceRule(allow=False, access="rwm")
    with made() as (cgroup, _):
        assert attached(cgroup) == [bpf.NAME]
        for minor in range(5):
            rule = DeviceRule(allow=True, type="c", major=10, minor=minor, access="rw")
            cgroup.update(Resources(devices=[deny, rule]))
            assert attached(cgroup) == [bpf.NAME]
        cgroup.update(Resources(devices=[DeviceRule(allow=True, access="rwm")]))
        assert attached(cgroup) == []
        cgroup.update(Resources(devices=[deny]))
        assert attached(cgroup) == [bpf.NAME]


def test_a_device_program_of_somebody_else_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with made() as (cgroup, _):
        assert cgroup.fd is not None
        with monkeypatch.context() as patch:
            patch.setattr(bpf, "NAME", b"theirs")
            bpf.first(cgroup.fd, devices.program([DeviceRule(allow=True, type="a", access="rwm")]))
        cgroup.update(Resources(devices=[DeviceRule(allow=False, access="rwm")]))
        assert sorted(attached(cgroup)) == [bpf.NAME, b"theirs"]


def test_many_device_rules_fit() -> None:
    rules = [DeviceRule(allow=True, type="b", major=8, minor=minor, access="r") for minor in range(300)]
    with made(Resources(devices=[DeviceRule(allow=False, access="rwm"), *rules])) as (cgroup, _):
        assert attached(cgroup) == [bpf.NAME]


def in_child(work: object) -> int:
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            code = work() or 0  # type: ignore[operator]
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_inside_of_a_container_the_processes_at_its_root_make_way() -> None:
    """As an engine in a container finds it: the visible root is not the real one and has processes of its own."""
    libc = ctypes.CDLL(None, use_errno=True)

    def work() -> int:
        outer.join()
        assert libc.unshare(CLONE_NEWCGROUP | 0x00020000) == 0
        assert libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None) == 0  # private
        assert libc.umount2(b"/sys/fs/cgroup", 2) == 0
        assert libc.mount(b"cgroup2", b"/sys/fs/cgroup", b"cgroup2", 0, None) == 0
        hierarchy._cached = None  # the mounts have changed
        assert (ROOT / "cgroup.procs").read_text().split()
        inner = Cgroup.create("/capsa/inner", Resources(pids=Pids(limit=5)))
        assert inner.stats().pids.limit == 5
        assert not (ROOT / "cgroup.procs").read_text().split()
        assert str(os.getpid()) in (ROOT / "init/cgroup.procs").read_text().split()
        inner.remove()
        remove_parent("/capsa")
        return 0

    with made(name="outer") as (outer, _):
        assert in_child(work) == 0


def test_a_parent_with_processes_of_its_own_is_named() -> None:
    busy = ROOT / "busy"
    busy.mkdir()
    process = subprocess.Popen(["sleep", "60"])
    try:
        (busy / "cgroup.procs").write_text(str(process.pid))
        with pytest.raises(Conflict, match="busy: it has processes of its own"):
            Cgroup.create("/busy/a", Resources(pids=Pids(limit=5)))
        assert not (busy / "a").exists()
    finally:
        process.kill()
        process.wait()
        busy.rmdir()


def test_pressure_of_memory_is_seen_by_a_watch_that_was_there_before() -> None:
    with made(Resources(memory=Memory(limit=32 * MIB, swap=32 * MIB))) as (cgroup, _):
        watch = cgroup.oom_watch()
        assert watch is not None
        with pytest.raises(BlockingIOError):
            os.read(watch, 4096)
        assert in_child(lambda: cgroup.join() or len(bytearray(128 * MIB)) * 0) == -9
        deadline = time.monotonic() + 20
        while not cgroup.oom_kills() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert os.read(watch, 4096)
        assert cgroup.oom_kills() == 1
        assert cgroup.stats().memory.failures > 0
        os.close(watch)


def test_an_inherited_descriptor_is_enough_to_be_born_in_a_cgroup() -> None:
    with made() as (cgroup, path):
        assert cgroup.fd is not None
        libc = ctypes.CDLL(None, use_errno=True)
        arguments = pack("11Q", 0x200000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, cgroup.fd)
        pid = libc.syscall(435, arguments, len(arguments))
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        assert (path / "cgroup.procs").read_text() == f"{pid}\n"
        cgroup.kill()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9


def test_without_a_memory_controller_there_is_no_watch() -> None:
    with made() as (cgroup, _):
        assert Cgroup(cgroup.path, Layout()).oom_watch() is None


def test_a_program_kept_for_all_is_the_one_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    prime()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(bpf, "load", lambda code: pytest.fail("loaded again"))
            with (
                made() as (cgroup, _),
                made(Resources(devices=[DeviceRule(allow=False, access="rwm")]), "b") as (other, _),
            ):
                assert attached(cgroup) == attached(other) == [bpf.NAME]
                cgroup.update(Resources(devices=[DeviceRule(allow=True, access="rwm")]))
                assert attached(other) == [bpf.NAME]
                assert in_child(lambda: other.join() or os.close(os.open("/dev/null", os.O_RDWR))) == 0
    finally:
        for program in bpf._kept.values():
            os.close(program)
        bpf._kept.clear()
