"""What is said to CRIU: the form of messages, a conversation with a program in its place, mounts from outside."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capsa.errors import CapsaError, InvalidArgument, Unsupported
from capsa.oci.runtime import Device, Linux, Mount, Spec
from capsa.platform.linux.criu import client, mounts
from capsa.platform.linux.criu.client import Kind
from capsa.platform.linux.criu.wire import Message, encode
from capsa.runtime import images, restore, streams
from capsa.vfs.compile import DEFAULT_DEVICES

# ---- the form ----


def test_messages_have_the_form_of_protocol_buffers() -> None:
    assert encode({1: 150}) == b"\x08\x96\x01"
    assert encode({2: "testing"}) == b"\x12\x07testing"
    assert encode({3: {1: 150}}) == b"\x1a\x03\x08\x96\x01"
    assert encode({1: True, 3: -1}) == b"\x08\x01\x18" + b"\xff" * 9 + b"\x01"
    assert encode({25: [{1: "a"}, {1: "b"}]}) == b"\xca\x01\x03\x0a\x01a\xca\x01\x03\x0a\x01b"


@settings(deadline=None)
@given(st.integers(-(1 << 31), (1 << 31) - 1), st.text(max_size=300), st.integers(1, 500))
def test_what_is_written_is_read(number: int, text: str, field: int) -> None:
    found = Message(encode({field: {1: number, 2: text}})).message(field)
    assert (found.number(1), found.text(2), found.number(7), found.text(8)) == (number, text, 0, "")


def test_fields_that_nobody_knows_are_left_out() -> None:
    assert Message(b"\x09" + bytes(8) + b"\x15" + bytes(4) + b"\x18\x05").number(3) == 5


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_answer_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(CapsaError):
        Message(data).message(2).number(1)


# ---- the conversation ----

HEAD = f"""\
#!{sys.executable}
import os, socket, sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2] / "src")!r})
from capsa.platform.linux.criu.wire import Message, encode
assert sys.argv[1] == "swrk"
end = socket.socket(fileno=int(sys.argv[2]))
asked = Message(end.recv(65536))
options = asked.message(2)
"""


def program(where: Path, script: str) -> str:
    path = where / "criu"
    path.write_text(HEAD + textwrap.dedent(script))
    path.chmod(0o755)
    return str(path)


def left() -> list[str]:
    """Children that are called so, those that have ended and were not waited for included; others have other tests."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # of the others, too, somebody may end
            found += [pid for pid in (task / "children").read_text().split() if _name(pid) == "criu"]
    return found


def _name(pid: str) -> str:
    return Path(f"/proc/{pid}/comm").read_text().rstrip()


def test_a_request_is_made_and_news_are_answered(tmp_path: Path) -> None:
    criu = program(
        tmp_path,
        """
        assert asked.number(1) == 2 and options.text(13) == "/root" and options.number(26)
        os.write(options.number(1), b"written")
        end.send(encode({1: 6, 2: True, 5: {1: "setup-namespaces", 2: 77}}))
        answer = Message(end.recv(100))
        assert answer.number(1) == 6 and answer.number(3)
        socket.send_fds(end, [encode({1: 6, 2: True, 5: {1: "orphan-pts-master"}})], [options.number(1)])
        assert Message(end.recv(100)).number(3)
        end.send(encode({1: 2, 2: True, 4: {1: 4711}}))
        """,
    )
    reading, writing = os.pipe2(os.O_CLOEXEC)
    told: list[tuple[str, int, int]] = []

    def notified(point: str, pid: int, fds: Sequence[int]) -> None:
        told.append((point, pid, len(fds)))
        for fd in fds:
            os.close(fd)

    options = {"images_dir_fd": writing, "root": "/root", "rst_sibling": True}
    assert client.ask(criu, Kind.RESTORE, options, notified=notified, passed=[writing]) == 4711
    assert told == [("setup-namespaces", 77, 0), ("orphan-pts-master", 0, 1)]
    os.close(writing)
    assert os.read(reading, 100) == b"written" and os.read(reading, 100) == b""
    os.close(reading)


