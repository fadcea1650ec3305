"""``--systemd-cgroup``: the cgroup of a container is a scope that systemd makes and removes.

systemd is told the limits that it has properties for; then all of them are written to the control files, as without it.
"""

from __future__ import annotations

import contextlib
import os
import signal

import msgspec

from capsa.errors import CapsaError
from capsa.oci.runtime import Pids, Resources
from capsa.platform.linux.cgroup import Cgroup, devices, layout, scope
from capsa.platform.linux.cgroup.plan import plan
from capsa.platform.linux.cgroup.systemd import Systemd, require
from capsa.sys.process import PR_SET_PDEATHSIG, clone, prctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from capsa.oci.runtime import Spec
    from capsa.platform.linux.cgroup.scope import Property, Scope


def place(spec: Spec, id: str) -> Scope:
    """The scope of a container; raises `InvalidArgument`, and `Unsupported` where no systemd runs."""
    require()
    return scope.named(spec.linux.cgroups_path if spec.linux is not None else "", id)


@contextlib.contextmanager
def made(spec: Spec, id: str, undo: contextlib.ExitStack) -> Iterator[Cgroup]:
    """The scope of a container and its cgroup, with limits; some process has to be in it when the context is left.

    A scope begins with processes and ends with the last one, and the container's first process is born in its cgroup.
    So until that is there, another one holds it. ``undo`` stops it.
    """
    wanted = place(spec, id)
    resources = (spec.linux.resources if spec.linux is not None else None) or Resources()
    with _holder() as pid:
        properties = [
            *scope.of_scope(wanted, id),
            ("PIDs", ("au", [pid])),
            *_limits(Cgroup(wanted.path, layout()), resources, new=True),
            *scope.annotated(spec.annotations),
        ]
        with Systemd() as systemd:
            systemd.start(wanted.unit, properties)
        undo.callback(_give_up, wanted.unit)
        cgroup = Cgroup.take(wanted.path, _with_holder(resources))
        yield cgroup
    if _limited(resources):
        cgroup.update(Resources(pids=resources.pids))


def update(cgroup: Cgroup, unit: str, resources: Resources) -> None:
    """Change limits of a container in ``unit``. After an error of the kernel's all is as before."""
    properties = _limits(cgroup, resources, new=False)  # before, as they depend on present values
    cgroup.update(resources)
    if properties:
        with Systemd() as systemd:
            systemd.set(unit, properties)


def stop(unit: str) -> None:
    """Have systemd end ``unit`` and forget it; fine if it is gone."""
    with Systemd() as systemd:
        systemd.stop(unit)


def _give_up(unit: str) -> None:
    with contextlib.suppress(CapsaError):
        stop(unit)


def _limits(cgroup: Cgroup, resources: Resources, *, new: bool) -> list[Property]:
    found = scope.of_settings(plan(resources, cgroup.layout, cgroup.read), cgroup.read)
    if new or resources.devices:
        rules = devices.effective(resources.devices)
        found += scope.of_devices(rules, v1=cgroup.layout.first("devices") is not None)
    return found


def _limited(resources: Resources) -> bool:
    return resources.pids is not None and (resources.pids.limit or 0) > 0


def _with_holder(resources: Resources) -> Resources:
    """With room for one more process."""
    if not _limited(resources):
        return resources
    assert resources.pids is not None and resources.pids.limit is not None
    return msgspec.structs.replace(resources, pids=Pids(limit=resources.pids.limit + 1))


@contextlib.contextmanager
def _holder() -> Iterator[int]:
    """A process that does nothing, and is gone once the context is left."""
    parent = os.getpid()
    try:
        pid = clone()
    except OSError as error:
        raise CapsaError(f"cannot make a process for the scope: {error.strerror}") from error
    if pid == 0:
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            while os.getppid() == parent:
                signal.pause()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
