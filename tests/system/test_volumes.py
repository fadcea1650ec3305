"""Volumes and mounts: sub-paths, options of the local driver, images, and who removes what."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.engine import EngineUnderTest
from fixtures.files import Create, Files, tar_of
from fixtures.images import busybox_layer, docker_archive


def mounted(engine: EngineUnderTest) -> list[str]:
    """What is mounted below the engine's volumes."""
    below = str(engine.root / "volumes")
    places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [place for place in places if place.startswith(below)]


def unmounted(engine: EngineUnderTest) -> None:
    deadline = time.monotonic() + 20
    while mounted(engine):
        assert time.monotonic() < deadline, mounted(engine)
        time.sleep(0.05)


def volume(engine: EngineUnderTest, name: str, **options: str) -> str:
    status, made = engine.api("POST", "/volumes/create", {"Name": name, "DriverOpts": options})
    assert status == 201, made
    assert made["Options"] == (options or None)
    return name


def mount(kind: str, source: str, target: str, **more: Any) -> dict[str, Any]:
    return {"Type": kind, "Source": source, "Target": target, **more}


def refused(engine: EngineUnderTest, *mounts: dict[str, Any], start: bool = False) -> tuple[int, str]:
    """Why a container with such mounts cannot be made, or started."""
    body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"Mounts": list(mounts), "NetworkMode": "none"}}
    status, answer = engine.api("POST", "/containers/create", body)
    if not start:
        assert status >= 400, answer
        return status, answer["message"]
    assert status == 201, answer
    try:
        status, failure = engine.api("POST", f"/containers/{answer['Id']}/start")
        assert status >= 400
        return status, failure["message"]
    finally:
        engine.api("DELETE", f"/containers/{answer['Id']}?force=1")


def remove(engine: EngineUnderTest, *names: str) -> None:
    for name in names:
        assert engine.api("DELETE", f"/volumes/{name}")[0] == 204


# -- options of the local driver


def test_a_volume_in_memory_is_shared_and_gone_with_its_last_container(engine: EngineUnderTest, files: Create) -> None:
    volume(engine, "memory", type="tmpfs", device="tmpfs", o="size=1m,uid=7,noexec")
    first = files(HostConfig={"Binds": ["memory:/m"]})
    second = files(HostConfig={"Binds": ["memory:/m:ro"]})
    first.run("echo shared >/m/file")
    assert second.run("cat /m/file; stat -c %u /m; df -k /m | tail -1 | awk '{print $2}'").split() == [
        "shared",
        "7",
        "1024",
    ]
    assert len(mounted(engine)) == 1
    first.remove()
    assert second.run("cat /m/file") == "shared\n"
    second.remove()
    unmounted(engine)
    assert files(HostConfig={"Binds": ["memory:/m"]}).run("ls /m") == ""


def test_a_volume_may_be_a_directory_of_the_host(engine: EngineUnderTest, files: Create, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("host")
    volume(engine, "bound", type="none", device=str(tmp_path), o="bind,ro")
    container = files(HostConfig={"Binds": ["bound:/b"]})
    assert container.run("cat /b/file; touch /b/x 2>/dev/null || echo read-only") == "hostread-only\n"
    engine.api("POST", f"/containers/{container.id}/kill")
    unmounted(engine)
    assert container.read("/b/file") == b"host"  # held for the copy alone
    unmounted(engine)
    container.remove()
    remove(engine, "bound")
    assert (tmp_path / "file").read_text() == "host"


def test_what_the_kernel_refuses_is_one_sentence_and_leaves_nothing(engine: EngineUnderTest, busybox: str) -> None:
    volume(engine, "nowhere", type="none", device="/no/such/place", o="bind")
    status, message = refused(engine, mount("volume", "nowhere", "/x"), start=True)
    assert status == 500
    assert "failed to mount local volume: mount /no/such/place:" in message and "no such file" in message
    volume(engine, "strange", type="nosuchfs", device="x", o="password=secret")
    status, message = refused(engine, mount("volume", "strange", "/x"), start=True)
    assert status == 500 and "no such device" in message and "secret" not in message
    assert mounted(engine) == []
    remove(engine, "nowhere", "strange")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "/x"}, 'missing required option: "type"'),
        ({"size": "1g"}, "quota size requested but no quota support"),
        ({"other": "x"}, 'invalid option: "other"'),
        (
            {"type": "cifs", "device": "//server:445/share"},
            "port not allowed in CIFS device URL, include 'port' in 'o='",
        ),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    engine: EngineUnderTest, options: dict[str, str], message: str
) -> None:
    status, answer = engine.api("POST", "/volumes/create", {"Name": "refused", "DriverOpts": options})
    assert (status, answer["message"]) == (400, message)
    assert engine.api("GET", "/volumes/refused")[0] == 404


