"""Genode's human-inclined data (HID): read, write, query, edit, check against schemas, convert from and to XML.

It is what doc/hid.txt of Genode describes, and needs nothing else of this project, so that it can be taken out of it::

    from capsa.hid import Node, Schema, read, write

    config = read(text)                           # the strict rules; read_relaxed: what Genode sees at run time
    for start in config.nodes("start"):
        start.set("ram", "8M")
    problems = Schema.load(definition).check(config)
    text = write(config)

Every failure is a `HidError`, with line and column where it has a place. Texts may be hostile: their size and depth
are bounded.
"""

from capsa.hid.edit import remove, set_enabled, set_values
from capsa.hid.errors import BadPath, BadSchema, HidError, NotRepresentable, SyntaxViolation, TooLarge
from capsa.hid.path import Path, parse_assignment, parse_question
from capsa.hid.relaxed import read_relaxed
from capsa.hid.schema import Problem, Schema
from capsa.hid.strict import read
from capsa.hid.tree import Attribute, Comment, Node, Quote
from capsa.hid.writer import write

__all__ = [
    "Attribute",
    "BadPath",
    "BadSchema",
    "Comment",
    "HidError",
    "Node",
    "NotRepresentable",
    "Path",
    "Problem",
    "Quote",
    "Schema",
    "SyntaxViolation",
    "TooLarge",
    "parse_assignment",
    "parse_question",
    "read",
    "read_relaxed",
    "remove",
    "set_enabled",
    "set_values",
    "write",
]
