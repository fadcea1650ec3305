"""The sub-init: a container outlives engines, keeps its output and its exit code, and does as it is asked."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from fixtures import processes

from capsa.errors import CapsaError, Conflict, LaunchFailed, NotFound
from capsa.oci.runtime import Box, Linux, Memory, Mount, Namespace, Process, Resources, Root, Spec, dumps
from capsa.platform import packets, protocol
from capsa.platform.linux.attendant import LINGER_SECONDS
from capsa.platform.linux.cgroup import Cgroup, remove_parent
from capsa.platform.linux.platform import LinuxPlatform
from capsa.platform.protocol import Attach, Launch, Log, Status
from capsa.platform.sandbox import stream_pair

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

PARENT = f"/capsa-subinit-{os.getpid()}"
PATH = "PATH=/bin:/sbin:/usr/bin:/usr/sbin"


@pytest.fixture(scope="module")
def rootfs(tmp_path_factory):
    """A root file system of busybox."""
    root = tmp_path_factory.mktemp("rootfs")
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("needs busybox-static")
    for name in ("bin", "proc", "dev", "sys", "tmp", "etc"):
        (root / name).mkdir()
    (root / "bin/busybox").write_bytes(busybox.read_bytes())
    (root / "bin/busybox").chmod(0o755)
    for applet in ("sh", "sleep", "cat", "true", "echo", "ls", "stty", "tty", "kill", "yes", "head", "dd", "ps", "seq"):
        (root / "bin" / applet).symlink_to("busybox")
    return root


class Stage:
    """Launches containers on one platform, and takes them down."""

    def __init__(self, tmp_path, rootfs):
        self.dir = tmp_path
        self.rootfs = rootfs
        self.platform = LinuxPlatform(tmp_path / "run", tmp_path / "cache")
        self.sandboxes = []
        self.count = 0

    def launch_config(self, *args, terminal=False, memory=None, namespaces=("pid", "mount", "ipc", "uts"), **options):
        self.count += 1
        name = f"t{os.getpid()}x{self.count}{time.monotonic_ns() % 10**6}"
        bundle = self.dir / name
        bundle.mkdir()
        spec = Spec(
            oci_version="1.2.0",
            root=Root(path=str(self.rootfs), readonly=True),
            process=Process(args=list(args), env=[PATH], terminal=terminal, cwd="/"),
            mounts=[
                Mount(destination="/proc", type="proc", source="proc"),
                Mount(destination="/dev", type="tmpfs", source="tmpfs", options=["nosuid", "mode=755"]),
                Mount(destination="/dev/pts", type="devpts", source="devpts", options=["newinstance", "ptmxmode=0666"]),
            ],
            linux=Linux(
                namespaces=[Namespace(type=kind) for kind in namespaces],
                cgroups_path=f"{PARENT}/{name}",
                resources=Resources(memory=Memory(limit=memory)) if memory else None,
            ),
        )
        (bundle / "config.json").write_bytes(dumps(spec))
        options.setdefault("log", Log(path=str(bundle / "log")))
        return Launch(
            id=name,
            bundle=str(bundle),
            control=str(self.platform.control(name)),
            cache=str(self.dir / "cache"),
            **options,
        )

    async def launch(self, *args, fds=(), **options):
        sandbox = await self.platform.launch(self.launch_config(*args, **options), fds)
        sandbox.reports = []
        sandbox.on_report = sandbox.reports.append
        self.sandboxes.append(sandbox)
        return sandbox

    def log(self, sandbox):
        path = self.dir / sandbox.id / "log"
        return "".join(json.loads(line)["log"] for line in path.read_text().splitlines())

    async def exited(self, sandbox, seconds=20):
        for _ in range(int(seconds / 0.01)):
            if sandbox.status.state == "exited":
                return sandbox.status
            await asyncio.sleep(0.01)
        raise AssertionError(f"still {sandbox.status}")

    async def close(self):
        for sandbox in self.sandboxes:
            if not sandbox.alive:
                continue
            try:
                if sandbox.status.state != "exited":
                    await sandbox.request(protocol.Signal(signal=signal.SIGKILL, all=True))
                    await self.exited(sandbox)
                await sandbox.request(protocol.Release())
                await sandbox.ended()
            except CapsaError:
                pass
            sandbox.close()
        await self.platform.close()


@pytest.fixture
async def box(tmp_path, rootfs):
    box = Stage(tmp_path, rootfs)
    await box.platform.start()
    yield box
    await box.close()
    remove_parent(PARENT)


async def read_until(end, wanted, seconds=10):
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(seconds):
        while wanted not in data:
            piece = await loop.sock_recv(end, 65536)
            if not piece:
                break
            data += piece
    assert wanted in data, data
    return data


async def test_output_is_logged_and_the_exit_code_is_held_until_released(box):
    sandbox = await box.launch("sh", "-c", "echo hello; echo oops >&2; exit 42")
    status = await box.exited(sandbox)
    assert status.exit_code == 42
    assert status.finished_at >= status.started_at > 0
    assert box.log(sandbox) == "hello\noops\n"
    kept = msgspec.json.decode((box.dir / sandbox.id / "exit.json").read_bytes(), type=protocol.Status)
    assert kept.exit_code == 42
    assert await sandbox.request(protocol.Release()) == protocol.Unmounting()
    await sandbox.ended()
    assert not box.platform.control(sandbox.id).parent.exists()


async def test_a_signal_ends_it_with_128_and_the_signal(box):
    sandbox = await box.launch("sleep", "1000")
    await sandbox.request(protocol.Signal(signal=signal.SIGKILL))
    assert (await box.exited(sandbox)).exit_code == 137


async def test_a_missing_command_is_127_and_leaves_nothing(box):
    with pytest.raises(LaunchFailed, match="nonesuch") as caught:
        await box.launch("nonesuch")
    assert caught.value.code == 127
    assert list((box.dir / "run/containers").iterdir()) == []


async def test_a_malformed_specification_is_one_sentence(box):
    launch = box.launch_config("true")
    Path(launch.bundle, "config.json").write_text('{"ociVersion": "1.0", "process": {"args": 5}}')
    with pytest.raises(CapsaError, match=r"\$\.process\.args"):
        await box.platform.launch(launch)
    assert list((box.dir / "run/containers").iterdir()) == []


async def test_an_attached_stream_carries_input_and_framed_output(box):
    ours, theirs = stream_pair()
    with ours, theirs:
        sandbox = await box.launch(
            "cat", fds=[theirs.fileno()], stdin=True, stdin_once=True, attach=[Attach(stdin=True, stdout=True)]
        )
        theirs.close()
        ours.send(b"echoed\n")
        assert await read_until(ours, b"echoed\n") == b"\1\0\0\0\0\0\0\7echoed\n"
        ours.shutdown(1)
        assert (await box.exited(sandbox)).exit_code == 0


async def test_a_second_client_can_attach_and_leave_without_harm(box):
    sandbox = await box.launch("cat", stdin=True)
    for _ in range(3):
        ours, theirs = stream_pair()
        with ours, theirs:
            await sandbox.request(protocol.AttachTo(attach=Attach(stdin=True, stdout=True)), [theirs.fileno()])
            theirs.close()
            ours.send(b"again\n")
            await read_until(ours, b"again\n")
    assert box.log(sandbox) == "again\n" * 3


async def test_a_terminal_has_the_size_that_was_asked_for_and_can_be_resized(box):
    ours, theirs = stream_pair()
    with ours, theirs:
        sandbox = await box.launch(
            "sh", terminal=True, stdin=True, fds=[theirs.fileno()], attach=[Attach(stdin=True, stdout=True)]
        )
        theirs.close()
        await sandbox.request(protocol.Resize(height=33, width=111))
        ours.send(b"stty size; exit 3\n")
        assert b"33 111" in await read_until(ours, b"33 111")
        assert (await box.exited(sandbox)).exit_code == 3


async def test_exec_runs_beside_the_main_process_and_reports_its_exit_code(box):
    sandbox = await box.launch("sleep", "1000")
    ours, theirs = stream_pair()
    with ours, theirs:
        process = Process(args=["sh", "-c", "read x; echo got $x; exit 9"], env=[PATH], cwd="/")
        command = protocol.Exec(exec="e1", process=process, stdin=True, attach=[Attach(stdin=True, stdout=True)])
        started = await sandbox.request(command, [theirs.fileno()])
        theirs.close()
        assert isinstance(started, protocol.Started) and started.pid > 1
        ours.send(b"input\n")
        await read_until(ours, b"got input\n")
    for _ in range(500):
        if any(isinstance(report, protocol.ExecExited) for report in sandbox.reports):
            break
        await asyncio.sleep(0.01)
    (report,) = [report for report in sandbox.reports if isinstance(report, protocol.ExecExited)]
    assert (report.exec, report.exit_code) == ("e1", 9)
    assert sandbox.status.state == "running"


async def test_exec_of_a_missing_command_is_127_and_harmless(box):
    sandbox = await box.launch("sleep", "1000")
    with pytest.raises(LaunchFailed) as caught:
        await sandbox.request(protocol.Exec(exec="e", process=Process(args=["nonesuch"], env=[PATH], cwd="/")))
    assert caught.value.code == 127
    assert sandbox.status.state == "running"


async def test_an_exec_with_a_terminal_is_resized_on_its_own(box):
    sandbox = await box.launch("sleep", "1000")
    ours, theirs = stream_pair()
    with ours, theirs:
        process = Process(args=["sh"], env=[PATH], cwd="/", terminal=True, console_size=Box(height=20, width=77))
        await sandbox.request(
            protocol.Exec(exec="tty", process=process, stdin=True, attach=[Attach(stdin=True, stdout=True)]),
            [theirs.fileno()],
        )
        theirs.close()
        ours.send(b"stty size\n")
        await read_until(ours, b"20 77")
        await sandbox.request(protocol.Resize(exec="tty", height=10, width=50))
        ours.send(b"stty size\n")
        await read_until(ours, b"10 50")
    with pytest.raises(NotFound):
        await sandbox.request(protocol.Resize(exec="other", height=1, width=1))


async def test_pause_stops_all_processes_and_resume_lets_them_go_on(box):
    sandbox = await box.launch("sh", "-c", "while true; do echo tick; sleep 0.02; done")
    await asyncio.sleep(0.2)
    await sandbox.request(protocol.Pause())
    assert sandbox.status.state == "paused"
    with pytest.raises(Conflict):
        await sandbox.request(protocol.Pause())
    await asyncio.sleep(0.1)
    before = len(box.log(sandbox))
    await asyncio.sleep(0.3)
    assert len(box.log(sandbox)) == before
    await sandbox.request(protocol.Resume())
    for _ in range(200):
        if len(box.log(sandbox)) > before:
            break
        await asyncio.sleep(0.02)
    assert len(box.log(sandbox)) > before


async def test_a_paused_container_can_be_killed(box):
    sandbox = await box.launch("sleep", "1000")
    await sandbox.request(protocol.Pause())
    await sandbox.request(protocol.Signal(signal=signal.SIGKILL, all=True))
    assert (await box.exited(sandbox)).exit_code == 137


async def test_another_engine_finds_the_container_again_and_nothing_was_lost(box):
    sandbox = await box.launch("sh", "-c", "for i in $(seq 0 299); do echo line $i; sleep 0.002; done; exit 5")
    sandbox.close()  # as an engine that was killed
    await box.platform.close()
    await asyncio.sleep(0.1)
    again = await box.platform.reconnect(sandbox.id)
    assert again is not None
    box.sandboxes.append(again)
    assert again.status.state in ("running", "exited")
    assert (await box.exited(again)).exit_code == 5
    assert box.log(again).splitlines() == [f"line {number}" for number in range(300)]


async def test_an_exit_that_no_engine_saw_is_told_to_the_next(box):
    sandbox = await box.launch("sh", "-c", "sleep 0.2; exit 6")
    sandbox.close()
    await asyncio.sleep(0.6)
    again = await box.platform.reconnect(sandbox.id)
    assert again is not None
    box.sandboxes.append(again)
    assert (again.status.state, again.status.exit_code) == ("exited", 6)


async def test_there_is_nobody_to_reconnect_to_after_the_release(box):
    sandbox = await box.launch("true")
    await box.exited(sandbox)
    await sandbox.request(protocol.Release())
    assert await box.platform.reconnect(sandbox.id) is None


async def test_a_killed_sub_init_takes_its_container_with_it(box):
    sandbox = await box.launch("sh", "-c", "sleep 1000 & sleep 1000")
    lost = asyncio.Event()
    sandbox.on_lost = lost.set
    pid = sandbox.status.pid
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    async with asyncio.timeout(10):
        await lost.wait()
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists():
            break
        await asyncio.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()
    cgroup = Cgroup.open(f"{PARENT}/{sandbox.id}")
    cgroup.kill()
    cgroup.remove()


async def test_a_quiet_sub_init_works_on_when_woken_and_what_it_knew_is_kept(box):
    sandbox = await box.launch("sh", "-c", "printf half; sleep 5; echo ' a line'; cat", stdin=True)
    await asyncio.sleep(LINGER_SECONDS + 1)
    pid = sandbox.status.pid
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    assert children == [str(pid)], "the attendant should have left"
    for _ in range(600):
        if "line" in box.log(sandbox):
            break
        await asyncio.sleep(0.02)
    assert box.log(sandbox) == "half a line\n"
    ours, theirs = stream_pair()
    with ours, theirs:
        await sandbox.request(protocol.AttachTo(attach=Attach(stdin=True, stdout=True)), [theirs.fileno()])
        theirs.close()
        ours.send(b"still here\n")
        await read_until(ours, b"still here\n")
    again = await box.platform.reconnect(sandbox.id)
    assert again is not None and again.status.pid == pid
    again.close()


async def test_an_end_while_nobody_attends_is_reported(box):
    sandbox = await box.launch("sh", "-c", f"sleep {LINGER_SECONDS + 1.5}; exit 21")
    assert (await box.exited(sandbox, 30)).exit_code == 21


async def test_running_out_of_memory_is_noticed(box):
    sandbox = await box.launch("sh", "-c", "x=0123456789; while true; do x=$x$x; done", memory=16 << 20)
    status = await box.exited(sandbox, 60)
    assert status.exit_code == 137
    assert status.out_of_memory


async def test_processes_that_share_the_hosts_pid_namespace_end_with_the_first_one(box):
    sandbox = await box.launch("sh", "-c", "sleep 1234.5 & exit 0", namespaces=("mount", "ipc", "uts"))
    assert (await box.exited(sandbox)).exit_code == 0
    await sandbox.request(protocol.Release())
    assert not any("1234.5" in processes.title(pid) for pid in processes.every())


async def test_many_lines_at_once_all_arrive(box):
    sandbox = await box.launch("seq", "1", "200000")
    status = await box.exited(sandbox, 60)
    assert status.exit_code == 0
    assert box.log(sandbox).splitlines() == [str(number) for number in range(1, 200001)]


LATE = """
import os, signal, sys, time
from capsa.platform.linux import subinit

