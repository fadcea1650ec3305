"""The writer: a tree as text that reads well, the same text whenever the tree is the same.

A node with its attributes is one line where that fits, an attribute a line otherwise. What follows one another and is
alike is a table: the routes of a child, policies, reports. A node that is the only one in another may stand behind it
on its line; it never does where another follows it at its depth, since Genode 26.02 would take that for a sub node of
it.
"""

from __future__ import annotations

from capsa.hid import grammar
from capsa.hid.errors import HidError, NotRepresentable, TooLarge
from capsa.hid.tree import Attribute, Comment, Node, Quote, path_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Level: TypeAlias = "list[str]"
    """A node within a line: its type and name, then its attributes; or a quoted line, or a comment."""
    Row: TypeAlias = "list[Level]"

WIDTH = 80
"""The columns that a node with its attributes may have on one line."""
TABLE = 100
"""The same for what is a table, or has nothing below it."""


def write(node: Node) -> str:
    """The text of a tree, with its end marker; raises `NotRepresentable` (which says where) or `TooLarge`."""
    writer = _Writer()
    try:
        writer.top(node)
    except HidError as error:
        if writer.path and not isinstance(error, TooLarge):
            raise type(error)(f"{path_of(writer.path)}: {error.message}") from None
        raise
    return "\n".join(writer.out) + "\n-\n"


class _Writer:
    def __init__(self) -> None:
        self.out: list[str] = []
        self.path: list[Node] = []
        """The nodes that are being written, to say where something is wrong."""

    def top(self, node: Node) -> None:
        self.path.append(node)
        if not node.enabled:
            raise NotRepresentable("the top-level node cannot be disabled")
        self._broken(node, "", 2, 0)

    def _node(self, node: Node, column: int) -> None:
        """A node on lines of its own, with what is in it below."""
        self.path.append(node)
        if len(self.path) > grammar.MAX_DEPTH + 1:
            raise TooLarge(f"more than {grammar.MAX_DEPTH} levels of nodes")
        if node.gap:
            self.out.append("")
        indent = " " * column
        self._broken(node, indent + ("+ " if node.enabled else "x "), column + 2, column + 2)
        self.path.pop()

    def _broken(self, node: Node, begin: str, attributes: int, content: int) -> None:
        """The lines of a node: ``begin`` and its type, attributes at a column, content at another."""
        self._attributes(node, begin, " " * attributes)
        self._content(node, content)

    def _attributes(self, node: Node, begin: str, indent: str) -> None:
        level = _level(node, begin)
        if not _annotated(node):
            line = " | ".join(level)
            if len(line) <= WIDTH or len(level) == 1 or (len(level) == 2 and len(level[0]) <= WIDTH):
                self.out.append(line)
                return
        self.out.append(level[0])
        out, rest = self.out, node.attributes
        if node.note is not None:
            out[-1] += _note(node.note)
        for text in node.comments:
            out.append(indent + _comment(text))
        if rest and len(level) == len(rest):  # the name stands behind the type
            self._annotations(rest[0], indent)
            rest = rest[1:]
        width = max((len(attribute.tag) for attribute in rest), default=0) + 2
        for attribute in rest:
            line = f"{indent}{attribute.tag + ':':{width}}{attribute.value}"
            out.append(line.rstrip(" "))
            self._annotations(attribute, indent)

    def _annotations(self, attribute: Attribute, indent: str) -> None:
        if attribute.note is not None:
            self.out[-1] += _note(attribute.note)
        for text in attribute.comments:
            self.out.append(indent + _comment(text))

    def _content(self, node: Node, column: int) -> None:
        room = TABLE - column
        rows: list[Row] = []
        before: Node | None = None
        quoted = nodes = False
        for item in node.content:
            if isinstance(item, Node):
                nodes = True
                try:
                    row = _row(item, room)
                except NotRepresentable:
                    self.path += _to_blame(item)
                    raise
                if row is None or item.gap or before is None or not _alike(before, item, rows[-1], row):
                    self._table(rows, column)
                    rows = []
                if row is None:
                    before = None
                    self._node(item, column)
                else:
                    if item.gap:
                        self.out.append("")
                    rows.append(row)
                    before = item
                continue
            if rows:
                self._table(rows, column)
                rows, before = [], None
            if isinstance(item, Quote):
                quoted = True
                grammar.check_line(item.text, "the quoted line")
                self.out.append(" " * column + (f": {item.text}" if item.text else ":"))
            else:
                if item.gap:
                    self.out.append("")
                self.out.append(" " * column + _comment(item.text))
        self._table(rows, column)
        if quoted and nodes:
            raise NotRepresentable("a node has sub nodes or quoted content, not both")

    def _table(self, rows: list[Row], column: int) -> None:
        if not rows:
            return
        indent = " " * column
        if len(rows) == 1:
            self.out.append(indent + " | ".join([" | ".join(level) for level in rows[0]]))
            return
        lines = _aligned(rows)
        if max(map(len, lines)) + column > TABLE:
            lines = [" | ".join([" | ".join(level) for level in row]) for row in rows]
        self.out += [indent + line for line in lines]


