"""``capsa update``: limits and the restart policy of containers that are there already."""

from __future__ import annotations

import sys

from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.lifecycle import each
from capsa.cli.options import Command, Options
from capsa.cli.resources import limits
from capsa.errors import CapsaError


def _update(context: Context, options: Options) -> int:
    body = limits(options)
    if not body:
        raise CapsaError("you must provide one or more flags when using this command")
    engine = context.engine()
    warnings: list[str] = []

    def do(name: str) -> None:
        answer = engine.call("POST", f"/containers/{quote(name)}/update", json_body=body) or {}
        warnings.extend(answer.get("Warnings") or [])

    failed = each(options.arguments, do)
    for warning in warnings:
        print(f"WARNING: {warning}", file=sys.stderr)
    return failed


COMMANDS = {
    "update": Command(
        "update",
        "CONTAINER [CONTAINER...]",
        "Change limits and the restart policy of containers",
        """
      --blkio-weight int          Block IO weight, between 10 and 1000, or 0 to disable (default 0)
      --cpu-period int            CFS (Completely Fair Scheduler) period, in microseconds
      --cpu-quota int             CFS quota, in microseconds
      --cpu-rt-period int         Real-time period, in microseconds
      --cpu-rt-runtime int        Real-time runtime, in microseconds
  -c, --cpu-shares int            CPU shares (relative weight)
      --cpus decimal              Number of CPUs
      --cpuset-cpus string        CPUs to run on (0-3, 0,1)
      --cpuset-mems string        Memory nodes to use (0-3, 0,1)
  -m, --memory bytes              Memory limit
      --memory-reservation bytes  Soft memory limit
      --memory-swap bytes         Limit of memory and swap together; -1 for unlimited swap
      --pids-limit int            Limit of processes (-1 for unlimited)
      --restart string            When to restart the container (no, always, unless-stopped, on-failure[:times])
""",
        _update,
        least=1,
        completes="containers",
        refused={"kernel-memory": "what the kernel uses for a container counts for --memory"},
    ),
}
