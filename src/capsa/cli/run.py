"""``capsa create`` and ``capsa run``."""

from __future__ import annotations

import json
import os
import sys

from capsa.cli.client import ApiError, Engine
from capsa.cli.context import Context
from capsa.cli.create_options import CREATE, REFUSED, RUN
from capsa.cli.create_request import build
from capsa.cli.options import Command, Options, UsageError
from capsa.errors import CapsaError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CANNOT_START = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127


def _create(context: Context, options: Options) -> int:
    print(_new(context, options, build(options)))
    return 0


def _plan(context: Context, options: Options) -> int:
    """A container is made for it, without being started, and removed again."""
    if options.text("name"):
        raise UsageError("--name is of no use for a plan: leave it out")
    identifier = _new(context, options, build(options))
    engine = context.engine()
    try:
        print(engine.request("GET", f"/containers/{identifier}/plan").read().decode(), end="")
    finally:
        engine.request("DELETE", f"/containers/{identifier}", {"force": True, "v": True}).read()
    return 0


def _new(context: Context, options: Options, body: dict[str, Any]) -> str:
    """Create the container, pulling its image where asked; returns its id."""
    engine = context.engine()
    image = str(options.arguments[0])
    policy = options.text("pull") or "missing"
    if policy not in ("always", "missing", "never"):
        raise UsageError(f"invalid pull policy: {policy} (always, missing or never)")
    cidfile = options.text("cidfile")
    if cidfile and os.path.exists(cidfile):
        raise UsageError(f"container ID file found, make sure the other container isn't running or delete {cidfile}")
    if policy == "always":
        _pull(context, image, options)
    parameters = {"name": options.text("name"), "platform": options.text("platform")}
    try:
        answer = engine.call("POST", "/containers/create", parameters, json_body=body)
    except ApiError as error:
        if error.code != 404 or policy != "missing" or not _is_missing(engine, image):
            raise
        _pull(context, image, options, missing=True)
        answer = engine.call("POST", "/containers/create", parameters, json_body=body)
    for warning in answer.get("Warnings") or []:
        print(f"WARNING: {warning}", file=sys.stderr)
    identifier = str(answer["Id"])
    if cidfile:
        try:
            with open(cidfile, "x", encoding="ascii") as file:
                file.write(identifier)
        except OSError as error:
            engine.request("DELETE", f"/containers/{identifier}", {"force": True, "v": True}).read()
            raise CapsaError(f"cannot write the container's ID to {cidfile}: {reason(error)}") from error
    return identifier


def _is_missing(engine: Engine, image: str) -> bool:
    """Whether it is the image that was not found, and not a network or a volume."""
    from capsa.cli.client import quote

    try:
        engine.call("GET", f"/images/{quote(image, b'/:@')}/json")
    except ApiError as error:
        return error.code == 404
    return False


def _pull(context: Context, image: str, options: Options, *, missing: bool = False) -> None:
    from capsa.cli.registry import pull
    from capsa.image.reference import parse

    if missing:
        reference = parse(image)
        whole = reference if reference.version else reference.with_default_tag()
        print(f"Unable to find image '{whole.familiar}' locally", file=sys.stderr)
    pull(
        context,
        image,
        platform=options.text("platform"),
        quiet=options.switch("quiet"),
        output=sys.stderr,
        explain=False,
    )


def _run(context: Context, options: Options) -> int:
    body = build(options)
    terminal = options.switch("tty")
    attached = any(body[field] for field in ("AttachStdin", "AttachStdout", "AttachStderr"))
    if terminal:
        from capsa.cli.terminal import detach_keys, is_terminal, size

        detach_keys(options.text("detach-keys"))  # refused now, not when it runs
        if body["AttachStdin"] and not is_terminal(0):
            raise UsageError("the input device is not a TTY", 1)
        rows, columns = size()
        if rows:
            body["HostConfig"]["ConsoleSize"] = [rows, columns]
    if options.switch("rm") and (options.text("restart") or "no") != "no":
        raise UsageError("conflicting options: cannot specify both --restart and --rm")
    identifier = _new(context, options, body)
    engine = context.engine()
    if not attached:
        _start(engine, identifier)
        print(identifier)
        return 0
    connection, ahead = engine.upgrade(
        f"/containers/{identifier}/attach",
        {
            "stream": True,
            "stdin": body["AttachStdin"],
            "stdout": body["AttachStdout"],
            "stderr": body["AttachStderr"],
            "detachKeys": options.text("detach-keys"),
        },
    )
    waiting = engine.wait(identifier, "removed" if options.switch("rm") else "next-exit")
    code = _start(engine, identifier)
    if code:
        connection.close()
        return code
    from capsa.cli.streams import session

    try:
        stayed = session(
            engine,
            f"/containers/{identifier}",
            connection,
            ahead,
            stdin=body["AttachStdin"],
            terminal=terminal,
            detach_keys=options.text("detach-keys"),
            proxy_signals=options.switch("sig-proxy"),
        )
    except BrokenPipeError:
        waiting.close()
        raise
    if not stayed:
        return 0
    return exit_code(waiting.read())


def _start(engine: Engine, identifier: str) -> int:
    """Start it: 0, or the code that docker gives a failure, which is said."""
    try:
        engine.request("POST", f"/containers/{identifier}/start").read()
    except ApiError as error:
        from capsa.cli.main import complain

        complain(error)
        return failure_code(str(error))
    return 0


def failure_code(text: str) -> int:
    """docker's exit code for a message of a failed start."""
    if "executable file not found" in text or "no such file or directory" in text:
        return NOT_FOUND
    if "permission denied" in text or "is a directory" in text:
        return NOT_EXECUTABLE
    return CANNOT_START


def exit_code(answer: bytes) -> int:
    """The exit code of the answer of a wait; raises `CapsaError` when the engine could not tell."""
    result = json.loads(answer)
    trouble = (result.get("Error") or {}).get("Message")
    if trouble:
        raise CapsaError(trouble)
    return int(result["StatusCode"])


COMMANDS = {
    "create": Command(
        "create",
        "IMAGE [COMMAND] [ARG...]",
        "Create a new container",
        CREATE,
        _create,
        least=1,
        interspersed=False,
        completes="images",
        refused=REFUSED,
    ),
    "plan": Command(
        "plan",
        "IMAGE [COMMAND] [ARG...]",
        "Show what a container would become, without running it",
        CREATE,
        _plan,
        least=1,
        interspersed=False,
        completes="images",
        refused=REFUSED,
    ),
    "run": Command(
        "run",
        "IMAGE [COMMAND] [ARG...]",
        "Create and run a new container from an image",
        RUN,
        _run,
        least=1,
        interspersed=False,
        completes="images",
        failure=CANNOT_START,
        refused=REFUSED,
    ),
}
