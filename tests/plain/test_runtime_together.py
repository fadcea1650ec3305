"""The compiled modules of `capsa-runtime` in one file: used while they are those of the sources, and not missed."""

from __future__ import annotations

import marshal
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import capsa
from capsa.runtime import assembly

_SHOW = """
import sys
sys.path.insert(0, sys.argv[1])
from capsa.runtime import together
together.use()
from capsa.runtime import record, verb
import capsa.platform.linux
print(type(record.__loader__).__name__, type(verb.__loader__).__name__, verb.PROGRAM, verb.__file__)
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
    subprocess.run([sys.executable, "-m", "capsa.runtime.assembly"], env=environment, check=True)


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


def test_the_file_of_an_earlier_version_is_left_alone(copy: Path) -> None:
    content = bytearray(stored(copy).read_bytes())
    content[4] -= 1
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
print(type(record.__loader__).__name__, record.Record.__name__, capsa.platform.linux.inroot.make.__name__)
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


_EACH = """
import os
import sys
sys.path += sys.argv[1:3]
from capsa.runtime import together
together.use()
for name in sorted(name for name in sys.meta_path[0]._table if ":" not in name):
    if os.fork() == 0:
        try:
            __import__(name)
        except BaseException as error:
            print(name, repr(error), flush=True)
        os._exit(0)
    os.wait()
print("done")
"""


def test_each_module_can_be_the_first_one(copy: Path) -> None:
    """What a module needs comes before it, also where modules need one another."""
    packages = str(Path(msgspec.__file__).parents[1])
    command = [sys.executable, "-I", "-S", "-B", "-c", _EACH, str(copy), packages]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout == "done\n"


def test_what_a_module_needs_is_what_it_imports_at_once() -> None:
    source = b"""
import a, b.c
from d import e as f
from . import g
from ..h.i import j
if TYPE_CHECKING:
    import k
else:
    import l
try:
    import m
except ImportError:
    import n
class O:
    import p
    def q(self):
        import r
"""
    wanted = ["a", "b.c", "d", "d.e", "x.y", "x.y.g", "x.h.i", "x.h.i.j", "l", "m", "n", "p"]
    assert sorted(assembly.needed(source, "x.y")) == sorted(wanted)


_MODULE = '''
"""A docstring."""
from __future__ import annotations

class Pair:
    """Another."""

    first: int
    second: list[str]

def grow(first: int, *rest: int, by: int = 2, **more: int) -> dict[str, int]:
    """A third."""
    assert first, "no asserts"
    total, names = first, [name for name in more]
    def inner(x: int) -> int:
        nonlocal total
        total += x * by
        return total
    for each in rest:
        inner(each)
    return {"total": total, "names": len(names), "told": fail()}

def fail() -> int:
    number = 0
    try:
        return 1 // number
    except ZeroDivisionError:
        import traceback
        return len(traceback.format_exc().splitlines())
'''


def test_code_without_names_and_lines_does_what_it_did() -> None:
    lighter, plain = {"__name__": "lighter"}, {"__name__": "plain"}
    code = assembly.compiled(_MODULE.encode(), "module.py")
    exec(code, lighter)
    exec(compile(_MODULE, "module.py", "exec", dont_inherit=True), plain)
    for module in (lighter, plain):
        assert module["grow"](1, 2, 3, by=4, a=5) == {"total": 21, "names": 1, "told": 3}  # type: ignore[operator]
    assert lighter["Pair"].__annotations__ == plain["Pair"].__annotations__  # type: ignore[attr-defined]
    assert lighter["grow"].__annotations__ == {} and lighter.get("__doc__") is None  # type: ignore[attr-defined]
    assert len(marshal.dumps(code)) < len(marshal.dumps(compile(_MODULE, "module.py", "exec", optimize=2)))
