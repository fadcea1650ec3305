"""Fifty containers on one Genode, and what they share."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import genode
from fixtures.engine import EngineUnderTest
from fixtures.genode import component, config
from fixtures.wait import until

MANY = 50
PADDING = 8 << 20  # bytes that make the program large
LASTING = config("+ log | string: up", "+ sleep | ms: 600000")


@pytest.fixture(scope="module")
def engine(need_root: None) -> Iterator[EngineUnderTest]:
    where = genode.binaries("dummy")
    under_test = EngineUnderTest.start("--platform", f"genode={where}")
    try:
        program = (where / "dummy").read_bytes() + b"\0" * PADDING
        for image, content in (("large", program), ("other", program + b"\0")):
            path = under_test.base / f"{image}.tar"
            with tarfile.open(path, "w") as archive:
                member = tarfile.TarInfo("bin/dummy")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
            changes = ("--change", 'CMD ["dummy"]', "--change", "LABEL org.genode.vfs=no")
            under_test.capsa("import", "--platform", genode.PLATFORM, *changes, str(path), image)
        yield under_test
    finally:
        under_test.close()


def start(engine: EngineUnderTest, image: str) -> str:
    """The id of a new container that runs."""
    body = {"Image": image, "Env": [LASTING], "HostConfig": {"NetworkMode": "none"}}
    status, made = engine.api("POST", "/containers/create", body)
    assert status == 201, made
    status, answer = engine.api("POST", f"/containers/{made['Id']}/start")
    assert status == 204, answer
    return str(made["Id"])


def program(pid: int) -> set[tuple[str, str]]:
    """Device and inode of the program that a component has mapped, by its name in the store."""
    lines = (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    return {(words[3], words[4]) for words in lines if len(words) > 5 and "/rom/" in words[5]}


def test_fifty_containers_run_at_once_and_share_their_program(engine: EngineUnderTest) -> None:
    ids = [start(engine, "large") for _number in range(MANY)]
    odd = start(engine, "other")
    listed = {each["Id"] for each in engine.api("GET", "/containers/json")[1]}
    assert {*ids, odd} <= listed
    for each in (*ids, odd):
        until(lambda each=each: engine.capsa("logs", each).stdout == "up\n")  # type: ignore[misc]

    (shared,) = {frozenset(program(component(each, engine))) for each in ids}
    assert len(shared) == 1
    assert program(component(odd, engine)).isdisjoint(shared)

    def used(container: str) -> int:
        """Bytes, as the sub-init reports them."""
        _, answer = engine.api("GET", f"/containers/{container}/stats?stream=0&one-shot=1")
        return int(answer["memory_stats"].get("usage", 0))

    figures = {until(lambda each=each: used(each)) for each in (*ids, odd)}  # type: ignore[misc]
    assert max(figures) < PADDING // 8, figures  # of the program, nothing is a container's own

    engine.api("POST", f"/containers/{ids[0]}/kill")
    until(lambda: engine.api("GET", f"/containers/{ids[0]}/json")[1]["State"]["Status"] == "exited")
    running = {each["Id"] for each in engine.api("GET", "/containers/json")[1]}
    assert running == {*ids[1:], odd}
