"""``capsa-runtime checkpoint`` and ``restore``, seen in the guest (see run.py). Not collected by itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fixtures.bundle import bound, spec, with_mounts, with_namespace, with_process
from fixtures.runtime import COMMAND, RuntimeUnderTest
from fixtures.wait import until

from capsa.oci.runtime import Hook, Hooks, IDMapping, Memory, Resources, Spec

# What it says from then on shows that it is the same program, which has not begun again.
COUNTING = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done"


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[RuntimeUnderTest]:
    made = RuntimeUnderTest(tmp_path)
    try:
        yield made
    finally:
        made.close()
    assert not made.traces()


pytestmark = pytest.mark.skipif(shutil.which("criu") is None, reason="needs Debian's criu")


@pytest.fixture
def images(tmp_path: Path) -> str:
    return str(tmp_path / "images")


def begin(oci: RuntimeUnderTest, wanted: Spec) -> None:
    oci.write(wanted)
    oci.create()
    oci("start", "box")
    until(lambda: oci.output != "")


def restored(oci: RuntimeUnderTest, images: str, *words: str) -> None:
    with (oci.base / "output").open("ab") as output:
        words = ("restore", "--detach", "--image-path", images, *words, "box")
        done = subprocess.run(
            oci.arguments(*words),
            cwd=oci.bundle,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 0, done.stderr


def counted(oci: RuntimeUnderTest) -> list[int]:
    return [int(line) for line in oci.output.split()]


def add_flock(oci: RuntimeUnderTest) -> None:
    """The host's program, with what it needs."""
    found = subprocess.run(["ldd", "/usr/bin/flock"], capture_output=True, text=True, check=True).stdout
    for path in ["/usr/bin/flock", *(word for word in found.split() if word.startswith("/"))]:
        target = oci.root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def unit() -> str:
    words = ["systemctl", "show", "--property", "ActiveState", "--value", "engine-box.scope"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()


def test_a_program_goes_on_where_it_was(oci: RuntimeUnderTest, images: str) -> None:
    """With a scope that is made again, and mounts from outside, of which CRIU forgets to make some read-only."""
    oci.command = (*COMMAND, "--systemd-cgroup")
    add_flock(oci)
    shared = oci.base / "shared"
    shared.mkdir()
    (shared / "file").write_text("outside\n")
    wanted = with_mounts(
        spec(
            f"exec 9>/lock; /usr/bin/flock 9; {COUNTING}",
            resources=Resources(memory=Memory(limit=64 << 20)),
            cgroups_path="capsa-test.slice:engine:box",
        ),
        bound(shared, "/rw"),
        bound(shared, "/ro1", "ro", "nosuid"),
        bound(shared, "/ro2", "ro", "nosuid"),
        bound(shared / "file", "/etc/file", "ro"),
    )
    begin(oci, wanted)
    before = oci("exec", "box", "cat", "/proc/mounts").stdout
    oci("checkpoint", "--image-path", images, "--work-path", str(oci.base / "work"), "--file-locks", "box")
    assert oci.status() == "gone" and unit() == "inactive"
    assert (oci.base / "work" / "dump.log").exists() and (Path(images) / "inventory.img").exists()
    last = counted(oci)[-1]
    restored(oci, images, "--file-locks", "--pid-file", str(oci.base / "pid"))
    until(lambda: counted(oci)[-1] > last + 1)
    assert counted(oci) == list(range(1, len(counted(oci)) + 1))
    state = oci.state()
    assert state["status"] == "running" and state["pid"] == int((oci.base / "pid").read_text())
    group = "/capsa.slice/capsa-test.slice/engine-box.scope"
    assert unit() == "active" and Path(f"/proc/{state['pid']}/cgroup").read_text() == f"0::{group}\n"
    assert Path(f"/sys/fs/cgroup{group}/memory.max").read_text() == f"{64 << 20}\n"

    def options(mounts: str) -> dict[str, list[str]]:
        return {line.split()[1]: line.split()[3].split(",")[:3] for line in mounts.splitlines()}

    script = (
        "cat /proc/mounts; echo written >/rw/new; cat /etc/file; flock -n /lock true || echo locked; ip link show lo"
    )
    lines = oci("exec", "box", "sh", "-c", script).stdout.splitlines()
    assert options("\n".join(line for line in lines if len(line.split()) == 6)) == options(before)
    assert "outside" in lines and "locked" in lines and (shared / "new").read_text() == "written\n"
    assert any("LOOPBACK,UP" in line for line in lines)
    oci("delete", "--force", "box")
    assert unit() == "inactive"


def test_in_the_foreground_with_new_pipes(oci: RuntimeUnderTest, images: str) -> None:
    """Memory is written beforehand while the program goes on; in the end it has other streams, and hooks run again."""
    hook = [Hook(path="/bin/sh", args=["sh", "-c", f"cat >>{oci.base}/told; echo >>{oci.base}/told"])]
    wanted = spec("trap 'echo got it; exit 7' TERM; echo ready; while :; do sleep 0.1; done")
    oci.write(msgspec.structs.replace(wanted, hooks=Hooks(create_runtime=hook, poststop=hook)))
    pipes = {"cwd": oci.bundle, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    first = subprocess.Popen(oci.arguments("run", "box"), **pipes)  # type: ignore[call-overload]
    assert first.stdout.readline() == b"ready\n"
    oci("checkpoint", "--pre-dump", "--image-path", f"{images}/1", "box")
    assert oci.status() == "running"
    words = ("--image-path", f"{images}/2", "--parent-path", "../1", "--auto-dedup")
    oci("checkpoint", *words, "--leave-running", "box")
    assert oci.status() == "running" and (Path(images) / "2" / "parent").is_symlink()
    oci("kill", "box", "KILL")
    assert first.wait(60) == 137
    words = ("restore", "--image-path", f"{images}/2", "box")
    second = subprocess.Popen(oci.arguments(*words), **pipes)  # type: ignore[call-overload]
    until(lambda: oci.status() == "running")
    second.send_signal(signal.SIGTERM)
    assert second.stdout.read() == b"got it\n", second.stderr.read()
    assert second.wait(60) == 7 and oci.status() == "gone"
    told = (oci.base / "told").read_text().split("\n")
    assert [json.loads(line)["status"] for line in told if line] == ["creating", "stopped", "creating", "stopped"]


@contextlib.contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        yield server


def received(server: socket.socket) -> int:
    server.settimeout(60)
    with server.accept()[0] as connection:
        return socket.recv_fds(connection, 100, 1)[1][0]


def test_a_terminal_has_a_new_master_and_what_fails_leaves_nothing(oci: RuntimeUnderTest, images: str) -> None:
    bare = with_process(spec("while read word; do echo got $word; done"), terminal=True)
    oci.write(with_mounts(bare, bound(oci.base, "/outside")))
    console = str(oci.base / "console")
    with listening(console) as server:
        oci("create", "--console-socket", console, "box")
        master = received(server)
        oci("start", "box")
        os.write(master, b"one\n")
        until(lambda: b"got one" in os.read(master, 1000))
        oci("pause", "box")
        oci("checkpoint", "--image-path", images, "box")
        os.close(master)

        def refused(images: str, *words: str) -> str:
            done = oci("restore", "--detach", "--image-path", images, *words, "box", check=False)
            assert done.returncode == 1 and not oci.traces()
            return done.stderr

        assert "name a --console-socket" in refused(images)
        broken = shutil.copytree(images, f"{images}-broken")
        Path(broken, "core-1.img").unlink()
        said = refused(broken, "--console-socket", console)
        assert "CRIU cannot restore container box: " in said and "restore.log" in said
        assert "is no checkpoint" in refused(str(oci.bundle), "--console-socket", console)
        oci.write(bare)
        said = refused(images, "--console-socket", console)
        assert "a mount at /outside, and the bundle says nothing of it" in said
        oci.write(with_mounts(bare, bound(oci.base, "/outside")))
        restored(oci, images, "--console-socket", console)
        master = received(server)
        os.write(master, b"two\n")
        until(lambda: b"got two" in os.read(master, 1000))
        os.close(master)


def test_connections_and_namespaces_of_others(oci: RuntimeUnderTest, images: str) -> None:
    """The network is somebody else's, as a pod's is, with a connection in it."""
    subprocess.run(["ip", "netns", "add", "pod"], check=True)
    try:
        subprocess.run(["ip", "-n", "pod", "link", "set", "lo", "up"], check=True)
        client = "mkfifo /quiet; exec 8<>/quiet; until nc 127.0.0.1 99 <&8; do sleep 0.1; done"
        script = f"(while :; do echo word; sleep 0.2; done) | nc -l -p 99 & {client} 2>/dev/null"
        Path("/run/pod").touch()
        subprocess.run(["unshare", "--ipc=/run/pod", "true"], check=True)
        begin(oci, with_namespace(with_namespace(spec(script), "network", "/run/netns/pod"), "ipc", "/run/pod"))
        oci("checkpoint", "--image-path", images, "--tcp-established", "box")
        size = len(oci.output)
        restored(oci, images, "--tcp-established")
        until(lambda: len(oci.output) > size + 10)
        pid = oci.state()["pid"]
        assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/run/netns/pod").st_ino
        assert os.stat(f"/proc/{pid}/ns/ipc").st_ino == os.stat("/run/pod").st_ino
        oci("delete", "--force", "box")
    finally:
        subprocess.run(["ip", "netns", "delete", "pod"], check=True)
        subprocess.run(["umount", "/run/pod"], check=False)


@pytest.fixture
def disk() -> Iterator[Path]:
    """A file system that can map ids with any kernel, which tmpfs cannot."""
    image, place = Path("/run/guest/criu-disk"), Path("/run/guest/criu-mounted")
    subprocess.run(["modprobe", "loop"], check=True)
    with image.open("wb") as file:
        file.truncate(64 << 20)
    place.mkdir()
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True)
    subprocess.run(["busybox", "losetup", "/dev/loop1", str(image)], check=True)
    subprocess.run(["mount", "-t", "ext4", "/dev/loop1", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)
    subprocess.run(["busybox", "losetup", "-d", "/dev/loop1"], check=True)


@pytest.fixture
def plain() -> Iterator[Path]:
    """A file system that cannot map ids with any kernel."""
    place = Path("/run/guest/criu-plain")
    place.mkdir()
    subprocess.run(["mount", "-t", "ramfs", "ramfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_user_namespace(oci: RuntimeUnderTest, images: str, disk: Path, plain: Path) -> None:
    """Its processes read their images as its own root, from a file system that can show them as that one's."""
    wanted = with_namespace(spec(COUNTING), "user")
    assert wanted.linux is not None
    wanted.linux.uid_mappings = wanted.linux.gid_mappings = [IDMapping(container_id=0, host_id=100000, size=65536)]
    for path in (oci.root, *oci.root.rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    output = oci.base / "output"
    output.touch()
    output.chmod(0o666)  # CRIU has it opened anew, by one whom the file does not belong to
    begin(oci, wanted)
    oci("checkpoint", "--image-path", images, "box")
    shutil.copytree(images, plain / "images")
    done = oci("restore", "--detach", "--image-path", str(plain / "images"), "box", check=False)
    assert f"{plain}/images: the container has a user namespace" in done.stderr and not oci.traces()
    shutil.copytree(images, disk / "images")
    last = counted(oci)[-1]
    restored(oci, str(disk / "images"))
    until(lambda: counted(oci)[-1] > last + 1)
    assert counted(oci) == list(range(1, len(counted(oci)) + 1))
    assert Path(f"/proc/{oci.state()['pid']}/uid_map").read_text().split() == ["0", "100000", "65536"]
    oci("delete", "--force", "box")
