"""Schemas (``.hsd``): what a document may hold, and what is wrong with one (doc/hid.txt of Genode, Validation).

A value has to match its type's pattern as a whole. Disabled nodes are checked like all others, but a node that must
be there is not there while it is disabled.
"""

from __future__ import annotations

from capsa.hid.errors import BadSchema, HidError
from capsa.hid.grammar import shown
from capsa.hid.patterns import Pattern
from capsa.hid.strict import read
from capsa.hid.tree import Comment, Node, Quote, path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MOST_PROBLEMS = 100
"""How many problems are told at most."""
_MOST_CHOICES = 100_000
_MOST_TYPES = 1000
_MOST_BYTES = 1 << 20
_MOST_EXPECTED = 50


class Problem:
    """One thing that is wrong with a document."""

    __slots__ = ("column", "expected", "line", "message", "path")

    def __init__(self, line: int, column: int, path: str, message: str, expected: Sequence[str] = ()) -> None:
        self.line = line
        self.column = column
        self.path = path
        """The node, as a query finds it: ``config | + start timer | + route``."""
        self.message = message
        self.expected = expected
        """What would be right there, if it is a choice: types of nodes, or tags with the patterns of their values."""

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
        choice = f" (expected: {', '.join(self.expected)})" if self.expected else ""
        return f"{place}{self.path}: {self.message}{choice}"

    def __repr__(self) -> str:
        return f"<Problem {self}>"


class Attr:
    """What a schema says of an attribute."""

    __slots__ = ("default", "pattern", "required", "tag", "type")

    def __init__(self, tag: str, type: str, pattern: Pattern, default: str | None) -> None:
        self.tag = tag
        self.type = type
        self.pattern = pattern
        self.required = default is None
        self.default = default
        """The value where it is absent; None for one that must not be."""

    @property
    def wanted(self) -> str:
        """Type and pattern, for a message."""
        return f"{self.type} ({self.pattern.text})"


class Slot:
    """A ``node`` entry of a scope: one type of sub nodes, or a category of them."""

    __slots__ = ("multiple", "optional", "what")

    def __init__(self, what: str, *, multiple: bool, optional: bool) -> None:
        self.what = what
        self.multiple = multiple
        self.optional = optional


class Scope:
    """What may be in a node."""

    __slots__ = ("anything", "attributes", "counts", "nodes", "quote", "required", "slots")

    def __init__(self) -> None:
        self.attributes: dict[str, Attr] = {}
        self.nodes: dict[str, tuple[Slot, Scope]] = {}
        self.slots: list[Slot] = []
        self.anything = False
        self.quote = False
        self.required: list[Attr] = []
        self.counts = False
        """Whether it matters how many sub nodes of a slot there are."""


