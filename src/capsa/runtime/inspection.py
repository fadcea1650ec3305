"""``state`` (runtime.md, Query State), ``list``, ``ps``."""

from __future__ import annotations

import sys

from capsa.errors import CapsaError, InvalidArgument, NotFound
from capsa.runtime.container import Container, all_of
from capsa.runtime.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.cli.options import Options
    from capsa.runtime.verb import Settings

_LIST = """
  -f, --format string   "table" or "json" (default "table")
  -q, --quiet           Print ids only
"""
_PS = """
  -f, --format string   "table" or "json" (default "table")
"""
_TITLES = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")


def state(settings: Settings, options: Options) -> int:
    """``capsa-runtime state ID``."""
    container = Container(settings.root, options.arguments[0])
    if container.half:
        raise NotFound(f"container {container.id} does not exist yet: it is being created")
    print(container.record.state(container.status()))
    return 0


def listing(settings: Settings, options: Options) -> int:
    """``capsa-runtime list``."""
    rows = []
    for container in all_of(settings.root):
        try:
            status = container.status()
            if status != "creating":
                rows.append((container.id, status, container.record))
        except CapsaError:  # gone meanwhile, or damaged
            continue
    if options.switch("quiet"):
        for id, _, _ in rows:
            print(id)
    elif _format(options) == "json":
        print(f"[{', '.join(record.state(status) for _, status, record in rows)}]")
    else:
        lines = [
            _TITLES,
            *(
                (id, str(record.pid if status != "stopped" else 0), status, record.bundle, record.created, "root")
                for id, status, record in rows
            ),
        ]
        widths = [max(len(line[column]) for line in lines) for column in range(len(_TITLES))]
        for line in lines:
            print("   ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    return 0


def processes(settings: Settings, options: Options) -> int:
    """``capsa-runtime ps ID [PS-OPTION…]``."""
    container = Container(settings.root, options.arguments[0])
    pids = container.cgroup().pids() if container.status() != "stopped" else []
    if _format(options) == "json":
        print(pids)
        return 0
    import subprocess

    arguments = options.arguments[1:] or ["-ef"]
    try:
        done = subprocess.run(["ps", *arguments], capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise CapsaError("there is no program ps on this machine (Debian's package procps): use -f json") from None
    except subprocess.CalledProcessError as error:
        raise InvalidArgument(f"ps {' '.join(arguments)}: {error.stderr.strip()}") from error
    title, *lines = done.stdout.splitlines()
    if "PID" not in title.split():
        raise InvalidArgument(f"ps {' '.join(arguments)} prints no column PID: choose options that do")
    column = title.split().index("PID")
    print(title)
    for line in lines:
        fields = line.split()
        if len(fields) > column and fields[column].isdecimal() and int(fields[column]) in pids:
            print(line)
    sys.stdout.flush()
    return 0


def _format(options: Options) -> str:
    chosen = options.text("format") or "table"
    if chosen not in ("table", "json"):
        raise InvalidArgument(f'invalid --format {chosen!r}: it is "table" or "json"')
    return chosen


VERBS = {
    "list": Verb("list", "", "List containers", _LIST, listing, least=0, most=0),
    "ps": Verb(
        "ps",
        "ID [PS-OPTION...]",
        "List the processes of a container, as ps(1) on the host shows them",
        _PS,
        processes,
        most=None,
        interspersed=False,
    ),
    "state": Verb("state", "ID", "Print a container's state", "", state),
}
