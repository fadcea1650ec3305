"""Images and containers that mean harm: links that lead out, places that are not what they seem, doors left open."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fixtures import bundle as b
from fixtures.bundle import Bundle, bound, spec, with_mounts, with_process

from capsa.errors import CapsaError, LaunchFailed
from capsa.oci.runtime import Capabilities, Device, Mount
from capsa.platform.linux import container, inroot
from capsa.platform.linux.platform import LinuxPlatform
from capsa.sys import sealed

pytestmark = b.NEEDS


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Bundle]:
    """A bundle below a directory with a `victim` that nobody may touch."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("untouched\n")
    (tmp_path / "bundle").mkdir()
    yield Bundle(tmp_path / "bundle")
    assert sorted(path.name for path in victim.iterdir()) == ["file"]
    assert (victim / "file").read_text() == "untouched\n"
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def replace(place: Path, target: str) -> None:
    """Put a symbolic link in the place of a directory or file."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    place.symlink_to(target)


def test_a_link_out_of_the_root_ends_inside(box: Bundle, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine\n")
    for target in (str(tmp_path / "victim" / "file"), "../" * 30 + str(tmp_path / "victim" / "file")):
        replace(box.root / "etc" / "resolv.conf", target)
        wanted = with_mounts(spec("cat /etc/resolv.conf"), bound(tmp_path / "mine", "/etc/resolv.conf"))
        assert box.run(wanted).output == "mine\n"
    assert (box.root / str(tmp_path / "victim" / "file").lstrip("/")).is_file()


def test_a_directory_that_leads_out_ends_inside(box: Bundle, tmp_path: Path) -> None:
    (box.root / "data").symlink_to(tmp_path / "victim")
    wanted = with_mounts(spec("ls /data/new"), Mount(destination="/data/new", type="tmpfs"))
    assert box.run(wanted).code == 0
    assert (box.root / str(tmp_path).lstrip("/") / "victim" / "new").is_dir()


def test_links_in_a_circle_are_refused(box: Bundle) -> None:
    (box.root / "one").symlink_to("two")
    (box.root / "two").symlink_to("one")
    with pytest.raises(LaunchFailed, match="cannot mount tmpfs at /one/x"):
        box.run(with_mounts(spec(), Mount(destination="/one/x", type="tmpfs")))


@pytest.mark.parametrize("place", ["proc", "sys"])
def test_proc_and_sys_have_to_be_directories(box: Bundle, place: str, tmp_path: Path) -> None:
    replace(box.root / place, "/tmp")
    with pytest.raises(CapsaError, match=f"/{place} of the image is a symbolic link"):
        box.run(spec())
    replace(box.root / place, str(tmp_path / "victim"))
    with pytest.raises(CapsaError, match=f"/{place} of the image is a symbolic link"):
        box.run(spec())


def test_a_dev_that_is_a_link_gets_its_devices_inside(box: Bundle, tmp_path: Path) -> None:
    replace(box.root / "dev", str(tmp_path / "victim"))
    (box.root / str(tmp_path).lstrip("/") / "victim").mkdir(parents=True)
    found = box.run("echo x > /dev/null; stat -c %t:%T /dev/null")
    assert found == (0, "1:3\n")


def test_without_a_mount_at_dev_devices_go_through_no_link(box: Bundle, tmp_path: Path) -> None:
    replace(box.root / "dev", str(tmp_path / "victim"))
    base = spec("true", devices=[Device(type="c", path="/dev/x", major=1, minor=3)])
    base = msgspec.structs.replace(base, mounts=[one for one in base.mounts if not one.destination.startswith("/dev")])
    assert box.run(base).code == 0
    (box.root / str(tmp_path).lstrip("/") / "victim" / "x").lstat()


def test_a_file_where_a_device_should_be_is_refused(box: Bundle) -> None:
    (box.root / "node").write_text("file\n")
    with pytest.raises(CapsaError, match="/node is there already"):
        box.run(spec("true", devices=[Device(type="c", path="/node", major=1, minor=3)]))


@pytest.mark.parametrize("target", ["/etc/passwd", "victim"])
def test_dev_console_cannot_be_redirected(box: Bundle, target: str, tmp_path: Path) -> None:
    (box.root / "dev" / "console").symlink_to(target if target[0] == "/" else str(tmp_path / "victim" / "file"))
    base = with_process(spec("cat /etc/passwd"), terminal=True)
    mounts = [one for one in base.mounts if not one.destination.startswith("/dev")]
    mounts.append(Mount(destination="/dev/pts", type="devpts", options=["newinstance", "ptmxmode=0666"]))
    with pytest.raises(LaunchFailed, match="/dev/console"):
        box.run(msgspec.structs.replace(base, mounts=mounts))


@pytest.mark.parametrize("place", ["/proc/sys", "/proc/self/attr", "/proc/1/fd", "/proc/x", "/proc/sysrq-trigger"])
def test_nothing_is_mounted_over_proc(box: Bundle, place: str, tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    for mount in (Mount(destination=place, type="tmpfs"), bound(tmp_path / "fake", place)):
        with pytest.raises(CapsaError, match=r"inside proc|cannot mount"):
            box.run(with_mounts(spec(), mount))


def test_no_link_leads_a_mount_into_proc(box: Bundle, tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    (box.root / "data").symlink_to("/proc/sys/kernel")
    (box.root / "self").symlink_to("/proc/self/root")
    for place in ("/data", "/self"):
        with pytest.raises(CapsaError, match=r"inside proc|cannot mount"):
            box.run(with_mounts(spec(), bound(tmp_path / "fake", place)))


def test_files_that_tell_about_the_machine_may_be_replaced(box: Bundle, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 5 kB\n")
    wanted = with_mounts(spec("cat /proc/meminfo"), bound(tmp_path / "meminfo", "/proc/meminfo"))
    assert box.run(wanted).output == "MemTotal: 5 kB\n"


def test_only_proc_is_bound_at_proc(box: Bundle, tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    base = spec()
    base = msgspec.structs.replace(base, mounts=[bound(tmp_path / "fake", "/proc"), *base.mounts[1:]])
    with pytest.raises(CapsaError, match="only proc itself"):
        box.run(base)


def test_the_hosts_null_device_cannot_be_changed_through_a_mask(box: Bundle) -> None:
    before = os.stat("/dev/null")
    (box.root / "secret").write_text("x")
    found = box.run(spec("chmod 0 /secret; chown 5 /secret; echo x > /secret", masked_paths=["/secret"]))
    assert found.output.count("Read-only") == 2
    after = os.stat("/dev/null")
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)


def test_a_volume_that_changes_while_it_is_mounted_on_stays_inside(box: Bundle, tmp_path: Path) -> None:
    """Somebody with the same volume turns a directory into a link and back, as fast as it can."""
    volume = tmp_path / "volume"
    (volume / "real").mkdir(parents=True)
    (volume / "place").mkdir()
    (volume / "link").symlink_to(tmp_path / "victim")
    script = (
        "import os,sys\nos.chdir(sys.argv[1])\n"
        "while True:\n"
        "    os.rename('place','x'); os.rename('link','place'); os.rename('place','link'); os.rename('x','place')\n"
    )
    racer = subprocess.Popen([sys.executable, "-c", script, str(volume)])
    wanted = with_mounts(
        spec("true"), bound(volume, "/v"), Mount(destination="/v/place/deep", type="tmpfs", options=["size=4k"])
    )
    try:
        for _ in range(25):
            try:
                box.run(wanted)
            except LaunchFailed:
                continue
    finally:
        racer.kill()
        racer.wait()


def test_resolution_inside_a_root_never_escapes(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "up").symlink_to("../../../../..")
    (root / "absolute").symlink_to("/a/b/../../..")
    (root / "a" / "b" / "back").symlink_to("../../up/a")
    fd = os.open(root, os.O_PATH)
    try:
        for path in ("/up/a/b", "/absolute/a/b", "/a/b/back/b", "/../../a/b", "/a/b/back/../up/absolute/a/b"):
            found = inroot.make(fd, path)
            assert os.readlink(f"/proc/self/fd/{found}") == str(root / "a" / "b")
            os.close(found)
        for path in ("/up/new/dir", "/absolute/../new2", "/a/b/back/../../new3/x"):
            os.close(inroot.make(fd, path))
        assert sorted(os.listdir(root)) == ["a", "absolute", "new", "new2", "new3", "up"]
        assert sorted(os.listdir(tmp_path)) == ["root"]
        file = inroot.make(fd, "/up/deep/file", directory=False)
        os.close(file)
        assert (root / "deep" / "file").is_file()
        assert inroot.find(fd, "/nowhere/x") is None
        with pytest.raises(OSError, match="up"):
            inroot.make(fd, "/up/a", links=False)
    finally:
        os.close(fd)


def test_an_entering_process_takes_no_terminal_from_a_false_devpts(box: Bundle) -> None:
    sets = [*b.CAPABILITIES, "CAP_SYS_ADMIN"]
    everything = Capabilities(bounding=sets, effective=sets, permitted=sets)
    base = with_process(
        spec("umount /dev/pts; mkdir -p /dev/pts; mknod /dev/pts/ptmx c 5 2; echo ready; sleep 60", seccomp=None),
        capabilities=everything,
    )
    with box.created(base) as (birth, group, reading):
        birth.start()
        assert os.read(reading, 100) == b"ready\n"
        with pytest.raises(LaunchFailed, match="terminal"):
            box.enter(b.shell("tty", terminal=True), birth, group, base)


def test_an_interpreter_that_is_the_runtime_itself_cannot_be_written(box: Bundle, tmp_path: Path) -> None:
    """CVE-2019-5736: what executes /proc/self/exe gets the runtime's program, but on a read-only mount."""
    python = tmp_path / "python"
    shutil.copy(os.path.realpath(sys.executable), python)
    # Nobody writes to a program that runs, so the attack holds on to it and executes another one.
    script = (
        "import os\n"
        "fd = os.open('/proc/self/exe', os.O_PATH)\n"
        "os.set_inheritable(fd, True)\n"
        f"os.execv({b.BUSYBOX!r}, ['sh', '-c', f': > /proc/self/fd/{{fd}}'])\n"
    )

    def attack(executable: str, *fds: int) -> str:
        run = subprocess.run(
            [str(python), "-I", "-c", script], executable=executable, pass_fds=fds, capture_output=True, text=True
        )
        return run.stderr

    fd = sealed.program(str(python))
    try:
        assert "Read-only file system" in attack(f"/proc/self/fd/{fd}", fd)
        assert python.stat().st_size > 0
        assert attack(str(python)) == ""
        assert python.stat().st_size == 0
    finally:
        os.close(fd)


