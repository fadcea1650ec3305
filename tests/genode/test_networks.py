"""Networks of containers on a real Genode: who reaches whom, seen from components and from the host."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import genode
from fixtures.engine import EngineUnderTest
from fixtures.genode import component, state
from fixtures.ports import free_port
from fixtures.wait import until

from capsa.sys.netlink import Netlink

ENOUGH = 4  # questions without an answer: each has a second, and an answer takes milliseconds


pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("nic_router", "linux_nic", "ping", "test-net_echo")
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        needs = {"services": "Nic", "ram": "12M", "caps": "300", "vfs": "no"}
        programs = ("ping", "test-net_echo", "dummy")
        genode.import_image(under_test, "ping", "ping", *programs, **needs)
        genode.import_image(under_test, "echo", "test-net_echo", *programs, **needs)
        genode.import_image(under_test, "offline", "dummy", *programs, vfs="no")
        under_test.docker("network", "create", "red")
        under_test.docker("network", "create", "blue")
        yield under_test
    finally:
        under_test.close()


def echo(engine: EngineUnderTest, name: str, network: str, *flags: str) -> str:
    """An echo server, and its address."""
    engine.docker("run", "-d", "--name", name, "--network", network, *flags, "echo")
    until(lambda: "echo server at" in engine.docker("logs", name).stdout)
    return address(engine, name, network)


def address(engine: EngineUnderTest, name: str, network: str) -> str:
    _, found = engine.api("GET", f"/containers/{name}/json")
    return str(found["NetworkSettings"]["Networks"][network]["IPAddress"])


def question(target: str, protocol: str = "icmp", count: int = 1) -> str:
    attributes = f"verbose: yes | period_sec: 1 | count: {count} | dst_ip: {target} | protocol: {protocol}"
    return f"GENODE_CONFIG=config | {attributes}\n-\n"


def ask(engine: EngineUnderTest, network: str, target: str, protocol: str = "icmp") -> str:
    """What `ping` says that got an answer; it ends with the first one."""
    return engine.docker("run", "--rm", "--network", network, "-e", question(target, protocol), "ping").stdout


def answers(text: str) -> int:
    return text.count(" bytes from ")


def asked(text: str, target: str, what: str = "ICMP 8 0") -> int:
    return len(re.findall(rf"snd .* > {re.escape(target)} {what}", text))


def test_two_that_may_talk_and_one_that_may_not(engine: EngineUnderTest) -> None:
    red, blue = echo(engine, "red-echo", "red"), echo(engine, "blue-echo", "blue")
    assert answers(ask(engine, "red", red)) == 1
    assert answers(ask(engine, "red", red, "udp")) == 1
    assert answers(ask(engine, "blue", blue)) == 1  # it is not that blue cannot talk at all
    for name, protocol, what in (("icmp", "icmp", "ICMP 8 0"), ("udp", "udp", "UDP 50000 > 50000")):
        wanted = question(red, protocol, 100)
        engine.docker("run", "-d", "--name", name, "--network", "blue", "-e", wanted, "ping")
        until(lambda: asked(engine.docker("logs", name).stdout, red, what) >= ENOUGH)  # noqa: B023
        assert answers(engine.docker("logs", name).stdout) == 0
    assert answers(ask(engine, "red", red)) == 1  # and it is still there


def test_a_component_has_the_address_that_inspection_shows_and_no_neighbours(engine: EngineUnderTest) -> None:
    target = echo(engine, "server", "red")
    wanted = question(target, count=100)
    engine.docker("run", "-d", "--name", "client", "--network", "red", "-e", wanted, "ping")
    until(lambda: answers(engine.docker("logs", "client").stdout))
    own = ipaddress.ip_interface(f"{address(engine, 'client', 'red')}/30")
    beside = next(each for each in own.network.hosts() if each != own.ip)
    text = engine.docker("logs", "client").stdout
    assert f"IP config: interface {own}, gateway {beside}" in text
    _, found = engine.api("GET", "/networks/red")
    taken = [ipaddress.ip_interface(each["IPv4Address"]).ip for each in found["Containers"].values()]
    assert sorted(taken) == sorted([ipaddress.ip_address(target), own.ip])
    assert [each for each in taken if each in own.network] == [own.ip]
    # What others say to each other is none of its business: it sees what is for it, and its router's questions.
    heard = set(re.findall(r"rcv .* IPV4 ([0-9.]+) > ([0-9.]+) ICMP", text))
    assert heard == {(target, str(own.ip))}


def test_published_ports_lead_to_components(engine: EngineUnderTest) -> None:
    port = free_port()
    inside = echo(engine, "server", "red", "-p", f"{port}:7/udp", "-p", f"127.0.0.1:{port}:7")
    assert sorted(engine.docker("port", "server").stdout.split("\n")) == [
        "",
        f"7/tcp -> 127.0.0.1:{port}",
        f"7/udp -> 0.0.0.0:{port}",
    ]
    for target in (("127.0.0.1", port), (inside, 7), (inside, 60_000)):
        assert over_udp(target) == b"a datagram"
        assert over_tcp(target) == b"x" * 4000
    engine.docker("stop", "server")
    until(lambda: refused(port))
    engine.docker("start", "server")
    until(lambda: engine.docker("logs", "server").stdout.count("echo server at") == 2)
    assert over_udp(("127.0.0.1", port)) == b"a datagram"


def refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return True
    return False


def over_udp(target: tuple[str, int]) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        for _ in range(5):  # a datagram may be lost
            client.sendto(b"a datagram", target)
            with contextlib.suppress(TimeoutError):
                return client.recv(100)
    return b""


def over_tcp(target: tuple[str, int]) -> bytes:
    with socket.create_connection(target, timeout=20) as client:
        client.sendall(b"x" * 4000)
        found = b""
        while len(found) < 4000 and (data := client.recv(4000)):
            found += data
        return found


def test_a_connection_that_cannot_be_made_leaves_no_device(engine: EngineUnderTest) -> None:
    echo(engine, "server", "red")
    obstacle = engine.run / "genode" / "host" / "config" / "containers.new"
    before = devices()
    obstacle.mkdir()  # so that no configuration can be written
    try:
        failed = engine.docker("network", "connect", "blue", "server", check=False)
        assert failed.returncode and "config/containers: is a directory" in failed.stderr, failed.stderr
        assert devices() == before
    finally:
        obstacle.rmdir()
    engine.docker("network", "connect", "blue", "server")
    assert len(devices() - before) == 1
    component("server", engine, "nic-eth1")


def test_containers_of_both_platforms_meet(engine: EngineUnderTest, busybox: str) -> None:
    echo(engine, "server", "red")
    engine.docker("run", "-d", "--name", "linux", "--network", "red", busybox, "sleep", "600")
    shell = "for i in 1 2 3 4 5; do echo by name | nc -w 5 server 7 && exit; done"
    done = engine.docker("run", "--rm", "--network", "red", busybox, "sh", "-c", shell)
    assert done.stdout == "by name\n", done.stderr
    assert answers(ask(engine, "red", address(engine, "linux", "red"))) == 1
    gateway = engine.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "red").stdout.strip()
    assert answers(ask(engine, "red", gateway)) == 1  # the host, as for containers on Linux


def test_networks_come_and_go_while_a_component_runs(engine: EngineUnderTest) -> None:
    red, blue = echo(engine, "red-echo", "red"), echo(engine, "blue-echo", "blue")
    for name, target in (("to-red", red), ("to-blue", blue)):
        wanted = question(target, count=10_000)
        engine.docker("run", "-d", "--name", name, "--network", "blue", "-e", wanted, "ping")

    def said(name: str) -> str:
        return engine.docker("logs", name).stdout

    until(lambda: answers(said("to-blue")) and asked(said("to-red"), red) >= ENOUGH)
    assert answers(said("to-red")) == 0
    engine.docker("network", "connect", "red", "to-red")
    assert address(engine, "to-red", "red")
    until(lambda: answers(said("to-red")) >= 2)
    engine.docker("network", "disconnect", "red", "to-red")
    until(lambda: component_gone(engine, "to-red", "nic-eth1"))
    before = said("to-red")
    until(lambda: asked(said("to-red"), red) >= asked(before, red) + ENOUGH)
    assert answers(said("to-red")) <= answers(before) + 1  # one may have been under way
    assert answers(said("to-blue")) and state(engine, "to-blue")["Running"]


def test_a_session_of_its_own_is_in_the_network_that_its_label_names(engine: EngineUnderTest) -> None:
    second = "GENODE_CONFIG=config | label: eth1\n-\n"
    engine.docker("create", "--name", "server", "--network", "red", "-e", second, "echo")
    engine.docker("network", "connect", "blue", "server")
    engine.docker("start", "server")
    until(lambda: "echo server at" in engine.docker("logs", "server").stdout)
    assert answers(ask(engine, "blue", address(engine, "server", "blue"))) == 1


def component_gone(engine: EngineUnderTest, name: str, which: str) -> bool:
    try:
        component(name, engine, which, seconds=0)
    except AssertionError:
        return True
    return False


def test_more_components_of_a_container_use_its_networks(engine: EngineUnderTest) -> None:
    target = echo(engine, "server", "red")
    echo(engine, "client", "red")
    for _ in range(2):
        done = engine.docker("exec", "-e", question(target), "client", "ping")
        assert answers(done.stdout) == 1 and "IP config: interface 192.0.2." in done.stdout


def test_containers_stay_connected_without_an_engine(engine: EngineUnderTest) -> None:
    port = free_port()
    inside = echo(engine, "server", "red", "-p", f"{port}:7")
    engine.restart(signal.SIGKILL)
    assert over_tcp(("127.0.0.1", port)) == over_tcp((inside, 7)) == b"x" * 4000
    assert address(engine, "server", "red") == inside
    other = echo(engine, "other", "red")
    assert ipaddress.ip_address(other) not in ipaddress.ip_interface(f"{inside}/30").network
    with socket.socket() as taken, pytest.raises(OSError):
        taken.bind(("", port))


def devices() -> set[str]:
    with Netlink() as netlink:
        return {link.name for link in netlink.links() if link.kind == "tun" and link.name.startswith("capsa")}


def test_no_device_outlives_its_container(engine: EngineUnderTest) -> None:
    before = devices()
    echo(engine, "ending", "red")
    echo(engine, "killed", "red")
    assert len(devices() - before) == 2
    engine.docker("stop", "ending")
    until(lambda: len(devices() - before) == 1)
    status = Path(f"/proc/{component('killed', engine)}/stat").read_text()
    core = int(status.rpartition(")")[2].split()[1])
    # The whole Genode ends, and takes what belonged to it along.
    os.kill(core, signal.SIGKILL)
    until(lambda: not devices() - before)
    assert state(engine, "killed")["ExitCode"] == 137


def test_who_says_nothing_of_networks_is_in_none(engine: EngineUnderTest) -> None:
    wanted = genode.config("+ log | string: up", "+ exit")
    engine.docker("run", "--name", "plain", "-e", wanted, "offline")
    engine.docker("run", "-d", "--name", "asking", "echo")
    engine.docker("create", "--name", "publishing", "-p", "7", "offline")
    modes = [
        engine.docker("inspect", "-f", "{{.HostConfig.NetworkMode}}", name).stdout.strip()
        for name in ("plain", "asking", "publishing")
    ]
    assert modes == ["none", "bridge", "bridge"]
    assert over_udp((address(engine, "asking", "bridge"), 7)) == b"a datagram"


def test_what_cannot_be_is_refused_in_a_sentence(engine: EngineUnderTest) -> None:
    engine.docker("network", "create", "--ipv6", "--subnet", "10.97.0.0/24", "dual")
    engine.docker("network", "create", "-o", "com.docker.network.driver.mtu=9000", "large")
    taken = echo(engine, "server", "dual", "--ip", "10.97.0.6")
    assert taken == "10.97.0.6"
    assert (
        engine.docker("inspect", "-f", "{{.NetworkSettings.Networks.dual.GlobalIPv6Address}}", "server").stdout == "\n"
    )
    engine.docker("run", "-d", "--name", "offline", "-e", genode.config("+ sleep | ms: 600000"), "offline")
    for command, said in (
        (
            ["run", "--network", "none", "echo"],
            "asks for Nic (org.genode.services), and its container is in no network",
        ),
        (["run", "--network", "host", "echo"], "cannot share the network of host"),
        (["run", "--network", "container:server", "echo"], "cannot share the network of container:server"),
        (["run", "--network", "large", "echo"], "packets on Genode have at most 1500 bytes, those of the network 9000"),
        (["run", "--network", "dual", "--ip6", "fd00::5", "echo"], "nic_router knows no IPv6"),
        (["run", "--network", "dual", "--ip", "10.97.0.6", "echo"], "Address already in use"),
        (["run", "--network", "dual", "--ip", "10.97.0.7", "echo"], "Address already in use"),
        (["run", "--network", "dual", "--ip", "10.97.0.2", "echo"], "10.97.0.2 cannot stand alone"),
        (["run", "--network", "dual", "--ip", "10.97.0.8", "echo"], "it has to be a free block of four, 10.97.0.8/30"),
        (["network", "connect", "--link-local-ip", "169.254.3.3", "red", "server"], "has one address in a network"),
        (["network", "connect", "red", "offline"], "in private (none) mode"),
        (["run", "--add-host", "a:1.2.3.4", "echo"], "--add-host means nothing on Genode"),
    ):
        done = engine.docker(*command, check=False)
        assert done.returncode and said in done.stderr, (command, done.stderr)
