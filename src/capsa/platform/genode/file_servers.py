"""A container's files, and who serves them: a `vfs`, and an `lx_fs` for directories of the host.

Both may have waited for the container (`waiting`): then the names of directories are those of the sub-init.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from capsa.hid import Node
from capsa.platform.genode import budget, drivers
from capsa.platform.genode.budget import Quota
from capsa.platform.genode.bundle import MAIN, Bundle
from capsa.platform.genode.equipment import Equipment
from capsa.platform.genode.nodes import (
    EXEC_PREFIX,
    ROM_PREFIX,
    SEED_PREFIX,
    anything_of_the_parent,
    node,
    provides,
    routed,
    to_child,
)

TREES = "/host/tree"
FILES = Quota(8 * budget.MIB, 40)
VOLUME = Quota(0, 20)  # what the VFS needs for one more session
CHANGES = Quota(16 * budget.MIB, 20)  # of files, where they are kept in memory
SPARE_VOLUMES = 2
VFS, OWN_VFS = "vfs", "vfs-own"  # the latter where one has waited that the container has no use for
NAMES = ("files", VFS)  # of those that wait
ROMS = (VFS, "lx_fs")
IMAGE, SEED = "image", "seed"  # what a VFS calls its ROM modules; the routes of them say which those are


class Tree(msgspec.Struct, frozen=True):
    """Where a container's files are.

    ``image``: the content by which the archive of the image is known; ``upper``: the writable directory, below Genode's
    working directory, as are ``volumes``, by place in the container.
    """

    image: str
    upper: str
    volumes: Mapping[str, str] = {}


def tree(bundle: Bundle, archive: str) -> Tree:
    """Where its directories are; whoever runs it puts them there."""
    volumes = {volume.target: _volume_place(bundle.name, number) for number, volume in enumerate(bundle.volumes)}
    return Tree(archive, _upper_place(bundle.name), volumes)


def _upper_place(name: str) -> str:
    return f"{TREES}/{name}/upper"


def _volume_place(name: str, number: int) -> str:
    return f"{TREES}/{name}/volume-{number}"


def quota(bundle: Bundle) -> Quota:
    """What they take."""
    total = vfs_quota(bundle) if bundle.files else Quota(0, 0)
    return total + FILES if has_directories(bundle) else total


def vfs_quota(bundle: Bundle) -> Quota:
    """What its file server gets."""
    total = budget.VFS
    for _ in bundle.volumes:
        total = total + VOLUME
    if bundle.volatile and not bundle.read_only:
        total = total + CHANGES
    return total


def waiting(name: str, has: Equipment) -> Iterable[Node]:
    """File servers as most containers need them, before there is one: what they serve is put in its place later."""
    numbers = range(SPARE_VOLUMES)
    volumes = [(n, _volume_place(name, n), writable) for n in numbers for writable in (True, False)]
    policies = [*_policies(VFS, _upper_place(name), []), *_policies(OWN_VFS, _upper_place(name), volumes)]
    yield _files(policies)
    yield _late_vfs(name, has)


def suits_late(bundle: Bundle) -> bool:
    """Whether the VFS that waits can be this container's, as it is."""
    return bundle.files and not bundle.read_only and not bundle.volumes and not bundle.volatile


def components(bundle: Bundle, tree: Tree, has: Equipment, waited: bool) -> Iterable[Node]:
    """The start nodes; ``waited``: as of `capsa.platform.genode.compile.subinit`."""
    if has_directories(bundle):
        if waited:
            yield next(each for each in waiting(bundle.name, has) if each.name == "files")
        else:
            volumes = [(n, tree.volumes[each.target], each.writable) for n, each in enumerate(bundle.volumes)]
            yield _files(_policies(VFS, "" if bundle.read_only else tree.upper, volumes))
    if waited and suits_late(bundle):
        yield _late_vfs(bundle.name, has, tree.image)
    else:
        yield _vfs(server(bundle, waited), bundle, tree, has)


def server(bundle: Bundle, waited: bool) -> str:
    """Who is asked for its files; a start node of the old name would go on as what it was."""
    return OWN_VFS if waited and not suits_late(bundle) else VFS


def has_directories(bundle: Bundle) -> bool:
    """Whether directories of the host are part of its files."""
    return bundle.files and not bundle.volatile and (not bundle.read_only or bool(bundle.volumes))


