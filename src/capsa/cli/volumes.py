"""``capsa volume``."""

from __future__ import annotations

from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.filters import filters
from capsa.cli.inspection import show
from capsa.cli.lifecycle import each
from capsa.cli.options import Command, Options
from capsa.cli.table import listing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEADERS = {
    "Name": "VOLUME NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
    "Availability": "AVAILABILITY",
    "Group": "GROUP",
    "Status": "STATUS",
}
# What only "system df" or a swarm knows.
_UNKNOWN = dict.fromkeys(("Links", "Size", "Availability", "Group", "Status"), "N/A")


def _ls(context: Context, options: Options) -> int:
    answer = context.engine().call("GET", "/volumes", {"filters": filters(options.all("filter"))})
    items = [
        {
            "Name": volume["Name"],
            "Driver": volume["Driver"],
            "Scope": volume.get("Scope") or "local",
            "Mountpoint": volume["Mountpoint"],
            "Labels": ",".join(f"{name}={value}" for name, value in (volume.get("Labels") or {}).items()),
            **_UNKNOWN,
            "_labels": volume.get("Labels") or {},
        }
        for volume in sorted(answer["Volumes"] or [], key=lambda volume: str(volume["Name"]))
    ]
    listing(
        items,
        headers=_HEADERS,
        default="Driver Name",
        format="json" if options.switch("json") else options.text("format"),
        quiet=options.switch("quiet"),
        key="Name",
    )
    return 0


def _create(context: Context, options: Options) -> int:
    body: dict[str, Any] = {
        "Name": options.arguments[0] if options.arguments else "",
        "Driver": options.text("driver") or "local",
    }
    for name, field in (("label", "Labels"), ("opt", "DriverOpts")):
        if options.given(name):
            body[field] = dict(text.partition("=")[::2] for text in options.all(name))
    print(context.engine().call("POST", "/volumes/create", json_body=body)["Name"])
    return 0


def _rm(context: Context, options: Options) -> int:
    engine = context.engine()

    def do(name: str) -> None:
        engine.request("DELETE", f"/volumes/{quote(name)}", {"force": options.switch("force")}).read()

    return each(options.arguments, do)


def _inspect(context: Context, options: Options) -> int:
    engine = context.engine()
    return show(options.arguments, lambda name: engine.call("GET", f"/volumes/{quote(name)}"), options)


_CLUSTER = (
    "availability",
    "group",
    "limit-bytes",
    "required-bytes",
    "scope",
    "secret",
    "sharing",
    "topology-preferred",
    "topology-required",
    "type",
)

COMMANDS = {
    "volume create": Command(
        "volume create",
        "[VOLUME]",
        "Create a volume",
        """
  -d, --driver string   Driver (default "local")
      --label list      Set metadata
  -o, --opt list        Options of the driver (name=value)
""",
        _create,
        most=1,
        refused=dict.fromkeys(_CLUSTER, "that is for cluster volumes, and capsa has no swarm"),
    ),
    "volume inspect": Command(
        "volume inspect",
        "VOLUME [VOLUME...]",
        "Show all about volumes",
        """
  -f, --format string   'json' or a Go template
      --json            One JSON object a line
""",
        _inspect,
        least=1,
        completes="volumes",
    ),
    "volume ls": Command(
        "volume ls",
        "",
        "List volumes",
        """
  -f, --filter list     Only those that match (dangling=true, name=...)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --json            One JSON object a line
  -q, --quiet           Only names
""",
        _ls,
        most=0,
        refused={"cluster": "capsa has no swarm, and so no cluster volumes"},
    ),
    "volume rm": Command(
        "volume rm",
        "VOLUME [VOLUME...]",
        "Remove one or more volumes",
        """
  -f, --force   It is no failure if it is not there
""",
        _rm,
        least=1,
        completes="volumes",
    ),
}
