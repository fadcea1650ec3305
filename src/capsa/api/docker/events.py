"""``GET /events``: what happened, and what happens (Docker Engine API, "Monitor events")."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from aiohttp import web

from capsa.api.docker.call import Call
from capsa.engine.events import Event
from capsa.engine.times import parse as parse_time
from capsa.errors import InvalidArgument

if TYPE_CHECKING:
    from capsa.api.docker.filters import Filters
    from capsa.api.docker.router import Router

_OBJECTS = (
    "builder",
    "config",
    "container",
    "daemon",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "volume",
)
_FILTERS = (*_OBJECTS, "image", "event", "label", "scope", "type")
_PARTIAL = frozenset({"health_status", "exec_create", "exec_start"})
#: Streams of JSON that a client may ask for, best first.
_JSON_TEXT_SEQUENCES = "application/json-seq"
_TYPES = ("application/jsonl", "application/x-ndjson", _JSON_TEXT_SEQUENCES)
_BATCH = 64


def routes(router: Router) -> None:
    """Serve them."""
    router.add("GET", "/events", events)


async def events(call: Call) -> web.StreamResponse:
    """What happened since, and what happens until, or without end."""
    filters = call.filters(*_FILTERS)
    engine = call.engine
    now = time.time_ns()
    since, until = _time(call, "since"), _time(call, "until")
    if until and until < since:
        raise InvalidArgument(
            f"`since` time ({call.query['since']}) cannot be after `until` time ({call.query['until']})"
        )
    kind = _content_type(call)
    legacy = call.version < (1, 52)
    begin = b"\x1e" if kind == _JSON_TEXT_SEQUENCES else b""
    subscription = engine.events.subscribe()
    try:
        response = await call.stream(kind)
        past = engine.events.since(since) if since or until else []
        lines = [
            begin + event.line(legacy)
            for event in past
            if event.at <= now and (not until or event.at <= until) and _wanted(event, filters)
        ]
        if lines:
            await response.write(b"".join(lines))
        while True:
            try:
                async with asyncio.timeout(max(0.0, (until - time.time_ns()) / 1e9) if until else None):
                    happened = await subscription.get(_BATCH)
            except TimeoutError:
                break
            if not happened:
                break
            lines = [begin + event.line(legacy) for event in happened if event.at > now and _wanted(event, filters)]
            if lines:
                await response.write(b"".join(lines))
    finally:
        engine.events.unsubscribe(subscription)
    return response


def _time(call: Call, name: str) -> int:
    text = call.query.get(name)
    return parse_time(text) if text else 0


def _content_type(call: Call) -> str:
    accepted = call.request.headers.get("Accept", "")
    for part in accepted.split(","):
        kind = part.partition(";")[0].strip().lower()
        if kind in _TYPES:
            return kind
    return "application/json" if call.version < (1, 52) else _TYPES[0]


def _wanted(event: Event, filters: Filters) -> bool:
    """As Docker has it: keys add up, and each is held against every event, of whatever type."""
    if not filters:
        return True
    if not filters.exact("type", event.kind) or not filters.exact("scope", "local"):
        return False
    if _PARTIAL.isdisjoint(filters.get("event")):
        if not filters.exact("event", event.action):
            return False
    elif not filters.prefix("event", event.action):
        return False
    if not filters.labels(event.attributes):
        return False
    name = event.attributes.get("name", "")
    if not all(filters.prefix(kind, event.id, name) for kind in _OBJECTS):
        return False
    image = name if event.kind == "image" else event.attributes.get("image", "")
    return filters.exact("image", event.id, image, _without_tag(event.id), _without_tag(image))


def _without_tag(name: str) -> str:
    path, colon, tag = name.partition("@")[0].rpartition(":")
    return path if colon and "/" not in tag else name.partition("@")[0]
