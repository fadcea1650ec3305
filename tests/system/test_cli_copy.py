"""``capsa cp``, ``diff`` and ``commit``."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import copying
from fixtures.copying import Tree
from fixtures.engine import CAPSA, EngineUnderTest
from fixtures.files import Create, Files, tar_of


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("copies")


@pytest.fixture(scope="module")
def box(engine: EngineUnderTest, busybox: str, base: Path) -> Iterator[Files]:
    """A container with a target for each case."""
    found = Files.create(engine)
    copying.prepare(found, base)
    yield found
    found.remove()


@copying.cases()
def test_files_come_out_by_the_rules(
    engine: EngineUnderTest, box: Files, base: Path, options: str, source: str, target: str, expected: Tree | str
) -> None:
    copying.out_of(engine.capsa, box, base, (options, source, target, expected))


@copying.cases(2)
def test_files_go_in_by_the_rules(
    engine: EngineUnderTest, box: Files, base: Path, options: str, source: str, target: str, expected: Tree | str
) -> None:
    copying.into(engine.capsa, box, base, (options, source, target, expected))


def capsa(engine: EngineUnderTest, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [*CAPSA, *arguments]
    return subprocess.run(command, env=engine.environment(), input=input, capture_output=True, timeout=60)


def test_a_minus_is_an_archive_on_standard_input_or_output(engine: EngineUnderTest, box: Files) -> None:
    done = capsa(engine, "cp", f"{box.id}:/src/dir", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        assert tar.getnames() == ["dir", "dir/inside"]
    assert capsa(engine, "cp", "-", f"{box.id}:/tmp", input=tar_of(("piped", b"x"))).returncode == 0
    assert box.read("/tmp/piped") == b"x"
    done = capsa(engine, "cp", "-", f"{box.id}:/src/file", input=tar_of())
    assert done.returncode == 1 and b"must be a directory" in done.stderr


def test_what_cannot_be_meant_is_refused(engine: EngineUnderTest, box: Files, tmp_path: Path) -> None:
    for arguments, words in (
        (("a:/x", "b:/y"), "copying between containers is not supported"),
        (("/x", "/y"), "must specify at least one container source"),
        ((f"{box.id}:/src/file", f"{tmp_path}/no/where"), "invalid output path: directory"),
        ((f"{box.id}:/src/file", "/dev/null"), "must be a directory or a regular file: got a device"),
        ((f"{tmp_path}/missing", f"{box.id}:/"), "no such file or directory"),
        (("missing:/x", str(tmp_path)), "No such container: missing"),
        ((str(tmp_path), f"{box.id}:/dev/null"), "must be a directory or a regular file"),
    ):
        done = engine.capsa("cp", *arguments, check=False)
        assert done.returncode == 1 and words in done.stderr


def test_the_containers_user_gets_the_files_with_archive(
    engine: EngineUnderTest, files: Create, tmp_path: Path
) -> None:
    container = files(User="nobody")
    (tmp_path / "file").write_text("x")
    engine.capsa("cp", "-a", f"{tmp_path}/file", f"{container.id}:/tmp")
    assert container.get("/tmp/file")["file"].uid == 65534


def test_an_archive_of_a_hostile_container_stays_below_its_target(
    engine: EngineUnderTest, files: Create, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    container = files(start=False)
    container.put("/", tar_of(("bad", None), ("bad/link", str(outside)), ("bad/up", "../../outside")))
    (tmp_path / "target").mkdir()
    engine.capsa("cp", f"{container.id}:/bad", f"{tmp_path}/target")
    container.put("/", tar_of(("bad/link", None), ("bad/link/x", b"x"), ("bad/up", None), ("bad/up/x", b"x")))
    done = engine.capsa("cp", f"{container.id}:/bad", f"{tmp_path}/target", check=False)
    assert done.returncode == 1  # a link is no directory: neither replaced nor followed
    assert list(outside.iterdir()) == []


def test_diff_shows_a_letter_and_a_path(engine: EngineUnderTest, files: Create) -> None:
    container = files()
    container.run("touch /tmp/new; rm /bin/vi")
    shown = engine.capsa("diff", container.id).stdout
    assert shown.splitlines() == ["C /bin", "D /bin/vi", "C /tmp", "A /tmp/new"]
    assert engine.capsa("container", "diff", container.id).stdout == shown


def test_commit_makes_an_image_that_runs(engine: EngineUnderTest, files: Create) -> None:
    container = files()
    container.run("echo made >/made")
    change = 'CMD ["cat", "/made"]'
    done = engine.capsa("commit", "-a", "me", "-m", "why", "-c", change, container.id, "localhost:5000/mine:2")
    image = engine.api("GET", f"/images/{done.stdout.strip()}/json")[1]
    assert image["RepoTags"] == ["localhost:5000/mine:2"]
    assert (image["Author"], image["Comment"]) == ("me", "why")
    assert engine.capsa("run", "--rm", "localhost:5000/mine:2").stdout == "made\n"
    assert engine.capsa("container", "commit", "--pause=false", container.id).stdout.startswith("sha256:")
