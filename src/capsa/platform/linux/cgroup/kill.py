"""Freezing, thawing and ending all processes of a cgroup."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from capsa.errors import CapsaError, Conflict, NotFound, reason
from capsa.platform.linux.cgroup import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PATIENCE = 10.0  # seconds for all processes to stop


def freeze(directory: str) -> None:
    """Freeze a cgroup of v2 or of v1's freezer and wait until all of it is; raises `Conflict`, with it thawed again."""
    _write(directory, "1" if _unified(directory) else "FROZEN")
    if not _await_frozen(directory, _PATIENCE):
        thaw(directory)
        raise Conflict(f"cgroup {directory}: some processes did not freeze within {_PATIENCE:.0f} s; they run again")


def _await_frozen(directory: str, seconds: float) -> bool:
    unified = _unified(directory)
    deadline = time.monotonic() + seconds
    pause = 0.0002
    while not _is_frozen(directory, unified):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.02)
        if not unified:
            _write(directory, "FROZEN")  # a process forked meanwhile can leave it at FREEZING
    return True


def thaw(directory: str) -> None:
    """Undo `freeze`."""
    _write(directory, "0" if _unified(directory) else "THAWED")


def frozen(directory: str) -> bool:
    """Whether a cgroup was told to freeze (itself, not one above it)."""
    if _unified(directory):
        return (files.read(f"{directory}/cgroup.freeze") or "0").strip() == "1"
    return (files.read(f"{directory}/freezer.self_freezing") or "0").strip() == "1"


def at_once(directory: str) -> bool:
    """Kill through ``cgroup.kill`` (Linux 5.14); whether that exists."""
    try:
        files.write(f"{directory}/cgroup.kill", "1")
    except OSError:
        return False
    return True


def one_by_one(pids: Callable[[], list[int]], freezer: str) -> None:
    """Kill every process, with forking stopped meanwhile; ``freezer`` is the directory to freeze, if there is one.

    Freezing is best effort: a process that cannot be frozen is killed all the same.
    """
    if not pids():  # as after the end of the first process of a pid namespace
        return
    if freezer:
        with contextlib.suppress(CapsaError):
            _write(freezer, "1" if _unified(freezer) else "FROZEN")
            _await_frozen(freezer, 0.5)
    killed: set[int] = set()
    while new := set(pids()) - killed:  # more than once only where nothing stops them from forking
        for pid in new:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= new
    if freezer:
        with contextlib.suppress(CapsaError):
            thaw(freezer)


def _unified(directory: str) -> bool:
    return os.path.exists(f"{directory}/cgroup.freeze")


def _is_frozen(directory: str, unified: bool) -> bool:
    if unified:
        return "frozen 1" in (files.read(f"{directory}/cgroup.events") or "")
    return (files.read(f"{directory}/freezer.state") or "").strip() == "FROZEN"


def _write(directory: str, value: str) -> None:
    path = f"{directory}/{'cgroup.freeze' if _unified(directory) else 'freezer.state'}"
    try:
        files.write(path, value)
    except FileNotFoundError as error:
        raise NotFound(f"no such cgroup: {directory}") from error
    except OSError as error:
        raise CapsaError(f"cannot write {value!r} to {path}: {reason(error)}") from error