class Schema:
    """A schema definition, ready to check documents with."""

    def __init__(self, definition: Node) -> None:
        """``definition`` is the tree of a ``.hsd``; raises `BadSchema`."""
        if definition.type != "schema" or not definition.name:
            raise BadSchema("a schema begins with 'schema' and the type of the top-level node", definition.line)
        self.type = definition.name
        """The type of the top-level node of the documents."""
        self._patterns: dict[str, Pattern] = {}
        self._categories: dict[str, Node] = {}
        self._scopes: dict[int, Scope] = {}
        self._members: dict[str, dict[str, Node]] = {}
        self._choices = 0
        self._definition = definition  # the scopes are known by the identity of its nodes
        for node in _entries(definition, ("type", "category", "attr", "node")):
            if node.type == "type":
                self._patterns[_name(node)] = _pattern(node)
                if len(self._patterns) > _MOST_TYPES:
                    raise BadSchema(f"more than {_MOST_TYPES} types", node.line)
            elif node.type == "category":
                self._categories[_name(node)] = node
        self._patterns.setdefault("any", Pattern(".*"))
        self.root = self._scope(definition)

    @classmethod
    def load(cls, text: str | bytes) -> Schema:
        """The schema of a ``.hsd`` text; raises `HidError`."""
        return cls(read(text, most=_MOST_BYTES))

    def check(self, document: Node) -> list[Problem]:
        """What is wrong with a document, in the order of its lines, `MOST_PROBLEMS` at most; empty if it is right."""
        if document.type != self.type:
            message = f"the top-level node is '{document.type}' and should be '{self.type}'"
            return [Problem(document.line, document.column, document.type, message)]
        found: list[Problem] = []
        pending: list[tuple[Node, Scope, _Way]] = [(document, self.root, None)]
        while pending and len(found) < MOST_PROBLEMS:
            node, scope, way = pending.pop()
            problems, below = _examine(node, scope)
            if problems:
                path = path_of(_nodes(node, way))
                found += [Problem(line, column, path, text, expected) for line, column, text, expected in problems]
            if below:
                further = (node, way)
                pending += [(item, inner, further) for item, inner in reversed(below)]
        found.sort(key=lambda problem: problem.line)  # where lines are known; the order of the tree otherwise
        return found[:MOST_PROBLEMS]

    # Making the scopes

    def _scope(self, top: Node) -> Scope:
        pending = [top]
        self._scopes[id(top)] = Scope()
        while pending:
            self._fill(pending.pop(), pending)
        return self._scopes[id(top)]

    def _fill(self, node: Node, pending: list[Node]) -> None:
        scope = self._scopes[id(node)]
        allowed = (
            ("attr", "node", "type", "category") if node.type == "schema" else ("attr", "node", "anything", "quote")
        )
        entries = _entries(node, allowed)
        for item in entries:
            if item.type == "attr":
                attr = self._attr(item)
                if attr.tag in scope.attributes:
                    raise BadSchema(f"attribute '{attr.tag}' is defined twice", item.line)
                scope.attributes[attr.tag] = attr
            elif item.type == "anything":
                scope.anything = True
            elif item.type == "quote":
                scope.quote = True
        # What is named goes before what a category brings.
        for item in sorted((item for item in entries if item.type == "node"), key=lambda item: not item.name):
            self._slot(item, scope, pending)
        scope.required = [attr for attr in scope.attributes.values() if attr.required]
        scope.counts = not all(slot.optional and slot.multiple for slot in scope.slots)

    def _slot(self, item: Node, scope: Scope, pending: list[Node]) -> None:
        slot = Slot(
            item.name or item.get("category"),
            multiple=_switch(item, "multiple"),
            optional=_switch(item, "optional"),
        )
        scope.slots.append(slot)
        if item.name:
            members = {item.name: item}
        elif slot.what:
            members = self._category(slot.what, item, ())
        else:
            raise BadSchema("a 'node' has neither a name nor a category", item.line)
        self._choices += len(members)
        if self._choices > _MOST_CHOICES:
            raise BadSchema(f"the categories lead to more than {_MOST_CHOICES} choices", item.line)
        for type, member in members.items():
            if type in scope.nodes:
                if item.name:
                    raise BadSchema(f"node '{type}' is defined twice", item.line)
                continue
            if id(member) not in self._scopes:
                self._scopes[id(member)] = Scope()
                pending.append(member)
            scope.nodes[type] = (slot, self._scopes[id(member)])

    def _category(self, name: str, user: Node, within: tuple[str, ...]) -> dict[str, Node]:
        """The node entries of a category and of those in it, by type."""
        known = self._members.get(name)
        if known is not None:
            return known
        if name in within:
            raise BadSchema(f"category '{name}' is defined by itself", user.line)
        if name not in self._categories:
            raise BadSchema(f"there is no category '{name}'", user.line)
        if len(within) >= 100:
            raise BadSchema("categories within categories go too deep", user.line)
        named: dict[str, Node] = {}
        inherited: dict[str, Node] = {}
        for item in _entries(self._categories[name], ("node",)):
            if item.name:
                if item.name in named:
                    raise BadSchema(f"category '{name}' has node '{item.name}' twice", item.line)
                named[item.name] = item
                continue
            if not item.has("category"):
                raise BadSchema("a 'node' has neither a name nor a category", item.line)
            for type, member in self._category(item.get("category"), item, (*within, name)).items():
                if type in inherited:
                    raise BadSchema(f"category '{name}' has node '{type}' from more than one category", item.line)
                inherited[type] = member
        self._members[name] = members = {**inherited, **named}
        self._choices += len(members)
        if self._choices > _MOST_CHOICES:
            raise BadSchema(f"the categories lead to more than {_MOST_CHOICES} choices", user.line)
        return members

    def _attr(self, item: Node) -> Attr:
        type = item.get("type")
        pattern = self._patterns.get(type)
        if pattern is None:
            raise BadSchema(f"attribute '{item.name}' has the unknown type '{type}'", item.line)
        return Attr(_name(item), type, pattern, item.get("default") if item.has("default") else None)


if TYPE_CHECKING:
    from typing import Any, TypeAlias

    _Way: TypeAlias = tuple[Node, Any] | None
    """The nodes above one, innermost first."""
    _Finding: TypeAlias = tuple[int, int, str, Sequence[str]]


def _nodes(node: Node, way: _Way) -> list[Node]:
    nodes = [node]
    while way is not None:
        above, way = way
        nodes.append(above)
    return nodes[::-1]


