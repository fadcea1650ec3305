"""What a container's cgroup does to real processes, on whichever hierarchies this machine has (v1, hybrid or v2)."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import signal
import stat
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from capsa.errors import CapsaError, Conflict, InvalidArgument, NotFound, Unsupported
from capsa.oci.runtime import (
    CPU,
    DeviceRule,
    HugepageLimit,
    Memory,
    NetworkClass,
    Pids,
    RdmaLimit,
    Resources,
)
from capsa.platform.linux.cgroup import Cgroup, layout, remove_parent

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make control groups")

PARENT = f"/capsa-test-{os.getpid()}"
KMSG = (1, 11)  # a device that the default rules do not allow
MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    for hierarchy in layout().all:
        left = list(Path(hierarchy.mount + PARENT).glob("*/"))
        assert not left, f"left behind: {left}"
    remove_parent(PARENT)
    assert not any(os.path.exists(hierarchy.mount + PARENT) for hierarchy in layout().all)


class Group:
    """Makes cgroups and processes in them, and ends all of that."""

    def __init__(self) -> None:
        self.cgroups: list[Cgroup] = []
        self.children: list[int] = []

    def make(self, resources: Resources | None = None, name: str = "a") -> Cgroup:
        cgroup = Cgroup.create(f"{PARENT}/{name}", resources)
        self.cgroups.append(cgroup)
        return cgroup

    def spawn(self, cgroup: Cgroup, work: Callable[[], int | None]) -> int:
        """A process that enters the cgroup and then exits with what ``work`` returns, 99 for an exception."""
        with cgroup.entry() as entry:
            pid = os.fork()
            if pid == 0:
                code = 99
                try:
                    entry.join()
                    code = work() or 0
                finally:
                    os._exit(code)
        self.children.append(pid)
        return pid

    def result(self, pid: int) -> int:
        """Exit code of a child, negative for a signal."""
        _, status = os.waitpid(pid, 0)
        self.children.remove(pid)
        return os.waitstatus_to_exitcode(status)

    def run(self, cgroup: Cgroup, work: Callable[[], int | None]) -> int:
        return self.result(self.spawn(cgroup, work))

    def close(self) -> None:
        for cgroup in self.cgroups:
            cgroup.kill()
        for pid in list(self.children):
            os.kill(pid, signal.SIGKILL)
            self.result(pid)
        for cgroup in self.cgroups:
            cgroup.remove()


@pytest.fixture
def group() -> Iterator[Group]:
    group = Group()
    yield group
    group.close()


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def pause() -> None:
    while True:
        signal.pause()


def own_cgroups(pid: int) -> set[str]:
    """The cgroups of a process in the hierarchies that every container joins."""
    core = {",".join(h.controllers) if h.version == 1 else "" for h in layout().all if h.core and not h.name}
    lines = (line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    return {path for _, controllers, path in lines if controllers in core}


# ---- membership ----


def test_a_process_that_joins_is_in_it_everywhere(group: Group) -> None:
    cgroup = group.make()
    pid = group.spawn(cgroup, pause)
    assert eventually(lambda: cgroup.pids() == [pid])
    assert own_cgroups(pid) == {cgroup.path}


def test_another_process_can_be_added(group: Group) -> None:
    cgroup = group.make()
    pid = os.fork()
    if pid == 0:
        pause()
    group.children.append(pid)
    cgroup.add(pid)
    assert cgroup.pids() == [pid]
    assert own_cgroups(pid) == {cgroup.path}


def test_adding_a_process_that_is_gone_says_so(group: Group) -> None:
    cgroup = group.make()
    pid = group.spawn(cgroup, lambda: 0)
    group.result(pid)
    with pytest.raises(NotFound, match=f"no such process: {pid}"):
        cgroup.add(pid)


def test_a_process_in_a_new_user_namespace_can_join_through_an_entry_opened_before(group: Group) -> None:
    cgroup = group.make()
    with cgroup.entry() as entry:
        pid = os.fork()
        if pid == 0:
            try:
                libc = ctypes.CDLL(None, use_errno=True)
                assert libc.unshare(0x10000000) == 0  # CLONE_NEWUSER, with no ids mapped
                entry.join()
                pause()
            finally:
                os._exit(99)
        group.children.append(pid)
        assert eventually(lambda: cgroup.pids() == [pid])
    assert own_cgroups(pid) == {cgroup.path}


def test_a_process_can_be_born_in_it_through_its_descriptor(group: Group) -> None:
    cgroup = group.make()
    if cgroup.fd is None:
        pytest.skip("needs cgroup v2, also beside v1")
    into_cgroup = 0x200000000
    arguments = struct.pack("11Q", into_cgroup, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup.fd)
    libc = ctypes.CDLL(None, use_errno=True)
    pid = libc.syscall(435, arguments, len(arguments))  # clone3
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    assert pid > 0, os.strerror(ctypes.get_errno())
    group.children.append(pid)
    assert cgroup.pids() == [pid]


def test_processes_of_sub_cgroups_count(group: Group) -> None:
    cgroup = group.make()
    hierarchy = layout().v2 or layout().first("pids") or layout().v1[0]
    inner = Path(cgroup.directory(hierarchy), "inner")

    def work() -> None:
        inner.mkdir()
        (inner / "cgroup.procs").write_text("0")
        pause()

    pid = group.spawn(cgroup, work)
    assert eventually(lambda: inner.exists() and str(pid) in (inner / "cgroup.procs").read_text())
    assert cgroup.pids() == [pid]


# ---- limits that bite ----


def test_beyond_its_memory_a_process_is_killed_and_that_is_noticed(group: Group) -> None:
    cgroup = group.make(Resources(memory=Memory(limit=32 * MIB, swap=32 * MIB)))
    watch = cgroup.oom_watch()
    assert watch is not None
    try:
        assert cgroup.oom_kills() == 0
        assert group.run(cgroup, lambda: len(bytearray(128 * MIB)) * 0) == -signal.SIGKILL
        assert select.select([watch], [], [], 20)[0] == [watch]
        assert os.read(watch, 4096)
        assert eventually(lambda: cgroup.oom_kills() == 1)
    finally:
        os.close(watch)
    statistics = cgroup.stats().memory
    assert statistics.limit == 32 * MIB
    assert statistics.oom_kills == 1


def test_below_its_memory_a_process_lives(group: Group) -> None:
    cgroup = group.make(Resources(memory=Memory(limit=64 * MIB, swap=64 * MIB)))
    assert group.run(cgroup, lambda: len(bytearray(8 * MIB)) * 0) == 0
    assert cgroup.oom_kills() == 0


def test_beyond_its_pids_there_is_no_fork(group: Group) -> None:
    cgroup = group.make(Resources(pids=Pids(limit=3)))

    def work() -> int:
        for forked in range(10):
            try:
                if os.fork() == 0:
                    pause()
            except OSError as error:
                return forked if error.errno == errno.EAGAIN else 98
        return 97

    assert group.run(cgroup, work) == 2
    assert cgroup.stats().pids.limit == 3


def test_cpus_are_those_given(group: Group) -> None:
    cgroup = group.make(Resources(cpu=CPU(cpus="0", mems="0")))
    assert group.run(cgroup, lambda: 0 if os.sched_getaffinity(0) == {0} else 1) == 0


def test_cpus_can_be_taken_from_running_processes(group: Group) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two processors")
    cgroup = group.make()
    pid = group.spawn(cgroup, pause)
    assert eventually(lambda: cgroup.pids() == [pid])
    cgroup.update(Resources(cpu=CPU(cpus="1")))
    assert os.sched_getaffinity(pid) == {1}


def test_a_quota_throttles(group: Group) -> None:
    cgroup = group.make(Resources(cpu=CPU(quota=2000, period=20000)))

    def spin() -> None:
        while True:
            pass

    group.spawn(cgroup, spin)
    assert eventually(lambda: cgroup.stats().cpu.throttled_periods > 2)
    assert eventually(lambda: cgroup.stats().cpu.throttled > 0)  # an emulated clock has long ticks
    statistics = cgroup.stats().cpu
    assert statistics.periods >= statistics.throttled_periods
    assert statistics.usage > 0


# ---- devices ----


def opens(path: str, flags: int) -> int:
    """0, or the errno of opening."""
    try:
        os.close(os.open(path, flags | os.O_NONBLOCK))
    except OSError as error:
        return error.errno or 255
    return 0


@pytest.fixture
def kmsg(tmp_path: Path) -> str:
    path = str(tmp_path / "kmsg")
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(*KMSG))
    if opens(path, os.O_RDONLY) == errno.EACCES:
        pytest.skip("needs a temporary directory in which devices work (not mounted nodev)")
    return path


def test_without_rules_the_default_devices_work_and_no_others(group: Group, kmsg: str, tmp_path: Path) -> None:
    cgroup = group.make()
    assert group.run(cgroup, lambda: opens("/dev/null", os.O_RDWR)) == 0
    assert group.run(cgroup, lambda: opens("/dev/urandom", os.O_RDONLY)) == 0
    assert group.run(cgroup, lambda: opens("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)) == 0
    assert group.run(cgroup, lambda: opens(kmsg, os.O_RDONLY)) == errno.EPERM
    # A node may be made, just not opened.
    assert group.run(cgroup, lambda: os.mknod(tmp_path / "n", 0o600 | stat.S_IFBLK, os.makedev(7, 1))) == 0
    assert group.run(cgroup, lambda: opens(str(tmp_path / "n"), os.O_RDONLY)) == errno.EPERM


def test_a_device_is_allowed_for_what_its_rule_says(group: Group, kmsg: str) -> None:
    rule = DeviceRule(allow=True, type="c", major=KMSG[0], minor=KMSG[1], access="r")
    cgroup = group.make(Resources(devices=[DeviceRule(allow=False, access="rwm"), rule]))
    assert group.run(cgroup, lambda: opens(kmsg, os.O_RDONLY)) == 0
    assert group.run(cgroup, lambda: opens(kmsg, os.O_WRONLY)) == errno.EPERM
    assert group.run(cgroup, lambda: opens(kmsg, os.O_RDWR)) == errno.EPERM
    assert group.run(cgroup, lambda: opens("/dev/zero", os.O_RDWR)) == 0


def test_everything_can_be_allowed_and_then_something_denied(group: Group, kmsg: str) -> None:
    everything = DeviceRule(allow=True, type="a", access="rwm")
    cgroup = group.make(Resources(devices=[everything]))
    assert group.run(cgroup, lambda: opens(kmsg, os.O_RDWR)) == 0
    denied = DeviceRule(allow=False, type="c", major=KMSG[0], minor=KMSG[1], access="w")
    second = group.make(Resources(devices=[everything, denied]), "b")
    assert group.run(second, lambda: opens(kmsg, os.O_RDONLY)) == 0
    assert group.run(second, lambda: opens(kmsg, os.O_WRONLY)) == errno.EPERM


def test_device_rules_can_be_changed_while_it_runs(group: Group, kmsg: str) -> None:
    cgroup = group.make()
    deny = DeviceRule(allow=False, access="rwm")
    allow = DeviceRule(allow=True, type="c", major=KMSG[0], minor=KMSG[1], access="rw")
    for _ in range(2):
        cgroup.update(Resources(devices=[deny, allow]))
        assert group.run(cgroup, lambda: opens(kmsg, os.O_RDWR)) == 0
        cgroup.update(Resources(devices=[deny]))
        assert group.run(cgroup, lambda: opens(kmsg, os.O_RDONLY)) == errno.EPERM
        assert group.run(cgroup, lambda: opens("/dev/null", os.O_RDWR)) == 0
    cgroup.update(Resources(devices=[DeviceRule(allow=True, access="rwm")]))
    assert group.run(cgroup, lambda: opens(kmsg, os.O_RDWR)) == 0
    cgroup.update(Resources(devices=[deny]))
    assert group.run(cgroup, lambda: opens(kmsg, os.O_RDWR)) == errno.EPERM


def test_a_null_device_stays_open_while_rules_change(group: Group) -> None:
    cgroup = group.make()
    stop = mmap.mmap(-1, 1)

    def work() -> int:
        while not stop[0]:
            if opens("/dev/null", os.O_RDWR):
                return 1
        return 0

    pid = group.spawn(cgroup, work)
    rule = DeviceRule(allow=True, type="c", major=KMSG[0], minor=KMSG[1], access="r")
    for _ in range(50):
        cgroup.update(Resources(devices=[DeviceRule(allow=False, access="rwm"), rule]))
        cgroup.update(Resources(devices=[DeviceRule(allow=False, access="rwm")]))
    stop[0] = 1
    assert group.result(pid) == 0


# ---- all at once ----


def test_frozen_processes_do_nothing_until_thawed(group: Group) -> None:
    cgroup = group.make()
    counter = mmap.mmap(-1, 8)

    def count() -> None:
        while True:
            struct.pack_into("Q", counter, 0, struct.unpack_from("Q", counter)[0] + 1)

    def value() -> int:
        return int(struct.unpack_from("Q", counter)[0])

    group.spawn(cgroup, count)
    assert eventually(lambda: value() > 0)
    cgroup.freeze()
    assert cgroup.frozen()
    before = value()
    time.sleep(0.2)
    assert value() == before
    cgroup.thaw()
    assert not cgroup.frozen()
    assert eventually(lambda: value() > before)


def test_kill_ends_processes_of_sub_cgroups_and_frozen_ones(group: Group) -> None:
    cgroup = group.make()

    def work() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in range(5):
            if os.fork() == 0:
                break
        pause()

    pid = group.spawn(cgroup, work)
    assert eventually(lambda: len(cgroup.pids()) == 6)
    cgroup.freeze()
    cgroup.kill()
    assert group.result(pid) == -signal.SIGKILL
    assert eventually(lambda: not cgroup.pids())


def test_killing_an_empty_or_removed_cgroup_is_no_error(group: Group) -> None:
    cgroup = group.make()
    cgroup.kill()
    cgroup.remove()
    cgroup.kill()


# ---- coming and going ----


def test_removing_takes_sub_cgroups_along_and_may_be_repeated(group: Group) -> None:
    cgroup = group.make()
    for hierarchy in layout().all:
        if os.path.isdir(cgroup.directory(hierarchy)):
            os.makedirs(f"{cgroup.directory(hierarchy)}/one/two")
    cgroup.remove()
    assert not cgroup.exists()
    cgroup.remove()


def test_removing_waits_for_a_process_that_is_about_to_end(group: Group) -> None:
    cgroup = group.make()
    pid = group.spawn(cgroup, lambda: time.sleep(0.5))
    assert eventually(lambda: cgroup.pids() == [pid])
    cgroup.remove()
    assert group.result(pid) == 0
    assert not cgroup.exists()


def test_removing_a_cgroup_in_use_names_the_processes(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capsa.platform.linux.cgroup.group._REMOVAL", 0.1)
    cgroup = group.make()
    pid = group.spawn(cgroup, pause)
    assert eventually(lambda: cgroup.pids() == [pid])
    with pytest.raises(Conflict, match=f"still has processes: {pid}"):
        cgroup.remove()


def test_a_cgroup_in_use_is_not_taken_over(group: Group) -> None:
    cgroup = group.make(Resources(pids=Pids(limit=50)))
    pid = group.spawn(cgroup, pause)
    assert eventually(lambda: cgroup.pids() == [pid])
    with pytest.raises(Conflict, match="in use already"):
        Cgroup.create(cgroup.path, Resources(pids=Pids(limit=5)))
    assert cgroup.pids() == [pid]
    assert cgroup.stats().pids.limit == 50


def test_an_empty_cgroup_that_was_left_behind_is_replaced(group: Group) -> None:
    group.make(Resources(pids=Pids(limit=5)))
    assert group.make().stats().pids.limit is None


def test_opening_finds_what_is_there_only(group: Group) -> None:
    made = group.make(Resources(pids=Pids(limit=7)))
    assert Cgroup.open(made.path).stats().pids.limit == 7
    with pytest.raises(NotFound, match="no such cgroup"):
        Cgroup.open(f"{PARENT}/other")


def test_mounts_are_its_own_directories(group: Group) -> None:
    cgroup = group.make()
    mounts = cgroup.mounts()
    assert mounts
    assert all(os.path.isdir(mount.source) and mount.source.endswith(cgroup.path) for mount in mounts)
    assert len({mount.name for mount in mounts}) == len(mounts)


# ---- bad input ----


@pytest.mark.parametrize(
    ("resources", "kind", "words"),
    [
        (Resources(cpu=CPU(cpus="4000")), InvalidArgument, ["cpu.cpus", "cpuset.cpus", "'4000'", "there are 0"]),
        (Resources(cpu=CPU(cpus="x")), InvalidArgument, ["cpu.cpus", "'x'"]),
        (Resources(cpu=CPU(quota=1)), InvalidArgument, ["cpu.quota", "'1", "microseconds"]),
        (Resources(cpu=CPU(period=10**9)), InvalidArgument, ["cpu.period", "1000000000"]),
        (Resources(network=NetworkClass(class_id=5)), Unsupported, ["network.classID", "net_cls"]),
        (Resources(rdma={"none": RdmaLimit()}), InvalidArgument, ["rdma", "none"]),
        (
            Resources(hugepage_limits=[HugepageLimit(page_size="../2MB", limit=1)]),
            InvalidArgument,
            ["hugepageLimits", "../2MB"],
        ),
        (Resources(unified={"../cgroup.procs": "1"}), (InvalidArgument, Unsupported), ["unified"]),
        (Resources(unified={"nonsense.max": "1"}), Unsupported, ["unified", "nonsense"]),
        (Resources(devices=[DeviceRule(allow=True, access="rx")]), InvalidArgument, ["devices", "'rx'"]),
        (Resources(memory=Memory(limit=64 * MIB, swap=32 * MIB)), InvalidArgument, ["memory.swap"]),
    ],
)
def test_what_the_kernel_refuses_is_explained_and_leaves_nothing(
    resources: Resources, kind: type[CapsaError], words: list[str]
) -> None:
    if resources.network and layout().where("net_cls"):
        pytest.skip("this machine has the controller net_cls")
    with pytest.raises(kind) as caught:
        Cgroup.create(f"{PARENT}/bad/inner", resources)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not any(os.path.exists(hierarchy.mount + PARENT) for hierarchy in layout().all)


@pytest.mark.parametrize("path", ["", "/", "a/../../b", "..", "/./", "/a\n", "/a\0b"])
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match="cgroup path"):
        Cgroup.create(path)


# ---- changing ----


def test_limits_can_go_up_and_down(group: Group) -> None:
    cgroup = group.make(Resources(memory=Memory(limit=64 * MIB, swap=64 * MIB)))
    for size in (256, 32, 128):
        cgroup.update(Resources(memory=Memory(limit=size * MIB, swap=2 * size * MIB)))
        memory = cgroup.stats().memory
        assert memory.limit == size * MIB
        assert memory.swap_limit in (size * MIB, None)  # None where swap is not accounted
    cgroup.update(Resources(memory=Memory(limit=-1)))
    assert cgroup.stats().memory.limit is None
    assert cgroup.stats().memory.swap_limit is None


def test_an_update_that_fails_changes_nothing(group: Group) -> None:
    cgroup = group.make(
        Resources(memory=Memory(limit=64 * MIB), pids=Pids(limit=9), cpu=CPU(quota=50000, period=100000))
    )
    with pytest.raises(InvalidArgument, match=r"cpu\.cpus"):
        cgroup.update(
            Resources(
                memory=Memory(limit=32 * MIB), pids=Pids(limit=8), cpu=CPU(quota=20000, period=50000, cpus="4000")
            )
        )
    assert cgroup.stats().memory.limit == 64 * MIB
    assert cgroup.stats().pids.limit == 9


def test_a_limit_below_what_is_in_use_is_refused_on_request(group: Group) -> None:
    cgroup = group.make(Resources(memory=Memory(limit=128 * MIB)))
    ready, done = os.pipe()

    def work() -> None:
        keep = bytearray(os.urandom(32 * MIB))
        os.write(done, b"x")
        pause()
        del keep

    pid = group.spawn(cgroup, work)
    os.read(ready, 1)
    with pytest.raises(InvalidArgument, match="in use"):
        cgroup.update(Resources(memory=Memory(limit=16 * MIB, check_before_update=True)))
    assert cgroup.stats().memory.limit == 128 * MIB
    assert cgroup.pids() == [pid]
    os.close(ready)
    os.close(done)


def test_burst_needs_a_quota_that_holds_it(group: Group) -> None:
    cgroup = group.make(Resources(cpu=CPU(quota=50000, period=100000, burst=20000)))
    cgroup.update(Resources(cpu=CPU(quota=10000, burst=5000)))
    with pytest.raises(InvalidArgument, match=r"cpu\.burst"):
        cgroup.update(Resources(cpu=CPU(burst=90000)))


def test_statistics_of_a_removed_cgroup_are_zero(group: Group) -> None:
    cgroup = group.make()
    cgroup.remove()
    assert cgroup.stats().memory.usage == 0
    assert cgroup.stats().pids.current == 0
    assert cgroup.oom_kills() == 0
