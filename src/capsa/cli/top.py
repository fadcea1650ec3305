"""``capsa top``: the processes of a container."""

from __future__ import annotations

from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.options import Command, Options
from capsa.cli.table import align

_WIDTH = 20
"""Characters that a column has at least, as docker's have."""


def _top(context: Context, options: Options) -> int:
    name, *arguments = options.arguments
    parameters = {"ps_args": " ".join(arguments) or None}
    answer = context.engine().call("GET", f"/containers/{quote(name)}/top", parameters)
    print(align([answer["Titles"], *(answer["Processes"] or [])], least=_WIDTH))
    return 0


COMMANDS = {
    "top": Command(
        "top",
        "CONTAINER [ps OPTIONS]",
        "Show the processes of a container",
        "",
        _top,
        least=1,
        interspersed=False,
        completes="running",
    ),
}
