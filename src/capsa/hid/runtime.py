"""Where Genode would read a text otherwise at run time than it is meant by the rules for files.

There is one case that reads well and is not understood: a node behind another on its line, and a further one for the
same parent below it. Genode 26.02 takes the further one for a sub node of the first::

    + node nic | + attr name
               | + attr label
"""

from __future__ import annotations

from capsa.hid.errors import SyntaxViolation
from capsa.hid.relaxed import read_relaxed
from capsa.hid.schema import MOST_PROBLEMS, Problem
from capsa.hid.tree import Node, path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, TypeAlias

    _Above: TypeAlias = tuple[Node, Any] | None
    """The nodes above one, innermost first."""


def misread(text: str | bytes, document: Node) -> list[Problem]:
    """What of a text, whose tree by the strict rules is ``document``, is something else at run time."""
    try:
        seen = read_relaxed(text)
    except SyntaxViolation as error:
        return [Problem(error.line, error.column, document.heading, f"Genode refuses it all: {error.message}")]
    known = {_place(node): (node, above) for node, above in _nodes(seen)}
    problems: list[Problem] = []
    for node, above in _nodes(document):
        if len(problems) >= MOST_PROBLEMS:
            break
        there, above_there = known.get(_place(node), (None, None))
        if there is None:
            message = "is not there at run time"
        elif above is not None and above_there is not None and _place(above[0]) != _place(above_there[0]):
            message = f"is in '{_path(*above_there)}' at run time"
        elif _attributes(node) != _attributes(there):
            message = f"has other attributes at run time: {_attributes(there)}"
        elif node.text != there.text:
            message = f"has other quoted content at run time: {there.text!r}"
        else:
            continue
        problems.append(Problem(node.line, node.column, _path(node, above), message))
    return problems


def _place(node: Node) -> tuple[int, int]:
    return node.line, node.column


def _attributes(node: Node) -> dict[str, str]:
    return {attribute.tag: attribute.value for attribute in node.attributes}


def _path(node: Node, above: _Above) -> str:
    nodes = [node]
    while above is not None:
        node, above = above
        nodes.append(node)
    return path_of(reversed(nodes))


def _nodes(root: Node) -> Iterator[tuple[Node, _Above]]:
    """All nodes that count, in order, each with what is above it."""
    pending: list[tuple[Node, _Above]] = [(root, None)]
    while pending:
        node, above = pending.pop()
        yield node, above
        if node.content:
            further = (node, above)
            pending += [(item, further) for item in reversed(node.nodes())]
