"""Thousands of requests and hundreds of streams at once, by one process without a thread for each."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from fixtures.engine import EngineUnderTest

REQUESTS, CONNECTIONS = 3000, 300
STREAMS = {"logs": 100, "events": 100, "attach": 60, "stats": 40}


def figure(engine: EngineUnderTest, name: str) -> int:
    return int(Path(f"/proc/{engine.pid}/status").read_text().partition(f"{name}:")[2].split()[0])


async def connect(engine: EngineUnderTest) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(str(engine.socket))


async def head(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)


async def many(engine: EngineUnderTest, path: str) -> list[int]:
    """`REQUESTS` of one path on `CONNECTIONS`, all under way at once; their statuses."""

    async def one() -> list[int]:
        reader, writer = await connect(engine)
        count = REQUESTS // CONNECTIONS
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * count)
        found = []
        for _ in range(count):
            answer = await head(reader)
            length = int(answer.lower().partition(b"content-length:")[2].split()[0])
            await reader.readexactly(length)
            found.append(int(answer.split()[1]))
        writer.close()
        return found

    return [code for codes in await asyncio.gather(*(one() for _ in range(CONNECTIONS))) for code in codes]


async def test_thousands_of_requests_while_hundreds_of_streams_are_open(engine: EngineUnderTest, busybox: str) -> None:
    script = "while read a; do echo said $a; done"
    body = {"Image": busybox, "Cmd": ["sh", "-c", script], "OpenStdin": True, "HostConfig": {"NetworkMode": "none"}}
    _, made = engine.api("POST", "/containers/create", body)
    container = f"/containers/{made['Id']}"
    engine.api("POST", f"{container}/start")
    await many(engine, "/containers/json?all=1")
    resident, threads, opened = figure(engine, "VmRSS"), figure(engine, "Threads"), len(descriptors(engine))

    paths = {
        "logs": f"GET {container}/logs?stdout=1&follow=1",
        "events": "GET /events",
        "attach": f"POST {container}/attach?stream=1&stdout=1",
        "stats": f"GET {container}/stats",
    }
    streams = []
    for kind, count in STREAMS.items():
        for _ in range(count):
            reader, writer = await connect(engine)
            extra = "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n" if kind == "attach" else ""
            writer.write(f"{paths[kind]} HTTP/1.1\r\nHost: x\r\n{extra}\r\n".encode())
            streams.append((kind, reader, writer))
    codes = await asyncio.gather(*(head(reader) for _kind, reader, _writer in streams))
    assert {code.split()[1] for code in codes} == {b"200", b"101"}

    began = time.monotonic()
    codes_of_many = await many(engine, "/version")
    took = time.monotonic() - began
    assert codes_of_many == [200] * REQUESTS
    assert took < 30, f"{took:.1f} s"
    assert figure(engine, "Threads") <= threads + 2

    reader, writer = await connect(engine)
    query = "stream=1&stdin=1"
    writer.write(f"POST {container}/attach?{query} HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\n\r\n".encode())
    await head(reader)
    writer.write(b"hello\n")
    for kind, stream, _writer in streams:
        if kind in ("logs", "attach"):
            data = await asyncio.wait_for(stream.readuntil(b"said hello\n"), 60)
            assert data.endswith(b"said hello\n")
        elif kind == "stats":
            await asyncio.wait_for(stream.readuntil(b'"pids_stats":{"current":'), 60)
    writer.close()
    assert figure(engine, "VmRSS") < resident + 60_000
    await asyncio.to_thread(engine.api, "DELETE", f"{container}?force=1")
    for kind, stream, _writer in streams:
        if kind == "events":
            await asyncio.wait_for(stream.readuntil(b'"destroy"'), 60)
        elif kind == "attach":
            await asyncio.wait_for(stream.read(), 60)  # it ends with its container
        else:
            await asyncio.wait_for(stream.readuntil(b"\r\n0\r\n\r\n"), 60)  # the last chunk
    for _kind, _reader, closing in streams:
        closing.close()
    deadline = time.monotonic() + 20
    while len(descriptors(engine)) > opened + 5:
        assert time.monotonic() < deadline, descriptors(engine)
        await asyncio.sleep(0.05)
    assert figure(engine, "VmRSS") < resident + 40_000


def descriptors(engine: EngineUnderTest) -> list[str]:
    return os.listdir(f"/proc/{engine.pid}/fd")
