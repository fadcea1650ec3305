"""The part of Go's text/template (https://pkg.go.dev/text/template) that docker's ``--format`` is used with.

Actions: fields, variables, pipelines, parentheses, ``if``/``else if``/``else``, ``with``, ``range`` with ``else``,
``break`` and ``continue``, comments, trim markers; functions are in `capsa.cli.template_functions`. Anything else
is an error that says so.
"""

from __future__ import annotations

import json
import re

from capsa.cli.template_fields import field, is_structure
from capsa.cli.template_functions import FUNCTIONS, NOTHING, text, truth
from capsa.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_ACTION = re.compile(r"\{\{(?:-(?=\s))?(.*?)(?:(?<=\s)-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)"""
    r"""|(?P<variable>\$\w*)|(?P<field>\.\w+)|(?P<dot>\.)|(?P<word>\w+)|(?P<sign>:=|[()|,=]))"""
)


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


class Template:
    """A parsed template; `render` it with decoded JSON."""

    def __init__(self, source: str) -> None:
        """Parse; raises `InvalidArgument`."""
        self._parts = _split(source)
        self._position = 0
        self._body, end = self._block()
        if end is not None:
            raise InvalidArgument(f"--format: unexpected {{{{{end[0]}}}}}")

    def render(self, data: object) -> str:
        """The text for ``data``; raises `InvalidArgument` naming what does not fit."""
        output: list[str] = []
        scope = _Scope(data)
        try:
            for node in self._body:
                node(scope, data, output)
        except (_Break, _Continue):
            raise InvalidArgument("--format: {{break}} or {{continue}} outside of a range") from None
        return "".join(output)

    def _block(self) -> tuple[list[_Node], tuple[str, str] | None]:
        """Nodes up to ``end`` or ``else``, and which of them it was (with what follows it)."""
        nodes: list[_Node] = []
        while self._position < len(self._parts):
            literal, source = self._parts[self._position]
            self._position += 1
            if literal:
                nodes.append(_literal(source))
                continue
            word, _, rest = source.strip().partition(" ")
            if source.strip().startswith("/*"):
                continue
            if word in ("end", "else"):
                return nodes, (word, rest.strip())
            if word in ("if", "with", "range"):
                nodes.append(self._control(word, rest))
            elif word in ("break", "continue"):
                nodes.append(_jump(word))
            elif word in ("define", "template", "block"):
                raise InvalidArgument(f"--format: {{{{{word}}}}} is not supported")
            else:
                nodes.append(_action(source))
        return nodes, None

    def _control(self, word: str, source: str) -> _Node:
        names, pipeline = _declaration(source)
        body, end = self._block()
        otherwise: list[_Node] = []
        if end is not None and end[0] == "else":
            nested = re.match(r"(if|with)\s+(.*)", end[1], re.DOTALL)
            if nested:
                otherwise = [self._control(nested[1], nested[2])]
                return _branch(word, names, pipeline, body, otherwise)
            otherwise, end = self._block()
        if end is None or end[0] != "end":
            raise InvalidArgument(f"--format: {{{{{word}}}}} without {{{{end}}}}")
        return (_range if word == "range" else _branch)(word, names, pipeline, body, otherwise)


if TYPE_CHECKING:
    _Node = Callable[["_Scope", Any, list[str]], None]
    _Value = Callable[["_Scope", Any], Any]


class _Scope:
    """Variables; ``$`` is the whole data."""

    def __init__(self, data: object, outer: _Scope | None = None) -> None:
        self.variables: dict[str, Any] = {"$": data} if outer is None else {}
        self.outer = outer

    def inner(self) -> _Scope:
        return _Scope(None, self)

    def find(self, name: str) -> _Scope:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.variables:
                return scope
            scope = scope.outer
        raise InvalidArgument(f"--format: undefined variable {name}")