def test_a_mount_may_make_its_volume_with_options(engine: EngineUnderTest, files: Create) -> None:
    options = {"DriverConfig": {"Name": "local", "Options": {"type": "tmpfs", "device": "tmpfs"}}, "Labels": {"a": "b"}}
    container = files(HostConfig={"Mounts": [mount("volume", "made", "/m", VolumeOptions=options)]})
    assert "tmpfs" in container.run("grep ' /m ' /proc/mounts")
    found = engine.api("GET", "/volumes/made")[1]
    assert found["Labels"] == {"a": "b"} and found["Options"]["type"] == "tmpfs"


@pytest.fixture
def own_engine(need_root: None) -> Iterator[EngineUnderTest]:
    from fixtures.images import busybox_archive

    found = EngineUnderTest.start()
    try:
        found.load(busybox_archive("/bin/busybox"))
        yield found
    finally:
        found.close()


def test_a_crash_leaves_no_mount(own_engine: EngineUnderTest) -> None:
    engine = own_engine
    volume(engine, "memory", type="tmpfs", device="tmpfs")
    container = Files.create(engine, HostConfig={"Binds": ["memory:/m"]})
    container.run("echo kept >/m/file")
    engine.restart(signal.SIGKILL)
    assert len(mounted(engine)) == 1
    assert Files.create(engine, HostConfig={"Binds": ["memory:/m"]}).run("cat /m/file") == "kept\n"
    engine.down(signal.SIGKILL)
    engine.up()
    engine.remove_containers()
    unmounted(engine)
    place = engine.root / "volumes" / "memory" / "_data"
    engine.down(signal.SIGKILL)
    assert os.system(f"mount -t tmpfs tmpfs {place}") == 0  # as if killed between mounting and starting
    engine.up()
    assert mounted(engine) == []


# -- sub-paths


def test_a_part_of_a_volume_is_mounted(engine: EngineUnderTest, files: Create) -> None:
    writer = files(HostConfig={"Binds": ["parts:/all"]})
    writer.run("mkdir -p /all/a/b; echo inside >/all/a/b/file; echo one >/all/single; ln -s a/b /all/link")
    for subpath, script, output in (
        ("a/b", "cat /x/file; ls /x", "inside\nfile\n"),
        ("link", "cat /x/file", "inside\n"),
        ("single", "cat /x", "one\n"),
    ):
        part = mount("volume", "parts", "/x", VolumeOptions={"Subpath": subpath})
        assert files(HostConfig={"Mounts": [part]}).run(script) == output
    part = mount("volume", "parts", "/x", ReadOnly=True, VolumeOptions={"Subpath": "a"})
    reader = files(HostConfig={"Mounts": [part]})
    assert reader.run("touch /x/y 2>/dev/null || echo read-only") == "read-only\n"
    assert reader.read("/x/b/file") == b"inside\n"
    engine.api("POST", f"/containers/{reader.id}/kill")
    assert reader.read("/x/b/file") == b"inside\n"


