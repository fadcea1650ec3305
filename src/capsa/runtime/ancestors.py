"""The cgroups above a container's that were made for it: they are the container's, too, and go with it.

runtime.md, Delete: what was created by ``create`` is deleted, what was there before is not.
"""

from __future__ import annotations

from capsa.platform.linux.cgroup import Cgroup, layout, remove_parent


def missing(path: str) -> str:
    """The topmost cgroup above ``path`` that is not there yet; empty if all are."""
    found = layout()
    return next((above for above in reversed(_above(path)) if not Cgroup(above, found).exists()), "")


def remove(path: str, top: str) -> None:
    """Remove the cgroups above ``path`` from the bottom up to ``top``, as far as they are empty."""
    for above in _above(path):
        if top and (above == top or above.startswith(f"{top}/")):
            remove_parent(above)


def _above(path: str) -> list[str]:
    """``/a/b`` and ``/a`` for ``/a/b/c``."""
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:length]) for length in range(len(parts) - 1, 0, -1)]
