"""Devices of the host that a container is given."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from capsa.engine.config import HostConfig
from capsa.engine.limits import device_rule
from capsa.errors import InvalidArgument
from capsa.oci.runtime import Device, DeviceRule

#: What a container has its own of, or must not be given as a copy.
_OWN = frozenset({"pts", "shm", "fd", "mqueue", "console", "stdin", "stdout", "stderr", "core", "ptmx"})


def given(host: HostConfig) -> tuple[list[Device], list[DeviceRule]]:
    """Device nodes to make and rules that permit their use; raises `InvalidArgument` for what is no device."""
    nodes: list[Device] = []
    rules: list[DeviceRule] = []
    if host.privileged:
        nodes = _below(Path("/dev"), "/dev")
    for wanted in host.devices:
        source = Path(wanted.path_on_host)
        target = wanted.path_in_container or wanted.path_on_host
        try:
            if source.is_dir():
                found = _below(source.resolve(), target)
            else:
                node = _node(source, target)
                found = [node] if node is not None else []
        except (OSError, ValueError) as error:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{wanted.path_on_host}": '
                f"{getattr(error, 'strerror', None) or error}"
            ) from error
        if not found:
            raise InvalidArgument(
                f'error gathering device information while adding custom device "{wanted.path_on_host}": '
                "not a device node"
            )
        places = {node.path for node in found}
        nodes = [node for node in nodes if node.path not in places] + found
        access = wanted.cgroup_permissions or "rwm"
        rules += [
            DeviceRule(
                allow=True, type="b" if node.type == "b" else "c", major=node.major, minor=node.minor, access=access
            )
            for node in found
        ]
    for text in host.device_cgroup_rules:
        kind, major, minor, access = device_rule(text)
        rules.append(DeviceRule(allow=True, type=kind, major=major, minor=minor, access=access))  # type: ignore[arg-type]
    return nodes, rules


def _below(directory: Path, target: str) -> list[Device]:
    found = []
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.name in _OWN or entry.name.startswith("."):
            continue
        place = f"{target}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            found += _below(Path(entry.path), place)
        elif not entry.is_symlink():
            node = _node(Path(entry.path), place)
            if node is not None:
                found.append(node)
    return found


def _node(source: Path, target: str) -> Device | None:
    status = source.stat()
    if not (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        return None
    return Device(
        type="b" if stat.S_ISBLK(status.st_mode) else "c",
        path=target,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        file_mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
    )
