"""The compiled modules of `capsa-runtime` in one file: used while they are those of the sources, and not missed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import capsa

_SHOW = """
import sys
sys.path.insert(0, sys.argv[1])
from capsa.runtime import together
together.use()
from capsa.runtime import record, verb
import capsa.platform.linux
print(type(record.__spec__.loader).__name__, type(verb.__spec__.loader).__name__, verb.PROGRAM, verb.__file__)
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources, with the file."""
    shutil.copytree(
        Path(capsa.__file__).parent, tmp_path / "capsa", ignore=shutil.ignore_patterns("__pycache__", "engine", "api")
    )
    make(tmp_path)
    return tmp_path


def make(copy: Path) -> None:
    """The file of the copy, anew."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-m", "capsa.runtime.together"], env=environment, check=True)


def shown(copy: Path) -> list[str]:
    command = [sys.executable, "-I", "-S", "-B", "-c", _SHOW, str(copy)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def stored(copy: Path) -> Path:
    (found,) = (copy / "capsa" / "runtime" / "__pycache__").glob("together.*.bin")
    return found


def test_modules_come_from_the_file(copy: Path) -> None:
    source = str(copy / "capsa" / "runtime" / "verb.py")
    assert shown(copy) == ["Finder", "Finder", "capsa-runtime", source]
    assert not list(stored(copy).parent.glob("together.*.[0-9]*"))


def test_what_was_changed_since_then_comes_from_its_source(copy: Path) -> None:
    source = copy / "capsa" / "runtime" / "verb.py"
    known = source.stat()
    source.write_text(source.read_text().replace('PROGRAM = "capsa-runtime"', 'PROGRAM = "other-runtime"'))
    assert source.stat().st_size == known.st_size
    assert shown(copy)[:3] == ["Finder", "SourceFileLoader", "other-runtime"]
    os.utime(source, ns=(known.st_atime_ns, known.st_mtime_ns))
    source.write_text(source.read_text() + "\n")
    os.utime(source, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert shown(copy)[:3] == ["Finder", "SourceFileLoader", "other-runtime"]


@pytest.mark.parametrize("content", [b"", b"\0\0\0\0\1\0\0\0x", None])
def test_a_file_that_is_not_there_or_of_another_python_is_left_alone(copy: Path, content: bytes | None) -> None:
    if content is None:
        stored(copy).unlink()
    else:
        stored(copy).write_bytes(content)
    assert shown(copy)[:3] == ["SourceFileLoader", "SourceFileLoader", "capsa-runtime"]


_LATER = """
import sys
sys.path.insert(0, sys.argv[1])
from capsa.runtime import together
together.use()
from capsa.runtime import verb
print("begun", flush=True)
sys.stdin.readline()
from capsa.runtime import record
import capsa.platform.linux.inroot
print(type(record.__spec__.loader).__name__, record.Record.__name__, capsa.platform.linux.inroot.make.__name__)
"""


@pytest.mark.parametrize("removed", [False, True])
def test_a_program_that_runs_outlives_an_upgrade(copy: Path, removed: bool) -> None:
    """What it imports only then stands elsewhere in the new file."""
    command = [sys.executable, "-I", "-S", "-B", "-c", _LATER, str(copy)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdin is not None and running.stdout is not None
        assert running.stdout.readline() == "begun\n"
        errors = copy / "capsa" / "errors.py"
        errors.write_text(errors.read_text() + "\nMORE = 'than before'\n")
        make(copy)
        if removed:
            stored(copy).unlink()
        told = running.communicate("\n")[0]
    assert (running.returncode, told.split()) == (0, ["Finder", "Record", "make"])