def _split(source: str) -> list[tuple[bool, str]]:
    """Literals (true) and actions (false); trim markers are applied."""
    parts: list[tuple[bool, str]] = []
    position, trim = 0, False
    for found in _ACTION.finditer(source):
        literal = source[position : found.start()]
        if trim:
            literal = literal.lstrip()
        if found[0].startswith("{{-") and len(found[0]) > 3 and found[0][3].isspace():
            literal = literal.rstrip()
        if literal:
            parts.append((True, literal))
        parts.append((False, found[1]))
        position = found.end()
        trim = found[0].endswith("-}}") and len(found[0]) > 4 and found[0][-4].isspace()
    literal = source[position:]
    if "{{" in literal:
        raise InvalidArgument("--format: an action is not closed with }}")
    literal = literal.lstrip() if trim else literal
    return [*parts, (True, literal)] if literal else parts


def _literal(source: str) -> _Node:
    return lambda scope, dot, output: output.append(source)


def _jump(word: str) -> _Node:
    def run(scope: _Scope, dot: Any, output: list[str]) -> None:
        raise _Break if word == "break" else _Continue

    return run


def _action(source: str) -> _Node:
    names, pipeline = _declaration(source)
    assign = names and re.match(r"\s*\$\w+\s*=", source)

    def run(scope: _Scope, dot: Any, output: list[str]) -> None:
        value = pipeline(scope, dot)
        if not names:
            output.append(text(value))
        elif assign:
            scope.find(names[0]).variables[names[0]] = value
        else:
            scope.variables[names[0]] = value

    return run


def _branch(word: str, names: list[str], pipeline: _Value, body: list[_Node], otherwise: list[_Node]) -> _Node:
    def run(scope: _Scope, dot: Any, output: list[str]) -> None:
        inner = scope.inner()
        value = pipeline(scope, dot)
        if names:
            inner.variables[names[0]] = value
        chosen = body if truth(value) else otherwise
        here = value if word == "with" and chosen is body else dot
        for node in chosen:
            node(inner, here, output)

    return run


def _range(word: str, names: list[str], pipeline: _Value, body: list[_Node], otherwise: list[_Node]) -> _Node:
    def run(scope: _Scope, dot: Any, output: list[str]) -> None:
        value = pipeline(scope, dot)
        if isinstance(value, dict):
            pairs = [(key, value[key]) for key in sorted(value)]
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs = [(number, number) for number in range(value)]
        elif isinstance(value, (list, tuple)):
            pairs = list(enumerate(value))
        elif value is None or value is NOTHING:
            pairs = []
        else:
            raise InvalidArgument(f"--format: range can't iterate over {text(value)}")
        if not pairs:
            for node in otherwise:
                node(scope.inner(), dot, output)
        for key, item in pairs:
            inner = scope.inner()
            if names:
                inner.variables[names[-1]] = item
                if len(names) == 2:
                    inner.variables[names[0]] = key
            try:
                for node in body:
                    node(inner, item, output)
            except _Continue:
                continue
            except _Break:
                break

    return run


def _declaration(source: str) -> tuple[list[str], _Value]:
    """``$i, $v := pipeline``: the names, the pipeline."""
    found = re.match(r"\s*(\$\w+)(?:\s*,\s*(\$\w+))?\s*:?=(?!=)", source)
    names = [name for name in found.groups() if name] if found else []
    return names, _Parser(source[found.end() :] if found else source).whole()


