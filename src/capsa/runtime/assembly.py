"""Makes the file that `together` reads: ``python -m capsa.runtime.assembly``, see the Makefile.

The code in it lacks what nothing looks at while capsa-runtime works: docstrings, annotations of functions and what is
imported for those, what is for type checkers only, which lines instructions come from, and what local variables are
called. That is a third of what it would take in memory. With ``--debug``, which tells where something went wrong,
modules come from elsewhere. The types of a specification are in it a second time, see `capsa.runtime.plain`.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import inspect
import marshal
import os
import sys
import types
import typing
from pathlib import Path
from typing import Any

import msgspec

from capsa.oci import runtime
from capsa.runtime import plain, together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType, ModuleType

    from capsa.runtime.plain import Field, Kind
    from capsa.runtime.together import Row

_PACKAGES = ("oci", "platform", "platform/linux", "platform/linux/cgroup", "runtime", "sys", "vfs")
_MODULES = ("__init__", "cli/__init__", "cli/options", "errors", "start/__init__", "start/identity")
# What they need of others, as far as it is not part of the interpreter.
_OTHERS = ("msgspec", "msgspec._version", "msgspec.json", "msgspec.structs")
_EXTENSIONS = (
    "_blake2",
    "_ctypes",
    "_datetime",
    "_json",
    "_socket",
    "_struct",
    "array",
    "fcntl",
    "math",
    "msgspec._core",
    "select",
)


class _Lighter(ast.NodeTransformer):
    """Takes out of a module what is for readers and type checkers; annotations of classes stay, msgspec reads those."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        node.body = [each for each in node.body if not _is_future(each)]
        self.generic_visit(node)
        used = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
        if "__all__" in used:
            used |= {str(each.value) for each in ast.walk(node) if isinstance(each, ast.Constant)}
        node.body = [each for each in node.body if not isinstance(each, ast.ImportFrom) or _without(each, used)]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.returns = None
        every = node.args
        for argument in (*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg):
            if argument is not None:
                argument.annotation = None
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse or ast.Pass()
        return node


def _without(node: ast.ImportFrom, used: set[str]) -> bool:
    """Leave out names of ours that were for annotations only (``as`` is for others to import); whether any remain."""
    if (node.module or "").startswith("capsa."):
        node.names = [each for each in node.names if each.asname or each.name in used]
    return bool(node.names)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def compiled(content: bytes, source: str, structures: ModuleType | None = None) -> CodeType:
    """The module's code, as it is in the file; with tables in the place of its ``structures``, if asked for."""
    tree = ast.parse(content, source)
    flags = annotations.compiler_flag if any(_is_future(each) for each in tree.body) else 0
    if structures is not None:
        _tabulate(tree, structures)
    lighter = ast.fix_missing_locations(_Lighter().visit(tree))
    return _without_names(compile(lighter, source, "exec", flags=flags, dont_inherit=True, optimize=2))


def _tabulate(tree: ast.Module, structures: ModuleType) -> None:
    """Have structures made when they are asked for, see `capsa.runtime.plain`."""
    names = [each.name for each in tree.body if isinstance(each, ast.ClassDef)]
    tables = {name: marshal.dumps(_table(getattr(structures, name))) for name in names}
    begin = ast.parse(f"__getattr__ = msgspec.types({tables!r})").body
    body: list[ast.stmt] = []
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            body += begin
            begin = []
        elif isinstance(node, ast.ImportFrom) and node.module == "typing":
            continue
        else:
            if isinstance(node, ast.Assign):
                used = [each.id for each in ast.walk(node) if isinstance(each, ast.Name) and each.id in names]
                body += ast.parse("".join(f"{name} = __getattr__({name!r})\n" for name in used)).body
            body.append(node)
    tree.body = body


def _table(kind: type[msgspec.Struct]) -> tuple[bool, tuple[Field, ...]]:
    """Whether its defaults are left out, and its fields."""
    fields = []
    for each in msgspec.structs.fields(kind):
        default: Any = each.default
        if each.default_factory is not msgspec.NODEFAULT:
            default = _form(each.default_factory)
        elif each.required:
            default = None
        fields.append((each.name, each.encode_name, _form(each.type), each.required, default))
    return bool(kind.__struct_config__.omit_defaults), tuple(fields)


