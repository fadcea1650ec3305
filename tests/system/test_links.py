"""Legacy links: what ``docker run --link`` promises in the default network, and in others."""

from __future__ import annotations

import time
from typing import Any

import pytest
from fixtures.engine import EngineUnderTest
from fixtures.questions import ask


@pytest.fixture(autouse=True)
def nothing_left(engine: EngineUnderTest, busybox: str) -> Any:
    yield
    engine.remove_containers()


def start(engine: EngineUnderTest, name: str, *arguments: str, image: str = "busybox") -> None:
    engine.capsa("run", "-d", "--name", name, "--stop-signal", "KILL", *arguments, image, "sleep", "1000")


def inspect(engine: EngineUnderTest, name: str) -> Any:
    status, found = engine.api("GET", f"/containers/{name}/json")
    assert status == 200, found
    return found


def address(engine: EngineUnderTest, name: str) -> str:
    return str(inspect(engine, name)["NetworkSettings"]["Networks"]["bridge"]["IPAddress"])


def inside(engine: EngineUnderTest, name: str, *command: str) -> str:
    return engine.capsa("exec", name, *command).stdout


def test_a_linked_container_is_known_by_alias_host_name_and_name(engine: EngineUnderTest) -> None:
    start(engine, "database", "--hostname", "store", "--expose", "5432", "-e", "USER_NAME=me", "-e", "PATH=/bin")
    start(engine, "shop", "--link", "database:the-db")
    here = address(engine, "database")
    assert f"{here}\tthe-db store database\n" in inside(engine, "shop", "cat", "/etc/hosts")
    inside(engine, "shop", "ping", "-c1", "-W5", "the-db")
    variables = inside(engine, "shop", "env").splitlines()
    assert {
        f"THE_DB_PORT=tcp://{here}:5432",
        f"THE_DB_PORT_5432_TCP_ADDR={here}",
        "THE_DB_PORT_5432_TCP_PORT=5432",
        "THE_DB_PORT_5432_TCP_PROTO=tcp",
        "THE_DB_NAME=/shop/the-db",
        "THE_DB_ENV_USER_NAME=me",
    } <= set(variables)
    assert not any(each.startswith("THE_DB_ENV_PATH") for each in variables)
    assert inspect(engine, "shop")["HostConfig"]["Links"] == ["/database:/shop/the-db"]
    _, found = engine.api("GET", "/containers/json")
    assert ["/database", "/shop/the-db"] in [each["Names"] for each in found]


def test_a_linked_container_may_be_started_again_elsewhere(engine: EngineUnderTest) -> None:
    start(engine, "database")
    start(engine, "shop", "--link", "database")
    before = address(engine, "database")
    engine.capsa("stop", "database")
    start(engine, "another")  # perhaps with the address that has become free
    engine.capsa("start", "database")
    now = address(engine, "database")
    hosts = inside(engine, "shop", "cat", "/etc/hosts")
    assert f"{now}\tdatabase" in hosts
    assert hosts.count("\tdatabase") == 1 and (before == now or f"{before}\t" not in hosts)


def test_a_link_can_be_removed_and_its_container_be_gone(engine: EngineUnderTest) -> None:
    start(engine, "database")
    start(engine, "shop", "--link", "database:db")
    assert engine.api("DELETE", "/containers/shop/db?link=true")[0] == 204
    assert "\tdb" not in inside(engine, "shop", "cat", "/etc/hosts")
    assert inspect(engine, "shop")["HostConfig"]["Links"] is None
    assert engine.api("DELETE", "/containers/shop/db?link=true")[0] == 404
    assert engine.api("DELETE", "/containers/shop?link=true")[0] == 400
    start(engine, "other", "--link", "database:db")
    engine.capsa("rm", "-f", "database")
    engine.capsa("restart", "other")


def test_what_cannot_be_linked_is_said_in_dockers_words(engine: EngineUnderTest) -> None:
    engine.capsa("create", "--name", "stopped", "busybox", "true")
    host = {"Image": "busybox", "Cmd": ["true"]}
    for links, mode, wanted in (
        (["nobody:x"], "bridge", "could not get container for nobody: No such container: nobody"),
        (["a:b:c"], "bridge", "bad format for links: a:b:c"),
        (["stopped"], "host", "conflicting options: host type networking can't be used with links"),
    ):
        status, answer = engine.api(
            "POST", "/containers/create", {**host, "HostConfig": {"Links": links, "NetworkMode": mode}}
        )
        assert (status, answer["message"]) == (400, wanted)
    status, made = engine.api("POST", "/containers/create?name=waits", {**host, "HostConfig": {"Links": ["stopped:s"]}})
    assert status == 201
    status, answer = engine.api("POST", f"/containers/{made['Id']}/start")
    assert (status, answer["message"]) == (409, "Cannot link to a non running container: /stopped AS /waits/s")


def test_in_other_networks_a_link_is_a_name_for_one_container_alone(engine: EngineUnderTest) -> None:
    engine.capsa("network", "create", "links")
    start(engine, "database", "--network", "links")
    start(engine, "shop", "--network", "links", "--link", "database:db")
    start(engine, "stranger", "--network", "links")
    shop, stranger = inspect(engine, "shop"), inspect(engine, "stranger")
    there = inspect(engine, "database")["NetworkSettings"]["Networks"]["links"]["IPAddress"]
    assert ask(shop["State"]["Pid"], "db") == ("NOERROR", [there])
    assert ask(stranger["State"]["Pid"], "db")[1] == []
    engine.remove_containers()
    deadline = time.monotonic() + 20
    while engine.api("DELETE", "/networks/links")[0] != 204:
        assert time.monotonic() < deadline
