"""Published ports with real traffic: from outside, from the host, from containers; reserved, refused, released."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from fixtures.world import LAN_HOST, LAN_PEER, World, enter, here, unreachable

from capsa.errors import InvalidArgument, Unsupported
from capsa.network.model import Pool, Port
from capsa.network.ports import PortUnavailable
from capsa.sys import nftables
from capsa.sys.netlink import Netlink

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_published_port_is_reached_from_everywhere_and_no_longer_after_it(world: World, kind: str) -> None:
    networks = world.engine()
    outside = world.neighbour()
    endpoint = networks.connect("bridge", "a" * 64)
    client = networks.connect("bridge", "b" * 64)
    other_network = networks.create("other")
    stranger = networks.connect("other", "c" * 64)
    server, sibling, third = world.plug(endpoint), world.plug(client), world.plug(stranger)
    world.serve(server, 80, kind)
    bindings, held = networks.publish(endpoint, [Port(container_port=80, protocol=kind, host_port=8080)])
    assert [(each.host_ip, each.host_port, each.container_port) for each in bindings] == [("0.0.0.0", 8080, 80)]
    assert networks.bindings(endpoint) == bindings
    assert world.reach(outside, LAN_HOST, 8080, kind) == [str(server), LAN_PEER]
    assert world.reach(here(), "127.0.0.1", 8080, kind) == [str(server), "172.17.0.1"]
    assert world.reach(here(), LAN_HOST, 8080, kind)[0] == str(server)
    assert world.reach(sibling, LAN_HOST, 8080, kind)[0] == str(server)
    assert world.reach(sibling, "172.17.0.1", 8080, kind)[0] == str(server)
    assert world.reach(server, LAN_HOST, 8080, kind)[0] == str(server)
    assert world.reach(third, LAN_HOST, 8080, kind)[0] == str(server)
    pool = other_network.pool(4)
    assert pool and world.reach(third, pool.gateway, 8080, kind)[0] == str(server)
    assert unreachable(world, third, "172.17.0.2", 80, kind)
    networks.unpublish(endpoint)
    networks.close()
    for each in held:
        each.close()
    assert networks.bindings(endpoint) == []
    assert unreachable(world, outside, LAN_HOST, 8080, kind)
    assert unreachable(world, here(), "127.0.0.1", 8080, kind)


def test_a_port_published_on_loopback_is_not_reached_from_outside_nor_from_a_container(world: World) -> None:
    networks = world.engine()
    outside = world.neighbour()
    endpoint, attacker = networks.connect("bridge", "a" * 64), networks.connect("bridge", "b" * 64)
    server, evil = world.plug(endpoint), world.plug(attacker)
    world.serve(server, 80)
    world.serve(here(), 7000, address="127.0.0.1")
    _, held = networks.publish(endpoint, [Port(container_port=80, host_ip="127.0.0.1", host_port=8080)])
    assert world.reach(here(), "127.0.0.1", 8080)[0] == str(server)
    assert unreachable(world, outside, LAN_HOST, 8080)
    assert unreachable(world, evil, "172.17.0.1", 8080)

    def send_loopback_out(interface: str, gateway: str) -> None:
        Path(f"/proc/sys/net/ipv4/conf/{interface}/route_localnet").write_text("1")
        subprocess.run(["ip", "addr", "del", "127.0.0.1/8", "dev", "lo"], check=True)
        subprocess.run(["ip", "route", "del", "table", "local", "127.0.0.0/8"], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "route", "add", "127.0.0.1/32", "via", gateway, "dev", interface], check=True)

    # The known hole: a neighbour routes 127.0.0.1 to the host, whose bridge has route_localnet.
    world.ask(evil, lambda: send_loopback_out("eth0", "172.17.0.1"))
    world.ask(outside, lambda: send_loopback_out("eth0", LAN_HOST))
    for attacking, source in ((evil, "172.17.0.3"), (outside, LAN_PEER)):
        assert unreachable(world, attacking, "127.0.0.1", 8080, source=source)
        assert unreachable(world, attacking, "127.0.0.1", 7000, source=source)
    # That the attack would work without the rule shows that this test can fail.
    nftables.run("flush chain inet capsa raw")
    assert world.reach(evil, "127.0.0.1", 7000, source="172.17.0.3")[0] == str(here())
    assert world.reach(outside, "127.0.0.1", 8080, source=LAN_PEER)[0] == str(server)
    del held


def test_a_taken_port_is_refused_in_dockers_words_and_nothing_stays(world: World) -> None:
    networks = world.engine()
    endpoint, other = networks.connect("bridge", "a" * 64), networks.connect("bridge", "b" * 64)
    _, held = networks.publish(endpoint, [Port(container_port=80, host_port=8080)])
    wanted = [Port(container_port=70, host_port=7070), Port(container_port=80, host_port=8080)]
    with pytest.raises(PortUnavailable) as caught:
        networks.publish(other, wanted, name="web")
    assert str(caught.value) == (
        f"driver failed programming external connectivity on endpoint web ({other.id}): "
        "Bind for 0.0.0.0:8080 failed: port is already allocated"
    )
    assert networks.bindings(other) == []
    with socket.socket() as free:
        free.bind(("", 7070))
    with socket.socket() as taken, pytest.raises(PortUnavailable):
        taken.bind(("127.0.0.1", 9090))
        networks.publish(other, [Port(container_port=80, host_port=9090)])
    with pytest.raises(OSError), socket.socket() as rude:
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rude.bind(("", 8080))
        rude.listen()
    with pytest.raises(PortUnavailable, match="requested address"):
        networks.publish(other, [Port(container_port=80, host_ip="203.0.113.5", host_port=1)])
    with pytest.raises(Unsupported, match="sctp"):
        networks.publish(other, [Port(container_port=80, protocol="sctp")])
    with pytest.raises(InvalidArgument):
        networks.publish(other, [Port(container_port=80, host_ip="not an address")])
    del held


def test_old_connections_in_time_wait_do_not_block_a_port(world: World) -> None:
    listener = socket.create_server(("127.0.0.1", 8080))
    client = socket.create_connection(("127.0.0.1", 8080))
    accepted, _ = listener.accept()
    accepted.close()  # the side that closes first keeps the port in TIME_WAIT
    client.close()
    listener.close()
    networks = world.engine()
    endpoint = networks.connect("bridge", "a" * 64)
    server = world.plug(endpoint)
    world.serve(server, 80)
    _, held = networks.publish(endpoint, [Port(container_port=80, host_port=8080)])
    assert world.reach(here(), "127.0.0.1", 8080)[0] == str(server)
    with pytest.raises(OSError), socket.socket() as rude:
        rude.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        rude.bind(("", 8080))
    del held


def test_ranges_take_the_first_free_port_and_zero_any(world: World) -> None:
    networks = world.engine()
    endpoint = networks.connect("bridge", "a" * 64)
    with socket.socket() as taken:
        taken.bind(("", 8000))
        ranged, held = networks.publish(endpoint, [Port(container_port=80, host_port=8000, host_port_end=8002)] * 2)
        assert [binding.host_port for binding in ranged] == [8001, 8002]
        with pytest.raises(PortUnavailable, match="8000-8002"):
            networks.publish(endpoint, [Port(container_port=80, host_port=8000, host_port_end=8002)])
    anywhere, more = networks.publish(endpoint, [Port(container_port=80), Port(container_port=53, protocol="udp")])
    assert all(1024 <= binding.host_port < 65536 for binding in anywhere)
    assert len(networks.bindings(endpoint)) == 4
    del held, more


def test_thousands_of_ports_that_may_be_any_are_found_as_long_as_there_are_some(world: World) -> None:
    networks = world.engine()
    endpoint = networks.connect("bridge", "a" * 64)
    many = [Port(container_port=number) for number in range(1, 18_001)]  # the kernel itself slows down from half on
    found, held = networks.publish(endpoint, many)
    assert len({binding.host_port for binding in found}) == len(many)
    for each in held:
        each.close()
    networks.unpublish(endpoint)
    with pytest.raises(PortUnavailable, match="cannot publish 65535 ports: the host has"):
        networks.publish(endpoint, [Port(container_port=number) for number in range(1, 65536)])
    assert not networks.bindings(endpoint)


def test_a_port_can_be_published_again_at_once(world: World) -> None:
    networks = world.engine()
    for round_ in range(5):
        endpoint = networks.connect("bridge", str(round_) * 64)
        pid = world.plug(endpoint)
        world.serve(pid, 80)
        _, held = networks.publish(endpoint, [Port(container_port=80, host_port=8080)])
        assert world.reach(here(), "127.0.0.1", 8080)[0] == str(pid)
        networks.release(str(round_) * 64)
        for each in held:
            each.close()


def test_a_udp_client_that_never_stops_finds_the_next_container(world: World) -> None:
    networks = world.engine()
    outside = world.neighbour()
    reader, writer = os.pipe()

    def talk() -> None:
        """From one port all the time, saying which server answered."""
        enter(outside)
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.settimeout(0.05)
        client.connect((LAN_HOST, 5353))
        while True:
            try:
                client.send(b"hello")
                os.write(writer, client.recv(100).split()[0] + b"\n")
            except OSError:
                pass
            time.sleep(0.02)

    world.process(talk)
    with os.fdopen(reader) as answers:
        for letter in "ab":
            time.sleep(0.2)  # meanwhile nobody is there
            server = world.plug(networks.connect("bridge", letter * 64))
            world.serve(server, 53, "udp")
            endpoint = networks.endpoints(container=letter * 64)[0]
            _, held = networks.publish(endpoint, [Port(container_port=53, protocol="udp", host_port=5353)])
            assert str(server) in (answers.readline().strip() for _ in range(20))
            networks.release(letter * 64)
            for each in held:
                each.close()
    os.close(writer)


def test_a_network_with_ipv6_publishes_there_too(world: World) -> None:
    networks = world.engine()
    outside = world.neighbour()
    networks.create("six", ipv6=True, pools=[Pool(subnet="fd00:1::/64")])
    endpoint = networks.connect("six", "a" * 64)
    server = world.plug(endpoint)
    assert endpoint.address(6) == ("fd00:1::2", 64) and endpoint.gateway(6) == "fd00:1::1"
    world.serve(server, 80, address="::")
    with Netlink() as netlink:
        netlink.configure("lan0", ["fd00:2::1/64"])

    def configure() -> None:
        with Netlink() as netlink:
            netlink.configure("eth0", ["fd00:2::2/64"], ["fd00:2::1"])

    world.ask(outside, configure)
    bindings, held = networks.publish(endpoint, [Port(container_port=80, host_port=8080)])
    assert [(each.host_ip, each.host_port) for each in bindings] == [("0.0.0.0", 8080), ("::", 8080)]
    assert world.reach(outside, "fd00:2::1", 8080) == [str(server), "fd00:2::2"]
    assert world.reach(here(), "fd00:2::1", 8080)[0] == str(server)
    assert world.reach(outside, LAN_HOST, 8080)[0] == str(server)
    assert unreachable(world, outside, "fd00:1::2", 80)
    with pytest.raises(Unsupported, match="::1"):
        networks.publish(endpoint, [Port(container_port=80, host_ip="::1", host_port=8081)])
    plain = networks.connect("bridge", "b" * 64)
    with pytest.raises(InvalidArgument, match="no IPv6 address"):
        networks.publish(plain, [Port(container_port=80, host_ip="::", host_port=8081)])
    del held
