"""``capsa images``, ``rmi``, ``tag``, and more of the ``image`` group."""

from __future__ import annotations

from capsa.cli import units
from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.filters import filters
from capsa.cli.main import complain
from capsa.cli.options import Command, Options
from capsa.cli.table import listing
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

_SAFE = b"/:@"
NONE = "<none>"
HEADERS = {
    "ID": "IMAGE ID",
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "Containers": "CONTAINERS",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "VirtualSize": "SIZE",
}


def _images(context: Context, options: Options) -> int:
    chosen = filters(options.all("filter"))
    if options.arguments:
        chosen.setdefault("reference", []).append(options.arguments[0])
    parameters = {"all": options.switch("all"), "digests": options.switch("digests"), "filters": chosen}
    found = context.engine().call("GET", "/images/json", parameters)
    whole = options.switch("no-trunc")
    digests = options.switch("digests")
    items = [item for image in found for item in items_of(image, whole)]
    listing(
        items,
        headers=HEADERS,
        default=f"Repository Tag {'Digest ' if digests else ''}ID CreatedSince Size",
        format="json" if options.switch("json") else options.text("format"),
        quiet=options.switch("quiet"),
    )
    return 0


def items_of(image: Mapping[str, Any], whole: bool) -> Iterator[dict[str, object]]:
    """A line for each name of an image, or one for an image without names."""
    digests = {}
    for name in image.get("RepoDigests") or []:
        repository, _, digest = name.partition("@")
        digests[repository] = digest
    names = [tuple(name.rpartition(":")[::2]) for name in image.get("RepoTags") or [] if name != "<none>:<none>"]
    if not names:
        names = [(repository, NONE) for repository in digests if repository != NONE] or [(NONE, NONE)]
    identifier, shared = str(image["Id"]), int(image.get("SharedSize", -1))
    for repository, tag in names:
        yield {
            "ID": identifier if whole else identifier.removeprefix("sha256:")[:12],
            "Repository": repository,
            "Tag": tag,
            "Digest": digests.get(repository, NONE),
            "CreatedSince": units.since(image["Created"]) if image["Created"] > 0 else "N/A",
            "CreatedAt": units.local_time(image["Created"]),
            "Size": units.size(image["Size"], 3),
            "Containers": _known(image.get("Containers", -1)),
            "SharedSize": "N/A" if shared < 0 else units.size(shared),
            "UniqueSize": "N/A" if shared < 0 else units.size(image["Size"] - shared),
            "VirtualSize": units.size(image["Size"]),
        }


def _known(count: int) -> str:
    return "N/A" if count < 0 else str(count)


def _rmi(context: Context, options: Options) -> int:
    engine = context.engine()
    failed = 0
    parameters = {"force": options.switch("force"), "noprune": options.switch("no-prune")}
    for name in options.arguments:
        try:
            for removed in engine.call("DELETE", f"/images/{quote(name, _SAFE)}", parameters) or []:
                for what, which in removed.items():
                    print(f"{what}: {which}", flush=True)
        except CapsaError as error:
            complain(error)
            failed = 1
    return failed


def _tag(context: Context, options: Options) -> int:
    from capsa.image.reference import parse

    source, target = options.arguments
    reference = parse(target)
    if reference.digest:
        raise CapsaError(f"an image cannot be tagged with a digest: {target}")
    parameters = {"repo": reference.familiar_repository, "tag": reference.tag or None}
    context.engine().request("POST", f"/images/{quote(source, _SAFE)}/tag", parameters).read()
    return 0


_LIST = """
  -a, --all             Show all images, also those that are only part of others
      --digests         Show digests
  -f, --filter list     Only those that match (dangling=true, reference=..., label=...)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --json            One JSON object a line
      --no-trunc        Do not shorten
  -q, --quiet           Only IDs
"""
_REFUSED = {"tree": "list images without it, a line for each name"}
_REFUSED_REMOVAL = {"platform": "an image here is of one platform; remove it as a whole"}
_REMOVE = """
  -f, --force      Remove it even if several names or stopped containers refer to it
      --no-prune   Keep its untagged parents
"""
_MANY = "IMAGE [IMAGE...]"

COMMANDS = {
    "images": Command(
        "images", "[REPOSITORY[:TAG]]", "List images", _LIST, _images, most=1, completes="images", refused=_REFUSED
    ),
    "image ls": Command(
        "image ls", "[REPOSITORY[:TAG]]", "List images", _LIST, _images, most=1, completes="images", refused=_REFUSED
    ),
    "rmi": Command(
        "rmi", _MANY, "Remove one or more images", _REMOVE, _rmi, least=1, completes="images", refused=_REFUSED_REMOVAL
    ),
    "image rm": Command(
        "image rm",
        _MANY,
        "Remove one or more images",
        _REMOVE,
        _rmi,
        least=1,
        completes="images",
        refused=_REFUSED_REMOVAL,
    ),
    "tag": Command(
        "tag",
        "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        "Give an image one more name",
        "",
        _tag,
        least=2,
        most=2,
        completes="images",
    ),
}
