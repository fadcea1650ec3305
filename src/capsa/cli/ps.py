"""``capsa ps``."""

from __future__ import annotations

from capsa.cli import units
from capsa.cli.context import Context
from capsa.cli.filters import filters
from capsa.cli.options import Command, Options
from capsa.cli.ports import shown
from capsa.cli.table import listing, shorten

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

HEADERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Size": "SIZE",
    "Names": "NAMES",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
    "Platform": "PLATFORM",
}


def _ps(context: Context, options: Options) -> int:
    chosen = filters(options.all("filter"))
    limit = 1 if options.switch("latest") else options.number("last")
    format = "json" if options.switch("json") else options.text("format")
    template = format if format and "{{" in format else ""
    sized = options.switch("size") or ".Size" in template or "json ." in template
    parameters = {
        "all": options.switch("all") or bool(limit and limit > 0),
        "limit": limit if limit and limit > 0 else None,
        "size": sized,
        "filters": chosen,
    }
    whole = options.switch("no-trunc")
    items = [item(one, whole) for one in context.engine().call("GET", "/containers/json", parameters)]
    default = "ID Image Command RunningFor Status Ports Names" + (" Size" if options.switch("size") else "")
    listing(
        items,
        headers=HEADERS,
        default=default,
        format=format,
        quiet=options.switch("quiet"),
    )
    return 0


def item(container: Mapping[str, Any], whole: bool) -> dict[str, object]:
    """A container of the Engine API's list as the fields of a line; ``whole``: nothing is shortened."""
    names = [name.lstrip("/") for name in container.get("Names") or []]
    if not whole:
        # A name with a slash in it is a link of another container.
        names = [name for name in names if "/" not in name] or names
    command = f'"{container["Command"] if whole else shorten(container["Command"], 20)}"'
    mounts = [str(mount.get("Name") or mount.get("Source") or "") for mount in container.get("Mounts") or []]
    volumes = sum(mount.get("Driver") == "local" for mount in container.get("Mounts") or [])
    labels = container.get("Labels") or {}
    written, all_files = container.get("SizeRw") or 0, container.get("SizeRootFs") or 0
    image = str(container["Image"])
    if not whole and image.startswith("sha256:"):
        image = image[7:19]
    return {
        "ID": container["Id"] if whole else container["Id"][:12],
        "Image": image or "<no image>",
        "Command": command,
        "CreatedAt": units.local_time(container["Created"]),
        "RunningFor": units.since(container["Created"]),
        "Ports": shown(container.get("Ports") or []),
        "State": container.get("State", ""),
        "Status": container["Status"],
        "Size": units.size(written, 3) + (f" (virtual {units.size(all_files, 3)})" if all_files else ""),
        "Names": ",".join(names),
        "Labels": ",".join(f"{name}={value}" for name, value in sorted(labels.items())),
        "Mounts": ",".join(mount if whole else shorten(mount, 15) for mount in mounts),
        "LocalVolumes": str(volumes),
        "Platform": None,
        "Networks": ",".join(sorted((container.get("NetworkSettings") or {}).get("Networks") or {})),
        "_labels": labels,
    }


_TABLE = """
  -a, --all             Show all containers, not only those that run
  -f, --filter list     Only those that match (name=..., status=..., label=...)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --json            One JSON object a line
  -n, --last int        Show the last created ones, in any state
  -l, --latest          Show the last created one, in any state
      --no-trunc        Do not shorten
  -q, --quiet           Only IDs
  -s, --size            Show sizes of files
"""

COMMANDS = {
    "ps": Command("ps", "", "List containers", _TABLE, _ps, most=0),
    "container ls": Command("container ls", "", "List containers", _TABLE, _ps, most=0),
}
