"""Names, ids, times, filters, events: the small words of the API."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import cast

import pytest

from capsa.api.docker import relay, router, versions
from capsa.api.docker.errors import explain
from capsa.api.docker.filters import Filters
from capsa.engine import names, patterns, seccomp, times
from capsa.engine.container import Container
from capsa.engine.events import BACKLOG, Events
from capsa.engine.spec import DEFAULT_CAPABILITIES
from capsa.errors import CapsaError, InvalidArgument, LaunchFailed


def test_ids_are_64_digits_and_no_numbers() -> None:
    for _ in range(50):
        identity = names.new_id()
        assert len(identity) == 64 and set(identity) <= set("0123456789abcdef")
        assert not identity[:12].isdecimal()


def test_generated_names_are_valid_and_free() -> None:
    for _ in range(50):
        assert names.check_container(names.generate(set()))

    class Everything:
        def __contains__(self, name: object) -> bool:
            return str(name).count("_") < 2

    assert names.generate(Everything()).count("_") == 2


def test_word_lists_repeat_nothing() -> None:
    for words in (names.ADJECTIVES, names.NOUNS):
        assert len(set(words)) == len(words)


@pytest.mark.parametrize("name", ["", "a", "-ab", "a b", "a/b", "..", "ü1"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid container name"):
        names.check_container(name)


@pytest.mark.parametrize("name", ["../x", "a", "x/y", "", "a" * 256, ".hidden"])
def test_volume_names_cannot_be_paths(name: str) -> None:
    with pytest.raises(InvalidArgument):
        names.check_volume(name)


def test_times_are_written_as_go_does() -> None:
    assert times.rfc3339(0) == times.NEVER
    assert times.rfc3339(1_700_000_000 * 10**9) == "2023-11-14T22:13:20Z"
    assert times.rfc3339(1_700_000_000 * 10**9 + 120_000_000) == "2023-11-14T22:13:20.12Z"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000", 1_700_000_000 * 10**9),
        ("1700000000.5", 1_700_000_000_500_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * 10**9),
        ("2023-11-14T23:13:20.000000001+01:00", 1_700_000_000 * 10**9 + 1),
        ("2023-11-14", 1_699_920_000 * 10**9),
    ],
)
def test_times_are_read_in_all_of_dockers_forms(text: str, expected: int) -> None:
    assert times.parse(text) == expected


def test_a_duration_is_a_time_ago() -> None:
    assert 89 < (time.time_ns() - times.parse("1m30s")) / 10**9 < 95


@pytest.mark.parametrize("text", ["yesterday", "", "10", "-5m"])
def test_bad_durations_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        times.duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"), (3600, "About an hour"),
     (7200, "2 hours"), (86400 * 3, "3 days"), (86400 * 21, "3 weeks"), (86400 * 90, "3 months")],
)  # fmt: skip
def test_ages_are_told_as_docker_does(seconds: int, text: str) -> None:
    assert times.ago(10**18, 10**18 + seconds * 10**9) == text


def test_filters_come_in_two_forms() -> None:
    for text in ('{"label":["a","b=c"],"name":["x"]}', '{"label":{"a":true,"b=c":true,"d":false},"name":{"x":true}}'):
        filters = Filters.parse(text, ("label", "name"))
        assert filters.labels({"a": "1", "b": "c"})
        assert not filters.labels({"a": "1", "b": "d"})
        assert filters.match("name", "box")
        assert not filters.match("name", "bo")


@pytest.mark.parametrize("text", ["[", "[]", '{"label":1}', '{"bogus":["x"]}', '{"label":[1]}'])
def test_malformed_and_unknown_filters_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid filter"):
        Filters.parse(text, ("label",))


def test_a_pattern_that_is_none_is_taken_literally() -> None:
    assert Filters({"name": ["a["]}).match("name", "xa[y")


@pytest.mark.parametrize(
    ("path", "version", "rest"),
    [("/v1.41/info", (1, 41), "/info"), ("/info", versions.NEWEST, "/info"), ("/v1.24/a/v1.9/b", (1, 24), "/a/v1.9/b")],
)
def test_the_path_names_the_version(path: str, version: tuple[int, int], rest: str) -> None:
    assert versions.split(path) == (version, rest)


def test_versions_out_of_range_are_refused_in_dockers_words() -> None:
    with pytest.raises(InvalidArgument, match=r"client version 1\.99 is too new\. Maximum supported API version is"):
        versions.split("/v1.99/info")
    with pytest.raises(
        InvalidArgument, match=r"client version 1\.12 is too old\. Minimum supported API version is 1\.24"
    ):
        versions.split("/v1.12/info")


async def _nothing(call: object) -> None: ...


async def _other(call: object) -> None: ...


def test_names_with_slashes_find_their_image() -> None:
    found = router.Router()
    found.add("GET", "/images/{}/json", _nothing)  # type: ignore[arg-type]
    found.add("DELETE", "/images/{}", _nothing)  # type: ignore[arg-type]
    found.add("GET", "/images/json", _other)  # type: ignore[arg-type]
    found.add("POST", "/containers/{}/start", _nothing)  # type: ignore[arg-type]
    assert found.find("GET", "/images/json") == (_other, "")
    assert found.find("GET", "/images/a/b/c:1/json") == (_nothing, "a/b/c:1")
    assert found.find("DELETE", "/images/a/b") == (_nothing, "a/b")
    assert found.find("HEAD", "/images/json")[0] is None  # as Docker has it
    assert found.find("POST", "/containers/x/start") == (_nothing, "x")
    assert found.find("POST", "/containers/x/y/start")[0] is None
    assert found.find("GET", "/")[0] is None


@pytest.mark.parametrize(
    ("text", "keys"),
    [("", b"\x10\x11"), ("ctrl-a", b"\x01"), ("ctrl-@,q", b"\x00q"), ("ctrl-[,ctrl-]", b"\x1b\x1d")],
)
def test_detach_keys_are_read(text: str, keys: bytes) -> None:
    assert relay.detach_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-1", "ab", "ctrl-a,,b", "ü"])
def test_bad_detach_keys_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid detach keys"):
        relay.detach_keys(text)


@pytest.mark.parametrize(
    ("pieces", "passed", "detached"),
    [
        ([b"hello"], b"hello", False),
        ([b"a\x10\x11b"], b"a", True),
        ([b"a\x10", b"\x11"], b"a", True),
        ([b"a\x10", b"b"], b"a\x10b", False),
        ([b"\x10\x10", b"\x11"], b"\x10\x10\x11", False),
        ([b"\x10\x10\x11\x10\x11"], b"\x10\x10\x11", True),
        ([b"\x11\x10"], b"\x11", False),
    ],
)
def test_detach_keys_are_found_across_reads_and_nothing_else_is_lost(
    pieces: list[bytes], passed: bytes, detached: bool
) -> None:
    finder = relay.DetachKeys(b"\x10\x11")
    out, ended = b"", False
    for piece in pieces:
        more, ended = finder.take(piece)
        out += more
        if ended:
            break
    assert (out, ended) == (passed, detached)


def test_a_failed_start_says_what_clients_look_for() -> None:
    assert explain(LaunchFailed("cannot execute 'x'", 127)) == (400, "cannot execute 'x': executable file not found")
    assert explain(LaunchFailed("x: permission denied", 126)) == (400, "x: permission denied")
    assert explain(LaunchFailed("no cgroup", 128)) == (500, "no cgroup")
    assert explain(CapsaError("x")) == (500, "x")


async def test_a_listener_that_lags_is_let_go() -> None:
    events = Events()
    listener = events.subscribe()
    for number in range(BACKLOG + 10):
        events.emit("container", "x", str(number), {})
    taken = 0
    while happened := await listener.get(100):
        taken += len(happened)
    assert taken == BACKLOG


def test_events_are_small_whatever_labels_there_are() -> None:
    def told(labels: dict[str, str]) -> dict[str, str]:
        events = Events()
        document = SimpleNamespace(config=SimpleNamespace(labels=labels), image_name="i")
        events.container("start", cast(Container, SimpleNamespace(document=document, name="n", id="1")))
        return events.since(0)[0].attributes

    assert told({"a": "1", "b": "2"}) == {"a": "1", "b": "2", "image": "i", "name": "n"}
    assert told({"a": "1", "b": "x" * 10**6}) == {"a": "1", "image": "i", "name": "n"}
    assert len(told({f"label{number}": "x" for number in range(10**5)})) < 5000


def test_dockers_seccomp_profiles_are_reduced_to_this_machine() -> None:
    text = """{"defaultAction": "SCMP_ACT_ERRNO", "archMap": [{"architecture": "SCMP_ARCH_X86_64"},
      {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []}], "syscalls": [
      {"names": ["read"], "action": "SCMP_ACT_ALLOW", "comment": "", "includes": {}, "excludes": {}},
      {"name": "mount", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
      {"names": ["chroot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_CHROOT"]}},
      {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
      {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_CHOWN"]}}]}"""
    found = seccomp.parse(text, DEFAULT_CAPABILITIES)
    assert [rule.names for rule in found.syscalls] == [["read"], ["chroot"], ["ptrace"]]
    assert len(found.architectures) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"syscalls": 1}', "{}", '{"defaultAction": "x", "archMap": [1]}'])
def test_malformed_seccomp_profiles_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="seccomp profile"):
        seccomp.parse(text, ())


def test_patterns_are_gos_and_take_no_time_whatever_they_are() -> None:
    match = Filters({"name": ["^/?(a+)+$"]}).match
    begin = time.monotonic()
    assert match("name", "a" * 200) and not match("name", "a" * 200 + "!")
    assert time.monotonic() - begin < 1
    assert Filters({"name": ["^we.$"]}).match("name", "web") and not Filters({"name": ["^we.$"]}).match("name", "webs")
    for text in ("(?:(?:a{1000}){1000})", "(?:a{1001})", "(" * 250, "(?=a)", "a" * 1000):
        assert not Filters({"name": [text]}).match("name", "aaaa")
        with pytest.raises(InvalidArgument, match="regular expression"):
            patterns.compiled(text)