def _form(kind: Any) -> Kind:
    """How a table describes a type."""
    inner = typing.get_args(kind)
    match typing.get_origin(kind):
        case types.UnionType | typing.Union if len(inner) == 2 and inner[1] is type(None):
            return "none", _form(inner[0])
        case typing.Literal:
            return "one", inner
        case builtins.list:
            return "list", _form(inner[0])
        case builtins.dict if inner[0] is str:
            return "dict", _form(inner[1])
    if kind is Any:
        return "any"
    if issubclass(kind, msgspec.Struct):
        return "struct", kind.__name__
    if kind in (list, dict):
        return kind.__name__, ""
    if kind in (str, int, bool):
        return str(kind.__name__)
    raise TypeError(f"capsa.runtime.plain knows no {kind}")


def _without_names(code: CodeType) -> CodeType:
    """Without line numbers; local variables and nested functions have short names, the same ones everywhere."""
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    own = tuple(f"_{number}" for number in range(len(code.co_varnames) - count))
    return code.replace(
        co_linetable=_nowhere(len(code.co_code) // 2),
        co_varnames=code.co_varnames[:count] + own,
        co_qualname=code.co_name,
        co_consts=tuple(_without_names(each) if isinstance(each, type(code)) else each for each in code.co_consts),
    )


def _nowhere(instructions: int) -> bytes:
    """A table of locations that has none (CPython's ``locations.md``): each byte is for eight instructions."""
    full, rest = divmod(instructions, 8)
    return b"\xff" * full + (bytes([0xF8 | rest - 1]) if rest else b"")


def needed(content: bytes, package: str) -> Iterator[str]:
    """The modules that a module of ``package`` imports while it is imported itself, as far as can be told."""
    waiting: list[ast.AST] = [_Lighter().visit(ast.parse(content))]
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                name = ".".join([*above, name] if name else above)
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.Lambda | ast.expr):
            waiting[:0] = ast.iter_child_nodes(node)


def _sources() -> Iterator[tuple[str, Path]]:
    """Names and places of all modules that have a source."""
    top = Path(together.__file__).parents[1]
    found = [top / f"{name}.py" for name in _MODULES]
    found += [source for package in _PACKAGES for source in sorted((top / package).glob("*.py"))]
    for source in found:
        parts = source.relative_to(top.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if source.name == "__init__.py" else parts), source
    for name in _OTHERS:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
            yield name, Path(spec.origin)


def write() -> None:
    """Make the file anew; it appears whole."""
    table: dict[str, Row] = {}
    codes: list[bytes] = []
    place = 0
    sources = dict(_sources())
    variants = {plain.VARIANT: (plain.TYPES, runtime)}
    for entry in (*sources, *variants):
        name, structures = variants.get(entry, (entry, None))
        source = sources[name]
        package = source.name == "__init__.py"
        known, content = source.stat(), source.read_bytes()
        code = marshal.dumps(compiled(content, str(source), structures))
        wanted = needed(content, name if package else name.rpartition(".")[0])
        # Not its own modules, which may want something of a package that is there by half.
        needs = tuple(
            dict.fromkeys(each for each in wanted if each in sources and not f"{each}.".startswith(f"{name}."))
        )
        table[entry] = (str(source), package, known.st_mtime_ns, known.st_size, place, len(code), needs)
        codes.append(code)
        place += len(code)
    for name in _EXTENSIONS:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and os.path.isfile(spec.origin):
            known = os.stat(spec.origin)
            table[name] = (spec.origin, False, known.st_mtime_ns, known.st_size, 0, 0, ())
    index = marshal.dumps(table)
    target = Path(together.path())
    target.parent.mkdir(exist_ok=True)
    hidden = target.with_suffix(f".{os.getpid()}")
    hidden.write_bytes(together.magic() + len(index).to_bytes(4, sys.byteorder) + index + b"".join(codes))
    hidden.rename(target)


if __name__ == "__main__":
    write()
