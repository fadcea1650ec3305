"""The strict reader: the rules for files and tools (doc/hid.txt of Genode, Syntax).

Stricter than the document in three points, since a configuration that Genode reads otherwise than its author is worse
than one that is refused: attributes come before sub nodes and quoted content, and deeper than the node they belong
to; a node has sub nodes or quoted content; nothing stands behind the end marker.
"""

from __future__ import annotations

import re

from capsa.hid.errors import SyntaxViolation, TooLarge
from capsa.hid.grammar import CONTROL, IDENTIFIER, MAX_BYTES, MAX_DEPTH, decode, shown
from capsa.hid.tree import Attribute, Comment, Node, Quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

# Bars and spaces that only guide the eye, then one of: node, attribute, comment, quoted content.
_SEGMENT = re.compile(
    r"(?: *\|(?= |$))* *(?:"
    rf"([+x]) ({IDENTIFIER})(?:(?= )([^|]*))?"
    rf"|({IDENTIFIER}):(?:(?= )([^|]*))?"
    r"|([.:])(?: (.*)|$))"
)
_NODE, _TYPE, _NAME, _TAG, _VALUE, _MARK, _LINE = range(1, 8)
_NOTHING = re.compile(r"[ |]*\Z")
_TOP = re.compile(rf"({IDENTIFIER})(?:(?= )([^|]*))?")
_LOOKS_LIKE_TAG = re.compile(rf"{IDENTIFIER}:(?: |$)")


def read(text: str | bytes, *, most: int = MAX_BYTES) -> Node:
    """The tree of a HID text of at most ``most`` bytes; raises `SyntaxViolation` or `TooLarge` with line and column."""
    return _Reader(decode(text, most)).read()


