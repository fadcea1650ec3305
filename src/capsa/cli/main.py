"""The `capsa` command: finds the verb, runs it, turns failures into a sentence and an exit code.

This module imports nothing that a verb might not need: a container starts in a few milliseconds, so the
interpreter's imports are most of what a command takes.
"""

from __future__ import annotations

import os
import sys

from capsa.cli.context import Context
from capsa.cli.options import Option, UsageError, parse
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from capsa.cli.options import Command

GLOBAL_OPTIONS = """
      --config string      Directory of config.json, with registry credentials (default ~/.docker)
  -H, --host string        Engine to speak to (default $DOCKER_HOST or unix:///run/capsa/docker.sock)
      --tls                Use TLS with a tcp:// engine
      --tlscacert string   Trust certificates signed by this authority only (default ~/.docker/ca.pem)
      --tlscert string     TLS certificate of this client (default ~/.docker/cert.pem)
      --tlskey string      TLS key of this client (default ~/.docker/key.pem)
      --tlsverify          Use TLS and verify the engine
  -v, --version            Print the version of this command
"""

REFUSED = {
    "context": "select an engine with --host or DOCKER_HOST",
    "debug": "an engine logs to engine.log beside its socket",
    "log-level": "an engine logs to engine.log beside its socket",
}

INTERRUPTED = 130
# A verb's module (below capsa.cli), loaded when the verb is used; a module's COMMANDS holds it by this name.
VERBS = {
    "attach": "attach",
    "commit": "commit",
    "completion": "completion",
    "cp": "copy",
    "create": "run",
    "diff": "commit",
    "engine": "engine",
    "events": "events",
    "exec": "execute",
    "export": "archives",
    "history": "history",
    "images": "images",
    "import": "archives",
    "info": "info",
    "inspect": "inspection",
    "kill": "lifecycle",
    "load": "archives",
    "login": "login",
    "logout": "login",
    "logs": "logs",
    "pause": "lifecycle",
    "plan": "run",
    "port": "port",
    "ps": "ps",
    "pull": "registry",
    "push": "registry",
    "rename": "lifecycle",
    "restart": "lifecycle",
    "rm": "removal",
    "rmi": "images",
    "run": "run",
    "save": "archives",
    "search": "search",
    "start": "start",
    "stats": "stats",
    "stop": "lifecycle",
    "tag": "images",
    "top": "top",
    "unpause": "lifecycle",
    "update": "update",
    "version": "version",
    "wait": "lifecycle",
}

_OF_CONTAINERS = (
    "attach",
    "commit",
    "cp",
    "create",
    "diff",
    "exec",
    "export",
    "kill",
    "logs",
    "pause",
    "plan",
    "port",
    "rename",
    "restart",
    "rm",
    "run",
    "start",
    "stats",
    "stop",
    "top",
    "unpause",
    "update",
    "wait",
)
# Verbs in two words: the same commands by their long names, and what is there only so.
GROUPS = {
    "container": {
        **{name: VERBS[name] for name in _OF_CONTAINERS},
        "inspect": "inspection",
        "ls": "ps",
        "prune": "prune",
    },
    "engine": {"run": "engine", "stop": "engine"},
    "hid": dict.fromkeys(("check", "convert", "disable", "enable", "format", "get", "remove", "set"), "hid"),
    "image": {
        **{name: VERBS[name] for name in ("import", "load", "pull", "push", "save", "tag")},
        "history": "history",
        "inspect": "inspection",
        "ls": "images",
        "make": "make",
        "prune": "prune",
        "rm": "images",
    },
    "network": {
        **dict.fromkeys(("connect", "disconnect", "inspect", "ls", "rm"), "networks"),
        "create": "network_create",
        "prune": "prune",
    },
    "system": {"df": "disk", "events": "events", "info": "info", "prune": "prune"},
    "volume": {**dict.fromkeys(("create", "inspect", "ls", "rm"), "volumes"), "prune": "prune"},
}
# What docker calls them, too.
ALIASES = {
    **{f"container {name}": "ls" for name in ("list", "ps")},
    **{f"{group} list": "ls" for group in ("image", "network", "volume")},
    **{f"{group} remove": "rm" for group in ("container", "image", "network", "volume")},
}
GROUP_SUMMARIES = {
    "container": "Manage containers",
    "engine": "Run or stop an engine",
    "hid": "Work on Genode's configuration files (HID)",
    "image": "Manage images",
    "network": "Manage networks",
    "system": "Look after the engine and its disk",
    "volume": "Manage volumes",
}


def command(words: Sequence[str]) -> tuple[Command | None, int]:
    """The command that ``words`` begin with, and how many of them name it; None for an unknown one."""
    if not words:
        return None, 0
    name, module, used = words[0], VERBS.get(words[0]), 1
    group = GROUPS.get(name)
    verb = words[1] if len(words) > 1 else ""
    if group is not None and verb:
        verb = ALIASES.get(f"{name} {verb}", verb)
        if verb in group:
            name, module, used = f"{name} {verb}", group[verb], 2
    if module is None:
        return None, 0
    import importlib

    commands: dict[str, Command] = importlib.import_module(f"capsa.cli.{module}").COMMANDS
    return commands.get(name) or commands[verb], used


def dispatch(argv: Sequence[str]) -> int:
    """Run the command line ``argv`` (without the program's name); returns the exit code, raises `UsageError`."""
    declared = [Option(line) for line in GLOBAL_OPTIONS.strip("\n").splitlines()]
    given = parse(declared, argv, interspersed=False, command="", refused=REFUSED)
    if given is None or (not given.arguments and not given.switch("version")):
        from capsa.cli.help import overview

        print(overview())
        return 0
    if given.switch("version"):
        import capsa

        print(f"capsa version {capsa.__version__}")
        return 0
    words = given.arguments
    if words[0] == "help":
        words = [*words[1:], "--help"]
        if len(words) == 1:
            return dispatch(["--help"])
    found, used = command(words)
    if found is None:
        if words[0] in GROUPS:
            from capsa.cli.help import group

            if len(words) > 1 and words[1] not in ("--help", "-h"):
                from capsa.cli.absent import sentence

                raise UsageError(sentence(*words[:2]), 1)
            print(group(words[0]))
            return 0
        from capsa.cli.absent import sentence

        raise UsageError(sentence(words[0]), 1)
    options = found.parse(words[used:])
    if options is None:
        print(found.help(), end="")
        return 0
    context = Context(
        given.text("host"),
        given.text("config"),
        tls=given.switch("tls"),
        tlsverify=given.switch("tlsverify"),
        tlscacert=given.text("tlscacert"),
        tlscert=given.text("tlscert"),
        tlskey=given.text("tlskey"),
    )
    try:
        return found.action(context, options)
    except UsageError:
        raise
    except CapsaError as error:
        complain(error)
        return found.failure


def complain(error: object) -> None:
    """Say a failure on standard error, in the one form that all of them have."""
    print(f"capsa: {error}", file=sys.stderr)


def status(argv: Sequence[str]) -> int:
    """Run a command line, say what failed; returns the exit code."""
    try:
        code = dispatch(argv)
        sys.stdout.flush()
        return code
    except UsageError as error:
        complain(error)
        return error.code
    except CapsaError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # behind the ^C that the terminal shows
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone: nothing to say, and nobody to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else error)
        return 1


def main() -> NoReturn:
    """The console script. Leaves without tearing the interpreter down: all is flushed, nothing is left to end."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from capsa.sys import standard

        standard.open_all()
    code = status(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    os._exit(code)


if __name__ == "__main__":
    main()
