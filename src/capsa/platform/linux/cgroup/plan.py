"""From OCI ``Resources`` to settings, each controller in the version this machine has it in. Pure but for ``read``."""

from __future__ import annotations

from msgspec.structs import replace

from capsa.errors import Unsupported
from capsa.oci.runtime import Resources
from capsa.platform.linux.cgroup import v1, v2
from capsa.platform.linux.cgroup.hierarchy import Layout
from capsa.platform.linux.cgroup.setting import Setting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.platform.linux.cgroup.setting import Read


def plan(resources: Resources, layout: Layout, read: Read) -> list[Setting]:
    """All settings but devices, in the order to write them; ``read`` tells present values of v2 files.

    Raises `InvalidArgument` or `Unsupported`.
    """
    if resources.unified and layout.v2 is None:
        raise Unsupported("unified: cgroup v2 is not mounted (use the properties for the single controllers)")
    if layout.v2 is None or not layout.v2.controllers:
        settings = v1.settings(resources)
    elif not layout.v1:
        settings = v2.settings(resources, read)
    else:
        old, new = _split(resources, layout)
        settings = v1.settings(old) + v2.settings(new, read)
    return settings + v2.unified(resources) if resources.unified else settings


_FIELDS = {"memory": "memory", "pids": "pids", "block_io": "blkio", "rdma": "rdma"}


def _split(resources: Resources, layout: Layout) -> tuple[Resources, Resources]:
    """What goes to v1 (with all that nobody has, to be refused there) and what to v2."""
    old, new = replace(resources), Resources()
    for field, controller in _FIELDS.items():
        if _is_v2(layout, controller):
            setattr(new, field, getattr(old, field))
            setattr(old, field, getattr(Resources(), field))
    if _is_v2(layout, "hugetlb"):
        new.hugepage_limits, old.hugepage_limits = old.hugepage_limits, []
    if resources.cpu is not None:
        cpu = resources.cpu
        sets, shares = replace(cpu), replace(cpu, cpus="", mems="")
        for name in cpu.__struct_fields__:
            if name not in ("cpus", "mems"):
                setattr(sets, name, None)
        # cpu and cpuset are two controllers that may be in different hierarchies.
        old.cpu, new.cpu = None, None
        for part, controller in ((shares, "cpu"), (sets, "cpuset")):
            target = new if _is_v2(layout, controller) else old
            target.cpu = part if target.cpu is None else cpu
    return old, new


def _is_v2(layout: Layout, controller: str) -> bool:
    hierarchy = layout.where(controller)
    return hierarchy is not None and hierarchy.version == 2
