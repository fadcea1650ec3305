"""What capsa-runtime makes of specifications that leave something out, or ask for what there is not."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fixtures.bundle import NEEDS, bound, capabilities, spec, with_mounts, with_process, without
from fixtures.runtime import RuntimeUnderTest, runtime
from fixtures.wait import until

from capsa.oci.runtime import Mount, Root

pytestmark = NEEDS


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[RuntimeUnderTest]:
    with runtime(tmp_path) as made:
        yield made


def test_capabilities_that_nobody_can_grant_are_warned_of(oci: RuntimeUnderTest) -> None:
    oci.write(with_process(spec("grep CapBnd /proc/self/status"), capabilities=capabilities("CAP_FLY", "CAP_CHOWN")))
    log = oci.base / "log"
    done = oci("--log", str(log), "--log-format", "json", "run", "box")
    assert done.stdout.split() == ["CapBnd:", "0000000000000001"] and done.stderr == ""
    entry = json.loads(log.read_text())
    assert entry["level"] == "warning" and "CAP_FLY" in entry["msg"] and "CAP_CHOWN" not in entry["msg"]
    oci.write(with_process(spec("sleep 1000"), capabilities=capabilities("CAP_CHOWN")))
    oci.create()
    oci("start", "box")
    done = oci("exec", "--cap", "CAP_FLY", "box", "grep", "CapBnd", "/proc/self/status")
    assert done.stdout.split()[1] == "0000000000000001" and "warning: left out" in done.stderr


def test_without_a_mount_namespace_the_mounts_are_the_callers_and_gone_with_the_container(
    oci: RuntimeUnderTest,
) -> None:
    oci.write(without(spec("touch /tmp/mark; sleep 1000"), "mount"))
    oci.create()
    assert os.readlink(f"/proc/{oci.state()['pid']}/ns/mnt") == os.readlink("/proc/self/ns/mnt")
    assert os.path.ismount(oci.root / "proc")
    oci("start", "box")
    until((oci.root / "tmp" / "mark").exists)
    assert oci("exec", "box", "ls", "/tmp").stdout == "mark\n"  # and not the host's
    oci("delete", "--force", "box")
    assert not oci.traces()
    oci.write(with_process(without(spec(), "mount"), args=["nothing-like-it"]))
    assert oci("run", "box", check=False).returncode == 1
    assert not oci.traces()
    oci.write(msgspec.structs.replace(without(spec(), "mount"), root=Root(path="/")))
    assert "needs a mount namespace" in oci("run", "box", check=False).stderr


def test_mounts_have_the_names_and_the_order_of_the_specification(oci: RuntimeUnderTest) -> None:
    mounts = [
        Mount(destination="/first", type="tmpfs", source="a name"),
        bound(oci.base / "some", "/second", "rshared", "mode=755"),
        Mount(destination="/third", type="tmpfs"),
    ]
    (oci.base / "some").mkdir()
    oci.write(with_mounts(spec("grep -E ' /(first|second|third) |/dev/shm ' /proc/self/mountinfo"), *mounts))
    log = oci.base / "log"
    lines = [line.split(" ") for line in oci("--log", str(log), "run", "box").stdout.splitlines()]
    assert [line[4] for line in lines] == ["/dev/shm", "/first", "/second", "/third"]
    assert [line[-2] for line in lines if line[-3] == "tmpfs"] == ["shm", "a\\040name", "tmpfs"]
    assert "no effect on the bind mount at /second: mode" in log.read_text()


def test_a_working_directory_is_made_before_the_root_becomes_read_only(oci: RuntimeUnderTest) -> None:
    base = with_process(spec("pwd"), cwd="/not/there/yet")
    oci.write(msgspec.structs.replace(base, root=Root(path="rootfs", readonly=True)))
    assert oci("run", "box").stdout == "/not/there/yet\n"
