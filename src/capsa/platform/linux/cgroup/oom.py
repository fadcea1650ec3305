"""Noticing that the kernel ended a process for lack of memory."""

from __future__ import annotations

import ctypes
import os

from capsa.errors import CapsaError, NotFound, reason
from capsa.platform.linux.cgroup import files

_IN_MODIFY, _IN_DELETE_SELF = 0x2, 0x400

_libc = ctypes.CDLL(None, use_errno=True)


def kills(version: int, directory: str) -> int:
    """The kernel's count, of sub-cgroups too; 0 once the cgroup is gone."""
    if version == 2:
        return _count(f"{directory}/memory.events")  # hierarchical by itself
    return _count(f"{directory}/memory.oom_control") + sum(kills(1, child) for child in files.children(directory))


def _count(path: str) -> int:
    for line in (files.read(path) or "").splitlines():
        key, _, value = line.partition(" ")
        if key == "oom_kill":
            return int(value)
    return 0


def watch(version: int, directory: str) -> int:
    """A non-blocking file descriptor that becomes readable when the count may have changed; raises `CapsaError`."""
    try:
        return _inotify(f"{directory}/memory.events") if version == 2 else _eventfd(directory)
    except FileNotFoundError as error:
        raise NotFound(f"no such cgroup: {directory}") from error
    except OSError as error:
        raise CapsaError(f"cannot watch {directory} for lack of memory: {reason(error)}") from error


def _eventfd(directory: str) -> int:
    """cgroup v1: Documentation/admin-guide/cgroup-v1/memory.rst, OOM Control."""
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(f"{directory}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
        try:
            files.write(f"{directory}/cgroup.event_control", f"{event} {control}")
        finally:
            os.close(control)
    except BaseException:
        os.close(event)
        raise
    return event


def _inotify(path: str) -> int:
    descriptor = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
    if descriptor < 0 or _libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_MODIFY | _IN_DELETE_SELF) < 0:
        number = ctypes.get_errno()
        if descriptor >= 0:
            os.close(descriptor)
        raise OSError(number, os.strerror(number), path)
    return int(descriptor)
