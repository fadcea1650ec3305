"""``capsa events``: what happens in the engine, as it happens."""

from __future__ import annotations

import json

from capsa.cli import units
from capsa.cli.context import Context
from capsa.cli.filters import filters
from capsa.cli.options import Command, Options
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def _events(context: Context, options: Options) -> int:
    show = _form(options.text("format"))
    parameters = {
        "since": units.moment(options.text("since") or "") if options.given("since") else None,
        "until": units.moment(options.text("until") or "") if options.given("until") else None,
        "filters": filters(options.all("filter")),
    }
    for line in context.engine().request("GET", "/events", parameters, own=True).lines():
        try:
            event = json.loads(line)
        except ValueError:
            raise CapsaError(f"the engine's event cannot be read: {line[:80]!r}") from None
        print(show(event), flush=True)
    return 0


def _form(format: str | None) -> Callable[[dict[str, Any]], str]:
    if not format:
        return _line
    if format == "json":
        from capsa.cli.template_functions import dumps

        return dumps
    from capsa.cli.table import unescape
    from capsa.cli.template import Template

    return Template(unescape(format)).render


def _line(event: dict[str, Any]) -> str:
    """``2024-01-31T12:00:00.123456789+01:00 container start ID (image=…, name=…)``."""
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    nanoseconds = int(event.get("timeNano") or int(event.get("time") or 0) * 10**9)
    seconds, rest = divmod(nanoseconds, 10**9)
    when = units.rfc3339(seconds)
    text = f"{when[:19]}.{rest:09}{when[19:]} {event.get('Type', '')} {event.get('Action', '')} {actor.get('ID', '')}"
    if attributes:
        text += f" ({', '.join(f'{name}={attributes[name]}' for name in sorted(attributes))})"
    # What containers and images are called may hold anything: it is no command for a terminal.
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


COMMANDS = {
    "events": Command(
        "events",
        "",
        "Show what happens in the engine, as it happens",
        """
  -f, --filter list     Only those that match (container=..., event=start, type=image, label=...)
      --format string   'json' or a Go template
      --since string    Also what happened since (2024-01-31T12:00:00, or 10m for ten minutes ago)
      --until string    Only until then
""",
        _events,
        most=0,
    ),
}
