"""What the command line makes of an engine's answers, whole or broken, and of streams."""

from __future__ import annotations

import json
import os
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsa.cli import streams
from capsa.cli.client import ApiError, Engine, query, quote
from capsa.cli.context import Context
from capsa.cli.main import status
from capsa.cli.progress import show
from capsa.cli.terminal import detach_keys
from capsa.errors import CapsaError, InvalidArgument, Unavailable


@pytest.fixture
def server(tmp_path):
    """Answers each connection with the bytes given, in order; `requests` holds what was asked."""
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    requests: list[bytes] = []

    def serve(*answers):
        def run():
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    for one in answer if isinstance(answer, list) else [answer]:
                        data = b""
                        while b"\r\n\r\n" not in data and (piece := connection.recv(65536)):
                            data += piece
                        requests.append(data)
                        connection.sendall(one)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return Engine(Context(f"unix://{path}"))

    serve.requests = requests
    yield serve
    listener.close()


def answer(body: bytes, status="200 OK", extra="") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


def test_an_answer_of_known_length_and_the_next_on_the_same_connection(server):
    engine = server([answer(b'{"a": 1}'), answer(b"[]")])
    assert engine.call("GET", "/one", {"x": True, "no": None, "f": {"a": ["b"]}, "l": ["1", "2"]}) == {"a": 1}
    assert engine.call("POST", "/two", json_body={"k": "ü"}) == []
    assert server.requests[0].startswith(b"GET /one?x=1&f=%7B%22a%22%3A%20%5B%22b%22%5D%7D&l=1&l=2 HTTP/1.1\r\n")
    assert b"Content-Type: application/json\r\n" in server.requests[1]


def test_a_connection_that_was_closed_meanwhile_is_made_anew(server):
    engine = server(answer(b"1"), answer(b"2"))
    assert engine.call("GET", "/") == 1
    assert engine.call("GET", "/") == 2


def test_chunks_and_lines(server):
    body = b'5\r\n{"a":\r\n4;x=y\r\n1}\n{\r\n6\r\n"b":2}\r\n0\r\nTrailer: x\r\n\r\n'
    engine = server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    assert [json.loads(line) for line in engine.request("GET", "/").lines()] == [{"a": 1}, {"b": 2}]


def test_informational_answers_are_passed_over(server):
    assert server(b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"7")).call("POST", "/") == 7


def test_refusals_carry_the_engines_words_and_code(server):
    engine = server(answer(b'{"message": "No such container: x"}', "404 Not Found"))
    with pytest.raises(ApiError, match=r"^No such container: x$") as raised:
        engine.call("GET", "/containers/x/json")
    assert raised.value.code == 404


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 200_000,
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: lots\r\n\r\n",
        answer(b"no JSON"),
    ],
)
def test_answers_that_break_off_or_make_no_sense_are_a_sentence(server, data):
    with pytest.raises(CapsaError) as raised:
        server(data).call("GET", "/")
    assert "\n" not in str(raised.value)


def test_an_error_in_a_stream_of_progress_is_raised(server):
    lines = b'{"status": "Pulling", "id": "x"}\n{"errorDetail": {"message": "denied"}, "error": "denied"}\n'
    with open(os.devnull, "w") as output, pytest.raises(CapsaError, match=r"^denied$"):
        show(server(answer(lines)).request("POST", "/"), output)


def test_addresses():
    for host in ("nonsense", "ssh://x", "fd://"):
        with pytest.raises(InvalidArgument):
            Engine(Context(host))
    with pytest.raises(Unavailable, match="is it running"):
        Engine(Context("unix:///nowhere/at/all")).call("GET", "/")


@given(st.text())
def test_quoting_is_undone_by_unquoting(text):
    from urllib.parse import unquote

    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert unquote(quote(text)) == text


def test_queries():
    assert query({"a": None, "b": False, "c": {}}) == ""
    assert query({"t": "0", "n": 0}) == "?t=0&n=0"


frames = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(min_size=1, max_size=300)), max_size=8)


@given(frames, st.integers(1, 50))
def test_frames_are_taken_apart_wherever_they_are_cut(pieces, cut):
    data = b"".join(bytes([channel, 0, 0, 0]) + len(text).to_bytes(4, "big") + text for channel, text in pieces)
    frames = streams.Demultiplexer()
    out = {1: b"", 2: b""}
    for begin in range(0, len(data), cut):
        for channel, text in frames.feed(data[begin : begin + cut]):
            out[channel] += text
    assert out == {number: b"".join(text for channel, text in pieces if channel == number) for number in (1, 2)}


def test_a_stream_without_frames_is_refused():
    with pytest.raises(CapsaError, match="not one of frames"):
        list(streams.Demultiplexer().feed(b"hello, world"))


def pumped(typed, *, keys=None, terminal=True):
    """What a container gets of ``typed``, and whether the user stayed."""
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    os.write(write, typed)
    os.close(write)
    saved = os.dup(0)
    os.dup2(read, 0)
    received = []

    def container():
        while data := theirs.recv(65536):
            received.append(data)
        theirs.close()

    thread = threading.Thread(target=container)
    thread.start()
    try:
        with open(os.devnull, "wb") as null:
            stayed = streams.pump(
                ours, b"", stdin=True, terminal=terminal, detach_keys=keys, outputs=(null.fileno(), null.fileno())
            )
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(read)
        thread.join()
    return b"".join(received), stayed


def test_the_end_of_input_closes_the_containers():
    assert pumped(b"some text") == (b"some text", True)


def test_detach_keys_end_it_and_what_only_begins_like_them_goes_through():
    keys = detach_keys("ctrl-p,ctrl-q")
    assert keys == b"\x10\x11"
    assert pumped(b"ab\x10\x11cd", keys=keys) == (b"ab", False)
    assert pumped(b"ab\x10c\x10\x10\x11", keys=keys) == (b"ab\x10c\x10\x10\x11", True)
    assert pumped(b"ab\x10c\x10\x10\x11\x10\x11d", keys=keys) == (b"ab\x10c\x10\x10\x11", False)
    assert pumped(b"ab\x10\x11cd") == (b"ab\x10\x11cd", True)
    assert detach_keys("a,ctrl-@,ctrl-_") == b"a\x00\x1f"
    for text in ("ctrl-", "ab", "ctrl-1", "a,,b"):
        with pytest.raises(InvalidArgument):
            detach_keys(text)


def test_a_file_that_is_no_archive_name_fails_before_anything_is_sent(capsys, tmp_path):
    assert status(["load", "-i", str(tmp_path)]) == 1
    assert "is a directory" in capsys.readouterr().err
    assert status(["load", "-i", str(tmp_path / "x")]) == 1
    assert "does not exist" in capsys.readouterr().err
