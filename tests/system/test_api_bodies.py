"""Every property of the smaller request bodies, and query parameters that are easily forgotten: honoured or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from fixtures.engine import EngineUnderTest
from fixtures.images import ARCHITECTURES

from capsa.api.docker import exec as execs
from capsa.api.docker import networks, volumes
from capsa.engine.config import AddressConfig, EndpointConfig
from capsa.engine.exec import ExecConfig


def names(kind: type[msgspec.Struct]) -> set[str]:
    return {field.encode_name for field in msgspec.structs.fields(kind)}


@pytest.fixture(scope="module")
def box(engine: EngineUnderTest, busybox: str) -> Iterator[str]:
    """A container that runs, in a network of its own subnet."""
    subnet = {"Config": [{"Subnet": "10.213.21.0/24"}]}
    assert engine.api("POST", "/networks/create", {"Name": "own", "IPAM": subnet})[0] == 201
    body = {"Image": busybox, "Cmd": ["sleep", "1000"], "Tty": True, "HostConfig": {"NetworkMode": "bridge"}}
    status, answer = engine.api("POST", "/containers/create?name=box", body)
    assert status == 201, answer
    assert engine.api("POST", "/containers/box/start")[0] == 204
    yield "box"
    assert engine.api("DELETE", "/containers/box?force=1")[0] == 204
    assert engine.api("DELETE", "/networks/own")[0] == 204


def refused(engine: EngineUnderTest, path: str, body: Any, status: int, words: str) -> None:
    found, answer = engine.api("POST", path, body)
    assert (found, words.lower() in answer["message"].lower()) == (status, True), (body, answer)


def ran(engine: EngineUnderTest, container: str, *command: str, **wanted: Any) -> str:
    """What an exec prints."""
    body = {"Cmd": [*command], "AttachStdout": True, "AttachStderr": True, "Tty": True, **wanted}
    status, answer = engine.api("POST", f"/containers/{container}/exec", body)
    assert status == 201, answer
    status, data = engine.api("POST", f"/exec/{answer['Id']}/start", {"Tty": body["Tty"]})
    assert status == 200, data
    return data.decode() if isinstance(data, bytes) else str(data)


EXEC = {
    "AttachStdin": "test_api_streams",
    "AttachStdout": {"AttachStdout": False, "AttachStderr": False, "Cmd": ["echo", "shown"]},
    "AttachStderr": "test_api_streams",
    "ConsoleSize": {"ConsoleSize": [33, 44], "Cmd": ["stty", "size"]},
    "DetachKeys": "test_api_streams",
    "Tty": {"Cmd": ["tty"]},
    "Env": {"Env": ["GIVEN=1"], "Cmd": ["env"]},
    "Cmd": {"Cmd": ["echo", "command"]},
    "Privileged": {"Privileged": True, "Cmd": ["grep", "CapEff", "/proc/self/status"]},
    "User": {"User": "nobody", "Cmd": ["id"]},
    "WorkingDir": {"WorkingDir": "/usr", "Cmd": ["pwd"]},
    "Detach": "the client's own: POST /exec/ID/start says again whether to detach",
    "Container": "older clients say again what the path says",
}
EXEC_SHOWS = {
    "ConsoleSize": "33 44",
    "Tty": "/dev/pts/",
    "Env": "GIVEN=1",
    "Cmd": "command",
    "User": "uid=65534(nobody)",
    "WorkingDir": "/usr",
}


def test_every_property_of_an_exec_shows_in_its_process(engine: EngineUnderTest, box: str) -> None:
    assert names(ExecConfig) == set(EXEC)
    for name, expected in EXEC_SHOWS.items():
        assert expected in ran(engine, box, **EXEC[name]), name  # type: ignore[arg-type]
    assert ran(engine, box, "echo", "shown", AttachStdout=False, AttachStderr=False) in ("", "None")
    few, many = (ran(engine, box, "grep", "CapEff", "/proc/self/status", Privileged=flag) for flag in (False, True))
    assert int(many.split()[1], 16) > int(few.split()[1], 16)


def test_what_an_exec_cannot_mean_is_refused(engine: EngineUnderTest, box: str) -> None:
    for body, words in (
        ({"Cmd": []}, "No exec command specified"),
        ({"Cmd": ["true"], "DetachKeys": "ctrl-nothing"}, "detach keys"),
        ({"Cmd": ["true"], "User": "nobody-at-all"}, "unable to find user nobody-at-all"),
        ({"Cmd": ["true"], "WorkingDir": "relative"}, "needs to be an absolute path"),
        ({"Cmd": ["true"], "ConsoleSize": [1]}, "ConsoleSize"),
        ({"Cmd": ["true"], "Env": ["\0"]}, "null character"),
        ({"Cmd": ["true"], "Bla": 1}, "unknown property Bla"),
    ):
        refused(engine, f"/containers/{box}/exec", body, 400, words)
    assert names(execs.Start) == {"Detach", "Tty", "ConsoleSize"}
    identity = engine.api("POST", f"/containers/{box}/exec", {"Cmd": ["true"]})[1]["Id"]
    refused(engine, f"/exec/{identity}/start", {"Bla": 1}, 400, "unknown property Bla")
    refused(engine, f"/exec/{identity}/start", {"ConsoleSize": [1, 2, 3]}, 400, "ConsoleSize")
    assert engine.api("POST", f"/exec/{identity}/start", {"Detach": True})[0] == 200


NETWORK: dict[str, tuple[Any, Any]] = {  # a value, and what inspection says then, or a refusal's status and words
    "Name": ("given", "given"),
    "CheckDuplicate": (True, None),  # always checked
    "Driver": ("overlay", (404, "overlay")),
    "Scope": ("swarm", (501, "scope")),
    "Internal": (True, True),
    "Attachable": (True, True),
    "Ingress": (True, (501, "Ingress")),
    "ConfigOnly": (True, (501, "ConfigOnly")),
    "ConfigFrom": ({"Network": "x"}, (501, "ConfigFrom")),
    "IPAM": ({"Driver": "bla"}, (404, "bla")),
    "EnableIPv4": (False, (400, "IPv4")),
    "EnableIPv6": (True, True),
    "Options": ({"com.docker.network.driver.mtu": "1400"}, {"com.docker.network.driver.mtu": "1400"}),
    "Labels": ({"a": "b"}, {"a": "b"}),
}


def test_every_property_of_a_network_is_honoured_or_refused(engine: EngineUnderTest) -> None:
    assert names(networks.Create) == set(NETWORK)
    for name, (value, expected) in NETWORK.items():
        status, answer = engine.api("POST", "/networks/create", {"Name": "given", name: value})
        if isinstance(expected, tuple):
            assert (status, expected[1] in answer["message"]) == (expected[0], True), (name, answer)
            continue
        assert status == 201, (name, answer)
        found = engine.api("GET", "/networks/given")[1]
        assert engine.api("DELETE", "/networks/given")[0] == 204
        assert expected is None or found[name] == expected, name


def test_every_property_of_address_management_is_honoured_or_refused(engine: EngineUnderTest) -> None:
    assert names(networks.Ipam) == {"Driver", "Config", "Options"}
    assert names(networks.Pool) == {"Subnet", "IPRange", "Gateway", "AuxiliaryAddresses"}
    pool = {
        "Subnet": "10.213.22.0/24",
        "IPRange": "10.213.22.128/25",
        "Gateway": "10.213.22.9",
        "AuxiliaryAddresses": {"router": "10.213.22.10"},
    }
    assert engine.api("POST", "/networks/create", {"Name": "given", "IPAM": {"Config": [pool]}})[0] == 201
    assert engine.api("GET", "/networks/given")[1]["IPAM"]["Config"] == [pool]
    assert engine.api("DELETE", "/networks/given")[0] == 204
    for ipam, status, words in (
        ({"Options": {"a": "b"}}, 501, "options of the address management"),
        ({"Config": [{"Subnet": "x"}]}, 400, "subnet"),
        ({"Config": [{"Subnet": "10.213.22.0/24", "Bla": 1}]}, 400, "unknown property Bla"),
    ):
        refused(engine, "/networks/create", {"Name": "given", "IPAM": ipam}, status, words)


ENDPOINT = {
    "IPAMConfig": {"IPv4Address": "10.213.21.77", "LinkLocalIPs": ["169.254.3.4"]},
    "Links": "test_links",
    "Aliases": ["other"],
    "MacAddress": "02:00:00:00:00:66",
    "DriverOpts": {"com.docker.network.endpoint.ifname": "second"},
    "GwPriority": 5,
}
#: What only answers carry: clients send it back as they got it.
ANSWERED = {
    *("NetworkID", "EndpointID", "Gateway", "IPAddress", "IPPrefixLen", "IPv6Gateway"),
    *("GlobalIPv6Address", "GlobalIPv6PrefixLen", "DNSNames"),
}


def test_every_property_of_a_connection_is_honoured_or_refused(engine: EngineUnderTest, box: str) -> None:
    assert names(EndpointConfig) == set(ENDPOINT) | ANSWERED
    assert names(networks.Connect) == {"Container", "EndpointConfig"}
    assert names(networks.Disconnect) == {"Container", "Force"}
    assert names(AddressConfig) == {"IPv4Address", "IPv6Address", "LinkLocalIPs"}
    wish = {name: ENDPOINT[name] for name in ENDPOINT if name != "Links"}
    status, answer = engine.api("POST", "/networks/own/connect", {"Container": box, "EndpointConfig": wish})
    assert status == 200, answer
    found = engine.api("GET", f"/containers/{box}/json")[1]["NetworkSettings"]["Networks"]["own"]
    assert (found["IPAddress"], found["MacAddress"]) == ("10.213.21.77", "02:00:00:00:00:66")
    assert "other" in found["Aliases"]
    assert found["GwPriority"] == 5 and found["DriverOpts"] == ENDPOINT["DriverOpts"]
    assert found["IPAMConfig"] == ENDPOINT["IPAMConfig"]
    assert engine.api("POST", "/networks/own/disconnect", {"Container": box, "Force": True})[0] == 200
    for wish, status, words in (
        ({"IPAMConfig": {"LinkLocalIPs": ["169.254.3"]}}, 400, "invalid link-local IP address: 169.254.3"),
        ({"DriverOpts": {"com.docker.network.bla": "x"}}, 400, "unknown driver option"),
        ({"IPAMConfig": {"IPv4Address": "x"}}, 400, "x"),
        ({"MacAddress": "zz"}, 400, "not a valid mac address"),
        ({"Bla": 1}, 400, "unknown property Bla"),
    ):
        refused(engine, "/networks/own/connect", {"Container": box, "EndpointConfig": wish}, status, words)


def test_every_property_of_a_volume_is_honoured_or_refused(engine: EngineUnderTest) -> None:
    assert names(volumes.Create) == {"Name", "Driver", "DriverOpts", "Labels", "ClusterVolumeSpec"}
    status, answer = engine.api("POST", "/volumes/create", {"Name": "given", "Driver": "local", "Labels": {"a": "b"}})
    assert (status, answer["Name"], answer["Driver"], answer["Labels"]) == (201, "given", "local", {"a": "b"})
    assert engine.api("DELETE", "/volumes/given")[0] == 204
    refused(engine, "/volumes/create", {"Name": "given", "Driver": "nfs"}, 404, "nfs")
    refused(engine, "/volumes/create", {"Name": "given", "ClusterVolumeSpec": {"Group": "x"}}, 501, "no swarm")
    refused(engine, "/volumes/create", {"Name": "given", "Bla": 1}, 400, "unknown property Bla")
    assert engine.api("POST", "/volumes/create", {"Name": "given", "DriverOpts": {"bla": "x"}})[0] in (400, 501)


UPDATABLE = {
    "CpuShares": 100,
    "Memory": 64 << 20,
    "MemoryReservation": 32 << 20,
    "MemorySwap": 128 << 20,
    "CpusetCpus": "0",
    "CpusetMems": "0",
    "PidsLimit": 55,
    "CpuPeriod": 50_000,
    "CpuQuota": 25_000,
    "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
}


def test_an_update_sets_what_it_names_and_refuses_the_rest(engine: EngineUnderTest, box: str) -> None:
    path = f"/containers/{box}/update"
    status, answer = engine.api("POST", path, UPDATABLE)
    assert status == 200, answer
    found = engine.api("GET", f"/containers/{box}/json")[1]["HostConfig"]
    assert {name: found[name] for name in UPDATABLE} == UPDATABLE
    assert "55" in ran(engine, box, "sh", "-c", "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>&-")
    for nothing in (0, -1):
        assert engine.api("POST", path, {"PidsLimit": nothing})[0] == 200
        assert engine.api("GET", f"/containers/{box}/json")[1]["HostConfig"]["PidsLimit"] is None
    assert "max" in ran(engine, box, "sh", "-c", "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>&-")
    for body, status, words in (
        ({"Privileged": True}, 400, "Privileged cannot be updated"),
        ({"Binds": ["/:/host"]}, 400, "Binds cannot be updated"),
        ({"Bla": 1}, 400, "unknown property Bla"),
        ({"NanoCpus": 10**13}, 409, "CPU Period has already been set"),
        ({"CpusetCpus": "4095"}, 400, "Requested CPUs are not available"),
        ({"Memory": 1 << 30}, 409, "update the memoryswap at the same time"),
        ({"Memory": 1}, 400, "Minimum memory limit"),
        ({"RestartPolicy": {"Name": "sometimes"}}, 400, "restart policy"),
        ([], 400, "JSON object"),
    ):
        refused(engine, path, body, status, words)


def test_a_platform_is_held_against_the_image(engine: EngineUnderTest, busybox: str) -> None:
    import platform

    here = {"os": "linux", "architecture": ARCHITECTURES[platform.machine()]}
    other = {"os": "linux", "architecture": "s390x"}
    for method, path in (("GET", "json"), ("GET", "history"), ("GET", "get")):
        for wanted, expected in ((here, 200), (other, 404)):
            for text in (json.dumps(wanted, separators=(",", ":")), f"linux/{wanted['architecture']}"):
                assert engine.api(method, f"/images/busybox/{path}?platform={text}")[0] == expected, (path, text)
    assert engine.api("POST", "/images/busybox/push?platform=linux/s390x")[0] == 404
    assert engine.api("GET", "/images/get?names=busybox&platform=linux/s390x")[0] == 404
    assert engine.api("DELETE", "/images/busybox?platforms=linux/s390x")[0] == 404
    for text in ("a/b/c/d", "{", "%7B%22os%22:1%7D"):
        assert engine.api("GET", f"/images/busybox/json?platform={text}")[0] == 400, text
    refused(engine, "/containers/create?platform=linux/s390x", {"Image": "busybox"}, 404, "does not match")
    refused(engine, "/containers/create?platform=a/b/c/d", {"Image": "busybox"}, 400, "malformed")


def test_parameters_that_ask_for_more_of_images_get_it(engine: EngineUnderTest, busybox: str) -> None:
    engine.api("POST", "/images/busybox/tag?repo=twice")
    assert engine.api("GET", "/images/json")[1][0]["SharedSize"] == -1
    assert engine.api("GET", "/images/json?shared-size=1")[1][0]["SharedSize"] >= 0
    assert "Manifests" not in engine.api("GET", "/images/json")[1][0]
    assert isinstance(engine.api("GET", "/images/json?manifests=1")[1][0]["Manifests"], list)
    assert isinstance(engine.api("GET", "/images/busybox/json?manifests=1")[1]["Manifests"], list)
    assert engine.api("GET", "/images/busybox/json?manifests=1&platform=linux")[0] == 400
    assert engine.api("DELETE", "/images/twice")[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("POST", "/containers/box/start?checkpoint=x", 501, "checkpoints are not supported"),
        ("POST", "/containers/box/start?detachKeys=nothing", 400, "detach keys"),
        ("DELETE", "/containers/box?link=1", 400, "link"),
        ("POST", "/containers/box/wait?condition=sometime", 400, "invalid condition"),
        ("POST", "/containers/box/kill?signal=BLA", 400, "Invalid signal: BLA"),
        ("POST", "/containers/box/stop?t=x", 400, "not a number"),
        ("POST", "/containers/box/resize?h=1", 400, "h and w"),
        ("GET", "/containers/box/logs", 400, "at least one stream"),
        ("GET", "/containers/box/logs?stdout=1&since=x", 400, "cannot read the time"),
        ("GET", "/containers/json?limit=x", 400, "not a number"),
        ("GET", '/containers/json?filters={"exited":["x"]}', 400, "invalid filter 'exited=x'"),
        ("GET", '/containers/json?filters={"health":["x"]}', 400, "invalid filter 'health=x'"),
        ("GET", '/containers/json?filters={"publish":["x"]}', 400, "invalid port"),
        ("GET", '/containers/json?filters={"bla":["x"]}', 400, "invalid filter 'bla'"),
        ("GET", '/images/json?filters={"dangling":["x"]}', 400, "invalid filter 'dangling=[x]'"),
        ("GET", '/networks?filters={"type":["x"]}', 400, "invalid filter 'type=x'"),
        ("GET", '/volumes?filters={"bla":["x"]}', 400, "invalid filter 'bla'"),
        ("GET", "/networks/bridge?scope=swarm", 404, "network bridge not found"),
        ("GET", "/system/df?type=x", 400, "unknown object type: x"),
        ("GET", "/events?since=5&until=4", 400, "cannot be after"),
        ("POST", "/images/create?fromSrc=http://192.0.2.1/x", 400, "fromSrc=-"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_refused(
    engine: EngineUnderTest, box: str, method: str, path: str, status: int, words: str
) -> None:
    found, answer = engine.api(method, path.replace('"', "%22"))
    assert (found, words in answer["message"]) == (status, True), answer
