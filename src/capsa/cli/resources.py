"""Resource limits and the restart policy, as ``create``, ``run`` and ``update`` send them."""

from __future__ import annotations

from capsa.cli import units
from capsa.cli.options import Options, UsageError
from capsa.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BILLION = 1_000_000_000
# Options that are handed on as they are: (option, field) of the host configuration.
_TEXTS = {"cpuset-cpus": "CpusetCpus", "cpuset-mems": "CpusetMems"}
_NUMBERS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "pids-limit": "PidsLimit",
}
_SIZES = {"memory": "Memory", "memory-reservation": "MemoryReservation"}


def limits(options: Options) -> dict[str, Any]:
    """The fields of a host configuration that the given options set; raises `UsageError`."""
    host: dict[str, Any] = {}
    for name, field in _TEXTS.items():
        if options.given(name):
            host[field] = options.text(name)
    for name, field in _NUMBERS.items():
        if options.given(name):
            host[field] = options.number(name)
    for name, field in _SIZES.items():
        if options.given(name):
            host[field] = size(options, name)
    if options.given("memory-swap"):
        host["MemorySwap"] = -1 if options.text("memory-swap") == "-1" else size(options, "memory-swap")
    if options.given("cpus"):
        host["NanoCpus"] = _cpus(options.text("cpus") or "")
    if options.given("restart"):
        host["RestartPolicy"] = restart_policy(options.text("restart") or "")
    return host


def size(options: Options, name: str) -> int:
    """The bytes that an option says; raises `UsageError`."""
    text = options.text(name) or ""
    try:
        return units.parse_size(text)
    except InvalidArgument as error:
        raise UsageError(f'invalid argument "{text}" for "--{name}" flag: {error}') from None


def _cpus(text: str) -> int:
    try:
        return round(float(text) * _BILLION)
    except ValueError:
        raise UsageError(f'invalid argument "{text}" for "--cpus" flag: not a number') from None


def whole(text: str, what: str) -> int:
    """A whole number; raises `UsageError` that names ``what``."""
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"invalid number for {what}: {text}") from None


def restart_policy(text: str) -> dict[str, Any]:
    """``--restart``, in the API's form; raises `InvalidArgument`."""
    name, colon, times = text.partition(":")
    if name not in ("", "no", "always", "unless-stopped", "on-failure"):
        raise InvalidArgument(f"invalid restart policy: {text} (no, always, unless-stopped, on-failure[:times])")
    if colon and name != "on-failure":
        raise InvalidArgument(f"invalid restart policy: {text}: only on-failure takes a number")
    return {"Name": name, "MaximumRetryCount": whole(times, "--restart") if times else 0}
