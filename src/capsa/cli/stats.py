"""``capsa stats``: what containers use, once or again and again."""

from __future__ import annotations

import sys
import time

from capsa.cli import usage
from capsa.cli.client import ApiError, Engine, quote
from capsa.cli.context import Context
from capsa.cli.options import Command, Options
from capsa.cli.table import render

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INTERVAL = 1.0
"""Seconds from one table to the next."""

_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\033[H", "\033[K", "\033[J"


def _stats(context: Context, options: Options) -> int:
    format = options.text("format")
    once = options.switch("no-stream")
    watched = _Watched(context.engine(), options)
    live = not once and sys.stdout.isatty()
    watched.sample()
    if live:
        print("\033[2J", end="")
    else:
        # A figure of the processor is the difference of two samples.
        time.sleep(INTERVAL)
        watched.sample()
    while True:
        text = "\n".join(render(watched.rows, headers=usage.HEADERS, default=usage.DEFAULT, format=format))
        if live:
            lines = "".join(f"{line}{_CLEAR_LINE}\n" for line in text.splitlines())
            print(f"{_HOME}{lines}{_CLEAR_BELOW}", end="", flush=True)
        elif text:
            print(text, flush=True)
        if once:
            return 0
        time.sleep(INTERVAL)
        watched.sample()


class _Watched:
    """The containers that were asked for, or all that run, with their samples."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self._engine = engine
        self._names = options.arguments
        self._all = options.switch("all")
        self._whole = options.switch("no-trunc")
        self._once = options.switch("no-stream")
        #: The lines of the table.
        self.rows: list[dict[str, str]] = []
        self._before: dict[str, Any] = {}

    def sample(self) -> None:
        """Read all figures; raises `ApiError` for a container that was named and is not there at the first time."""
        rows, seen = [], {}
        for asked in self._names or self._listed():
            try:
                now = self._engine.call(
                    "GET", f"/containers/{quote(asked)}/stats", {"stream": "false", "one-shot": "true"}
                )
            except ApiError as error:
                if error.code != 404 or (self._names and not self._before):
                    raise
                if self._names:  # it was there, and is listed on without figures
                    rows.append(usage.row(asked, asked[:12], "", None))
                continue
            identifier, name = str(now.get("id") or asked), str(now.get("name") or "").lstrip("/")
            running = bool((now.get("pids_stats") or {}).get("current"))
            now["precpu_stats"] = self._before.get(identifier, {}).get("cpu_stats") or now.get("cpu_stats")
            seen[identifier] = now
            shown = identifier if self._whole else identifier[:12]
            # As docker has it: a stopped one uses nothing where that is asked once, and is unknown in a live table.
            sample = now if running or self._once else None
            rows.append(usage.row(asked if self._names else identifier[:12], shown, name, sample))
        self.rows, self._before = rows, seen

    def _listed(self) -> list[str]:
        return [one["Id"] for one in self._engine.call("GET", "/containers/json", {"all": self._all})]


COMMANDS = {
    "stats": Command(
        "stats",
        "[CONTAINER...]",
        "Show what containers use, again and again",
        """
  -a, --all             Show all containers, not only those that run
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --no-stream       Show it once
      --no-trunc        Do not shorten
""",
        _stats,
        completes="running",
    ),
}
