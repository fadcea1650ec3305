"""``capsa pull`` and ``capsa push``."""

from __future__ import annotations

import sys

from capsa.cli.auth import header
from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.options import Command, Options
from capsa.cli.platforms import platform as _platform
from capsa.cli.progress import show
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


def pull(
    context: Context,
    name: str,
    *,
    platform: str | None,
    quiet: bool,
    output: TextIO,
    all_tags: bool = False,
    explain: bool = True,
) -> str:
    """Fetch an image from its registry, showing how it goes; returns the whole name. Raises `CapsaError`.

    ``explain``: say which tag is taken where none was given.
    """
    from capsa.image.reference import DEFAULT_TAG, parse

    reference = parse(name)
    if all_tags and reference.version:
        raise CapsaError("tag can't be used with --all-tags/-a")
    version = reference.version
    if not version and not all_tags:
        version = DEFAULT_TAG
        if explain and not quiet:
            print(f"Using default tag: {version}", file=output)
    response = context.engine().request(
        "POST",
        "/images/create",
        {"fromImage": reference.familiar_repository, "tag": version or None, "platform": platform},
        headers=header(context, reference.domain),
        own=True,
    )
    show(response, output, quiet=quiet)
    return str(reference if reference.version else reference.with_default_tag())


def _pull(context: Context, options: Options) -> int:
    whole = pull(
        context,
        options.arguments[0],
        platform=options.text("platform"),
        quiet=options.switch("quiet"),
        output=sys.stdout,
        all_tags=options.switch("all-tags"),
    )
    print(whole)
    return 0


def _push(context: Context, options: Options) -> int:
    from capsa.image.reference import DEFAULT_TAG, parse

    reference = parse(options.arguments[0])
    everything, quiet = options.switch("all-tags"), options.switch("quiet")
    if reference.digest:
        raise CapsaError("cannot push a digest reference")
    if everything and reference.tag:
        raise CapsaError("tag can't be used with --all-tags/-a")
    if not reference.tag and not everything:
        if not quiet:
            print(f"Using default tag: {DEFAULT_TAG}")
        reference = reference.with_default_tag()
    if not quiet:
        print(f"The push refers to repository [{reference.repository}]")
    response = context.engine().request(
        "POST",
        f"/images/{quote(reference.familiar_repository, b'/:')}/push",
        {"tag": reference.tag or None, "platform": _platform(options)},
        headers=header(context, reference.domain),
        own=True,
    )
    show(response, sys.stdout, quiet=quiet)
    if quiet:
        print(reference)
    return 0


_PULL = """
  -a, --all-tags          Download all tagged images of the repository
      --platform string   Platform to pull, where the image has several (os/architecture)
  -q, --quiet             Print the name only
"""
_PUSH = """
  -a, --all-tags          Push all tags of the repository
      --platform string   Platform to push, where the image has several (os/architecture)
  -q, --quiet             Print the name only
"""

_REFUSED = {"disable-content-trust": "there is no content trust to switch off"}

COMMANDS = {
    "pull": Command(
        "pull",
        "NAME[:TAG|@DIGEST]",
        "Download an image from a registry",
        _PULL,
        _pull,
        least=1,
        most=1,
        refused=_REFUSED,
    ),
    "push": Command(
        "push",
        "NAME[:TAG]",
        "Upload an image to a registry",
        _PUSH,
        _push,
        least=1,
        most=1,
        completes="images",
        refused=_REFUSED,
    ),
}
