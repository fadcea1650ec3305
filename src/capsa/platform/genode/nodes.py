"""Nodes of configurations of Genode, and those that occur in every `init`."""

from __future__ import annotations

from collections.abc import Iterable

from capsa.errors import InvalidArgument
from capsa.hid import Node, NotRepresentable

ROM_PREFIX = "rom-"
SEED_PREFIX = f"{ROM_PREFIX}seed-"  # of what a container's random bytes are made of
EXEC_PREFIX = "exec-"  # of additional components
_LONGEST_ATTRIBUTE = 1000


def node(type: str, name: str = "", *content: Node, **attributes: str | int | bool) -> Node:
    """A HID node; raises `InvalidArgument` for a value that HID cannot hold."""
    values: dict[str, str | int | bool] = {"name": name} if name else {}
    values.update(attributes)
    for tag, value in values.items():
        if isinstance(value, str) and (set(value) & set("|\n\r\0") or value != value.strip()):
            raise InvalidArgument(f"HID cannot hold {value[:80]!r} as the {tag} of {type!r}")
        if isinstance(value, str) and len(value) > _LONGEST_ATTRIBUTE:
            raise InvalidArgument(f"the {tag} of {type!r} is longer than {_LONGEST_ATTRIBUTE} characters")
    return Node(type, values, content)


def quoted(type: str, text: str, name: str = "") -> Node:
    """A node with free text, a line of which may hold anything but a line break or a zero."""
    if "\0" in text:
        raise InvalidArgument(f"HID cannot hold a zero byte in {type!r}")
    made = node(type, name)
    try:
        made.text = text
    except NotRepresentable as error:
        raise InvalidArgument(str(error)) from error
    return made


def provided(services: Iterable[str]) -> Node:
    """What a parent offers to the components of an `init`."""
    return node("parent-provides", "", *(node("service", name) for name in services))


def provides(service: str) -> Node:
    """That a component is a server of ``service``."""
    return node("provides", "", node("service", service))


def routed(*ways: Node) -> Node:
    """Where the sessions of a component lead."""
    return node("route", "", *ways)


def to_child(service: str, child: str) -> Node:
    """All sessions of ``service`` lead to the component ``child``."""
    return node("service", service, node("child", child))


def anything_of_the_parent() -> Node:
    """Whatever is not routed otherwise, the parent has."""
    return node("any-service", "", node("parent"))
