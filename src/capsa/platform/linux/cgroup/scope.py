"""A container's cgroup as systemd knows it: a scope in a slice, with properties. Pure: nobody is asked here.

systemd owns the tree of cgroups where it runs, so who wants one asks for a transient scope with ``Delegate``; what
systemd has properties for has to be told as such, or it is overwritten when systemd next applies what it knows
(systemd.scope(5), systemd.resource-control(5), "Control Group APIs and Delegation").
"""

from __future__ import annotations

import re

import msgspec

from capsa.errors import InvalidArgument
from capsa.oci.runtime import DeviceRule
from capsa.platform.linux.cgroup import devices, variant
from capsa.platform.linux.cgroup.setting import Setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from capsa.platform.linux.cgroup.setting import Read

Property = tuple[str, tuple[str, object]]
"""Name, and D-Bus signature with value."""

DEFAULT_SLICE = "system.slice"
INFINITY = (1 << 64) - 1
ANNOTATION = "org.systemd.property."
_UNIT = re.compile(r"[A-Za-z0-9:_.\\-]{1,255}\Z")
# They decide which processes are meant, and where they are: what else is done to the container relies on them.
_OURS = frozenset({"Delegate", "PIDs", "Slice"})


class Scope(msgspec.Struct, frozen=True):
    """``unit`` (``docker-x.scope``) in ``slice`` (``a-b.slice``); ``path`` is its cgroup (``/a.slice/a-b.slice/…``)."""

    unit: str
    slice: str
    path: str


def named(cgroups_path: str, id: str) -> Scope:
    """The scope that ``cgroupsPath`` means: ``SLICE:PREFIX:NAME``, read as runc does; empty: one for container ``id``.

    Raises `InvalidArgument`.
    """
    parts = cgroups_path.split(":", 2) if cgroups_path else [DEFAULT_SLICE, "capsa", id]
    if len(parts) != 3:
        raise InvalidArgument(
            f"cgroupsPath {cgroups_path!r}: with --systemd-cgroup it is written SLICE:PREFIX:NAME"
            " (like system.slice:docker:NAME)"
        )
    slice, prefix, name = parts
    if name.endswith(".slice"):
        raise InvalidArgument(f"cgroupsPath {cgroups_path!r}: {name} is a slice, and a slice has no processes")
    unit = f"{prefix}-{name}.scope"
    if not name or not _UNIT.match(unit):
        raise InvalidArgument(f"cgroupsPath {cgroups_path!r}: {unit!r} is no name for a systemd unit")
    slice = slice or DEFAULT_SLICE
    return Scope(unit, slice, f"{slice_path(slice)}/{unit}")


def slice_path(slice: str) -> str:
    """The cgroup of a slice: each ``-`` in its name is a level (systemd.slice(5)); empty for the root of all."""
    stem = slice.removesuffix(".slice")
    if slice == "-.slice":
        return ""
    parts = stem.split("-")
    if stem == slice or not all(parts) or not _UNIT.match(slice):
        raise InvalidArgument(f"{slice!r} is no name of a systemd slice (they are written like a.slice, or a-b.slice)")
    return "".join(f"/{'-'.join(parts[: count + 1])}.slice" for count in range(len(parts)))


# ---- properties ----


def of_scope(scope: Scope, id: str) -> list[Property]:
    """What a new scope is told beside limits and processes."""
    return [
        ("Description", ("s", f"container {id}")),
        ("Slice", ("s", scope.slice)),
        ("Delegate", ("b", True)),
        ("DefaultDependencies", ("b", False)),
        *((f"{each}Accounting", ("b", True)) for each in ("CPU", "Memory", "IO", "Tasks")),
    ]


def annotated(annotations: Mapping[str, str]) -> list[Property]:
    """Those that annotations ``org.systemd.property.NAME`` ask for, with values as `variant` reads them.

    ``…Sec`` is a number of seconds for systemd's ``…USec``, as runc has it.
    """
    found: list[Property] = []
    for key, text in annotations.items():
        if not key.startswith(ANNOTATION):
            continue
        name = key.removeprefix(ANNOTATION)
        if not re.fullmatch("[A-Za-z]{3,}", name) or name in _OURS:
            raise InvalidArgument(f"annotation {key!r} does not name a property that may be set")
        try:
            signature, value = variant.parse(text)
        except InvalidArgument as error:
            raise InvalidArgument(f"annotation {key!r}: {error}") from error
        if name.endswith("Sec") and not name.endswith("USec"):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1 << 43:
                raise InvalidArgument(f"annotation {key!r}: {text!r} is no number of seconds")
            name, signature, value = f"{name.removesuffix('Sec')}USec", "t", int(value * 1_000_000)
        found.append((name, (signature, value)))
    return found


def of_settings(settings: Sequence[Setting], read: Read) -> list[Property]:
    """What settings of control files are as properties; those that systemd has none for are left out.

    ``read`` tells present values: a quota is told together with its period.
    """
    # A value with a colon is for one device.
    files = {file: value for setting in settings for file, value in setting.choices if ":" not in value}
    found: list[Property] = []
    for file, name in _NUMBERS.items():
        if file in files:
            found.append((name, ("t", _amount(files[file]))))
    if files.get("cpu.idle") == "1":
        found = [each for each in found if each[0] != "CPUWeight"] + [("CPUWeight", ("t", 0))]
    for file, name in (("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes")):
        if file in files:
            found.append((name, ("ay", _bits(files[file], file))))
    return found + _quota(files, read) + _of_disks(settings)