def _examine(node: Node, scope: Scope) -> tuple[list[_Finding], list[tuple[Node, Scope]]]:
    """What is wrong with a node itself, and what of its sub nodes is to be examined by what."""
    problems: list[_Finding] = []
    below: list[tuple[Node, Scope]] = []
    known = scope.attributes
    present = 0
    for attribute in node.attributes:
        if len(problems) >= MOST_PROBLEMS:
            return problems, below
        rule = known.get(attribute.tag)
        if rule is None:
            if not scope.anything:
                problems.append(_unknown_attribute(node, attribute.tag, attribute.line, attribute.column, scope))
            continue
        if rule.required:
            present += 1
        value = attribute.value
        if value not in rule.pattern.matching and not rule.pattern.matches(value):
            what = "name" if attribute.tag == "name" else f"'{attribute.tag}'"
            text = f"{what} is {shown(value)}, expected {rule.wanted}"
            problems.append((attribute.line, attribute.column, text, ()))
    if present < len(scope.required):
        tags = {attribute.tag for attribute in node.attributes}
        for rule in scope.required:
            if rule.tag not in tags:
                what = "a name" if rule.tag == "name" else f"the attribute '{rule.tag}'"
                problems.append((node.line, node.column, f"lacks {what}, expected {rule.wanted}", ()))
    content = node.content
    if content:
        nodes = scope.nodes
        for item in content:
            if len(problems) >= MOST_PROBLEMS:
                return problems, below
            if type(item) is Node:
                entry = nodes.get(item.type)
                if entry is None:
                    if not scope.anything:
                        problems.append(_unknown_node(item, scope))
                elif item.attributes or item.content or entry[1].required or entry[1].counts:
                    below.append((item, entry[1]))
            elif type(item) is Quote and not (scope.quote or scope.anything):
                problems.append((item.line, 0, f"quoted content is not expected: {shown(item.text)}", ()))
    if scope.counts:
        problems += _count(node, scope)
    return problems, below


def _count(node: Node, scope: Scope) -> Iterator[_Finding]:
    """Whether the slots are filled as they should be."""
    first: dict[int, Node] = {}
    enabled: set[int] = set()
    for item in node.content:
        entry = scope.nodes.get(item.type) if isinstance(item, Node) else None
        if entry is None or not isinstance(item, Node):
            continue
        slot = entry[0]
        if item.enabled:
            enabled.add(id(slot))
        if first.setdefault(id(slot), item) is not item and not slot.multiple and not scope.anything:
            line = first[id(slot)].line
            there = f"there is one of line {line}" if line else "there is one already"
            yield item.line, item.column, f"'{item.type}' is one too many, as {there}", ()
    for slot in scope.slots:
        if not slot.optional and id(slot) not in enabled:
            types = sorted(type for type, (other, _) in scope.nodes.items() if other is slot)
            if types == [slot.what]:
                yield node.line, node.column, f"lacks the sub node '{slot.what}'", ()
            else:
                yield node.line, node.column, f"lacks a sub node of the category '{slot.what}'", types[:_MOST_EXPECTED]


def _unknown_attribute(node: Node, tag: str, line: int, column: int, scope: Scope) -> _Finding:
    if tag == "name":
        return line, column, f"'{node.type}' cannot have a name", ()
    expected = [f"{attr.tag}: {attr.wanted}" for attr in scope.attributes.values() if attr.tag != "name"]
    return line, column, f"unknown attribute '{tag}'", expected[:_MOST_EXPECTED]


def _unknown_node(node: Node, scope: Scope) -> _Finding:
    return node.line, node.column, f"unknown node '{node.type}'", sorted(scope.nodes)[:_MOST_EXPECTED]


# Reading a definition


_TAGS = {
    "attr": {"name", "type", "default"},
    "node": {"name", "category", "multiple", "optional"},
    "type": {"name"},
    "category": {"name"},
}


def _entries(node: Node, types: tuple[str, ...]) -> list[Node]:
    """The enabled entries of a definition; raises `BadSchema` at what cannot be there, enabled or not."""
    entries: list[Node] = []
    for item in node.content:
        if isinstance(item, Quote):
            raise BadSchema(f"'{node.heading}' cannot have quoted content", item.line)
        if isinstance(item, Comment):
            continue
        if item.type not in types:
            raise BadSchema(f"'{item.type}' is not expected in '{node.heading}', but {', '.join(types)}", item.line)
        for attribute in item.attributes:
            if attribute.tag not in _TAGS.get(item.type, ()):
                raise BadSchema(f"'{item.type}' has the unknown attribute '{attribute.tag}'", attribute.line)
        if item.type in ("attr", "anything", "quote") and item.nodes(disabled=True):
            raise BadSchema(f"'{item.heading}' cannot have sub nodes", item.line)
        if item.enabled:
            entries.append(item)
    return entries


def _name(node: Node) -> str:
    if not node.name:
        raise BadSchema(f"'{node.type}' lacks a name", node.line)
    return node.name


def _switch(node: Node, tag: str) -> bool:
    value = node.get(tag, "yes")
    if value not in ("yes", "no"):
        raise BadSchema(f"'{tag}' is {shown(value)}, expected yes or no", node.line)
    return value == "yes"


def _pattern(node: Node) -> Pattern:
    text = node.text
    if text is None:
        raise BadSchema(f"type '{node.name}' lacks a pattern as its quoted content", node.line)
    try:
        return Pattern(text.split("\n")[-1].strip())
    except HidError as error:
        raise BadSchema(f"type '{node.name}': {error.message}", node.line) from None
