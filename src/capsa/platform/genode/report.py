"""The ``state`` report of an `init`: what became of its configuration."""

from __future__ import annotations

import msgspec

from capsa import hid
from capsa.errors import InvalidArgument
from capsa.platform.genode import budget


class Usage(msgspec.Struct, frozen=True):
    """RAM in bytes, or a number of capabilities; ``requested``: more, for which the component waits."""

    assigned: int = 0
    quota: int = 0
    used: int = 0
    available: int = 0
    requested: int = 0


class Child(msgspec.Struct, frozen=True):
    """One start node. ``id`` is another one after each restart, None where it has not been started.

    ``incomplete``: a ROM or a service that it needs is not there; ``exited``: its exit value.
    """

    name: str
    id: int | None = None
    incomplete: bool = False
    exited: int | None = None
    skipped_heartbeats: int = 0
    ram: Usage = Usage()
    caps: Usage = Usage()


class State(msgspec.Struct, frozen=True):
    """A whole report; ``version`` is that of the configuration it is about."""

    version: str = ""
    ram: Usage = Usage()
    caps: Usage = Usage()
    children: dict[str, Child] = {}


def read(data: bytes) -> State | None:
    """A report; None for one that is being written. Raises nothing: what comes from a Genode may be anything."""
    if not data.rstrip().endswith(b"-"):
        return None
    try:
        top = hid.read_relaxed(data)
    except hid.HidError:
        return None
    if top.type != "state":
        return None
    children = {}
    for node in top.nodes("child"):
        children[node.name] = Child(
            name=node.name,
            id=_number(node.get("id")),
            incomplete=node.get("state") == "incomplete",
            exited=_number(node.get("exited")),
            skipped_heartbeats=_number(node.get("skipped_heartbeats")) or 0,
            ram=_usage(node, "ram"),
            caps=_usage(node, "caps"),
        )
    return State(top.get("version"), _usage(top, "ram"), _usage(top, "caps"), children)


def _usage(node: hid.Node, type: str) -> Usage:
    found = node.node(type)
    if found is None:
        return Usage()
    return Usage(
        assigned=_amount(found.get("assigned")),
        quota=_amount(found.get("quota")),
        used=_amount(found.get("used")),
        available=_amount(found.get("avail")),
        requested=_amount(found.get("requested")),
    )


def _amount(text: str) -> int:
    try:
        return budget.bytes_of(text, "a report") if text else 0
    except InvalidArgument:
        return 0


def _number(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
