"""DNS messages and names: held against an independent implementation, and what hostile packets do."""

from __future__ import annotations

import contextlib
import socket
import struct
from ipaddress import ip_address
from pathlib import Path

import pytest
from dnslib import EDNS0, QTYPE, RCODE, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from capsa.network.dns import message
from capsa.network.dns.forward import HostServers
from capsa.network.dns.message import Malformed, Query
from capsa.network.dns.zone import Endpoint, Zone, packed

LABEL = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)
NAME = st.lists(LABEL, min_size=1, max_size=3).map(".".join)


def asked(name: str, kind: str = "A", size: int = 0) -> Query:
    record = DNSRecord.question(name, kind)
    if size:
        record.add_ar(EDNS0(udp_len=size))
    return message.parse(record.pack())


@given(NAME, st.sampled_from(["A", "AAAA", "PTR", "TXT", "ANY"]), st.sampled_from([0, 512, 1232, 65535]))
def test_a_query_is_read_as_it_was_written(name: str, kind: str, size: int) -> None:
    query = asked(name.upper(), kind, size)
    assert (query.name, query.kind, query.domain) == (name, getattr(QTYPE, kind), 1)
    assert (query.extended, query.size) == (size > 0, max(512, size))


@given(st.binary(max_size=300))
@settings(max_examples=300)
def test_no_packet_does_more_than_being_refused(packet: bytes) -> None:
    for each in (packet, b"\0\1\1\0\0\1\0\0\0\0\0\0" + packet):
        with contextlib.suppress(Malformed):
            query = message.parse(each)
            message.failure(query, message.SERVFAIL)
            message.reverse_address(query.name)
            assert Zone().lookup("x", query) is None


@pytest.mark.parametrize(
    "question",
    [
        b"\xc0\x0c\0\1\0\1",  # a name that is itself
        b"\3abc\xc0\x0c\0\1\0\1",  # one that ends in itself
        b"\x40" + b"a" * 64 + b"\0\0\1\0\1",  # too long a label
        (b"\x3f" + b"a" * 63) * 5 + b"\0\0\1\0\1",  # too long a name
        b"\3abc",  # no end
        b"",
    ],
)
def test_a_malformed_name_is_a_format_error(question: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        message.parse(struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + question)
    answer = DNSRecord.parse(caught.value.reply)
    assert (answer.header.id, RCODE[answer.header.rcode]) == (7, "FORMERR")


def test_what_is_no_query_gets_no_answer_or_a_refusal() -> None:
    for packet in (b"", b"x" * 11, DNSRecord.question("a").reply().pack()):
        with pytest.raises(Malformed) as caught:
            message.parse(packet)
        assert caught.value.reply == b""  # two servers never answer each other
    update = DNSRecord.question("a")
    update.header.opcode = 5
    with pytest.raises(Malformed) as caught:
        message.parse(update.pack())
    assert DNSRecord.parse(caught.value.reply).header.rcode == message.NOTIMP


@given(NAME, st.lists(st.ip_addresses(v=4), max_size=5), st.lists(st.ip_addresses(v=6), max_size=5))
def test_an_answer_says_what_it_was_told(name: str, four: list[object], six: list[object]) -> None:
    records = [(message.A, packed(str(each))) for each in four] + [(message.AAAA, packed(str(each))) for each in six]
    answer = DNSRecord.parse(message.answer(asked(name, size=1400), records, ttl=5, limit=1400))
    assert [ip_address(str(each.rdata)) for each in answer.rr] == [*four, *six]
    assert answer.header.qr and answer.header.ra and answer.header.rd and not answer.header.tc
    assert str(answer.q.qname).rstrip(".") == name and answer.ar[0].edns_len == message.OUR_SIZE


def test_an_answer_that_does_not_fit_is_cut_and_says_so() -> None:
    records = [(message.A, bytes((10, 0, 0, number))) for number in range(100)]
    query = asked("all")
    small = message.answer(query, records, ttl=5, limit=query.size)
    assert len(small) <= 512 and DNSRecord.parse(small).header.tc == 1
    assert len(DNSRecord.parse(message.answer(query, records, ttl=5, limit=65535)).rr) == 100


def test_only_the_answer_to_the_question_is_taken() -> None:
    query = asked("web.example")
    answer = DNSRecord.question("web.example").reply()
    answer.header.id = 99
    assert message.answers(answer.pack(), 99, query.question)
    assert not message.answers(answer.pack(), 98, query.question)
    assert not message.answers(answer.pack(), 99, asked("other.example").question)
    assert not message.answers(b"", 99, query.question)
    sent = DNSRecord.question("web.example")
    sent.header.id = 99
    assert not message.answers(sent.pack(), 99, query.question)


def endpoint(name: str, address: str, network: str = "net", **links: str) -> Endpoint:
    return Endpoint(f"{network}-{name}", network, network, name, (name, "pool"), (packed(address),), links)


def test_names_come_and_go_with_their_endpoints() -> None:
    zone = Zone()
    for each in (
        endpoint("one", "10.0.0.2"),
        endpoint("two", "10.0.0.3", db="one"),
        endpoint("far", "10.1.0.2", "far"),
    ):
        zone.add(each)
    four = socket.inet_aton
    assert zone.lookup("one", asked("two")) == [(message.A, four("10.0.0.3"))]
    assert zone.lookup("one", asked("two.net")) == [(message.A, four("10.0.0.3"))]
    assert zone.lookup("one", asked("two.far")) is None and zone.lookup("one", asked("far")) is None
    assert zone.lookup("two", asked("db")) == [(message.A, four("10.0.0.2"))]
    assert zone.lookup("one", asked("db")) is None
    assert zone.lookup("one", asked("two", "AAAA")) == []
    assert len(zone.lookup("one", asked("pool")) or []) == 2
    assert zone.lookup("one", asked("3.0.0.10.in-addr.arpa", "PTR")) == [(message.PTR, b"\3two\3net\0")]
    assert zone.lookup("one", asked("2.0.1.10.in-addr.arpa", "PTR")) is None
    zone.remove("net-two")
    assert zone.lookup("one", asked("two")) is None
    assert zone.lookup("one", asked("3.0.0.10.in-addr.arpa", "PTR")) is None
    for identity in ("net-one", "far-far", "net-two"):
        zone.remove(identity)
    assert not any(vars(zone)[name] for name in ("_endpoints", "_of_container", "_of_name", "_of_address"))


def test_a_dot_within_a_label_is_none_between_labels() -> None:
    zone = Zone()
    zone.add(endpoint("a.b", "10.0.0.2"))
    packet = struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\3a.b\0\0\1\0\1"
    assert zone.lookup("a.b", message.parse(packet)) is None
    assert zone.lookup("a.b", asked("a.b")) is not None


def test_the_hosts_servers_are_read_again_when_they_change(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    servers = HostServers(str(path))
    assert servers.get() == ["127.0.0.1"]
    path.write_text("search x\nnameserver 192.0.2.1\nnameserver 192.0.2.2\n")
    assert servers.get() == ["192.0.2.1", "192.0.2.2"]
    path.write_text("nameserver 127.0.0.53\n")
    assert servers.get() == ["127.0.0.53"]
