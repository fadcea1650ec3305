"""Containers on a real Genode that write to the files of their image: the plugin `cow` under the docker client."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import genode
from fixtures.cow import TREE, layer
from fixtures.engine import EngineUnderTest

CONFIGURATION = """GENODE_CONFIG=config | phase: either | local: no | base: /data | symlinks: no | mtime: no
+ vfs | + fs | label: root -> /
-
"""


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


def test_changes_outlive_a_restart_and_stay_with_their_container(engine: EngineUnderTest) -> None:
    def run(*arguments: str) -> int:
        done = engine.docker(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        number, failed = re.findall(r"(\d+) checks, (\d+) failed", done.stdout)[-1]
        assert int(number) > 10 and failed == "0", done.stdout
        return int(number)

    first = run("run", "--name", "one", "-e", CONFIGURATION, "cow")
    assert run("start", "-a", "one") < first, "the second run did not see what the first one changed"
    assert run("run", "--name", "other", "-e", CONFIGURATION, "cow") == first
    engine.docker("rm", "one", "other")


def test_a_volume_is_a_directory_of_the_host(engine: EngineUnderTest, tmp_path: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(layer(TREE))) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "link").unlink()  # lx_fs knows no symbolic links
    text = CONFIGURATION.replace("base: /data", "base: /volume")
    engine.docker("run", "--name", "volume", "-v", f"{tmp_path}:/volume", "-e", text, "cow", check=False)
    assert "ok: big file is read" in engine.docker("logs", "volume").stdout
    assert (tmp_path / "etc/passwd").read_bytes() == b"roXX\n"
    engine.docker("rm", "-f", "volume")


def test_a_read_only_container_is_one(engine: EngineUnderTest) -> None:
    engine.docker("run", "--read-only", "--name", "fixed", "-e", CONFIGURATION, "cow", check=False)
    output = engine.docker("logs", "fixed").stdout
    assert "ok: big file is read" in output and "FAILED: " in output, output
    engine.docker("rm", "fixed")
