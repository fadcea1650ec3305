"""What a container changed in its image's files: ``/containers/{id}/changes`` tells it as Docker does."""

from __future__ import annotations

import io
import os
import tarfile

import pytest
from fixtures.engine import EngineUnderTest
from fixtures.files import Create, Files, tar_of
from fixtures.images import busybox_layer, docker_archive

MODIFIED, ADDED, DELETED = 0, 1, 2


def changes(files: Files) -> dict[str, int] | None:
    status, found = files.engine.api("GET", f"/containers/{files.id}/changes")
    assert status == 200, found
    return found and {change["Path"]: change["Kind"] for change in found}


def finished(files: Files) -> Files:
    assert files.engine.api("POST", f"/containers/{files.id}/wait")[1] == {"StatusCode": 0}
    return files


@pytest.fixture(scope="module")
def image(engine: EngineUnderTest, busybox: str) -> str:
    """busybox and a few files, in two layers: the upper one removes and replaces what the lower has."""
    lower = tar_of(
        *(("d", None), ("d/a", b"1"), ("d/b", b"2"), ("d/sub", None), ("d/sub/x", b"3"), ("old", None)),
        *(("old/gone", b"4"), ("file", b"5"), ("again", None), ("again/hidden", b"6")),
    )
    upper = tar_of(("old/.wh.gone", b""), ("again/.wh..wh..opq", b""), ("again/new", b"7"))
    engine.load(docker_archive([busybox_layer("/bin/busybox"), lower, upper], ["changed:latest"]))
    return "changed"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("true", None),
        ("echo new >/d/a", {"/d": MODIFIED, "/d/a": MODIFIED}),
        ("touch /d/new", {"/d": MODIFIED, "/d/new": ADDED}),
        ("mkdir -p /n/m; touch /n/m/f", {"/n": ADDED, "/n/m": ADDED, "/n/m/f": ADDED}),
        ("rm /d/a", {"/d": MODIFIED, "/d/a": DELETED}),
        ("rm -r /d", {"/d": DELETED}),
        ("rm -r /d; mkdir /d; echo >/d/b; echo >/d/c", {
            "/d": MODIFIED, "/d/a": DELETED, "/d/b": MODIFIED, "/d/c": ADDED, "/d/sub": DELETED
        }),
        ("rm -r /d; echo >/d", {"/d": MODIFIED}),
        ("rm /file; mkdir /file; touch /file/in", {"/file": MODIFIED, "/file/in": ADDED}),
        ("chmod 700 /d/sub", {"/d": MODIFIED, "/d/sub": MODIFIED}),
        ("chown 5 /d/sub/x", {"/d": MODIFIED, "/d/sub": MODIFIED, "/d/sub/x": MODIFIED}),
        ("mv /d/a /d/z", {"/d": MODIFIED, "/d/a": DELETED, "/d/z": ADDED}),
        ("rm /bin/vi; ln -s busybox /bin/vi2", {"/bin": MODIFIED, "/bin/vi": DELETED, "/bin/vi2": ADDED}),
        ("touch /old/gone; touch /again/hidden", {
            "/again": MODIFIED, "/again/hidden": ADDED, "/old": MODIFIED, "/old/gone": ADDED
        }),
        ("touch /t/inside /v/inside", {"/t": ADDED, "/v": ADDED}),
        ("true >>/d/a", None),
        ("touch /d/n; rm /d/n", None),
        ("echo >/etc/x", {"/etc": MODIFIED, "/etc/x": ADDED}),
    ],
)  # fmt: skip
def test_changes_are_told_as_docker_tells_them(
    files: Create, image: str, script: str, expected: dict[str, int] | None
) -> None:
    host = {"Binds": ["/v"], "Tmpfs": {"/t": ""}} if "/t/" in script else {}
    found = changes(finished(files(script, Image=image, HostConfig=host)))
    assert found == expected


def test_a_container_that_runs_is_compared_as_well(files: Create, image: str) -> None:
    container = files(Image=image)
    assert changes(container) is None
    container.run("touch /d/new")
    assert changes(container) == {"/d": MODIFIED, "/d/new": ADDED}
    assert changes(files(start=False, Image=image)) is None


def test_a_directory_comes_before_what_is_in_it(files: Create, image: str) -> None:
    found = changes(finished(files("touch /d/sub/y /d/sub.x; mkdir /a; touch /a/b", Image=image)))
    assert list(found or ()) == ["/a", "/a/b", "/d", "/d/sub", "/d/sub/y", "/d/sub.x"]


def test_deep_and_hostile_trees_do_no_harm(files: Create, image: str) -> None:
    container = files(Image=image)
    container.run("i=0; while [ $i -lt 60 ]; do mkdir -p q/q/q/q/q/q/q/q/q/q; cd q/q/q/q/q/q/q/q/q/q; i=$((i+1)); done")
    status, body = container.engine.api("GET", f"/containers/{container.id}/changes")
    assert status == 400 and "deeper" in body["message"]
    other = files("while true; do mkdir /s; touch /s/f; rm -r /s; ln -s /proc/1 /s; rm /s; done", Image=image)
    for _ in range(5):
        assert set(changes(other) or ()) <= {"/s", "/s/f"}


def test_no_such_container(engine: EngineUnderTest) -> None:
    assert engine.api("GET", "/containers/missing/changes")[0] == 404


def test_mount_points_of_the_engine_are_no_changes(files: Create, engine: EngineUnderTest, busybox: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(busybox_layer("/bin/busybox"))) as tar:
        busy = tar.extractfile("bin/busybox")
        assert busy is not None
        program = tarfile.TarInfo("sh")
        program.mode = 0o755
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as bare:
            content = busy.read()
            program.size = len(content)
            bare.addfile(program, io.BytesIO(content))
    engine.load(docker_archive([buffer.getvalue()], ["bare:latest"], {"Env": ["PATH=/"]}))
    container = files("echo", Image="bare", Cmd=["/sh", "-c", "true"])
    assert changes(finished(container)) is None
    assert not os.listdir(engine.root / "containers" / container.id / "upper")  # nothing had to be made
    touched = files("echo", Image="bare", Cmd=["/sh", "-c", "echo >/etc/own"])
    assert changes(finished(touched)) == {"/etc": MODIFIED, "/etc/own": ADDED}
