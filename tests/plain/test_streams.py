"""Streams of a process: output reaches log and clients whole, input reaches the process, slow clients slow it down."""

from __future__ import annotations

import os
import select
import socket
import struct

import pytest

from capsa.platform.log import LogWriter
from capsa.platform.loop import Loop
from capsa.platform.protocol import Attach, Log
from capsa.platform.streams import BACKLOG, Streams


@pytest.fixture
def loop():
    reader, _writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    return Loop(select.epoll(), reader, lambda _pid, _status: None)


class Rig:
    """A process's side of its pipes, held by the test."""

    def __init__(self, loop, **options):
        self.loop = loop
        self.stdin, stdin = os.pipe2(os.O_CLOEXEC)
        stdout, self.stdout = os.pipe2(os.O_CLOEXEC)
        stderr, self.stderr = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.stdin, False)
        self.streams = Streams(loop, stdin=stdin, stdout=stdout, stderr=stderr, **options)

    def attach(self, **wanted):
        ours, theirs = socket.socketpair()
        self.streams.attach(theirs, Attach(**wanted))
        ours.setblocking(False)
        return ours

    def turn(self, times=20):
        for _ in range(times):
            self.loop.turn(0)


def read_all(end):
    data = b""
    while True:
        try:
            piece = end.recv(1 << 20)
        except BlockingIOError:
            return data
        if not piece:
            return data
        data += piece


def frames(data):
    found = []
    while data:
        tag, length = struct.unpack(">BxxxL", data[:8])
        found.append((tag, data[8 : 8 + length]))
        data = data[8 + length :]
    return found


def test_output_goes_to_the_log_and_to_each_client_that_wants_it(loop, tmp_path):
    rig = Rig(loop, log=LogWriter(Log(str(tmp_path / "log"))))
    both, errors = rig.attach(stdout=True, stderr=True), rig.attach(stderr=True)
    os.write(rig.stdout, b"out\n")
    rig.turn()
    os.write(rig.stderr, b"err\n")
    rig.turn()
    assert frames(read_all(both)) == [(1, b"out\n"), (2, b"err\n")]
    assert frames(read_all(errors)) == [(2, b"err\n")]
    assert (tmp_path / "log").read_text().count("\n") == 2


def test_input_reaches_the_process_and_its_end_does_too(loop):
    rig = Rig(loop, close_stdin=True)
    client = rig.attach(stdin=True)
    client.send(b"hello")
    rig.turn()
    assert os.read(rig.stdin, 100) == b"hello"
    client.shutdown(socket.SHUT_WR)
    rig.turn()
    assert os.read(rig.stdin, 100) == b""


def test_input_stays_open_for_the_next_client_unless_told_otherwise(loop):
    rig = Rig(loop, close_stdin=False)
    first = rig.attach(stdin=True)
    first.close()
    rig.turn()
    with pytest.raises(BlockingIOError):
        os.read(rig.stdin, 100)
    rig.attach(stdin=True).send(b"again")
    rig.turn()
    assert os.read(rig.stdin, 100) == b"again"


def test_input_that_was_written_before_its_pipe_was_said_to_be_ready_does_not_end_it(loop):
    rig = Rig(loop)
    client = rig.attach(stdin=True)
    client.send(b"x" * 70_000)  # more than the pipe holds: some of it waits
    rig.turn()
    client.send(b"y" * 100)
    got = os.read(rig.stdin, 1 << 20)
    rig.turn(1)  # the client is ready, and what it sent fills up what waited; the pipe was ready, too
    rig.turn()
    got += os.read(rig.stdin, 1 << 20)
    assert got == b"x" * 70_000 + b"y" * 100
    client.send(b"more")
    rig.turn()
    assert os.read(rig.stdin, 100) == b"more"


def test_input_for_a_process_that_closed_it_is_dropped(loop):
    rig = Rig(loop)
    client = rig.attach(stdin=True, stdout=True)
    os.close(rig.stdin)
    rig.turn()
    client.send(b"nobody reads this")
    rig.turn()
    os.write(rig.stdout, b"but I talk")
    rig.turn()
    assert frames(read_all(client)) == [(1, b"but I talk")]


