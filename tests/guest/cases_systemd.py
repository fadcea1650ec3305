"""``capsa-runtime --systemd-cgroup`` in the guest with systemd as process 1 (see run.py). Not collected by itself."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fixtures.bundle import spec
from fixtures.runtime import COMMAND, RuntimeUnderTest
from fixtures.wait import until

from capsa.errors import Conflict, InvalidArgument, NotFound
from capsa.oci.runtime import CPU, BlockIO, DeviceRule, Memory, Pids, Resources, ThrottleDevice
from capsa.platform.linux.cgroup import layout
from capsa.platform.linux.cgroup.systemd import Systemd

MIB = 1 << 20
UNIT = "engine-box.scope"
PATH = "/capsa.slice/capsa-test.slice/engine-box.scope"
DENY = DeviceRule(allow=False, access="rwm")


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[RuntimeUnderTest]:
    made = RuntimeUnderTest(tmp_path, (*COMMAND, "--systemd-cgroup"))
    try:
        yield made
    finally:
        made.close()
    assert (
        not made.traces() and properties()["LoadState"] == "not-found" and not any(place.exists() for place in places())
    )


def write(
    oci: RuntimeUnderTest, script: str = "sleep 1000", *, annotations: dict[str, str] | None = None, **more: Any
) -> None:
    oci.write(
        msgspec.structs.replace(
            spec(script, cgroups_path="capsa-test.slice:engine:box", resources=Resources(**more)),
            annotations=annotations or {},
        )
    )


def properties(unit: str = UNIT) -> dict[str, str]:
    shown = subprocess.run(["systemctl", "show", unit], capture_output=True, text=True, check=True).stdout
    return dict(line.partition("=")[::2] for line in shown.splitlines())


def places() -> list[Path]:
    return [Path(hierarchy.mount + PATH) for hierarchy in layout().all]


def file(name: str) -> str:
    (found,) = (place / name for place in places() if (place / name).exists())
    return found.read_text().strip()


def test_a_scope_lives_as_long_as_its_container(oci: RuntimeUnderTest) -> None:
    write(oci, "trap 'exit 0' TERM; echo ready; while :; do sleep 0.1; done")
    oci.create()
    found = properties()
    assert (found["ActiveState"], found["Slice"], found["Delegate"]) == ("active", "capsa-test.slice", "yes")
    assert found["Description"] == "container box" and found["ControlGroup"] == PATH
    pid = oci.state()["pid"]
    for place in places():
        assert (place / "cgroup.procs").read_text().split() == [str(pid)]
    # A unit that is there is not taken over.
    other = [*COMMAND, "--root", str(oci.base / "other"), "--systemd-cgroup", "create", "box"]
    done = subprocess.run(other, cwd=oci.bundle, capture_output=True, text=True)
    assert done.returncode == 1 and "choose another cgroupsPath" in done.stderr
    oci("start", "box")
    until(lambda: oci.output == "ready\n")
    words = oci.arguments("exec", "--detach", "box", "sleep", "1000")
    subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    assert int(properties()["TasksCurrent"]) >= 2
    # What systemd stops is a container that has ended.
    subprocess.run(["systemctl", "stop", UNIT], check=True)
    assert oci.status() == "stopped"
    oci("delete", "box")
    assert properties()["LoadState"] == "not-found"


V2 = {
    "properties": {
        "MemoryMax": str(64 * MIB),
        "MemoryLow": str(32 * MIB),
        "MemorySwapMax": "0",
        "AllowedCPUs": "0",
        "AllowedMemoryNodes": "0",
        "CPUWeight": "59",
    },
    "files": {
        "memory.max": str(64 * MIB),
        "memory.low": str(32 * MIB),
        "memory.swap.max": "0",
        "cpu.weight": "59",
        "cpuset.cpus": "0",
        "pids.max": "1",
    },
    "quota": {"cpu.max": "33333 100000"},
}
V1 = {
    "properties": {"MemoryLimit": str(64 * MIB), "CPUShares": "512"},
    "files": {"memory.limit_in_bytes": str(64 * MIB), "cpu.shares": "512", "cpuset.cpus": "0", "pids.max": "1"},
    "quota": {"cpu.cfs_quota_us": "33333"},
}
EXPECTED = V1 if layout().v1 else V2


def test_limits_are_in_the_unit_and_in_the_control_files_and_change_in_both(oci: RuntimeUnderTest) -> None:
    """And what annotations ask for is in the unit."""
    write(
        oci,
        annotations={
            "org.systemd.property.TimeoutStopUSec": "uint64 7000000",
            "org.systemd.property.RuntimeMaxSec": "300",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
        },
        memory=Memory(limit=64 * MIB, swap=64 * MIB, reservation=32 * MIB),
        cpu=CPU(shares=512, quota=33333, period=100000, cpus="0", mems="0"),
        pids=Pids(limit=1),
    )
    oci.create()
    found = properties()
    asked = {"TimeoutStopUSec": "7s", "RuntimeMaxUSec": "5min", "CollectMode": "inactive-or-failed"}
    wanted = (
        EXPECTED["properties"] | asked | {"CPUQuotaPerSecUSec": "340ms", "CPUQuotaPeriodUSec": "100ms", "TasksMax": "1"}
    )
    assert {name: found[name] for name in wanted} == wanted
    files = EXPECTED["files"] | EXPECTED["quota"]
    assert {name: file(name) for name in files} == files
    # What systemd is told is what it writes when it applies all again; of the quota a whole percent.
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert {name: file(name) for name in EXPECTED["files"]} == EXPECTED["files"]
    oci("update", "--memory", "48M", "--pids-limit", "-1", "--cpu-quota", "20000", "--cpuset-cpus", "0", "box")
    found = properties()
    assert (found["MemoryLimit" if layout().v1 else "MemoryMax"], found["TasksMax"]) == (str(48 * MIB), "infinity")
    assert (found["CPUQuotaPerSecUSec"], found["AllowedCPUs"]) == ("200ms", "0")
    limit, quota = ("memory.limit_in_bytes", "cpu.cfs_quota_us") if layout().v1 else ("memory.max", "cpu.max")
    assert (file(limit), file("pids.max"), file(quota).split()[0]) == (str(48 * MIB), "max", "20000")
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "access": "rw"}]
    oci("update", "--resources", "-", "box", input=json.dumps({"devices": rules}), stdin=None)
    assert "char-10 rw" in subprocess.run(["systemctl", "show", UNIT], capture_output=True, text=True).stdout
    refused = oci("update", "--cpuset-cpus", "0-999", "box", check=False)
    assert refused.returncode == 1 and "cpuset.cpus" in refused.stderr
    assert properties()["AllowedCPUs"] == "0"


@pytest.fixture
def disk() -> Iterator[ThrottleDevice]:
    """A block device: a loop device over a file, with the link that udev would make."""
    subprocess.run(["modprobe", "loop"], check=True)
    image = Path("/run/guest/systemd-disk")
    with image.open("wb") as file:
        file.truncate(8 * MIB)
    subprocess.run(["losetup", "/dev/loop1", str(image)], check=True)
    link = Path("/dev/block/7:1")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to("../loop1")
    yield ThrottleDevice(major=7, minor=1, rate=MIB)
    link.unlink()
    subprocess.run(["losetup", "-d", "/dev/loop1"], check=True)
    image.unlink()


def test_limits_of_single_disks_are_in_the_unit_too(oci: RuntimeUnderTest, disk: ThrottleDevice) -> None:
    write(oci, block_io=BlockIO(throttle_read_bps_device=[disk], throttle_write_iops_device=[disk]))
    oci.create()
    found = properties()
    if layout().v1:
        limit, content, weight = "blkio.throttle.read_bps_device", "7:1 1048576", "BlockIODeviceWeight"
        assert found["BlockIOReadBandwidth"] == f"/dev/block/7:1 {MIB}"
    else:
        limit, content, weight = "io.max", f"7:1 rbps={MIB} wbps=max riops=max wiops={MIB}", "IODeviceWeight"
        assert (found["IOReadBandwidthMax"], found["IOWriteIOPSMax"]) == (f"/dev/block/7:1 {MIB}",) * 2
    assert file(limit) == content
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    # Whatever has systemd apply all again.
    subprocess.run(["systemctl", "set-property", "--runtime", UNIT, f"{weight}=/dev/block/7:1 50"], check=True)
    assert file(limit) == content
    rule = {"blockIO": {"throttleReadBpsDevice": [{"major": 7, "minor": 1, "rate": 2 * MIB}]}}
    oci("update", "--resources", "-", "box", input=json.dumps(rule), stdin=None)
    found = properties()
    assert found["BlockIOReadBandwidth" if layout().v1 else "IOReadBandwidthMax"] == f"/dev/block/7:1 {2 * MIB}"
    assert layout().v1 or found["IOWriteIOPSMax"] == f"/dev/block/7:1 {MIB}"
    assert file(limit) == content.replace(str(MIB), str(2 * MIB), 1)
    with Systemd() as systemd:
        systemd.set(UNIT, [(weight, ("a(st)", [("/dev/block/7:1", 500)]))])
    assert properties()[weight] == "/dev/block/7:1 500"


def test_devices_are_denied_by_systemd_too(oci: RuntimeUnderTest) -> None:
    script = (
        "mknod /tmp/random c 1 8; mknod /tmp/kmsg c 1 11; head -c 1 /tmp/random >/dev/null && echo may;"
        "head -c 1 /tmp/kmsg || echo may not"
    )
    write(oci, script, devices=[DENY, DeviceRule(allow=True, type="b", major=7, access="r")])
    oci.create()
    assert properties()["DevicePolicy"] == "strict"
    words = ["systemctl", "show", "--property", "DeviceAllow", "--value", UNIT]
    allowed = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
    assert {"block-7 r", "/dev/char/1:3 rwm", "char-136 rwm", "char-* m"} <= set(allowed)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    oci("start", "box")
    until(lambda: oci.output.endswith("may not\n"))
    assert oci.output.startswith("may\n") and "Operation not permitted" in oci.output


def test_what_fails_leaves_nothing(oci: RuntimeUnderTest) -> None:
    write(oci, annotations={"org.systemd.property.ExecStart": "'/bin/sh'"})
    done = oci("create", "box", check=False)
    assert done.returncode == 1 and "systemd refuses StartTransientUnit" in done.stderr and "ExecStart" in done.stderr
    assert oci.status() == "gone"
    write(oci, memory=Memory(limit=64 * MIB))
    made = json.loads((oci.bundle / "config.json").read_text())
    made["process"]["args"] = ["nothing-like-it"]
    oci.write(made)
    done = oci("create", "box", check=False)
    assert done.returncode == 1 and "nothing-like-it" in done.stderr
    assert properties()["LoadState"] == "not-found" and oci.status() == "gone"


def test_a_program_killed_for_lack_of_memory_leaves_no_failed_unit(oci: RuntimeUnderTest) -> None:
    write(oci, "dd if=/dev/zero of=/dev/null bs=100M", memory=Memory(limit=16 * MIB, swap=16 * MIB))
    assert oci("run", "box", check=False).returncode == 137
    assert properties()["LoadState"] == "not-found"


def test_without_a_bus_systemd_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/none")
    with subprocess.Popen(["sleep", "1000"]) as process, Systemd() as systemd:
        systemd.start(UNIT, [("PIDs", ("au", [process.pid])), ("Slice", ("s", "capsa-test.slice"))])
        assert properties()["ActiveState"] == "active"
        systemd.stop(UNIT)
        assert process.wait(30) and properties()["LoadState"] == "not-found"


def test_systemd_says_no_in_words() -> None:
    with Systemd() as systemd:
        systemd.stop("nothing-like-it.scope")
        with pytest.raises(NotFound, match="nothing-like-it"):
            systemd.set("nothing-like-it.scope", [("TasksMax", ("t", 5))])
        with pytest.raises(InvalidArgument, match="name"):
            systemd.set("no such unit", [("TasksMax", ("t", 5))])
        with pytest.raises(InvalidArgument, match="cannot tell systemd"):
            systemd.set("a.scope", [("TasksMax", ("t", "five"))])
        with pytest.raises(Conflict):
            systemd.start("guest.service", [])
