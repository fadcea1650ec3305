"""Files into and out of containers: ``/containers/{id}/archive`` and ``/export`` with Docker's rules."""

from __future__ import annotations

import io
import os
import socket
import tarfile
import time
from pathlib import Path

import pytest
from fixtures import processes
from fixtures.engine import EngineUnderTest
from fixtures.files import Create, Files, hard_link, tar_of

DIRECTORY, LINK, DEVICE, CHARACTER, FIFO, STICKY = 1 << 31, 1 << 27, 1 << 26, 1 << 21, 1 << 25, 1 << 20


def helpers(engine: EngineUnderTest) -> list[int]:
    """The engine's processes that read and write files just now."""
    servers = [pid for pid in processes.children(engine.pid) if "capsa: file helpers" in processes.title(pid)]
    return [pid for server in servers for pid in processes.children(server)]


def no_helpers(engine: EngineUnderTest) -> None:
    deadline = time.monotonic() + 20
    while helpers(engine):
        assert time.monotonic() < deadline, "a helper process stays"
        time.sleep(0.05)


@pytest.fixture(params=["created", "running", "paused", "stopped"])
def container(request: pytest.FixtureRequest, engine: EngineUnderTest, files: Create) -> Files:
    """A container in each of the states."""
    found = files(start=request.param != "created", HostConfig={"Binds": ["/data"]})
    if request.param == "paused":
        engine.api("POST", f"/containers/{found.id}/pause")
    elif request.param == "stopped":
        engine.api("POST", f"/containers/{found.id}/kill")
        engine.api("POST", f"/containers/{found.id}/wait")
    return found


def test_files_go_in_and_out_in_every_state(container: Files) -> None:
    assert container.put("/tmp", tar_of(("a", None), ("a/file", b"content"), ("a/link", "file"))) == (200, "")
    assert container.read("/tmp/a/file") == b"content"
    assert list(container.get("/tmp/a")) == ["a", "a/file", "a/link"]
    assert container.stat("/tmp/a/link")[1]["linkTarget"] == "/tmp/a/file"


def test_volumes_are_part_of_the_tree_in_every_state(container: Files) -> None:
    assert container.put("/data", tar_of(("file", b"in the volume"))) == (200, "")
    assert container.read("/data/file") == b"in the volume"
    assert "data/file" in {name.removeprefix("/") for name in container.get("/")}


@pytest.fixture(scope="module")
def box(engine: EngineUnderTest, busybox: str) -> Files:
    """One container for what only looks, or writes below a directory of its own."""
    script = (
        "mkdir -p /d/sub; echo hello >/d/file; ln /d/file /d/hard; ln -s file /d/link; ln -s /d /dlink;"
        "ln -s /nowhere/x /broken; ln -s /../../../etc /d/out; mkfifo /d/fifo; mknod /d/null c 1 3; chmod 1777 /d/sub;"
        "chmod 4750 /d/file; touch -d '2020-01-02 03:04:05' /d/file; ln -s loop /loop; touch /ready; sleep 1000"
    )
    found = Files.create(engine, script, HostConfig={"Tmpfs": {"/ram": ""}})
    while found.stat("/ready")[0] != 200:
        time.sleep(0.05)
    return found


@pytest.mark.parametrize(
    ("path", "name", "mode"),
    [
        ("/d", "d", DIRECTORY | 0o755),
        ("d/", "d", DIRECTORY | 0o755),
        ("/d/.", ".", DIRECTORY | 0o755),
        ("/d/sub/../sub", "sub", DIRECTORY | STICKY | 0o777),
        ("/", "/", DIRECTORY | 0o755),
        ("/d/file", "file", 1 << 23 | 0o750),
        ("/d/fifo", "fifo", FIFO | 0o644),
        ("/d/null", "null", DEVICE | CHARACTER | 0o644),
        ("/d/link", "link", LINK | 0o777),
        ("/dlink", "dlink", LINK | 0o777),
        ("/dlink/", "dlink", DIRECTORY | 0o755),
        ("/dlink/.", ".", DIRECTORY | 0o755),
        ("/d/out/passwd", "passwd", 0o644),
    ],
)
def test_the_header_tells_name_and_mode_as_go_writes_them(box: Files, path: str, name: str, mode: int) -> None:
    status, found = box.stat(path)
    assert status == 200
    assert (found["name"], found["mode"]) == (name, mode)


