"""Control groups v1, hybrid and v2: what a container may use, and its processes as one.

OCI runtime-spec, config-linux.md, Control groups. `Cgroup` is one container's. Everything else in here computes what
it writes: `hierarchy` finds where they are mounted, `v1` and `v2` turn OCI resources into settings, `devices` turns
device rules into v1 lines or an eBPF program.
"""

from capsa.platform.linux.cgroup.group import Cgroup, Entry, Mount, normalised, prime, remove_parent
from capsa.platform.linux.cgroup.hierarchy import Hierarchy, Layout, layout

__all__ = ["Cgroup", "Entry", "Hierarchy", "Layout", "Mount", "layout", "normalised", "prime", "remove_parent"]
