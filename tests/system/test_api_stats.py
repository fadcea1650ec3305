"""What containers use: real figures, once or every second, for as long as they are there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures.engine import EngineUnderTest, UnixConnection


@pytest.fixture(scope="module")
def busy(engine: EngineUnderTest, busybox: str) -> Iterator[str]:
    """A container that computes, has 20 MB in a tmpfs and a limit on its memory and processes."""
    script = "sleep 1000 & head -c 20000000 /dev/zero >/dev/shm/x; while true; do :; done"
    host = {"Memory": 64 << 20, "PidsLimit": 50, "NanoCpus": 300_000_000}
    body = {"Image": busybox, "Cmd": ["sh", "-c", script], "HostConfig": host}
    _, made = engine.api("POST", "/containers/create?name=busy", body)
    assert engine.api("POST", f"/containers/{made['Id']}/start")[0] == 204
    yield made["Id"]
    engine.api("DELETE", f"/containers/{made['Id']}?force=1")


def once(engine: EngineUnderTest, container: str, query: str = "stream=0&one-shot=1") -> dict[str, Any]:
    status, answer = engine.api("GET", f"/containers/{container}/stats?{query}")
    assert status == 200, answer
    return dict(answer)


def test_one_shot_has_every_figure(engine: EngineUnderTest, busy: str) -> None:
    deadline = time.monotonic() + 20
    while (found := once(engine, busy))["memory_stats"]["usage"] < 20_000_000:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    assert found["memory_stats"]["limit"] == 64 << 20
    assert found["memory_stats"]["usage"] < 64 << 20 and found["memory_stats"]["stats"]
    assert found["pids_stats"] == {"current": found["pids_stats"]["current"], "limit": 50}
    assert 2 <= found["pids_stats"]["current"] <= 4
    assert found["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert found["cpu_stats"]["system_cpu_usage"] > found["cpu_stats"]["cpu_usage"]["total_usage"]
    assert found["cpu_stats"]["online_cpus"] >= 1
    assert found["precpu_stats"]["cpu_usage"]["total_usage"] == 0 and found["preread"] == "0001-01-01T00:00:00Z"
    assert set(found["networks"]["eth0"]) == {
        f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "packets", "errors", "dropped")
    }
    assert isinstance(found["blkio_stats"]["io_service_bytes_recursive"], list)
    assert (found["name"], found["id"]) == ("/busy", busy)


def test_without_one_shot_there_are_two_samples(engine: EngineUnderTest, busy: str) -> None:
    found = once(engine, busy, "stream=0")
    before, now = found["precpu_stats"], found["cpu_stats"]
    assert now["cpu_usage"]["total_usage"] > before["cpu_usage"]["total_usage"] > 0
    assert now["system_cpu_usage"] > before["system_cpu_usage"]
    assert found["read"] > found["preread"]
    assert now["throttling_data"]["periods"] > 0
    assert once(engine, busy, "stream=0&one-shot=1")["precpu_stats"]["cpu_usage"]["total_usage"] == 0


def test_a_stream_goes_on_until_the_container_is_gone(engine: EngineUnderTest, busybox: str) -> None:
    body = {"Image": busybox, "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}
    _, made = engine.api("POST", "/containers/create", body)
    engine.api("POST", f"/containers/{made['Id']}/start")
    connection = UnixConnection(str(engine.socket), 20)
    connection.request("GET", f"/containers/{made['Id']}/stats")
    response = connection.getresponse()
    first, second = (json.loads(response.readline()) for _ in range(2))
    assert first["pids_stats"]["current"] == 1 and "networks" not in first
    assert second["precpu_stats"] == first["cpu_stats"] and second["preread"] == first["read"]
    engine.api("POST", f"/containers/{made['Id']}/kill")
    while (line := json.loads(response.readline()))["memory_stats"]:
        pass
    assert line["read"] == "0001-01-01T00:00:00Z" and line["id"] == made["Id"]
    engine.api("DELETE", f"/containers/{made['Id']}")
    assert len(response.read().splitlines()) <= 2
    connection.close()


def test_a_stopped_container_uses_nothing_and_says_so_at_once(engine: EngineUnderTest, busybox: str) -> None:
    _, made = engine.api("POST", "/containers/create", {"Image": busybox, "Cmd": ["true"]})
    for query in ("stream=0", "stream=false&one-shot=true"):
        found = once(engine, made["Id"], query)
        assert found["id"] == made["Id"] and found["memory_stats"] == {} and found["pids_stats"] == {}
    engine.api("DELETE", f"/containers/{made['Id']}")
    assert engine.api("GET", "/containers/nosuch/stats")[0] == 404
