"""A full disk: what cannot be done is said, what runs goes on, no exit code is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import images, leftovers, tars
from fixtures.complaints import check, create
from fixtures.engine import EngineUnderTest


class SmallDisk:
    """An engine whose root directory is on a disk of 12 MB."""

    def __init__(self, engine: EngineUnderTest) -> None:
        self.engine = engine
        self.ballast = engine.root / "ballast"

    def fill(self) -> None:
        with self.ballast.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue

    def room(self) -> None:
        self.ballast.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def disk(need_root: None) -> Iterator[SmallDisk]:
    program = shutil.which("busybox", path="/bin:/usr/bin")
    if program is None:
        pytest.skip("needs Debian's busybox-static")
    engine = EngineUnderTest(Path(tempfile.mkdtemp(prefix="capsa-test-", dir="/tmp")))
    engine.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "capsa-test", str(engine.root)], check=True)
    small = SmallDisk(engine)
    try:
        engine.up()
        engine.load(images.busybox_archive(program))
        engine.capsa("run", "--rm", "busybox", "true")
        yield small
        small.room()
        engine.remove_containers()
    finally:
        engine.down()
        subprocess.run(["umount", str(engine.root)], check=True)
        shutil.rmtree(engine.base)


def test_an_image_that_does_not_fit(disk: SmallDisk) -> None:
    layer = tars.archive(tars.file(b"big", os.urandom(14 << 20)))
    with leftovers.nothing_left(disk.engine):
        status, answer = disk.engine.api("POST", "/images/load", images.docker_archive([layer], ["big:1"]))
        assert status == 200  # as Docker: what went wrong is the last message of the stream
        check(json.loads(answer.splitlines()[-1])["error"], "no space left on device")
        status, answer = disk.engine.api("POST", "/images/create?fromSrc=-&repo=big", layer)
        assert status == 500
        check(answer["message"], "no space left on device")


def test_nothing_is_half_created_on_a_full_disk(disk: SmallDisk) -> None:
    engine = disk.engine
    _, made = create(engine, {})
    try:
        with leftovers.nothing_left(engine):
            disk.fill()
            for path, body in (
                ("/containers/create", {"Image": "busybox", "HostConfig": {"Binds": ["fresh:/x"]}}),
                ("/volumes/create", {"Name": "fresh"}),
                ("/networks/create", {"Name": "fresh"}),
                (f"/containers/{made['Id']}/start", None),
                ("/images/busybox/tag?repo=other&tag=1", None),
            ):
                status, answer = engine.api("POST", path, body)
                assert status == 500, (path, answer)
                check(answer["message"], str(engine.root))
            disk.room()
        assert engine.api("POST", f"/containers/{made['Id']}/start")[0] == 204
    finally:
        disk.room()
        assert engine.api("DELETE", f"/containers/{made['Id']}?force=1")[0] == 204


def test_what_runs_goes_on_with_a_full_disk_and_no_exit_code_is_lost(disk: SmallDisk) -> None:
    engine = disk.engine
    script = "echo before; read x; yes | head -c 300000; echo after; exit 7"
    names = []
    for _ in range(2):
        _, made = create(engine, {"Cmd": ["sh", "-c", script], "OpenStdin": True})
        names.append(made["Id"])
        assert engine.api("POST", f"/containers/{made['Id']}/start")[0] == 204
    seen, killed = names
    disk.fill()
    try:
        assert engine.capsa("exec", seen, "echo", "hello").stdout == "hello\n"
        engine.capsa("attach", "--sig-proxy=false", seen, input="go\n", check=False)
        assert engine.api("POST", f"/containers/{seen}/wait")[1]["StatusCode"] == 7
        assert engine.api("POST", f"/containers/{killed}/stop?t=0")[0] == 204
        status, answer = engine.api("POST", f"/containers/{killed}/start")
        assert status == 500
        check(answer["message"], "make room")
        # The next engine finds both exits, though no byte of them could be stored.
        engine.down(signal.SIGKILL)
        disk.room()
        engine.up()
        for name, code in ((seen, 7), (killed, 137)):
            _, about = engine.api("GET", f"/containers/{name}/json")
            assert (about["State"]["Status"], about["State"]["ExitCode"]) == ("exited", code), about["State"]
        logged = engine.capsa("logs", seen).stdout
        assert logged.startswith("before\n") and set(logged.splitlines()) <= {"before", "y", "after"}
    finally:
        disk.room()
        for name in names:
            assert engine.api("DELETE", f"/containers/{name}?force=1")[0] == 204


def test_a_removal_makes_its_own_room(disk: SmallDisk) -> None:
    engine = disk.engine
    _, made = create(engine, {"Cmd": ["sh", "-c", "head -c 100000 /dev/zero >/file"]})
    engine.api("POST", f"/containers/{made['Id']}/start")
    engine.api("POST", f"/containers/{made['Id']}/wait")
    disk.fill()
    try:
        assert engine.api("DELETE", f"/containers/{made['Id']}")[0] == 204
    finally:
        disk.room()
    assert not (engine.root / "containers" / made["Id"]).exists()
