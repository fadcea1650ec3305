"""Paths to nodes and attributes, as Genode's own tool takes them: ``config | + start timer | + route``.

A step is a type, perhaps a name, and conditions on attributes: ``config | + start | ram: 8M``. Behind ``| :`` stands
what is asked (``| : ram``) or set (``| : ram: 8M | caps: 100``). Disabled nodes are found as others are.
"""

from __future__ import annotations

from capsa.hid import grammar
from capsa.hid.errors import BadPath
from capsa.hid.tree import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Path:
    """Which nodes are meant."""

    def __init__(self, steps: list[tuple[str, dict[str, str]]]) -> None:
        self.steps = steps
        """From the top-level node on: a type, and the attributes that a node must have with these values."""

    @classmethod
    def parse(cls, text: str) -> Path:
        """The path of nodes that ``text`` is; raises `BadPath`."""
        path, rest = _parse(text)
        if rest is not None:
            raise BadPath(f"{grammar.shown(text)}: nothing is expected behind the nodes")
        return path

    def find(self, root: Node) -> list[Node]:
        """The nodes that it leads to, in the order of the tree."""
        found = [root] if _meets(root, *self.steps[0]) else []
        for type, conditions in self.steps[1:]:
            found = [
                item
                for node in found
                for item in node.content
                if isinstance(item, Node) and _meets(item, type, conditions)
            ]
        return found


def parse_question(text: str) -> tuple[Path, str | None]:
    """A path of nodes, and the tag that is asked for: None for the nodes themselves. Raises `BadPath`."""
    path, rest = _parse(text)
    if rest is None:
        return path, None
    if len(rest) != 1 or not grammar.identifier(rest[0]):
        raise BadPath(f"{grammar.shown(text)}: one attribute's tag is expected behind '| :'")
    return path, rest[0]


def parse_assignment(text: str) -> tuple[Path, Mapping[str, str]]:
    """A path of nodes, and the values that attributes of them get. Raises `BadPath`."""
    path, rest = _parse(text)
    values = dict(_condition(text, part) for part in rest or ())
    if not values:
        raise BadPath(f"{grammar.shown(text)}: '| : tag: value' is expected behind the nodes")
    return path, values


def _parse(text: str) -> tuple[Path, list[str] | None]:
    parts = [part.strip(" ") for part in text.split("|")]
    steps: list[tuple[str, dict[str, str]]] = []
    for index, part in enumerate(parts):
        if index and (part == ":" or part.startswith(": ")):
            return Path(steps), [part[1:].strip(" "), *parts[index + 1 :]]
        if not index or part.startswith(("+ ", "x ")):
            type, _, name = (part[2:] if index else part).strip(" ").partition(" ")
            if not grammar.identifier(type):
                raise BadPath(f"{grammar.shown(text)}: {grammar.shown(type)} is no type of a node")
            steps.append((type, {"name": name.strip(" ")} if name else {}))
        else:
            tag, value = _condition(text, part)
            steps[-1][1][tag] = value
    return Path(steps), None


def _condition(text: str, part: str) -> tuple[str, str]:
    tag, colon, value = part.partition(":")
    value = value.strip(" ")
    if not colon or not grammar.identifier(tag):
        raise BadPath(f"{grammar.shown(text)}: {grammar.shown(part)} is neither a node ('+ type') nor 'tag: value'")
    if not grammar.value(value):
        raise BadPath(
            f"{grammar.shown(text)}: {grammar.shown(value)} cannot be a value ({grammar.why_no_value(value)})"
        )
    return tag, value


def _meets(node: Node, type: str, conditions: Mapping[str, str]) -> bool:
    return node.type == type and all(node.has(tag) and node.get(tag) == conditions[tag] for tag in conditions)
