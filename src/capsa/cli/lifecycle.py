"""Verbs that change the state of containers: stop, restart, kill, pause, unpause, wait, rename."""

from __future__ import annotations

import json

from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.main import complain
from capsa.cli.options import Command, Options
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def each(names: Iterable[str], do: Callable[[str], str | None]) -> int:
    """Do something with each; its name or what that returns is printed, failures are said, and make the exit code 1."""
    failed = 0
    for name in names:
        try:
            text = do(name)
        except CapsaError as error:
            complain(error)
            failed = 1
        else:
            if text != "":
                print(name if text is None else text, flush=True)
    return failed


def _post(context: Context, options: Options, verb: str, parameters: dict[str, object] | None = None) -> int:
    engine = context.engine()

    def do(name: str) -> None:
        engine.request("POST", f"/containers/{quote(name)}/{verb}", parameters).read()

    return each(options.arguments, do)


def _stop(context: Context, options: Options) -> int:
    return _post(context, options, "stop", {"t": _seconds(options), "signal": options.text("signal")})


def _restart(context: Context, options: Options) -> int:
    return _post(context, options, "restart", {"t": _seconds(options), "signal": options.text("signal")})


def _seconds(options: Options) -> str | None:
    """The time to wait; zero is one, too."""
    number = options.number("timeout") if options.given("timeout") else options.number("time")
    return None if number is None else str(number)


def _kill(context: Context, options: Options) -> int:
    return _post(context, options, "kill", {"signal": options.text("signal")})


def _pause(context: Context, options: Options) -> int:
    return _post(context, options, "pause")


def _unpause(context: Context, options: Options) -> int:
    return _post(context, options, "unpause")


def _wait(context: Context, options: Options) -> int:
    engine = context.engine()

    def do(name: str) -> str:
        answer = json.loads(engine.wait(quote(name), "not-running").read())
        return str(answer["StatusCode"])

    return each(options.arguments, do)


def _rename(context: Context, options: Options) -> int:
    container, name = (text.strip() for text in options.arguments)
    if not container or not name:
        raise CapsaError("neither old nor new names may be empty")
    context.engine().request("POST", f"/containers/{quote(container)}/rename", {"name": name}).read()
    return 0


_STOP = """
  -s, --signal string   Signal to send to the container
      --time int        The same as --timeout
  -t, --timeout int     Seconds to wait before it is killed (-1: for ever)
"""
_KILL = """
  -s, --signal string   Signal to send to the container (default KILL)
"""
_MANY = "CONTAINER [CONTAINER...]"

COMMANDS = {
    "kill": Command("kill", _MANY, "Kill one or more running containers", _KILL, _kill, least=1, completes="running"),
    "pause": Command("pause", _MANY, "Pause all processes of containers", "", _pause, least=1, completes="running"),
    "rename": Command(
        "rename", "CONTAINER NEW_NAME", "Rename a container", "", _rename, least=2, most=2, completes="containers"
    ),
    "restart": Command("restart", _MANY, "Restart containers", _STOP, _restart, least=1, completes="containers"),
    "stop": Command("stop", _MANY, "Stop running containers", _STOP, _stop, least=1, completes="running"),
    "unpause": Command("unpause", _MANY, "Unpause containers", "", _unpause, least=1, completes="running"),
    "wait": Command(
        "wait",
        _MANY,
        "Wait until containers stop, then print their exit codes",
        "",
        _wait,
        least=1,
        completes="running",
    ),
}
