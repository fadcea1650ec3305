"""``capsa rm``."""

from __future__ import annotations

from capsa.cli.client import ApiError, quote
from capsa.cli.context import Context
from capsa.cli.lifecycle import each
from capsa.cli.main import complain
from capsa.cli.options import Command, Options


def _rm(context: Context, options: Options) -> int:
    engine = context.engine()
    parameters = {"force": options.switch("force"), "v": options.switch("volumes"), "link": options.switch("link")}

    def do(name: str) -> str | None:
        try:
            engine.request("DELETE", f"/containers/{quote(name.lstrip('/'))}", parameters).read()
        except ApiError as error:
            # As docker: what is to be gone and is gone is said, and is no failure.
            if error.code != 404 or not options.switch("force"):
                raise
            complain(error)
            return ""
        return None

    return each(options.arguments, do)


COMMANDS = {
    "rm": Command(
        "rm",
        "CONTAINER [CONTAINER...]",
        "Remove one or more containers",
        """
  -f, --force     Kill the container first if it runs
  -l, --link      Remove the given link
  -v, --volumes   Remove anonymous volumes of the container
""",
        _rm,
        least=1,
        completes="containers",
    ),
}
