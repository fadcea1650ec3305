"""`capsa-runtime` reads and writes specifications without msgspec as with it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import capsa
from capsa.errors import InvalidArgument
from capsa.oci import runtime
from capsa.runtime import assembly, plain

# Answers each line, a text of bytes, with what comes of it, and how often the real msgspec was asked.
_READER = """
import sys
sys.path += sys.argv[1:3]
from capsa.runtime import together
together.use()
from capsa.runtime import lean
lean.import_os()
lean.load(("capsa.oci.runtime",), plainly=True)
from capsa.errors import InvalidArgument
from capsa.oci import runtime
from capsa.runtime import plain
asked, judged = 0, plain._judged
def count(*arguments):
    global asked
    asked += 1
    return judged(*arguments)
plain._judged = count
for line in sys.stdin:
    try:
        spec = runtime.loads(eval(line), "x")
        # What is for other platforms nobody writes again.
        told = repr(spec), b"" if spec.windows or spec.solaris or spec.vm else runtime.dumps(spec)
    except InvalidArgument as error:
        told = (str(error),)
    print(ascii((told, asked)), flush=True)
    asked = 0
"""


class Reader:
    """A process that reads as ``capsa-runtime run`` does."""

    def __init__(self, source: Path) -> None:
        packages = str(Path(msgspec.__file__).parents[1])
        command = [sys.executable, "-I", "-S", "-c", _READER, str(source), packages]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def read(self, data: bytes) -> tuple[str, int]:
        """What came of it, which is the same once it was written and read again, and how often msgspec was asked."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(repr(data), file=self.process.stdin, flush=True)
        told, asked = eval(self.process.stdout.readline())
        assert not told[1:] or not told[1] or expected(told[1]) == told[0]
        return told[0], asked

    def close(self) -> None:
        """End it."""
        self.process.communicate()
        assert self.process.returncode == 0


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Of a copy of the sources, whose compiled file is of now."""
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "engine", "api")
    shutil.copytree(Path(capsa.__file__).parent, source / "capsa", ignore=ignored)
    subprocess.run([sys.executable, "-B", "-m", "capsa.runtime.assembly"], cwd=source, check=True)
    found = Reader(source)
    yield found
    found.close()


def expected(data: bytes) -> str:
    """What msgspec makes of it."""
    try:
        return repr(runtime.loads(data, "x"))
    except InvalidArgument as error:
        return str(error)


_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(["", "bind", "a\\ud8", 'q"\n'])
_WRONG = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(1 << 70), 1 << 70) | st.floats(width=32) | _TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXTS, inner, max_size=2),
    max_leaves=4,
)


def _right(kind: Any, odds: int) -> st.SearchStrategy[Any]:
    """Values of a type; one in so many is none, if ``odds`` is not 0."""
    inner, origin = typing.get_args(kind), typing.get_origin(kind)
    if origin in (UnionType, typing.Union):
        found = st.none() | _value(inner[0], odds)
    elif origin is typing.Literal:
        found = st.sampled_from(inner)
    elif origin is list:
        found = st.lists(_value(inner[0], odds), max_size=2)
    elif origin is dict:
        found = st.dictionaries(_TEXTS, _value(inner[1], odds), max_size=2)
    elif isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        found = _structure(kind, odds)
    else:
        found = {str: _TEXTS, int: st.integers(-(1 << 63), (1 << 63) - 1), bool: st.booleans()}.get(kind, st.none())
    return found


def _value(kind: Any, odds: int) -> st.SearchStrategy[Any]:
    right = st.deferred(lambda: _right(kind, odds))
    return st.integers(0, odds).flatmap(lambda number: _WRONG if number == 1 else right) if odds else right


def _structure(kind: Any, odds: int) -> st.SearchStrategy[dict[str, Any]]:
    fields = {each.encode_name: (_value(each.type, odds), each.required) for each in msgspec.structs.fields(kind)}
    required = {name: value for name, (value, needed) in fields.items() if needed}
    more = st.sets(st.sampled_from(sorted(fields.keys() - required.keys()) or [""]), max_size=4)
    return more.flatmap(
        lambda names: st.fixed_dictionaries(
            required | {name: fields[name][0] for name in sorted(names) if name},
            optional={"unknown": _WRONG if odds else _TEXTS},
        )
    )


_SETTINGS = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@_SETTINGS
@given(_structure(runtime.Spec, 0), st.booleans())
def test_what_is_right_is_read_and_written_alike(reader: Reader, value: dict[str, Any], escaped: bool) -> None:
    data = json.dumps(value, ensure_ascii=escaped).encode()
    assert reader.read(data)[0] == expected(data)


@_SETTINGS
@given(_structure(runtime.Spec, 12))
def test_what_is_wrong_somewhere_is_refused_alike(reader: Reader, value: dict[str, Any]) -> None:
    data = json.dumps(value).encode()
    assert reader.read(data)[0] == expected(data)


@_SETTINGS
@given(_structure(runtime.Spec, 0), st.integers(0), st.binary(max_size=2), st.integers(0, 2))
def test_what_is_no_json_any_more_is_refused_alike(
    reader: Reader, value: dict[str, Any], place: int, put: bytes, cut: int
) -> None:
    data = json.dumps(value, ensure_ascii=False).encode()
    place %= len(data) + 1
    data = data[:place] + put + data[place + cut :]
    assert reader.read(data)[0] == expected(data)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"ociVersion": 1}',
        b'{"ociVersion": "1"} x',
        b'\xef\xbb\xbf{"ociVersion": "1"}',
        b'{"ociVersion": "1", "ociVersion": 2}',
        b'{"ociVersion": 2, "ociVersion": "1"}',
        b'{"ociVersion": "1", "process": {"oomScoreAdj": 1.0}}',
        b'{"ociVersion": "1", "process": {"oomScoreAdj": -0}}',
        b'{"ociVersion": "1", "process": {"oomScoreAdj": true}}',
        b'{"ociVersion": "1", "process": {"oomScoreAdj": 123456789012345678901234567890}}',
        b'{"ociVersion": "1", "hostname": "\\ud800"}',
        b'{"ociVersion": "1", "hostname": "\\ud83d\\ude00"}',
        b'{"ociVersion": "1", "hostname": "\xff"}',
        b'{"ociVersion": "1", "hostname": "\x01"}',
        b'{"ociVersion": "1", "other": NaN}',
        b'{"ociVersion": "1", "other": 1.5, "windows": {"a": [1.5, null]}}',
        b'{"ociVersion": "1", "annotations": {"a": "b", "a": "c"}}',
        b'{"ociVersion": "1", "linux": {"namespaces": [{"type": "pid"}, {"type": "pids"}]}}',
        b'{"ociVersion": "1", "linux": {"resources": {"pids": {"limit": 0}}}}',
        b'\n\t {"ociVersion": "1"}\r\n',
    ],
)
def test_readers_agree(reader: Reader, text: bytes) -> None:
    assert reader.read(text)[0] == expected(text)


def test_an_ordinary_specification_takes_no_msgspec(reader: Reader) -> None:
    spec = {
        "ociVersion": "1.2.0",
        "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "rlimits": []},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]}],
        "annotations": {"a": "<\u00fc>"},
        "linux": {"namespaces": [{"type": "pid"}], "resources": {"devices": [{"allow": False, "access": "rwm"}]}},
        "unknown": {"to": ["us", 7]},
    }
    data = json.dumps(spec).encode()
    told, asked = reader.read(data)
    assert (told, asked) == (expected(data), 0)


class Outer(msgspec.Struct):
    """What `plain` has no form for."""

    inner: set[int] = set()


def test_a_type_without_a_form_is_noticed_when_the_file_is_made() -> None:
    with pytest.raises(TypeError, match="set"):
        assembly._table(Outer)


def test_json_is_laid_out_alike() -> None:
    value = {"a": {}, "b": [], "c": [1, {"d": None, "e": True}], "\u00e9\n\x7f\x01": 'x"\\'}
    data = msgspec.json.encode(value)
    assert plain.encode(value) == data
    assert plain.format(data, indent=2) == msgspec.json.format(data, indent=2)
