"""Events: every kind that clients read, Docker's filters, a beginning and an end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fixtures.engine import EngineUnderTest, UnixConnection


def past(engine: EngineUnderTest, since: int, version: str = "1.51", **filters: Any) -> list[dict[str, Any]]:
    """All events since then that the filters let through."""
    until = time.time_ns()
    text = quote(json.dumps(filters))
    path = f"/v{version}/events?since={since // 10**9}.{since % 10**9:09d}&until={until // 10**9}.{until % 10**9:09d}"
    connection = UnixConnection(str(engine.socket), 20)
    connection.request("GET", f"{path}&filters={text}")
    response = connection.getresponse()
    assert response.status == 200
    lines = response.read().splitlines()
    connection.close()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def story(engine: EngineUnderTest, busybox: str) -> Iterator[tuple[int, str]]:
    """When it began, and the container that went through all of it."""
    since = time.time_ns()
    name = "story"
    body = {
        "Image": busybox,
        "Cmd": ["sleep", "1000"],
        "Labels": {"kind": "tale"},
        "HostConfig": {"NetworkMode": "tale-net", "Binds": ["vol:/vol"]},
    }
    engine.api("POST", "/networks/create", {"Name": "tale-net"})
    engine.api("POST", "/volumes/create", {"Name": "vol"})
    _, made = engine.api("POST", f"/containers/create?name={name}", body)
    identity = made["Id"]
    for verb in ("start", "pause", "unpause", "kill?signal=WINCH", "rename?name=other", "restart?t=0"):
        status, answer = engine.api("POST", f"/containers/{identity}/{verb}")
        assert status == 204, answer
    _, made = engine.api("POST", f"/containers/{identity}/exec", {"Cmd": ["sh", "-c", "exit 3"]})
    engine.api("POST", f"/exec/{made['Id']}/start", {"Detach": True})
    deadline = time.monotonic() + 20
    while engine.api("GET", f"/exec/{made['Id']}/json")[1]["Running"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    engine.api("POST", f"/containers/{identity}/stop?t=0")
    engine.api("DELETE", f"/containers/{identity}")
    engine.api("DELETE", "/networks/tale-net")
    engine.api("DELETE", "/volumes/vol")
    yield since, identity


def actions(found: list[dict[str, Any]]) -> list[str]:
    return [event["Action"] for event in found]


def test_a_containers_life_in_order(engine: EngineUnderTest, story: tuple[int, str]) -> None:
    since, identity = story
    found = past(engine, since, container=[identity])
    assert [action for action in actions(found) if not action.startswith(("exec", "connect", "disconnect"))] == [
        "create", "start", "pause", "unpause", "kill", "rename", "kill", "kill", "die", "stop", "start", "restart",
        "kill", "kill", "die", "stop", "destroy",
    ]  # fmt: skip
    assert [action for action in actions(found) if action.startswith("exec")] == [
        "exec_create: sh -c exit 3",
        "exec_start: sh -c exit 3",
        "exec_die",
    ]
    first = found[0]
    assert first["status"] == "create" and first["id"] == identity and first["from"] == "busybox:latest"
    assert first["Actor"]["Attributes"] == {"image": "busybox:latest", "kind": "tale", "name": "story"}
    assert first["timeNano"] // 10**9 == first["time"] and first["scope"] == "local"
    ended = next(event for event in found if event["Action"] == "die")
    assert ended["Actor"]["Attributes"]["exitCode"] == "137"
    assert next(event for event in found if event["Action"] == "exec_die")["Actor"]["Attributes"]["exitCode"] == "3"


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ({"type": ["network"]}, {"create", "connect", "disconnect", "destroy"}),
        ({"type": ["volume"]}, {"create", "mount", "unmount", "destroy"}),
        ({"event": ["pause", "unpause"]}, {"pause", "unpause"}),
        ({"event": ["exec_create"]}, {"exec_create: sh -c exit 3"}),
        ({"event": ["exec_create: sh -c exit 3"]}, {"exec_create: sh -c exit 3"}),
        ({"label": ["kind=tale"], "event": ["pause"]}, {"pause"}),
        ({"label": ["kind=other"]}, set()),
        ({"image": ["busybox"], "event": ["start"]}, {"start"}),
        ({"image": ["busybox:latest"], "event": ["start"]}, {"start"}),
        ({"container": ["oth"], "event": ["stop"]}, {"stop"}),
        ({"volume": ["vol"]}, {"create", "mount", "unmount", "destroy"}),
        ({"network": ["tale-net"], "type": ["network"], "event": ["create"]}, {"create"}),
        ({"scope": ["swarm"]}, set()),
        ({"scope": ["local"], "event": ["pause"]}, {"pause"}),
        *(({kind: ["x"]}, set()) for kind in ("config", "daemon", "node", "plugin", "secret", "service")),
    ],
)
def test_filters_choose_as_dockers_do(
    engine: EngineUnderTest, story: tuple[int, str], filters: dict[str, list[str]], wanted: set[str]
) -> None:
    assert set(actions(past(engine, story[0], **filters))) == wanted


def test_malformed_questions(engine: EngineUnderTest) -> None:
    for query in ("filters=x", "filters=[]", 'filters={"nosuch":["x"]}', 'filters={"type":5}', "since=x", "until=-"):
        status, answer = engine.api("GET", f"/events?{query}")
        assert status == 400 and answer["message"], query
    status, answer = engine.api("GET", "/events?since=20&until=10")
    assert status == 400 and answer["message"] == "`since` time (20) cannot be after `until` time (10)"


def test_a_stream_begins_at_once_and_ends_in_time(engine: EngineUnderTest) -> None:
    connection = UnixConnection(str(engine.socket), 20)
    connection.request(
        "GET",
        f"/events?since={time.time():.3f}&until={time.time() + 1:.3f}",
        headers={"Accept": "application/json-seq"},
    )
    response = connection.getresponse()
    assert response.status == 200 and response.headers["Content-Type"] == "application/json-seq"
    engine.api("POST", "/volumes/create", {"Name": "late"})
    engine.api("DELETE", "/volumes/late")
    records = response.read().split(b"\x1e")
    connection.close()
    assert records[0] == b"" and [json.loads(record)["Action"] for record in records[1:]] == ["create", "destroy"]
