"""From an OCI specification to a VFS tree: what is to be where in the container (config.md, Mounts; config-linux.md,
Default Filesystems, Devices, Masked Paths, Readonly Paths, Rootfs Mount Propagation). Pure: no file is looked at.
"""

from __future__ import annotations

import posixpath

from capsa.errors import InvalidArgument
from capsa.oci.runtime import Device, IDMapping, Linux, Mount, Spec
from capsa.vfs import options
from capsa.vfs.tree import (
    Again,
    Bind,
    Budget,
    Dev,
    DeviceNode,
    Directory,
    IDRange,
    Image,
    Native,
    Node,
    Place,
    Proc,
    Queues,
    Ram,
    RootNode,
    Sys,
    Terminals,
    Tree,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Warn = Callable[[str], None]

DEFAULT_DEVICES: tuple[DeviceNode, ...] = (
    DeviceNode(path="/dev/null", kind="c", major=1, minor=3),
    DeviceNode(path="/dev/zero", kind="c", major=1, minor=5),
    DeviceNode(path="/dev/full", kind="c", major=1, minor=7),
    DeviceNode(path="/dev/random", kind="c", major=1, minor=8),
    DeviceNode(path="/dev/urandom", kind="c", major=1, minor=9),
    DeviceNode(path="/dev/tty", kind="c", major=5, minor=0),
)
DEFAULT_LINKS: tuple[tuple[str, str], ...] = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)
#: File systems that have no device: what their mounts are called if the specification gives no name.
_KINDS: dict[type, str] = {
    Proc: "proc",
    Sys: "sysfs",
    Queues: "mqueue",
    Terminals: "devpts",
    Dev: "tmpfs",
    Ram: "tmpfs",
}
PTMX_LINK = ("/dev/ptmx", "pts/ptmx")

PROPAGATIONS = frozenset(prefix + kind for prefix in ("", "r") for kind in ("private", "shared", "slave", "unbindable"))


def tree(spec: Spec, root: RootNode | None = None, *, bundle: str = "", warn: Warn | None = None) -> Tree:
    """The tree that ``spec`` describes; ``root`` replaces its ``root.path``.

    Relative host paths in the specification start at the directory ``bundle``. Raises `InvalidArgument` that names the
    mount and the option. ``warn`` is told instead of options that have no effect on a bind mount.
    """
    if root is None:
        if spec.root is None:
            raise InvalidArgument("the specification has no root: name the root file system in root.path")
        root = Directory(source=posixpath.join(bundle, spec.root.path))
    linux = spec.linux or Linux()
    places = tuple(_place(mount, bundle, warn) for mount in spec.mounts)
    if linux.rootfs_propagation not in PROPAGATIONS | {""}:
        raise InvalidArgument(f"unknown rootfsPropagation {linux.rootfs_propagation!r}: use shared, slave or private")
    own_devices = not any(place.path == "/dev" and isinstance(place.node, Bind) for place in places)
    devices = _devices(linux.devices, with_defaults=own_devices)
    links: tuple[tuple[str, str], ...] = ()
    if own_devices:
        links = DEFAULT_LINKS
        if any(place.path == "/dev/pts" for place in places):
            links += (PTMX_LINK,)
    return Tree(
        root=root,
        root_writable=not (spec.root is not None and spec.root.readonly),
        places=places,
        devices=devices,
        links=links,
        masked=tuple(_absolute(path) for path in linux.masked_paths),
        read_only=tuple(_absolute(path) for path in linux.readonly_paths),
        propagation=linux.rootfs_propagation,
    )


def _absolute(path: str) -> str:
    """``path`` from the root, without dots and double slashes."""
    return "/" + posixpath.normpath("/" + path).lstrip("/")


