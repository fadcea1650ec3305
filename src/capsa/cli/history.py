"""``capsa history``: how an image came to be."""

from __future__ import annotations

from capsa.cli import units
from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.options import Command, Options
from capsa.cli.platforms import platform
from capsa.cli.table import listing, shorten

_HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
_COMMAND = 45


def _history(context: Context, options: Options) -> int:
    whole, human = options.switch("no-trunc"), options.switch("human")
    name = quote(options.arguments[0], b"/:@")
    found = context.engine().call("GET", f"/images/{name}/history", {"platform": platform(options)})
    items = []
    for step in found:
        command = " ".join((step.get("CreatedBy") or "").split())
        items.append(
            {
                "ID": step["Id"] if whole else step["Id"].removeprefix("sha256:")[:12],
                "CreatedSince": (units.since if human else units.rfc3339)(step["Created"]),
                "CreatedAt": units.rfc3339(step["Created"]),
                "CreatedBy": command if whole else shorten(command, _COMMAND),
                "Size": units.size(step["Size"], 3) if human else str(step["Size"]),
                "Comment": step.get("Comment") or "",
            }
        )
    default = "ID CreatedSince CreatedBy Size Comment" if human else "ID CreatedAt CreatedBy Size Comment"
    listing(items, headers=_HEADERS, default=default, format=options.text("format"), quiet=options.switch("quiet"))
    return 0


_HISTORY = Command(
    "history",
    "IMAGE",
    "Show how an image came to be",
    """
      --format string     'table', 'table TEMPLATE', 'json' or a Go template
  -H, --human             Sizes and dates for people (default true)
      --no-trunc          Do not shorten
      --platform string   The image of this platform (os/architecture)
  -q, --quiet             Only IDs
""",
    _history,
    least=1,
    most=1,
    completes="images",
)

COMMANDS = {"history": _HISTORY}
