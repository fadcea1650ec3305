"""Requests made from the API's description, many of them wrong: each gets an answer, and the engine stays up."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures import table
from fixtures.description import PACKAGE, Description, Operation, obtain
from fixtures.engine import EngineUnderTest, UnixConnection
from fixtures.generated import Request, requests
from fixtures.images import busybox_archive
from hypothesis import HealthCheck, given, seed, settings

CACHE = Path(__file__).parents[2] / ".cache"
EXAMPLES = int(os.environ.get("CAPSA_EXAMPLES", "12"))
#: Of these there is more to say.
RICH = {"/containers/create": 6, "/containers/{id}/exec": 2, "/networks/create": 2, "/networks/{id}/connect": 2}
#: What may answer 500: a launch fails for reasons of the machine, and Docker calls it that not to be connected.
FAILING = ("/start", "/restart", "/disconnect")
_MOST = 1 << 16


@pytest.fixture(scope="module")
def description() -> Description:
    found = obtain(CACHE)
    if found is None:
        pytest.skip(f"needs Debian's {PACKAGE} (apt-get download could not get it)")
    return Description(found)


@pytest.fixture(scope="module")
def stocked(engine: EngineUnderTest, busybox: str) -> Iterator[EngineUnderTest]:
    """An engine with something of each kind; everything that was made is removed through the API afterwards."""
    restock(engine)
    yield engine
    engine.remove_containers()
    for network in engine.api("GET", '/networks?filters={"type":["custom"]}'.replace('"', "%22"))[1]:
        assert engine.api("DELETE", f"/networks/{network['Id']}")[0] == 204
    for volume in engine.api("GET", "/volumes")[1]["Volumes"]:
        assert engine.api("DELETE", f"/volumes/{volume['Name']}")[0] == 204


def restock(engine: EngineUnderTest) -> None:
    """What names in generated requests stand for, whatever earlier requests did to it."""
    if engine.api("GET", "/images/busybox/json")[0] == 404:
        engine.load(busybox_archive("/bin/busybox"))
    host = {"NetworkMode": "none"}
    for name in ("running", "stopped"):
        body = {"Image": "busybox", "Cmd": ["sleep", "1000"], "HostConfig": host, "StopTimeout": 0}
        status, answer = engine.api("POST", f"/containers/create?name={name}", body)
        assert status in (201, 409), answer
    engine.api("POST", "/containers/running/unpause")
    status, answer = engine.api("POST", "/containers/running/start")
    assert status in (204, 304), answer
    engine.api("POST", "/networks/create", {"Name": "network"})
    engine.api("POST", "/volumes/create", {"Name": "volume"})


def ask(engine: EngineUnderTest, version: str, request: Request) -> tuple[int, bytes]:
    """The status and the beginning of the answer."""
    waits = "/wait" in request.path  # its head comes at once, the rest perhaps never
    connection = UnixConnection(str(engine.socket), 30)
    try:
        connection.request(
            request.method, f"/v{version}{request.path}", request.body, {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        if response.status == 101 or (waits and response.status == 200):
            return response.status, b""
        return response.status, response.read(_MOST)
    finally:
        connection.close()


def judge(operation: Operation, status: int, answer: bytes) -> None:
    if status >= 400 and operation.method != "HEAD":
        document = json.loads(answer)
        assert [*document] == ["message"] and document["message"], answer
    assert status in operation.responses or 400 <= status < 500 or status in (101, 501, 503), (status, answer)
    if status == 500:
        assert operation.path.endswith(FAILING), answer


def tried(engine: EngineUnderTest, operation: Operation, answer: bytes) -> None:
    """What a request made works as far as it can, and can be removed."""
    if operation.path == "/containers/create":
        made = json.loads(answer)["Id"]
        status, told = engine.api("POST", f"/containers/{made}/start")
        assert status in (204, 400, 404, 409, 500, 501), told
        status, told = engine.api("DELETE", f"/containers/{made}?force=1&v=1")
        assert status in (204, 404, 409), told
    elif operation.path == "/containers/{id}/exec":
        status, told = engine.api("POST", f"/exec/{json.loads(answer)['Id']}/start", {"Detach": True})
        assert status in (200, 400, 409, 500), told


def test_any_request_gets_an_answer_and_the_engine_stays_up(
    stocked: EngineUnderTest, description: Description, tmp_path_factory: pytest.TempPathFactory
) -> None:
    engine = stocked
    scratch = str(tmp_path_factory.mktemp("scratch"))
    failures: list[str] = []
    for number, operation in enumerate(description.operations):
        if table.states()[operation.method, table.pattern(operation.path)] == "refused":
            continue
        failures += explore(engine, description, operation, scratch, number)
        restock(engine)
    assert not failures, "\n".join(failures)
    log = engine.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 300 :][:3000]


def explore(
    engine: EngineUnderTest, description: Description, operation: Operation, scratch: str, number: int
) -> list[str]:
    """Requests of one operation; what went wrong with the simplest that did."""

    @seed(number)
    @settings(
        max_examples=EXAMPLES * RICH.get(operation.path, 1),
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=[*HealthCheck],
    )
    @given(requests(description, operation, scratch))
    def one(request: Request) -> None:
        last[:] = [request]
        status, answer = ask(engine, description.version, request)
        judge(operation, status, answer)
        if status == 201:
            tried(engine, operation, answer)

    last: list[Any] = []
    with contextlib.suppress(OSError):
        os.makedirs(scratch)
    try:
        one()
    except Exception as error:
        return [f"{operation}: {last[0]} -> {type(error).__name__}: {str(error)[:400]}"]
    return []
