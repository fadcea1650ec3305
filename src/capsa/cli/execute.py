"""``capsa exec``: one more process in a running container."""

from __future__ import annotations

import time

from capsa.cli.client import ApiError, Engine, quote
from capsa.cli.context import Context
from capsa.cli.create_request import environment_of, from_files
from capsa.cli.options import Command, Options
from capsa.cli.run import failure_code
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_TRIES, _PAUSE = 200, 0.01


def _exec(context: Context, options: Options) -> int:
    name, *command = options.arguments
    engine = context.engine()
    terminal, detached = options.switch("tty"), options.switch("detach")
    stdin = options.switch("interactive") and not detached
    body: dict[str, Any] = {
        "Cmd": command,
        "AttachStdin": stdin,
        "AttachStdout": not detached,
        "AttachStderr": not detached,
        "Tty": terminal,
    }
    environment = [*from_files(options.all("env-file"), inherit=True), *environment_of(options.all("env"))]
    if environment:
        body["Env"] = environment
    for option, field in (("user", "User"), ("workdir", "WorkingDir"), ("detach-keys", "DetachKeys")):
        if options.given(option):
            body[field] = options.text(option)
    if options.switch("privileged"):
        body["Privileged"] = True
    start: dict[str, Any] = {"Detach": detached, "Tty": terminal}
    if terminal and not detached:
        from capsa.cli.terminal import detach_keys, is_terminal, size

        detach_keys(options.text("detach-keys"))  # refused now, not when it runs
        if stdin and not is_terminal(0):
            raise CapsaError("the input device is not a TTY")
        rows, columns = size()
        if rows:
            body["ConsoleSize"] = start["ConsoleSize"] = [rows, columns]
    identifier = engine.call("POST", f"/containers/{quote(name)}/exec", json_body=body)["Id"]
    resource = f"/exec/{identifier}"
    try:
        if detached:
            engine.request("POST", f"{resource}/start", json_body=start).read()
            return 0
        connection, ahead = engine.upgrade(f"{resource}/start", json_body=start)
    except ApiError as error:
        from capsa.cli.main import complain

        complain(error)
        code = failure_code(str(error))
        return code if code != 125 else 1
    from capsa.cli.streams import left, session

    stayed = session(
        engine,
        resource,
        connection,
        ahead,
        stdin=stdin,
        terminal=terminal,
        detach_keys=options.text("detach-keys"),
        proxy_signals=False,
    )
    if not stayed:
        return left()
    return _exit_code(engine, resource)


def _exit_code(engine: Engine, resource: str) -> int:
    """The stream may end a moment before the process is known to; raises `CapsaError` when it runs on."""
    for _ in range(_TRIES):
        state = engine.call("GET", f"{resource}/json")
        if not state.get("Running"):
            return int(state.get("ExitCode") or 0)
        time.sleep(_PAUSE)
    raise CapsaError("the command has closed its output, but runs on")


COMMANDS = {
    "exec": Command(
        "exec",
        "CONTAINER COMMAND [ARG...]",
        "Execute a command in a running container",
        """
  -d, --detach               Run the command in the background
      --detach-keys string   Keys that detach from the command (default "ctrl-p,ctrl-q")
  -e, --env list             Set an environment variable
      --env-file list        Read environment variables from a file
  -i, --interactive          Keep standard input open even if not attached
      --privileged           Give extended privileges to the command
  -t, --tty                  Give the command a terminal
  -u, --user string          User name or UID (user[:group])
  -w, --workdir string       Working directory inside the container
""",
        _exec,
        least=2,
        interspersed=False,
        completes="running",
    ),
}
