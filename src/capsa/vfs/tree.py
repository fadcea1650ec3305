"""The file tree of a container as plain data: what is where, and how it may be used.

Nothing here knows a kernel: `capsa.vfs.linux` lowers a tree to mounts, a Genode platform to a ``vfs`` server.
Paths in ``Place.path``, ``masked`` and ``read_only`` are the container's; ``source``, ``layers``, ``upper``
are the host's.
"""

from __future__ import annotations

import msgspec


class Struct(msgspec.Struct, omit_defaults=True, frozen=True):
    """Base of all: immutable, defaults left out of the JSON."""


class Directory(Struct, frozen=True, tag_field="node", tag="directory"):
    """An existing directory of the host, used in place (OCI ``root.path``)."""

    source: str


class Image(Struct, frozen=True, tag_field="node", tag="image"):
    """A read-only union of image layers, lowest first, or its directory ``subdir``."""

    layers: tuple[str, ...]
    subdir: str = ""


class CopyOnWrite(Struct, frozen=True, tag_field="node", tag="cow"):
    """A union of image layers, lowest first, below a writable directory that takes all changes.

    ``work`` is scratch space on the same file system as ``upper``.
    """

    layers: tuple[str, ...]
    upper: str
    work: str


class Ram(Struct, frozen=True, tag_field="node", tag="ram"):
    """A file system in memory. ``size`` in bytes (None: no limit of its own), ``mode`` of its root.

    ``mode`` None: that of the directory which it covers, 0o1777 where there is none.
    ``copy_up``: begin with what the image has at that place.
    """

    size: int | None = None
    inodes: int | None = None
    mode: int | None = 0o1777
    uid: int = 0
    gid: int = 0
    copy_up: bool = False


class Bind(Struct, frozen=True, tag_field="node", tag="bind"):
    """A directory or a single file of the host (volumes, resolv.conf). ``recursive``: with what is mounted below.

    ``subdir``: only what is there in it; links on the way do not lead out of ``source``.
    """

    source: str
    recursive: bool = True
    subdir: str = ""


class Proc(Struct, frozen=True, tag_field="node", tag="proc"):
    """The process information tree."""


class Sys(Struct, frozen=True, tag_field="node", tag="sys"):
    """The system information tree."""


class Dev(Struct, frozen=True, tag_field="node", tag="dev"):
    """A device directory in memory; the default devices and those of ``Tree.devices`` appear in it."""

    size: int | None = None
    mode: int = 0o755


class Terminals(Struct, frozen=True, tag_field="node", tag="terminals"):
    """Pseudo-terminals private to the container."""

    gid: int | None = None
    mode: int = 0o620
    ptmx_mode: int = 0o666


class Queues(Struct, frozen=True, tag_field="node", tag="queues"):
    """POSIX message queues."""


class Budget(Struct, frozen=True, tag_field="node", tag="budget"):
    """The view of the container's own resource limits and use (on Linux: cgroup file systems)."""


class Native(Struct, frozen=True, tag_field="node", tag="native"):
    """Any other file system that the platform knows by name, with its own source and options."""

    type: str
    source: str = ""
    data: str = ""


class Again(Struct, frozen=True, tag_field="node", tag="again"):
    """Nothing new: what is at that place already, with another access."""


RootNode = Directory | Image | CopyOnWrite
Node = Directory | Image | CopyOnWrite | Ram | Bind | Proc | Sys | Dev | Terminals | Queues | Budget | Native | Again


class Access(Struct, frozen=True):
    """How a place may be used. ``recursive``: the refusals hold for everything mounted below, too.

    ``below`` names single fields whose values, refusal or permission, are set on everything mounted below.
    """

    write: bool = True
    execute: bool = True
    set_id: bool = True
    devices: bool = True
    follow_links: bool = True
    atime: str = ""
    sync: bool = False
    recursive: bool = False
    below: tuple[str, ...] = ()


class IDRange(Struct, frozen=True):
    """``size`` ids from ``inside`` on are seen there, ``outside`` on the host."""

    inside: int
    outside: int
    size: int


class Place(Struct, frozen=True):
    """One node at one path; places are set up in order, later ones on top.

    ``options`` are properties of the whole file system (``dirsync``, ``lazytime``) by the platform's own names.
    ``source`` is what lists of mounts call a file system without a device, if not by its type.
    """

    path: str
    node: Node
    access: Access = Access()
    propagation: str = ""
    uid_map: tuple[IDRange, ...] = ()
    gid_map: tuple[IDRange, ...] = ()
    id_map_recursive: bool = False
    options: tuple[str, ...] = ()
    source: str = ""


class DeviceNode(Struct, frozen=True):
    """A device, or a fifo, to be there. ``kind`` is one of ``c b p``."""

    path: str
    kind: str
    major: int = 0
    minor: int = 0
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


class Tree(Struct, frozen=True):
    """A container's whole file tree. ``propagation`` is that of the root (private, slave, shared, unbindable)."""

    root: RootNode
    root_writable: bool = True
    places: tuple[Place, ...] = ()
    devices: tuple[DeviceNode, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    masked: tuple[str, ...] = ()
    read_only: tuple[str, ...] = ()
    propagation: str = ""
