"""``capsa system df``: what takes how much room on the engine's disk."""

from __future__ import annotations

from capsa.cli import images, ps, units
from capsa.cli.context import Context
from capsa.cli.options import Command, Options
from capsa.cli.table import align, formatted, listing
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
_ACTIVE = ("running", "paused", "restarting")


def _df(context: Context, options: Options) -> int:
    format = options.text("format")
    use = context.engine().call("GET", "/system/df")
    if not options.switch("verbose"):
        listing(_summary(use), headers=_HEADERS, default="Type TotalCount Active Size Reclaimable", format=format)
        return 0
    if format and format.startswith("table"):
        raise CapsaError("--verbose has tables of its own: use it with 'json', a Go template, or without --format")
    details = _details(use, bool(format))
    if not formatted(details, format):
        _tables(details, use)
    return 0


def _summary(use: dict[str, Any]) -> list[dict[str, str]]:
    """A line for each kind of thing."""
    found, containers, volumes, cache = (
        use.get(kind) or [] for kind in ("Images", "Containers", "Volumes", "BuildCache")
    )
    layers = int(use.get("LayersSize") or 0)
    needed = sum(_own(image) for image in found if int(image.get("Containers") or 0))
    return [
        _line("Images", found, sum(int(image.get("Containers") or 0) > 0 for image in found), layers, layers - needed),
        _line(
            "Containers",
            containers,
            sum(container.get("State") in _ACTIVE for container in containers),
            sum(int(container.get("SizeRw") or 0) for container in containers),
            sum(int(container.get("SizeRw") or 0) for container in containers if container.get("State") not in _ACTIVE),
        ),
        _line(
            "Local Volumes",
            volumes,
            sum(_links(volume) > 0 for volume in volumes),
            sum(max(0, _size(volume)) for volume in volumes),
            sum(max(0, _size(volume)) for volume in volumes if not _links(volume)),
        ),
        _line(
            "Build Cache",
            cache,
            sum(bool(entry.get("InUse")) for entry in cache),
            sum(int(entry.get("Size") or 0) for entry in cache if not entry.get("Shared")),
            sum(int(entry.get("Size") or 0) for entry in cache if not entry.get("Shared") and not entry.get("InUse")),
        ),
    ]


def _line(kind: str, things: list[Any], active: int, size: int, reclaimable: int) -> dict[str, str]:
    free = units.size(max(0, reclaimable))
    if size > 0 and kind != "Build Cache":
        free += f" ({max(0, reclaimable) * 100 // size}%)"
    return {
        "Type": kind,
        "TotalCount": str(len(things)),
        "Active": str(active),
        "Size": units.size(size),
        "Reclaimable": free,
    }


def _own(image: dict[str, Any]) -> int:
    """Bytes that no other image shares with it."""
    return int(image.get("Size") or 0) - max(0, int(image.get("SharedSize") or 0))


def _links(volume: dict[str, Any]) -> int:
    return int((volume.get("UsageData") or {}).get("RefCount") or 0)


def _size(volume: dict[str, Any]) -> int:
    return int((volume.get("UsageData") or {}).get("Size") or 0)


def _details(use: dict[str, Any], whole: bool) -> dict[str, Any]:
    """Every single thing, by kind, with the fields that templates use; ``whole``: nothing is shortened."""
    return {
        "Images": [
            {
                **item,
                "UniqueSize": units.size(_own(image)),
                "SharedSize": units.size(max(0, image.get("SharedSize") or 0)),
            }
            for image in use.get("Images") or []
            for item in [next(images.items_of(image, whole))]
        ],
        "Containers": [
            {
                name: value
                for name, value in ps.item({**container, "SizeRootFs": 0}, whole).items()
                if not name.startswith("_")
            }
            for container in use.get("Containers") or []
        ],
        "Volumes": [
            {
                **dict.fromkeys(("Availability", "Group", "Status"), "N/A"),  # a swarm's
                "Name": volume["Name"],
                "Driver": volume.get("Driver") or "",
                "Scope": volume.get("Scope") or "",
                "Mountpoint": volume.get("Mountpoint") or "",
                "Labels": ",".join(f"{name}={value}" for name, value in (volume.get("Labels") or {}).items()),
                "Links": str(_links(volume)),
                "Size": "N/A" if _size(volume) < 0 else units.size(_size(volume)),
            }
            for volume in use.get("Volumes") or []
        ],
        "BuildCache": use.get("BuildCache") or [],
    }


_TABLES = {
    "Images": (
        "Images space usage:",
        "REPOSITORY TAG IMAGE_ID CREATED SIZE SHARED_SIZE UNIQUE_SIZE CONTAINERS",
        "Repository Tag ID CreatedSince Size SharedSize UniqueSize Containers",
    ),
    "Containers": (
        "Containers space usage:",
        "CONTAINER_ID IMAGE COMMAND LOCAL_VOLUMES SIZE CREATED STATUS NAMES",
        "ID Image Command LocalVolumes Size RunningFor Status Names",
    ),
    "Volumes": ("Local Volumes space usage:", "VOLUME_NAME LINKS SIZE", "Name Links Size"),
}


_CACHE = ["CACHE ID", "CACHE TYPE", "SIZE", "CREATED", "LAST USED", "USAGE", "SHARED"]
_CACHE_FIELDS = ("ID", "Type", "Size", "CreatedAt", "LastUsedAt", "UsageCount", "Shared")


def _tables(details: dict[str, Any], use: dict[str, Any]) -> None:
    for kind, (title, headers, fields) in _TABLES.items():
        print(f"{title}\n")
        head = [word.replace("_", " ") for word in headers.split()]
        rows = [[str(item[field]) for field in fields.split()] for item in details[kind]]
        print(align([head, *rows]) + "\n")
    cache = use.get("BuildCache") or []
    print(f"Build cache usage: {units.size(sum(int(entry.get('Size') or 0) for entry in cache))}\n")
    print(align([_CACHE, *[[str(entry.get(field, "")) for field in _CACHE_FIELDS] for entry in cache]]))


COMMANDS = {
    "system df": Command(
        "system df",
        "",
        "Show what takes how much room on disk",
        """
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
  -v, --verbose         Show every image, container and volume
""",
        _df,
        most=0,
    ),
}
