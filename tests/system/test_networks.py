"""Networks in network namespaces of their own: real bridges, rules and traffic, nothing of the host is touched."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from typing import Any

import pytest
from fixtures.world import LAN_HOST, LAN_PEER, World, here, unreachable

from capsa.errors import CapsaError, Conflict, Forbidden, InvalidArgument, NotFound, Unsupported
from capsa.network.endpoint import Wish
from capsa.network.model import Pool, Port
from capsa.sys import nftables
from capsa.sys.netlink import Netlink
from capsa.sys.netlink_socket import NLM_F_ACK, NLM_F_CREATE, NetlinkSocket, attributes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: makes network namespaces")


def test_a_fresh_engine_has_the_three_predefined_networks_and_touches_nothing(world: World) -> None:
    networks = world.engine()
    assert [(network.name, network.driver) for network in networks.all()] == [
        ("bridge", "bridge"),
        ("host", "host"),
        ("none", "null"),
    ]
    pool = networks.get("bridge").pool(4)
    assert pool and (pool.subnet, pool.gateway) == ("172.17.0.0/16", "172.17.0.1")
    with Netlink() as netlink:
        assert [link.name for link in netlink.links()] == ["lo"]
    assert nftables.run("list tables") == ""


def test_containers_of_a_network_reach_each_other_and_the_outside_by_the_hosts_address(world: World) -> None:
    networks = world.engine()
    outside = world.neighbour()
    first = networks.connect("bridge", "a" * 64)
    second = networks.connect("bridge", "b" * 64)
    assert first.addresses == ["172.17.0.2/16"] and first.mac == "02:42:ac:11:00:02" and first.name == "eth0"
    one, two = world.plug(first), world.plug(second)
    world.serve(two, 80)
    world.serve(outside, 81)
    assert world.reach(one, "172.17.0.3", 80) == [str(two), "172.17.0.2"]
    assert world.reach(one, LAN_PEER, 81) == [str(outside), LAN_HOST]
    assert world.reach(here(), "172.17.0.3", 80) == [str(two), "172.17.0.1"]
    # Nobody from outside gets to a port that was not published.
    assert unreachable(world, outside, "172.17.0.3", 80)


def test_a_container_cannot_send_from_an_address_of_another_network(world: World) -> None:
    networks = world.engine()
    outside = world.neighbour()
    pid = world.plug(networks.connect("bridge", "a" * 64))

    def received(source: str) -> bool:
        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.setsockopt(socket.SOL_IP, 15, 1)  # IP_FREEBIND
                client.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT
                client.bind((source, 0))
                client.sendto(b"spoof", (LAN_PEER, 9))

        world.ask(pid, send)
        counter = nftables.run("list counter inet probe seen")
        return "packets 0" not in counter

    nftables.run(
        "add table inet probe; add counter inet probe seen;"
        "add chain inet probe f { type filter hook forward priority 10; };"
        "add rule inet probe f udp dport 9 counter name seen"
    )
    assert not received("203.0.113.9")
    assert received("172.17.0.2")
    del outside


def test_networks_are_apart_and_internal_ones_reach_nothing_outside(world: World) -> None:
    networks = world.engine()
    outside = world.neighbour()
    world.serve(outside, 81)
    networks.create("left")
    inside = networks.create("inside", internal=True)
    endpoints = [
        networks.connect(name, letter * 64) for name, letter in (("left", "a"), ("bridge", "b"), ("inside", "c"))
    ]
    one_more = networks.connect("inside", "d" * 64)
    assert endpoints[2].gateways == []
    left, right, alone, fellow = [world.plug(endpoint) for endpoint in (*endpoints, one_more)]
    for pid in (left, right, alone, fellow, here()):
        world.serve(pid, 80)
    addresses = [endpoint.address(4)[0] for endpoint in endpoints]
    pool = inside.pool(4)
    assert pool

    def default_route() -> None:
        with Netlink() as netlink:
            netlink.configure("eth0", [], [pool.gateway])

    world.ask(alone, default_route)
    assert world.reach(alone, one_more.address(4)[0], 80)[0] == str(fellow)
    assert world.reach(alone, pool.gateway, 80)[0] == str(here())
    assert unreachable(world, alone, LAN_PEER, 81)
    assert unreachable(world, alone, LAN_HOST, 80)
    assert unreachable(world, alone, addresses[0], 80)
    assert unreachable(world, left, addresses[1], 80)
    assert unreachable(world, right, addresses[0], 80)
    assert unreachable(world, right, addresses[2], 80)
    assert world.reach(left, LAN_PEER, 81)[1] == LAN_HOST


def test_without_inter_container_communication_a_network_leads_out_only(world: World) -> None:
    networks = world.engine()
    outside = world.neighbour()
    world.serve(outside, 81)
    networks.create("apart", options={"com.docker.network.bridge.enable_icc": "false"})
    first, second = networks.connect("apart", "a" * 64), networks.connect("apart", "b" * 64)
    one, two = world.plug(first), world.plug(second)
    world.serve(two, 80)
    there = second.address(4)[0]
    assert unreachable(world, one, there, 80)

    def by_way_of_the_host() -> None:
        subprocess.run(
            ["ip", "route", "add", f"{there}/32", "via", first.gateways[0], "onlink", "dev", "eth0"], check=True
        )

    world.ask(one, by_way_of_the_host)
    assert unreachable(world, one, there, 80)
    assert world.reach(one, LAN_PEER, 81) == [str(outside), LAN_HOST]
    assert world.reach(here(), there, 80)[0] == str(two)
    _, held = networks.publish(second, [Port(container_port=80, host_port=8080)])
    assert world.reach(outside, LAN_HOST, 8080)[0] == str(two)
    # What is plugged in again, because somebody took the bridge away, is as much apart.
    subprocess.run(["ip", "link", "delete", first.bridge], check=True)
    third = world.plug(networks.connect("apart", "c" * 64))
    assert unreachable(world, one, there, 80) and unreachable(world, third, there, 80)
    assert world.reach(here(), there, 80)[0] == str(two)
    del held


def test_a_network_may_have_ipv6_alone(world: World) -> None:
    networks = world.engine()
    network = networks.create("six", ipv4=False, ipv6=True)
    assert [pool.version for pool in network.pools] == [6]
    first, second = networks.connect("six", "a" * 64), networks.connect("six", "b" * 64)
    assert first.address(4) == ("", 0) and len(first.gateways) == 1
    one, two = world.plug(first), world.plug(second)
    there = second.address(6)[0]
    world.serve(two, 80, address="::")
    assert world.reach(one, there, 80)[0] == str(two)
    bindings, held = networks.publish(second, [Port(container_port=80, host_port=8080)])
    assert [binding.host_ip for binding in bindings] == ["::"]
    assert world.reach(one, network.pools[0].gateway, 8080)[0] == str(two)
    del held


def test_the_default_route_is_that_of_the_highest_priority(world: World) -> None:
    networks = world.engine()
    for name, options in (("inner", {"internal": True}), ("low", {}), ("high", {"ipv6": True})):
        networks.create(name, **options)  # type: ignore[arg-type]
    inner = networks.connect("inner", "a" * 64, Wish(priority=9))
    low = networks.connect("low", "a" * 64)
    assert not inner.gateways and low.gateways
    high = networks.connect("high", "a" * 64, Wish(priority=1))
    assert len(high.gateways) == 2
    gateways = {endpoint.network_name: endpoint.gateways for endpoint in networks.endpoints(container="a" * 64)}
    assert gateways == {"inner": [], "low": [], "high": high.gateways}
    networks.disconnect("high", "a" * 64)
    assert [endpoint.gateways for endpoint in networks.route("a" * 64)] == [low.gateways]
    again = world.engine()
    assert {endpoint.network_name: endpoint.gateways for endpoint in again.endpoints()} == {
        "inner": [],
        "low": low.gateways,
    }


def test_two_engines_live_side_by_side_and_each_removes_only_what_is_its_own(world: World) -> None:
    ours, theirs = world.engine("capsa"), world.engine("capsa-1a2b3c")
    first, second = ours.connect("bridge", "a" * 64), theirs.connect("bridge", "b" * 64)
    assert first.bridge == "capsa0" and second.bridge == "capsa-1a2b3c0"
    assert first.address(4)[0].startswith("172.17.") and second.address(4)[0].startswith("172.18.")
    one, two = world.plug(first), world.plug(second)
    world.serve(one, 80)
    world.serve(two, 80)
    assert unreachable(world, one, second.address(4)[0], 80)
    _, held = theirs.publish(second, [Port(container_port=80, host_port=8080)])
    assert world.reach(one, "172.17.0.1", 8080)[0] == str(two)
    ours.remove_all()
    with Netlink() as netlink:
        assert {link.name for link in netlink.links() if link.kind == "bridge"} == {"capsa-1a2b3c0"}
    assert nftables.run("list tables").split() == ["table", "inet", "capsa-1a2b3c"]
    assert world.reach(here(), "127.0.0.1", 8080)[0] == str(two)
    assert [network.name for network in ours.all()] == ["bridge", "host", "none"]
    theirs.remove_all()
    with Netlink() as netlink:
        assert not [link for link in netlink.links() if link.kind == "bridge"]
    del held


def test_a_restarted_engine_keeps_what_lives_and_forgets_what_does_not(world: World) -> None:
    before = world.engine()
    network = before.create("mine", pools=[Pool(subnet="10.9.0.0/24", gateway="10.9.0.254")])
    living, dead = before.connect("mine", "a" * 64), before.connect("mine", "b" * 64, Wish(ipv4="10.9.0.77"))
    server = world.plug(living)
    world.serve(server, 80)
    _, held = before.publish(living, [Port(container_port=80, host_port=8080)])
    _, gone = before.publish(dead, [Port(container_port=80, host_port=8081)])
    connection = socket.create_connection(("127.0.0.1", 8080))
    for each in gone:
        each.close()
    after = world.engine()
    after.restore(["a" * 64])
    assert [endpoint.container for endpoint in after.endpoints()] == ["a" * 64]
    assert connection.recv(100).split()[0] == str(server).encode()
    connection.close()
    assert world.reach(here(), "127.0.0.1", 8080)[0] == str(server)
    rules = nftables.run("list map inet capsa any4")
    assert "8080" in rules and "8081" not in rules
    assert after.connect("mine", "c" * 64, Wish(ipv4="10.9.0.77")).address(4)[0] == "10.9.0.77"
    assert after.get(network.id[:12]).pools == network.pools
    # Somebody takes bridge and rules away.
    nftables.run("flush ruleset")
    with Netlink() as netlink:
        netlink.delete(network.bridge)
    again = world.engine()
    again.restore(["a" * 64, "c" * 64])
    assert world.reach(here(), "127.0.0.1", 8080)[0] == str(server)
    del held


def test_an_engine_that_ends_without_containers_leaves_nothing_in_the_kernel(world: World) -> None:
    networks = world.engine()
    networks.create("mine")
    networks.connect("bridge", "a" * 64)
    networks.close()
    with Netlink() as netlink:
        assert {link.name for link in netlink.links()} == {"lo", "capsa0", "capsa1"}
    networks.release("a" * 64)
    networks.close()
    with Netlink() as netlink:
        assert {link.name for link in netlink.links()} == {"lo"}
    assert nftables.run("list tables") == ""
    again = world.engine()
    again.restore([])
    pool = again.get("mine").pool(4)
    endpoint = again.connect("mine", "b" * 64)
    assert pool and endpoint.gateways == [pool.gateway]
    world.plug(endpoint)
    # Killed meanwhile, and so is the container.
    third = world.engine()
    third.restore([])
    with Netlink() as netlink:
        assert not [link for link in netlink.links() if link.kind == "bridge"]


def test_a_flushed_ruleset_is_made_again_with_the_next_port(world: World) -> None:
    networks = world.engine()
    endpoint = networks.connect("bridge", "a" * 64)
    server = world.plug(endpoint)
    world.serve(server, 80)
    nftables.run("flush ruleset")
    _, held = networks.publish(endpoint, [Port(container_port=80, host_port=8080)])
    assert world.reach(here(), "127.0.0.1", 8080)[0] == str(server)
    nftables.run("flush ruleset")
    networks.release("a" * 64)
    networks.close()
    del held


def test_what_somebody_took_away_is_made_again_for_the_next_container(world: World) -> None:
    networks = world.engine()
    outside = world.neighbour()
    world.serve(outside, 81)
    first = world.plug(networks.connect("bridge", "a" * 64))
    assert world.reach(first, LAN_PEER, 81)[1] == LAN_HOST
    nftables.run("flush ruleset")
    second = world.plug(networks.connect("bridge", "b" * 64))
    assert world.reach(first, LAN_PEER, 81)[1] == LAN_HOST
    with Netlink() as netlink:
        netlink.delete("capsa0")
    third = world.plug(networks.connect("bridge", "c" * 64))
    for pid in (first, second, third):
        assert world.reach(pid, LAN_PEER, 81)[1] == LAN_HOST


def test_addresses_are_fixed_on_request_and_come_back(world: World) -> None:
    networks = world.engine()
    networks.create("mine", pools=[Pool(subnet="10.9.0.0/29", auxiliary={"printer": "10.9.0.3"})])
    assert networks.connect("mine", "a" * 64, Wish(ipv4="10.9.0.4", mac="02:00:00:00:00:09")).mac == "02:00:00:00:00:09"
    with pytest.raises(Forbidden, match="Address already in use"):
        networks.connect("mine", "b" * 64, Wish(ipv4="10.9.0.4"))
    with pytest.raises(Forbidden, match="Address already in use"):
        networks.connect("mine", "b" * 64, Wish(ipv4="10.9.0.3"))
    with pytest.raises(Forbidden, match="does not belong"):
        networks.connect("mine", "b" * 64, Wish(ipv4="10.8.0.4"))
    with pytest.raises(Forbidden, match="already exists"):
        networks.connect("mine", "a" * 64)
    found = {networks.connect("mine", letter * 64).address(4)[0] for letter in "bcd"}
    assert found == {"10.9.0.2", "10.9.0.5", "10.9.0.6"}
    with pytest.raises(Conflict, match="no available IPv4 addresses"):
        networks.connect("mine", "e" * 64)
    networks.disconnect("mine", "c" * 64)
    assert networks.connect("mine", "e" * 64).address(4)[0] in found
    with pytest.raises(InvalidArgument, match="user-defined networks"):
        networks.connect("bridge", "f" * 64, Wish(ipv4="172.17.0.9"))
    with pytest.raises(Forbidden, match="not connected"):
        networks.disconnect("bridge", "f" * 64)


def test_a_second_network_brings_an_interface_but_no_second_default_route(world: World) -> None:
    networks = world.engine()
    networks.create("more")
    first, second = networks.connect("bridge", "a" * 64), networks.connect("more", "a" * 64)
    assert (first.name, second.name) == ("eth0", "eth1")
    assert first.gateways == ["172.17.0.1"] and second.gateways == []
    pid = world.plug(first)
    world.plug(second, pid)
    assert networks.connect("host", "b" * 64).addresses == []


def test_subnets_avoid_what_the_machine_routes_and_the_default_one_moves(world: World) -> None:
    networks = world.engine()
    world.neighbour()
    subprocess.run(["ip", "route", "add", "172.17.4.0/24", "via", LAN_PEER], check=True)
    assert networks.connect("bridge", "a" * 64).addresses == ["172.18.0.2/16"]
    pool = networks.create("more").pool(4)
    assert pool and pool.subnet == "172.19.0.0/16"
    with pytest.raises(Forbidden, match="Pool overlaps"):
        networks.create("clash", pools=[Pool(subnet="172.18.7.0/24")])


def test_what_cannot_be_meant_is_refused_and_leaves_no_bridge(world: World) -> None:
    networks = world.engine()
    networks.create("mine")
    with Netlink() as netlink:
        before = {link.name for link in netlink.links()}
        netlink.add_bridge("foreign")
    refused: list[tuple[type[CapsaError], dict[str, Any]]] = [
        (Conflict, {"name": "mine"}),
        (Forbidden, {"name": "host"}),
        (NotFound, {"name": "x", "driver": "weave"}),
        (Unsupported, {"name": "x", "driver": "macvlan"}),
        (InvalidArgument, {"name": "a/b"}),
        (InvalidArgument, {"name": "x", "pools": [Pool(subnet="10.0.0.0/33")]}),
        (InvalidArgument, {"name": "x", "pools": [Pool(subnet="10.0.0.0/24", gateway="10.1.0.1")]}),
        (InvalidArgument, {"name": "x", "pools": [Pool(subnet="10.0.0.0/24", range="10.1.0.0/25")]}),
        (InvalidArgument, {"name": "x", "pools": [Pool(subnet="fd00::/64")]}),
        (InvalidArgument, {"name": "x", "options": {"com.docker.network.driver.mtu": "12 "}}),
        (InvalidArgument, {"name": "x", "options": {"unknown": "1"}}),
        (InvalidArgument, {"name": "x", "options": {"com.docker.network.bridge.name": "a/b"}}),
        (Conflict, {"name": "x", "options": {"com.docker.network.bridge.name": "foreign"}}),
        (Unsupported, {"name": "x", "options": {"com.docker.network.bridge.gateway_mode_ipv4": "routed"}}),
        (Forbidden, {"name": "x", "options": {"com.docker.network.bridge.default_bridge": "true"}}),
        (Forbidden, {"name": "x", "pools": [Pool(subnet="10.0.0.0/24"), Pool(subnet="10.0.1.0/24")]}),
        (InvalidArgument, {"name": "x", "ipv4": False}),
    ]
    for kind, arguments in refused:
        with pytest.raises(kind):
            networks.create(**arguments)
    with Netlink() as netlink:
        assert {link.name for link in netlink.links()} == before | {"foreign"}
    assert len(networks.all()) == 4
    networks.connect("mine", "a" * 64)
    with pytest.raises(Forbidden, match="active endpoints"):
        networks.remove("mine")
    with pytest.raises(Forbidden, match="pre-defined"):
        networks.remove("bridge")
    networks.release("a" * 64)
    networks.remove("mine")
    with pytest.raises(NotFound, match="network mine not found"):
        networks.get("mine")


def test_a_burst_of_containers_is_one_row_each(world: World) -> None:
    networks = world.engine()
    networks.connect("bridge", "warm")
    before = time.perf_counter()
    for number in range(200):
        networks.connect("bridge", f"{number:064x}")
    each = (time.perf_counter() - before) / 200
    assert len(networks.endpoints()) == 201
    assert len({endpoint.address(4) for endpoint in networks.endpoints()}) == 201
    assert each < 0.05


def in_table(*messages: tuple[int, int, bytes], name: str = "theirs") -> None:
    """Change the table ``inet NAME`` without nft: type, flags and attributes of each message."""
    head, batch = struct.pack("!BBH", 1, 0, 0), struct.pack("!BBH", 0, 0, 10)
    connection = NetlinkSocket(nftables.NETLINK_NETFILTER)
    try:
        changes = [
            (10 << 8 | kind, flags, head + attributes((1, name.encode() + b"\0")) + more)
            for kind, flags, more in messages
        ]
        kind, flags, body = changes[-1]
        changes[-1] = kind, flags | NLM_F_ACK, body
        connection.batch("change table", name, [(16, 0, batch), *changes, (17, 0, batch)])
    finally:
        connection.close()


def test_other_programs_tables_are_read_by_a_process_of_their_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = world.engine()
    endpoint = networks.connect("bridge", "a" * 64)
    server = world.plug(endpoint)
    world.serve(server, 80)
    here_only: list[str] = []
    monkeypatch.setattr(nftables, "_run_here", here_only.append)
    in_table((0, NLM_F_CREATE, b""))
    _, held = networks.publish(endpoint, [Port(container_port=80, host_port=8080)])
    assert world.reach(here(), "127.0.0.1", 8080)[0] == str(server)
    assert not here_only and "table inet theirs" in nftables.run("list tables")
    networks.release("a" * 64)
    networks.close()
    del held


def test_what_this_nftables_cannot_read_is_an_error_and_not_the_end(world: World) -> None:
    """A set of interfaces as nftables 1.1.3 makes it ends 1.0.6, which Debian 12 has."""
    networks = world.engine()
    networks.connect("bridge", "a" * 64)
    key_of_meta = bytes.fromhex("000401000000 0308 0004040000000100")
    word = struct.Struct("!I").pack
    new_set = attributes((2, b"s\0"), (3, word(0)), (4, word(41)), (5, word(16)), (10, word(1)), (13, key_of_meta))
    in_table((0, NLM_F_CREATE, b""), (9, NLM_F_CREATE, new_set))
    if subprocess.run([nftables.PROGRAM, "list", "tables"], capture_output=True).returncode == -signal.SIGSEGV:
        with pytest.raises(CapsaError, match=r"was ended by SIGSEGV.*\(there are theirs\)"):
            networks.create("mine")
        assert not [each for each in networks.all() if each.name == "mine"], "half a network"
    in_table((2, 0, b""))
    network = networks.create("mine")
    assert networks.connect("mine", "b" * 64).network == network.id
    networks.release("a" * 64)
    networks.release("b" * 64)
    networks.close()
