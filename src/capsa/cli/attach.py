"""``capsa attach``, and what ``start --attach`` shares with it."""

from __future__ import annotations

from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.options import Command, Options
from capsa.cli.run import exit_code
from capsa.cli.streams import left, session
from capsa.cli.terminal import detach_keys, is_terminal
from capsa.errors import CapsaError, Conflict


def attached(
    context: Context, name: str, *, stdin: bool, keys: str | None, proxy_signals: bool, start: bool = False
) -> int:
    """Connect with a container, start it if asked, stay until it ends; returns its exit code."""
    engine = context.engine()
    path = f"/containers/{quote(name)}"
    container = engine.call("GET", f"{path}/json")
    identifier, state, config = container["Id"], container["State"], container["Config"]
    if not start:
        if not state["Running"]:
            raise Conflict("you cannot attach to a stopped container, start it first")
        if state["Paused"]:
            raise Conflict("you cannot attach to a paused container, unpause it first")
    terminal = bool(config["Tty"])
    stdin = stdin and bool(config["OpenStdin"])
    if terminal and stdin and not is_terminal(0):
        raise CapsaError("the input device is not a TTY")
    detach_keys(keys)  # refused now, not when attached
    resource = f"/containers/{identifier}"
    parameters = {"stream": True, "stdin": stdin, "stdout": True, "stderr": True, "detachKeys": keys}
    connection, ahead = engine.upgrade(f"{resource}/attach", parameters)
    removes = bool(container["HostConfig"].get("AutoRemove"))
    waiting = engine.wait(identifier, "removed" if removes else "next-exit" if start else "not-running")
    if start:
        try:
            engine.request("POST", f"{resource}/start").read()
        except CapsaError:
            connection.close()
            raise
    stayed = session(
        engine,
        resource,
        connection,
        ahead,
        stdin=stdin,
        terminal=terminal,
        detach_keys=keys,
        proxy_signals=proxy_signals,
        redraw=not start,
    )
    if not stayed:
        return 0 if start else left()
    return exit_code(waiting.read())


def _attach(context: Context, options: Options) -> int:
    return attached(
        context,
        options.arguments[0],
        stdin=not options.switch("no-stdin"),
        keys=options.text("detach-keys"),
        proxy_signals=options.switch("sig-proxy"),
    )


COMMANDS = {
    "attach": Command(
        "attach",
        "CONTAINER",
        "Attach to a running container's standard input and output",
        """
      --detach-keys string   Keys that detach from the container (default "ctrl-p,ctrl-q")
      --no-stdin             Do not attach standard input
      --sig-proxy            Pass signals on to the process (default true)
""",
        _attach,
        least=1,
        most=1,
        completes="running",
    ),
}