class _Parser:
    """Pipelines: commands separated by ``|``, the value of each the last argument of the next."""

    def __init__(self, source: str) -> None:
        self.source = source.strip()
        self.tokens: list[tuple[str, str, bool]] = []
        position = 0
        while position < len(self.source):
            found = _TOKEN.match(self.source, position)
            if found is None or found.lastgroup is None:
                raise InvalidArgument(f"--format: cannot read {{{{{self.source}}}}}")
            spaced = position == 0 or found.group(0)[:1].isspace()
            self.tokens.append((found.lastgroup, found[found.lastgroup], spaced))
            position = found.end()
        if not self.tokens:
            raise InvalidArgument("--format: an action is empty")

    def whole(self) -> _Value:
        value = self.pipeline()
        if self.tokens:
            raise InvalidArgument(f"--format: unexpected {self.tokens[0][1]} in {{{{{self.source}}}}}")
        return value

    def pipeline(self) -> _Value:
        value = self.command(None)
        while self.tokens and self.tokens[0][1] == "|" and self.tokens[0][0] == "sign":
            self.tokens.pop(0)
            value = self.command(value)
        return value

    def command(self, piped: _Value | None) -> _Value:
        if not self.tokens:
            raise InvalidArgument(f"--format: something is missing at the end of {{{{{self.source}}}}}")
        kind, word, _ = self.tokens[0]
        function = None
        if kind == "word" and word not in ("true", "false", "nil"):
            function = FUNCTIONS.get(word)
            if function is None:
                raise InvalidArgument(
                    f'--format: function "{word}" not defined (there are: {", ".join(sorted(FUNCTIONS))})'
                )
            self.tokens.pop(0)
        head = None if function else self.operand()
        arguments: list[_Value] = []
        while self.tokens and self.tokens[0][1] not in ("|", ")"):
            arguments.append(self.operand())
        if piped is not None:
            arguments.append(piped)
        if function:
            return _call(word, function, arguments)
        assert head is not None
        return _invoke(head, arguments) if arguments else head

    def operand(self) -> _Value:
        kind, word, _ = self.tokens.pop(0)
        value: _Value
        if kind == "string":
            constant: Any = word[1:-1] if word[0] == "`" else json.loads(word)
            value = _constant(constant)
        elif kind == "number":
            value = _constant(float(word) if "." in word else int(word))
        elif kind == "variable":
            value = _variable(word)
        elif kind == "dot":
            value = lambda scope, dot: dot  # noqa: E731
        elif kind == "field":
            value = _field(lambda scope, dot: dot, word[1:])
        elif word == "(":
            value = self.pipeline()
            if not self.tokens or self.tokens.pop(0)[1] != ")":
                raise InvalidArgument(f"--format: a parenthesis is not closed in {{{{{self.source}}}}}")
        elif word in ("true", "false", "nil"):
            value = _constant({"true": True, "false": False, "nil": None}[word])
        elif kind == "word" and word in FUNCTIONS:
            value = _call(word, FUNCTIONS[word], [])
        else:
            raise InvalidArgument(f"--format: unexpected {word} in {{{{{self.source}}}}}")
        while self.tokens and self.tokens[0][0] == "field" and not self.tokens[0][2]:
            value = _field(value, self.tokens.pop(0)[1][1:])
        return value


def _constant(value: Any) -> _Value:
    return lambda scope, dot: value


def _variable(name: str) -> _Value:
    return lambda scope, dot: scope.find(name).variables[name]


def _call(name: str, function: Callable[..., Any], arguments: list[_Value]) -> _Value:
    def run(scope: _Scope, dot: Any) -> Any:
        values = [argument(scope, dot) for argument in arguments]
        try:
            return function(*values)
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            shown = " ".join(text(value) for value in values)
            raise InvalidArgument(f"--format: cannot do {{{{{name} {shown}}}}}: {error}") from None

    return run


def _invoke(head: _Value, arguments: list[_Value]) -> _Value:
    def run(scope: _Scope, dot: Any) -> Any:
        function = head(scope, dot)
        if not callable(function):
            raise InvalidArgument("--format: a field that takes no argument was given one")
        return function(*[argument(scope, dot) for argument in arguments])

    return run


def _field(base: _Value, name: str) -> _Value:
    def run(scope: _Scope, dot: Any) -> Any:
        value = base(scope, dot)
        if value is None or value is NOTHING:
            return NOTHING
        if not isinstance(value, dict):
            raise InvalidArgument(f"--format: no field .{name} in {text(value)[:40]}")
        if not (name[:1].isupper() and is_structure(value)):
            return value.get(name, NOTHING)
        try:
            return field(value, name)
        except KeyError:
            raise InvalidArgument(f"--format: no field .{name} (there are: {', '.join(sorted(value))})") from None

    return run
