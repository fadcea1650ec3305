"""From a VFS tree to what Linux has to do for it, as plain data: a list of steps, in order.

`capsa.platform.linux.rootfs` executes them. Paths in ``path`` are the container's, all others are the host's. Those of
`LATE` (masks, read-only places, the root's own flags) come after the hooks, which may still change the tree.
"""

from __future__ import annotations

import msgspec

from capsa.errors import InvalidArgument
from capsa.sys import mount
from capsa.vfs.tree import (
    Access,
    Again,
    Bind,
    Budget,
    CopyOnWrite,
    Dev,
    DeviceNode,
    Directory,
    IDRange,
    Image,
    Native,
    Place,
    Proc,
    Queues,
    Ram,
    RootNode,
    Sys,
    Terminals,
    Tree,
)

LAYERS_PER_MOUNT = 500
"""How many layers overlayfs takes (OVL_MAX_STACK); a mount of others' merged layers may lie below once."""

_REFUSALS = {
    "write": mount.ATTR_RDONLY,
    "set_id": mount.ATTR_NOSUID,
    "devices": mount.ATTR_NODEV,
    "execute": mount.ATTR_NOEXEC,
    "follow_links": mount.ATTR_NOSYMFOLLOW,
}
_ATIME = {
    "noatime": mount.ATTR_NOATIME,
    "strictatime": mount.ATTR_STRICTATIME,
    "relatime": mount.ATTR_RELATIME,
    "nodiratime": mount.ATTR_NODIRATIME,
}
_PROPAGATION = {
    "private": mount.MS_PRIVATE,
    "shared": mount.MS_SHARED,
    "slave": mount.MS_SLAVE,
    "unbindable": mount.MS_UNBINDABLE,
}


