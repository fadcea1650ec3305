"""``capsa search``: images that a registry knows, where the engine can ask it."""

from __future__ import annotations

from capsa.cli.context import Context
from capsa.cli.filters import filters
from capsa.cli.options import Command, Options
from capsa.cli.table import listing, shorten

_HEADERS = {
    "Name": "NAME",
    "Description": "DESCRIPTION",
    "StarCount": "STARS",
    "IsOfficial": "OFFICIAL",
    "IsAutomated": "AUTOMATED",
}
_DESCRIPTION = 45


def _search(context: Context, options: Options) -> int:
    parameters = {
        "term": options.arguments[0],
        "limit": options.number("limit") or None,
        "filters": filters(options.all("filter")),
    }
    found = context.engine().call("GET", "/images/search", parameters) or []
    items = []
    for image in sorted(found, key=lambda image: -int(image.get("star_count") or 0)):
        description = " ".join(str(image.get("description") or "").split())
        items.append(
            {
                "Name": image["name"],
                "Description": description if options.switch("no-trunc") else shorten(description, _DESCRIPTION),
                "StarCount": str(image.get("star_count") or 0),
                "IsOfficial": "[OK]" if image.get("is_official") else "",
                "IsAutomated": "[OK]" if image.get("is_automated") else "",
            }
        )
    listing(items, headers=_HEADERS, default="Name Description StarCount IsOfficial", format=options.text("format"))
    return 0


COMMANDS = {
    "search": Command(
        "search",
        "TERM",
        "Search the engine's registry for images",
        """
  -f, --filter list     Only those that match (is-official=true, stars=3)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --limit int       At most so many
      --no-trunc        Do not shorten
""",
        _search,
        least=1,
        most=1,
    ),
}