def _place(mount: Mount, bundle: str, warn: Warn | None) -> Place:
    if not mount.destination:
        raise InvalidArgument("a mount has no destination")
    if "\0" in mount.destination + mount.source:
        raise InvalidArgument(f"the mount at {mount.destination!r} has a zero byte in a path")
    path = _absolute(mount.destination)
    if path == "/":
        raise InvalidArgument("a mount on / would replace the root file system: change root instead")
    parsed = options.parse(path, mount.options)
    node = _node(path, mount, parsed, bundle)
    if warn is not None and isinstance(node, Bind) and (idle := [*parsed.data, *parsed.options]):
        warn(f"left out options that have no effect on the bind mount at {path}: {', '.join(idle)}")
        parsed.data, parsed.options = {}, ()
    if parsed.data:
        word = next(iter(parsed.data))
        raise InvalidArgument(f"unknown option {word!r} of the mount at {path}")
    if parsed.subdir and not isinstance(node, Bind | Image):
        raise InvalidArgument(f"X-mount.subdir of the mount at {path} is for bind mounts and overlays of layers only")
    if parsed.copy_up and not isinstance(node, Ram):
        raise InvalidArgument(f"tmpcopyup of the mount at {path} is for type tmpfs only")
    if parsed.options and isinstance(node, Bind | Budget | Again):
        raise InvalidArgument(f"option {parsed.options[0]!r} of the mount at {path} needs a file system of its own")
    uid_map, gid_map = _ranges(mount.uid_mappings), _ranges(mount.gid_mappings)
    if (uid_map or gid_map or parsed.id_map) and not isinstance(node, Bind):
        raise InvalidArgument(f"id mappings of the mount at {path} are for bind mounts only")
    if bool(uid_map) != bool(gid_map):
        raise InvalidArgument(f"the mount at {path} needs both uidMappings and gidMappings, or none")
    if parsed.id_map and not uid_map:
        raise InvalidArgument(f"the mount at {path} has the option {parsed.id_map}, but no uidMappings and gidMappings")
    return Place(
        path=path,
        node=node,
        access=parsed.access,
        propagation=parsed.propagation,
        uid_map=uid_map,
        gid_map=gid_map,
        id_map_recursive=parsed.id_map == "ridmap",
        options=parsed.options,
        source="" if mount.source == _KINDS.get(type(node)) or type(node) not in _KINDS else mount.source,
    )


def _ranges(mappings: list[IDMapping]) -> tuple[IDRange, ...]:
    return tuple(IDRange(inside=m.container_id, outside=m.host_id, size=m.size) for m in mappings)


def _node(path: str, mount: Mount, parsed: options.Parsed, bundle: str) -> Node:
    """The node for ``mount``; takes those words out of ``parsed.data`` that it understands."""
    data = parsed.data
    if parsed.again:
        return Again()
    if parsed.bind or mount.type == "bind":
        if not mount.source:
            raise InvalidArgument(f"the bind mount at {path} has no source")
        return Bind(source=posixpath.join(bundle, mount.source), recursive=parsed.bind == "rbind", subdir=parsed.subdir)
    match mount.type:
        case "":
            raise InvalidArgument(f"the mount at {path} has no type: name a file system, or the option bind or rbind")
        case "proc" if not data:
            return Proc()
        case "sysfs" if not data:
            return Sys()
        case "overlay" if data.keys() == {"lowerdir"}:
            import re  # hardly ever needed, and not cheap

            layers = re.split(r"(?<!\\):", data.pop("lowerdir"))[::-1]
            return Image(layers=tuple(layer.replace("\\:", ":") for layer in layers), subdir=parsed.subdir)
        case "mqueue" if not data:
            return Queues()
        case "cgroup" | "cgroup2" if not data:
            return Budget()
        case "devpts" if not data.keys() - {"newinstance", "ptmxmode", "mode", "gid"}:
            data.pop("newinstance", None)
            return Terminals(
                gid=options.number(path, data, "gid"),
                mode=_or(options.octal(path, data, "mode"), 0o620),
                ptmx_mode=_or(options.octal(path, data, "ptmxmode"), 0o666),
            )
        case "tmpfs" if parsed.copy_up or not data.keys() - {"size", "nr_inodes", "mode", "uid", "gid"}:
            return _ram(path, parsed)
    native = Native(type=mount.type, source=mount.source, data=options.join(data))
    data.clear()
    return native


def _ram(path: str, parsed: options.Parsed) -> Node:
    data = parsed.data
    size = data.get("size", "")
    if size.endswith("%") and not parsed.copy_up:
        native = Native(type="tmpfs", source="tmpfs", data=options.join(data))
        data.clear()
        return native
    mode = options.octal(path, data, "mode")
    if path == "/dev" and not parsed.copy_up and not data.keys() - {"size"}:
        return Dev(size=options.size(path, data, "size"), mode=_or(mode, 0o755))
    return Ram(
        size=options.size(path, data, "size"),
        inodes=options.size(path, data, "nr_inodes"),
        mode=mode,
        uid=_or(options.number(path, data, "uid"), 0),
        gid=_or(options.number(path, data, "gid"), 0),
        copy_up=parsed.copy_up,
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _devices(extra: list[Device], *, with_defaults: bool) -> tuple[DeviceNode, ...]:
    """The default devices, then those of the specification; the latter win at the same path."""
    found = {device.path: device for device in DEFAULT_DEVICES} if with_defaults else {}
    for device in extra:
        path = _absolute(device.path)
        if path == "/":
            raise InvalidArgument("a device needs a path of its own, not /")
        found[path] = DeviceNode(
            path=path,
            kind="c" if device.type == "u" else device.type,
            major=device.major,
            minor=device.minor,
            mode=0o666 if device.file_mode is None else device.file_mode & 0o7777,
            uid=device.uid or 0,
            gid=device.gid or 0,
        )
    return tuple(found.values())
