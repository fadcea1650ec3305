"""How a process is scheduled, where its memory is, how it sees the machine.

``sched_setattr``, ``ioprio_set``, ``set_mempolicy``, ``personality``.
"""

from __future__ import annotations

import ctypes
import sys

from capsa.sys.call import call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

POLICIES: Final = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
FLAGS: Final = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
IO_CLASSES: Final = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
MEMORY_POLICIES: Final = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_FLAGS: Final = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}
PERSONALITIES: Final = {"LINUX": 0x0, "LINUX32": 0x8}


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    ]


def sched_setattr(
    policy: int,
    *,
    flags: int = 0,
    nice: int = 0,
    priority: int = 0,
    runtime: int = 0,
    deadline: int = 0,
    period: int = 0,
) -> None:
    """Set the calling process's scheduling; times in nanoseconds. Raises `OSError`."""
    arguments = _Attributes(
        size=ctypes.sizeof(_Attributes),
        policy=policy,
        flags=flags,
        nice=nice,
        priority=priority,
        runtime=runtime,
        deadline=deadline,
        period=period,
    )
    call("sched_setattr", 0, ctypes.byref(arguments), 0, about=str(policy))


def ioprio_set(io_class: int, priority: int) -> None:
    """Set the calling process's I/O priority: ``priority`` 0 (first) to 7. Raises `OSError`."""
    call("ioprio_set", 1, 0, io_class << 13 | priority, about=f"{io_class}:{priority}")


def set_mempolicy(mode: int, nodes: Iterable[int]) -> None:
    """Set the calling process's NUMA policy, ``mode`` with its flags; raises `OSError`."""
    mask = sum(1 << node for node in nodes)
    size = mask.bit_length() // 64 * 8 + 8
    call("set_mempolicy", mode, mask.to_bytes(size, sys.byteorder) if mask else None, size * 8 + 1 if mask else 0)


def personality(domain: int) -> None:
    """Set the execution domain; raises `OSError`."""
    call("personality", domain, about=hex(domain))
