"""From a VFS tree to the steps that Linux takes: plain data, in order."""

from __future__ import annotations

import pytest

from capsa.errors import InvalidArgument
from capsa.sys import mount
from capsa.vfs import linux
from capsa.vfs.compile import DEFAULT_DEVICES
from capsa.vfs.linux import (
    Alter,
    Attach,
    Change,
    Device,
    Freeze,
    Groups,
    Link,
    Make,
    Mask,
    Propagate,
    Protect,
    Seal,
    Stack,
    Step,
    Take,
    Union,
    lower,
)
from capsa.vfs.tree import (
    Access,
    Again,
    Bind,
    Budget,
    CopyOnWrite,
    Dev,
    Directory,
    IDRange,
    Image,
    Native,
    Node,
    Place,
    Proc,
    Queues,
    Ram,
    Sys,
    Terminals,
    Tree,
)

CLOSED = mount.ATTR_NOSUID | mount.ATTR_NOEXEC | mount.ATTR_NODEV
ROOT = Directory(source="/root")


def step(node: Node, path: str = "/x", **more: object) -> Step:
    """The step that one place lowers to."""
    return lower(Tree(root=ROOT, places=(Place(path=path, node=node, **more),)))[1]  # type: ignore[arg-type]


def change(access: Access, propagation: str = "") -> Change:
    found = step(Bind(source="/s"), access=access, propagation=propagation)
    assert isinstance(found, Attach)
    return found.change


def test_a_whole_tree() -> None:
    closed = Access(set_id=False, execute=False, devices=False)
    found = lower(
        Tree(
            root=CopyOnWrite(layers=("/1", "/2"), upper="/u", work="/w"),
            root_writable=False,
            places=(
                Place(path="/proc", node=Proc(), access=closed),
                Place(path="/dev", node=Dev(size=1024), access=Access(write=False, atime="strictatime")),
                Place(path="/dev/pts", node=Terminals(gid=5)),
                Place(path="/sys", node=Sys(), access=Access(write=False)),
                Place(path="/sys/fs/cgroup", node=Budget(), access=Access(write=False)),
                Place(path="/dev/mqueue", node=Queues()),
                Place(path="/data", node=Bind(source="/host"), propagation="rprivate"),
            ),
            devices=DEFAULT_DEVICES[:1],
            links=(("/dev/fd", "/proc/self/fd"),),
            masked=("/proc/kcore",),
            read_only=("/proc/sys",),
            propagation="rslave",
        )
    )
    assert found == [
        Union(chains=(("/1", "/2"),), upper="/u", work="/w"),
        Make(path="/proc", kind="proc", source="proc", attributes=CLOSED, exact=True),
        Make(
            path="/dev",
            kind="tmpfs",
            source="tmpfs",
            options=(("mode", "0755"), ("size", "1024")),
            attributes=mount.ATTR_STRICTATIME,
        ),
        Make(
            path="/dev/pts",
            kind="devpts",
            source="devpts",
            options=(("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")),
        ),
        Make(path="/sys", kind="sysfs", source="sysfs", attributes=mount.ATTR_RDONLY, exact=True),
        Groups(path="/sys/fs/cgroup", change=Change(set=mount.ATTR_RDONLY)),
        Make(path="/dev/mqueue", kind="mqueue", source="mqueue"),
        Attach(path="/data", source="/host", recursive=True, change=Change(deep_propagation=mount.MS_PRIVATE)),
        Device(device=DEFAULT_DEVICES[0]),
        Link(path="/dev/fd", target="/proc/self/fd"),
        Freeze(path="/dev"),
        Protect(path="/proc/sys"),
        Mask(path="/proc/kcore"),
        Seal(),
        Propagate(propagation=mount.MS_SLAVE, recursive=True),
    ]
    late = [isinstance(one, linux.LATE) for one in found]
    assert late == sorted(late)
    assert all(one.title() for one in found)


def test_roots() -> None:
    assert lower(Tree(root=ROOT)) == [Take(source="/root")]
    assert lower(Tree(root=Image(layers=("/1",)))) == [Take(source="/1"), Seal()]
    assert lower(Tree(root=Image(layers=("/1", "/2")))) == [Union(chains=(("/1", "/2"),)), Seal()]
    assert lower(Tree(root=CopyOnWrite(layers=(), upper="/u", work="/w"))) == [Take(source="/u")]
    with pytest.raises(InvalidArgument, match="no layers"):
        lower(Tree(root=Image(layers=())))


@pytest.mark.parametrize(("layers", "parts"), [(1, [1]), (500, [500]), (501, [500, 1]), (999, [500, 499])])
def test_many_layers_are_split_from_the_bottom(layers: int, parts: list[int]) -> None:
    names = tuple(map(str, range(layers)))
    found = linux.chains(names)
    assert list(map(len, found)) == parts
    assert sum(found, ()) == names


