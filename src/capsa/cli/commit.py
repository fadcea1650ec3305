"""``diff`` and ``commit``: what a container changed, and an image made of it."""

from __future__ import annotations

from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.options import Command, Options

_KINDS = "CAD"


def _diff(context: Context, options: Options) -> int:
    for change in context.engine().call("GET", f"/containers/{quote(options.arguments[0])}/changes") or []:
        print(_KINDS[change["Kind"]], change["Path"])
    return 0


def _commit(context: Context, options: Options) -> int:
    container, *name = options.arguments
    repository, tag = (name or [""])[0], ""
    above, slash, last = repository.rpartition("/")
    if ":" in last:
        last, _, tag = last.partition(":")
        repository = above + slash + last
    parameters = {
        "container": container,
        "repo": repository or None,
        "tag": tag or None,
        "comment": options.text("message"),
        "author": options.text("author"),
        "pause": 0 if options.switch("no-pause") or not options.switch("pause") else 1,
        "changes": options.all("change"),
    }
    print(context.engine().call("POST", "/commit", parameters)["Id"])
    return 0


COMMANDS = {
    "commit": Command(
        "commit",
        "CONTAINER [REPOSITORY[:TAG]]",
        "Make an image of a container's changes",
        """
  -a, --author string    Who made it
  -c, --change list      Apply a Dockerfile instruction to the image
  -m, --message string   Why it was made
      --no-pause         Let the container run meanwhile
  -p, --pause            Pause the container meanwhile (default true)
""",
        _commit,
        least=1,
        most=2,
        completes="containers",
    ),
    "diff": Command(
        "diff",
        "CONTAINER",
        "Show what a container changed in its files",
        "",
        _diff,
        least=1,
        most=1,
        completes="containers",
    ),
}