def test_a_process_that_does_not_read_stops_its_client_not_our_memory(loop):
    rig = Rig(loop)
    client = rig.attach(stdin=True)
    sent = 0
    for _ in range(500):
        try:
            sent += client.send(b"x" * 65536)
        except BlockingIOError:
            rig.turn(2)
    assert sent < 3_000_000
    got = 0
    for _ in range(2000):
        rig.turn(2)
        try:
            got += len(os.read(rig.stdin, 1 << 20))
        except BlockingIOError:
            break
    assert got == sent


def test_a_client_that_does_not_read_stops_the_process_and_loses_nothing(loop):
    rig = Rig(loop)
    client = rig.attach(stdout=True)
    os.set_blocking(rig.stdout, False)
    written = 0
    for _ in range(5000):
        try:
            written += os.write(rig.stdout, b"y" * 4096)
        except BlockingIOError:
            rig.turn(2)
    assert written < 4 * BACKLOG
    got = b""
    for _ in range(200):
        got += read_all(client)
        rig.turn(5)
    assert sum(len(data) for _tag, data in frames(got)) == written


def test_what_is_handed_in_comes_after_what_was_written_before(loop):
    rig = Rig(loop, raw=True, fed=True)
    client = rig.attach(stdout=True)
    for number in range(10):
        os.write(rig.stdout, b"written %d\n" % number)
        rig.streams.emit(1, b"handed in %d\n" % number)
    rig.turn()
    assert read_all(client) == b"".join(b"written %d\nhanded in %d\n" % (number, number) for number in range(10))


def test_who_does_not_read_is_let_go_of_only_if_what_is_handed_in_is_too_much(loop):
    rig = Rig(loop, raw=True, fed=True)
    slow = rig.attach(stdout=True)
    for _ in range(2 * BACKLOG // 4096):
        if select.select([], [rig.stdout], [], 0)[1]:
            os.write(rig.stdout, b"x" * 4096)
        rig.turn(1)
    assert not select.select([], [rig.stdout], [], 0)[1]  # held back
    for _ in range(1000):
        rig.streams.emit(1, b"line\n")
    assert not rig.streams.idle
    data = b""
    for _ in range(100):
        data += read_all(slow)
        rig.turn()
    assert data.count(b"line\n") == 1000
    while not rig.streams.idle:
        rig.streams.emit(1, b"x" * 100_000)
    rig.turn()
    assert not rig.streams.busy


def test_a_client_that_leaves_does_not_disturb_the_others(loop):
    rig = Rig(loop)
    stays, leaves = rig.attach(stdout=True), rig.attach(stdout=True)
    leaves.close()
    for _ in range(3):
        os.write(rig.stdout, b"line\n")
        rig.turn()
    assert b"".join(data for _tag, data in frames(read_all(stays))) == b"line\n" * 3


def test_clients_get_everything_before_they_are_closed(loop):
    rig = Rig(loop)
    client = rig.attach(stdout=True)
    os.write(rig.stdout, b"last words")
    for fd in (rig.stdout, rig.stderr):
        os.close(fd)
    rig.streams.drain()
    rig.streams.close()
    rig.turn()
    assert frames(client.recv(100)) == [(1, b"last words")]
    assert client.recv(100) == b""


def test_a_client_that_comes_after_the_end_is_closed_at_once(loop):
    rig = Rig(loop)
    rig.streams.close()
    client = rig.attach(stdout=True)
    rig.turn()
    assert client.recv(100) == b""


def test_a_terminal_is_one_raw_stream_in_both_directions(loop):
    master, slave = os.openpty()
    streams = Streams(loop, console=master)
    ours, theirs = socket.socketpair()
    streams.attach(theirs, Attach(stdin=True, stdout=True))
    os.write(slave, b"prompt")
    loop.turn(0.1)
    assert ours.recv(100) == b"prompt"
    ours.send(b"echo\n")
    for _ in range(3):
        loop.turn(0.1)
    assert os.read(slave, 100) == b"echo\n"
    os.close(slave)
    for _ in range(3):
        loop.turn(0.1)
    assert not streams.open
