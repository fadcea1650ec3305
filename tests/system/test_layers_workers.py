"""Unpacking in other processes: errors come back as they are, and nothing that dies leaves anything."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from fixtures import processes, tars

from capsa.errors import BrokenArchive, CapsaError, DigestMismatch, Unsupported
from capsa.image.layers import LayerStore
from capsa.image.workers import Workers

pytestmark = pytest.mark.usefixtures("need_root")


@pytest_asyncio.fixture
async def workers(tmp_path: Path) -> AsyncIterator[Workers]:
    pool = Workers(LayerStore(tmp_path / "image"), idle=30)
    try:
        yield pool
    finally:
        await pool.close()
        assert children() == []


def children(pid: int | None = None) -> list[int]:
    """The workers among the children of a process (this one)."""
    # First "-m capsa.image.worker", then titled.
    found = processes.children(pid or os.getpid())
    return [child for child in found if re.search(r"image.worker", processes.title(child))]


def blob(tmp_path: Path, *entries: bytes, name: str = "blob") -> Path:
    path = tmp_path / name
    path.write_bytes(tars.archive(*entries))
    return path


def endless(path: Path, store: LayerStore) -> Path:
    """A blob that never comes to its end."""
    os.mkfifo(path)
    return path


def write_some(fd: int) -> None:
    os.write(fd, tars.file(b"f", b"x" * 3000) * 10)


async def until_at_work(store: LayerStore) -> None:
    while not any((store.root / "tmp").glob("layer-*/files/1")):
        await asyncio.sleep(0.01)


async def test_unpacks_and_reports(workers: Workers, tmp_path: Path) -> None:
    path = blob(tmp_path, *(tars.file(b"%d" % number, os.urandom(100_000)) for number in range(100)))
    seen: list[int] = []
    layer = await workers.unpack(path, diff_id=tars.diff_id(path.read_bytes()), progress=seen.append)
    assert len(list(layer.path.iterdir())) == 100
    assert seen and seen == sorted(seen) and seen[-1] <= path.stat().st_size


async def test_errors_keep_their_class_and_words(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(BrokenArchive, match="leads out of the layer"):
        await workers.unpack(blob(tmp_path, tars.file(b"../x")))
    with pytest.raises(DigestMismatch):
        await workers.unpack(blob(tmp_path, tars.file(b"x")), diff_id="sha256:" + "0" * 64)
    with pytest.raises(Unsupported):
        await workers.unpack(blob(tmp_path, tars.file(b"x")), media_type="application/wasm")
    with pytest.raises(CapsaError, match="no such file"):
        await workers.unpack(tmp_path / "none")
    assert (await workers.unpack(blob(tmp_path, tars.file(b"x")))).entries == 1
    assert len(children()) == 1


async def test_no_more_processes_than_allowed(workers: Workers, tmp_path: Path) -> None:
    blobs = [blob(tmp_path, tars.file(b"x", b"%d" % number), name=str(number)) for number in range(8)]
    layers = await asyncio.gather(*(workers.unpack(path) for path in blobs))
    assert len({layer.diff_id for layer in layers}) == 8
    assert 1 <= len(children()) <= 2


async def test_idle_processes_end(tmp_path: Path) -> None:
    pool = Workers(LayerStore(tmp_path / "image"), idle=0.05)
    await pool.unpack(blob(tmp_path, tars.file(b"x")))
    for _ in range(500):
        if not children():
            break
        await asyncio.sleep(0.02)
    assert children() == []
    assert (await pool.unpack(blob(tmp_path, tars.file(b"y")))).entries == 1
    await pool.close()
    assert children() == []


async def test_a_killed_worker_is_an_error_and_leaves_nothing(workers: Workers, tmp_path: Path) -> None:
    store = workers._store
    path = endless(tmp_path / "fifo", store)
    task = asyncio.ensure_future(workers.unpack(path))
    fd = await asyncio.to_thread(os.open, path, os.O_WRONLY)
    try:
        await asyncio.to_thread(write_some, fd)
        await until_at_work(store)
        (worker,) = children()
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(CapsaError, match="SIGKILL"):
            await task
    finally:
        os.close(fd)
    assert os.listdir(store.root / "tmp") == [] and store.usage() == 0
    assert (await workers.unpack(blob(tmp_path, tars.file(b"x")))).entries == 1


async def test_cancelling_kills_the_work_and_undoes_it(workers: Workers, tmp_path: Path) -> None:
    store = workers._store
    path = endless(tmp_path / "fifo", store)
    task = asyncio.ensure_future(workers.unpack(path))
    fd = await asyncio.to_thread(os.open, path, os.O_WRONLY)
    try:
        await asyncio.to_thread(write_some, fd)
        await until_at_work(store)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        os.close(fd)
    assert children() == []
    assert os.listdir(store.root / "tmp") == [] and store.usage() == 0


async def test_a_process_that_is_cancelled_while_it_starts_is_gone(workers: Workers, tmp_path: Path) -> None:
    path = blob(tmp_path, tars.file(b"x"))
    for steps in range(10):
        task = asyncio.ensure_future(workers.unpack(path))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert processes.children(os.getpid()) == [], steps  # dead ones, too
    assert (await workers.unpack(path)).entries == 1


def test_workers_die_with_their_engine(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    program = """
import asyncio, sys
from pathlib import Path
from capsa.image.layers import LayerStore
from capsa.image.workers import Workers
root = Path(sys.argv[1])
asyncio.run(Workers(LayerStore(root / "image")).unpack(root / "fifo"))
"""
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) as engine:
        fd = os.open(tmp_path / "fifo", os.O_WRONLY)  # returns when the worker reads
        try:
            (worker,) = children(engine.pid)
            engine.kill()
            engine.wait()
            for _ in range(500):
                if not Path(f"/proc/{worker}").exists():
                    break
                time.sleep(0.02)
            assert not Path(f"/proc/{worker}").exists()
        finally:
            os.close(fd)
    store = LayerStore(tmp_path / "image")
    store.recover()
    assert os.listdir(store.root / "tmp") == []
