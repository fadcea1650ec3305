"""The container's file tree: layers, devices, mounts with all their options, masks, propagation."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fixtures import bundle as b
from fixtures.bundle import Bundle, bound, spec, with_mounts, with_process

from capsa.errors import Unsupported
from capsa.oci.runtime import (
    Device,
    IDMapping,
    Mount,
)
from capsa.vfs.tree import CopyOnWrite, Image

pytestmark = b.NEEDS


def test_layers_below_a_writable_directory(box: Bundle, tmp_path: Path) -> None:
    upper, work, second, third = (tmp_path / name for name in ("upper", "work", "second", "third"))
    for path in (upper, work, second / "etc", third):
        path.mkdir(parents=True)
    (second / "etc" / "passwd").write_text("hidden\n")
    (third / "top").write_text("third\n")
    root = CopyOnWrite(layers=(str(box.root), str(second), str(third)), upper=str(upper), work=str(work))
    found = box.run("cat /etc/passwd /top; rm /top; echo new > /etc/passwd; ls /top; cat /etc/passwd", root=root)
    assert found.output.splitlines() == ["hidden", "third", "ls: /top: No such file or directory", "new"]
    assert (upper / "etc" / "passwd").read_text() == "new\n"
    assert (third / "top").exists()


def test_names_with_commas_and_colons_are_no_danger(box: Bundle, tmp_path: Path) -> None:
    odd = tmp_path / "a,upperdir=b:c\\d"
    for name in ("upper", "work", "layer"):
        (odd / name).mkdir(parents=True)
    (odd / "layer" / "here").write_text("yes\n")
    root = CopyOnWrite(layers=(str(box.root), str(odd / "layer")), upper=str(odd / "upper"), work=str(odd / "work"))
    assert box.run("cat /here", root=root) == (0, "yes\n")


def test_hundreds_of_layers_and_whiteouts_across_the_seam(box: Bundle, tmp_path: Path) -> None:
    upper, work = tmp_path / "upper", tmp_path / "work"
    upper.mkdir()
    work.mkdir()
    layers = [str(box.root)]
    for number in range(1, 620):
        layer = tmp_path / "layers" / str(number)
        layer.mkdir(parents=True)
        (layer / f"file{number}").write_text(f"{number}\n")
        layers.append(str(layer))
    os.mknod(tmp_path / "layers" / "610" / "file3", 0o020000, 0)
    found = box.run(
        "cat /file1 /file499 /file500 /file619; ls /file3",
        root=CopyOnWrite(layers=tuple(layers), upper=str(upper), work=str(work)),
    )
    assert found.output.splitlines() == ["1", "499", "500", "619", "ls: /file3: No such file or directory"]


def test_an_image_without_a_writable_layer_is_read_only(box: Bundle, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for layers in ((str(box.root),), (str(box.root), str(tmp_path / "more"))):
        found = box.run("touch /x", root=Image(layers=layers))
        assert found.code != 0
        assert "Read-only" in found.output


def test_a_read_only_root(box: Bundle) -> None:
    base = spec("touch /x || touch /tmp/y; touch /dev/shm/z && echo shm")
    base = msgspec.structs.replace(base, root=msgspec.structs.replace(base.root, readonly=True))
    assert "shm" in box.run(base).output
    assert not (box.root / "x").exists()
    assert not (box.root / "tmp" / "y").exists()


def test_default_devices_and_links(box: Bundle) -> None:
    found = box.run("for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; ls -l /dev")
    assert found.output.splitlines()[:6] == [
        *("/dev/null 1:3 666", "/dev/zero 1:5 666", "/dev/full 1:7 666"),
        *("/dev/random 1:8 666", "/dev/urandom 1:9 666", "/dev/tty 5:0 666"),
    ]
    for link in ("fd -> /proc/self/fd", "stdin -> /proc/self/fd/0", "ptmx -> pts/ptmx"):
        assert link in found.output


def test_own_devices(box: Bundle) -> None:
    devices = [
        Device(type="c", path="/dev/deep/down", major=1, minor=3, file_mode=0o640, uid=1, gid=2),
        Device(type="p", path="/run/fifo", file_mode=0o600),
        Device(type="c", path="/dev/null", major=1, minor=3, file_mode=0o600),
    ]
    found = box.run(spec("stat -c '%F %t:%T %a %u:%g' /dev/deep/down /run/fifo /dev/null", devices=devices))
    assert found.output.splitlines() == [
        *("character special file 1:3 640 1:2", "fifo 0:0 600 0:0", "character special file 1:3 600 0:0"),
    ]


def test_masked_and_read_only_paths(box: Bundle) -> None:
    (box.root / "secret").write_text("secret\n")
    (box.root / "closet").mkdir()
    (box.root / "closet" / "skeleton").write_text("bones\n")
    found = box.run(
        spec(
            "cat /secret; ls /closet; touch /closet/x;"
            " echo 1 > /proc/sys/kernel/printk; touch /home/x; chmod 0 /secret",
            masked_paths=["/secret", "/closet", "/proc/nothing/there"],
            readonly_paths=["/proc/sys", "/home", "/nothing"],
        )
    )
    assert "secret\n" not in found.output.replace("/secret", "")
    assert "skeleton" not in found.output
    assert found.output.count("Read-only file system") == 4
    assert (os.stat("/dev/null").st_mode & 0o777) == 0o666


def test_binds_of_directories_and_files(box: Bundle, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("data\n")
    wanted = with_mounts(
        spec("cat /mnt/deep/file /etc/one; echo changed > /mnt/deep/file; echo no > /etc/one"),
        bound(tmp_path / "data", "/mnt/deep"),
        bound(tmp_path / "data" / "file", "/etc/one", "ro"),
    )
    found = box.run(wanted)
    assert found.output.startswith("data\ndata\n")
    assert "Read-only" in found.output
    assert (tmp_path / "data" / "file").read_text() == "changed\n"


def test_relative_sources_start_at_the_bundle(box: Bundle) -> None:
    (box.path / "beside").write_text("beside\n")
    assert box.run(with_mounts(spec("cat /x"), bound(Path("beside"), "/x"))).output == "beside\n"


def options_of(output: str, place: str) -> set[str]:
    """The options of the last mount at ``place`` in the output of /proc/self/mountinfo."""
    found = [line.split() for line in output.splitlines() if len(line.split()) > 5 and line.split()[4] == place]
    return set(found[-1][5].split(",")) | set(found[-1][6 : found[-1].index("-")])


def test_attributes_of_mounts(box: Bundle, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    wanted = with_mounts(
        spec("cat /proc/self/mountinfo"),
        bound(tmp_path / "data", "/a", "ro", "nosuid", "nodev", "noexec", "noatime", "nosymfollow", "rprivate"),
        bound(tmp_path / "data", "/b", "strictatime", "nodiratime"),
        Mount(destination="/c", type="tmpfs", options=["noexec", "size=1m", "mode=700", "uid=5"]),
        Mount(destination="/c", options=["remount", "ro", "nodev"]),
    )
    found = box.run(wanted).output
    assert {"ro", "nosuid", "nodev", "noexec", "noatime", "nosymfollow"} <= options_of(found, "/a")
    assert {"rw", "nodiratime"} <= options_of(found, "/b")
    assert "relatime" not in options_of(found, "/b")
    assert {"ro", "nodev"} <= options_of(found, "/c")
    assert "noexec" not in options_of(found, "/c")
    assert "size=1024k" in found
    assert "uid=5" in found


@pytest.fixture
def nested(tmp_path: Path) -> Iterator[Path]:
    """A directory with another mount in it."""
    place = tmp_path / "outer"
    (place / "inner").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place / "inner")], check=True)
    yield place
    subprocess.run(["umount", str(place / "inner")], check=True)


def test_recursive_attributes_reach_mounts_below(box: Bundle, nested: Path) -> None:
    wanted = with_mounts(
        spec("cat /proc/self/mountinfo"), bound(nested, "/a", "rro", "nosuid"), bound(nested, "/b", "ro", "rnoexec")
    )
    found = box.run(wanted).output
    assert {"ro", "nosuid"} <= options_of(found, "/a")
    assert "ro" in options_of(found, "/a/inner")
    assert "nosuid" not in options_of(found, "/a/inner")
    assert {"ro", "noexec"} <= options_of(found, "/b")
    assert {"rw", "noexec"} <= options_of(found, "/b/inner")


def test_a_plain_bind_leaves_mounts_below_out(box: Bundle, nested: Path) -> None:
    (nested / "inner" / "file").write_text("x")
    wanted = with_mounts(
        spec("ls /a/inner; ls /b/inner"),
        Mount(destination="/a", type="bind", source=str(nested), options=["bind"]),
        bound(nested, "/b"),
    )
    assert box.run(wanted).output == "file\n"


def test_tmpfs_takes_the_mode_of_what_it_covers_and_copies_it_up(box: Bundle) -> None:
    place = box.root / "srv"
    (place / "deep").mkdir(parents=True)
    place.chmod(0o750)
    (place / "deep" / "file").write_text("content\n")
    (place / "deep" / "file").chmod(0o4711)
    os.chown(place / "deep" / "file", 7, 8)
    (place / "deep" / "file").chmod(0o4711)
    (place / "link").symlink_to("/etc/shadow")
    os.mkfifo(place / "fifo")
    wanted = with_mounts(
        spec(
            "stat -c %a /srv; cat /srv/deep/file; stat -c '%a %u:%g' /srv/deep/file; readlink /srv/link;"
            " test -p /srv/fifo && echo fifo; rm -r /srv/*"
        ),
        Mount(destination="/srv", type="tmpfs", options=["tmpcopyup"]),
    )
    assert box.run(wanted).output.splitlines() == ["750", "content", "4711 7:8", "/etc/shadow", "fifo"]
    assert (place / "deep" / "file").exists()


def test_a_read_only_tmpfs_still_takes_mount_points(box: Bundle, tmp_path: Path) -> None:
    wanted = with_mounts(
        spec("touch /srv/x; cat /srv/inner/name"),
        Mount(destination="/srv", type="tmpfs", options=["ro"]),
        bound(Path("/proc/sys/kernel/ostype"), "/srv/inner/name"),
    )
    found = box.run(wanted).output
    assert "Read-only" in found
    assert found.endswith("Linux\n")


def test_cgroups_show_the_containers_own(box: Bundle) -> None:
    with box.created(spec("cat /proc/self/cgroup; ls /sys/fs/cgroup; sleep 60")) as (birth, group, reading):
        birth.start()
        assert birth.pid in group.pids()
        time.sleep(0.2)
        output = os.read(reading, 65536).decode()
    shown = [line for line in output.splitlines() if ":" in line]
    joined = ("memory", "pids", "cpu")
    assert all(line.endswith(":/") for line in shown if any(name in line for name in joined)), output
    assert "memory" in output


def test_idmapped_mounts(box: Bundle, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("x")
    os.chown(tmp_path / "data" / "file", 1000, 1000)
    maps = [IDMapping(container_id=1000, host_id=5000, size=10)]
    wanted = with_mounts(
        spec("stat -c '%u:%g' /data/file"),
        Mount(
            destination="/data",
            type="bind",
            source=str(tmp_path / "data"),
            options=["bind", "idmap"],
            uid_mappings=maps,
            gid_mappings=maps,
        ),
    )
    try:
        assert box.run(wanted).output == "5000:5000\n"
    except Unsupported as error:
        pytest.skip(f"needs id-mapped mounts on the file system of {tmp_path}: {error}")


def test_shared_propagation_reaches_the_container(box: Bundle, tmp_path: Path) -> None:
    place = tmp_path / "shared"
    (place / "later").mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    subprocess.run(["mount", "--make-shared", str(place)], check=True)
    try:
        base = with_mounts(
            spec("sleep 1; ls /s/later; mount -t tmpfs none /p/later; ls /s/later", seccomp=None),
            bound(place, "/s", "rslave"),
            bound(place, "/p", "rshared"),
        )
        sets = b.capabilities(*b.CAPABILITIES, "CAP_SYS_ADMIN")
        with box.created(with_process(base, capabilities=sets)) as (birth, _, reading):
            subprocess.run(["mount", "-t", "tmpfs", "none", str(place / "later")], check=True)
            (place / "later" / "seen").write_text("")
            before = Path("/proc/self/mountinfo").read_text().count(str(place / "later"))
            birth.start()
            output = b.read_all(reading)
            b.wait(birth.pid)
        assert output == "seen\n"
        assert Path("/proc/self/mountinfo").read_text().count(str(place / "later")) > before
    finally:
        subprocess.run(["umount", "-R", str(place)], check=True)


@pytest.mark.parametrize(
    ("kind", "mark"), [("shared", "shared:"), ("slave", "master:"), ("private", ""), ("unbindable", "unbindable")]
)
def test_root_propagation(box: Bundle, kind: str, mark: str) -> None:
    found = options_of(box.run(spec("cat /proc/self/mountinfo", rootfs_propagation=kind)).output, "/")
    if kind in ("shared", "unbindable"):
        assert any(word.startswith(mark) for word in found)
    else:
        assert not any(word.startswith("shared:") for word in found)