enter = subinit._Life.__enter__

def late(life):
    while os.getppid() == life._parent:
        time.sleep(0.01)
    enter(life)

subinit._Life.__enter__ = late
subinit.main(int(sys.argv[1]), int(sys.argv[2]))
"""


def test_an_attendant_whose_sub_init_dies_before_they_are_tied_takes_no_launch():
    engine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    taken, take = os.pipe()
    fds = (theirs.fileno(), take)
    sub_init = subprocess.Popen([sys.executable, "-c", LATE, *map(str, fds)], pass_fds=fds)
    theirs.close()
    os.close(take)
    children = Path(f"/proc/{sub_init.pid}/task/{sub_init.pid}/children")
    deadline = time.monotonic() + 30
    while not children.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    engine.send(b"{}")
    sub_init.kill()
    sub_init.wait()
    assert os.read(taken, 1) == b""
    os.close(taken)
    engine.close()


DYING = """
import os, sys
from capsa.platform.linux import subinit, zygote

main = subinit.main

def dying(engine, take):
    if not os.path.exists(sys.argv[2]):
        os._exit(1)
    main(engine, take)

subinit.main = dying
zygote.main()
"""


def test_a_launch_is_refused_where_each_sub_init_dies_and_the_next_one_may_live(tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    well = tmp_path / "well"
    words = [sys.executable, "-c", DYING, str(theirs.fileno()), str(well)]
    zygote = subprocess.Popen(words, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        for _ in range(2):
            failed = launched(ours)
            assert failed.state == "failed" and "each sub-init ends before" in failed.failure.message
        well.touch()
        # One that lives takes it, and has no answer to an empty launch; one more may be dying just now.
        assert None in (launched(ours), launched(ours))
        ours.close()
        assert zygote.wait(20) == 0
    finally:
        zygote.kill()
        zygote.wait()


def launched(zygote: socket.socket) -> Status | None:
    """What is answered to a launch; None for nothing."""
    end, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with end:
        end.settimeout(30)
        with control:
            socket.send_fds(zygote, [b"{}"], [control.fileno()])
        packet = packets.receive(end)
    return packet and msgspec.json.decode(packet[0], type=Status)
