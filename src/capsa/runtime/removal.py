"""``delete`` (runtime.md, Delete)."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from capsa.errors import CapsaError, Conflict, NotFound
from capsa.runtime.container import Container
from capsa.runtime.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.cli.options import Options
    from capsa.runtime.verb import Settings

SECONDS = 10.0  # that killed processes have to end
_TABLE = """
  -f, --force   Kill the container if it has not ended; no error if there is none
"""


def delete(settings: Settings, options: Options) -> int:
    """``capsa-runtime delete ID``."""
    container = Container(settings.root, options.arguments[0])
    force = options.switch("force")
    try:
        with container.locked():
            remove(settings, container, force=force)
    except NotFound:
        if not force:
            raise
    return 0


def remove(settings: Settings, container: Container, *, force: bool) -> None:
    """Remove a locked container; raises `Conflict` where it has not ended and there is no ``force``."""
    status = container.status()
    if status != "stopped" and not force:
        raise Conflict(f"cannot delete container {container.id} that is not stopped: {status}")
    if container.half and not container.known:
        container.remove()
        return
    cgroup = container.cgroup()
    cgroup.kill()
    if status not in ("stopped", "creating"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(container.record.pid, signal.SIGKILL)
    _await_end(container)
    if container.record.unit:
        from capsa.runtime import unit

        unit.stop(container.record.unit)
    cgroup.remove()
    if container.record.exposed:
        from capsa.platform.linux import shared_mounts

        shared_mounts.withdraw(container.record.rootfs, int(container.record.exposed))
    if container.record.above:
        from capsa.runtime import ancestors

        ancestors.remove(cgroup.path, container.record.above)
    if status != "creating":
        after(settings, container)
    container.remove()


def _await_end(container: Container) -> None:
    deadline = time.monotonic() + SECONDS
    pause = 0.0005
    while container.alive():
        if time.monotonic() > deadline:
            raise CapsaError(f"process {container.record.pid} of container {container.id} does not end, though killed")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def after(settings: Settings, container: Container) -> None:
    """The poststop hooks; one that fails is warned of, and the others run (runtime.md, Lifecycle)."""
    if b"poststop" not in container.config:  # which saves reading it
        return
    from capsa.runtime import lean

    lean.load(("capsa.platform.linux.container",))
    from capsa.platform.linux import container as platform

    for trouble in platform.ended(container.spec, id=container.id, bundle=container.record.bundle):
        settings.warn(trouble)


VERBS = {"delete": Verb("delete", "ID", "Delete a container that has ended", _TABLE, delete)}
