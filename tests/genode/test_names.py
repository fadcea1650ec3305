"""Names of containers, as a component on a real Genode finds them."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator

import pytest
from fixtures import genode
from fixtures.engine import EngineUnderTest
from fixtures.genode import config
from fixtures.processes import children, title
from fixtures.wait import until

EXEC = ("192.0.2.2", "192.0.2.1")


pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("nic_router", "tap_nic", "test-net_echo")
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        needs = {"services": "Nic", "ram": "12M", "caps": "300", "vfs": "no"}
        genode.import_image(under_test, "echo", "test-net_echo", "test-net_echo", **needs)
        under_test.docker("network", "create", "--subnet", "10.98.1.0/24", "red")
        under_test.docker("network", "create", "--subnet", "10.98.2.0/24", "blue")
        under_test.docker("network", "create", "--subnet", "10.98.3.0/24", "--internal", "inside")
        yield under_test
    finally:
        under_test.close()


def question(name: str, own: str, server: str, more: str = "") -> str:
    return config(f"+ ask | name: {name} | own: {own} | server: {server}{more}")


def run(engine: EngineUnderTest, name: str, network: str, *flags: str) -> None:
    engine.docker("run", "-d", "--name", name, "--network", network, *flags, "echo")
    until(lambda: "echo server at" in engine.docker("logs", name).stdout)


def asked(engine: EngineUnderTest, wanted: str, network: str = "red", number: int = 1, *flags: str) -> str:
    """What a component is told that asks for ``wanted`` in a network 10.98.N.0."""
    text = question(wanted, f"10.98.{number}.130", f"10.98.{number}.129")
    place = ("--network", network, "--ip", f"10.98.{number}.130", "--name", "asking")
    return answer(engine.docker("run", "--rm", *place, *flags, "-e", text, "echo").stdout, wanted)


def answer(text: str, wanted: str) -> str:
    """``ADDRESS``, or ``code N``; empty if there is none yet."""
    pattern = rf"^(?:no address for )?{re.escape(wanted)}(?: is|:) (\S+(?: \d+)?)"
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""


def told(engine: EngineUnderTest, wanted: str) -> str:
    return str(until(lambda: answer(engine.docker("logs", "asking").stdout, wanted)))


def address(engine: EngineUnderTest, name: str, network: str) -> str:
    _, found = engine.api("GET", f"/containers/{name}/json")
    return str(found["NetworkSettings"]["Networks"][network]["IPAddress"])


def test_containers_of_its_networks_have_names_and_others_have_none(engine: EngineUnderTest, busybox: str) -> None:
    run(engine, "server", "red", "--network-alias", "other.name")
    engine.docker("run", "-d", "--name", "linux", "--network", "red", busybox, "sleep", "600")
    run(engine, "elsewhere", "blue")
    here = address(engine, "server", "red")
    for name in ("server", "SERVER.red", "other.name"):
        assert asked(engine, name) == here
    assert asked(engine, "linux") == address(engine, "linux", "red")
    assert asked(engine, "asking") == "10.98.1.130"
    # Nobody is asked whom the network does not lead to.
    run(engine, "within", "inside")
    assert asked(engine, "within", "inside", 3) == address(engine, "within", "inside")
    assert asked(engine, "elsewhere", "inside", 3) == "code 2"
    assert asked(engine, "elsewhere", "red", 1, "--dns", "10.98.1.1").startswith("code ")


def test_additional_components_ask_as_well(engine: EngineUnderTest) -> None:
    run(engine, "server", "red")
    run(engine, "outer", "red")
    done = engine.docker("exec", "-e", question("server", *EXEC), "outer", "test-net_echo")
    assert answer(done.stdout, "server") == address(engine, "server", "red")


def test_names_come_and_go_with_networks(engine: EngineUnderTest) -> None:
    run(engine, "blue-server", "blue")
    text = question("blue-server", "10.98.1.130", "10.98.1.129")
    engine.docker("create", "--name", "asking", "--network", "red", "--ip", "10.98.1.130", "-e", text, "echo")
    engine.docker("network", "connect", "--ip", "10.98.2.130", "blue", "asking")
    engine.docker("start", "asking")
    assert told(engine, "blue-server") == address(engine, "blue-server", "blue")
    engine.docker("rm", "-f", "asking")
    # The network that its name server was in is left: it is asked by way of the other one.
    stays = question("blue-server", "10.98.2.130", "10.98.2.129", " | stay: yes")
    text = stays.replace("config\n", "config | label: eth1\n")
    engine.docker("create", "--name", "asking", "--network", "red", "-e", text, "echo")
    engine.docker("network", "connect", "--ip", "10.98.2.130", "blue", "asking")
    before = servers(engine)
    engine.docker("start", "asking")
    assert told(engine, "blue-server") == address(engine, "blue-server", "blue")
    (at,) = {each[0] for each in servers(engine) - before}
    assert at == "10.98.1.1"
    engine.docker("network", "disconnect", "red", "asking")
    until(lambda: {each[0] for each in servers(engine) - before} == {"10.98.2.1"})
    engine.docker("rm", "-f", "asking")
    until(lambda: servers(engine) == before)


def servers(engine: EngineUnderTest) -> set[tuple[str, int]]:
    """Addresses and ports in the host's networks on which somebody listens."""
    found = set()
    with open("/proc/net/tcp") as file:
        for line in file.readlines()[1:]:
            place, _remote, kind = line.split()[1:4]
            number, _, port = place.partition(":")
            text = socket.inet_ntoa(bytes.fromhex(number)[::-1])
            if kind == "0A" and text.startswith("10.98."):
                found.add((text, int(port, 16)))
    return found


def test_its_name_server_is_its_own(engine: EngineUnderTest) -> None:
    run(engine, "server", "red")
    ((host, port),) = servers(engine)
    query = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x06server\0\0\x01\0\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1)
        asking.sendto(query, (host, port))
        with pytest.raises(TimeoutError):
            asking.recv(512)
    with pytest.raises(TimeoutError):
        socket.create_connection((host, port), timeout=1)


@pytest.mark.parametrize("which", ["engine", "names"])
def test_names_outlive_the_engine_and_their_own_process(engine: EngineUnderTest, which: str) -> None:
    run(engine, "server", "red")
    run(engine, "outer", "red")
    assert engine.process is not None
    if which == "engine":
        engine.restart(signal.SIGKILL)
    else:
        os.kill(next(each for each in children(engine.process.pid) if title(each) == "capsa: names"), signal.SIGKILL)
    done = engine.docker("exec", "-e", question("server", *EXEC), "outer", "test-net_echo")
    assert answer(done.stdout, "server") == address(engine, "server", "red")
