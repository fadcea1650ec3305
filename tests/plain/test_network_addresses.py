"""How networks get subnets and endpoints get addresses; interface messages that need no kernel."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsa.errors import CapsaError, Conflict, Forbidden, InvalidArgument
from capsa.network import addresses
from capsa.network.model import Pool
from capsa.network.options import bridge_options
from capsa.sys.netlink import mac_bytes
from capsa.sys.netlink_socket import attributes, parts


def test_subnets_come_in_dockers_order_around_what_is_taken() -> None:
    assert addresses.choose([]).subnet == "172.17.0.0/16"
    taken = [ipaddress.ip_network("172.16.0.0/12"), ipaddress.ip_network("fd00::/8")]
    assert addresses.choose(taken).subnet == "192.168.0.0/20"
    assert addresses.choose([*taken, ipaddress.ip_network("192.168.3.0/24")]).gateway == "192.168.16.1"
    with pytest.raises(Conflict, match="non-overlapping"):
        addresses.choose([*taken, ipaddress.ip_network("192.168.0.0/16")])


def test_ipv6_subnets_are_unique_local_and_follow_from_the_network() -> None:
    first = addresses.choose_ipv6("a", [])
    assert first.subnet.startswith("fd") and first.prefix == 64
    assert addresses.choose_ipv6("a", []) == first
    assert addresses.choose_ipv6("a", [first.network]) != first


@given(
    st.integers(22, 29),
    st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), max_size=200),
)
def test_an_address_is_never_given_twice_and_never_the_gateways(prefix: int, steps: list[tuple[bool, int]]) -> None:
    pool = addresses.check(Pool(subnet=f"10.1.0.0/{prefix}"))
    allocator = addresses.Allocator(pool)
    held: list[str] = []
    for take, which in steps:
        if take or not held:
            try:
                address = allocator.take()
            except Conflict:
                assert len(held) == pool.network.num_addresses - 3
                continue
            assert address not in held
            assert ipaddress.ip_address(address) in pool.network
            assert address not in (pool.gateway, str(pool.network[0]), str(pool.network[-1]))
            held.append(address)
        else:
            allocator.give_back(held.pop(which % len(held)))


def test_addresses_come_out_of_the_range_alone() -> None:
    pool = addresses.check(Pool(subnet="10.1.0.0/24", range="10.1.0.64/30"))
    allocator = addresses.Allocator(pool)
    assert [allocator.take() for _ in range(4)] == ["10.1.0.64", "10.1.0.65", "10.1.0.66", "10.1.0.67"]
    with pytest.raises(Conflict):
        allocator.take()
    assert allocator.take("10.1.0.9") == "10.1.0.9"


def test_a_subnet_is_put_into_canonical_form() -> None:
    pool = addresses.check(Pool(subnet="10.1.0.7/24", auxiliary={"router": "10.1.0.9"}))
    assert (pool.subnet, pool.gateway, pool.auxiliary) == ("10.1.0.0/24", "10.1.0.1", {"router": "10.1.0.9"})


@pytest.mark.parametrize(
    "pool",
    [
        Pool(subnet="x"),
        Pool(subnet="10.0.0.0/31"),
        Pool(subnet="10.0.0.0/24", gateway="fd00::1"),
        Pool(subnet="10.0.0.0/24", range="fd00::/80"),
        Pool(subnet="10.0.0.0/24", auxiliary={"a": "10.0.1.1"}),
    ],
)
def test_pools_whose_parts_do_not_fit_are_refused(pool: Pool) -> None:
    with pytest.raises(InvalidArgument):
        addresses.check(pool)


def test_a_mac_address_follows_from_the_address() -> None:
    assert addresses.mac_for("172.17.0.2") == "02:42:ac:11:00:02"


@pytest.mark.parametrize("mac", ["", "02:42", "zz:42:ac:11:00:02", "02:42:ac:11:00:02:03"])
def test_what_is_no_mac_address_is_refused(mac: str) -> None:
    with pytest.raises(OSError, match="MAC"):
        mac_bytes(mac)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=50))))
def test_attributes_come_back_as_they_were_packed(pairs: list[tuple[int, bytes]]) -> None:
    assert list(parts(attributes(*pairs))) == pairs


@given(st.binary(max_size=200))
def test_parsing_attributes_of_anything_ends(data: bytes) -> None:
    list(parts(data))


@given(st.dictionaries(st.sampled_from(["bridge.name", "driver.mtu", "bridge.enable_icc", "x"]), st.text(max_size=20)))
def test_driver_options_are_taken_or_refused_in_a_sentence(options: dict[str, str]) -> None:
    try:
        bridge_options({f"com.docker.network.{key}": value for key, value in options.items()})
    except CapsaError as error:
        assert "\n" not in str(error) or any("\n" in value for value in options.values())


@given(
    st.integers(22, 29),
    st.lists(st.tuples(st.sampled_from(("take", "apart", "back")), st.integers(0, 1000)), max_size=200),
)
def test_who_stands_apart_has_a_block_of_four_for_itself(prefix: int, steps: list[tuple[str, int]]) -> None:
    pool = addresses.check(Pool(subnet=f"10.1.0.0/{prefix}"))
    allocator = addresses.Allocator(pool)
    held: list[list[str]] = []
    for what, number in steps:
        try:
            if what == "take":
                held.append([allocator.take()])
            elif what == "apart":
                address, neighbours = allocator.take_apart()
                block = ipaddress.ip_network(f"{address}/30", strict=False)
                assert sorted(map(ipaddress.ip_address, [address, *neighbours])) == list(block)
                assert address in map(str, block.hosts())
                held.append([address, *neighbours])
        except Conflict:
            pass
        if what == "back" and held:
            for each in held.pop(number % len(held)):
                allocator.give_back(each)
        flat = [each for group in held for each in group]
        assert len(flat) == len(set(flat)) and not {pool.gateway, str(pool.network[0]), str(pool.network[-1])} & {*flat}


def test_an_address_apart_that_is_asked_for_needs_free_neighbours() -> None:
    allocator = addresses.Allocator(addresses.check(Pool(subnet="10.1.0.0/28")))
    assert allocator.take_apart("10.1.0.9") == ("10.1.0.9", ["10.1.0.8", "10.1.0.10", "10.1.0.11"])
    for wanted, said in (
        ("10.1.0.10", "Address already in use"),
        ("10.1.0.2", r"10.1.0.2 cannot stand alone: .* 10.1.0.0/30"),
        ("10.1.0.4", "cannot stand alone"),
        ("10.1.0.13", "cannot stand alone"),
        ("10.2.0.1", "does not belong"),
    ):
        with pytest.raises(Forbidden, match=said):
            allocator.take_apart(wanted)
    assert allocator.take_apart()[0] == "10.1.0.6"
    with pytest.raises(Conflict, match="no free block of four"):
        allocator.take_apart()
    for each in ("10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.7"):
        allocator.give_back(each)
    assert allocator.take() == "10.1.0.12"
    assert allocator.take_apart("10.1.0.5")[0] == "10.1.0.5"
