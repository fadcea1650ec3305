"""Which mounts of a container CRIU has to be told of, as they come from outside. Pure but for reading mountinfo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

# File systems that CRIU makes anew, with what is in them.
_OWN = frozenset({"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"})


# What a mount may be forbidden, as mountinfo writes it.
_RESTRICTIONS = ("ro", "nosuid", "nodev", "noexec")


class Mounted(msgspec.Struct, frozen=True):
    """A line of ``/proc/PID/mountinfo``: ``part`` is what of the file system is seen at ``point``.

    ``restrictions`` are those of ``ro``, ``nosuid``, ``nodev`` and ``noexec`` that it has.
    """

    id: int
    parent: int
    device: str
    part: str
    point: str
    kind: str
    restrictions: tuple[str, ...] = ()


def parse(mountinfo: str) -> list[Mounted]:
    """All mounts of a namespace (proc(5))."""
    found = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        id, parent, device, part, point, options = before.split(" ")[:6]
        restrictions = tuple(word for word in _RESTRICTIONS if word in options.split(","))
        kind = after.split(" ")[0]
        found.append(Mounted(int(id), int(parent), device, _plain(part), _plain(point), kind, restrictions))
    return found


def _plain(text: str) -> str:
    r"""Undo ``\040`` for a space and its like."""
    parts = text.split("\\")
    return parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])


def root(mounts: Sequence[Mounted]) -> Mounted:
    """The root of the namespace, the topmost one."""
    return [mount for mount in mounts if mount.point == "/"][-1]


def external(mounts: Sequence[Mounted], bound: Sequence[str]) -> list[str]:
    """Where those are that CRIU cannot make by itself; ``bound`` are the places of bind mounts."""
    top = root(mounts)
    whole = {mount.device for mount in mounts if mount.part == "/" and mount.kind in _OWN}
    found = []
    for mount in mounts:
        if mount.point == "/":
            continue
        outside = mount.kind not in _OWN or (mount.part != "/" and mount.device not in whole)
        # What stands on the root file system itself, though mounted on its own, CRIU sees as a part of it.
        within = mount.device == top.device and (mount.part + "/").startswith(top.part.rstrip("/") + "/")
        if _below(mount.point, bound) or (outside and not within):
            found.append(mount.point)
    return list(dict.fromkeys(found))


def _below(point: str, places: Sequence[str]) -> bool:
    return any(point == place or point.startswith(f"{place.rstrip('/')}/") for place in places)


def on_root(mounts: Sequence[Mounted]) -> list[str]:
    """Where something is mounted on the root file system: such places have to be there before CRIU begins."""
    top = root(mounts)
    return [mount.point for mount in mounts if mount.parent == top.id and mount.point != "/"]


def restrictions(mounts: Sequence[Mounted]) -> dict[str, tuple[str, ...]]:
    """What each place forbids; of several mounts at one place the topmost counts."""
    return {mount.point: mount.restrictions for mount in mounts}


def lost(before: Mapping[str, Sequence[str]], now: Sequence[Mounted]) -> dict[str, list[str]]:
    """What places forbade ``before`` and do not forbid ``now``."""
    have = restrictions(now)
    found = {
        point: [word for word in _RESTRICTIONS if word in words and word not in have.get(point, words)]
        for point, words in before.items()
    }
    return {point: words for point, words in found.items() if words}
