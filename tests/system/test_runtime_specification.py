"""What capsa-runtime makes of specifications that leave something out, or ask for what there is not."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fixtures.bundle import NEEDS, bound, capabilities, spec, with_mounts, with_namespace, with_process, without
from fixtures.runtime import RuntimeUnderTest, runtime
from fixtures.wait import until

from capsa.oci.runtime import IDMapping, Mount, Root
from capsa.platform.linux.cgroup import Cgroup, layout

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
    assert [line[-2] for line in lines if line[4] != "/second"] == ["shm", "a\\040name", "tmpfs"]
    assert "no effect on the bind mount at /second: mode" in log.read_text()


@pytest.mark.parametrize("kind", ["rprivate", "rslave"])
def test_the_propagation_of_the_root_leaves_that_of_mounts_alone(oci: RuntimeUnderTest, kind: str) -> None:
    place = oci.base / "shared"
    place.mkdir()
    subprocess.run(["mount", "--bind", str(place), str(place)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(place)], check=True)
        wanted = spec("grep -E ' /(plain|peer)? ' /proc/self/mountinfo", rootfs_propagation=kind)
        oci.write(with_mounts(wanted, bound(place, "/plain"), bound(place, "/peer", "rshared")))
        lines = {line.split(" ")[4]: line for line in oci("run", "box").stdout.splitlines()}
    finally:
        subprocess.run(["umount", "-R", str(place)], check=True)
    assert "shared:" in lines["/peer"] and "shared:" not in lines["/plain"] and "shared:" not in lines["/"]


def test_of_two_variables_of_one_name_the_last_one_counts(oci: RuntimeUnderTest) -> None:
    words = ["PATH=/sbin", "A=1", "PATH=/bin", "A=2"]
    oci.write(with_process(spec(["env"]), env=words))
    assert oci("run", "box").stdout.splitlines() == ["PATH=/bin", "A=2", "HOME=/root"]
    oci.write(with_process(spec("sleep 1000"), env=words))
    oci.create()
    oci("start", "box")
    assert oci("exec", "--env", "A=3", "box", "env").stdout.splitlines() == ["PATH=/bin", "A=3", "HOME=/root"]


def test_devices_in_a_user_namespace_are_mounts_without_privileges(oci: RuntimeUnderTest) -> None:
    ids = [IDMapping(container_id=0, host_id=100000, size=65536)]
    wanted = spec("grep ' /dev/null ' /proc/self/mountinfo; echo x >/dev/null", uid_mappings=ids, gid_mappings=ids)
    oci.write(with_namespace(wanted, "user"))
    assert {"nosuid", "noexec"} <= set(oci("run", "box").stdout.split(" ")[5].split(","))


def test_two_domain_names_are_one_too_many(oci: RuntimeUnderTest) -> None:
    for name, code in (("here.example", 0), ("there.example", 1)):
        wanted = spec("cat /proc/sys/kernel/domainname", sysctl={"kernel.domainname": name})
        oci.write(msgspec.structs.replace(wanted, domainname="here.example"))
        done = oci("run", "box", check=False)
        assert done.returncode == code and ("two domain names" in done.stderr) == bool(code)


def test_a_log_that_cannot_be_written_is_said_first(oci: RuntimeUnderTest) -> None:
    done = oci("--log", str(oci.base / "no" / "log"), "run", "box", check=False)
    assert done.returncode == 1 and "cannot write to the log" in done.stderr
    assert not oci.traces()


def test_cgroups_above_the_containers_go_with_it_if_they_came_with_it(oci: RuntimeUnderTest) -> None:
    place = f"/{oci.parent}/there/made/too/box"
    there = Cgroup.create(f"/{oci.parent}/there", None)
    try:
        for fails in (False, True):
            oci.write(spec(["nothing-like-it"] if fails else "true", cgroups_path=place))
            assert oci("run", "box", check=False).returncode == int(fails)
            assert there.exists() and not Cgroup(f"/{oci.parent}/there/made", layout()).exists()
    finally:
        there.remove()


def test_a_working_directory_is_made_before_the_root_becomes_read_only(oci: RuntimeUnderTest) -> None:
    base = with_process(spec("pwd"), cwd="/not/there/yet")
    oci.write(msgspec.structs.replace(base, root=Root(path="rootfs", readonly=True)))
    assert oci("run", "box").stdout == "/not/there/yet\n"
