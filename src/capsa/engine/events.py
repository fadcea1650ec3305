"""What happened: kept for a while, and told to those who listen (Docker Engine API, "Monitor events")."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from capsa.engine.container import Container
    from capsa.network.model import Network

KEPT = 1024
BACKLOG = 4096
LARGEST_LABELS = 1 << 15  # characters of a container's labels that its events have; real ones are a tenth of that


_encode = msgspec.json.Encoder().encode


class Event:
    """One event; ``at`` in nanoseconds since the epoch."""

    __slots__ = ("_lines", "action", "at", "attributes", "id", "kind")

    def __init__(self, at: int, kind: str, action: str, identity: str, attributes: dict[str, str]) -> None:
        self.at = at
        self.kind = kind
        self.action = action
        self.id = identity
        self.attributes = attributes
        self._lines: dict[bool, bytes] = {}

    def line(self, legacy: bool) -> bytes:
        """Its document in JSON, with a newline; made once for all who listen."""
        found = self._lines.get(legacy)
        if found is None:
            found = self._lines[legacy] = _encode(self.document(legacy)) + b"\n"
        return found

    def document(self, legacy: bool = True) -> dict[str, Any]:
        """As Docker's clients read it; ``legacy``: with the fields that version 1.52 of the API left out."""
        found: dict[str, Any] = {
            "Type": self.kind,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": self.attributes},
            "scope": "local",
            "time": self.at // 10**9,
            "timeNano": self.at,
        }
        if legacy and self.kind in ("container", "image"):
            found["status"] = self.action
            found["id"] = self.id
            if self.kind == "container":
                found["from"] = self.attributes.get("image", "")
        return found


class Subscription:
    """One listener. Whoever lags by more than `BACKLOG` events is let go."""

    def __init__(self) -> None:
        self._waiting: deque[Event] = deque()
        self._news = asyncio.Event()
        self.lagged = False

    def put(self, event: Event) -> None:
        """One more event."""
        if len(self._waiting) >= BACKLOG:
            self.lagged = True
        else:
            self._waiting.append(event)
        self._news.set()

    async def get(self, most: int) -> list[Event]:
        """The next events, at most so many; none when this listener was let go."""
        while not self._waiting:
            if self.lagged:
                return []
            self._news.clear()
            await self._news.wait()
        return [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]


def _told(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Labels as far as events have them: an image may bring megabytes, and have something happen all the time."""
    size = 0
    for number, (name, value) in enumerate(labels.items()):
        size += len(name) + len(value)
        if size > LARGEST_LABELS:
            return dict(islice(labels.items(), number))
    return labels


class Events:
    """The events of one engine."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=KEPT)
        self._subscriptions: set[Subscription] = set()

    def emit(self, kind: str, action: str, identity: str, attributes: dict[str, str]) -> None:
        """Something happened."""
        event = Event(time.time_ns(), kind, action, identity, attributes)
        self._past.append(event)
        for subscription in self._subscriptions:
            subscription.put(event)

    def container(self, action: str, container: Container, **extra: str) -> None:
        """Something happened to a container."""
        document = container.document
        attributes = {**_told(document.config.labels), "image": document.image_name, "name": container.name, **extra}
        self.emit("container", action, container.id, attributes)

    def image(self, action: str, identity: str, name: str) -> None:
        """Something happened to an image."""
        self.emit("image", action, identity, {"name": name})

    def volume(self, action: str, name: str, **extra: str) -> None:
        """Something happened to a volume."""
        self.emit("volume", action, name, {"driver": "local", **extra})

    def network(self, action: str, network: Network, container: Container | None = None) -> None:
        """Something happened to a network."""
        attributes = {"name": network.name, "type": network.driver}
        if container is not None:
            attributes["container"] = container.id
        self.emit("network", action, network.id, attributes)

    def since(self, at: int) -> list[Event]:
        """Those kept that are not older than ``at``."""
        return [event for event in self._past if event.at >= at]

    @property
    def listeners(self) -> int:
        """How many listen."""
        return len(self._subscriptions)

    def subscribe(self) -> Subscription:
        """Begin to listen; `unsubscribe` in the end."""
        subscription = Subscription()
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        """Stop listening."""
        self._subscriptions.discard(subscription)
