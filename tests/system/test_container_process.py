"""The container's process: user, environment, limits, capabilities, terminal."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from pathlib import Path

import msgspec
import pytest
from fixtures import bundle as b
from fixtures.bundle import Bundle, spec, with_process

from capsa.errors import LaunchFailed
from capsa.oci.runtime import (
    Box,
    Capabilities,
    IOPriority,
    Personality,
    Rlimit,
    Scheduler,
    User,
)
from capsa.sys.call import call

pytestmark = b.NEEDS


def test_user_groups_and_umask(box: Bundle) -> None:
    user = User(uid=1000, gid=1001, umask=0o027, additional_gids=[5, 7])
    assert box.run(with_process(spec("id -u; id -g; id -G; umask"), user=user)).output.split() == [
        *("1000", "1001", "1001", "5", "7", "0027"),
    ]


def test_umask_is_022_by_default(box: Bundle) -> None:
    assert box.run("umask").output == "0022\n"


def test_home_comes_from_the_images_passwd_unless_given(box: Bundle) -> None:
    assert box.run("echo $HOME").output == "/root\n"
    user = with_process(spec("echo $HOME"), user=User(uid=1000, gid=1000))
    assert box.run(user).output == "/home\n"
    assert box.run(with_process(user, env=["PATH=/bin", "HOME=/x"])).output == "/x\n"
    (box.root / "etc" / "passwd").unlink()
    assert box.run("echo $HOME").output == "/\n"


def test_a_fifo_in_place_of_passwd_does_not_block(box: Bundle) -> None:
    (box.root / "etc" / "passwd").unlink()
    os.mkfifo(box.root / "etc" / "passwd")
    assert box.run("echo $HOME").output == "/\n"


def test_environment_is_passed_as_it_is(box: Bundle) -> None:
    wanted = with_process(spec(["env"]), env=["PATH=/bin", "A=1", "B=x=y", "HOME=/"])
    assert box.run(wanted).output.splitlines() == ["PATH=/bin", "A=1", "B=x=y", "HOME=/"]


def test_programs_are_looked_up_in_path(box: Bundle) -> None:
    (box.root / "opt").mkdir()
    (box.root / "opt" / "tool").write_text("#!/bin/sh\necho found\n")
    (box.root / "opt" / "tool").chmod(0o755)
    (box.root / "bin" / "tool").write_text("not executable\n")
    assert box.run(with_process(spec(["tool"]), env=["PATH=/nowhere:/bin:/opt"])).output == "found\n"


def test_a_relative_program_starts_at_the_working_directory(box: Bundle) -> None:
    (box.root / "app").mkdir()
    (box.root / "app" / "start").write_text("#!/bin/sh\necho started in $PWD\n")
    (box.root / "app" / "start").chmod(0o755)
    assert box.run(with_process(spec(["./start"]), cwd="/app")).output == "started in /app\n"
    assert box.run(with_process(spec(["start"]), cwd="/app", env=["PATH=."])).output == "started in /app\n"
    with pytest.raises(LaunchFailed, match="no such file") as failure:
        box.run(spec(["./start"]))
    assert failure.value.code == 127
    with box.created(spec("sleep 60")) as (birth, group, _):
        birth.start()
        assert box.enter(b.process(["./start"], cwd="/app"), birth, group, spec()).output == "started in /app\n"


def test_working_directory_is_made_and_is_inside(box: Bundle) -> None:
    assert box.run(with_process(spec("pwd"), cwd="/srv/new")).output == "/srv/new\n"
    with pytest.raises(LaunchFailed, match="working directory") as failure:
        box.run(with_process(spec("pwd"), cwd="/etc/passwd"))
    assert failure.value.code == 126


@pytest.mark.parametrize("number", range(3, 20))
def test_no_descriptor_of_the_host_serves_as_working_directory(box: Bundle, number: int) -> None:
    """CVE-2024-21626."""
    leak = os.open("/", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        with pytest.raises(LaunchFailed):
            box.run(with_process(spec("pwd; ls .."), cwd=f"/proc/self/fd/{number}"))
    finally:
        os.close(leak)


def test_has_only_the_standard_streams_open(box: Bundle) -> None:
    leak = os.open("/", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        found = box.run("ls /proc/self/fd").output.split()
    finally:
        os.close(leak)
    assert set(found) <= {"0", "1", "2", "3"}  # 3 is the directory that ls reads


def test_capability_sets(box: Bundle) -> None:
    some = ["CAP_CHOWN", "CAP_NET_RAW"]
    sets = Capabilities(
        bounding=["CAP_KILL", *some], effective=some[:1], permitted=some, inheritable=some, ambient=some[1:]
    )
    # A file read by the shell itself: another program would have the sets that the kernel computes for it.
    found = box.run(with_process(spec(["cat", "/proc/self/status"]), capabilities=sets, user=User(uid=1000, gid=1000)))
    values = dict(line.split(":\t") for line in found.output.splitlines() if line.startswith("Cap"))
    assert {name: int(value, 16) for name, value in values.items()} == {
        "CapInh": 1 | 1 << 13,
        "CapPrm": 1 << 13,
        "CapEff": 1 << 13,
        "CapBnd": 1 | 1 << 5 | 1 << 13,
        "CapAmb": 1 << 13,
    }


def test_without_capabilities_root_has_none(box: Bundle) -> None:
    found = box.run(with_process(spec(["cat", "/proc/self/status"]), capabilities=None)).output
    assert "CapEff:\t0000000000000000" in found
    assert "CapBnd:\t0000000000000000" in found


def test_resource_limits(box: Bundle) -> None:
    limits = [Rlimit(type="RLIMIT_NOFILE", soft=100, hard=200), Rlimit(type="RLIMIT_CORE", soft=0, hard=0)]
    assert box.run(with_process(spec("ulimit -Sn; ulimit -Hn; ulimit -c"), rlimits=limits)).output.split() == [
        *("100", "200", "0"),
    ]


def test_a_limit_that_the_kernel_refuses_is_named(box: Bundle) -> None:
    limits = [Rlimit(type="RLIMIT_NOFILE", soft=200, hard=100)]
    with pytest.raises(LaunchFailed, match="RLIMIT_NOFILE to 200:100"):
        box.run(with_process(spec(), rlimits=limits))


def test_no_new_privileges_and_seccomp(box: Bundle) -> None:
    status = spec("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status")
    assert box.run(status).output.split() == ["NoNewPrivs:", "0", "Seccomp:", "2"]
    assert box.run(with_process(status, no_new_privileges=True)).output.split() == [
        *("NoNewPrivs:", "1", "Seccomp:", "2"),
    ]
    assert box.run(spec("grep ^Seccomp: /proc/self/status", seccomp=None)).output.split() == ["Seccomp:", "0"]


def test_oom_score_adj(box: Bundle) -> None:
    wanted = with_process(spec("cat /proc/self/oom_score_adj"), oom_score_adj=500)
    assert box.run(wanted).output == "500\n"


def test_signals_are_as_a_program_expects_them(box: Bundle) -> None:
    # 32 is the C library's own: neither it nor Python sets it, but a parent may have ignored it for us.
    ignored = struct.pack("QQQQ", signal.SIG_IGN, 0, 0, 0)
    hidden = ctypes.create_string_buffer(32)
    call("rt_sigaction", 32, ignored, hidden, 8)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        (ours,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigIgn")]
        assert int(ours.split()[1], 16) & 0x8000_0002 == 0x8000_0002
        found = box.run(spec(["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])).output
    finally:
        call("rt_sigaction", 32, hidden.raw, None, 8)
        signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    assert found == "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"


def test_scheduler_and_io_priority(box: Bundle) -> None:
    wanted = with_process(
        spec("cut -d' ' -f19,41 /proc/self/stat; ionice -p $$"),
        scheduler=Scheduler(policy="SCHED_BATCH", nice=5),
        io_priority=IOPriority(class_="IOPRIO_CLASS_BE", priority=6),
    )
    assert box.run(wanted).output.split("\n")[:2] == ["5 3", "best-effort: prio 6"]


def test_personality(box: Bundle) -> None:
    assert box.run(spec("uname -m", personality=Personality(domain="LINUX32"))).output.strip() in ("i686", "armv8l")


def test_a_terminal_is_the_containers_own(box: Bundle) -> None:
    wanted = with_process(
        spec("tty; stty size; ls -l /dev/console | cut -c1; readlink /proc/self/fd/0; echo x >/dev/console"),
        terminal=True,
        console_size=Box(height=33, width=101),
    )
    assert box.run(wanted) == (0, "/dev/pts/0\n33 101\nc\n/dev/pts/0\nx\n")


def test_a_terminal_needs_devpts(box: Bundle) -> None:
    base = with_process(spec(), terminal=True)
    base = msgspec.structs.replace(base, mounts=[one for one in base.mounts if one.type != "devpts"])
    with pytest.raises(LaunchFailed, match="devpts"):
        box.run(base)


def test_the_user_can_reopen_its_streams(box: Bundle) -> None:
    wanted = with_process(spec("echo out > /dev/stdout; echo err > /dev/stderr"), user=User(uid=1000, gid=1000))
    assert box.run(wanted) == (0, "out\nerr\n")