def test_too_many_layers_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="1000 layers"):
        linux.chains(("x",) * 1000)


@pytest.mark.parametrize(
    ("access", "wanted"),
    [
        (Access(), Change()),
        (Access(write=False), Change(set=mount.ATTR_RDONLY)),
        (Access(set_id=False, execute=False, devices=False), Change(set=CLOSED)),
        (Access(follow_links=False), Change(set=mount.ATTR_NOSYMFOLLOW)),
        (Access(write=False, recursive=True), Change(deep_set=mount.ATTR_RDONLY)),
        (Access(write=False, below=("write",)), Change(deep_set=mount.ATTR_RDONLY)),
        (Access(below=("write",)), Change(deep_clear=mount.ATTR_RDONLY)),
        (
            Access(write=False, set_id=False, below=("write",)),
            Change(set=mount.ATTR_NOSUID, deep_set=mount.ATTR_RDONLY),
        ),
        (
            Access(atime="noatime"),
            Change(set=mount.ATTR_NOATIME, clear=mount.ATTR_ATIME | mount.ATTR_NODIRATIME),
        ),
        (Access(atime="relatime"), Change(clear=mount.ATTR_ATIME | mount.ATTR_NODIRATIME)),
        (Access(atime="nodiratime"), Change(set=mount.ATTR_NODIRATIME)),
        (
            Access(atime="strictatime,nodiratime", below=("atime",)),
            Change(deep_set=mount.ATTR_STRICTATIME | mount.ATTR_NODIRATIME, deep_clear=mount.ATTR_ATIME),
        ),
    ],
)
def test_access_of_binds(access: Access, wanted: Change) -> None:
    assert change(access) == wanted


@pytest.mark.parametrize(
    ("word", "flag"),
    [
        ("private", mount.MS_PRIVATE),
        ("shared", mount.MS_SHARED),
        ("slave", mount.MS_SLAVE),
        ("unbindable", mount.MS_UNBINDABLE),
    ],
)
def test_propagation(word: str, flag: int) -> None:
    assert change(Access(), word) == Change(propagation=flag)
    assert change(Access(), "r" + word) == Change(deep_propagation=flag)
    found = step(Bind(source="/s"), propagation=word)
    assert isinstance(found, Attach)
    assert found.early == (word == "shared")


def test_new_file_systems_get_their_attributes_at_once() -> None:
    access = Access(write=False, execute=False, atime="noatime", sync=True)
    assert step(Native(type="ext4", source="/dev/x", data="errors=panic,user_xattr"), access=access) == Make(
        path="/x",
        kind="ext4",
        source="/dev/x",
        options=(("errors", "panic"), ("user_xattr", ""), ("sync", "")),
        attributes=mount.ATTR_RDONLY | mount.ATTR_NOEXEC | mount.ATTR_NOATIME,
    )
    assert step(Ram(size=5, inodes=6, mode=0o700, uid=1, gid=2), options=("dirsync",)) == Make(
        path="/x",
        kind="tmpfs",
        source="tmpfs",
        options=(("mode", "0700"), ("size", "5"), ("nr_inodes", "6"), ("uid", "1"), ("gid", "2"), ("dirsync", "")),
    )
    copied = step(Ram(mode=None, copy_up=True))
    assert isinstance(copied, Make)
    assert copied.copy_up
    assert copied.keep_mode
    hidden = step(Native(type="proc", data="hidepid=2"))
    assert isinstance(hidden, Make)
    assert hidden.exact


def test_memory_becomes_read_only_last() -> None:
    found = lower(Tree(root=ROOT, places=(Place(path="/x", node=Ram(), access=Access(write=False)),)))
    assert isinstance(found[1], Make)
    assert not found[1].attributes & mount.ATTR_RDONLY
    assert found[2] == Freeze(path="/x")


def test_a_change_of_what_is_there_sets_every_attribute() -> None:
    found = step(Again(), access=Access(write=False))
    rest = CLOSED | mount.ATTR_NOSYMFOLLOW
    assert found == Alter(path="/x", change=Change(set=mount.ATTR_RDONLY, clear=rest))


def test_id_maps_are_handed_on() -> None:
    ids = (IDRange(inside=0, outside=5, size=1),)
    found = step(Bind(source="/s"), uid_map=ids, gid_map=ids, id_map_recursive=True)
    assert found == Attach(path="/x", source="/s", recursive=True, uid_map=ids, gid_map=ids, id_map_recursive=True)


def test_an_image_below_the_root_is_one_directory_or_a_stack() -> None:
    assert step(Image(layers=("/1",))) == Attach(path="/x", source="/1")
    assert step(Image(layers=("/1", "/2"))) == Stack(path="/x", chains=(("/1", "/2"),))
