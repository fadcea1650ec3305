"""Edits of a text that leave the rest of it as it is: its layout, its comments, its empty lines.

An edit is made twice, in the text and in its tree. Where the text then does not read as the tree, the layout was in
the way, and the tree is written anew.
"""

from __future__ import annotations

from capsa.hid.errors import BadPath, SyntaxViolation
from capsa.hid.grammar import bare
from capsa.hid.path import Path
from capsa.hid.strict import read
from capsa.hid.tree import Attribute, Comment, Node, Quote
from capsa.hid.writer import write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def set_values(text: str, path: Path, values: Mapping[str, str]) -> str:
    """Give attributes of the nodes that ``path`` finds these values; raises `BadPath` where it finds none."""

    def change(edit: _Edit, node: Node) -> None:
        edit.assign(node, values)

    return _edited(text, path, change)


def set_enabled(text: str, path: Path, enabled: bool) -> str:
    """Enable or disable the nodes that ``path`` finds; raises `BadPath` where it finds none, or the top-level node."""

    def change(edit: _Edit, node: Node) -> None:
        edit.replace(node.line, node.column - 1, 1, "+" if enabled else "x")
        node.enabled = enabled

    return _edited(text, path, change, top=False)


def remove(text: str, path: Path) -> str:
    """Remove the nodes that ``path`` finds; raises `BadPath` where it finds none, or the top-level node."""

    def change(edit: _Edit, node: Node) -> None:
        edit.remove(node)

    return _edited(text, path, change, top=False)


def _edited(text: str, path: Path, change: Callable[[_Edit, Node], None], *, top: bool = True) -> str:
    root = read(text)
    nodes = path.find(root)
    if not nodes:
        raise BadPath("no node is found by the path")
    if not top and nodes[0] is root:
        raise BadPath("this cannot be done to the top-level node")
    edit = _Edit(text, root)
    for node in nodes:
        change(edit, node)
    if edit.gone:
        for node in list(root.walk()):
            node.content = [item for item in node.content if id(item) not in edit.gone]
    try:
        result = edit.result()
        if read(result) == root:
            return result
    except SyntaxViolation:
        pass  # the tree is right, or the writer says what is wrong with it
    return write(root)


class _Edit:
    """What is to change in the lines of a text."""

    def __init__(self, text: str, root: Node) -> None:
        self.root = root
        self.lines = text.split("\n")
        self.changes: list[tuple[int, int, int, str]] = []
        self.after: dict[int, list[str]] = {}
        self.dropped: set[int] = set()
        self.gone: set[int] = set()

    def replace(self, line: int, start: int, length: int, new: str) -> None:
        """In a line (from 1), ``length`` characters from ``start`` (from 0) on become ``new``."""
        self.changes.append((line, start, length, new))

    def assign(self, node: Node, values: Mapping[str, str]) -> None:
        """Give a node's attributes values, those that are there where they are."""
        there = {attribute.tag: attribute for attribute in node.attributes}
        for tag in values:
            if tag in there:
                self._revalue(there[tag], values[tag])
        new = {tag: value for tag, value in values.items() if tag not in there}
        if "name" in new:
            name = new.pop("name")
            words = f" {name}" if bare(name) else f" | name: {name}".rstrip(" ")
            self.replace(node.line, self._behind_type(node), 0, words)
        if new:
            self._attach(node, new)
        for tag, value in values.items():
            node.set(tag, value)

    def _behind_type(self, node: Node) -> int:
        return node.column - 1 + (0 if node is self.root else 2) + len(node.type)

    def _revalue(self, attribute: Attribute, value: str) -> None:
        start = attribute.column - 1
        line = self.lines[attribute.line - 1]
        if line.startswith(attribute.tag + ":", start):
            start += len(attribute.tag) + 1
            if not attribute.value:
                value = f" {value}"
        elif not bare(value):
            value = f"| name: {value}".rstrip(" ")
        start = line.index(attribute.value, start)
        self.replace(attribute.line, start, len(attribute.value), value)

    def _attach(self, node: Node, values: Mapping[str, str]) -> None:
        """New attributes behind the last, or below it where each has a line or a comment is in the way."""
        last = node.attributes[-1] if node.attributes else None
        if last is not None and last.line != node.line:
            start = last.column - 1
            room = self._end(last) - len(last.value) - start if last.value else 0
            for tag, value in values.items():
                words = f"{tag + ':':{room}}".ljust(len(tag) + 2) + value
                self._below(last.line, self.lines[last.line - 1][:start], words)
        elif (node if last is None else last).note is not None:
            for tag, value in values.items():
                self._below(node.line, " " * (node.column + 1), f"{tag}: {value}")
        else:
            start = self._behind_type(node) if last is None else self._end(last)
            words = "".join(f" | {tag}: {value}".rstrip(" ") for tag, value in values.items())
            self.replace(node.line, start, 0, words)

    def _below(self, line: int, indent: str, words: str) -> None:
        end = "\r" if self.lines[line - 1].endswith("\r") else ""
        self.after.setdefault(line, []).append(indent + words.rstrip(" ") + end)

    def _end(self, attribute: Attribute) -> int:
        """Behind the value, in its line."""
        line, start = self.lines[attribute.line - 1], attribute.column - 1
        if line.startswith(attribute.tag + ":", start):
            start += len(attribute.tag) + 1
        return line.index(attribute.value, start) + len(attribute.value)

    def remove(self, node: Node) -> None:
        line = self.lines[node.line - 1]
        if line[: node.column - 1].strip(" |"):
            before = line[: node.column - 1].rstrip(" ").removesuffix("|").rstrip(" ")
            self.replace(node.line, len(before), len(line) - len(before), "")
            first = node.line + 1
        else:
            first = node.line
        self.dropped.update(range(first, _last_line(node) + 1))
        if node.gap:
            above = node.line - 1
            while above and not self.lines[above - 1].strip(" \r"):
                self.dropped.add(above)
                above -= 1
        self.gone.add(id(node))

    def result(self) -> str:
        for number, start, length, new in sorted(self.changes, reverse=True):
            self.lines[number - 1] = _replaced(self.lines[number - 1], start, length, new)
        lines = []
        for number, line in enumerate(self.lines, 1):
            if number not in self.dropped:
                lines.append(line)
            lines += self.after.get(number, ())
        return "\n".join(lines)


def _replaced(line: str, start: int, length: int, new: str) -> str:
    """The line with another word in it; what follows stays in its column if there is room."""
    rest = line[start + length :]
    bar = rest.lstrip(" ")
    if bar.startswith("|"):
        room = len(rest) - len(bar)
        rest = " " * max(1, room - (len(new) - length)) + bar
    return line[:start] + new + rest


def _last_line(node: Node) -> int:
    last = node.line
    for inner in node.walk():
        last = max(last, inner.line, *(attribute.line for attribute in inner.attributes), 0)
        last = max(last, *(item.line for item in inner.content if isinstance(item, Quote | Comment)), 0)
    return last
