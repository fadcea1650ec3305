"""Hostile components, neighbours and names in the networks of a real Genode."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import genode
from fixtures.engine import EngineUnderTest
from fixtures.genode import component, state
from fixtures.wait import until

SECONDS = 4  # in which somebody who is reached would have answered a thousand times
ALL_FRAMES = 3
SIOCGIFADDR = 0x8915
SOL_PACKET, ADD_MEMBERSHIP, PROMISCUOUS = 263, 1, 1


pytestmark = pytest.mark.usefixtures("alone")


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("nic_router", "tap_nic", "ping", "test-net_echo")
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        needs = {"services": "Nic", "ram": "12M", "caps": "300", "vfs": "no"}
        genode.import_image(under_test, "ping", "ping", "ping", **needs)
        genode.import_image(under_test, "echo", "test-net_echo", "test-net_echo", **needs)
        under_test.docker("network", "create", "red")
        under_test.docker("network", "create", "blue")
        under_test.docker("network", "create", "--internal", "inside")
        under_test.docker("network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "apart")
        yield under_test
    finally:
        under_test.close()


def echo(engine: EngineUnderTest, name: str, network: str) -> str:
    """An echo server, and its address."""
    engine.docker("run", "-d", "--name", name, "--network", network, "echo")
    until(lambda: "echo server at" in engine.docker("logs", name).stdout)
    return address(engine, name, network)


def address(engine: EngineUnderTest, name: str, network: str) -> str:
    _, found = engine.api("GET", f"/containers/{name}/json")
    return str(found["NetworkSettings"]["Networks"][network]["IPAddress"])


def pinging(
    engine: EngineUnderTest, name: str, network: str, target: str, more: str = "", protocol: str = "icmp"
) -> None:
    """A component that asks ``target`` every second."""
    attributes = f"verbose: yes | period_sec: 1 | count: 10000 | dst_ip: {target} | protocol: {protocol}{more}"
    wanted = f"GENODE_CONFIG=config | {attributes}\n-\n"
    engine.docker("run", "-d", "--name", name, "--network", network, "-e", wanted, "ping")


def answers(engine: EngineUnderTest, name: str) -> int:
    return engine.docker("logs", name).stdout.count(" bytes from ")


def asked(engine: EngineUnderTest, name: str) -> int:
    return len(re.findall(r"snd .* (?:ICMP 8 0|UDP \d+ > \d+)(?! DHCP)", engine.docker("logs", name).stdout))


def bridge(engine: EngineUnderTest, network: str) -> str:
    """The device of a network on the host."""
    _, found = engine.api("GET", f"/networks/{network}")
    gateway = found["IPAM"]["Config"][0]["Gateway"]
    for name in os.listdir("/sys/class/net"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            try:
                known = fcntl.ioctl(asking, SIOCGIFADDR, struct.pack("16s24x", name.encode()))
            except OSError:
                continue
        if socket.inet_ntoa(known[20:24]) == gateway:
            return name
    raise AssertionError(f"network {network} has no device")


class Listener:
    """The IPv4 source addresses of all packets that come from the components of a network."""

    def __init__(self, device: str, mac: str) -> None:
        self.seen: set[str] = set()
        self._mac = bytes.fromhex(mac.replace(":", ""))
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_FRAMES))
        self._socket.bind((device, 0))
        wanted = struct.pack("iHH8s", socket.if_nametoindex(device), PROMISCUOUS, 0, b"")
        self._socket.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, wanted)  # or what is for others is not seen
        self._socket.settimeout(0.2)
        self._over = False
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(self, *_failure: object) -> None:
        self._over = True
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._over:
            try:
                frame = self._socket.recv(2000)
            except TimeoutError:
                continue
            if frame[6:12] == self._mac and frame[12:14] == b"\x08\x00":
                self.seen.add(socket.inet_ntoa(frame[26:30]))


def mac_of(engine: EngineUnderTest, name: str, network: str) -> str:
    _, found = engine.api("GET", f"/containers/{name}/json")
    return str(found["NetworkSettings"]["Networks"][network]["MacAddress"])


@pytest.mark.parametrize("protocol", ["icmp", "udp"])
def test_nobody_can_pretend_to_be_somebody_else(engine: EngineUnderTest, protocol: str) -> None:
    victim, target = echo(engine, "victim", "red"), echo(engine, "target", "red")
    engine.docker("run", "-d", "--name", "honest", "--network", "red", "-e", _question(target, protocol), "ping")
    until(lambda: answers(engine, "honest") >= 2)
    pinging(engine, "liar", "red", target, f" | interface: {victim}/16", protocol)
    own = ipaddress.ip_address(address(engine, "liar", "red"))
    with Listener(bridge(engine, "red"), mac_of(engine, "liar", "red")) as heard:
        until(lambda: "snd ETH" in engine.docker("logs", "liar").stdout)
        time.sleep(SECONDS)
    assert heard.seen <= {str(own)}
    assert state(engine, "liar")["Running"]


def _question(target: str, protocol: str = "icmp") -> str:
    attributes = f"verbose: yes | period_sec: 1 | count: 10000 | dst_ip: {target} | protocol: {protocol}"
    return f"GENODE_CONFIG=config | {attributes}\n-\n"


def test_an_internal_network_leads_nowhere_else(engine: EngineUnderTest) -> None:
    red = echo(engine, "red-echo", "red")
    neighbour = echo(engine, "neighbour", "inside")
    _, found = engine.api("GET", "/networks/red")
    elsewhere = {
        "to-network": red,
        "to-host": found["IPAM"]["Config"][0]["Gateway"],
        "to-loopback": "127.0.0.1",
        "to-outside": "192.0.2.77",
    }
    for name, target in elsewhere.items():
        pinging(engine, name, "inside", target)
    pinging(engine, "to-neighbour", "inside", neighbour)
    until(lambda: answers(engine, "to-neighbour") >= SECONDS)
    for name in elsewhere:
        assert answers(engine, name) == 0, engine.docker("logs", name).stdout


def test_the_router_of_one_container_is_not_the_way_of_another(engine: EngineUnderTest) -> None:
    """Frames that a neighbour sends to a container of two networks, for somebody in the other one."""
    blue = echo(engine, "blue-echo", "blue")
    engine.docker("create", "--name", "both", "--network", "red", "echo")
    engine.docker("network", "connect", "blue", "both")
    engine.docker("start", "both")
    until(lambda: "echo server at" in engine.docker("logs", "both").stdout)
    both_mac, own = mac_of(engine, "both", "red"), address(engine, "both", "red")
    there = address(engine, "both", "blue")
    source = str(ipaddress.ip_interface(f"{own}/16").network.broadcast_address - 9)
    with Listener(bridge(engine, "blue"), mac_of(engine, "both", "blue")) as heard:
        for _ in range(20):
            for target in (blue, there, "192.0.2.77", "192.0.2.2"):
                send(bridge(engine, "red"), both_mac, ping_packet(source, target))
        time.sleep(1)
    assert heard.seen == set()
    send_until_answered(engine, both_mac, own, source)


def send_until_answered(engine: EngineUnderTest, mac: str, target: str, source: str) -> None:
    """It is not that such frames reach nobody."""
    with Listener(bridge(engine, "red"), mac) as heard:

        def answered() -> bool:
            send(bridge(engine, "red"), mac, ping_packet(source, target), arp=(source, target))
            return target in heard.seen

        until(answered)


def test_containers_that_are_to_be_apart_are(engine: EngineUnderTest) -> None:
    target = echo(engine, "one", "apart")
    pinging(engine, "two", "apart", target)
    until(lambda: asked(engine, "two") >= SECONDS)
    assert answers(engine, "two") == 0
    _, found = engine.api("GET", "/networks/apart")
    pinging(engine, "three", "apart", found["IPAM"]["Config"][0]["Gateway"])
    until(lambda: answers(engine, "three") >= 1)  # it is not that nobody there can talk


NAMES = [
    "a|b", "+x", "-", "a->b", "eth0>", "\"q\"", "'q'", "#", "...", "$(id)", "`id`", "%s%n", "\x01", "\x7f", "\x1b[31m",
    "é" * 7, "\u202eabc",
    "nic", "main", "exec-1", "x" * 15, "a,b", "{}", "[]", "\\", "*", "?", "@", "=", "&", "0", "\ufffd",
]  # fmt: skip


def test_names_of_interfaces_are_names_or_are_refused(engine: EngineUnderTest) -> None:
    bystander = echo(engine, "bystander", "red")
    taken = []
    for number, name in enumerate(NAMES):
        body = {
            "Image": "echo",
            "HostConfig": {"NetworkMode": "red"},
            "NetworkingConfig": {
                "EndpointsConfig": {"red": {"DriverOpts": {"com.docker.network.endpoint.ifname": name}}}
            },
        }
        status, made = engine.api("POST", f"/containers/create?name=named-{number}", body)
        if status == 201:
            status, made = engine.api("POST", f"/containers/named-{number}/start")
        if status == 204:
            until(lambda number=number: "echo server at" in engine.docker("logs", f"named-{number}").stdout)  # type: ignore[misc]
            assert reached(engine, address(engine, f"named-{number}", "red")), name
            taken.append(name)
        else:
            assert status in (400, 409, 500) and "\n" not in made["message"], (name, status, made)
        engine.docker("rm", "-f", f"named-{number}")
    assert set(taken) == {"+x", "-", "...", "nic", "main", "exec-1", "x" * 15, "0"}
    assert reached(engine, bystander)


def reached(engine: EngineUnderTest, target: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        for _ in range(20):
            client.sendto(b"a datagram", (target, 7))
            try:
                return client.recv(100) == b"a datagram"
            except OSError:
                continue
    return False


def send(device: str, mac: str, packet: bytes, arp: tuple[str, str] | None = None) -> None:
    """A frame of a neighbour, which is a device of that bridge."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        target, own = bytes.fromhex(mac.replace(":", "")), bytes.fromhex("02eeeeeeee01")
        if arp is not None:  # as an answer, so that it knows where the sender is
            said = struct.pack(
                "!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 2, own, socket.inet_aton(arp[0]), target, socket.inet_aton(arp[1])
            )
            sender.send(target + own + b"\x08\x06" + said.ljust(46, b"\0"))
        sender.send((target + own + b"\x08\x00" + packet).ljust(60, b"\0"))


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip_packet(source: str, target: str, protocol: int, payload: bytes, **wrong: int) -> bytes:
    header = struct.pack(
        "!BBHHHBBH4s4s",
        wrong.get("version", 0x45),
        0,
        wrong.get("length", 20 + len(payload)),
        1,
        wrong.get("fragment", 0),
        wrong.get("ttl", 64),
        protocol,
        0,
        socket.inet_aton(source),
        socket.inet_aton(target),
    )
    return header[:10] + struct.pack("!H", wrong.get("sum", checksum(header))) + header[12:] + payload


