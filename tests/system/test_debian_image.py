"""Making Debian images: what mmdebstrap gives becomes an image, and an interruption leaves nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures import processes
from fixtures.imagestore import chunks, open_store

from capsa.errors import CapsaError
from capsa.image.debian import make_debian

pytestmark = pytest.mark.usefixtures("need_root")

PROGRAM = """#!/bin/sh
mkdir "$TMPDIR/root" && mount -t tmpfs test "$TMPDIR/root" || exit 1
echo hello >"$TMPDIR/root/file"
{action}
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, and nothing may be left."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return folder


def mmdebstrap(folder: Path, action: str) -> None:
    program = folder / "mmdebstrap"
    program.write_text(PROGRAM.format(action=action))
    program.chmod(0o755)


async def test_the_archive_is_an_image_and_the_same_each_time(scratch: Path, tmp_path: Path) -> None:
    mmdebstrap(tmp_path, 'touch -d @1 "$TMPDIR/root/file" "$TMPDIR/root"; tar -C "$TMPDIR/root" -c .')
    ids = []
    for _ in range(2):
        with make_debian("debian:test", suite="sid") as archive:
            data = b"".join(archive.chunks())
            assert len(data) == archive.size
            ids.append(archive.id)
    assert ids[0] == ids[1] and not list(scratch.iterdir())
    async with open_store(tmp_path / "store") as store:
        [loaded] = await store.load(chunks(data))
        assert (loaded.id, loaded.name) == (ids[0], "debian:test")
        assert (store.layers(loaded.id)[0] / "file").read_text() == "hello\n"
        assert store.config(loaded.id).config.cmd == ["bash"]


def test_a_failure_is_passed_on_in_its_own_words(scratch: Path, tmp_path: Path) -> None:
    mmdebstrap(tmp_path, "echo E: no such package: xyz >&2; exit 3")
    with pytest.raises(CapsaError, match="mmdebstrap failed: E: no such package: xyz"), make_debian("a:1", suite="sid"):
        pass
    assert not list(scratch.iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_neither_files_nor_processes(scratch: Path, tmp_path: Path, number: int) -> None:
    mark = tmp_path / "started"
    mmdebstrap(tmp_path, f"echo $PPID >{mark}; sleep 1000 & sleep 1000")
    code = "from capsa.image.debian import make_debian\nwith make_debian('a:1', suite='sid'): pass"
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env={**os.environ, **_path()})
    _until(mark.exists)
    child.send_signal(number)
    try:
        child.wait(30)
    finally:
        child.kill()
    _until(lambda: not list(scratch.iterdir()))
    _until(lambda: str(tmp_path) not in _environments())


def _path() -> dict[str, str]:
    import capsa

    return {"PYTHONPATH": str(Path(capsa.__file__).parents[1])}


def _environments() -> str:
    """The environments of all sleeping processes, to see whose they are."""
    found = []
    for pid in processes.every():
        if "sleep" in processes.title(pid):
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace"))
    return "\n".join(found)


def _until(true: object) -> None:
    deadline = time.monotonic() + 30
    while not true():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)
