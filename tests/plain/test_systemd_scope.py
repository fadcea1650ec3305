"""What systemd is told of a container's cgroup: names, slices, properties from limits, values of annotations."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsa.errors import InvalidArgument, Unsupported
from capsa.oci.runtime import CPU, BlockIO, DeviceRule, Memory, Pids, Resources, ThrottleDevice, WeightDevice
from capsa.platform.linux.cgroup import devices, scope, v1, v2, variant

INFINITY = 18446744073709551615


@pytest.mark.parametrize(
    ("path", "unit", "where"),
    [
        ("system.slice:docker:box", "docker-box.scope", "/system.slice/docker-box.scope"),
        (
            "kubepods-burstable-pod1_2.slice:crio:box",
            "crio-box.scope",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/crio-box.scope",
        ),
        (":p:box", "p-box.scope", "/system.slice/p-box.scope"),
        ("-.slice:p:box", "p-box.scope", "/p-box.scope"),
        ("a.slice::box", "-box.scope", "/a.slice/-box.scope"),
        ("a.slice:p:box:1", "p-box:1.scope", "/a.slice/p-box:1.scope"),
        ("", "capsa-box.scope", "/system.slice/capsa-box.scope"),
    ],
)
def test_a_path_of_three_parts_names_a_scope(path: str, unit: str, where: str) -> None:
    found = scope.named(path, "box")
    assert (found.unit, found.path) == (unit, where)


@pytest.mark.parametrize(
    "path",
    [
        *("/a/b", "a.slice:p", "a:p:box", "a--b.slice:p:box", "-a.slice:p:box", "a-.slice:p:box", ".slice:p:box"),
        *("../a.slice:p:box", "a/b.slice:p:box", "a.slice:p:box.slice", "a.slice:p:", "a.slice:p:b/c", "a.slice:p:b c"),
        *("a.slice:p:" + "x" * 300, "a.slice:p:b\n", "a.slice:é:b", "a.slice:p:b@c"),
    ],
)
def test_what_names_no_scope_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        scope.named(path, "box")


def told(resources: Resources, present: dict[str, str] | None = None, version: int = 2) -> dict[str, Any]:
    read = (present or {}).get
    settings = v2.settings(resources, read) + v2.unified(resources) if version == 2 else v1.settings(resources)
    return {name: value for name, (_, value) in scope.of_settings(settings, read)}


def test_limits_are_properties_on_v2() -> None:
    resources = Resources(
        memory=Memory(limit=64 << 20, swap=96 << 20, reservation=32 << 20),
        cpu=CPU(shares=1024, quota=50000, period=200000, cpus="0-2,9", mems="0"),
        pids=Pids(limit=50),
        block_io=BlockIO(weight=10),
    )
    assert told(resources) == {
        "MemoryMax": 64 << 20,
        "MemoryLow": 32 << 20,
        "MemorySwapMax": 32 << 20,
        "CPUWeight": 100,
        "IOWeight": 1,
        "TasksMax": 50,
        "CPUQuotaPerSecUSec": 250000,
        "CPUQuotaPeriodUSec": 200000,
        "AllowedCPUs": b"\x07\x02",
        "AllowedMemoryNodes": b"\x01",
    }


def test_limits_are_properties_on_v1() -> None:
    resources = Resources(
        memory=Memory(limit=64 << 20, swap=96 << 20),
        cpu=CPU(shares=512, quota=30000),
        pids=Pids(limit=-1),
        block_io=BlockIO(weight=500),
    )
    assert told(resources, {"cpu.cfs_period_us": "50000"}, version=1) == {
        "MemoryLimit": 64 << 20,
        "CPUShares": 512,
        "BlockIOWeight": 500,
        "TasksMax": INFINITY,
        "CPUQuotaPerSecUSec": 600000,
        "CPUQuotaPeriodUSec": 50000,
    }


def _disks() -> BlockIO:
    def rate(*rates: int) -> list[ThrottleDevice]:
        return [ThrottleDevice(major=8, minor=16 * number, rate=rate) for number, rate in enumerate(rates)]

    return BlockIO(
        weight_device=[WeightDevice(major=8, minor=0, weight=1000), WeightDevice(major=8, minor=16, weight=10)],
        throttle_read_bps_device=rate(1000, 0),
        throttle_write_bps_device=rate(2000),
        throttle_read_iops_device=rate(30),
        throttle_write_iops_device=rate(40),
    )


def test_limits_of_single_disks_are_properties_on_v2() -> None:
    one, other = "/dev/block/8:0", "/dev/block/8:16"
    assert told(Resources(block_io=_disks())) == {
        "IODeviceWeight": [(one, 10000), (other, 1)],
        "IOReadBandwidthMax": [(one, 1000), (other, INFINITY)],
        "IOWriteBandwidthMax": [(one, 2000)],
        "IOReadIOPSMax": [(one, 30)],
        "IOWriteIOPSMax": [(one, 40)],
    }
    lines = "8:0 rbps=7 wiops=max\n8:16 riops=1\nnonsense\n"
    assert told(Resources(unified={"io.max": lines, "io.weight": "8:0 default"})) == {
        "IOReadBandwidthMax": [(one, 7)],
        "IOReadIOPSMax": [(other, 1)],
        "IOWriteIOPSMax": [(one, INFINITY)],
    }


def test_limits_of_single_disks_are_properties_on_v1_as_far_as_systemd_has_them() -> None:
    one, other = "/dev/block/8:0", "/dev/block/8:16"
    assert told(Resources(block_io=_disks()), version=1) == {
        "BlockIODeviceWeight": [(one, 1000), (other, 10)],
        "BlockIOReadBandwidth": [(one, 1000), (other, INFINITY)],
        "BlockIOWriteBandwidth": [(one, 2000)],
    }


def test_unlimited_is_infinity_and_nothing_is_nothing() -> None:
    assert told(Resources()) == {}
    resources = Resources(memory=Memory(limit=-1, swap=-1), cpu=CPU(quota=-1))
    assert told(resources, {"cpu.max": "1000 70000"}) == {
        "MemoryMax": INFINITY,
        "MemorySwapMax": INFINITY,
        "CPUQuotaPerSecUSec": INFINITY,
        "CPUQuotaPeriodUSec": 70000,
    }


def test_a_quota_is_told_upwards_to_a_whole_percent() -> None:
    assert told(Resources(cpu=CPU(quota=33333)))["CPUQuotaPerSecUSec"] == 340000


def test_what_is_written_as_it_stands_is_told_where_it_can_be() -> None:
    unified = {"memory.high": "max", "cpu.idle": "1", "cpu.weight": "7", "io.max": "8:0 rbps=5", "hugetlb.2MB.max": "0"}
    assert told(Resources(unified=unified | {"io.weight": "default 80\n8:0 90"})) == {
        "MemoryHigh": INFINITY,
        "CPUWeight": 0,
        "IOWeight": 80,
        "IODeviceWeight": [("/dev/block/8:0", 90)],
        "IOReadBandwidthMax": [("/dev/block/8:0", 5)],
    }
    with pytest.raises(InvalidArgument, match="many"):
        told(Resources(unified={"memory.max": "many"}))


def rule(type: str, major: int | None, minor: int | None, access: str = "rw", allow: bool = True) -> DeviceRule:
    return DeviceRule(allow=allow, type=type, major=major, minor=minor, access=access)  # type: ignore[arg-type]


def entries(*rules: DeviceRule, v1: bool = False) -> tuple[str, dict[str, str]]:
    found = scope.of_devices(devices.effective(rules), v1=v1)
    assert found[0][0] == "DevicePolicy" and found[1] == ("DeviceAllow", ("a(ss)", []))
    return found[0][1][1], dict(found[2][1][1]) if len(found) > 2 else {}  # type: ignore[arg-type,return-value,call-overload]


def test_devices_are_a_list_of_what_is_allowed() -> None:
    deny = rule("a", None, None, "rwm", allow=False)
    policy, allowed = entries(deny, rule("c", 10, 200), rule("b", 8, None, "r"), rule("c", 136, None))
    assert policy == "strict"
    assert allowed["/dev/char/10:200"] == "rw" and allowed["block-8"] == "r" and allowed["/dev/char/1:3"] == "rwm"
    assert allowed["char-*"] == allowed["block-*"] == "m" and allowed["char-136"] == "rwm"


def test_devices_that_systemd_cannot_say_are_left_to_us() -> None:
    everything = rule("a", None, None, "rwm")
    assert entries(everything) == ("auto", {})
    assert entries(everything, rule("c", 1, 11, allow=False)) == ("auto", {})
    assert entries(rule("c", None, 7)) == ("auto", {})
    narrowed = (rule("c", 10, None), rule("c", 10, 200, allow=False))
    assert entries(*narrowed)[1]["char-10"] == "rw"  # v2: our own program denies the one
    with pytest.raises(Unsupported):
        entries(*narrowed, v1=True)


@pytest.mark.parametrize(
    ("text", "signature", "value"),
    [
        ("'inactive-or-failed'", "s", "inactive-or-failed"),
        ('"a\\u00e9\\n\\"\\\\"', "s", 'aé\n"\\'),
        ("uint64 123456789", "t", 123456789),
        ("5", "i", 5),
        ("-0x10", "i", -16),
        ("1.5e3", "d", 1500.0),
        ("double 2", "d", 2.0),
        ("byte 255", "y", 255),
        ("true", "b", True),
        ("['a', 'b']", "as", ["a", "b"]),
        ("@as []", "as", []),
        ("@at [1, 2]", "at", [1, 2]),
        ("[uint32 1, 2]", "au", [1, 2]),
        ("('a', 1)", "(si)", ("a", 1)),
        ("[('/dev/null', 'rw')]", "a(ss)", [("/dev/null", "rw")]),
        ("@a(st) [('x', 1)]", "a(st)", [("x", 1)]),
        ("(1,)", "(i)", (1,)),
        ("objectpath '/a'", "o", "/a"),
    ],
)
def test_values_of_annotations_are_read(text: str, signature: str, value: object) -> None:
    assert variant.parse(f" {text} ") == (signature, value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "abc", "'open", "1 2", "[1, 'a']", "[1 2]", "()", "uint64 -1", "byte 256", "5000000000", "@ 1"),
        *("@as 1", "@z 1", "@a 1", "@ss 'a'", "010", "1e", "{'a': 1}", "<1>", "'\\ud800'", "'a\\u0000'", "@(s ('a',)"),
        *(
            "string 1",
            "boolean 'a'",
            "[" * 100 + "]" * 100,
            "@" + "a" * 80 + "s []",
            "uint32 uint64 1",
            "'\\U00110000'",
        ),
    ],
)
def test_what_is_no_value_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        variant.parse(text)


@settings(deadline=None)
@given(st.text("[](),'\\\"@asuint64 0x1.e-true<>", max_size=40))
def test_whatever_stands_there_is_a_value_or_is_refused(text: str) -> None:
    try:
        signature, _ = variant.parse(text)
    except InvalidArgument:
        return
    assert variant.split(signature) == [signature]


def test_annotations_set_properties() -> None:
    found = scope.annotated(
        {
            "org.systemd.property.TimeoutStopSec": "2.5",
            "org.systemd.property.CollectMode": "'inactive'",
            "org.systemd.property.TimeoutStopUSec": "uint64 7",
            "another": "x",
        }
    )
    assert found == [
        ("TimeoutStopUSec", ("t", 2500000)),
        ("CollectMode", ("s", "inactive")),
        ("TimeoutStopUSec", ("t", 7)),
    ]
    for name, value in (("Slice", "'a.slice'"), ("PIDs", "[uint32 1]"), ("a b", "1"), ("XSec", "'a'"), ("Abc", "{")):
        with pytest.raises(InvalidArgument, match=f"annotation 'org.systemd.property.{name}'"):
            scope.annotated({f"org.systemd.property.{name}": value})


def test_nothing_of_it_is_loaded_without_need() -> None:
    script = (
        "import sys; import capsa.runtime.creation, capsa.runtime.limits, capsa.runtime.removal;"
        "import capsa.platform.linux.container;"
        "assert not [name for name in sys.modules if 'jeepney' in name or name.endswith(('scope', 'systemd'))]"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