def test_the_header_tells_size_time_and_where_links_lead(box: Files) -> None:
    assert box.stat("/d/file")[1] == {
        "name": "file",
        "size": 6,
        "mode": 1 << 23 | 0o750,
        "mtime": "2020-01-02T03:04:05Z",
        "linkTarget": "",
    }
    assert box.stat("/broken")[1]["linkTarget"] == "/nowhere/x"
    assert box.stat("/d/out")[1]["linkTarget"] == "/etc"


def test_a_slash_behind_a_path_decides_what_is_copied(box: Files) -> None:
    assert list(box.get("/dlink")) == ["dlink"]
    assert "dlink/file" in box.get("/dlink/")
    assert "./file" in box.get("/dlink/.")
    assert "/d/file" in box.get("/")
    assert list(box.get("/d/link")) == ["link"]


def test_refusals_have_dockers_words(box: Files) -> None:
    name = box.engine.api("GET", f"/containers/{box.id}/json")[1]["Name"][1:]
    assert box.refusal("/d/missing") == (404, f"Could not find the file /d/missing in container {name}")
    assert box.put("/d/missing", tar_of()) == (404, f"Could not find the file /d/missing in container {name}")
    assert box.put("/broken", tar_of()) == (404, f"Could not find the file /broken in container {name}")
    assert box.put("/d/file", tar_of()) == (400, "extraction point is not a directory")
    status, message = box.refusal("/d/file/")
    assert status == 400 and "not a directory" in message
    status, message = box.refusal("/loop/x")
    assert status == 400 and "too many levels of symbolic links" in message
    assert box.engine.api("GET", f"/containers/{box.id}/archive")[0] == 400
    assert box.engine.api("GET", "/containers/missing/archive?path=/")[0] == 404


def test_the_kernels_files_are_not_there(box: Files) -> None:
    for path in ("/proc/cpuinfo", "/proc/self/root/etc", "/sys/kernel", "/proc/1/root"):
        assert box.refusal(path)[0] in (400, 404)
    assert box.put("/proc/sys/kernel", tar_of(("hostname", b"x")))[0] == 404
    assert box.put("/", tar_of(("proc/sys/kernel/hostname", b"x")))[0] == 404
    names = box.get("/")
    assert "/proc" in names and not any(name.startswith("/proc/") for name in names)


def test_an_archive_has_all_kinds_of_files(box: Files) -> None:
    found = box.get("/d")
    assert found["d/fifo"].isfifo()
    assert found["d/null"].ischr() and (found["d/null"].devmajor, found["d/null"].devminor) == (1, 3)
    assert found["d/hard"].islnk() and found["d/hard"].linkname == "d/file"
    assert found["d/out"].linkname == "/../../../etc"
    assert found["d/file"].mode == 0o4750


