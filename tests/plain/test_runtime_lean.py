"""What `capsa-runtime` leaves out when it starts is missed by nobody."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from capsa.errors import InvalidArgument, LaunchFailed
from capsa.oci import runtime
from capsa.platform.linux import birth
from capsa.platform.linux.channel import Channel, Message
from capsa.runtime import lean, main, stand_ins

SOURCE = Path(runtime.__file__).parents[2]
PACKAGES = Path(msgspec.__file__).parents[1]
LEFT_OUT = {
    "_collections_abc",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "inspect",
    "re",
    "selectors",
    "typing",
    "uuid",
}

_BEGIN = f"""
import sys
sys.path += [{str(SOURCE)!r}, {str(PACKAGES)!r}]
from capsa.runtime import lean
lean.import_os()
from capsa.runtime import main
"""
_LOAD = """
verb = sys.argv[1]
lean.load((f"capsa.runtime.{main.VERBS[verb]}", *main.WANTED.get(verb, ())), types=verb not in main.LIGHT)
"""


def python(program: str, *arguments: str, given: str = "") -> str:
    """What a bare interpreter prints that runs ``program`` as capsa-runtime would be run."""
    command = [sys.executable, "-I", "-S", "-c", _BEGIN + program, *arguments]
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True, text=True).stdout


def modules(verb: str) -> dict[str, str]:
    """The modules that are there once those of ``verb`` are imported, with their files."""
    told = python(
        _LOAD + "loaded = dict(sys.modules)\n"
        "import json\n"
        "print(json.dumps({name: getattr(module, '__file__', None) or '' for name, module in loaded.items()}))",
        verb,
    )
    found: dict[str, str] = json.loads(told)
    return found


@pytest.mark.parametrize("verb", ["create", "delete", "exec", "kill", "run", "start", "state"])
def test_a_call_imports_none_of_the_expensive_modules(verb: str) -> None:
    assert not LEFT_OUT & modules(verb).keys()


@pytest.mark.parametrize("verb", sorted(main.LIGHT))
def test_a_light_verb_imports_nothing_for_specifications_and_system_calls(verb: str) -> None:
    assert not {"_ctypes", "_datetime", "capsa.oci.runtime", "msgspec"} & modules(verb).keys()


_ZYGOTE = """
from capsa.runtime import zygote
zygote.load(":".join(sys.path[-2:]))
loaded = dict(sys.modules)
import json
print(json.dumps({name: getattr(module, '__file__', None) or '' for name, module in loaded.items()}))
"""


def test_the_zygote_imports_none_of_them_and_puts_nothing_off() -> None:
    loaded = json.loads(python(_ZYGOTE))
    assert "capsa.platform.linux.attendant" in loaded
    assert not (LEFT_OUT | {"pathlib", "traceback"}) & loaded.keys()
    assert all(loaded[name] for name in lean.LATER)
    missing, used = _missing(loaded)
    assert ("struct", "pack") in {(module, name) for _, module, name in used}
    assert not missing


_ENVIRONMENT = """
import os
os.environ["CAPSA_B"] = "2"
del os.environ["CAPSA_A"]
own = {name: value for name, value in os.environ.items() if name.startswith("CAPSA_")}
print(own, dict(os.environ) == os.environ.copy(), sorted(os.environ.keys()) == sorted(os.environ))
print(os.environ.get("CAPSA_B"), os.environ.get("CAPSA_A", "none"), os.environ.get("CAPSA_C"))
print("CAPSA_B" in os.environ, "CAPSA_A" in os.environ, len(os.environ.values()) == len(os.environ))
print({"CAPSA_C": "3"} | os.environ == dict(os.environ) | {"CAPSA_C": "3"}, os.getenv("CAPSA_B"))
print(isinstance("a", os.PathLike), isinstance(type("P", (), {"__fspath__": str})(), os.PathLike))
print(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", "exit $CAPSA_B"], os.environ), 0)[1]))
"""


def test_the_environment_is_what_it_is_elsewhere() -> None:
    variables = {"CAPSA_A": "1", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-I", "-S", "-c"]
    told = [
        subprocess.run([*command, program], env=variables, stdout=subprocess.PIPE, check=True).stdout
        for program in (_ENVIRONMENT, f"{_BEGIN}assert '_collections_abc' not in sys.modules\n{_ENVIRONMENT}")
    ]
    assert told[0] == told[1] and told[0].startswith(b"{'CAPSA_B': '2'} True True\n2 none None\nTrue False True\n")


class _Wrong(Exception):
    pass


def _scenes(contexts: Any) -> list[Any]:
    """What contexts do with each kind of end, told by the exceptions and the order of what happens."""
    told: list[Any] = []

    def ends(do: Callable[[], object]) -> None:
        try:
            told.append(("gives", do()))
        except BaseException as error:
            about = "" if isinstance(error, RuntimeError) else str(error)  # a mistake in the source
            told.append((type(error), about, type(error.__cause__), type(error.__context__)))

    @contexts.contextmanager
    def managed(name: str, swallow: bool = False, instead: BaseException | None = None, again: bool = False) -> Any:
        told.append(f"begin {name}")
        try:
            yield name
        except _Wrong:
            if instead is not None:
                raise instead from None
            if not swallow:
                raise
        finally:
            told.append(f"end {name}")
        if again:
            yield

    def inside(error: BaseException | None, **how: Any) -> object:
        with managed("one", **how) as one:
            if error is not None:
                raise error
            return one
        return "swallowed"

    for error in (None, _Wrong("w"), KeyError("k"), StopIteration("s"), GeneratorExit("g"), KeyboardInterrupt()):
        ends(lambda error=error: inside(error))  # type: ignore[misc]
    ends(lambda: inside(_Wrong("w"), swallow=True))
    ends(lambda: inside(_Wrong("w"), instead=OSError("o")))
    ends(lambda: inside(_Wrong("w"), instead=StopIteration("s")))
    ends(lambda: inside(None, again=True))
    ends(lambda: inside(_Wrong("w"), swallow=True, again=True))

    def suppressed(error: BaseException, *kinds: type[BaseException]) -> str:
        with contexts.suppress(*kinds):
            raise error
        return "suppressed"

    ends(lambda: suppressed(KeyError("k"), LookupError, OSError))
    ends(lambda: suppressed(_Wrong("w"), LookupError, OSError))
    ends(lambda: suppressed(_Wrong("w")))

    def stacked(error: BaseException | None, *, swallow: bool = False, late: BaseException | None = None) -> str:
        def fails() -> None:
            told.append("fails")
            if late is not None:
                raise late

        with contexts.ExitStack() as stack:
            stack.callback(told.append, "first")
            stack.push(lambda kind, error, _trace: told.append(("pushed", kind, str(error))))
            told.append(stack.enter_context(managed("inner", swallow)))
            stack.callback(fails)
            with contexts.ExitStack() as other:
                other.callback(told.append, "kept")
                stack.callback(other.pop_all().close)
                told.append("popped")
            if error is not None:
                raise error
        return "done"

    for error in (None, _Wrong("w"), KeyError("k")):
        for late in (None, _Wrong("late"), OSError("late")):
            for swallow in (False, True):
                ends(lambda error=error, late=late, swallow=swallow: stacked(error, swallow=swallow, late=late))  # type: ignore[misc]
    return told


def test_contexts_are_what_they_are_elsewhere() -> None:
    own, theirs = _scenes(stand_ins.make()["contextlib"]), _scenes(contextlib)
    assert own == theirs and len(theirs) > 100


@cache
def names_in(path: str) -> frozenset[tuple[str, str]]:
    """What a source file uses, while it runs, of modules that are imported at its head."""
    tree = ast.parse(Path(path).read_text())
    heads = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    heads |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    found: set[tuple[str, str]] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in heads:
            found.add((node.value.id, node.attr))
        if isinstance(node, ast.ImportFrom) and node.module in heads:
            found |= {(node.module, alias.name) for alias in node.names}
        # Nobody evaluates annotations.
        waiting += [
            each
            for name, value in ast.iter_fields(node)
            if name not in ("annotation", "returns")
            for each in (value if isinstance(value, list) else [value])
            if isinstance(each, ast.AST)
        ]
    return frozenset(found)


def _missing(loaded: dict[str, str]) -> tuple[list[str], set[tuple[str, str, str]]]:
    """What capsa's modules of those ``loaded`` use and the stand-ins lack; and all that they use, with their files."""
    placed = stand_ins.make()
    files = {path for name, path in loaded.items() if name.startswith("capsa.") and path}
    files |= {str(SOURCE / f"{name.replace('.', '/')}.py") for name in lean.LATER}
    used = {(path, module, name) for path in files for module, name in names_in(path)}
    # What else there is of it would have to do something.
    placed["typing"] = SimpleNamespace(Any=None, Literal=None)  # type: ignore[assignment]
    missing = [
        f"{path}: {module}.{name}"
        for path, module, name in used
        if placed.get(module) is not None and not hasattr(placed[module], name)
    ]
    return missing, used


@pytest.mark.parametrize("verb", sorted(main.VERBS.keys() - main.FULL))
def test_what_the_modules_of_a_verb_use_the_stand_ins_have(verb: str) -> None:
    missing, used = _missing(modules(verb))
    assert any(module == "signal" for _, module, _ in used)
    assert not missing


def _variants(kind: Any, seen: tuple[Any, ...] = ()) -> list[tuple[list[str | int], Any]]:
    """Where something may stand in a ``kind``, as the way to it, and values that do not fit there."""
    found: list[tuple[list[str | int], Any]] = []
    for field in msgspec.structs.fields(kind):
        for wrong in (17, "no", [17], {"a": 17}, None, True, [{"a": []}], 1.5, -1):
            found.append(([field.encode_name], wrong))
        for inner in _structs(field.type):
            if inner not in seen:
                many = getattr(field.type, "__origin__", None) is list
                way: list[str | int] = [field.encode_name, 0] if many else [field.encode_name]
                found += [(way + rest, value) for rest, value in _variants(inner, (*seen, inner))]
    return found


def _structs(kind: Any) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [each for part in getattr(kind, "__args__", ()) for each in _structs(part)]


def _nested(way: list[str | int], value: Any) -> Any:
    for step in reversed(way):
        value = [value] if step == 0 else {step: value}
    return value


def read(text: str) -> str:
    """What comes of a ``config.json``: the structure, or the complaint."""
    try:
        return repr(runtime.loads(text.encode()))
    except InvalidArgument as error:
        return str(error)


def test_a_specification_is_read_and_refused_as_elsewhere() -> None:
    texts = [json.dumps({"ociVersion": "1.2.0", **_nested(way, value)}) for way, value in _variants(runtime.Spec)]
    texts += ["", "{", "[]", '{"ociVersion": 1}', '{"ociVersion": "1.2.0", "x": 1}', '{"ociVersion": "\\ud800"}']
    told = python(
        'lean.load(("capsa.oci.runtime",))\n'
        "from capsa.oci import runtime\n"
        "from capsa.errors import InvalidArgument\n"
        "for line in sys.stdin:\n"
        "    try:\n"
        "        print(ascii(repr(runtime.loads(eval(line).encode()))))\n"
        "    except InvalidArgument as error:\n"
        "        print(ascii(str(error)))\n",
        given="".join(f"{text!r}\n" for text in texts),
    )
    assert len(texts) > 1000
    for text, line in zip(texts, told.splitlines(), strict=True):
        assert line == ascii(read(text)), text


@pytest.mark.parametrize("other", ["lean._KNOWN = ('0.99',)", "lean._PYTHONS = ((3, 99),)"])
def test_another_msgspec_or_python_is_imported_as_usual(other: str) -> None:
    told = python(
        f"{other}\n"
        'lean.load(("capsa.oci.runtime",))\n'
        "from capsa.oci import runtime\n"
        """print("re" in sys.modules, runtime.loads(b'{"ociVersion": "1.2.0"}').oci_version)\n"""
    )
    assert told.split() == ["True", "1.2.0"]


def test_a_module_for_later_is_read_when_somebody_looks_into_it() -> None:
    told = python(
        'lean.load(("capsa.platform.linux.container",))\n'
        "from capsa.platform.linux import container\n"
        'name = "capsa.platform.linux.hooks"\n'
        "print(type(sys.modules[name]).__name__)\n"
        "print(container.hooks.run.__module__, type(sys.modules[name]).__name__)\n"
    )
    assert told.splitlines() == ["_Later", "capsa.platform.linux.hooks module"]


def test_a_light_verb_gets_the_rest_as_lean_once_it_needs_it(tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "config.json").write_text('{"ociVersion": "1.2.0", "hooks": {"poststart": [{"path": "/x"}]}}')
    told = python(
        _LOAD + "from capsa.runtime.container import Container\n"
        "before = 'msgspec' in sys.modules\n"
        "print(before, Container(sys.argv[2], 'box').spec.hooks.poststart[0].path, 're' in sys.modules)\n",
        "start",
        str(tmp_path),
    )
    assert told.split() == ["False", "/x", "False"]


def test_words_on_a_channel_arrive_whole() -> None:
    for sent in (
        Message("go on"),
        Message("start", -3, b"\n\0\xff\n"),
        Message("failed", data="umlauts: \u00fc\n".encode(), kind="LaunchFailed", code=127),
    ):
        got = Message.decode(sent.encode())
        assert [getattr(got, name) for name in Message.__slots__] == [getattr(sent, name) for name in Message.__slots__]
    for broken in (b"", b"start", b"start\n\n\n\n", b"\xff\n1\n\n1\n"):
        with pytest.raises(ValueError, match=r"."):
            Message.decode(broken)


def test_a_process_for_a_container_imports_nothing_any_more() -> None:
    ours, theirs = Channel.pair()
    child = os.fork()
    if child == 0:
        birth.guard(theirs, lambda: __import__("this"))
    theirs.close()
    with pytest.raises(LaunchFailed, match="No module named 'this'"):
        ours.receive()
    os.waitpid(child, 0)


def test_a_process_that_stays_looks_for_garbage_again() -> None:
    told = python(
        'lean.load(("capsa.runtime.limits",))\n'
        "import gc\n"
        "before = gc.isenabled()\n"
        "lean.collect()\n"
        "print(before, gc.isenabled(), gc.get_freeze_count() > 1000)\n"
    )
    assert told.split() == ["False", "True", "True"]


# Where the launcher has Python begin (.ci/launcher).
BEGIN = Path(sys.prefix) / "lib" / "capsa-runtime" / "bin" / "python"
_CODECS = """
import codecs, io, sys
text = "\\u00fc\\ud83d\\U0001f4a9"
print(sys.stdout.encoding, sys.getfilesystemencoding(), ascii(text.encode("utf-8", "surrogatepass")))
for data in (b"\\xc3\\xbc", b"\\xff", b"\\xc3"):
    for errors in ("strict", "surrogateescape", "replace"):
        try:
            print(ascii(data.decode("utf8", errors)), ascii(io.TextIOWrapper(io.BytesIO(data), "utf-8", errors).read()))
        except UnicodeDecodeError as error:
            print(error)
decoder = codecs.getincrementaldecoder("UTF-8")()
print(ascii([decoder.decode(b"\\xc3"), decoder.decode(b"\\xbc"), decoder.decode(b"", True)]))
print(ascii([codecs.getincrementalencoder("utf_8")().encode("\\u00fc"), codecs.lookup("u8").name]))
print("\\u00fc".encode("latin-1"), "\\u00fc.x".encode("idna"), b"\\xfc".decode("iso8859_15") == "\\u00fc")
try:
    codecs.lookup("none of these")
except LookupError as error:
    print(error)
import json, encodings.aliases
print(json.__file__, encodings.aliases.__file__, len(encodings.aliases.aliases), encodings.normalize_encoding("a-b"))
"""


@pytest.mark.parametrize("environment", [{}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}, {"LC_ALL": "POSIX"}])
def test_python_begins_with_one_codec_and_finds_the_others(environment: dict[str, str]) -> None:
    told = [
        subprocess.run([program, "-S", "-s", "-P", "-c", _CODECS], env=environment, stdout=subprocess.PIPE, check=True)
        for program in (str(BEGIN), os.path.realpath(BEGIN))
    ]
    assert told[0].stdout == told[1].stdout and b"/encodings/aliases.py 3" in told[0].stdout
    before = [str(BEGIN), "-I", "-S", "-c", "import sys; print('encodings.aliases' in sys.modules)"]
    assert subprocess.run(before, stdout=subprocess.PIPE, check=True, text=True).stdout == "False\n"
