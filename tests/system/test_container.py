"""Containers of the Linux platform: their life, and what is left when it fails."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures import bundle as b
from fixtures.bundle import Bundle, bound, spec, with_mounts, with_process

from capsa.errors import CapsaError, LaunchFailed
from capsa.oci.runtime import (
    Capabilities,
    IntelRdt,
    IOPriority,
    Mount,
    Namespace,
    Personality,
    Rlimit,
    Scheduler,
    User,
)
from capsa.platform.linux import birth
from capsa.platform.linux.cgroup import Cgroup
from capsa.platform.linux.cgroup.group import remove_parent

pytestmark = b.NEEDS


# ---- life ----


def test_runs_a_program_and_its_exit_code_is_the_programs(box: Bundle) -> None:
    assert box.run("echo hello; exit 7") == (7, "hello\n")


def test_waits_between_create_and_start(box: Bundle, tmp_path: Path) -> None:
    marker = box.root / "tmp" / "ran"
    with box.created(spec("touch /tmp/ran")) as (birth, _, _):
        assert Path(f"/proc/{birth.pid}").exists()
        assert not marker.exists()
        birth.start()
        assert b.wait(birth.pid) == 0
    assert marker.exists()


def test_is_a_child_of_its_caller_and_the_first_of_its_pid_namespace(box: Bundle) -> None:
    with box.created(spec("echo $$; sleep 60")) as (birth, _, reading):
        birth.start()
        assert os.read(reading, 100) == b"1\n"
        status = Path(f"/proc/{birth.pid}/status").read_text()
        assert f"PPid:\t{os.getpid()}\n" in status


def test_abort_ends_it_and_may_be_repeated(box: Bundle) -> None:
    with box.created(spec("sleep 60")) as (birth, _, _):
        birth.abort()
        assert not Path(f"/proc/{birth.pid}").exists()
        birth.abort()


def test_dies_with_its_caller(box: Bundle) -> None:
    reading, writing = os.pipe()
    caller = os.fork()
    if caller == 0:
        try:
            with box.created(with_process(spec("sleep 60"), user=User(uid=1000, gid=1000))) as (birth, _, _):
                birth.start()
                os.write(writing, str(birth.pid).encode())
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(writing)
    pid = int(os.read(reading, 20))
    os.close(reading)
    assert Path(f"/proc/{pid}").exists()
    os.kill(caller, 9)
    os.waitpid(caller, 0)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()
    group = Cgroup.open(f"/capsa-test-{os.getpid()}/1")
    group.remove()
    remove_parent(f"/capsa-test-{os.getpid()}")


def test_dies_with_its_caller_while_it_changes_its_user(box: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel forgets then that it is to die with its parent; here it is never told, and takes its time."""
    become = birth.process.become

    def slowly(*arguments: Any) -> None:
        time.sleep(1)
        become(*arguments)

    reading, writing = os.pipe()
    caller = os.fork()
    if caller == 0:
        try:
            monkeypatch.setattr(birth, "tie", lambda: None)
            monkeypatch.setattr(birth.process, "become", slowly)
            with box.created(spec("touch /tmp/ran")) as (made, _, _):
                made.tell()
                os.write(writing, str(made.pid).encode())
                os.kill(os.getpid(), 9)
        finally:
            os._exit(1)
    os.close(writing)
    pid = int(os.read(reading, 20))
    os.close(reading)
    os.waitpid(caller, 0)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists() and not (box.root / "tmp" / "ran").exists()
    Cgroup.open(f"/capsa-test-{os.getpid()}/1").remove()
    remove_parent(f"/capsa-test-{os.getpid()}")


# ---- failure ----


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nope"], 127, 'exec: "nope": executable file not found in $PATH'),
        (["/bin/nope"], 127, 'exec: "/bin/nope": stat /bin/nope: no such file or directory'),
        (["/etc/passwd"], 126, 'exec: "/etc/passwd": permission denied'),
        (["/etc"], 126, 'exec: "/etc": is a directory'),
        (["/script"], 126, 'exec: "/script": exec format error'),
        (["/orphan"], 127, "interpreter is missing"),
    ],
)
def test_a_program_that_cannot_run_is_told_with_dockers_code(
    box: Bundle, args: list[str], code: int, words: str
) -> None:
    (box.root / "script").write_text("no magic\n")
    (box.root / "orphan").write_text("#!/no/such/interpreter\n")
    for name in ("script", "orphan"):
        (box.root / name).chmod(0o755)
    with pytest.raises(LaunchFailed) as failure:
        box.run(spec(args))
    assert words in str(failure.value)
    assert failure.value.code == code


