"""Additional processes in the engine's memory: how long they are known, how many; and the frames of their output."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsa.api.docker.frames import STDERR, Unframe, frame
from capsa.engine import exec as execs
from capsa.engine.exec import ExecConfig, Execs
from capsa.errors import Conflict, NotFound


@pytest.fixture
def container() -> Any:
    return SimpleNamespace(id="c" * 64, execs={}, state=SimpleNamespace(status="running"))


@pytest.fixture
def known(container: Any) -> Execs:
    engine = SimpleNamespace(events=SimpleNamespace(container=lambda *arguments, **attributes: None))
    return Execs(engine)  # type: ignore[arg-type]


def create(known: Execs, container: Any, *, ended: bool = False) -> str:
    made = known.create(container, ExecConfig(cmd=["true"], env=["A=1"]))
    if ended:
        made.started = True
        made.end(0)
        assert made.config.env == []
    return made.id


def test_what_ended_long_ago_is_forgotten(known, container, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(execs.time, "monotonic", lambda: now[0])
    early, waiting = create(known, container, ended=True), create(known, container)
    now[0] += execs.KEPT - 1
    late = create(known, container, ended=True)
    assert known.find(early).exit_code == 0
    now[0] += 2
    create(known, container)
    with pytest.raises(NotFound, match="No such exec instance"):
        known.find(early)
    assert known.find(late) and known.find(waiting)
    assert early not in container.execs


def test_the_oldest_of_too_many_that_ended_are_forgotten(known, container):
    first = create(known, container, ended=True)
    for _ in range(execs.KEPT_ENDED - 1):
        last = create(known, container, ended=True)
    create(known, container)
    assert known.find(first)
    create(known, container, ended=True)
    create(known, container)
    with pytest.raises(NotFound):
        known.find(first)
    assert known.find(last)


def test_what_is_never_started_is_bounded(known, container):
    for _ in range(execs.MOST_WAITING):
        waiting = create(known, container)
    with pytest.raises(Conflict, match="never started"):
        create(known, container)
    known.find(waiting).started = True
    create(known, container)


def test_the_end_of_a_container_is_the_end_of_its_execs(known, container):
    running = known.find(create(known, container))
    running.started = running.running = True
    known.container_ended(container)
    assert running.exit_code == 137
    known.forget(container)
    with pytest.raises(NotFound):
        known.find(running.id)


@given(
    st.lists(st.tuples(st.sampled_from([1, STDERR]), st.binary(max_size=40)), max_size=10),
    st.lists(st.integers(min_value=1, max_value=30), min_size=1, max_size=10),
)
def test_headers_are_taken_out_however_the_stream_is_cut(frames, cuts):
    stream = b"".join(frame(data, number) for number, data in frames)
    unframe, found, turn = Unframe(), b"", 0
    while stream:
        size = cuts[turn % len(cuts)]
        found += unframe(stream[:size])
        stream = stream[size:]
        turn += 1
    assert found == b"".join(data for _, data in frames)
