"""``capsa start``: stopped containers, one of them attached if asked for."""

from __future__ import annotations

from capsa.cli.attach import attached
from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.lifecycle import each
from capsa.cli.options import Command, Options
from capsa.errors import CapsaError


def _start(context: Context, options: Options) -> int:
    engine = context.engine()
    if options.switch("attach") or options.switch("interactive"):
        if len(options.arguments) > 1:
            raise CapsaError("you cannot start and attach multiple containers at once")
        return attached(
            context,
            options.arguments[0],
            stdin=options.switch("interactive"),
            keys=options.text("detach-keys"),
            proxy_signals=options.switch("sig-proxy"),
            start=True,
        )

    def do(name: str) -> None:
        engine.request("POST", f"/containers/{quote(name)}/start").read()

    return each(options.arguments, do)


COMMANDS = {
    "start": Command(
        "start",
        "CONTAINER [CONTAINER...]",
        "Start stopped containers",
        """
  -a, --attach               Attach to its output, and pass signals on
      --detach-keys string   Keys that detach from the container (default "ctrl-p,ctrl-q")
  -i, --interactive          Attach to its standard input
      --sig-proxy            Pass signals on to the process (default true)
""",
        _start,
        least=1,
        completes="containers",
        refused=dict.fromkeys(("checkpoint", "checkpoint-dir"), "capsa cannot checkpoint containers"),
    ),
}
