"""``capsa logs``."""

from __future__ import annotations

from capsa.cli import units
from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.options import Command, Options
from capsa.cli.streams import Demultiplexer, write


def _logs(context: Context, options: Options) -> int:
    engine = context.engine()
    path = f"/containers/{quote(options.arguments[0])}"
    container = engine.call("GET", f"{path}/json")
    tail = options.text("tail")
    parameters = {
        "stdout": True,
        "stderr": True,
        "follow": options.switch("follow"),
        "timestamps": options.switch("timestamps"),
        "details": options.switch("details"),
        "tail": tail,
        "since": units.moment(options.text("since") or "") if options.given("since") else None,
        "until": units.moment(options.text("until") or "") if options.given("until") else None,
    }
    response = engine.request("GET", f"/containers/{container['Id']}/logs", parameters, own=True)
    if container["Config"]["Tty"]:
        for piece in response.chunks():
            write(1, piece)
        return 0
    frames = Demultiplexer()
    for piece in response.chunks():
        for channel, text in frames.feed(piece):
            write(2 if channel == 2 else 1, text)
    return 0


COMMANDS = {
    "logs": Command(
        "logs",
        "CONTAINER",
        "Show what a container has written",
        """
      --details        Show extra attributes of the log
  -f, --follow         Go on as more is written
      --since string   Only what is newer (2024-01-31T12:00:00, or 10m for ten minutes ago)
  -n, --tail string    Only so many lines from the end
  -t, --timestamps     Show when each line was written
      --until string   Only what is older
""",
        _logs,
        least=1,
        most=1,
        completes="containers",
    ),
}
