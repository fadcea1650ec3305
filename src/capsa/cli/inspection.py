"""``capsa inspect``, ``capsa container inspect`` and ``capsa image inspect``."""

from __future__ import annotations

import json
import sys

from capsa.cli.client import ApiError, quote
from capsa.cli.context import Context
from capsa.cli.main import complain
from capsa.cli.options import Command, Options, UsageError
from capsa.errors import CapsaError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

_KINDS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}
# Which of them a parameter is for.
_KIND_OF = {"platform": "image", "size": "container"}


def show(names: Iterable[str], find: Callable[[str], Any], options: Options) -> int:
    """Print what ``find`` finds for each name, as one JSON list or as the options say; 1 if one was not found."""
    format = "json" if options.switch("json") else options.text("format")
    template = None
    if format and format != "json":
        from capsa.cli.table import unescape
        from capsa.cli.template import Template

        template = Template(unescape(format))
    found, failures = [], []
    for name in names:
        try:
            found.append(find(name))
        except CapsaError as error:
            failures.append(error)
    if template:
        for one in found:
            print(template.render(one))
    elif options.switch("json"):
        for one in found:
            print(json.dumps(one, separators=(",", ":"), ensure_ascii=False))
    elif format == "json":
        print(json.dumps(found, separators=(",", ":"), ensure_ascii=False))
    else:
        print(json.dumps(found, indent=4, ensure_ascii=False))
    sys.stdout.flush()
    for failure in failures:
        complain(failure)
    return 1 if failures else 0


def _find(context: Context, kinds: Iterable[str], name: str, **parameters: object) -> Any:
    """The first of ``kinds`` that has something called ``name``; raises `NotFound`."""
    for kind in kinds:
        path = _KINDS[kind].format(quote(name, b"/:@" if kind == "image" else b""))
        try:
            wanted = {key: value for key, value in parameters.items() if _KIND_OF[key] == kind}
            return context.engine().call("GET", path, wanted)
        except ApiError as error:
            if error.code not in (400, 404):
                raise
            if len(list(kinds)) == 1:
                raise
    raise NotFound(f"no such object: {name}")


def _inspect(context: Context, options: Options) -> int:
    kind = options.text("type")
    if kind is not None and kind not in _KINDS:
        raise UsageError(f"not a valid value for --type: {kind} (use {', '.join(_KINDS)})", 1)
    kinds = [kind] if kind else list(_KINDS)
    return show(options.arguments, lambda name: _find(context, kinds, name, size=options.switch("size")), options)


def _container(context: Context, options: Options) -> int:
    size = options.switch("size")
    return show(options.arguments, lambda name: _find(context, ["container"], name, size=size), options)


def _image(context: Context, options: Options) -> int:
    from capsa.cli.platforms import platform

    wanted = platform(options)
    return show(options.arguments, lambda name: _find(context, ["image"], name, platform=wanted), options)


_FORMAT = """
  -f, --format string   'json' or a Go template
      --json            One JSON object a line
"""
_SIZE = """  -s, --size            Show sizes of a container's files
"""

COMMANDS = {
    "inspect": Command(
        "inspect",
        "NAME|ID [NAME|ID...]",
        "Show all about containers, images, networks and volumes",
        _FORMAT + _SIZE + "      --type string     What it is: container, image, network or volume\n",
        _inspect,
        least=1,
        completes="containers",
    ),
    "container inspect": Command(
        "container inspect",
        "CONTAINER [CONTAINER...]",
        "Show all about containers",
        _FORMAT + _SIZE,
        _container,
        least=1,
        completes="containers",
    ),
    "image inspect": Command(
        "image inspect",
        "IMAGE [IMAGE...]",
        "Show all about images",
        _FORMAT + "      --platform string   The image of this platform (os/architecture)\n",
        _image,
        least=1,
        completes="images",
    ),
}