def _level(node: Node, begin: str = "") -> Level:
    """Type and name behind ``begin``, then the attributes, each as it is written; raises `NotRepresentable`."""
    if not grammar.identifier(node.type):
        raise NotRepresentable(f"{grammar.shown(node.type)} cannot be a node's type (a-z, then a-z, 0-9, '_', '-')")
    head = begin + node.type
    attributes = node.attributes
    if not attributes:
        return [head]
    level = [head]
    for attribute in attributes:
        tag, value = attribute.tag, attribute.value
        if not grammar.value(value):
            raise NotRepresentable(f"attribute '{tag}' is {grammar.shown(value)}, but {grammar.why_no_value(value)}")
        if tag == "name" and attribute is attributes[0] and grammar.bare(value):
            level[0] = f"{head} {value}"
            continue
        if not grammar.identifier(tag):
            raise NotRepresentable(f"{grammar.shown(tag)} cannot be an attribute's tag (a-z, then a-z, 0-9, '_', '-')")
        level.append(f"{tag}: {value}" if value else f"{tag}:")
    if len(attributes) > 1 and len({attribute.tag for attribute in attributes}) < len(attributes):
        raise NotRepresentable("an attribute is there twice")
    return level


def _annotated(node: Node) -> bool:
    """Whether comments belong to its type or attributes."""
    if node.note is not None or node.comments:
        return True
    return any(attribute.note is not None or attribute.comments for attribute in node.attributes)


def _row(node: Node, room: int) -> Row | None:
    """The node and all in it as one line of at most ``room`` columns, or None where it needs more than that."""
    row: Row = []
    begin = "+ " if node.enabled else "x "
    while True:
        content = node.content
        if len(content) > 1:
            return None
        level = _level(node, begin)
        row.append(level)
        room -= sum(map(len, level)) + 3 * len(level)
        if room < -3:
            return None
        if _annotated(node):
            note = _last_note(node)
            if note is None or content:
                return None
            row.append([_comment(note)])
            return row if room - len(row[-1][0]) >= 0 else None
        if not content:
            return row
        item = content[0]
        if isinstance(item, Quote):
            grammar.check_line(item.text, "the quoted line")
            row.append([f": {item.text}" if item.text else ":"])
            return row if room - len(row[-1][0]) >= 0 else None
        if isinstance(item, Comment) or item.gap or (item.content and len(level) > 1):
            return None
        begin = "+ " if item.enabled else "x "
        node = item


def _to_blame(node: Node) -> list[Node]:
    """The nodes that `_row` went through until one could not be written."""
    way = [node]
    while True:
        try:
            _level(node)
        except NotRepresentable:
            return way
        if len(node.content) != 1 or not isinstance(node.content[0], Node):
            return way
        node = node.content[0]
        way.append(node)


def _last_note(node: Node) -> str | None:
    """The comment at the end of the node's line, if there is no other."""
    if not node.attributes:
        return node.note if not node.comments else None
    if node.note is not None or node.comments or any(attribute.comments for attribute in node.attributes):
        return None
    if any(attribute.note is not None for attribute in node.attributes[:-1]):
        return None
    return node.attributes[-1].note


def _note(text: str) -> str:
    return " | " + _comment(text)


def _comment(text: str) -> str:
    grammar.check_line(text, "the comment")
    return f". {text}" if text else "."


def _alike(one: Node, other: Node, row: Row, next_row: Row) -> bool:
    """Whether two nodes that follow one another belong into one table."""
    a, b = one.type, other.type
    if (one.content or other.content) and (a == b or a.endswith("-" + b) or b.endswith("-" + a)):
        return True
    if one.content or other.content or len(row[0]) < 2 or len(next_row[0]) < 2:
        return False
    return all(x.tag == y.tag for x, y in zip(one.attributes, other.attributes, strict=False)) or (
        a == b and row[0][1].partition(":")[0] == next_row[0][1].partition(":")[0]
    )


def _aligned(rows: list[Row]) -> list[str]:
    """The lines of a table: attributes below those of the same tag, nodes below nodes."""
    depth = max(map(len, rows))
    lines = [""] * len(rows)
    for index in range(depth):
        having = [number for number, row in enumerate(rows) if len(row) > index]
        if index:
            width = max(len(lines[number]) for number in having)
            for number in having:
                lines[number] = f"{lines[number]:{width}} | "
        levels = [rows[number][index] for number in having]
        common = _common(levels)
        for position in range(common):
            width = max(len(level[position]) for level in levels)
            for number, level in zip(having, levels, strict=True):
                last = position == len(level) - 1
                lines[number] += level[position] if last else f"{level[position]:{width}} | "
        for number, level in zip(having, levels, strict=True):
            lines[number] += " | ".join(level[common:])
    return lines


def _common(levels: list[Level]) -> int:
    """How many parts at the beginning of all levels are alike: type and name, and then the same tags."""
    shortest = min(map(len, levels))
    if shortest < 2:
        return 0
    for position in range(1, shortest):
        tags = {level[position].partition(":")[0] for level in levels}
        if len(tags) > 1:
            return position if position > 1 else 0
    return shortest
