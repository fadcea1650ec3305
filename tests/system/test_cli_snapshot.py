"""The `capsa` command goes on from a snapshot, and does what it would do had Python started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures import bundle as b
from fixtures.engine import CAPSA
from fixtures.terminal import Terminal
from fixtures.wait import until

from capsa.start import snapshot

pytestmark = [*b.NEEDS, pytest.mark.skipif(os.uname().machine != "x86_64", reason="there are no snapshots")]
HOME = Path(sys.prefix) / "lib" / "capsa"
SCRIPT = (sys.executable, str(HOME / "capsa"))
"""As pip has it begin."""


@pytest.fixture
def capsa(engine, busybox):
    yield engine.capsa
    engine.remove_containers()


@contextmanager
def listening(engine, program: Sequence[str] = CAPSA, **more: str) -> Iterator[int]:
    """A process that follows the engine's events."""
    environment = {name: word for name, word in engine.environment().items() if not name.startswith("PYTHON")}
    process = subprocess.Popen([*program, "events"], env=environment | more, stdout=subprocess.PIPE)
    try:
        # By then it has found out how it has to begin.
        until(lambda: "socket:" in " ".join(_descriptors(process.pid)))
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def _descriptors(pid: int) -> list[str]:
    return [os.readlink(each.path) for each in os.scandir(f"/proc/{pid}/fd") if os.path.islink(each.path)]


def goes_on(pid: int) -> bool:
    return str(HOME / "snapshot") in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("more", [{}, {"LC_ALL": "de_DE.utf8"}, {"PYTHONUNBUFFERED": "1"}, {"LANG": "POSIX"}])
def test_it_goes_on_from_the_snapshot(engine, more: dict[str, str]) -> None:
    with listening(engine, **more) as pid:
        assert goes_on(pid) and Path(f"/proc/{pid}/comm").read_text() == "capsa\n"


@pytest.mark.parametrize(
    "more",
    [
        {"PYTHONPATH": "/none"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "de_DE.ISO-8859-1"},
        {"LD_LIBRARY_PATH": "/none"},
    ],
)
def test_python_starts_for_whom_it_makes_a_difference(engine, more: dict[str, str]) -> None:
    with listening(engine, **more) as pid:
        assert not goes_on(pid)
        assert Path(f"/proc/{pid}/personality").read_text() == "00000000\n"


def test_its_snapshot_is_one_that_fits() -> None:
    told = subprocess.run(["processor"], executable=CAPSA[0], stdout=subprocess.PIPE, check=True)
    assert snapshot.fits(HOME / "snapshot", told.stdout)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "UTC0", "XYZ-3:30", None])
def test_times_are_the_callers(engine, capsa, zone: str | None) -> None:
    capsa("create", "--name", "box", "busybox", "true")
    environment = {name: word for name, word in engine.environment().items() if name != "TZ"}
    environment |= {} if zone is None else {"TZ": zone}
    told = [
        subprocess.run([*program, "ps", "-a", "--format", "{{.CreatedAt}}"], env=environment, stdout=subprocess.PIPE)
        for program in (CAPSA, SCRIPT)
    ]
    assert told[0].stdout == told[1].stdout and told[0].returncode == 0
    assert zone != "XYZ-3:30" or b" +0330 XYZ" in told[0].stdout


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "xx_YY.UTF-8"])
@pytest.mark.parametrize("name", [b"\xc3\xbc", b"\xff", b"\xed\xb2\x80"])
def test_words_that_are_no_characters(engine, name: bytes, locale: str) -> None:
    environment = engine.environment() | {"LC_ALL": locale}
    told = [
        subprocess.run([*program, "inspect", name], env=environment, capture_output=True) for program in (CAPSA, SCRIPT)
    ]
    assert len({(each.returncode, each.stdout, each.stderr) for each in told}) == 1
    assert told[0].returncode == 1 and told[0].stderr.startswith(b"capsa: ")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "xx_YY.UTF-8", "en_US.UTF-8"])
def test_output_that_is_no_characters(engine, locale: str) -> None:
    """A locale that is not installed is none, whatever its name says."""
    environment = engine.environment() | {"LC_ALL": locale}
    words = ["version", "--format", b"\xff{{.Client.Version}}"]
    told = [subprocess.run([*program, *words], env=environment, capture_output=True) for program in (CAPSA, SCRIPT)]
    assert len({(each.returncode, each.stdout) for each in told}) == 1
    assert told[0].stdout.startswith(b"\xff") and not told[0].stderr


@pytest.mark.parametrize("program", [CAPSA, SCRIPT])
def test_standard_input_that_is_a_directory(program: tuple[str, ...]) -> None:
    done = subprocess.run(["sh", "-c", '"$@" </', "sh", *program, "--version"], capture_output=True, text=True)
    assert done.returncode == 1 and "<stdin> is a directory" in done.stderr


def test_whoever_wants_no_random_addresses_has_python_start(engine) -> None:
    """A second execution is known by its name, not by what it does without."""
    with listening(engine, program=("setarch", "-R", *CAPSA)) as pid:
        assert not goes_on(pid)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(engine, closed: str) -> None:
    told = [
        subprocess.run(
            ["sh", "-c", f'"$@" {closed}', "sh", *program, "version"], env=engine.environment(), capture_output=True
        )
        for program in (CAPSA, SCRIPT)
    ]
    assert len({(each.returncode, each.stdout, each.stderr) for each in told}) == 1 and told[0].returncode == 0


def test_output_on_a_terminal_comes_line_by_line(engine, capsa) -> None:
    screen = Terminal([*CAPSA, "events", "--filter", "type=container"], engine.environment())
    until(lambda: "socket:" in " ".join(_descriptors(screen.pid)))
    capsa("create", "--name", "box", "busybox", "true")
    screen.expect("container create")
    screen.kill()