def test_a_failure_names_the_step(box: Bundle) -> None:
    with pytest.raises(LaunchFailed, match=r"cannot mount /no/such/place at /data: no such file or directory"):
        box.run(with_mounts(spec(), bound(Path("/no/such/place"), "/data")))
    with pytest.raises(LaunchFailed, match=r"cannot mount nosuchfs at /data"):
        box.run(with_mounts(spec(), Mount(destination="/data", type="nosuchfs")))


def test_a_failed_creation_leaves_no_process_and_no_descriptor(box: Bundle) -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = len(os.listdir("/proc/self/fd")), children.read_text()
    for _ in range(3):
        with pytest.raises(CapsaError):
            box.run(with_mounts(spec(), bound(Path("/no/such/place"), "/data")))
        with pytest.raises(CapsaError):
            box.run(spec(["nope"]))
        with pytest.raises(CapsaError):
            box.run(spec(["/etc"]))
    assert (len(os.listdir("/proc/self/fd")), children.read_text()) == before


def test_a_run_leaves_no_descriptor(box: Bundle) -> None:
    box.run("true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        box.run("true")
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mount_label": "system_u:object_r:x"}, "mountLabel"),
        ({"intel_rdt": IntelRdt(clos_id="x")}, "intelRdt"),
        ({"namespaces": [Namespace(type="pid")]}, "without a mount namespace"),
        ({"namespaces": [Namespace(type="mount"), Namespace(type="mount")]}, "listed twice"),
        ({"rootfs_propagation": "sideways"}, "rootfsPropagation"),
        ({"personality": Personality(domain="MINIX")}, "personality"),
        ({"sysctl": {"vm.swappiness": "1"}}, "not in a separate kernel namespace"),
        ({"sysctl": {"net/../vm/swappiness": "1"}}, "no name of a sysctl"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(box: Bundle, change: dict[str, object], words: str) -> None:
    with pytest.raises(CapsaError, match=words):
        box.run(spec("true", **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"apparmor_profile": "no-such-profile"}, "AppArmor|no-such-profile"),
        ({"selinux_label": "system_u:system_r:x"}, "SELinux"),
        ({"args": []}, "no args"),
        ({"cwd": "relative"}, "absolute"),
        ({"rlimits": [Rlimit(type="RLIMIT_FUN", soft=1, hard=1)]}, "RLIMIT_FUN"),
        ({"capabilities": Capabilities(bounding=["CAP_FLY"])}, "CAP_FLY"),
        ({"scheduler": Scheduler(policy="SCHED_LUCKY")}, "SCHED_LUCKY"),
        ({"io_priority": IOPriority(class_="IOPRIO_CLASS_X")}, "IOPRIO_CLASS_X"),
        ({"args": ["a\0b"]}, "zero byte"),
    ],
)
def test_a_process_that_cannot_be_meant_is_refused(box: Bundle, change: dict[str, object], words: str) -> None:
    with pytest.raises(CapsaError, match=words):
        box.run(with_process(spec(), **change))


# ---- init ----


def test_an_init_reaps_orphans_passes_signals_and_keeps_the_exit_code(box: Bundle) -> None:
    assert box.run(spec("echo $PPID; exit 5"), init=True) == (5, "1\n")
    assert (
        box.run(spec("(sleep 0.1 &); sleep 0.4; cut -d' ' -f3 /proc/[0-9]*/stat | grep -c Z"), init=True).output
        == "0\n"
    )
    with box.created(spec("trap 'echo got; exit 9' TERM; echo up; sleep 60 & wait"), init=True) as (birth, _, reading):
        birth.start()
        assert os.read(reading, 10) == b"up\n"
        os.kill(birth.pid, 15)
        assert b.read_all(reading) == "got\n"
        assert b.wait(birth.pid) == 9
    assert box.run(spec("kill -9 $$"), init=True).code == 137


def test_with_an_init_a_missing_program_is_still_told(box: Bundle) -> None:
    with pytest.raises(LaunchFailed, match="permission denied") as failure:
        box.run(spec(["/etc/passwd"]), init=True)
    assert failure.value.code == 126


def test_the_init_has_no_privileges_and_nothing_open(box: Bundle) -> None:
    base = with_process(spec("sleep 60"), user=User(uid=1000, gid=1000), terminal=False)
    with box.created(base, init=True) as (birth, _, _):
        birth.start()
        deadline = time.monotonic() + 10
        while "capsa-init" not in Path(f"/proc/{birth.pid}/comm").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        status = Path(f"/proc/{birth.pid}/status").read_text()
        assert "Uid:\t1000" in status
        assert os.listdir(f"/proc/{birth.pid}/fd") == []