def _policies(vfs: str, upper: str, volumes: Iterable[tuple[int, str, bool]]) -> Iterable[Node]:
    """What a container's `lx_fs` hands out to its VFS: the directory of changes, if there is one, and volumes.

    Of these: the number, the directory, and whether it may be written to.
    """
    if upper:
        yield node("policy", label_prefix=f"{vfs} -> upper", root=upper, writeable=True)
    for number, place, writable in volumes:
        flags: dict[str, Any] = {"writeable": True} if writable else {}
        yield node("policy", label_prefix=f"{vfs} -> {_volume(number, writable)}", root=place, **flags)


def _volume(number: int, writable: bool) -> str:
    """What a VFS calls it."""
    return f"{'volume' if writable else 'readonly'}-{number}"


def _files(policies: Iterable[Node]) -> Node:
    return node(
        "start",
        "files",
        node("binary", "lx_fs"),
        provides("File_system"),
        node("config", "", *policies),
        routed(anything_of_the_parent()),
        caps=FILES.caps,
        ram=budget.shown(FILES.ram),
        ld=False,
    )


def _vfs(name: str, bundle: Bundle, tree: Tree, has: Equipment) -> Node:
    content = [_devices(has, *drivers.devices(bundle))]
    for number, volume in enumerate(bundle.volumes):
        content.append(_at(volume.target, node("fs", label=f"{_volume(number, volume.writable)} -> /")))
    upper = node("ram") if bundle.volatile else node("fs", label="upper -> /")
    bound = {"limit": budget.shown(CHANGES.ram)} if bundle.volatile else {}
    if bundle.read_only:
        content.append(node("tar", IMAGE))
    elif has.cow:
        content.append(_cow(upper, **bound))
    else:  # new files at the top work; a file of the image cannot be changed, see docs/genode.md
        content += [upper, node("tar", IMAGE)]
    routes = [_own_rom(IMAGE, ROM_PREFIX + tree.image), *_seed_routes(bundle.name, has)]
    if has_directories(bundle):
        routes.append(to_child("File_system", "files"))
    routes += drivers.routes(bundle)
    return _vfs_server(name, content, vfs_quota(bundle), routes, writable=not bundle.read_only)


def _late_vfs(container: str, has: Equipment, image: str = "") -> Node:
    """One that looks at the container's files when somebody else does: so it is the same before there is an image."""
    made = _cow(node("fs", label="upper -> /"))
    made.set("late", True)
    routes = [_own_rom(IMAGE, ROM_PREFIX + image)] if image else []
    routes += [*_seed_routes(container, has), to_child("File_system", "files")]
    return _vfs_server(VFS, [_devices(has), made], budget.VFS, routes, writable=True)


def _own_rom(name: str, known: str) -> Node:
    """What a VFS calls ``name`` is the ROM module ``known``."""
    return node("service", "ROM", node("parent", label=known), label_last=name)


def _seed_routes(container: str, has: Equipment) -> Iterable[Node]:
    """Nobody but its VFS gets at what makes a container's random bytes."""
    return [_own_rom(SEED, SEED_PREFIX + container)] if has.random else []


def _vfs_server(name: str, content: Iterable[Node], quota: Quota, routes: Iterable[Node], *, writable: bool) -> Node:
    flags: dict[str, Any] = {"writeable": True} if writable else {}
    policies = [node("policy", label_prefix=prefix, root="/", **flags) for prefix in (f"{MAIN} ->", EXEC_PREFIX)]
    return node(
        "start",
        name,
        *([node("binary", VFS)] if name != VFS else []),
        provides("File_system"),
        node("config", "", node("vfs", "", *content), *policies),
        routed(*routes, anything_of_the_parent()),
        caps=quota.caps,
        ram=budget.shown(quota.ram),
    )


def _devices(has: Equipment, *more: str) -> Node:
    made = node("dir", "dev", node("null"), node("zero"), node("log"), *map(node, more))
    for each in ("random", "urandom") if has.random else ():
        made.add(node("random", "" if each == "random" else each))
    if has.pipe:
        made.add(node("dir", "pipe", node("pipe")))
    return made


def _cow(upper: Node, **bound: str) -> Node:
    return node("cow", "", node("upper", "", upper, **bound), node("lower", "", node("tar", IMAGE)))


def _at(path: str, leaf: Node) -> Node:
    """``leaf`` at a path of the VFS, in directories."""
    for part in reversed([part for part in path.split("/") if part]):
        leaf = node("dir", part, leaf)
    return leaf
