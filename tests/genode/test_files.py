"""Files of containers on a real Genode, as docker's client sees them: what `cow` wrote, not how it notes it."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import genode
from fixtures.cow import TREE, layer
from fixtures.engine import EngineUnderTest
from fixtures.wait import until


def phase(name: str) -> str:
    return (
        f"GENODE_CONFIG=config | phase: {name} | local: no | base: /data | symlinks: no | mtime: no\n"
        "+ vfs | + fs | label: root -> /\n-\n"
    )


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("vfs_cow.lib.so", "test-vfs_cow")
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        files = {f"data/{name}": content for name, content in TREE.items()}
        archive = under_test.base / "cow.tar"
        archive.write_bytes(layer(files | {"bin/test-vfs_cow": (where / "test-vfs_cow").read_bytes()}))
        changes = ('CMD ["test-vfs_cow"]', "LABEL org.genode.ram=32M", "LABEL org.genode.caps=400")
        flags = [word for change in changes for word in ("--change", change)]
        under_test.capsa("import", "--platform", genode.PLATFORM, *flags, str(archive), "cow")
        yield under_test
    finally:
        under_test.close()


def failed(output: str) -> set[str]:
    """The checks that the component says have failed."""
    number = re.findall(r"(\d+) checks, \d+ failed", output)[-1]
    assert int(number) > 3, output
    return set(re.findall(r"FAILED: ([^\x1b\n]*)", output))


def exported(engine: EngineUnderTest, name: str) -> dict[str, bytes]:
    """The files of a container, by name."""
    status, body = engine.api("GET", f"/containers/{name}/export")
    assert status == 200
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        found = {}
        for member in archive:
            file = archive.extractfile(member) if member.isreg() else None
            found[member.name] = file.read() if file else b""
        return found


def test_a_stopped_container(engine: EngineUnderTest, tmp_path: Path) -> None:
    first = engine.docker("run", "--name", "one", "-e", phase("first"), "cow")
    assert failed(first.stdout) == set()
    diff = engine.docker("diff", "one").stdout.splitlines()
    assert ".wh." not in "".join(diff)
    assert {"C /data/etc/passwd", "C /data/big", "A /data/dir/new", "D /data/many/f3", "D /data/late/l"} <= set(diff)
    assert {"C /data/gone", "D /data/gone/x", "D /data/gone/z", "D /data/open/r", "A /data/rendir/sub/f"} <= set(diff)
    found = exported(engine, "one")
    assert not [name for name in found if ".wh." in name or name.startswith("data/many/")]
    assert (found["data/etc/passwd"], found["data/gone/y"]) == (b"roXX\n", b"other y\n")
    engine.docker("cp", "one:/data/gone", str(tmp_path))
    assert [path.name for path in (tmp_path / "gone").iterdir()] == ["y"]
    gone = engine.docker("cp", "one:/data/many/f3", str(tmp_path), check=False)
    assert gone.returncode and "Could not find the file /data/many/f3" in gone.stderr

    engine.docker("commit", "one", "changed")
    second = engine.docker("run", "--name", "two", "-e", phase("second"), "changed")
    assert failed(second.stdout) == set()
    assert engine.docker("diff", "two").stdout.splitlines() == [
        *("C /data", "C /data/etc", "C /data/etc/passwd", "C /data/many", "A /data/many/f0")
    ]

    (tmp_path / "f3").write_bytes(b"back\n")
    engine.docker("cp", str(tmp_path / "f3"), "one:/data/many/f3")
    again = engine.docker("run", "--rm", "-e", phase("second"), "changed")
    assert failed(again.stdout) == set()
    engine.docker("commit", "one", "copied")
    engine.docker("rm", "one", "two")
    copied = engine.docker("run", "--rm", "-e", phase("second"), "copied", check=False)
    assert failed(copied.stdout) == {"removed entries", "whiteout can be lifted"}
    assert "got 'f3' instead of ''" in copied.stdout


def test_what_is_copied_in_is_there_at_the_next_start(engine: EngineUnderTest, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone/new").write_bytes(b"new\n")
    engine.docker("run", "--name", "filled", "-e", phase("either"), "cow")
    engine.docker("cp", str(tmp_path / "gone"), "filled:/data")
    output = engine.docker("start", "-a", "filled", check=False).stdout
    assert failed(output) == {"opaque directory"} and "got 'new y' instead of 'y'" in output
    (tmp_path / "link").symlink_to("gone")
    refused = engine.docker("cp", str(tmp_path / "link"), "filled:/data", check=False)
    assert refused.returncode and "/data/link is a symbolic link" in refused.stderr
    engine.docker("rm", "filled")


def test_a_container_that_writes_all_the_time(engine: EngineUnderTest, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    engine.docker("run", "-d", "--name", "busy", "-v", f"{tmp_path}/volume:/v", "-e", phase("rewrite"), "cow")
    until(lambda: "C /data/big" in engine.docker("diff", "busy").stdout)
    big = TREE["big"]
    for _ in range(5):
        assert ".wh." not in engine.docker("diff", "busy").stdout
        found = exported(engine, "busy")
        assert not [name for name in found if ".wh." in name]
        assert found["data/big"] == big
        assert {"data/etc/hostname", "data/etc/extra"} <= set(found)
        assert found.get("data/etc/passwd", b"") in (b"", b"root\n")

    def copy(target: str) -> subprocess.CompletedProcess[str]:
        return engine.docker("cp", str(Path(__file__)), f"busy:{target}", check=False)

    refused = copy("/data/etc/new")
    assert refused.returncode and "cannot be changed while it runs on Genode" in refused.stderr
    assert copy("/v/new").returncode == 0
    assert (tmp_path / "volume/new").read_bytes() == Path(__file__).read_bytes()
    refused = engine.docker("commit", "busy", check=False)
    assert refused.returncode and "cannot be paused meanwhile" in refused.stderr
    engine.docker("commit", "--pause=false", "busy", "busy")
    engine.docker("rm", "-f", "busy")
    assert failed(engine.docker("run", "--rm", "-e", phase("intact"), "busy").stdout) == set()