def test_a_subpath_never_leaves_its_volume(engine: EngineUnderTest, files: Create, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("host")
    writer = files(HostConfig={"Binds": ["hostile:/all"]})
    writer.run(f"ln -s {tmp_path} /all/absolute; ln -s ../../../../../../../..{tmp_path} /all/relative")
    for subpath in ("absolute", "relative"):
        part = mount("volume", "hostile", "/x", VolumeOptions={"Subpath": subpath})
        status, message = refused(engine, part, start=True)
        assert status >= 400 and "no such file" in message
    for subpath in ("..", "a/../../b", "/etc"):
        status, message = refused(engine, mount("volume", "hostile", "/x", VolumeOptions={"Subpath": subpath}))
        assert status == 400 and "subpath must be a relative path within the volume" in message
    status, message = refused(engine, mount("volume", "", "/x", VolumeOptions={"Subpath": "a"}))
    assert status == 400 and "must not set Subpath when using anonymous volumes" in message


def test_a_subpath_that_is_exchanged_all_the_time_never_leads_out(
    engine: EngineUnderTest, files: Create, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("host")
    files(
        f"cd /all; mkdir real; while true; do mv real sub; mv sub real; ln -s {tmp_path} sub; rm sub; done",
        HostConfig={"Binds": ["racing:/all"]},
    )
    part = mount("volume", "racing", "/x", VolumeOptions={"Subpath": "sub"})
    for _ in range(15):
        body = {
            "Image": "busybox",
            "Cmd": ["cat", "/x/secret"],
            "HostConfig": {"Mounts": [part], "NetworkMode": "none"},
        }
        made = engine.api("POST", "/containers/create", body)[1]
        if engine.api("POST", f"/containers/{made['Id']}/start")[0] == 204:
            assert engine.api("POST", f"/containers/{made['Id']}/wait")[1]["StatusCode"] == 1
        engine.api("DELETE", f"/containers/{made['Id']}?force=1")


# -- images


def test_an_image_is_mounted_read_only(engine: EngineUnderTest, files: Create, busybox: str) -> None:
    layers = [tar_of(("a", None), ("a/x", b"lower"), ("a/y", b"gone")), tar_of(("a/.wh.y", b""), ("b", b"upper"))]
    engine.load(docker_archive(layers, ["data:1"]))
    engine.load(docker_archive([busybox_layer("/bin/busybox")], ["one:1"]))
    mounts = [
        mount("image", "data:1", "/i"),
        mount("image", "data:1", "/again"),
        mount("image", "data:1", "/sub", ImageOptions={"Subpath": "a"}),
        mount("image", "one:1", "/one"),
    ]
    container = files(HostConfig={"Mounts": mounts})
    assert container.run(
        "ls /i /i/a; cat /sub/x /again/b; touch /i/z 2>/dev/null || echo refused; ls -d /one/bin"
    ).split() == [*("/i:", "a", "b", "/i/a:", "x", "lowerupperrefused", "/one/bin")]
    shown = engine.api("GET", f"/containers/{container.id}/json")[1]["Mounts"]
    assert {(each["Type"], each["Source"], each["RW"]) for each in shown} >= {("image", "data:1", False)}
    assert container.read("/i/b") == b"upper"
    status, answer = engine.api("DELETE", "/images/data:1")
    assert status == 409, answer
    engine.api("POST", f"/containers/{container.id}/kill")
    assert container.read("/sub/x") == b"lower"
    assert refused(engine, mount("image", "missing:1", "/i")) == (400, "No such image: missing:1")
    part = mount("image", "data:1", "/i", ImageOptions={"Subpath": "missing"})
    assert "no such file" in refused(engine, part, start=True)[1]


# -- binds and memory


def test_a_bind_mount_has_its_options(engine: EngineUnderTest, files: Create, tmp_path: Path) -> None:
    missing = tmp_path / "made"
    status, message = refused(engine, mount("bind", str(missing), "/b"))
    assert (status, message) == (
        400,
        f'invalid mount config for type "bind": bind source path does not exist: {missing}',
    )
    container = files(
        HostConfig={"Mounts": [mount("bind", str(missing), "/b", BindOptions={"CreateMountpoint": True})]}
    )
    assert missing.is_dir() and container.run("ls -d /b") == "/b\n"
    inner = tmp_path / "inner"
    inner.mkdir()
    try:
        assert os.system(f"mount -t tmpfs tmpfs {inner}") == 0
        (inner / "file").write_text("x")
        for options, script, output in (
            ({"NonRecursive": True}, "ls /b/inner", ""),
            ({}, "ls /b/inner; touch /b/inner/y 2>/dev/null || echo no", "file\nno\n"),
            ({"ReadOnlyNonRecursive": True}, "touch /b/inner/y && rm /b/inner/y && echo yes", "yes\n"),
            ({"ReadOnlyForceRecursive": True}, "touch /b/inner/y 2>/dev/null || echo no", "no\n"),
        ):
            bind = mount("bind", str(tmp_path), "/b", ReadOnly=True, BindOptions=options)
            if "ReadOnlyForceRecursive" in options:
                bind["BindOptions"]["Propagation"] = "rprivate"
            found = files(HostConfig={"Mounts": [bind]})
            assert found.run(script) == output
            found.remove()
    finally:
        os.system(f"umount {inner}")


def test_a_file_system_in_memory_has_its_options(files: Create, engine: EngineUnderTest) -> None:
    options = {"SizeBytes": 1 << 20, "Mode": 0o700, "Options": [["exec"]]}
    container = files(HostConfig={"Mounts": [mount("tmpfs", "", "/m", TmpfsOptions=options)]})
    line = container.run("grep ' /m ' /proc/mounts; stat -c %a /m")
    assert "size=1024k" in line and "noexec" not in line and line.endswith("700\n")
    status, message = refused(engine, mount("tmpfs", "", "/m", TmpfsOptions={"Options": [["a", "b", "c"]]}))
    assert status == 400 and "invalid option array length" in message


def test_limits_on_the_size_of_a_container_are_refused(engine: EngineUnderTest, busybox: str) -> None:
    body = {"Image": "busybox", "HostConfig": {"StorageOpt": {"size": "1G"}}}
    status, answer = engine.api("POST", "/containers/create", body)
    assert status in (400, 501) and "StorageOpt" in answer["message"]


# -- who has which, and who removes it


def test_volumes_of_others_come_with_modes(engine: EngineUnderTest, files: Create) -> None:
    donor = files("echo 1 >/v/file; sleep 1000", HostConfig={"Binds": ["donated:/v"]})
    for mode, output in (("", "written\n"), (":ro", "refused\n"), (":ro,z", "refused\n"), (":rw", "written\n")):
        taker = files(HostConfig={"VolumesFrom": [donor.id + mode]})
        assert taker.run("echo >/v/new 2>/dev/null && echo written || echo refused") == output
    for mode in ("nocopy", "shared", "ro,rw", "x"):
        body = {"Image": "busybox", "HostConfig": {"VolumesFrom": [f"{donor.id}:{mode}"]}}
        status, answer = engine.api("POST", "/containers/create", body)
        assert status == 400 and answer["message"] == f"invalid mode: {mode}"


def test_nocopy_leaves_a_new_volume_empty(files: Create) -> None:
    assert files(HostConfig={"Binds": ["filled:/etc"]}).run("ls /etc/passwd") == "/etc/passwd\n"
    empty = files(HostConfig={"Binds": ["unfilled:/etc:nocopy"]})
    assert "passwd" not in empty.run("ls /etc")


def names(engine: EngineUnderTest, **filters: list[str]) -> set[str]:
    query = urllib.parse.urlencode({"filters": json.dumps(filters)})
    return {each["Name"] for each in engine.api("GET", f"/volumes?{query}")[1]["Volumes"]}


def test_volumes_are_found_by_filters_and_kept_while_in_use(engine: EngineUnderTest, files: Create) -> None:
    engine.api("POST", "/volumes/create", {"Name": "labelled", "Labels": {"k": "v"}})
    container = files(HostConfig={"Binds": ["used:/u"]})
    assert names(engine, label=["k=v"]) == {"labelled"} and names(engine, label=["k=w"]) == set()
    assert "used" in names(engine, name=["use"], driver=["local"]) and names(engine, driver=["x"]) == set()
    assert "used" not in names(engine, dangling=["true"]) and "labelled" in names(engine, dangling=["true"])
    status, answer = engine.api("DELETE", "/volumes/used")
    assert (status, answer["message"]) == (409, f"remove used: volume is in use - [{container.id}]")
    container.remove()
    remove(engine, "used", "labelled")


def test_anonymous_volumes_go_with_their_container_named_ones_stay(engine: EngineUnderTest, files: Create) -> None:
    before = names(engine)
    container = files("true", start=False, HostConfig={"Binds": ["named:/n", "/a"], "AutoRemove": True})
    assert len(names(engine) - before) == 2
    engine.api("POST", f"/containers/{container.id}/start")
    deadline = time.monotonic() + 20
    while names(engine) - before != {"named"}:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    other = files(start=False, HostConfig={"Binds": ["named:/n", "/a"]})
    engine.api("DELETE", f"/containers/{other.id}")
    (anonymous,) = names(engine) - before - {"named"}
    assert engine.api("POST", "/volumes/prune")[1]["VolumesDeleted"] == [anonymous]
    deleted = engine.api("POST", "/v1.41/volumes/prune")[1]["VolumesDeleted"]
    assert "named" in deleted
