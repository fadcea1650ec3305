"""XML in and out, for Genode before HID and for what was written for it.

An element is a node, its text is quoted content. A comment in front of an element describes it and so becomes a
comment in the node; one behind an element on its line is a note; an element that is commented out is a disabled node.
Document types and entities of one's own are refused.
"""

from __future__ import annotations

import itertools
import re
from xml.parsers import expat

from capsa.hid import grammar
from capsa.hid.errors import HidError, NotRepresentable, SyntaxViolation, TooLarge
from capsa.hid.tree import Attribute, Comment, Node, Quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


_NO_XML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def read_xml(text: str | bytes, *, most: int = grammar.MAX_BYTES) -> Node:
    """The tree of an XML text of at most ``most`` bytes.

    Raises `SyntaxViolation` for what is no XML or what HID cannot hold, with line and column, and `TooLarge`.
    """
    if isinstance(text, bytes) and len(text) > most:
        raise TooLarge(f"more than {most} bytes")
    nodes = _Reader(grammar.decode(text, most) if isinstance(text, str) else text).read()
    return nodes[0]


def write_xml(node: Node) -> str:
    """The tree as XML; raises `NotRepresentable` or `TooLarge`."""
    if not node.enabled:
        raise NotRepresentable("the top-level node cannot be disabled")
    out: list[str] = []
    _write(node, "", out, 0, disabled=False)
    return "\n".join(out) + "\n"


class _Reader:
    def __init__(self, text: str | bytes, line: int = 1, *, inner: bool = False) -> None:
        """``line``: where the text begins in a larger one; ``inner``: a comment held it, an element was put around."""
        self.text = text
        self.first = line
        self.inner = inner
        self.top = Node("top")
        self.open: list[Node] = [self.top]
        self.pending: list[tuple[str, int]] = []
        """Lines of comments that describe what comes."""
        self.words: list[str] = []
        self.said = self.broken = False
        """Whether these words are more than space, whether they hold a line break."""
        self.last: tuple[Node, int] | None = None
        """The element that ended just now, and its line."""
        if isinstance(text, str):
            self.parser = expat.ParserCreate("UTF-8")
        else:
            self.parser = expat.ParserCreate()
        self.parser.ordered_attributes = True
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.CommentHandler = self._comment
        self.parser.StartDoctypeDeclHandler = self._doctype

    def read(self) -> list[Node]:
        """The elements at the top."""
        try:
            self.parser.Parse(self.text.encode() if isinstance(self.text, str) else self.text, True)
        except expat.ExpatError as error:
            reason = expat.ErrorString(error.code)
            raise SyntaxViolation(f"no XML: {reason}", error.lineno + self.first - 1, error.offset + 1) from None
        except HidError:
            raise
        except UnicodeEncodeError:
            raise SyntaxViolation("no XML: a character that UTF-8 does not have") from None
        except (LookupError, ValueError) as error:  # of an encoding that is named and not known
            raise SyntaxViolation(f"no XML: {error}", 1) from None
        return self.top.nodes(disabled=True)

    @property
    def line(self) -> int:
        return self.parser.CurrentLineNumber + self.first - 1

    def _fail(self, message: str) -> NoReturn:
        raise SyntaxViolation(message, self.line, self.parser.CurrentColumnNumber + 1)

    def _doctype(self, *_: object) -> None:
        self._fail("a document type is not expected")

    def _start(self, name: str, attributes: list[str]) -> None:
        if self.inner and len(self.open) == 1:
            self.open.append(self.top)
            return
        parent = self.open[-1]
        self._text(parent, sub_node=True)
        if not grammar.identifier(name):
            self._fail(f"<{name}>: a node's type in HID is a-z, then a-z, 0-9, '_', '-'")
        if len(self.open) > grammar.MAX_DEPTH + 1:
            raise TooLarge(f"more than {grammar.MAX_DEPTH} levels of nodes", self.line)
        node = Node(name)
        node.line = self.line
        for tag, value in zip(attributes[::2], attributes[1::2], strict=True):
            if not grammar.identifier(tag):
                self._fail(f"{tag}: an attribute's tag in HID is a-z, then a-z, 0-9, '_', '-'")
            if not grammar.value(value):
                self._fail(f"{tag} is {grammar.shown(value)}, but {grammar.why_no_value(value)}")
            node.attributes.append(Attribute(tag, value, node.line))
        node.attributes.sort(key=lambda attribute: attribute.tag != "name")
        node.content += [Comment(text, line) for text, line in self.pending]
        self.pending.clear()
        parent.content.append(node)
        self.open.append(node)
        self.last = None

    def _characters(self, text: str) -> None:
        self.words.append(text)
        self.said = self.said or not text.isspace()
        self.broken = self.broken or "\n" in text

    def _end(self, _: str) -> None:
        node = self.open.pop()
        if node is self.top:
            self._text(node, sub_node=True)
        else:
            self._text(node, sub_node=False)
        self._settle(node)
        self.last = node, self.line

    def _settle(self, node: Node) -> None:
        """Comments at the end describe nothing that comes."""
        node.content += [Comment(text, line) for text, line in self.pending]
        self.pending.clear()

    def _text(self, node: Node, *, sub_node: bool) -> None:
        """What stands between tags: nothing, or all the content of an element."""
        text, said = "".join(self.words), self.said
        self.words.clear()
        self.said = self.broken = False
        if not said:
            return
        if sub_node or any(isinstance(item, Node) and item.enabled for item in node.content):
            self._fail(f"text beside the elements in <{node.type}>, which HID cannot hold")
        lines = text.split("\n")
        if len(lines) > 1 and not lines[0].strip():
            lines = lines[1:] if lines[-1].strip() else lines[1:-1]
            common = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
            lines = [line[common:] for line in lines]
        node.content += [Quote(line, self.line) for line in lines]

    def _comment(self, text: str) -> None:
        if self.said:
            return  # within an element's text: it has no place there
        beside = self.last is not None and self.last[1] == self.line and not self.broken
        if text.strip().startswith("<") and self._disabled(text):
            return
        lines = [line.strip() for line in text.strip().split("\n")]
        if beside and self.last is not None and len(lines) == 1:
            node = self.last[0]
            holder = node.attributes[-1] if node.attributes else node
            if holder.note is None and not node.content:
                holder.note = lines[0]
                return
        self.pending += [(line, self.line + number) for number, line in enumerate(lines)]

    def _disabled(self, text: str) -> bool:
        """Take a comment for elements that are commented out, if it is that."""
        if self.inner or len(self.open) == 1:
            return False
        try:
            nodes = _Reader(f"<top>{text}</top>", self.line, inner=True).read()
        except (SyntaxViolation, TooLarge):
            return False
        self._settle(self.open[-1])
        for node in nodes:
            node.enabled = False
        self.open[-1].content += nodes
        self.last = None
        return True


