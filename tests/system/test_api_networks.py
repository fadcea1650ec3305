"""Networks over the API, with containers in them: what ``docker network`` and a container's ``--network`` promise."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.engine import EngineUnderTest
from fixtures.wait import until

SYSCTLS = "com.docker.network.endpoint.sysctls"
IFNAME = "com.docker.network.endpoint.ifname"


@pytest.fixture(autouse=True)
def nothing_left(engine: EngineUnderTest, busybox: str) -> Iterator[None]:
    yield
    engine.remove_containers()
    assert engine.api("POST", "/networks/prune")[0] == 200


def create(engine: EngineUnderTest, name: str, **body: Any) -> tuple[int, Any]:
    return engine.api("POST", "/networks/create", {"Name": name, **body})


def start(engine: EngineUnderTest, name: str, **endpoints: Any) -> dict[str, Any]:
    """A running container in these networks, the first is the main one."""
    body = {
        "Image": "busybox",
        "Cmd": ["sleep", "1000"],
        "HostConfig": {"NetworkMode": next(iter(endpoints), "bridge")},
        "NetworkingConfig": {"EndpointsConfig": endpoints},
    }
    status, made = engine.api("POST", f"/containers/create?name={name}", body)
    assert status == 201, made
    status, answer = engine.api("POST", f"/containers/{made['Id']}/start")
    assert status == 204, answer
    return inspect(engine, name)


def inspect(engine: EngineUnderTest, name: str) -> dict[str, Any]:
    status, found = engine.api("GET", f"/containers/{name}/json")
    assert status == 200, found
    return dict(found)


def inside(engine: EngineUnderTest, name: str, *command: str) -> str:
    return engine.capsa("exec", name, *command).stdout


def message(answered: tuple[int, Any]) -> tuple[int, str]:
    status, answer = answered
    return status, answer["message"]


def test_a_container_begins_in_several_networks_with_the_addresses_it_asked_for(engine: EngineUnderTest) -> None:
    create(engine, "one", IPAM={"Config": [{"Subnet": "10.213.31.0/24"}]})
    create(engine, "two", EnableIPv6=True, IPAM={"Config": [{"Subnet": "fd00:213:32::/64"}]})
    found = start(
        engine,
        "box",
        one={"IPAMConfig": {"IPv4Address": "10.213.31.77"}, "MacAddress": "02:00:00:00:00:77"},
        two={"IPAMConfig": {"IPv6Address": "fd00:213:32::77"}, "Aliases": ["known-as"]},
    )["NetworkSettings"]["Networks"]
    assert (found["one"]["IPAddress"], found["one"]["MacAddress"]) == ("10.213.31.77", "02:00:00:00:00:77")
    assert found["two"]["GlobalIPv6Address"] == "fd00:213:32::77"
    assert "fd00:213:32::77/64" in inside(engine, "box", "ip", "address", "show", "eth1")
    # Older clients read the short id among the aliases.
    _, old = engine.api("GET", "/v1.43/containers/box/json")
    assert old["NetworkSettings"]["Networks"]["two"]["Aliases"] == ["known-as", old["Id"][:12]]
    assert found["two"]["Aliases"] == ["known-as"]


def test_an_interface_has_the_name_the_parameters_and_the_addresses_it_was_given(engine: EngineUnderTest) -> None:
    create(engine, "one")
    options = {IFNAME: "lan", SYSCTLS: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv4.conf.IFNAME.arp_notify=1"}
    start(engine, "box", one={"DriverOpts": options, "IPAMConfig": {"LinkLocalIPs": ["169.254.7.7"]}})
    assert inside(engine, "box", "cat", "/proc/sys/net/ipv4/conf/lan/log_martians") == "1\n"
    assert inside(engine, "box", "cat", "/proc/sys/net/ipv4/conf/lan/arp_notify") == "1\n"
    assert "169.254.7.7/16" in inside(engine, "box", "ip", "address", "show", "lan")
    # The same while it runs.
    create(engine, "two")
    options = {IFNAME: "wan", SYSCTLS: "net.ipv4.conf.IFNAME.log_martians=1"}
    body = {"Container": "box", "EndpointConfig": {"DriverOpts": options}}
    assert engine.api("POST", "/networks/two/connect", body)[0] == 200
    assert inside(engine, "box", "cat", "/proc/sys/net/ipv4/conf/wan/log_martians") == "1\n"


def test_the_default_route_follows_priority_and_what_is_connected(engine: EngineUnderTest) -> None:
    for name, body in (("one", {}), ("two", {}), ("three", {"EnableIPv6": True}), ("inner", {"Internal": True})):
        assert create(engine, name, **body)[0] == 201
    start(engine, "box", inner={"GwPriority": 10}, one={}, two={"GwPriority": 3})

    def way_out() -> str:
        return inside(engine, "box", "ip", "route", "show", "default").split()[2]

    def gateway(name: str) -> str:
        return str(engine.api("GET", f"/networks/{name}")[1]["IPAM"]["Config"][0]["Gateway"])

    assert way_out() == gateway("two")
    body = {"Container": "box", "EndpointConfig": {"GwPriority": 4}}
    assert engine.api("POST", "/networks/three/connect", body)[0] == 200
    assert way_out() == gateway("three")
    assert "default" in inside(engine, "box", "ip", "-6", "route")
    found = inspect(engine, "box")["NetworkSettings"]["Networks"]
    assert {name for name, each in found.items() if each["Gateway"]} == {"three"}
    for leaves, stays in (("three", "two"), ("two", "one")):
        assert engine.api("POST", f"/networks/{leaves}/disconnect", {"Container": "box"})[0] == 200
        assert way_out() == gateway(stays)
    assert engine.api("POST", "/networks/one/disconnect", {"Container": "box"})[0] == 200
    assert "default" not in inside(engine, "box", "ip", "route")


def test_published_ports_follow_the_default_route(engine: EngineUnderTest) -> None:
    for name in ("one", "two"):
        create(engine, name)
    engine.capsa(
        *("run", "-d", "--name", "box", "--network", "one", "-p", "127.0.0.1::80", "--stop-signal", "KILL"),
        *("busybox", "sh", "-c", "while true; do echo hello | nc -l -p 80; done"),
    )

    def reached() -> bytes:
        port = inspect(engine, "box")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
        deadline = time.monotonic() + 20
        while True:
            # Between two clients nobody listens.
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 2) as client:
                return client.recv(100)
            assert time.monotonic() < deadline

    assert reached() == b"hello\n"
    body = {"Container": "box", "EndpointConfig": {"GwPriority": 1}}
    assert engine.api("POST", "/networks/two/connect", body)[0] == 200
    ports = inspect(engine, "box")["NetworkSettings"]["Ports"]
    assert reached() == b"hello\n"
    assert engine.api("POST", "/networks/two/disconnect", {"Container": "box"})[0] == 200
    assert reached() == b"hello\n"
    assert inspect(engine, "box")["NetworkSettings"]["Ports"] == ports
    assert engine.api("POST", "/networks/one/disconnect", {"Container": "box"})[0] == 200
    assert not inspect(engine, "box")["NetworkSettings"]["Ports"].get("80/tcp")
    assert engine.api("POST", "/networks/two/connect", {"Container": "box"})[0] == 200
    assert inspect(engine, "box")["NetworkSettings"]["Ports"] == ports
    assert reached() == b"hello\n"


def test_what_cannot_be_connected_is_said_in_dockers_words(engine: EngineUnderTest) -> None:
    create(engine, "one", IPAM={"Config": [{"Subnet": "10.213.33.0/24"}]})
    start(engine, "box", one={})
    alone = start(engine, "alone", none={})
    assert set(alone["NetworkSettings"]["Networks"]) == {"none"}

    def connect(network: str, container: str = "box", **settings: Any) -> tuple[int, str]:
        body = {"Container": container, "EndpointConfig": settings}
        return message(engine.api("POST", f"/networks/{network}/connect", body))

    assert connect("one") == (403, "endpoint with name box already exists in network one")
    assert connect("host")[0] == 400 and "must be created in host network mode" in connect("host")[1]
    assert connect("none")[0] == 400 and connect("one", "alone")[0] == 400
    assert connect("nowhere") == (404, "network nowhere not found")
    assert connect("one", "nobody") == (404, "No such container: nobody")
    assert connect("bridge", Aliases=["a"])[1].endswith("aliases are only supported for user-defined networks")
    assert connect("bridge", IPAMConfig={"IPv4Address": "172.17.0.9"})[0] == 400
    status, answer = engine.api(
        "POST",
        "/containers/create",
        {
            "Image": "busybox",
            "Cmd": ["true"],
            "HostConfig": {"NetworkMode": "one"},
            "NetworkingConfig": {"EndpointsConfig": {"one": {"IPAMConfig": {"IPv4Address": "10.9.9.9"}}}},
        },
    )
    assert status == 400
    assert answer["message"] == (
        "invalid config for network one: invalid endpoint settings:\nno configured subnet contains IP address 10.9.9.9"
    )
    for options in ({SYSCTLS: "net.ipv4.conf.eth0.log_martians=1"}, {SYSCTLS: "kernel.x=1"}, {IFNAME: "a/b"}):
        assert connect("one", DriverOpts=options)[0] == 400
    status, text = message(engine.api("POST", "/networks/bridge/disconnect", {"Container": "box"}))
    assert status >= 400 and "is not connected to the network bridge" in text


def test_a_network_in_use_stays_and_one_that_is_not_goes(engine: EngineUnderTest) -> None:
    create(engine, "one", Labels={"kind": "test"})
    create(engine, "two", Labels={"kind": "test"})
    endpoint = start(engine, "box", one={})["NetworkSettings"]["Networks"]["one"]["EndpointID"]
    assert message(engine.api("DELETE", "/networks/one")) == (
        403,
        f'error while removing network: network one has active endpoints (name:"box" id:"{endpoint[:12]}")',
    )
    assert message(engine.api("DELETE", "/networks/bridge")) == (
        403,
        "bridge is a pre-defined network and cannot be removed",
    )
    assert message(create(engine, "one")) == (409, "network with name one already exists")
    status, answer = engine.api("POST", '/networks/prune?filters={"label":["kind=test"]}')
    assert (status, answer["NetworksDeleted"]) == (200, ["two"])
    engine.capsa("stop", "-t", "0", "box")
    # What is stopped does not hold it; it is missed at the next start.
    assert engine.api("DELETE", "/networks/one")[0] == 204
    assert message(engine.api("POST", "/containers/box/start"))[1].startswith("network one not found")


def test_networks_are_listed_by_every_filter(engine: EngineUnderTest) -> None:
    _, made = create(engine, "first", Labels={"a": "1"})
    create(engine, "second", Labels={"a": "2"}, Driver="bridge")
    start(engine, "box", first={})

    def listed(text: str) -> list[str]:
        status, found = engine.api("GET", f"/networks?filters={text}")
        assert status == 200, found
        return sorted(each["Name"] for each in found)

    assert listed('{"label":["a"]}') == ["first", "second"]
    assert listed('{"label":["a=2"]}') == ["second"]
    assert listed('{"name":["irs"]}') == ["first"]
    assert listed(f'{{"id":["{made["Id"][:9]}"]}}') == ["first"]
    assert listed('{"type":["builtin"]}') == ["bridge", "host", "none"]
    assert listed('{"driver":["null"]}') == ["none"]
    assert listed('{"dangling":["true"]}') == ["second"]
    assert listed('{"dangling":["false"],"type":["custom"]}') == ["first"]
    assert listed('{"scope":["swarm"]}') == []
    for wrong in ('{"type":["x"]}', '{"scope":["x"]}', '{"dangling":["x"]}', '{"x":["x"]}'):
        assert engine.api("GET", f"/networks?filters={wrong}")[0] == 400
    assert engine.api("GET", "/networks/first?verbose=1&scope=local")[0] == 200
    assert engine.api("GET", "/networks/first?scope=swarm")[0] == 404


def test_only_ipv6_is_a_network_too(engine: EngineUnderTest) -> None:
    assert create(engine, "six", EnableIPv4=False, EnableIPv6=True)[0] == 201
    found = start(engine, "box", six={})["NetworkSettings"]["Networks"]["six"]
    assert found["IPAddress"] == "" and found["GlobalIPv6Address"]
    assert engine.api("GET", "/networks/six")[1]["EnableIPv4"] is False
    start(engine, "other", six={})
    inside(engine, "other", "ping", "-c1", "-W5", "box")


def test_a_host_file_that_the_container_changed_keeps_its_changes(engine: EngineUnderTest) -> None:
    create(engine, "one")
    start(engine, "box", bridge={})
    inside(engine, "box", "sh", "-c", "echo 192.0.2.1 mine >> /etc/hosts; echo nameserver 192.0.2.2 > /etc/resolv.conf")
    engine.capsa("network", "connect", "one", "box")
    address = inspect(engine, "box")["NetworkSettings"]["Networks"]["one"]["IPAddress"]
    hosts = inside(engine, "box", "cat", "/etc/hosts")
    assert "192.0.2.1 mine\n" in hosts and f"{address}\t" in hosts
    assert inside(engine, "box", "cat", "/etc/resolv.conf") == "nameserver 192.0.2.2\n"
    engine.capsa("network", "disconnect", "one", "box")
    hosts = inside(engine, "box", "cat", "/etc/hosts")
    assert "192.0.2.1 mine\n" in hosts and f"{address}\t" not in hosts


def hold(engine: EngineUnderTest, client: dict[str, Any], server: dict[str, Any], network: str) -> None:
    """Let ``client`` have a connection to ``server``, which then goes out of reach: what it sends is never answered.

    The kernel keeps a network namespace with such a connection for minutes, whatever becomes of its processes.
    """
    address = server["NetworkSettings"]["Networks"][network]["IPAddress"]
    engine.docker("exec", "-d", server["Id"], "nc", "-l", "-p", "7000", "-e", "sleep", "1000")
    until(lambda: ":1B58 " in inside(engine, server["Id"], "cat", "/proc/net/tcp", "/proc/net/tcp6"))
    engine.docker("exec", "-d", client["Id"], "nc", address, "7000", "-e", "sleep", "1000")
    until(lambda: ":1B58 01 " in inside(engine, client["Id"], "cat", "/proc/net/tcp"))
    status, _ = engine.api("POST", f"/networks/{network}/disconnect", {"Container": server["Id"]})
    assert status == 200


def host_end(container: dict[str, Any], network: str) -> Path:
    return Path(f"/sys/class/net/capsa{container['NetworkSettings']['Networks'][network]['EndpointID'][:10]}")


def test_an_interface_goes_with_its_container_though_a_connection_of_it_does_not_end(engine: EngineUnderTest) -> None:
    create(engine, "one")
    server, client = start(engine, "server", one={}), start(engine, "client", one={})
    hold(engine, client, server, "one")
    assert host_end(client, "one").exists()
    engine.capsa("rm", "-f", "client")
    until(lambda: not host_end(client, "one").exists())


def test_an_interface_goes_with_its_network(engine: EngineUnderTest) -> None:
    create(engine, "one")
    server, client = start(engine, "server", one={}), start(engine, "client", one={})
    hold(engine, client, server, "one")
    engine.capsa("rm", "-f", "client")
    engine.capsa("network", "rm", "one")
    assert not host_end(client, "one").exists()


def test_an_address_is_not_given_to_two(engine: EngineUnderTest) -> None:
    create(engine, "one", IPAM={"Config": [{"Subnet": "10.213.34.0/24"}]})
    server = start(engine, "server", one={})
    fixed = {"IPAMConfig": {"IPv4Address": "10.213.34.9"}}
    client = start(engine, "client", one=fixed)
    hold(engine, client, server, "one")
    engine.capsa("rm", "-f", "client")
    again = start(engine, "client", one=fixed)
    assert not host_end(client, "one").exists() and host_end(again, "one").exists()


def test_the_next_engine_removes_interfaces_that_a_killed_one_left(engine: EngineUnderTest) -> None:
    create(engine, "one")
    server, client = start(engine, "server", one={}), start(engine, "client", one={})
    hold(engine, client, server, "one")
    stays = start(engine, "stays", one={})
    engine.down(signal.SIGKILL)
    os.kill(client["State"]["Pid"], signal.SIGKILL)
    engine.up()
    until(lambda: not host_end(client, "one").exists())
    assert host_end(stays, "one").exists()


def test_a_long_range_of_ports_is_published_and_given_back(engine: EngineUnderTest, busybox: str) -> None:
    container = engine.docker("run", "-d", "-p", "127.0.0.1::1-700/udp", "busybox", "sleep", "1000").stdout.strip()
    ports = engine.api("GET", f"/containers/{container}/json")[1]["NetworkSettings"]["Ports"]
    taken = [int(binding["HostPort"]) for bindings in ports.values() for binding in bindings]
    assert len(set(taken)) == 700
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", taken[650]))
    engine.docker("exec", container, "true")
    engine.restart()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", taken[650]))
    engine.docker("rm", "-f", container)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", taken[650]))


def test_others_are_answered_while_many_networks_are_pruned(engine: EngineUnderTest, busybox: str) -> None:
    for number in range(30):
        subnet = {"Subnet": f"10.213.{number}.0/28"}
        body = {"Name": f"many-{number}", "Labels": {"kind": "many"}, "IPAM": {"Config": [subnet]}}
        assert engine.api("POST", "/networks/create", body)[0] == 201
    answered: list[int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            answered.append(len(engine.api("GET", "/networks")[1]))

    asking = threading.Thread(target=ask)
    asking.start()
    status, answer = engine.api("POST", '/networks/prune?filters={"label":["kind=many"]}')
    done.set()
    asking.join()
    assert status == 200 and len(answer["NetworksDeleted"]) == 30
    assert len(set(answered)) > 5, "the list was read while it grew shorter"
