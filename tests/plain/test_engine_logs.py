"""Reading logs: ends, times, rotation, and following without a thread."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from capsa.engine import logs
from capsa.engine.config import Config, HostConfig, LogConfig
from capsa.engine.container import Container, Document, State
from capsa.engine.times import parse
from capsa.platform.log import LogWriter
from capsa.platform.protocol import Log


@pytest.fixture
def container(tmp_path: Path) -> Container:
    """A container that runs, as far as its log can tell."""
    document = Document(
        created=1, image="sha256:1", image_name="x", platform="linux", path="x", args=[], config=Config(),
        host=HostConfig(log_config=LogConfig(type="json-file")),
    )  # fmt: skip
    return Container("c" * 64, "box", document, State(status="running"), tmp_path)


def put(container: Container, *lines: str, stream: str = "stdout", size: int = 0, files: int = 1) -> None:
    writer = LogWriter(Log(str(container.log_path), size, files))
    for line in lines:
        writer.write(stream, f"{line}\n".encode())
    writer.close()


def texts(data: bytes) -> list[str]:
    """The text of all frames."""
    found = []
    while data:
        length = int.from_bytes(data[4:8], "big")
        found.append(data[8 : 8 + length].decode().rstrip("\n"))
        data = data[8 + length :]
    return found


async def read(container: Container, **selection: object) -> list[str]:
    pieces = [piece async for piece in logs.read(container, logs.Selection(**selection))]  # type: ignore[arg-type]
    return texts(b"".join(pieces))


async def test_both_streams_come_in_order_and_framed(container: Container) -> None:
    put(container, "one")
    put(container, "two", stream="stderr")
    put(container, "three")
    assert await read(container) == ["one", "two", "three"]
    assert await read(container, stdout=False) == ["two"]
    assert await read(container, stderr=False) == ["one", "three"]
    pieces = [piece async for piece in logs.read(container, logs.Selection())]
    assert pieces[0][0] == 1 and b"\x02\0\0\0\0\0\0\x04two\n" in pieces[0]


async def test_a_terminals_log_is_raw(container: Container) -> None:
    container.config.tty = True
    put(container, "one")
    assert [piece async for piece in logs.read(container, logs.Selection())] == [b"one\n"]


@pytest.mark.parametrize("tail", [0, 1, 3, 2999, 3000, 5000])
async def test_the_tail_is_found_from_the_end(container: Container, tail: int) -> None:
    lines = [f"line {number} " + "x" * (number % 200) for number in range(3000)]
    put(container, *lines)
    assert await read(container, tail=tail) == (lines[-tail:] if tail else [])


async def test_rotated_files_are_one_log(container: Container) -> None:
    lines = [f"line {number}" for number in range(100)]
    put(container, *lines, size=2000, files=10)
    assert len(logs.files(container.log_path)) > 2
    assert await read(container) == lines
    for tail in (1, 30, 70):
        assert await read(container, tail=tail) == lines[-tail:]


async def test_a_tail_counts_the_wanted_stream_only(container: Container) -> None:
    for number in range(10):
        put(container, f"out {number}")
        put(container, f"err {number}", stream="stderr")
    assert await read(container, tail=2, stderr=False) == ["out 8", "out 9"]


async def test_times_bound_what_is_read(container: Container) -> None:
    for at, text in (("2024-01-01T00:00:01Z", "a"), ("2024-01-01T00:00:02.5Z", "b"), ("2024-01-01T00:00:04Z", "c")):
        with open(container.log_path, "a") as file:
            file.write(json.dumps({"log": f"{text}\n", "stream": "stdout", "time": at}) + "\n")
    assert await read(container, since=parse("2024-01-01T00:00:02Z")) == ["b", "c"]
    assert await read(container, until=parse("2024-01-01T00:00:03Z")) == ["a", "b"]
    assert await read(container, timestamps=True, tail=1) == ["2024-01-01T00:00:04Z c"]


async def test_a_broken_line_costs_that_line_only(container: Container) -> None:
    put(container, "one")
    with open(container.log_path, "a") as file:
        file.write('{"log":"half\n')
    put(container, "two")
    assert await read(container) == ["one", "two"]
    assert await read(container, tail=2) == ["one", "two"]


async def test_without_a_log_there_is_nothing(container: Container) -> None:
    assert await read(container) == []


class Follower:
    """Follows a log in the background."""

    def __init__(self, container: Container, **selection: object) -> None:
        self.found: list[str] = []
        self.task = asyncio.ensure_future(self._run(container, logs.Selection(follow=True, **selection)))  # type: ignore[arg-type]

    async def _run(self, container: Container, selection: logs.Selection) -> None:
        async for piece in logs.read(container, selection):
            self.found += texts(piece)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.found) < count:
                await asyncio.sleep(0.01)


def end(container: Container) -> None:
    container.state.status = "exited"
    container.wake_exits()


async def test_a_follower_sees_what_is_added_and_ends_with_the_container(container: Container) -> None:
    put(container, "old", "new")
    follower = Follower(container, tail=1)
    await follower.until(1)
    put(container, "newer")
    await follower.until(2)
    put(container, "last")
    end(container)
    await asyncio.wait_for(follower.task, 10)
    assert follower.found == ["new", "newer", "last"]


async def test_a_follower_sees_the_first_line_of_a_log_that_is_not_there_yet(container: Container) -> None:
    follower = Follower(container)
    await asyncio.sleep(0.05)
    put(container, "first")
    await follower.until(1)
    end(container)
    await asyncio.wait_for(follower.task, 10)


async def test_a_follower_loses_no_line_to_rotation(container: Container) -> None:
    follower = Follower(container)
    lines = [f"line {number}" for number in range(400)]
    writer = LogWriter(Log(str(container.log_path), 3000, 20))
    for line in lines:
        writer.write("stdout", f"{line}\n".encode())
        if line.endswith("7"):
            await asyncio.sleep(0)
    writer.close()
    end(container)
    await asyncio.wait_for(follower.task, 10)
    assert follower.found == lines


async def test_a_follower_goes_on_where_the_only_file_was_emptied(container: Container) -> None:
    follower = Follower(container)
    put(container, *(f"old {number}" for number in range(20)))
    await follower.until(20)
    os.truncate(container.log_path, 0)
    put(container, "fresh")
    await follower.until(21)
    assert follower.found[-1] == "fresh"
    end(container)
    await asyncio.wait_for(follower.task, 10)


async def test_following_ends_at_a_time(container: Container) -> None:
    import time

    follower = Follower(container, until=time.time_ns() + 50_000_000)
    await asyncio.wait_for(follower.task, 10)


async def test_a_follower_that_leaves_leaves_nothing(container: Container) -> None:
    put(container, "x")
    before = len(os.listdir("/proc/self/fd"))
    follower = Follower(container)
    await follower.until(1)
    follower.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await follower.task
    await asyncio.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not container.on_end