class _Reader:
    def __init__(self, text: str) -> None:
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        wrong = CONTROL.search(text)
        if wrong:
            start = text.rfind("\n", 0, wrong.start()) + 1
            line, column = text.count("\n", 0, wrong.start()) + 1, wrong.start() - start + 1
            raise SyntaxViolation(f"control character 0x{ord(wrong[0]):02x}", line, column)
        self.lines = text.split("\n")
        self.tabs = "\t" in text
        self.number = 0
        self.open: list[Node] = []
        """The node that comes next may belong to one of these; the last is the one that attributes belong to."""
        self.columns: list[int] = []
        self.tags: set[str] = set()
        self.quoted = False
        """What the last of them has: the tags of its attributes, whether quoted content."""
        self.gap = False

    def read(self) -> Node:
        root, ended = None, False
        for line in self.lines:
            self.number += 1
            if not line or line.isspace():
                self.gap = True
                if "\t" in line:
                    self._fail(line.index("\t"), "a tab cannot indent")
                continue
            if ended:
                self._fail(0, "text behind the end marker '-' is never read")
            if line[0] == "-" and not line[1:].strip(" "):
                if root is None:
                    self._fail(0, "the end marker '-' stands where the top-level node should")
                ended = True
            elif root is None:
                root = self._top(line)
            else:
                self._segments(line, 0)
        if root is None:
            self._fail(0, "there is no top-level node")
        if not ended:
            self.number = len(self.lines)
            self._fail(0, "the end marker '-' is missing")
        return root

    def _top(self, line: str) -> Node:
        found = _TOP.match(line)
        if found is None or (line[found.end() :] and line[found.end()] != "|"):
            if line[:2] == ". " or line == ".":
                self._fail(0, "a comment cannot stand above the top-level node")
            self._fail(
                0, f"{shown(line)} is no top-level node (a type, such as 'config', at the beginning of the line)"
            )
        if self.gap:
            self._fail(0, "the top-level node must be on the first line, or Genode does not find it")
        root = Node(found[1])
        root.line, root.column = self.number, 1
        self.open, self.columns = [root], [-1]
        self._name(root, found[2], found.start(2), line)
        if found.end() < len(line):
            self._segments(line, self._next(line, found.end()))
        return root

    def _segments(self, line: str, position: int) -> None:
        """Read a line from ``position`` on, which is its beginning or just behind a ``|``."""
        first = position == 0
        while True:
            found = _SEGMENT.match(line, position)
            if found is None:
                self._diagnose(line, position)
                return
            kind = found.lastindex
            if kind in (_NAME, _TYPE):
                self._node(line, found, first)
            elif kind in (_VALUE, _TAG):
                self._attribute(line, found)
            elif found[_MARK] == ":":
                self._quote(found[_LINE] or "", found.start(_MARK))
                return
            else:
                self._comment(found[_LINE] or "", found.start(_MARK), first)
                return
            first = False
            position = found.end()
            if position == len(line):
                return
            position = self._next(line, position)

    def _next(self, line: str, position: int) -> int:
        """Behind the ``|`` at ``position`` that ends a segment."""
        if line[position] != "|":
            word = line[:position].split(" ")[-1]
            if word.endswith(":"):
                self._fail(position, f"a space is missing between '{word}' and its value")
            if line[position] == ":":
                self._fail(position - len(word) - 2, f"'+' begins a node, '{word}:' is an attribute")
            self._fail(position, f"{shown(line[position:])} is not expected behind '{word}'")
        if line[position - 1] != " " or line[position + 1 : position + 2] != " ":
            self._fail(position, "'|' needs a space on both sides")
        return position + 1

    def _node(self, line: str, found: re.Match[str], first: bool) -> None:
        column = found.start(_NODE)
        opened, columns = self.open, self.columns
        if self.quoted and column > columns[-1]:
            self._fail(column, f"'{opened[-1].type}' has quoted content, so it cannot have sub nodes")
        self.quoted = False
        while columns[-1] >= column:
            opened.pop()
            columns.pop()
        parent = opened[-1]
        if column - columns[-1] == 1 and columns[-1] >= 0:
            self._fail(column, f"a sub node of '{parent.type}' is indented by two spaces at least")
        if len(opened) > MAX_DEPTH:
            raise TooLarge(f"more than {MAX_DEPTH} levels of nodes", self.number, column + 1)
        node = Node(found[_TYPE])
        node.enabled = found[_NODE] == "+"
        node.line, node.column = self.number, column + 1
        if first and self.gap:
            node.gap = True
            self.gap = False
        parent.content.append(node)
        opened.append(node)
        columns.append(column)
        self._name(node, found[_NAME], found.start(_NAME), line)

    def _name(self, node: Node, text: str | None, start: int, line: str) -> None:
        self.tags = set()
        if text is None:
            return
        name = text.strip(" ")
        if not name:
            return
        start += len(text) - len(text.lstrip(" "))
        if _LOOKS_LIKE_TAG.match(name):
            self._fail(start, f"'|' is missing before the attribute '{name.split(':')[0]}'")
        if self.tabs and "\t" in name:
            self._fail(line.index("\t", start), "a tab cannot be part of a name")
        node.attributes.append(Attribute("name", name, self.number, start + 1))
        self.tags.add("name")

    def _attribute(self, line: str, found: re.Match[str]) -> None:
        node, column, tag = self.open[-1], found.start(_TAG), found[_TAG]
        if column <= self.columns[-1]:
            self._fail(
                column, f"attribute '{tag}' is not deeper than '{node.type}' of line {node.line}, whose it would be"
            )
        if tag in self.tags:
            self._fail(column, f"attribute '{tag}' is there twice")
        value = (found[_VALUE] or "").strip(" ")
        if self.tabs and "\t" in value:
            self._fail(line.index("\t", column), f"a tab cannot be part of the value of '{tag}'")
        if node.content:
            self._comments_before(node, column, tag)
        self.gap = False
        self.tags.add(tag)
        node.attributes.append(Attribute(tag, value, self.number, column + 1))

    def _comments_before(self, node: Node, column: int, tag: str) -> None:
        """What stands between two attributes: comments, which describe the first, and nothing else."""
        if not all(type(item) is Comment for item in node.content):
            self._fail(column, f"attribute '{tag}' comes after the quoted content of '{node.type}'")
        lines = [item.text for item in node.content if isinstance(item, Comment)]
        last = node.attributes[-1] if node.attributes else node
        last.comments = [*last.comments, *lines]
        node.content.clear()

    def _quote(self, text: str, column: int) -> None:
        node = self.open[-1]
        if column <= self.columns[-1]:
            self._fail(
                column, f"quoted content is not deeper than '{node.type}' of line {node.line}, whose it would be"
            )
        self.gap = False
        self.quoted = True
        node.content.append(Quote(text, self.number))

    def _comment(self, text: str, column: int, first: bool) -> None:
        if not first:
            last = self.open[-1].attributes[-1] if self.open[-1].attributes else self.open[-1]
            if last.note is None and not self.open[-1].content and not last.comments:
                last.note = text
                return
        index = len(self.open) - 1
        while self.columns[index] >= column:
            index -= 1
        node = self.open[index]
        node.content.append(Comment(text, self.number, gap=self.gap))
        self.gap = False

    def _diagnose(self, line: str, position: int) -> None:
        """Why what stands at ``position`` is no segment; returns where there is nothing but guides for the eye."""
        rest = line[position:]
        begin = position + len(rest) - len(rest.lstrip(" |"))
        bars = rest[: begin - position]
        if _NOTHING.match(rest) and position == 0 and not re.search(r"\|\|", rest):
            self.gap = False
            return
        if begin == len(line):
            self._fail(len(line) - 1, "a '|' at the end of a line separates nothing")
        wrong = re.search(r"\|(?! |$)", bars + "x")
        if wrong:
            self._fail(position + wrong.start(), "'|' needs a space on both sides")
        text = line[begin:]
        if text[0] == "\t":
            self._fail(begin, "a tab cannot indent")
        if text[0] in "+x" and text[1:2] == " ":
            if text[2:3] == " ":
                self._fail(begin + 2, f"'{text[0]}' is followed by one space")
            self._fail(begin + 2, f"{shown(text[2:])} does not begin with a type (a-z, then a-z, 0-9, '_', '-')")
        if text[0] in "+.:":
            self._fail(begin, f"'{text[0]}' is followed by a space")
        word = re.match(rf"({IDENTIFIER})(?![:a-z])", text)
        if word and begin == 0:
            self._fail(begin, f"'{word[1]}' would be a second top-level node")
        self._fail(
            begin, f"{shown(text)} is no attribute ('tag: value'), node ('+'), comment ('.') or quoted line (':')"
        )

    def _fail(self, position: int, message: str) -> NoReturn:
        raise SyntaxViolation(message, self.number, position + 1)
