"""Mounts of a container: what was asked for (``-v``, ``--mount``, ``--tmpfs``, VOLUMEs) resolved to `MountPoint`s."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from capsa.engine.config import Config, HostConfig, Mount, VolumeOptions
from capsa.engine.container import Container, MountPoint
from capsa.engine.names import check_volume
from capsa.engine.validation import absolute
from capsa.engine.volumes import Volumes
from capsa.errors import CapsaError, InvalidArgument, NotFound, reason

_PROPAGATIONS = ("private", "rprivate", "shared", "rshared", "slave", "rslave")
_TMPFS = ("noexec", "nosuid", "nodev")
_OPPOSITE = {"exec": "noexec", "suid": "nosuid", "dev": "nodev", "rw": "ro"}
_OPPOSITE |= {value: key for key, value in _OPPOSITE.items()}
_TMPFS_FLAGS = frozenset(
    [
        "ro",
        "rw",
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "sync",
        "async",
        "dirsync",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
    ]
)
_TMPFS_VALUES = frozenset({"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"})


def resolve(
    config: Config, host: HostConfig, volumes: Volumes, find: Callable[[str], Container], image: Callable[[str], str]
) -> tuple[list[MountPoint], list[str]]:
    """All mounts of a container, and the names of the volumes that were made for it; ``image`` finds an image's id.

    A destination given twice is an error; the image's VOLUMEs yield to everything else. Raises what is wrong; made
    volumes are removed then.
    """
    made: list[str] = []
    points: dict[str, MountPoint] = {}

    def volume(point: MountPoint, given: VolumeOptions | None) -> None:
        if host.volume_driver not in ("", "local") and not point.from_mounts:
            raise NotFound(
                f'error looking up volume plugin {host.volume_driver}: plugin "{host.volume_driver}" not found'
            )
        driver = given.driver_config if given is not None else None
        found, new = volumes.create(
            point.name,
            labels=given.labels if given is not None else None,
            options=driver.options if driver is not None else None,
            driver=driver.name if driver is not None else "",
            anonymous=point.anonymous,
        )
        if new:
            made.append(found.name)
        point.name = found.name
        point.driver = "local"
        point.source = str(volumes.path(found.name))

    def add(point: MountPoint, *, yields: bool = False) -> bool:
        if point.destination in points:
            if yields:
                return False
            raise InvalidArgument(f"Duplicate mount point: {point.destination}")
        points[point.destination] = point
        return True

    try:
        inherited = _inherited(host.volumes_from, find)
        for text in host.binds:
            add(_bind(text))
        for item in host.mounts:
            add(_from_mount(item, image))
        for path, options in host.tmpfs.items():
            add(_tmpfs(path, options))
        for point in inherited:
            add(point, yields=True)
        for path in config.volumes:
            destination = absolute(path, "invalid mount path: {0!r} mount path must be absolute")
            if destination == "/":
                raise InvalidArgument("invalid volume specification: destination can't be '/'")
            add(MountPoint(type="volume", destination=destination, anonymous=True, copy=True), yields=True)
        given = {absolute(item.target, ""): item.volume_options for item in host.mounts}
        for point in points.values():
            if point.type == "volume" and not point.source:
                volume(point, given.get(point.destination))
            elif point.type == "bind" and not point.from_mounts:
                _make_source(point.source)
    except BaseException:
        for name in made:
            volumes.remove(name, force=True)
        raise
    return list(points.values()), made


def _inherited(references: Sequence[str], find: Callable[[str], Container]) -> list[MountPoint]:
    found = []
    for text in references:
        reference, _colon, mode = text.partition(":")
        modes = mode.split(",") if mode else []
        if len(modes) != len(set(modes)) or set(modes) - {"ro", "rw", "z", "Z"} or {"ro", "rw"} <= set(modes):
            raise InvalidArgument(f"invalid mode: {mode}")
        for point in find(reference).document.mounts:
            if point.type == "tmpfs":
                continue
            found.append(
                MountPoint(
                    type=point.type,
                    destination=point.destination,
                    source=point.source,
                    name=point.name,
                    driver=point.driver,
                    mode=mode or point.mode,
                    writable=point.writable and "ro" not in modes,
                    propagation=point.propagation,
                    options=list(point.options),
                    subpath=point.subpath,
                    from_mounts=True,
                )
            )
    return found


def _bind(text: str) -> MountPoint:
    parts = text.split(":")
    if len(parts) == 1:
        parts = ["", *parts]
    if len(parts) > 3 or not parts[1]:
        raise InvalidArgument(f"invalid volume specification: '{text}'")
    source, target = parts[0], parts[1]
    if not target.startswith("/"):
        raise InvalidArgument(
            f"invalid volume specification: '{text}': invalid mount path: '{target}' mount path must be absolute"
        )
    destination = absolute(target, "")
    if destination == "/":
        raise InvalidArgument(f"invalid volume specification: '{text}': destination can't be '/'")
    modes = [mode for mode in (parts[2] if len(parts) == 3 else "").split(",") if mode]
    point = MountPoint(type="bind", destination=destination, mode=",".join(modes))
    if source.startswith("/"):
        point.source = absolute(source, "")
    else:
        point.type = "volume"
        point.copy = True
        if source:
            check_volume(source)
            point.name = source
        else:
            point.anonymous = True
    for mode in modes:
        if mode in ("ro", "rw"):
            point.writable = mode == "rw"
        elif mode == "nocopy" and point.type == "volume":
            point.copy = False
        elif mode in _PROPAGATIONS and point.type == "bind":
            point.propagation = mode
        elif mode not in ("z", "Z"):  # labels of SELinux, which is not there: nothing to do
            raise InvalidArgument(f"invalid volume specification: '{text}': invalid mode: {mode}")
    return point


def _from_mount(item: Mount, image: Callable[[str], str]) -> MountPoint:
    destination = absolute(item.target, "invalid mount path: {0!r} mount path must be absolute")
    point = MountPoint(
        type=item.type,  # type: ignore[arg-type]
        destination=destination,
        writable=not item.read_only,
        from_mounts=True,
    )
    if item.type == "bind":
        point.source = absolute(item.source, "")
        bind = item.bind_options
        if bind is not None:
            point.propagation = bind.propagation
            point.options = ["bind"] if bind.non_recursive else ["rbind"]
            if bind.read_only_non_recursive:
                point.options.append("non-recursive-read-only")
            if bind.create_mountpoint:
                _make_source(point.source)
        if not os.path.lexists(point.source):
            raise InvalidArgument(
                f'invalid mount config for type "bind": bind source path does not exist: {point.source}'
            )
    elif item.type == "volume":
        point.name = check_volume(item.source) if item.source else ""
        point.anonymous = not item.source
        options = item.volume_options
        point.subpath = options.subpath if options is not None else ""
        point.copy = not (point.subpath or (options is not None and options.no_copy))
    elif item.type == "image":
        point.source, point.name, point.writable = item.source, image(item.source), False
        point.subpath = item.image_options.subpath if item.image_options is not None else ""
    else:
        texts = []
        if item.tmpfs_options is not None:
            if item.tmpfs_options.size_bytes:
                texts.append(f"size={item.tmpfs_options.size_bytes}")
            if item.tmpfs_options.mode:
                texts.append(f"mode={item.tmpfs_options.mode:o}")
            texts += ["=".join(pair) for pair in item.tmpfs_options.options]
        if item.read_only:
            texts.append("ro")
        point.options = _tmpfs_options(item.target, ",".join(texts))
    return point


def _tmpfs(path: str, options: str) -> MountPoint:
    destination = absolute(path, "invalid mount path: {0!r} mount path must be absolute")
    if destination == "/":
        raise InvalidArgument("invalid specification: destination can't be '/'")
    return MountPoint(type="tmpfs", destination=destination, options=_tmpfs_options(path, options), mode=options)


def _tmpfs_options(path: str, text: str) -> list[str]:
    wanted = [option for option in text.split(",") if option]
    for option in wanted:
        name, equals, _value = option.partition("=")
        if not (name in _TMPFS_VALUES if equals else name in _TMPFS_FLAGS):
            raise InvalidArgument(f'invalid tmpfs option "{option}" for {path}')
    found = [option for option in _TMPFS if option not in wanted and _OPPOSITE[option] not in wanted]
    return [*found, *wanted, "tmpcopyup"]


def _make_source(path: str) -> None:
    """Docker's ``-v`` makes a missing source a directory."""
    try:
        if not os.path.lexists(path):
            os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        raise CapsaError(f"error while creating mount source path '{path}': {reason(error)}") from error


def volumes_of(document_mounts: Sequence[MountPoint]) -> list[str]:
    """The names of the volumes among mounts."""
    return [point.name for point in document_mounts if point.type == "volume"]