def nothing(_point: str, _pid: int, _fds: Sequence[int]) -> None:
    pass


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("end.send(encode({1: 1, 2: False, 7: 2}))", "No such file or directory"),
        ("end.send(encode({1: 1, 2: False, 9: 'Error (criu/a.c:1): a reason'}))", "a reason"),
        ("sys.exit(3)", "ended without an answer"),
        ("end.send(encode({1: 1, 2: True})); sys.exit(3)", "ended with 3"),
        ("end.send(b'\\x0b')", "a form that is not known"),
        ("end.send(b'\\x0a\\x7f')", "incomplete"),
    ],
)
def test_a_failure_is_one(tmp_path: Path, script: str, said: str) -> None:
    with pytest.raises(CapsaError, match=said):
        client.ask(program(tmp_path, script), Kind.DUMP, {}, notified=nothing)
    assert not left()


def test_a_failure_of_ours_ends_it(tmp_path: Path) -> None:
    script = "end.send(encode({1: 6, 2: True, 5: {1: 'post-restore'}})); end.recv(9); end.recv(9); end.recv(9)"

    def notified(_point: str, _pid: int, _fds: Sequence[int]) -> None:
        raise CapsaError("no")

    with pytest.raises(CapsaError, match="no"):
        client.ask(program(tmp_path, script), Kind.RESTORE, {}, notified=notified)
    assert not left()


def test_what_cannot_be_executed_is_said(tmp_path: Path) -> None:
    with pytest.raises(CapsaError, match=r"cannot run .*nothing: .*No such file"):
        client.ask(str(tmp_path / "nothing"), Kind.DUMP, {}, notified=nothing)
    with pytest.raises(Unsupported, match="install Debian's package criu"):
        client.check(str(tmp_path / "nothing"))


def test_the_first_error_of_a_log_is_told() -> None:
    log = "(00.1) Error (criu/cg.c:12): cg: first: reason\n(00.2) Error (criu/cr.c:3): FAILED.\n"
    assert client.first_error(log) == "cg: first: reason"
    assert client.first_error("(00.1) Warn (a.c:1): x\n") == ""


# ---- streams ----


def test_streams_from_outside_have_names() -> None:
    noted = "24 4 /dev/null\n0 77 pipe:[77]\n30 20 /srv/log file"
    assert streams.names(noted, {1, 2}) == {0: "file[18:4]", 1: "pipe:[77]", 2: "file[1e:14]"}
    assert streams.names(noted, {24, 30}) == {1: "pipe:[77]"}
    assert streams.names("30 3 /dev/pts/0\n0 5 socket:[5]\n0 0 ", ()) == {} == streams.names("", ())


def test_streams_of_this_process_are_noted() -> None:
    script = "from capsa.runtime import streams; print(streams.own())"
    done = subprocess.run(
        [sys.executable, "-c", script], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True
    )
    found = done.stdout.splitlines()
    assert len(found) == 3 and found[0].endswith(" /dev/null") and not found[0].startswith("0 ")
    assert found[1].startswith("0 ") and "pipe:[" in found[1]
    closed = subprocess.run(["sh", "-c", f"exec {sys.executable} -c '{script}' <&-"], stdout=subprocess.PIPE, text=True)
    assert closed.stdout.startswith("0 0 \n")


# ---- mounts ----

TABLE = r"""
51 37 0:27 /b/rootfs / rw,relatime master:9 - tmpfs run rw
52 51 0:32 / /proc rw,relatime - proc proc rw
53 51 0:33 / /dev rw,nosuid - tmpfs tmpfs rw
54 53 0:34 / /dev/pts rw,nosuid,noexec - devpts devpts rw
55 53 0:34 /0 /dev/console rw,nosuid,noexec - devpts devpts rw
58 57 0:30 /box /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw
62 52 0:32 /sys /proc/sys ro,relatime - proc proc rw
64 52 0:37 / /proc/acpi ro,nosuid,nodev,noexec - tmpfs tmpfs rw
65 52 0:5 /null /proc/keys ro,nosuid,noexec - devtmpfs dev rw
66 51 8:1 /srv/a\040b /data/a\040b rw,relatime - ext4 /dev/sda1 rw
67 66 0:40 / /data/a\040b/deep rw,relatime - tmpfs tmpfs rw
68 51 0:27 /b/rootfs/etc /copy rw - tmpfs run rw
69 51 0:27 /elsewhere /other ro - tmpfs run rw
70 51 0:41 / /scratch rw - tmpfs tmpfs rw
""".strip()


