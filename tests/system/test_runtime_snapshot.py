"""`capsa-runtime` goes on from a snapshot, and starts Python wherever that does not fit."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures import bundle as b
from fixtures.bundle import spec
from fixtures.runtime import COMMAND, RuntimeUnderTest, runtime
from fixtures.wait import until

from capsa.runtime import description
from capsa.runtime.snapshot import program
from capsa.start import snapshot

pytestmark = [*b.NEEDS, pytest.mark.skipif(os.uname().machine != "x86_64", reason="there are no snapshots")]
HOME = Path(sys.prefix) / "lib" / "capsa-runtime"
SNAPSHOT = HOME / "snapshot"
CHECKOUT = Path(__file__).parents[2]


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[RuntimeUnderTest]:
    with runtime(tmp_path) as made:
        yield made


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """One whose snapshot is ``tmp_path / "snapshot"``, a copy."""
    source = (HOME / "launcher.c").read_text()
    (tmp_path / "launcher.c").write_text(source.replace(f'"{SNAPSHOT}"', f'"{tmp_path / "snapshot"}"'))
    subprocess.run([CHECKOUT / ".ci" / "compile", tmp_path / "launcher.c", tmp_path / "launcher"], check=True)
    shutil.copy(SNAPSHOT, tmp_path / "snapshot")
    return tmp_path / "launcher"


@contextmanager
def running(oci: RuntimeUnderTest) -> Iterator[int]:
    """The process of ``run``, while its container does."""
    oci.write(spec("sleep 1000"))
    process = subprocess.Popen(oci.arguments("run", "box"), cwd=oci.bundle, stdin=subprocess.DEVNULL)
    try:
        until(lambda: oci.status() == "running")
        yield process.pid
    finally:
        oci("kill", "box", "KILL")
        assert process.wait(60) == 128 + signal.SIGKILL


def goes_on(pid: int, file: Path) -> list[str]:
    """Where it has mapped this snapshot, which is on a mount that has no name: it is known by its number."""
    mapped = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
    return [words[0] for words in mapped if words[4] == str(file.stat().st_ino)]


def processor() -> bytes:
    return subprocess.run(["processor"], executable=COMMAND[0], stdout=subprocess.PIPE, check=True).stdout


def test_a_call_goes_on_from_the_snapshot(oci: RuntimeUnderTest) -> None:
    with running(oci) as pid:
        assert goes_on(pid, SNAPSHOT) and "/libc.so" not in Path(f"/proc/{pid}/maps").read_text()
        assert Path(f"/proc/{pid}/comm").read_text() == "capsa-runtime\n"
        # What the container's processes could reach of it (CVE-2019-5736).
        for name in (
            "exe",
            *(f"map_files/{'-'.join(part.lstrip('0') for part in each.split('-'))}" for each in goes_on(pid, SNAPSHOT)),
        ):
            assert os.statvfs(f"/proc/{pid}/{name}").f_flag & os.ST_RDONLY, name


def _another(place: int) -> object:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[place] ^= 1
        path.write_bytes(content)

    return change


def _shorter(path: Path) -> None:
    os.truncate(path, path.stat().st_size - snapshot.PAGE)


def _file(path: Path) -> None:
    """Of a file it is of, the time."""
    _another(snapshot._HEADER.size)(path)  # type: ignore[operator]


def _in_the_way(path: Path) -> None:
    """Its first region is where the launcher is, which is seen only when others are mapped."""
    content = bytearray(path.read_bytes())
    files, regions = snapshot._HEADER.unpack_from(content)[2:4]
    last = snapshot._HEADER.size + files * snapshot._FILE.size + (regions - 1) * snapshot._REGION.size
    content[last : last + 8] = (0x20_0000).to_bytes(8, sys.byteorder)
    path.write_bytes(content)


CHANGES = {
    "none": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "mark": _another(7),
    "shorter": _shorter,
    "processor": _another(32),
    "file": _file,
    "in the way": _in_the_way,
}


@pytest.mark.parametrize("change", CHANGES)
def test_python_starts_where_the_snapshot_does_not_fit(oci: RuntimeUnderTest, launcher: Path, change: str) -> None:
    oci.command = (str(launcher),)
    with running(oci) as pid:
        assert goes_on(pid, launcher.parent / "snapshot")
    CHANGES[change](launcher.parent / "snapshot")  # type: ignore[operator]
    assert change == "in the way" or not snapshot.fits(launcher.parent / "snapshot", processor())
    with running(oci) as pid:
        assert "/libc.so" in Path(f"/proc/{pid}/maps").read_text()
    oci.write(spec("cat /proc/self/personality"))
    assert oci("run", "box").stdout == "00000000\n"


def test_a_snapshot_that_fits_is_left_alone(launcher: Path) -> None:
    before = SNAPSHOT.stat()
    assert snapshot.fits(SNAPSHOT, processor()) and not snapshot.make(program(Path(sys.prefix)))
    assert SNAPSHOT.stat().st_ino == before.st_ino
    assert not snapshot.fits(launcher.parent / "none", processor())


def test_a_snapshot_of_a_trial_is_made_anew(launcher: Path) -> None:
    """It stays if `make setup` is killed meanwhile: the launcher takes it, in twice the time."""
    copy = launcher.parent / "snapshot"
    assert snapshot.fits(copy, processor())
    content = bytearray(copy.read_bytes())
    content[snapshot._HEADER.size - 8] = 1
    copy.write_bytes(content)
    assert not snapshot.fits(copy, processor())
    assert subprocess.run([launcher, "--version"], stdout=subprocess.PIPE, check=True).stdout


def test_only_root_reads_it() -> None:
    assert SNAPSHOT.stat().st_mode & 0o777 == 0o600


def test_containers_have_random_addresses(oci: RuntimeUnderTest) -> None:
    """The launcher does without for a moment; whoever wants none at all gets none."""
    oci.write(spec("cat /proc/self/personality; grep -F '[stack]' /proc/self/maps"))
    told = [oci("run", "box").stdout for _ in range(3)]
    assert all(each.startswith("00000000\n") for each in told) and len(set(told)) > 1
    oci.command = ("setarch", "-R", *COMMAND)
    assert oci("run", "box").stdout.startswith("00040000\n")


@pytest.mark.parametrize("debug", [False, True])
def test_signals_that_the_caller_ignores_are_nothing_to_the_container(oci: RuntimeUnderTest, debug: bool) -> None:
    """With ``--debug`` Python starts."""
    oci.write(spec(["grep", "SigIgn", "/proc/self/status"]))  # busybox's shell ignores one itself
    words = ["--debug", "run", "box"] if debug else ["run", "box"]
    ignoring = "trap '' HUP INT TERM USR1 CHLD; exec \"$@\""
    done = subprocess.run(
        ["sh", "-c", ignoring, "sh", *oci.arguments(*words)], cwd=oci.bundle, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.split() == [b"SigIgn:", b"0000000000000000"]


def test_words_and_environment_are_the_callers(oci: RuntimeUnderTest) -> None:
    """Also those that are no UTF-8, many, and long."""
    done = oci("run", b"\xff", "x" * 100_000, check=False)  # type: ignore[arg-type]
    assert done.returncode == 1 and "run" in done.stderr
    environment = {
        **os.environ,
        "PYTHONPATH": str(oci.base),
        "PYTHONHOME": "/none",
        "LD_BIND_NOW": "",
        "X": "y" * 100_000,
    }
    environment |= {f"NAME{number}": "value" for number in range(2000)}
    oci.write(spec("echo ran"))
    assert oci("run", "box", env=environment).stdout == "ran\n"


def test_a_call_takes_no_more_memory_than_runc(oci: RuntimeUnderTest) -> None:
    example = description.example()
    example["process"] |= {"terminal": False, "args": ["true"]}
    oci.write(example)
    most = []
    for command in (COMMAND, ("runc",)):
        oci.command = command
        told = oci.base / "told"
        subprocess.run(
            ["time", "--format=%M", f"--output={told}", *oci.arguments("run", "box")], cwd=oci.bundle, check=True
        )
        most.append(int(re.findall(r"\d+", told.read_text())[-1]))
    assert most[0] <= most[1]