def ping_packet(source: str, target: str) -> bytes:
    body = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + b"x" * 32
    return ip_packet(source, target, 1, body[:2] + struct.pack("!H", checksum(body)) + body[4:])


def test_malformed_packets_of_neighbours_end_nothing(engine: EngineUnderTest) -> None:
    target = echo(engine, "server", "red")
    mac, device = mac_of(engine, "server", "red"), bridge(engine, "red")
    before = component("server", engine, "nic")
    dice = random.Random(20261129)
    source = str(ipaddress.ip_interface(f"{target}/16").network.broadcast_address - 9)
    to, own = bytes.fromhex(mac.replace(":", "")), bytes.fromhex("02eeeeeeee01")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((device, 0))
        for number in range(20_000):
            if number % 500 == 0:
                assert state(engine, "server")["Running"], state(engine, "server")
            kind = dice.randrange(6)
            body = dice.randbytes(dice.choice((0, 1, 4, 7, 8, 12, 19, 20, 28, 60, 200, 1400)))
            wrong = {
                key: value
                for key, value in {
                    "version": dice.choice((0x45, 0x40, 0x41, 0x4F, 0x46, 0x65, 0x05)),
                    "length": dice.choice((0, 1, 19, 20, 21, 28, 100, 1500, 65535)),
                    "fragment": dice.choice((0, 0x2000, 0x1FFF, 0x4000, 1)),
                    "ttl": dice.choice((0, 1, 64)),
                }.items()
                if dice.randrange(3) == 0
            }
            if kind == 0:
                frame = dice.randbytes(dice.randrange(46))
            elif kind == 1:
                frame = b"\x08\x06" + struct.pack("!HHBBH", *(dice.choice((0, 1, 255)) for _ in range(5))) + body
            elif kind == 2:  # an error about some connection, cut off anywhere
                inner = ip_packet(target, source, dice.choice((1, 6, 17)), body, **wrong)[: dice.randrange(60)]
                said = struct.pack("!BBHHH", 3, dice.randrange(16), 0, 0, 0) + inner
                said = said + b"\0" * (len(said) % 2)
                said = said[:2] + struct.pack("!H", checksum(said)) + said[4:]
                frame = b"\x08\x00" + ip_packet(source, target, 1, said)
            elif kind == 3:  # DHCP, of whatever length
                said = struct.pack("!HHHH", dice.choice((67, 68)), dice.choice((67, 68)), 8 + len(body), 0) + body
                frame = b"\x08\x00" + ip_packet("0.0.0.0", dice.choice(("255.255.255.255", target)), 17, said, **wrong)
            else:
                frame = b"\x08\x00" + ip_packet(source, target, dice.choice((1, 2, 6, 17, 41, 255)), body, **wrong)
            try:
                sender.send((to + own + frame)[: dice.choice((14, 20, 33, 34, 42, 60, 1514))].ljust(14, b"\0"))
            except OSError:  # longer than the device lets pass
                continue
    assert reached(engine, target)
    assert component("server", engine, "nic") == before


