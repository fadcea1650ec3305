"""``kill`` (runtime.md, Kill), ``pause`` and ``resume``."""

from __future__ import annotations

import contextlib
import os
import signal

from capsa.errors import CapsaError, Conflict, InvalidArgument
from capsa.runtime.container import Container
from capsa.runtime.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.cli.options import Options
    from capsa.runtime.verb import Settings

_TABLE = """
  -a, --all   Send the signal to all processes of the container
"""


def kill(settings: Settings, options: Options) -> int:
    """``capsa-runtime kill ID [SIGNAL]``."""
    container = Container(settings.root, options.arguments[0])
    number = signal_number(options.arguments[1] if len(options.arguments) > 1 else "TERM")
    everybody = options.switch("all")
    with container.locked():
        status = container.status()
        if status in ("stopped", "creating") and not (everybody and status == "stopped"):
            raise Conflict(f"container not running: {container.id} is {status}")
        if everybody:
            _all(container, number)
        else:
            _one(container, number)
        if number == signal.SIGKILL and status == "paused":
            with contextlib.suppress(CapsaError):
                container.cgroup().thaw()  # v1's freezer holds even the killed
    return 0


def _one(container: Container, number: int) -> None:
    record = container.record
    try:
        fd = os.pidfd_open(record.pid)
        try:
            if container.alive():  # asked once the descriptor is there: now it can be nobody else's pid
                signal.pidfd_send_signal(fd, number)
                return
        finally:
            os.close(fd)
    except ProcessLookupError:
        pass
    raise Conflict(f"container not running: {container.id} has ended")


def _all(container: Container, number: int) -> None:
    cgroup = container.cgroup()
    if number == signal.SIGKILL:
        cgroup.kill()
        return
    for pid in cgroup.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def signal_number(text: str) -> int:
    """A signal by number, or by name with or without SIG; raises `InvalidArgument`."""
    if text.isdecimal():
        number = int(text)
        if 0 <= number <= signal.SIGRTMAX:
            return number
    else:
        name = text.upper().removeprefix("SIG")
        base, sign, offset = name.partition("+")
        found = getattr(signal, f"SIG{base}", None)
        if isinstance(found, int) and (not sign or (base == "RTMIN" and offset.isdecimal())):
            return int(found) + int(offset or 0)
        base, sign, offset = name.partition("-")
        if base == "RTMAX" and offset.isdecimal():
            return int(signal.SIGRTMAX) - int(offset)
    raise InvalidArgument(f"unknown signal {text!r} (they are written like TERM, SIGTERM or 15)")


def pause(settings: Settings, options: Options) -> int:
    """``capsa-runtime pause ID``."""
    container = Container(settings.root, options.arguments[0])
    with container.locked():
        status = container.status()
        if status not in ("created", "running"):
            raise Conflict(f"cannot pause container {container.id}: it is {status}, not running")
        container.cgroup().freeze()
    return 0


def resume(settings: Settings, options: Options) -> int:
    """``capsa-runtime resume ID``."""
    container = Container(settings.root, options.arguments[0])
    with container.locked():
        cgroup = container.cgroup()
        if container.status() == "stopped" or not cgroup.frozen():
            raise Conflict(f"cannot resume container {container.id}: it is not paused")
        cgroup.thaw()
    return 0


VERBS = {
    "kill": Verb("kill", "ID [SIGNAL]", "Send a signal (default TERM) to a container", _TABLE, kill, most=2),
    "pause": Verb("pause", "ID", "Stop all processes of a container for a while", "", pause),
    "resume": Verb("resume", "ID", "Let a paused container go on", "", resume),
}