def _write(node: Node, indent: str, out: list[str], depth: int, *, disabled: bool) -> None:
    if depth > grammar.MAX_DEPTH:
        raise TooLarge(f"more than {grammar.MAX_DEPTH} levels of nodes")
    rest = list(node.content)
    describing: list[str] = []
    if node.note is not None:
        describing.append(node.note)
    describing += node.comments
    for attribute in node.attributes:
        if attribute.note is not None:
            describing.append(attribute.note)
        describing += attribute.comments
    ahead = list(itertools.takewhile(lambda item: isinstance(item, Comment), rest))
    describing += [item.text for item in ahead if isinstance(item, Comment)]
    del rest[: len(ahead)]
    if any(isinstance(item, Quote) for item in rest):
        if any(isinstance(item, Node) for item in rest):
            raise NotRepresentable(f"'{node.heading}' has quoted content beside sub nodes")
        describing += [item.text for item in rest if isinstance(item, Comment)]  # they would be part of the text
    if not disabled:
        _comments(describing, indent, out)
    tag = f"<{node.type}{''.join(_attribute(attribute, disabled) for attribute in node.attributes)}"
    if not grammar.identifier(node.type):
        raise NotRepresentable(f"{grammar.shown(node.type)} cannot be a node's type (a-z, then a-z, 0-9, '_', '-')")
    items = [item for item in rest if not (disabled and (isinstance(item, Comment) or _off(item)))]
    if not items:
        out.append(f"{indent}{tag}/>")
        return
    if any(isinstance(item, Quote) for item in items):
        text = "\n".join(item.text for item in items if isinstance(item, Quote))
        out.append(f"{indent}{tag}>{_escaped(text, disabled)}</{node.type}>")
        return
    out.append(f"{indent}{tag}>")
    inner = indent + "\t"
    for item in items:
        if isinstance(item, Comment):
            _comments([item.text], inner, out)
        elif isinstance(item, Node) and not item.enabled and not disabled:
            lines: list[str] = []
            _write(item, inner, lines, depth + 1, disabled=True)
            if any("--" in line for line in lines):
                raise NotRepresentable(
                    f"'{item.heading}' is disabled and would be an XML comment, which cannot hold '--'"
                )
            lines[0] = f"{inner}<!-- {lines[0].lstrip()}"
            lines[-1] += " -->"
            out += lines
        elif isinstance(item, Node):
            _write(item, inner, out, depth + 1, disabled=disabled)
    out.append(f"{indent}</{node.type}>")


def _off(item: Node | Quote | Comment) -> bool:
    return isinstance(item, Node) and not item.enabled


def _comments(lines: list[str], indent: str, out: list[str]) -> None:
    text = f"\n{indent}     ".join(lines).strip()
    while "--" in text:
        text = text.replace("--", "- -")
    if text:
        _check(text)
        out.append(f"{indent}<!-- {text} -->")


def _check(text: str) -> None:
    if _NO_XML.search(text):
        raise NotRepresentable(f"{grammar.shown(text)} has a character that XML does not have")


def _attribute(attribute: Attribute, disabled: bool) -> str:
    if not grammar.identifier(attribute.tag):
        raise NotRepresentable(f"{grammar.shown(attribute.tag)} cannot be an attribute's tag")
    if not grammar.value(attribute.value):
        raise NotRepresentable(
            f"attribute '{attribute.tag}' is {grammar.shown(attribute.value)}, which cannot be printed"
        )
    # '>' stays as it is, since Genode's own XML parser takes values as they stand, and labels are full of '->'.
    value = _escaped(attribute.value, disabled).replace("&gt;", ">").replace('"', "&quot;")
    return f' {attribute.tag}="{value}"'


def _escaped(text: str, disabled: bool) -> str:
    _check(text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("--", "-&#45;") if disabled else text
