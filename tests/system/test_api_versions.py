"""Versions of the API, and what an engine says of itself: Docker's words, headers and statuses."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest
from fixtures.engine import EngineUnderTest, UnixConnection


def ask(engine: EngineUnderTest, method: str, path: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = UnixConnection(str(engine.socket), 20)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("prefix", ["", "/v1.24"])
def test_a_ping_tells_what_clients_negotiate_with(engine: EngineUnderTest, method: str, prefix: str) -> None:
    status, headers, body = ask(engine, method, f"{prefix}/_ping")
    assert (status, body) == (200, b"OK" if method == "GET" else b"")
    newest = tuple(int(part) for part in headers["Api-Version"].split("."))
    assert newest >= (1, 51)
    assert headers["Content-Type"] == "text/plain; charset=utf-8"
    for name, value in {
        "Docker-Experimental": "false",
        "Ostype": "linux",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
        "Swarm": "inactive",
        "Builder-Version": "",
    }.items():
        assert headers[name] == value
    assert headers["Server"].startswith("Capsa/")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1.23", "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client"),
        ("1", "client version 1 is too old."),
        ("1.2.3", "client version 1.2.3 is too old."),
        ("9.99", "client version 9.99 is too new. Maximum supported API version is 1."),
        ("1.99999", "client version 1.99999 is too new."),
    ],
)
def test_other_versions_are_refused_in_dockers_words(engine: EngineUnderTest, version: str, words: str) -> None:
    status, headers, body = ask(engine, "GET", f"/v{version}/version")
    assert status == 400 and headers["Api-Version"]
    assert json.loads(body)["message"].startswith(words)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/nosuch"),
        ("GET", "/v1.41/nosuch"),
        ("PATCH", "/containers/json"),
        ("HEAD", "/info"),
        ("DELETE", "/_ping"),
        ("GET", "/v1.41"),
        ("GET", "/vx/version"),
        ("GET", "/"),
    ],
)
def test_what_is_not_served_is_not_found(engine: EngineUnderTest, method: str, path: str) -> None:
    status, _headers, body = ask(engine, method, path)
    assert status == 404
    assert method == "HEAD" or json.loads(body) == {"message": "page not found"}


def test_the_version_names_its_parts(engine: EngineUnderTest) -> None:
    _, found = engine.api("GET", "/version")
    part = found["Components"][0]
    assert part["Name"] == "Engine" and part["Version"] == found["Version"]
    for name in ("ApiVersion", "MinAPIVersion", "Os", "Arch", "KernelVersion", "GitCommit", "GoVersion", "BuildTime"):
        assert part["Details"][name] == found[name]
    assert found["MinAPIVersion"] == "1.24" and found["Platform"]["Name"]


def info(engine: EngineUnderTest, version: str) -> dict[str, Any]:
    status, found = engine.api("GET", f"/v{version}/info")
    assert status == 200
    return dict(found)


def test_the_system_is_described_as_each_version_has_it(engine: EngineUnderTest) -> None:
    newest, middle, old, oldest = (info(engine, version) for version in ("1.51", "1.48", "1.41", "1.24"))
    assert newest["FirewallBackend"] == {"Driver": "nftables"} and newest["DiscoveredDevices"] == []
    assert "BridgeNfIptables" not in newest and "Expected" not in newest["RuncCommit"]
    assert (
        "FirewallBackend" not in middle and middle["BridgeNfIptables"] is False and "Expected" in middle["RuncCommit"]
    )
    assert "KernelMemory" not in middle and old["KernelMemory"] is False
    assert oldest["SecurityOptions"] == ["seccomp"] and "name=seccomp,profile=builtin" in old["SecurityOptions"]
    assert newest["Swarm"]["LocalNodeState"] == "inactive"
    for name in ("MemoryLimit", "SwapLimit", "CPUSet", "PidsLimit", "CpuCfsQuota"):
        assert isinstance(newest[name], bool)
    assert isinstance(newest["Warnings"], list)


@pytest.mark.parametrize("path", ["/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/nodes/x"])
def test_swarm_is_off(engine: EngineUnderTest, path: str) -> None:
    status, answer = engine.api("GET", path)
    assert status == 503
    assert answer["message"].startswith("This node is not a swarm manager.")
    assert engine.api("GET", "/plugins") == (200, [])


@pytest.mark.parametrize("path", ["/build", "/session", "/grpc", "/build/cancel"])
def test_building_is_plainly_not_there(engine: EngineUnderTest, path: str) -> None:
    status, answer = engine.api("POST", path)
    assert status == 501 and "not supported" in answer["message"]
