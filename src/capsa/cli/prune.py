"""Removing what nothing uses: ``prune`` of containers, images, networks, volumes, and of all at once."""

from __future__ import annotations

import sys

from capsa.cli import units
from capsa.cli.client import Engine
from capsa.cli.context import Context
from capsa.cli.filters import filters
from capsa.cli.options import Command, Options
from capsa.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Filters = dict[str, list[str]]
    Prune = Callable[[Engine, Filters, bool], tuple[list[str], int]]


def _confirmed(warning: str, options: Options) -> bool:
    """Ask, unless ``--force`` was given; the end of standard input is a no."""
    if options.switch("force"):
        return True
    print(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n") and sys.stdout.isatty():
        print()
    return answer.strip().lower() in ("y", "yes")


def _containers(engine: Engine, chosen: Filters, everything: bool) -> tuple[list[str], int]:
    answer = engine.call("POST", "/containers/prune", {"filters": chosen})
    return _titled("Deleted Containers:", answer.get("ContainersDeleted")), answer.get("SpaceReclaimed") or 0


def _networks(engine: Engine, chosen: Filters, everything: bool) -> tuple[list[str], int]:
    answer = engine.call("POST", "/networks/prune", {"filters": chosen})
    return _titled("Deleted Networks:", answer.get("NetworksDeleted")), 0


def _volumes(engine: Engine, chosen: Filters, everything: bool) -> tuple[list[str], int]:
    wanted = {**chosen, "all": ["true"]} if everything else chosen
    answer = engine.call("POST", "/volumes/prune", {"filters": wanted})
    return _titled("Deleted Volumes:", answer.get("VolumesDeleted")), answer.get("SpaceReclaimed") or 0


def _images(engine: Engine, chosen: Filters, everything: bool) -> tuple[list[str], int]:
    wanted = {**chosen, "dangling": ["false" if everything else "true"]}
    answer = engine.call("POST", "/images/prune", {"filters": wanted})
    lines = [f"{what.lower()}: {which}" for one in answer.get("ImagesDeleted") or [] for what, which in one.items()]
    return _titled("Deleted Images:", lines), answer.get("SpaceReclaimed") or 0


def _titled(title: str, lines: list[str] | None) -> list[str]:
    return [title, *lines, ""] if lines else []


def _one(warning: str, warning_of_all: str, prune: Prune, *, sized: bool = True) -> Callable[[Context, Options], int]:
    """The action of ``KIND prune``."""

    def action(context: Context, options: Options) -> int:
        everything = options.switches.get("all", False)
        chosen = filters(options.all("filter"))
        if not _confirmed(warning_of_all if everything else warning, options):
            return 0
        lines, freed = prune(context.engine(), chosen, everything)
        for line in lines:
            print(line)
        if sized:
            print(f"Total reclaimed space: {units.size(freed)}")
        return 0

    return action


def _system(context: Context, options: Options) -> int:
    everything, volumes = options.switch("all"), options.switch("volumes")
    chosen = filters(options.all("filter"))
    if volumes and "until" in chosen:
        raise InvalidArgument('the "until" filter is not supported with "--volumes"')
    engine = context.engine()
    work: list[tuple[str, Prune]] = [
        ("all stopped containers", _containers),
        ("all networks not used by at least one container", _networks),
    ]
    if volumes:
        work.append(("all anonymous volumes not used by at least one container", _volumes))
    work.append(
        (
            "all images without at least one container associated to them" if everything else "all dangling images",
            _images,
        )
    )
    warning = "This will remove:\n" + "".join(f"  - {what}\n" for what, _ in work)
    if chosen:
        warning += "\n  Items to be pruned will be filtered with:\n"
        warning += "".join(f"  - {name}={value}\n" for name, values in sorted(chosen.items()) for value in values)
    if not _confirmed(warning, options):
        return 0
    freed = 0
    for _, prune in work:
        lines, count = prune(engine, chosen, everything and prune is _images)
        freed += count
        for line in lines:
            print(line)
    print(f"Total reclaimed space: {units.size(freed)}")
    return 0


def _table(*, all_: str = "", volumes: bool = False, filters: str = "until=24h, label=name") -> str:
    lines = [f"  -a, --all           {all_}"] if all_ else []
    lines += [f"      --filter list   Only those that match ({filters})", "  -f, --force         Do not ask"]
    lines += ["      --volumes       Anonymous volumes, too"] if volumes else []
    return "\n".join(lines)


COMMANDS = {
    "container prune": Command(
        "container prune",
        "",
        "Remove all stopped containers",
        _table(),
        _one("This will remove all stopped containers.", "", _containers),
        most=0,
    ),
    "image prune": Command(
        "image prune",
        "",
        "Remove images that nothing uses",
        _table(all_="All images without a container, not only those without a name"),
        _one(
            "This will remove all dangling images.",
            "This will remove all images without at least one container associated to them.",
            _images,
        ),
        most=0,
    ),
    "network prune": Command(
        "network prune",
        "",
        "Remove all networks that nothing uses",
        _table(),
        _one("This will remove all custom networks not used by at least one container.", "", _networks, sized=False),
        most=0,
    ),
    "system prune": Command(
        "system prune",
        "",
        "Remove containers, networks and images that nothing uses",
        _table(all_="All images without a container, not only those without a name", volumes=True),
        _system,
        most=0,
    ),
    "volume prune": Command(
        "volume prune",
        "",
        "Remove volumes that nothing uses",
        _table(all_="Named volumes, too", filters="label=name"),
        _one(
            "This will remove anonymous local volumes not used by at least one container.",
            "This will remove all local volumes not used by at least one container.",
            _volumes,
        ),
        most=0,
    ),
}
