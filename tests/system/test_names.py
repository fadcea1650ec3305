"""Containers of user-defined networks find each other by name, and everything else through the host's name servers."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from dnslib import QTYPE, RCODE, RR, TXT, A, DNSRecord
from fixtures import processes
from fixtures.engine import EngineUnderTest
from fixtures.questions import SERVER, ask, ask_until, inside, query, received, send, send_stream, upstream

_number = itertools.count()
UPSTREAM = "127.77.5.3"


@pytest.fixture
def network(engine: EngineUnderTest) -> Iterator[str]:
    """A network of its own; its containers end with the test."""
    name = f"net{next(_number)}"
    status, _ = engine.api("POST", "/networks/create", {"Name": name})
    assert status == 201
    yield name
    engine.remove_containers()
    assert engine.api("DELETE", f"/networks/{name}")[0] == 204


Start = Callable[..., tuple[str, int, str]]


@pytest.fixture
def start(engine: EngineUnderTest, busybox: str) -> Start:
    """Start a container in a network: its id, its process, its address there."""

    def start(name: str, network: str, *aliases: str, **host: object) -> tuple[str, int, str]:
        body = {
            "Image": busybox,
            "Cmd": ["sleep", "1000"],
            "StopSignal": "KILL",
            "HostConfig": {"NetworkMode": network, **host},
            "NetworkingConfig": {"EndpointsConfig": {network: {"Aliases": list(aliases)}}},
        }
        status, made = engine.api("POST", f"/containers/create?name={name}", body)
        assert status == 201, made
        status, answer = engine.api("POST", f"/containers/{made['Id']}/start")
        assert status == 204, answer
        found = inspect(engine, name)
        return made["Id"], found["State"]["Pid"], found["NetworkSettings"]["Networks"][network]["IPAddress"]

    return start


def inspect(engine: EngineUnderTest, name: str) -> dict:  # type: ignore[type-arg]
    status, found = engine.api("GET", f"/containers/{name}/json")
    assert status == 200
    return dict(found)


def names_process(engine: EngineUnderTest) -> int:
    """The process of the engine that answers queries, 0 if there is none."""
    return next((pid for pid in processes.children(engine.pid) if processes.title(pid).startswith("capsa: names")), 0)


def files(engine: EngineUnderTest, name: str, path: str) -> str:
    return engine.capsa("exec", name, "cat", path).stdout


def test_a_container_is_found_by_its_names_in_every_spelling(
    engine: EngineUnderTest, network: str, start: Start
) -> None:
    identity, _, address = start("web", network, "www", "Shop.Example")
    _, pid, own = start("asker", network)
    for name in ("web", "www", "WEB", "shop.example", identity[:12], f"web.{network}", "web."):
        assert ask(pid, name) == ("NOERROR", [address]), name
        assert ask(pid, name, stream=True) == ("NOERROR", [address]), name
    assert ask(pid, "asker") == ("NOERROR", [own])
    reverse = ".".join(reversed(address.split("."))) + ".in-addr.arpa"
    assert ask(pid, reverse, "PTR") == ("NOERROR", [f"web.{network}."])
    # No IPv6, no mail: the name is known nevertheless, and nobody else is asked.
    for kind in ("AAAA", "MX", "TXT"):
        assert ask(pid, "web", kind) == ("NOERROR", [])
    found = inspect(engine, "web")["NetworkSettings"]["Networks"][network]["DNSNames"]
    assert found == ["web", "www", "Shop.Example", identity[:12]]


def test_programs_in_the_container_find_it(engine: EngineUnderTest, network: str, start: Start) -> None:
    _, _, address = start("web", network)
    start("asker", network)
    assert files(engine, "asker", "/etc/resolv.conf").startswith("nameserver 127.0.0.11\n")
    assert "ndots:0" in files(engine, "asker", "/etc/resolv.conf")
    assert f"Address: {address}\n" in engine.capsa("exec", "asker", "nslookup", "web").stdout
    assert f"({address})" in engine.capsa("exec", "asker", "ping", "-c1", "-W5", "web").stdout


def test_names_are_known_in_their_network_only(engine: EngineUnderTest, network: str, start: Start) -> None:
    engine.capsa("network", "create", "--internal", "apart")
    start("web", network)
    start("plain", "bridge")
    _, pid, _ = start("asker", "apart")
    # No way out for queries either: Docker answers so.
    assert ask(pid, "web") == ("SERVFAIL", [])
    assert ask(pid, "example.org", stream=True) == ("SERVFAIL", [])
    assert "127.0.0.11" not in files(engine, "plain", "/etc/resolv.conf")
    engine.remove_containers()
    engine.capsa("network", "rm", "apart")


def test_an_alias_of_several_containers_stands_for_all_of_them_in_turn(
    engine: EngineUnderTest, network: str, start: Start
) -> None:
    addresses = {start(name, network, "pool")[2] for name in ("one", "two", "three")}
    _, pid, _ = start("asker", network)
    answers = [ask(pid, "pool")[1] for _ in range(3)]
    assert all(set(answer) == addresses for answer in answers)
    assert {answer[0] for answer in answers} == addresses
    engine.capsa("kill", "two")
    engine.capsa("wait", "two")
    deadline = time.monotonic() + 20
    while len(ask(pid, "pool")[1]) != 2:
        assert time.monotonic() < deadline


def test_a_running_container_comes_and_goes(engine: EngineUnderTest, network: str, start: Start) -> None:
    start("web", "bridge")
    _, pid, _ = start("asker", network)
    with upstream(lambda asked, _stream: _refusing(asked)):
        before = files(engine, "web", "/etc/resolv.conf")
        engine.capsa("network", "connect", "--alias", "late", network, "web")
        address = inspect(engine, "web")["NetworkSettings"]["Networks"][network]["IPAddress"]
        assert ask(pid, "late") == ("NOERROR", [address])
        # What it finds, and how it asks, changes at once, too.
        web = inspect(engine, "web")["State"]["Pid"]
        assert ask(web, "asker")[0] == "NOERROR"
        now = files(engine, "web", "/etc/resolv.conf")
        assert now.startswith("nameserver 127.0.0.11\n") and now != before
        assert "asker" in engine.capsa("exec", "web", "nslookup", "asker").stdout
        assert address in files(engine, "web", "/etc/hosts")
        engine.capsa("network", "disconnect", network, "web")
        assert ask(pid, "late")[1] == []
        assert ask(web, "asker")[1] == []
        assert address not in files(engine, "web", "/etc/hosts")


def test_another_name_holds_at_once(engine: EngineUnderTest, network: str, start: Start) -> None:
    _, _, address = start("before", network)
    _, pid, _ = start("asker", network)
    engine.capsa("rename", "before", "after")
    assert ask(pid, "after") == ("NOERROR", [address])
    assert ask(pid, "before")[1] == []


def _refusing(asked: DNSRecord) -> bytes:
    answer = asked.reply()
    answer.header.rcode = RCODE.NXDOMAIN
    return bytes(answer.pack())


def test_what_is_no_container_is_asked_of_the_given_servers(
    engine: EngineUnderTest, network: str, start: Start
) -> None:
    def serve(asked: DNSRecord, stream: bool) -> bytes:
        answer = asked.reply()
        name = str(asked.q.qname)
        if name == "host.example.":
            answer.add_answer(RR(name, QTYPE.A, rdata=A("192.0.2.7"), ttl=60))
        elif name == "large.example.":
            if stream:
                for number in range(200):
                    answer.add_answer(RR(name, QTYPE.TXT, rdata=TXT(f"{number:0200}"), ttl=60))
            else:
                answer.header.tc = 1
        else:
            answer.header.rcode = RCODE.NXDOMAIN
        return bytes(answer.pack())

    _, pid, _ = start("asker", network, Dns=[UPSTREAM])
    with upstream(serve) as asked:
        assert ask(pid, "host.example") == ("NOERROR", ["192.0.2.7"])
        assert ask(pid, "other.example") == ("NXDOMAIN", [])
        # Truncation and EDNS are between the client and the server.
        answer = DNSRecord.parse(send(pid, query("large.example", "TXT", size=1400).pack()))
        assert answer.header.tc == 1
        assert asked[-1].ar[0].edns_len == 1400
        answer = DNSRecord.parse(send_stream(pid, query("large.example", "TXT").pack()))
        assert len(answer.rr) == 200
        # The number of a query is its asker's; what goes out has another that cannot be guessed.
        numbers = {asked[-1].header.id for _ in range(5) if ask(pid, "host.example")}
        assert len(numbers) > 1


def test_a_server_that_fails_is_followed_by_the_next(engine: EngineUnderTest, network: str, start: Start) -> None:
    def fail(asked: DNSRecord, _stream: bool) -> bytes:
        answer = asked.reply()
        answer.header.rcode = RCODE.SERVFAIL
        return bytes(answer.pack())

    def serve(asked: DNSRecord, _stream: bool) -> bytes:
        answer = asked.reply()
        answer.add_answer(RR(asked.q.qname, QTYPE.A, rdata=A("192.0.2.8"), ttl=60))
        return bytes(answer.pack())

    # Nobody is at the first address, the second fails, the third knows.
    _, pid, _ = start("asker", network, Dns=["127.77.5.1", "127.77.5.2", UPSTREAM])
    with upstream(fail, "127.77.5.2"), upstream(serve):
        assert ask(pid, "host.example") == ("NOERROR", ["192.0.2.8"])
        assert ask(pid, "host.example", stream=True) == ("NOERROR", ["192.0.2.8"])


def test_an_answer_from_somewhere_else_is_not_taken(engine: EngineUnderTest, network: str, start: Start) -> None:
    def serve(asked: DNSRecord, _stream: bool) -> bytes:
        forged = asked.reply()
        forged.header.id ^= 1
        forged.add_answer(RR(asked.q.qname, QTYPE.A, rdata=A("203.0.113.1"), ttl=60))
        other = DNSRecord.question("other.example").reply()
        other.header.id = asked.header.id
        return bytes(next(answers)(forged, other).pack())

    answers = itertools.cycle([lambda forged, _other: forged, lambda _forged, other: other])
    _, pid, _ = start("asker", network, Dns=[UPSTREAM])
    with upstream(serve):
        assert ask(pid, "host.example", stream=True) == ("SERVFAIL", [])
        assert ask(pid, "host.example", stream=True) == ("SERVFAIL", [])
        assert ask(pid, "host.example") == ("SERVFAIL", [])


def test_a_dns_server_in_the_container_may_have_port_53_of_all_addresses(
    engine: EngineUnderTest, network: str, start: Start
) -> None:
    start("web", network)
    _, pid, address = start("server", network)
    with inside(pid) as own, inside(pid, socket.SOCK_STREAM) as stream, inside(pid) as client:
        own.bind(("0.0.0.0", 53))
        stream.bind(("0.0.0.0", 53))
        stream.listen()
        assert ask(pid, "web")[0] == "NOERROR"
        assert ask(pid, "web", stream=True)[0] == "NOERROR"
        client.sendto(b"to its own server", (address, 53))
        assert own.recv(100) == b"to its own server"


def test_queries_of_the_time_between_two_engines_are_answered(
    engine: EngineUnderTest, network: str, start: Start
) -> None:
    _, _, address = start("web", network)
    _, pid, _ = start("asker", network)
    assert ask(pid, "web") == ("NOERROR", [address])
    engine.down(signal.SIGKILL)
    with inside(pid) as client, inside(pid, socket.SOCK_STREAM) as stream:
        client.connect(SERVER)
        client.send(query("web").pack())
        stream.connect(SERVER)
        packet = query("web").pack()
        stream.sendall(len(packet).to_bytes(2, "big") + packet)
        engine.up()
        for answer in (client.recv(1000), received(stream)):
            assert str(DNSRecord.parse(answer).a.rdata) == address


def test_the_process_is_nobody_and_there_is_another_when_it_is_killed(
    engine: EngineUnderTest, network: str, start: Start
) -> None:
    _, _, address = start("web", network)
    _, pid, _ = start("asker", network)
    assert ask(pid, "web") == ("NOERROR", [address])
    process = names_process(engine)
    with open(f"/proc/{process}/status") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    assert status["Uid"].split() == status["Gid"].split() == ["65534"] * 4
    assert not status["Groups"].strip()
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    os.kill(process, signal.SIGKILL)
    assert ask(pid, "web") == ("NOERROR", [address])
    assert names_process(engine) not in (0, process)
    ask_until(pid, "web", ("NOERROR", [address]))


def test_hostile_packets_are_refused_or_ignored_and_others_do_not_notice(
    engine: EngineUnderTest, network: str, start: Start
) -> None:
    _, _, address = start("web", network)
    _, pid, _ = start("asker", network, Dns=[UPSTREAM])
    process = names_process(engine)
    header = b"\0\7\1\0\0\1\0\0\0\0\0\0"
    for question in (
        b"\xc0\x0c\0\1\0\1",  # a compression loop
        b"\x3f" * 300,
        (b"\x3f" + b"a" * 63) * 60 + b"\0\0\1\0\1",  # a huge name
        b"\3abc",
    ):
        for how in (send, send_stream):
            answer = DNSRecord.parse(how(pid, header + question))
            assert (answer.header.id, RCODE[answer.header.rcode]) == (7, "FORMERR")
    with inside(pid) as client:
        client.connect(SERVER)
        for packet in (b"", b"x", bytes(60000), os.urandom(4096), bytes(query("web").reply().pack())):
            client.send(packet)
        client.send(query("web").pack())
        answers = [client.recv(65535)]
        client.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            while True:
                answers.append(client.recv(65535))
        good = [DNSRecord.parse(answer) for answer in answers]
        assert address in [str(answer.a.rdata) for answer in good if answer.rr]
    assert ask(pid, "web") == ("NOERROR", [address])
    assert names_process(engine) == process


def test_connections_that_say_nothing_are_bounded(engine: EngineUnderTest, network: str, start: Start) -> None:
    _, other, address = start("web", network)
    _, pid, _ = start("asker", network)
    with contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(inside(pid, socket.SOCK_STREAM)) for _ in range(50)]
        for client in open_ones:
            client.connect(SERVER)
            with contextlib.suppress(OSError):
                client.send(b"\0")  # half a length, then nothing
        # The others are closed at once.
        closed = 0
        for client in open_ones[32:]:
            with contextlib.suppress(ConnectionError):
                assert client.recv(1) == b""
            closed += 1
        assert closed == 18
        assert ask(pid, "web") == ("NOERROR", [address])
        assert ask(other, "web", stream=True) == ("NOERROR", [address])
        # Nobody waits for a client that sends its query byte by byte, nor for one that does not read.
        assert open_ones[0].recv(1) == b""


def test_one_container_that_asks_without_end_does_not_starve_another(
    engine: EngineUnderTest, network: str, start: Start
) -> None:
    def serve(asked: DNSRecord, _stream: bool) -> bytes | None:
        if "void" in str(asked.q.qname):
            return None
        answer = asked.reply()
        answer.add_answer(RR(asked.q.qname, QTYPE.A, rdata=A("192.0.2.7"), ttl=60))
        return bytes(answer.pack())

    _, other, address = start("web", network, Dns=[UPSTREAM])
    _, pid, _ = start("asker", network, Dns=[UPSTREAM])
    with upstream(serve), inside(pid) as client:
        client.connect(SERVER)
        client.setblocking(False)
        local, outside = query("web").pack(), query("void.example").pack()
        refused = 0
        for number in range(20_000):
            with contextlib.suppress(OSError):
                client.send(outside if number % 10 == 0 else local)
            if number % 2000 == 0:
                assert ask(other, "web") == ("NOERROR", [address])
                assert ask(other, "host.example") == ("NOERROR", ["192.0.2.7"])
            with contextlib.suppress(OSError):
                refused += DNSRecord.parse(client.recv(512)).header.rcode == RCODE.REFUSED
        # More than a hundred of its queries under way at once are too many.
        client.settimeout(20)
        deadline = time.monotonic() + 20
        while not refused:
            assert time.monotonic() < deadline
            client.send(outside)
            refused += DNSRecord.parse(client.recv(512)).header.rcode == RCODE.REFUSED
    assert engine.api("GET", "/_ping")[0] == 200


def test_a_container_that_takes_its_rules_away_harms_itself_alone(
    engine: EngineUnderTest, network: str, start: Start, busybox: str
) -> None:
    _, other, address = start("web", network)
    _, pid, _ = start("asker", network, CapAdd=["NET_ADMIN"])
    subprocess.run(["nsenter", "-t", str(pid), "-n", "nft", "flush", "ruleset"], check=True)
    with inside(pid) as client:
        client.connect(SERVER)
        client.send(query("web").pack())
        with pytest.raises(ConnectionRefusedError):
            client.recv(1000)
    assert ask(other, "web") == ("NOERROR", [address])
    engine.capsa("restart", "-t", "0", "asker")
    assert ask(inspect(engine, "asker")["State"]["Pid"], "web") == ("NOERROR", [address])


def test_no_container_no_process(engine: EngineUnderTest, network: str, start: Start) -> None:
    start("web", network)
    start("plain", "bridge")
    process = names_process(engine)
    assert process
    engine.capsa("rm", "-f", "web")
    deadline = time.monotonic() + 30
    while names_process(engine):
        assert time.monotonic() < deadline
        time.sleep(0.1)