async def test_the_zygote_runs_from_such_a_mount(tmp_path: Path) -> None:
    platform = LinuxPlatform(tmp_path / "run", tmp_path / "cache")
    await platform.start()
    try:
        assert platform._zygote is not None
        deadline = time.monotonic() + 10
        # Until it has executed, the child is still the process that starts it.
        while "capsa: zygote" not in Path(f"/proc/{platform._zygote.pid}/cmdline").read_text():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        assert os.statvfs(f"/proc/{platform._zygote.pid}/exe").f_flag & os.ST_RDONLY
    finally:
        await platform.close()


def test_a_created_container_shows_nothing_of_the_runtime(box: Bundle) -> None:
    """In a pid namespace that is not its own, others see it before it has executed anything."""
    with box.created(spec("sleep 60")) as (first, group, _):
        first.start()
        joined = b.with_namespace(spec("true"), "pid", f"/proc/{first.pid}/ns/pid")
        with box.created(joined) as (second, _, _):
            inner = next(
                line.split()[-1]
                for line in Path(f"/proc/{second.pid}/status").read_text().splitlines()
                if line.startswith("NSpid")
            )
            script = f"for f in exe cwd root fd/0 fd/3; do readlink /proc/{inner}/$f; done; cat /proc/{inner}/environ"
            found = box.enter(b.shell(f"({script}) 2>/dev/null; echo end"), first, group, spec())
            assert found.output == "end\n"


def test_an_enormous_environment_is_refused_by_the_kernel_in_a_sentence(box: Bundle) -> None:
    with pytest.raises(LaunchFailed, match="argument list too long"):
        box.run(with_process(spec(), env=["PATH=/bin", "A=" + "x" * 300_000]))


def test_names_of_programs_and_users_may_be_any_bytes(box: Bundle) -> None:
    with pytest.raises(LaunchFailed) as failure:
        box.run(spec(['no"pe\n\x1b[31m']))
    assert failure.value.code == 127
    with pytest.raises(CapsaError):
        container.create(
            msgspec.structs.replace(spec(), process=None),
            id="x",
            bundle=box.path,
            cgroup=None,
            stdio=None,  # type: ignore[arg-type]
        )
