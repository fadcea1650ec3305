"""The relaxed reader: what Genode makes of a text at run time (doc/hid.txt, Offline versus runtime interpretation).

All that is checked there is that the text begins with a node type, reaches the end marker, and has no control
characters before it; lines that are wrong are ignored, and of two attributes with one tag the first counts. Where
Genode 26.02 does something that the document does not say, this reader does as Genode does (docs/hid.md lists it).
"""

from __future__ import annotations

import re

from capsa.hid.errors import SyntaxViolation, TooLarge
from capsa.hid.grammar import IDENTIFIER, MAX_BYTES, MAX_DEPTH, decode
from capsa.hid.tree import Attribute, Comment, Node, Quote

_TYPE = re.compile(IDENTIFIER)
_TAG = re.compile(rf"({IDENTIFIER}):")
_TAG_BEFORE_SPACE = re.compile(rf"{IDENTIFIER}:(?: |$)")
_SEGMENT = re.compile(r" *(?:([+x]) ([^|]*)(?:\||$)|([.:])(?: (.*)|$)|([^|]*)(?:\||$))")
_ANCHOR, _HEAD, _MARK, _LINE, _OTHER = range(1, 6)
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f]")
_OTHER_CONTROL = re.compile("[\x00-\x08\x0b-\x1f]")

UNKNOWN = "invalid"
"""The type of a node that has none."""


def read_relaxed(text: str | bytes, *, most: int = MAX_BYTES) -> Node:
    """The tree that Genode sees in a text; raises `SyntaxViolation` where it sees none, or `TooLarge`."""
    if isinstance(text, bytes):
        if len(text) > most:
            raise TooLarge(f"more than {most} bytes")
        return _Reader(_checked(text.decode("utf-8", "replace"))).read()
    return _Reader(_checked(decode(text, most))).read()


def _checked(text: str) -> str:
    """The text up to its end marker."""
    if not _TYPE.match(text):
        raise SyntaxViolation("the text does not begin with a node type", 1, 1)
    end = text.find("\n-")
    body = text if end < 0 else text[:end]
    if _CONTROL.search(body):
        for number, line in enumerate(body.split("\n"), 1):
            # The last line ends before "\n-", so a "\r" at its end is one before a line break as well.
            _check_controls(line.removesuffix("\r"), number)
    if end < 0:
        raise SyntaxViolation("the end marker '-' is missing", text.count("\n") + 1, 1)
    return body


def _check_controls(line: str, number: int) -> None:
    """Tabs may be in comments and quoted content, which end at a ``|`` for this; no other control character may be."""
    begin = 0
    for segment in line.split("|"):
        tabs = segment.lstrip(" ").startswith((".", ":"))
        found = (_OTHER_CONTROL if tabs else _CONTROL).search(segment)
        if found:
            raise SyntaxViolation(f"control character 0x{ord(found[0]):02x}", number, begin + found.start() + 1)
        begin += len(segment) + 1


class _Open:
    """A node that what comes next may belong to, and where its words begin."""

    __slots__ = ("closed", "column", "line", "node", "tags", "within")

    def __init__(self, node: Node, line: int, column: int, within: int) -> None:
        self.node = node
        self.line = line
        self.column = column
        self.within = within
        """The column as its parent sees it, which counts from its own words if both are on one line."""
        self.tags: set[str] = set()
        self.closed = False
        """Whether an attribute that comes now is too late."""


class _Reader:
    def __init__(self, text: str) -> None:
        self.lines = text.split("\n")
        self.open: list[_Open] = []

    def read(self) -> Node:
        root = None
        for number, line in enumerate(self.lines, 1):
            line = line.removesuffix("\r")
            position = 0
            if root is None:
                head, _, _ = line.partition("|")
                root = self._begin(head, 1, 0, 0)
                root.line, root.column = 1, 1
                position = len(head) + 1
            while position < len(line):
                found = _SEGMENT.match(line, position)
                if found is None:
                    break
                if found[_ANCHOR]:
                    node = self._node(found, number)
                    if node.type == UNKNOWN and found[_HEAD]:
                        position = found.start(_HEAD)  # what should be the type is read as if it stood for itself
                        continue
                elif found[_MARK]:
                    self._line(found, number)
                else:
                    self._attribute(found[_OTHER], found.start(_OTHER), number)
                position = found.end()
        if root is None:
            raise SyntaxViolation("there is no top-level node", 1, 1)
        return root

    def _begin(self, head: str, number: int, column: int, within: int) -> Node:
        """Open a node of its type and name, which is an attribute if it looks like one."""
        type = _TYPE.match(head)
        node = Node(type[0] if type else UNKNOWN)
        self.open.append(_Open(node, number, column, within))
        name = head.partition(" ")[2].strip(" ")
        if type is None or not name:
            return node
        if _TAG_BEFORE_SPACE.match(name):
            self._attribute(name, column, number)
        else:
            self.open[-1].tags.add("name")
            node.attributes.append(Attribute("name", name, number, column + head.index(name, type.end()) + 1))
        return node

    def _node(self, found: re.Match[str], number: int) -> Node:
        column = found.start(_HEAD)
        level = 0
        while level + 1 < len(self.open):
            below = self.open[level + 1]
            if self._seen(column, number, self.open[level]) <= below.within:
                break
            level += 1
        del self.open[level + 1 :]
        if len(self.open) > MAX_DEPTH:
            raise TooLarge(f"more than {MAX_DEPTH} levels of nodes", number, column)
        parent = self.open[level]
        parent.closed = True
        node = self._begin(found[_HEAD], number, column, self._seen(column, number, parent))
        node.enabled = found[_ANCHOR] == "+"
        node.line, node.column = number, found.start(_ANCHOR) + 1
        parent.node.content.append(node)
        return node

    @staticmethod
    def _seen(column: int, number: int, parent: _Open) -> int:
        return column - parent.column if parent.line == number else column

    def _line(self, found: re.Match[str], number: int) -> None:
        last, text = self.open[-1], found[_LINE] or ""
        if found[_MARK] == ".":
            last.node.content.append(Comment(text, number))
        else:
            last.closed = True
            last.node.content.append(Quote(text, number))

    def _attribute(self, text: str, column: int, number: int) -> None:
        last = self.open[-1]
        if last.closed:
            return
        text = text.strip(" ")
        found = _TAG.match(text)
        if found is not None and found[1] not in last.tags:
            last.tags.add(found[1])
            last.node.attributes.append(Attribute(found[1], text.partition(" ")[2].strip(" "), number, column + 1))
