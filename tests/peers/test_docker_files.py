"""The docker client's ``cp``, ``diff`` and ``commit`` with capsa."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures import copying
from fixtures.copying import Tree
from fixtures.engine import EngineUnderTest
from fixtures.files import Create, Files


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("copies")


@pytest.fixture(scope="module")
def box(engine: EngineUnderTest, busybox: str, docker_client: str, base: Path) -> Iterator[Files]:
    """A container with a target for each case."""
    found = Files.create(engine)
    copying.prepare(found, base)
    yield found
    found.remove()


@copying.cases(3)
def test_files_come_out_by_the_rules(
    engine: EngineUnderTest, box: Files, base: Path, options: str, source: str, target: str, expected: Tree | str
) -> None:
    copying.out_of(engine.docker, box, base, (options, source, target, expected))


@copying.cases(3, 1)
def test_files_go_in_by_the_rules(
    engine: EngineUnderTest, box: Files, base: Path, options: str, source: str, target: str, expected: Tree | str
) -> None:
    copying.into(engine.docker, box, base, (options, source, target, expected))


def test_diff_and_commit(engine: EngineUnderTest, files: Create, docker_client: str) -> None:
    container = files()
    container.run("echo made >/made; rm /bin/vi")
    assert engine.docker("diff", container.id).stdout.splitlines() == ["C /bin", "D /bin/vi", "A /made"]
    change = 'CMD ["cat", "/made"]'
    made = engine.docker("commit", "-a", "me", "-m", "why", "-c", change, container.id, "mine:2").stdout.strip()
    assert engine.docker("image", "inspect", "-f", "{{.Id}} {{.Author}}", "mine:2").stdout.split() == [made, "me"]
    assert engine.docker("run", "--rm", "mine:2").stdout == "made\n"