# Control files whose value is a number or "max"; v1 counts some otherwise, and systemd has old names for them.
_NUMBERS = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "memory.limit_in_bytes": "MemoryLimit",
    "cpu.weight": "CPUWeight",
    "cpu.shares": "CPUShares",
    "io.weight": "IOWeight",
    "blkio.weight": "BlockIOWeight",
    "pids.max": "TasksMax",
}


def _amount(text: str) -> int:
    text = text.strip().removeprefix("default ")  # as io.weight may be written
    if text in ("max", "-1"):
        return INFINITY
    if not text.isdecimal() or int(text) > INFINITY:
        raise InvalidArgument(f"{text!r} is no number that a limit may have")
    return int(text)


def _quota(files: Mapping[str, str], read: Read) -> list[Property]:
    """A quota and its period, both in microseconds, as microseconds in each second."""
    if "cpu.max" in files:
        quota, _, period = files["cpu.max"].strip().partition(" ")
        period = period or (read("cpu.max") or "").partition(" ")[2]
    elif "cpu.cfs_quota_us" in files or "cpu.cfs_period_us" in files:
        quota = files.get("cpu.cfs_quota_us") or read("cpu.cfs_quota_us") or "-1"
        period = files.get("cpu.cfs_period_us") or read("cpu.cfs_period_us") or ""
    else:
        return []
    microseconds, share = _amount(period or "100000"), _amount(quota)
    if not microseconds:
        raise InvalidArgument("cpu.period: it cannot be 0")
    if share != INFINITY:
        # Upwards to a whole percent: that is how systemd stores it, and less would bound what is written afterwards.
        share = -(-share * 1_000_000 // microseconds // 10_000) * 10_000
    return [("CPUQuotaPerSecUSec", ("t", share)), ("CPUQuotaPeriodUSec", ("t", microseconds))]


def _bits(text: str, file: str) -> bytes:
    """A list like ``0-3,7`` as a bit mask, the lowest byte first."""
    mask = 0
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last) < 1 << 16):
            raise InvalidArgument(f"{file}: {text!r} is not a list of numbers and ranges (like 0-3,7)")
        mask |= (1 << int(last) + 1) - (1 << int(first))
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


# Control files, and the key in their lines, whose values are for one block device each. On v1 systemd limits no
# operations; it leaves those that are written alone.
_DISKS = {
    ("io.weight", ""): "IODeviceWeight",
    ("io.max", "rbps"): "IOReadBandwidthMax",
    ("io.max", "wbps"): "IOWriteBandwidthMax",
    ("io.max", "riops"): "IOReadIOPSMax",
    ("io.max", "wiops"): "IOWriteIOPSMax",
    ("blkio.weight_device", ""): "BlockIODeviceWeight",
    ("blkio.throttle.read_bps_device", ""): "BlockIOReadBandwidth",
    ("blkio.throttle.write_bps_device", ""): "BlockIOWriteBandwidth",
}
_DISK = re.compile(r"(\d+:\d+)\s+(.+)")


def _of_disks(settings: Sequence[Setting]) -> list[Property]:
    """What is bounded for single block devices: pairs of a path and a number; systemd keeps those of other devices."""
    found: dict[str, dict[str, int]] = {}
    for setting in settings:
        for file, value in setting.choices:
            for device, words in filter(None, map(_disk, value.splitlines())):
                for word in words.split():
                    key, _, text = word.rpartition("=")
                    name = _DISKS.get((file, key))
                    if name is None or text == "default":  # which cannot be told
                        continue
                    amount = _amount(text)
                    if not amount and name.startswith("BlockIO"):
                        if name == "BlockIODeviceWeight":
                            continue
                        amount = INFINITY  # on v1 a limit of 0 is none
                    found.setdefault(name, {})[f"/dev/block/{device}"] = amount
    return [(name, ("a(st)", list(entries.items()))) for name, entries in found.items()]


def _disk(line: str) -> tuple[str, str] | None:
    match = _DISK.match(line.strip())
    return (match[1], match[2]) if match is not None else None


_LINE = re.compile(r"([cb]) (\*|\d+):(\*|\d+) ([rwm]+)\Z")


def of_devices(rules: Sequence[DeviceRule], *, v1: bool) -> list[Property]:
    """Effective device rules (`devices.effective`); v1 has them applied by systemd again and again, v2 in addition.

    systemd knows a list of what is allowed. Where that cannot say what is meant, it is told to allow everything, and
    our own rules alone are in force.
    """
    unlimited: list[Property] = [("DevicePolicy", ("s", "auto")), ("DeviceAllow", ("a(ss)", []))]
    if rules[0].allow:
        return unlimited
    allowed = [rule for rule in rules[1:] if rule.allow]
    plan = devices.lines(rules) if v1 else devices.lines([rules[0], *allowed])
    entries = []
    for file, line in plan[1:]:
        found = _LINE.match(line)
        if file != "devices.allow" or found is None or (found[2] == "*" and found[3] != "*"):
            return unlimited
        kind, major, minor, access = found.groups()
        kind = "char" if kind == "c" else "block"
        entries.append((f"/dev/{kind}/{major}:{minor}" if minor != "*" else f"{kind}-{major}", access))
    # The empty list first: entries are added to what there was.
    return [
        ("DevicePolicy", ("s", "strict")),
        ("DeviceAllow", ("a(ss)", [])),
        *([("DeviceAllow", ("a(ss)", entries))] if entries else []),
    ]
