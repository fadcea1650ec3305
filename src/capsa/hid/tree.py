"""A HID document as a tree: nodes with attributes, in order, with comments and disabled nodes."""

from __future__ import annotations

from capsa.hid.errors import NotRepresentable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import TypeAlias

    Value: TypeAlias = "str | int | bool"
    Item: TypeAlias = "Node | Quote | Comment"


def as_text(value: Value) -> str:
    """How a value is written: ``yes`` and ``no`` for truth values."""
    if value is True:
        return "yes"
    if value is False:
        return "no"
    return value if isinstance(value, str) else str(value)


class Quote:
    """One line of quoted content (``: text``); many of them are a text of many lines."""

    __slots__ = ("line", "text")

    def __init__(self, text: str, line: int = 0) -> None:
        self.text = text
        self.line = line
        """Where it was read, from 1; 0 if it was not. Not part of what makes two trees equal."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quote) and self.text == other.text

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Quote({self.text!r})"


class Comment:
    """One line of comment that stands by itself (``. text``)."""

    __slots__ = ("gap", "line", "text")

    def __init__(self, text: str, line: int = 0, *, gap: bool = False) -> None:
        self.text = text
        self.line = line
        self.gap = gap
        """Whether an empty line stands before it."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Comment) and self.text == other.text and self.gap == other.gap

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Comment({self.text!r})"


class Attribute:
    """A tag with its value. A node's name is the attribute ``name``."""

    __slots__ = ("column", "comments", "line", "note", "tag", "value")

    def __init__(self, tag: str, value: Value, line: int = 0, column: int = 0) -> None:
        self.tag = tag
        self.value: str = value if isinstance(value, str) else as_text(value)
        self.line = line
        self.column = column
        """Where the tag was read, or the value of a name that has no tag."""
        self.note: str | None = None
        """A comment behind it on its line."""
        self.comments: Sequence[str] = ()
        """Lines of comment between it and the next attribute."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Attribute)
            and self.tag == other.tag
            and self.value == other.value
            and self.note == other.note
            and list(self.comments) == list(other.comments)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Attribute({self.tag!r}, {self.value!r})"


class Node:
    """A node: its type, its attributes, and then its content (sub nodes, or quoted lines; comments among them)."""

    __slots__ = ("attributes", "column", "comments", "content", "enabled", "gap", "line", "note", "type")

    def __init__(
        self,
        type: str,
        attributes: Mapping[str, Value] | Iterable[Attribute] = (),
        content: Iterable[Item] = (),
        *,
        enabled: bool = True,
    ) -> None:
        self.type = type
        if hasattr(attributes, "items"):
            attributes = [Attribute(tag, value) for tag, value in attributes.items()]
        self.attributes: list[Attribute] = list(attributes)
        self.content: list[Item] = list(content)
        self.enabled = enabled
        """False for a node that is there and not meant (``x`` instead of ``+``)."""
        self.gap = False
        """Whether an empty line stands before it."""
        self.note: str | None = None
        """A comment behind its type, on the same line, where it has no name (a name has its own)."""
        self.comments: Sequence[str] = ()
        """Lines of comment between its type and its first attribute."""
        self.line = 0
        self.column = 0
        """Where it was read: the ``+``, or the type of the top-level node."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Node)
            and self.type == other.type
            and self.enabled == other.enabled
            and self.gap == other.gap
            and self.note == other.note
            and self.attributes == other.attributes
            and list(self.comments) == list(other.comments)
            and self.content == other.content
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        name = f" {self.name}" if self.has("name") else ""
        return f"<{'' if self.enabled else 'disabled '}{self.type}{name}>"

    # Attributes

    @property
    def name(self) -> str:
        """The value of the attribute ``name``; empty where there is none."""
        return self.get("name")

    def get(self, tag: str, default: str = "") -> str:
        """The value of an attribute."""
        for attribute in self.attributes:
            if attribute.tag == tag:
                return attribute.value
        return default

    def has(self, tag: str) -> bool:
        """Whether the attribute is there."""
        return any(attribute.tag == tag for attribute in self.attributes)

    def set(self, tag: str, value: Value) -> None:
        """Give an attribute a value, in its place if it is there; a new name comes first, all else last."""
        for attribute in self.attributes:
            if attribute.tag == tag:
                attribute.value = as_text(value)
                return
        self.attributes.insert(0 if tag == "name" else len(self.attributes), Attribute(tag, value))

    def unset(self, tag: str) -> None:
        """Remove an attribute, if it is there."""
        self.attributes = [attribute for attribute in self.attributes if attribute.tag != tag]

    # Content

    def nodes(self, type: str | None = None, *, disabled: bool = False) -> list[Node]:
        """The sub nodes, or those of a type; disabled ones only on request."""
        return [
            item
            for item in self.content
            if isinstance(item, Node) and (type is None or item.type == type) and (item.enabled or disabled)
        ]

    def node(self, type: str, name: str | None = None) -> Node | None:
        """The first enabled sub node of a type (and a name)."""
        for item in self.content:
            if isinstance(item, Node) and item.enabled and item.type == type and (name is None or item.name == name):
                return item
        return None

    def add(self, node: Node) -> Node:
        """Append a sub node; returns it."""
        self.content.append(node)
        return node

    @property
    def text(self) -> str | None:
        """The quoted content, its lines joined; None where there is none.

        As at run time, quoted content of a node that has sub nodes is not there.
        """
        lines = []
        for item in self.content:
            if isinstance(item, Quote):
                lines.append(item.text)
            elif isinstance(item, Node) and item.enabled:
                return None
        return "\n".join(lines) if lines else None

    @text.setter
    def text(self, text: str | None) -> None:
        if text is not None and any(isinstance(item, Node) for item in self.content):
            raise NotRepresentable(f"quoted content cannot stand beside the sub nodes of '{self.type}'")
        self.content = [item for item in self.content if not isinstance(item, Quote)]
        if text is not None:
            self.content += [Quote(line) for line in text.split("\n")]

    def walk(self) -> Iterator[Node]:
        """This node and all below it, disabled ones too, in the order of the text."""
        pending = [self]
        while pending:
            node = pending.pop()
            yield node
            pending += [item for item in reversed(node.content) if isinstance(item, Node)]

    @property
    def heading(self) -> str:
        """Type and name, as they begin a line."""
        name = self.name
        return f"{self.type} {name}" if name else self.type


def path_of(nodes: Iterable[Node]) -> str:
    """How a node is found, as in a query: ``config | + start timer | + route``."""
    return " | + ".join(node.heading for node in nodes)
