"""``capsa image make``: base images without any registry."""

from __future__ import annotations

import os
import sys

from capsa.cli.context import Context
from capsa.cli.options import Command, Options, UsageError
from capsa.cli.progress import messages
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DEBIAN = "debian"
GENODE = "genode"


def _make(context: Context, options: Options) -> int:
    kind = options.arguments[0]
    if kind not in (DEBIAN, GENODE):
        raise CapsaError(f"cannot make an image of {kind} (only of {DEBIAN} or {GENODE})")
    for option, wanted in (("archive", GENODE), ("include", DEBIAN), ("suite", DEBIAN)):
        if options.given(option) and kind != wanted:
            raise UsageError(f"--{option} is for images of {wanted}")
    from capsa.image.reference import parse

    reference = parse(options.text("tag") or kind)
    if reference.digest:
        raise CapsaError("an image is tagged with a name, not with a digest")
    name = reference.with_default_tag().familiar
    return (_make_debian if kind == DEBIAN else _make_genode)(context, options, name)


def _make_genode(context: Context, options: Options, name: str) -> int:
    """Of depot archives: the engine makes the image of what they hold."""
    from pathlib import Path

    from capsa.image.genode import PLATFORM_OS, read

    archives = options.all("archive")
    if not archives:
        raise UsageError("--archive is needed: the package and the archives with its content")
    package = read([Path(path) for path in archives])
    repository, _, tag = name.rpartition(":")
    response = context.engine().request(
        "POST",
        "/images/create",
        {
            "fromSrc": "-",
            "repo": repository,
            "tag": tag,
            "platform": f"{PLATFORM_OS}/amd64",
            "changes": package.changes(),
        },
        body=package.tar(),
        headers={"Content-Type": "application/x-tar"},
        own=True,
    )
    last = ""
    for message in messages(response):
        last = str(message.get("status", last))
    print(last if options.switch("quiet") else f"Made image: {name}")
    return 0


def _make_debian(context: Context, options: Options, name: str) -> int:
    from capsa.image.debian import make_debian

    include = [package for package in options.strings("include") if package]
    engine = context.engine()
    engine.request("GET", "/_ping").read()  # before minutes of work
    quiet = options.switch("quiet")
    with make_debian(
        name, suite=options.text("suite") or "", include=include, output=None if quiet else _progress()
    ) as archive:
        response = engine.request(
            "POST",
            "/images/load",
            {"quiet": True},
            body=archive.chunks(),
            headers={"Content-Type": "application/x-tar"},
            own=True,
        )
        for _ in messages(response):
            pass
        if not quiet and sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr, flush=True)
        print(archive.id if quiet else f"Made image: {name}")
    return 0


def _progress() -> Callable[[str], None]:
    """mmdebstrap's messages: what is new overwrites what was on a terminal, and is a line elsewhere."""
    if not sys.stderr.isatty():
        return lambda line: print(line, file=sys.stderr, flush=True)

    def show(line: str) -> None:
        width = os.get_terminal_size(2).columns - 1
        print(f"\r\033[K{line[:width]}", end="\r", file=sys.stderr, flush=True)

    return show


COMMANDS = {
    "image make": Command(
        "image make",
        "debian|genode",
        "Make an image of this machine's own Debian mirror (with mmdebstrap), or of Genode's depot archives",
        """
      --archive list      Depot archive (.tar.xz): a package with its runtime file, and those with its content
      --include strings   Packages to install as well
  -q, --quiet             Print only the ID
      --suite string      Debian suite, such as bookworm or trixie (default: this machine's)
  -t, --tag string        Name of the image (default "debian" or "genode")
""",
        _make,
        least=1,
        most=1,
        completes="debian",
    ),
}