class Struct(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of all: immutable."""


class Change(Struct, frozen=True):
    """Attributes (``ATTR_…``) to set and to clear on a mount; ``deep_…`` on all mounts below as well."""

    set: int = 0
    clear: int = 0
    deep_set: int = 0
    deep_clear: int = 0
    propagation: int = 0
    deep_propagation: int = 0

    def __bool__(self) -> bool:
        return self != _NO_CHANGE


_NO_CHANGE = Change()


class Take(Struct, frozen=True):
    """Use the host's directory ``source``, with what is mounted below it, as the root."""

    source: str

    def title(self) -> str:
        return f"use {self.source} as the root file system"


class Union(Struct, frozen=True):
    """Use an overlay as the root: ``chains`` from the bottom up, each a list of layers, lowest first.

    A chain but the first has the merged one before it below its own layers. Without ``upper`` it is read-only.
    """

    chains: tuple[tuple[str, ...], ...]
    upper: str = ""
    work: str = ""

    def title(self) -> str:
        count = sum(map(len, self.chains))
        return (
            f"mount the {count} layers of the root file system" if count > 1 else "mount the root file system's layer"
        )


class Make(Struct, frozen=True):
    """Mount a new file system of type ``kind``.

    ``exact``: the path may not lead through symbolic links. ``keep_mode``: its root gets the permission bits of what it
    covers. ``copy_up``: begin with what is there.
    """

    path: str
    kind: str
    source: str = ""
    options: tuple[tuple[str, str], ...] = ()
    attributes: int = 0
    change: Change = _NO_CHANGE
    exact: bool = False
    keep_mode: bool = False
    copy_up: bool = False

    def title(self) -> str:
        return f"mount {self.kind} at {self.path}"


class Attach(Struct, frozen=True):
    """Bind the host's ``source`` at ``path``, or the directory ``subdir`` in it."""

    path: str
    source: str
    recursive: bool = False
    change: Change = _NO_CHANGE
    uid_map: tuple[IDRange, ...] = ()
    gid_map: tuple[IDRange, ...] = ()
    id_map_recursive: bool = False
    subdir: str = ""

    @property
    def early(self) -> bool:
        """Whether it has to stay in the host's peer group, so must be taken before that is left."""
        return bool((self.change.propagation | self.change.deep_propagation) & mount.MS_SHARED)

    def title(self) -> str:
        return f"mount {self.source} at {self.path}"


class Stack(Struct, frozen=True):
    """Mount layers on each other, read-only, at ``path``; ``chains`` as in `Union`, ``subdir`` as in `Attach`."""

    path: str
    chains: tuple[tuple[str, ...], ...]
    change: Change = _NO_CHANGE
    subdir: str = ""

    def title(self) -> str:
        return f"mount {self.subdir or 'the layers'} of an image at {self.path}"


class Groups(Struct, frozen=True):
    """Show the container's own cgroups at ``path``."""

    path: str
    change: Change = _NO_CHANGE

    def title(self) -> str:
        return f"mount the cgroups at {self.path}"


class Alter(Struct, frozen=True):
    """Change the attributes of what is mounted at ``path``."""

    path: str
    change: Change

    def title(self) -> str:
        return f"change the mount at {self.path}"


class Device(Struct, frozen=True):
    """Make a device node."""

    device: DeviceNode

    def title(self) -> str:
        return f"make the device {self.device.path}"


class Link(Struct, frozen=True):
    """Make a symbolic link, unless something is there."""

    path: str
    target: str

    def title(self) -> str:
        return f"make the link {self.path}"


class Freeze(Struct, frozen=True):
    """Make a file system of memory read-only, now that its mount points and devices are there."""

    path: str

    def title(self) -> str:
        return f"make {self.path} read-only"


class Mask(Struct, frozen=True):
    """Hide ``path``, if it is there."""

    path: str

    def title(self) -> str:
        return f"mask {self.path}"


class Protect(Struct, frozen=True):
    """Make ``path``, if it is there, read-only."""

    path: str

    def title(self) -> str:
        return f"make {self.path} read-only"


class Seal(Struct, frozen=True):
    """Make the root read-only."""

    def title(self) -> str:
        return "make the root file system read-only"


class Propagate(Struct, frozen=True):
    """Set the root's propagation; with ``recursive`` that of all below, too."""

    propagation: int
    recursive: bool

    def title(self) -> str:
        return "set the propagation of the root file system"


Step = (
    Take | Union | Make | Attach | Stack | Groups | Alter | Device | Link | Freeze | Mask | Protect | Seal | Propagate
)
LATE = (Freeze, Mask, Protect, Seal, Propagate)


def lower(tree: Tree) -> list[Step]:
    """The steps that build ``tree``, the root first; raises `InvalidArgument` for what Linux cannot do."""
    steps: list[Step] = [_root(tree.root)]
    late: list[Step] = []
    for place in tree.places:
        step = _place(place)
        steps.append(step)
        if isinstance(place.node, Ram | Dev) and not place.access.write:
            late.append(Freeze(path=place.path))
    steps += [Device(device=device) for device in tree.devices]
    steps += [Link(path=path, target=target) for path, target in tree.links]
    late += [Protect(path=path) for path in tree.read_only]
    late += [Mask(path=path) for path in tree.masked]
    if not tree.root_writable or isinstance(tree.root, Image):
        late.append(Seal())
    if tree.propagation:
        flag, recursive = _propagation(tree.propagation)
        late.append(Propagate(propagation=flag, recursive=recursive))
    return steps + late


def _root(node: RootNode) -> Take | Union:
    if isinstance(node, Directory):
        return Take(source=node.source)
    if isinstance(node, Image):
        if len(node.layers) == 1:
            return Take(source=node.layers[0])
        return Union(chains=chains(node.layers))
    if not node.layers:
        return Take(source=node.upper)
    return Union(chains=chains(node.layers), upper=node.upper, work=node.work)


def chains(layers: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Split ``layers`` (lowest first) so that each part, with the merged one below it, fits into one overlay."""
    if not layers:
        raise InvalidArgument("the image has no layers to read")
    if len(layers) <= LAYERS_PER_MOUNT:
        return (layers,)
    most = 2 * LAYERS_PER_MOUNT - 1
    if len(layers) > most:
        raise InvalidArgument(f"an image of {len(layers)} layers is too deep for overlayfs: {most} is the most")
    return (layers[:LAYERS_PER_MOUNT], layers[LAYERS_PER_MOUNT:])


def _place(place: Place) -> Step:
    node, path, access = place.node, place.path, place.access
    change = _change(place)
    if isinstance(node, Again):
        explicit = (change.set, sum(_REFUSALS.values()) & ~change.set)
        return Alter(
            path=path, change=msgspec.structs.replace(change, set=explicit[0], clear=change.clear | explicit[1])
        )
    if isinstance(node, Budget):
        return Groups(path=path, change=change)
    if isinstance(node, Image) and len(node.layers) > 1:
        return Stack(path=path, chains=chains(node.layers), change=change, subdir=node.subdir)
    if isinstance(node, Image):
        return Attach(path=path, source=node.layers[0], change=change, subdir=node.subdir)
    if isinstance(node, Bind | Directory):
        recursive = isinstance(node, Directory) or node.recursive
        return Attach(
            path=path,
            source=node.source,
            recursive=recursive,
            change=change,
            uid_map=place.uid_map,
            gid_map=place.gid_map,
            id_map_recursive=place.id_map_recursive,
            subdir=node.subdir if isinstance(node, Bind) else "",
        )
    if isinstance(node, CopyOnWrite):
        raise InvalidArgument(f"writable layers can be mounted as the root only, not at {path}")
    return _make(place, _attributes(access), change)


def _make(place: Place, attributes: int, change: Change) -> Make:
    """The step for a node that is a file system of its own; its attributes are set at once."""
    node, path = place.node, place.path
    whole = tuple((option, "") for option in place.options)
    if place.access.sync:
        whole += (("sync", ""),)
    own = Change(propagation=change.propagation, deep_propagation=change.deep_propagation)
    writable = attributes & ~mount.ATTR_RDONLY
    if isinstance(node, Ram):
        found = [("mode", f"{node.mode:04o}")] if node.mode is not None else []
        found += [("size", str(node.size))] if node.size is not None else []
        found += [("nr_inodes", str(node.inodes))] if node.inodes is not None else []
        found += [("uid", str(node.uid))] if node.uid else []
        found += [("gid", str(node.gid))] if node.gid else []
        return Make(
            path=path,
            kind="tmpfs",
            source=place.source or "tmpfs",
            options=tuple(found) + whole,
            attributes=writable,
            change=own,
            keep_mode=node.mode is None,
            copy_up=node.copy_up,
        )
    if isinstance(node, Dev):
        found = [("mode", f"{node.mode:04o}")]
        found += [("size", str(node.size))] if node.size is not None else []
        source = place.source or "tmpfs"
        return Make(
            path=path, kind="tmpfs", source=source, options=tuple(found) + whole, attributes=writable, change=own
        )
    if isinstance(node, Terminals):
        found = [("newinstance", ""), ("ptmxmode", f"{node.ptmx_mode:04o}"), ("mode", f"{node.mode:04o}")]
        found += [("gid", str(node.gid))] if node.gid is not None else []
        source = place.source or "devpts"
        return Make(
            path=path, kind="devpts", source=source, options=tuple(found) + whole, attributes=attributes, change=own
        )
    if isinstance(node, Native):
        pairs = tuple((key, value) for key, _, value in (word.partition("=") for word in node.data.split(",") if word))
        return Make(
            path=path,
            kind=node.type,
            source=node.source,
            options=pairs + whole,
            attributes=attributes,
            change=own,
            exact=node.type in ("proc", "sysfs"),
        )
    kinds = {Proc: "proc", Sys: "sysfs", Queues: "mqueue"}
    kind = kinds[type(node)]
    return Make(
        path=path,
        kind=kind,
        source=place.source or kind,
        options=whole,
        attributes=attributes,
        change=own,
        exact=kind != "mqueue",
    )


def _attributes(access: Access) -> int:
    """The attributes of a new mount."""
    attributes = _refusals(access)
    for word in filter(None, access.atime.split(",")):
        attributes |= _ATIME[word]
    return attributes


def _refusals(access: Access) -> int:
    return sum(flag for field, flag in _REFUSALS.items() if not getattr(access, field))


def _change(place: Place) -> Change:
    """What has to change on a mount that came with attributes of its own."""
    access = place.access
    set_ = _attributes(access)
    clear = 0
    if access.atime:
        clear |= mount.ATTR_ATIME if set(access.atime.split(",")) - {"nodiratime"} else 0
        clear |= 0 if "nodiratime" in access.atime else mount.ATTR_NODIRATIME
    deep_set = set_ if access.recursive else 0
    deep_clear = clear if access.recursive else 0
    for field in access.below:
        if field == "atime":
            deep_set |= set_ & (mount.ATTR_ATIME | mount.ATTR_NODIRATIME)
            deep_clear |= clear
        elif field in _REFUSALS:
            flag = _REFUSALS[field]
            deep_set |= set_ & flag
            deep_clear |= flag & ~set_
    propagation, recursive = _propagation(place.propagation) if place.propagation else (0, False)
    return Change(
        set=set_ & ~deep_set,
        clear=clear & ~deep_clear,
        deep_set=deep_set,
        deep_clear=deep_clear,
        propagation=0 if recursive else propagation,
        deep_propagation=propagation if recursive else 0,
    )


def _propagation(word: str) -> tuple[int, bool]:
    """``rprivate`` and its like as a flag, and whether it holds for all below."""
    recursive = word not in _PROPAGATION
    return _PROPAGATION[word[1:] if recursive else word], recursive
