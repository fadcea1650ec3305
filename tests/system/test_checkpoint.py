"""``checkpoint`` and ``restore`` on the machine itself, whatever its kernel, cgroups and CRIU are.

More is seen in the guest (test_cgroup_v2_guest), with cgroup v2 and Debian 12's CRIU. ``CRIU`` in the environment names
another one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import bundle as b
from fixtures.bundle import bound, spec, with_mounts
from fixtures.runtime import RuntimeUnderTest, runtime
from fixtures.wait import until

from capsa.errors import Unsupported
from capsa.oci.runtime import IDMapping, Memory, Pids, Resources
from capsa.platform.linux.cgroup import Cgroup, layout
from capsa.platform.linux.criu import client

PROGRAM = os.environ.get("CRIU", "criu")
COUNTING = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.1; done"


def why_not() -> str:
    """What keeps CRIU from working here."""
    if shutil.which(PROGRAM) is None:
        return f"needs CRIU ({PROGRAM})"
    try:
        client.check(PROGRAM)
    except Unsupported as error:
        return str(error)
    return ""


pytestmark = [*b.NEEDS, pytest.mark.skipif(bool(reason := why_not()), reason=reason)]


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[RuntimeUnderTest]:
    with runtime(tmp_path) as made:
        made.command = (*made.command, "--criu", PROGRAM)
        yield made


def counted(oci: RuntimeUnderTest) -> list[int]:
    return [int(line) for line in oci.output.split()]


def begin(oci: RuntimeUnderTest) -> None:
    oci.create()
    oci("start", "box")
    until(lambda: len(counted(oci)) > 2)


def restore(oci: RuntimeUnderTest, *words: str) -> None:
    with (oci.base / "output").open("ab") as output:
        done = subprocess.run(
            oci.arguments("restore", "--detach", "--image-path", str(oci.base / "images"), *words, "box"),
            cwd=oci.bundle,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )
    if "can map ids" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr


def goes_on(oci: RuntimeUnderTest) -> None:
    """What it says shows that it has not begun again."""
    last = counted(oci)[-1]
    restore(oci)
    until(lambda: counted(oci)[-1] > last + 1)
    assert counted(oci) == list(range(1, len(counted(oci)) + 1))


def test_a_container_goes_on_with_its_limits(oci: RuntimeUnderTest) -> None:
    limits = Resources(memory=Memory(limit=64 << 20), pids=Pids(limit=77))
    (oci.base / "shared").mkdir()
    oci.write(with_mounts(spec(COUNTING, resources=limits), bound(oci.base / "shared", "/outside", "ro")))
    begin(oci)
    oci("checkpoint", "--image-path", str(oci.base / "images"), "box")
    assert oci.status() == "gone" and not oci.traces()
    goes_on(oci)
    group = Cgroup(f"/{oci.parent}/box", layout())
    assert group.read("pids.max") == "77"
    assert (group.read("memory.max") or group.read("memory.limit_in_bytes")) == str(64 << 20)
    pid = oci.state()["pid"]
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        assert line.endswith(f":/{oci.parent}/box")
    done = oci("exec", "box", "sh", "-c", "echo $$; touch /outside/file", check=False)
    assert "Read-only" in done.stderr
    oci("pause", "box")
    assert oci.status() == "paused"
    oci("resume", "box")


def test_a_container_goes_on_beside_its_image(oci: RuntimeUnderTest) -> None:
    oci.write(spec(COUNTING))
    begin(oci)
    oci("checkpoint", "--leave-running", "--image-path", str(oci.base / "images"), "box")
    last = counted(oci)[-1]
    until(lambda: counted(oci)[-1] > last + 1)


CAP_SYS_RESOURCE = 24
EFFECTIVE = int(
    next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line).split()[1], 16
)


@pytest.mark.skipif(not EFFECTIVE >> CAP_SYS_RESOURCE & 1, reason="CRIU needs CAP_SYS_RESOURCE for user namespaces")
def test_a_user_namespace(oci: RuntimeUnderTest) -> None:
    ids = [IDMapping(container_id=0, host_id=100000, size=65536)]
    wanted = b.with_namespace(spec(COUNTING), "user")
    assert wanted.linux is not None
    wanted.linux.uid_mappings = wanted.linux.gid_mappings = ids
    for path in (oci.root, *oci.root.rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    oci.write(wanted)
    (oci.base / "output").touch()
    (oci.base / "output").chmod(0o666)  # CRIU has it opened anew, by one whom the file does not belong to
    begin(oci)
    oci("checkpoint", "--image-path", str(oci.base / "images"), "box")
    goes_on(oci)
    pid = oci.state()["pid"]
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "100000", "65536"]