def test_mounts_from_outside_are_those_that_criu_cannot_make() -> None:
    table = mounts.parse(TABLE)
    found = mounts.external(table, ["/data/a b", "/scratch"])
    assert found == ["/sys/fs/cgroup", "/proc/keys", "/data/a b", "/data/a b/deep", "/other", "/scratch"]
    assert mounts.on_root(table) == ["/proc", "/dev", "/data/a b", "/copy", "/other", "/scratch"]


def test_restrictions_that_are_lost_are_found() -> None:
    before = mounts.restrictions(mounts.parse(TABLE))
    assert before["/proc/keys"] == ("ro", "nosuid", "noexec") and before["/"] == ()
    now = mounts.parse(
        TABLE.replace("/proc/keys ro,nosuid,noexec", "/proc/keys rw,nosuid").replace("/proc/sys ro", "/x ro")
    )
    assert mounts.lost(before, now) == {"/proc/keys": ["ro", "noexec"]}
    assert mounts.lost({"/": ("ro", "no such word")}, now) == {"/": ["ro"]}


def source_of(point: str, bundle: Path, *others: str) -> str:
    """What would be mounted at ``point``, as the images have it, and ``others``, of a container with ``data`` bound."""
    spec = Spec(oci_version="1.2.0", mounts=[Mount(destination="/data", type="bind", source="data")])
    note = images.Note(mounts=dict.fromkeys((point, *others), "/data"))
    return restore._source(spec, str(bundle), point, note, None)  # type: ignore[arg-type]


def test_mounts_from_outside_come_from_where_the_specification_says(tmp_path: Path) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    assert source_of("/data", tmp_path) == str(tmp_path / "data")
    assert source_of("/data/deep", tmp_path, "/data") == str(tmp_path / "data" / "deep")


@pytest.mark.parametrize("point", ["/data/../../../etc", "/data/../data2", "/data/", "/data//deep", "/data/./deep"])
def test_images_cannot_name_another_place_of_the_host(tmp_path: Path, point: str) -> None:
    (tmp_path / "data" / "deep").mkdir(parents=True)
    with pytest.raises(InvalidArgument, match=r"capsa\.json"):
        source_of(point, tmp_path, "/data")


@pytest.mark.parametrize("way", ["/data/link", "/data/link/deep", "/data/gone"])
def test_a_link_that_a_container_put_where_something_was_mounted_leads_nowhere(tmp_path: Path, way: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "secret" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidArgument, match=r"had a mount at /(link|gone)"):
        source_of(way, tmp_path, "/data")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs devices")
def test_devices_of_the_host_are_those_that_the_specification_gives() -> None:
    note = images.Note(mounts={"/dev/zero": "", "/dev/full": ""})
    spec = Spec(oci_version="1.2.0", linux=Linux())
    assert restore._source(spec, "/", "/dev/full", note, None) == "/dev/full"  # type: ignore[arg-type]
    usual = {each.path for each in DEFAULT_DEVICES}
    own = next(each.path for each in os.scandir("/dev") if each.path not in usual and restore._is_device(each.path))
    note = images.Note(mounts={own: ""})
    with pytest.raises(InvalidArgument, match="the bundle says nothing of it"):
        restore._source(spec, "/", own, note, None)  # type: ignore[arg-type]
    spec = Spec(oci_version="1.2.0", linux=Linux(devices=[Device(path=own, type="c", major=1, minor=1)]))
    assert restore._source(spec, "/", own, note, None) == own  # type: ignore[arg-type]


def test_a_note_follows_no_links_of_others(tmp_path: Path) -> None:
    directory, precious = tmp_path / "images", tmp_path / "precious"
    directory.mkdir()
    precious.write_text("mine")
    (directory / images.NAME).symlink_to(precious)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(InvalidArgument, match="no checkpoint"):
            images.Note.load(fd, str(directory))
        os.link(precious, directory / f".{images.NAME}.{os.getpid()}")
        images.Note(mounts={"/data": ""}).save(fd)
        assert images.Note.load(fd, str(directory)).mounts == {"/data": ""}
        assert precious.read_text() == "mine" and not (directory / images.NAME).is_symlink()
        images.Note(mounts={"/more": ""}).save(fd)
        assert images.Note.load(fd, str(directory)).mounts == {"/more": ""}
        assert os.listdir(directory) == [images.NAME]
        os.unlink(directory / images.NAME)
        (directory / images.NAME).mkdir()
        with pytest.raises(CapsaError, match=f"cannot write {directory}/{images.NAME}"):
            images.Note().save(fd)
    finally:
        os.close(fd)