def test_more_connections_than_the_router_remembers_end_nothing(engine: EngineUnderTest) -> None:
    target = echo(engine, "server", "red")
    to, own = bytes.fromhex(mac_of(engine, "server", "red").replace(":", "")), bytes.fromhex("02eeeeeeee01")
    source = str(ipaddress.ip_interface(f"{target}/16").network.broadcast_address - 9)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((bridge(engine, "red"), 0))
        for port in range(1024, 41_024):
            datagram = ip_packet(source, target, 17, struct.pack("!HHHH", port, 7, 12, 0) + b"xxxx")
            for packet in (datagram, ip_packet(source, target, 6, syn(source, target, port))):
                with contextlib.suppress(OSError):  # the queue is full
                    sender.send((to + own + b"\x08\x00" + packet).ljust(60, b"\0"))
            if port % 4000 == 0:
                assert state(engine, "server")["Running"], state(engine, "server")
                until(lambda: reached(engine, target), seconds=60)
    with socket.create_connection((target, 7), timeout=20) as client:
        client.sendall(b"x" * 100)
        assert client.recv(100)


def syn(source: str, target: str, port: int) -> bytes:
    """The first segment of a TCP connection."""
    made = struct.pack("!HHIIBBHHH", port, 7, 1, 0, 0x50, 2, 1000, 0, 0)
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack("!BBH", 0, 6, len(made))
    return made[:16] + struct.pack("!H", checksum(pseudo + made)) + made[18:]


def test_nothing_of_it_is_left(engine: EngineUnderTest) -> None:
    left = [each for each in Path("/sys/class/net").iterdir() if (each / "tun_flags").exists()]
    assert [each for each in left if each.name.startswith("capsa")] == []
