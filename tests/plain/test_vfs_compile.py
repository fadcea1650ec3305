"""From a specification to a VFS tree: every mount option, every node, every refusal."""

from __future__ import annotations

import msgspec
import pytest

from capsa.errors import InvalidArgument
from capsa.oci.runtime import Device, IDMapping, Linux, Mount, Root, Spec
from capsa.vfs import compile as vfs
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
    Native,
    Place,
    Proc,
    Queues,
    Ram,
    Sys,
    Terminals,
    Tree,
)


def spec(*mounts: Mount, readonly: bool = False, **linux: object) -> Spec:
    return Spec(
        oci_version="1.2.0",
        root=Root(path="rootfs", readonly=readonly),
        mounts=list(mounts),
        linux=Linux(**linux),  # type: ignore[arg-type]
    )


def place(type: str = "bind", *options: str, destination: str = "/x", source: str = "/s", **more: object) -> Place:
    """The place that one mount compiles to."""
    mount = Mount(destination=destination, type=type, source=source, options=list(options), **more)  # type: ignore[arg-type]
    return vfs.tree(spec(mount)).places[0]


def test_a_whole_specification() -> None:
    refuse = ["nosuid", "noexec", "nodev"]
    found = vfs.tree(
        spec(
            Mount(destination="/proc", type="proc", source="proc", options=refuse),
            Mount(destination="/dev", type="tmpfs", options=["nosuid", "strictatime", "mode=755", "size=65536k"]),
            Mount(
                destination="/dev/pts", type="devpts", options=["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]
            ),
            Mount(destination="/sys", type="sysfs", options=[*refuse, "ro"]),
            Mount(destination="/sys/fs/cgroup", type="cgroup", options=["ro"]),
            Mount(destination="/dev/mqueue", type="mqueue"),
            Mount(destination="/data", type="bind", source="data", options=["rbind", "rprivate"]),
            readonly=True,
            devices=[Device(type="u", path="/dev/fuse", major=10, minor=229, file_mode=0o100600, uid=1, gid=2)],
            masked_paths=["/proc/kcore"],
            readonly_paths=["/proc/sys"],
            rootfs_propagation="slave",
        ),
        bundle="/bundle",
    )
    closed = Access(set_id=False, execute=False, devices=False)
    assert found == Tree(
        root=Directory(source="/bundle/rootfs"),
        root_writable=False,
        places=(
            Place(path="/proc", node=Proc(), access=closed),
            Place(path="/dev", node=Dev(size=65536 * 1024), access=Access(set_id=False, atime="strictatime")),
            Place(path="/dev/pts", node=Terminals(gid=5)),
            Place(path="/sys", node=Sys(), access=msgspec.structs.replace(closed, write=False)),
            Place(path="/sys/fs/cgroup", node=Budget(), access=Access(write=False)),
            Place(path="/dev/mqueue", node=Queues()),
            Place(path="/data", node=Bind(source="/bundle/data"), propagation="rprivate"),
        ),
        devices=(
            *vfs.DEFAULT_DEVICES,
            DeviceNode(path="/dev/fuse", kind="c", major=10, minor=229, mode=0o600, uid=1, gid=2),
        ),
        links=(*vfs.DEFAULT_LINKS, vfs.PTMX_LINK),
        masked=("/proc/kcore",),
        read_only=("/proc/sys",),
        propagation="slave",
    )
    assert msgspec.json.decode(msgspec.json.encode(found), type=Tree) == found


@pytest.mark.parametrize(
    ("options", "access"),
    [
        ("ro", Access(write=False)),
        ("rw", Access()),
        ("nosuid", Access(set_id=False)),
        ("suid", Access()),
        ("nodev", Access(devices=False)),
        ("dev", Access()),
        ("noexec", Access(execute=False)),
        ("exec", Access()),
        ("nosymfollow", Access(follow_links=False)),
        ("symfollow", Access()),
        ("noatime", Access(atime="noatime")),
        ("atime", Access(atime="relatime")),
        ("relatime", Access(atime="relatime")),
        ("norelatime", Access(atime="strictatime")),
        ("strictatime", Access(atime="strictatime")),
        ("nostrictatime", Access(atime="relatime")),
        ("nodiratime", Access(atime="nodiratime")),
        ("diratime", Access()),
        ("nodiratime diratime", Access()),
        ("noatime nodiratime", Access(atime="noatime,nodiratime")),
        ("defaults silent loud async", Access()),
        ("ro rw", Access()),
        ("rw ro", Access(write=False)),
        ("rro", Access(write=False, below=("write",))),
        ("rrw", Access(below=("write",))),
        ("rnosuid", Access(set_id=False, below=("set_id",))),
        ("rsuid", Access(below=("set_id",))),
        ("rnodev", Access(devices=False, below=("devices",))),
        ("rdev", Access(below=("devices",))),
        ("rnoexec", Access(execute=False, below=("execute",))),
        ("rexec", Access(below=("execute",))),
        ("rnosymfollow", Access(follow_links=False, below=("follow_links",))),
        ("rsymfollow", Access(below=("follow_links",))),
        ("rnoatime", Access(atime="noatime", below=("atime",))),
        ("ratime", Access(atime="relatime", below=("atime",))),
        ("rrelatime", Access(atime="relatime", below=("atime",))),
        ("rnorelatime", Access(atime="strictatime", below=("atime",))),
        ("rstrictatime", Access(atime="strictatime", below=("atime",))),
        ("rnostrictatime", Access(atime="relatime", below=("atime",))),
        ("rnodiratime", Access(atime="nodiratime", below=("atime",))),
        ("rdiratime", Access(below=("atime",))),
        ("rro nosuid", Access(write=False, set_id=False, below=("write",))),
    ],
)
def test_access_options(options: str, access: Access) -> None:
    assert place("bind", *options.split()).access == access


@pytest.mark.parametrize(
    "word", ["private", "shared", "slave", "unbindable", "rprivate", "rshared", "rslave", "runbindable"]
)
def test_propagation(word: str) -> None:
    assert place("bind", word).propagation == word


@pytest.mark.parametrize(
    ("type", "options", "recursive"),
    [
        ("bind", [], False),
        ("bind", ["bind"], False),
        ("bind", ["rbind"], True),
        ("none", ["rbind"], True),
        ("bind", ["rbind", "bind"], True),
        ("", ["bind"], False),
    ],
)
def test_binds(type: str, options: list[str], recursive: bool) -> None:
    assert place(type, *options).node == Bind(source="/s", recursive=recursive)


def test_relative_paths_of_the_host_start_at_the_bundle() -> None:
    mount = Mount(destination="/x", type="bind", source="../y")
    assert vfs.tree(spec(mount), bundle="/b").places[0].node == Bind(source="/b/../y", recursive=False)


@pytest.mark.parametrize(
    ("written", "meant"), [("x", "/x"), ("//x//y/", "/x/y"), ("/a/../b", "/b"), ("/../../etc", "/etc"), ("./c", "/c")]
)
def test_destinations_are_absolute_and_plain(written: str, meant: str) -> None:
    assert place("bind", destination=written).path == meant


@pytest.mark.parametrize(
    ("options", "node"),
    [
        ("", Ram(mode=None)),
        ("size=64m,mode=1777,uid=5,gid=6,nr_inodes=1k", Ram(size=64 << 20, mode=0o1777, uid=5, gid=6, inodes=1024)),
        ("size=4096", Ram(size=4096, mode=None)),
        ("size=2G", Ram(size=2 << 30, mode=None)),
        ("tmpcopyup", Ram(mode=None, copy_up=True)),
        ("size=50%", Native(type="tmpfs", source="tmpfs", data="size=50%")),
        ("huge=always,mode=700", Native(type="tmpfs", source="/s", data="huge=always,mode=700")),
    ],
)
def test_tmpfs(options: str, node: object) -> None:
    assert place("tmpfs", *options.split(",")).node == node


def test_kinds_of_file_systems() -> None:
    assert place("proc").node == Proc()
    assert place("proc", "hidepid=2", source="proc").node == Native(type="proc", source="proc", data="hidepid=2")
    assert place("sysfs").node == Sys()
    assert place("mqueue").node == Queues()
    assert place("cgroup").node == place("cgroup2").node == Budget()
    assert place("devpts", "gid=7", "mode=600", "ptmxmode=000").node == Terminals(gid=7, mode=0o600, ptmx_mode=0)
    assert place("tmpfs", "mode=700", destination="/dev").node == Dev(mode=0o700)
    assert place("ext4", "errors=remount-ro", "ro").node == Native(type="ext4", source="/s", data="errors=remount-ro")
    assert place("bind", "remount", "ro").node == Again()


def test_options_of_the_whole_file_system() -> None:
    found = place("tmpfs", "sync", "dirsync", "lazytime", "mand", "nomand", "iversion", "noiversion")
    assert found.options == ("dirsync", "lazytime")
    assert found.access.sync


def test_id_maps() -> None:
    maps = [IDMapping(container_id=0, host_id=1000, size=5)]
    found = place("bind", "ridmap", uid_mappings=maps, gid_mappings=maps)
    assert found.uid_map == found.gid_map == (IDRange(inside=0, outside=1000, size=5),)
    assert found.id_map_recursive
    assert not place("bind", "idmap", uid_mappings=maps, gid_mappings=maps).id_map_recursive


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        (Mount(destination=""), "no destination"),
        (Mount(destination="/", type="tmpfs"), "would replace the root"),
        (Mount(destination="/x/..", type="tmpfs"), "would replace the root"),
        (Mount(destination="/x"), "no type"),
        (Mount(destination="/x", type="bind"), "no source"),
        (
            Mount(destination="/x", type="bind", source="/s", options=["rbidn"]),
            "unknown option 'rbidn' of the mount at /x",
        ),
        (Mount(destination="/x", type="bind", source="/s", options=["size=5"]), "unknown option 'size'"),
        (Mount(destination="/x", type="bind", source="/s", options=["tmpcopyup"]), "tmpcopyup"),
        (Mount(destination="/x", type="bind", source="/s", options=["dirsync"]), "dirsync"),
        (Mount(destination="/x", type="bind", source="/s", options=["idmap"]), "no uidMappings"),
        (Mount(destination="/x", type="bind", source="/s\0"), "zero byte"),
        (Mount(destination="/x", type="tmpfs", options=["idmap"]), "bind mounts only"),
        (Mount(destination="/x", type="tmpfs", options=["mode=99"]), "not a number"),
        (Mount(destination="/x", type="tmpfs", options=["mode=17777"]), "permission bits"),
        (Mount(destination="/x", type="tmpfs", options=["size=much"]), "not a number"),
        (Mount(destination="/x", type="tmpfs", options=["size=-5"]), "not a number"),
        (Mount(destination="/x", type="tmpfs", options=["tmpcopyup", "fun=1"]), "unknown option 'fun'"),
        (Mount(destination="/x", type="devpts", options=["gid=tty"]), "not a number"),
        (Mount(destination="/x", options=["remount", "fun"]), "unknown option 'fun'"),
        (
            Mount(
                destination="/x",
                type="bind",
                source="/s",
                uid_mappings=[IDMapping(container_id=0, host_id=0, size=1)],
            ),
            "both uidMappings and gidMappings",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_and_named(mount: Mount, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        vfs.tree(spec(mount))


def test_the_root_may_come_from_elsewhere_and_has_to_come_from_somewhere() -> None:
    root = CopyOnWrite(layers=("/l",), upper="/u", work="/w")
    assert vfs.tree(spec(), root).root == root
    with pytest.raises(InvalidArgument, match="no root"):
        vfs.tree(Spec(oci_version="1.2.0"))
    with pytest.raises(InvalidArgument, match="rootfsPropagation"):
        vfs.tree(spec(rootfs_propagation="up"))


def test_devices_win_over_defaults_and_a_bound_dev_has_its_own() -> None:
    found = vfs.tree(spec(devices=[Device(type="c", path="/dev/null", major=1, minor=3, file_mode=0o600)]))
    assert [device.mode for device in found.devices if device.path == "/dev/null"] == [0o600]
    bound = vfs.tree(spec(Mount(destination="/dev", type="bind", source="/dev", options=["rbind"])))
    assert bound.devices == ()
    assert bound.links == ()
    with pytest.raises(InvalidArgument, match="path of its own"):
        vfs.tree(spec(devices=[Device(type="c", path="/")]))
