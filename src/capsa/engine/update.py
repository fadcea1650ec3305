"""Changing a container's limits and restart policy, also while it runs (Docker Engine API, "Update a container")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from capsa.engine import limits, validation
from capsa.engine.config import HostConfig, parse, spelling
from capsa.engine.container import Container
from capsa.errors import Conflict, InvalidArgument
from capsa.platform.protocol import Update

if TYPE_CHECKING:
    from capsa.engine.engine import Engine

_UPDATABLE = (
    "blkio_weight",
    "blkio_weight_device",
    "blkio_device_read_bps",
    "blkio_device_write_bps",
    "blkio_device_read_iops",
    "blkio_device_write_iops",
    "cpu_shares",
    "cpu_period",
    "cpu_quota",
    "cpu_realtime_period",
    "cpu_realtime_runtime",
    "cpuset_cpus",
    "cpuset_mems",
    "memory",
    "memory_reservation",
    "memory_swap",
    "nano_cpus",
)


async def update(engine: Engine, container: Container, body: Mapping[str, Any]) -> None:
    """Set what ``body`` (a ``HostConfig``) names, at once where the container runs; what is empty stays as it is.

    Raises `InvalidArgument` for what cannot be changed or cannot be meant, `Conflict` for what does not fit what was
    set before.
    """
    wanted: HostConfig = parse(body, HostConfig, "the container's update")
    given = {field.name for field in msgspec.structs.fields(HostConfig) if body.get(field.encode_name)}
    for name in given.difference(_UPDATABLE, ("pids_limit", "restart_policy")):
        if getattr(wanted, name) != getattr(HostConfig(), name):
            raise InvalidArgument(f"{spelling(name)} cannot be updated")
    async with container.lock:
        host = msgspec.structs.replace(container.host)
        _check_conflicts(container.host, wanted)
        for name in _UPDATABLE:
            if name in given:
                setattr(host, name, getattr(wanted, name))
        if wanted.memory and not wanted.memory_swap and container.host.memory:
            host.memory_swap = limits.swap_limit(container.host)
        if wanted.pids_limit is not None:  # 0 and -1: no limit
            host.pids_limit = wanted.pids_limit if wanted.pids_limit > 0 else None
        if wanted.restart_policy.name:
            host.restart_policy = wanted.restart_policy
        limits.check(host)
        validation.check_restart(host)
        if container.running and container.sandbox is not None:
            changed = limits.changed(container.host, host)
            if changed is not None:
                await container.sandbox.request(Update(resources=changed))
        container.document.host = host
        engine.containers.save_document(container)
    engine.events.container("update", container)


def _check_conflicts(old: HostConfig, new: HostConfig) -> None:
    for name, set_before in (("CPU Period", old.cpu_period), ("CPU Quota", old.cpu_quota)):
        if new.nano_cpus and set_before > 0:
            raise Conflict(f"Conflicting options: Nano CPUs cannot be updated as {name} has already been set")
    for name, wanted in (("CPU Period", new.cpu_period), ("CPU Quota", new.cpu_quota)):
        if wanted > 0 and old.nano_cpus:
            raise Conflict(f"Conflicting options: {name} cannot be updated as NanoCPUs has already been set")
    if new.memory and not new.memory_swap and 0 < limits.swap_limit(old) < new.memory:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    if new.restart_policy.name not in ("", "no") and old.auto_remove:
        raise Conflict("Restart policy cannot be updated because AutoRemove is enabled for the container")