def test_file_systems_in_memory_are_written_and_read(box: Files) -> None:
    assert box.put("/ram", tar_of(("file", b"x"))) == (200, "")
    assert box.run("cat /ram/file") == "x"
    assert list(box.get("/ram")) == ["ram", "ram/file"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_uploads_may_be_compressed(box: Files, mode: str) -> None:
    assert box.put("/tmp", tar_of((f"from-{mode[2:]}", b"content"), mode=mode)) == (200, "")
    assert box.read(f"/tmp/from-{mode[2:]}") == b"content"


def test_an_upload_may_be_a_zstd_stream_or_empty(box: Files) -> None:
    import zstandard

    assert box.put("/tmp", zstandard.compress(tar_of(("from-zstd", b"content")))) == (200, "")
    assert box.read("/tmp/from-zstd") == b"content"
    assert box.put("/tmp", b"") == (200, "")


def test_an_archive_is_unpacked_with_all_that_it_says(box: Files) -> None:
    device = tarfile.TarInfo("all/null")
    device.type, device.devmajor, device.devminor, device.mode = tarfile.CHRTYPE, 1, 3, 0o600
    owned = tarfile.TarInfo("all/owned")
    owned.uid, owned.gid, owned.mode, owned.mtime = 12, 34, 0o2711, 1_000_000_000
    owned.pax_headers = {"SCHILY.xattr.user.note": "kept"}
    archive = tar_of(("all/file", b"x"), hard_link("all/hard", "all/file"), device, owned)
    assert box.put("/tmp", archive) == (200, "")
    assert box.run("stat -c '%u %g %a %Y' /tmp/all/owned") == "12 34 2711 1000000000\n"
    assert box.run("stat -c '%h' /tmp/all/file; stat -c '%t %T' /tmp/all/null") == "2\n1 3\n"
    found = box.get("/tmp/all")
    assert found["all/hard"].islnk()
    assert found["all/owned"].pax_headers.get("SCHILY.xattr.user.note") == "kept"


def test_what_is_there_is_replaced_unless_that_was_excluded(box: Files) -> None:
    box.run("mkdir -p /tmp/r/dir/below; echo >/tmp/r/file")
    status, message = box.put("/tmp/r", tar_of(("dir", b"now a file")), noOverwriteDirNonDir=1)
    assert (status, message) == (400, 'cannot overwrite directory "/tmp/r/dir" with non-directory "dir"')
    status, message = box.put("/tmp/r", tar_of(("file", None)), noOverwriteDirNonDir="true")
    assert (status, message) == (400, 'cannot overwrite non-directory "/tmp/r/file" with directory "file"')
    assert box.put("/tmp/r", tar_of(("dir/more", b"merged"), ("file", b"new")), noOverwriteDirNonDir=1) == (200, "")
    assert box.run("ls /tmp/r/dir; cat /tmp/r/file") == "below\nmore\nnew"
    assert box.put("/tmp/r", tar_of(("dir", b"now a file"), ("file", None))) == (200, "")
    assert box.run("cat /tmp/r/dir; ls -d /tmp/r/file/") == "now a file/tmp/r/file/\n"


def test_files_may_go_to_the_containers_user(files: Create) -> None:
    container = files(User="nobody:users")
    for query, owner in (({}, "5 6"), ({"copyUIDGID": 1}, "65534 100")):
        entry = tarfile.TarInfo("file")
        entry.uid, entry.gid = 5, 6
        assert container.put("/tmp", tar_of(entry), **query) == (200, "")
        assert container.run("stat -c '%u %g' /tmp/file").strip() == owner


def test_nothing_is_written_where_it_is_read_only(files: Create, tmp_path: Path) -> None:
    (tmp_path / "ro" / "rw").mkdir(parents=True)
    (tmp_path / "rw").mkdir()
    binds = [f"{tmp_path}/ro:/ro:ro", f"{tmp_path}/rw:/ro/rw"]
    for start in (False, True):
        container = files(start=start, HostConfig={"ReadonlyRootfs": True, "Binds": binds[start:]})
        assert container.put("/tmp", tar_of(("x", b""))) == (403, "container rootfs is marked read-only")
        if not start:
            assert container.put("/ro", tar_of(("x", b""))) == (403, "mounted volume is marked read-only")
    writable = files(start=False, HostConfig={"ReadonlyRootfs": True, "Binds": [f"{tmp_path}/rw:/rw"]})
    assert writable.put("/rw", tar_of(("x", b"in"))) == (200, "")
    assert (tmp_path / "rw" / "x").read_bytes() == b"in"
    assert not list((tmp_path / "ro").glob("x"))


def test_looking_into_a_container_that_never_ran_changes_nothing(engine: EngineUnderTest, files: Create) -> None:
    container = files(start=False, HostConfig={"Binds": ["/not/in/the/image"]})
    assert list(container.get("/not/in")) == ["in", "in/the", "in/the/image"]
    assert list((engine.root / "containers" / container.id / "upper").iterdir()) == []


def test_names_that_lead_out_are_refused(box: Files, tmp_path: Path) -> None:
    status, message = box.put("/tmp", tar_of(("../../escaped", b"x")))
    assert status == 400 and "outside" in message
    assert box.put("/tmp", tar_of(("up", "/../../.."), ("up/escaped", b"x"))) == (200, "")
    assert box.run("cat /escaped") == "x"
    assert not Path("/escaped").exists()
    assert box.put("/tmp", tar_of(hard_link("shadow", "../../../../etc/shadow")))[0] == 400


def test_sparse_and_large_files_keep_their_size(box: Files) -> None:
    box.run("dd if=/dev/zero of=/tmp/sparse bs=1 count=1 seek=90M 2>/dev/null; echo end >>/tmp/sparse")
    status, body = box.engine.api("GET", box.url("/tmp/sparse"))
    assert status == 200 and len(body) < 1 << 20
    assert box.put("/ram", body) == (200, "")
    assert box.run("cmp /tmp/sparse /ram/sparse && stat -c %s /ram/sparse").strip() == str((90 << 20) + 5)
    assert int(box.run("du -k /ram/sparse").split()[0]) < 1000
    content = os.urandom(20 << 20)
    assert box.put("/tmp", tar_of(("large", content))) == (200, "")
    assert box.read("/tmp/large") == content


def test_clients_that_go_away_leave_no_helper(box: Files) -> None:
    box.run("dd if=/dev/zero of=/tmp/zeros bs=1M count=40 2>/dev/null")
    archive = tar_of(("half", b"x" * (4 << 20)))
    requests = [
        f"PUT {box.url('/tmp')} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(archive)}\r\n\r\n".encode()
        + archive[: len(archive) // 2],
        f"GET {box.url('/tmp/zeros')} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    ]
    for request in requests:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(box.engine.socket))
            client.sendall(request)
            deadline = time.monotonic() + 20
            while not helpers(box.engine) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert helpers(box.engine)
        no_helpers(box.engine)
    assert box.put("/tmp", tar_of(("after", b"")))[0] == 200


def test_damaged_uploads_are_refused_and_leave_no_helper(box: Files) -> None:
    for body in (b"no archive at all" * 100, tar_of(("x", b"y" * 9999))[:4000], tar_of(("x", b"y"), mode="w:gz")[:60]):
        assert box.put("/tmp", body)[0] == 400
    no_helpers(box.engine)


def test_a_tree_too_deep_is_an_error_instead_of_a_torn_archive(files: Create) -> None:
    container = files()
    script = (
        "i=0; cd /tmp; while [ $i -lt 60 ]; do mkdir -p d/d/d/d/d/d/d/d/d/d; cd d/d/d/d/d/d/d/d/d/d; i=$((i+1)); done"
    )
    container.run(script)
    for path in (f"/containers/{container.id}/export", container.url("/tmp")):
        status, body = container.engine.api("GET", path)
        assert status == 400 and "deeper" in body["message"]
    assert container.read("/etc/passwd")


def test_equal_files_of_layers_are_no_hard_links(files: Create, engine: EngineUnderTest) -> None:
    from fixtures.images import docker_archive

    layers = [tar_of(("one", b"same" * 999), hard_link("other", "one")), tar_of(("two", b"same" * 999))]
    base = tar_of(("tmp", None))
    engine.load(docker_archive([base, *layers], ["links:latest"]))
    container = files(start=False, Image="links")
    found = container.get("/")
    assert [name for name, entry in found.items() if entry.islnk()] == ["/other"]
    status, body = engine.api("GET", f"/containers/{container.id}/export")
    assert status == 200
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        assert [member.name for member in tar if member.islnk()] == ["other"]


def test_events_tell_of_copies(box: Files) -> None:
    since = int(time.time()) - 1
    box.get("/etc/passwd")
    box.put("/tmp", tar_of(("x", b"")))
    until = int(time.time()) + 1
    body = box.engine.api("GET", f"/events?since={since}&until={until}")[1]
    text = body.decode() if isinstance(body, bytes) else str(body)
    assert "archive-path" in text and "extract-to-dir" in text
