"""What a container's ``/etc/hosts`` and ``/etc/resolv.conf`` hold."""

from __future__ import annotations

import pytest

from capsa.errors import InvalidArgument
from capsa.network.names import hosts_file, resolv_conf, split_extra_host

HOST = """# a comment
nameserver 127.0.0.53
nameserver 192.0.2.1 ; trailing
nameserver 2001:db8::1
nameserver fe80::1%eth0
nameserver nonsense
search example.org lan
options ndots:2 edns0
"""


def test_the_hosts_servers_are_taken_over_but_those_on_loopback() -> None:
    assert resolv_conf(host=HOST) == "nameserver 192.0.2.1\nsearch example.org lan\noptions ndots:2 edns0\n"
    assert "nameserver 2001:db8::1\n" in resolv_conf(host=HOST, ipv6=True)
    assert "fe80" not in resolv_conf(host=HOST, ipv6=True)


def test_in_the_hosts_network_its_loopback_servers_are_good() -> None:
    assert "nameserver 127.0.0.53\n" in resolv_conf(host=HOST, loopback=True)


def test_where_no_server_is_left_dockers_public_ones_stand_in() -> None:
    assert resolv_conf(host="nameserver 127.0.0.1\n") == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    assert resolv_conf(host="") == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_each_part_is_replaced_by_what_is_given() -> None:
    text = resolv_conf(host=HOST, servers=["127.0.0.11", "::1"], search=["a.example"], options=["timeout:1"])
    assert text == "nameserver 127.0.0.11\nnameserver ::1\nsearch a.example\noptions timeout:1\n"


def test_a_dot_means_no_search_list() -> None:
    assert "search" not in resolv_conf(host=HOST, search=["."])


@pytest.mark.parametrize(
    "bad", [{"servers": ["ns.example"]}, {"search": ["a\nnameserver 6.6.6.6"]}, {"options": ["a b"]}, {"search": [""]}]
)
def test_what_would_break_the_file_is_refused(bad: dict[str, list[str]]) -> None:
    with pytest.raises(InvalidArgument):
        resolv_conf(host=HOST, **bad)  # type: ignore[arg-type]


def test_hosts_names_the_container_and_what_was_added() -> None:
    text = hosts_file(
        "web",
        domainname="example.org",
        addresses=["172.17.0.2/16", "fd00::2/64"],
        extra=["db:10.0.0.1", "six=[fd00::9]", "outer:host-gateway", "seven:fd00::7"],
        host_gateway="172.17.0.1",
    )
    lines = text.splitlines()
    assert lines[0] == "127.0.0.1\tlocalhost"
    assert lines[-2:] == ["172.17.0.2\tweb.example.org web", "fd00::2\tweb.example.org web"]
    for line in ("10.0.0.1\tdb", "fd00::9\tsix", "172.17.0.1\touter", "fd00::7\tseven"):
        assert line in lines


@pytest.mark.parametrize("bad", ["noaddress", "name:", ":10.0.0.1", "name:1.2.3", "na\nme:10.0.0.1", "name:10.0.0.1\n"])
def test_malformed_extra_hosts_are_refused(bad: str) -> None:
    with pytest.raises(InvalidArgument):
        split_extra_host(bad)


def test_host_gateway_without_a_bridge_network_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="host-gateway"):
        hosts_file("web", extra=["outer:host-gateway"])
