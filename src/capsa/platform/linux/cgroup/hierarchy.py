"""Where this machine's cgroup hierarchies are: pure v1, hybrid (v1 controllers beside an almost empty v2), pure v2.

Read from ``/proc/self/mountinfo`` and ``/proc/self/cgroup`` (cgroups(7), proc(5)) once in a process: who forks
often calls `layout` before the first fork.
"""

from __future__ import annotations

from capsa.errors import Unsupported

# Controllers that a container joins even without a limit: for accounting, a fair share, and device rules.
# The others cost time at each start and do nothing until something is asked of them.
ALWAYS = frozenset({"blkio", "cpu", "cpuacct", "devices", "io", "memory", "pids"})


class Hierarchy:
    """One mounted hierarchy.

    ``controllers`` are those it is mounted with (v1), or those it could enable below its root (v2). ``name`` is that
    of a v1 hierarchy without controllers (``systemd``). ``own`` is the cgroup of this process in it (``/``: its root).
    """

    __slots__ = ("controllers", "mount", "name", "own", "version")

    def __init__(self, version: int, mount: str, controllers: tuple[str, ...], name: str = "", own: str = "/") -> None:
        self.version = version
        self.mount = mount
        self.controllers = controllers
        self.name = name
        self.own = own

    @property
    def core(self) -> bool:
        """Whether every container is in it."""
        return self.version == 2 or not ALWAYS.isdisjoint(self.controllers)

    @property
    def joined(self) -> bool:
        """Whether a new container joins it.

        Beyond the core: where somebody keeps this process in a cgroup, which he may kill, freeze or want to remove,
        and of which a container is no part (a service manager with ``name=systemd``, podman with its conmon).
        """
        return self.core or self.own != "/"


class Layout:
    """All hierarchies, v1 first; ``v2`` is the unified one, where there is one."""

    __slots__ = ("all", "v1", "v2")

    def __init__(self, v1: tuple[Hierarchy, ...] = (), v2: Hierarchy | None = None) -> None:
        self.v1 = v1
        self.v2 = v2
        self.all = (*v1, v2) if v2 is not None else v1

    def first(self, controller: str) -> Hierarchy | None:
        """The v1 hierarchy of a controller."""
        for hierarchy in self.v1:
            if controller in hierarchy.controllers:
                return hierarchy
        return None

    def where(self, controller: str) -> Hierarchy | None:
        """The hierarchy that has ``controller``: a controller is in one only. v1's ``blkio`` is v2's ``io``."""
        found = self.first("blkio" if controller == "io" else controller)
        if (
            found is None
            and self.v2 is not None
            and ("io" if controller == "blkio" else controller) in self.v2.controllers
        ):
            return self.v2
        return found


_cached: Layout | None = None


def layout() -> Layout:
    """The hierarchies of this machine, read at the first call; raises `Unsupported` where there are none."""
    global _cached
    if _cached is None:
        found = parse(_text("/proc/self/mountinfo"), _text("/proc/self/cgroup"))
        if found.v2 is not None:
            found.v2.controllers = tuple(_text(f"{found.v2.mount}/cgroup.controllers").split())
        if not found.all:
            raise Unsupported("no cgroup hierarchy is mounted (mount cgroup2 at /sys/fs/cgroup)")
        _cached = found
    return _cached


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def parse(mountinfo: str, cgroup: str) -> Layout:
    """The layout that the contents of ``/proc/self/mountinfo`` and ``/proc/self/cgroup`` describe.

    The controllers of v2 are not in there and stay empty.
    """
    own: dict[str, str] = {}
    for line in cgroup.splitlines():
        _, controllers, path = line.split(":", 2)
        own[controllers] = path
    v1: dict[frozenset[str], Hierarchy] = {}
    v2: Hierarchy | None = None
    partial: set[str] = set()  # mount points that show a part of their hierarchy only
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fstype, _, options = after.split(" ", 2)
        if fstype not in ("cgroup", "cgroup2"):
            continue
        root, mount = (_unescape(field) for field in before.split(" ")[3:5])
        if root != "/":
            partial.add(mount)
        if fstype == "cgroup2":
            if v2 is None or (v2.mount in partial and root == "/"):
                v2 = Hierarchy(2, mount, (), own=_below(root, own.get("", "/")))
            continue
        words = options.rsplit(" ", 1)[-1].split(",")
        for controllers, path in own.items():
            names = controllers.split(",")
            if controllers and all(name in words for name in names):
                key = frozenset(names)
                if key in v1 and not (v1[key].mount in partial and root == "/"):
                    break
                label = controllers[5:] if controllers.startswith("name=") else ""
                v1[key] = Hierarchy(1, mount, () if label else tuple(names), label, _below(root, path))
                break
    return Layout(tuple(v1.values()), v2)


def _unescape(field: str) -> str:
    r"""Undo mountinfo's ``\040`` for a space and its like."""
    parts = field.split("\\")
    return parts[0] + "".join(chr(int(part[:3], 8)) + part[3:] for part in parts[1:])


def _below(root: str, path: str) -> str:
    """A path of ``/proc/self/cgroup`` as seen under a mount that shows the hierarchy from ``root`` on."""
    if root == "/":
        return path
    if path == root or path.startswith(root + "/"):
        return path[len(root) :] or "/"
    return "/"
