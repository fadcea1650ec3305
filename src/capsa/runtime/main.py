"""The `capsa-runtime` command: finds the verb, runs it, turns failures into a line of the log and an exit code.

Imports nothing that a verb might not need: containerd calls this four times for each container.
"""

from __future__ import annotations

import os
import sys

from capsa.cli.options import Option, Options, UsageError, parse
from capsa.errors import CapsaError, InvalidArgument, Unsupported, reason
from capsa.runtime import lean, sealing
from capsa.runtime.log import Log
from capsa.runtime.verb import DEFAULT_ROOT, PROGRAM, Settings
from capsa.sys import standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from capsa.runtime.verb import Verb

GLOBAL_OPTIONS = f"""
      --criu string         The program CRIU, for checkpoint and restore (default "criu")
      --debug               Write more to the log
      --log string          Write failures to this file, too
      --log-format string   "text" or "json" (default text)
      --root string         Directory for the state of containers (default {DEFAULT_ROOT})
      --rootless string     "true", "false" or "auto"; only root can make containers (default auto)
      --systemd-cgroup      Have systemd make cgroups: cgroupsPath is SLICE:PREFIX:NAME
  -v, --version             Print the version
"""
# The module (below capsa.runtime) of each verb.
VERBS = {
    "checkpoint": "checkpoint",
    "create": "creation",
    "delete": "removal",
    "events": "limits",
    "exec": "execute",
    "features": "description",
    "kill": "signals",
    "list": "inspection",
    "pause": "signals",
    "ps": "inspection",
    "restore": "restore",
    "resume": "signals",
    "run": "creation",
    "spec": "description",
    "start": "start",
    "state": "inspection",
    "update": "limits",
}

# They have no need of msgspec, or hardly ever.
LIGHT = frozenset({"delete", "kill", "list", "pause", "ps", "resume", "start", "state"})
# They need of msgspec the types of a specification.
PLAIN = frozenset({"create", "exec", "run"})
# They take time anyway, and need more of Python's library than `lean` leaves.
FULL = frozenset({"checkpoint", "features", "restore", "spec"})
_CGROUPS = ("capsa.platform.linux.cgroup", "capsa.platform.linux.cgroup.kill")
_CONTAINERS = (
    "capsa.platform.linux.container",
    "capsa.platform.linux.cgroup.devices",
    "capsa.platform.linux.cgroup.plan",
    "capsa.runtime.ancestors",
)
# What verbs import while they are at work, and need always.
WANTED = {
    "create": (*_CONTAINERS, "capsa.platform.linux.door"),
    "delete": ("capsa.runtime.ancestors", *_CGROUPS),
    "exec": (*_CONTAINERS, "capsa.platform.linux.entering"),
    "pause": _CGROUPS,
    "ps": _CGROUPS,
    "resume": _CGROUPS,
    "run": (*_CONTAINERS, "capsa.runtime.foreground", "capsa.platform.linux.cgroup.kill"),
    "update": _CGROUPS,
    "start": ("capsa.platform.linux.door",),
}


def verb(name: str) -> Verb:
    """The verb of this name; raises `UsageError`."""
    if name not in VERBS:
        raise UsageError(f"unknown command {name!r} (see '{PROGRAM} --help')")
    module = f"capsa.runtime.{VERBS[name]}"
    __import__(module)
    verbs: dict[str, Verb] = sys.modules[module].VERBS
    return verbs[name]


def overview() -> str:
    """What ``--help`` prints."""
    names = "\n".join(f"  {name:12}{verb(name).summary}" for name in sorted(VERBS))
    return (
        f"Usage:  {PROGRAM} [OPTIONS] COMMAND\n\nOCI runtime: containers from bundles, without an engine\n\n"
        f"Commands:\n{names}\n\nGlobal options:\n{GLOBAL_OPTIONS.strip(chr(10))}\n"
    )


def version() -> str:
    """What ``--version`` prints, in the lines that callers look for."""
    import capsa
    from capsa.oci.runtime import VERSION

    return f"{PROGRAM} version {capsa.__version__}\nspec: {VERSION}"


def options_of(argv: Sequence[str]) -> Options | None:
    """The global options, and the verb with its words as arguments; None where help is wanted."""
    declared = [Option(line) for line in GLOBAL_OPTIONS.strip("\n").splitlines()]
    return parse(declared, argv, interspersed=False, command="", program=PROGRAM)


def log_of(given: Options | None) -> Log:
    """Where failures are said."""
    if given is None:
        return Log(None, "text", debug=False)
    form = given.text("log-format") or "text"
    return Log(given.text("log") or None, form, debug=given.switch("debug"))


def settings_of(given: Options, log: Log) -> Settings:
    """What the global options say; raises `UsageError`, `CapsaError`."""
    if (given.text("log-format") or "text") not in ("text", "json"):
        raise UsageError(f'invalid --log-format {given.text("log-format")!r}: it is "text" or "json"')
    rootless = given.text("rootless") or "auto"
    if rootless not in ("true", "false", "auto"):
        raise UsageError(f'invalid --rootless {rootless!r}: it is "true", "false" or "auto"')
    return Settings(
        given.text("root") or DEFAULT_ROOT,
        log.warning,
        systemd=given.switch("systemd-cgroup"),
        criu=_program(given.text("criu") or "criu"),
    )


def _program(name: str) -> str:
    return os.path.abspath(name) if "/" in name else name


def dispatch(given: Options) -> int:
    """Do what was asked for; returns the exit code. Raises `UsageError`; any other failure is said in the log."""
    log = log_of(given)
    log.check()
    settings = settings_of(given, log)
    name = given.arguments[0]
    if name in VERBS and name not in FULL:
        lean.load(
            (f"capsa.runtime.{VERBS[name]}", *WANTED.get(name, ())), types=name not in LIGHT, plainly=name in PLAIN
        )
    found = verb(name)
    options = found.parse(given.arguments[1:])
    if options is None:
        print(found.help(), end="")
        return 0
    log.debug(f"{' '.join(given.arguments)} (state in {settings.root})")
    try:
        if found.name not in ("features", "spec") and os.geteuid():
            raise InvalidArgument(f"{PROGRAM} {found.name} needs root: containers without root are not supported")
        if found.name in sealing.SEALED and not sealing.is_sealed():
            raise Unsupported(
                "cannot protect the runtime's own program from containers: it takes CAP_SYS_ADMIN and Linux 5.12"
            )
        code = found.action(settings, options)
    except UsageError:
        raise
    except CapsaError as error:
        log.trace()
        log.error(str(error))
        return found.failure
    log.debug(f"{name} ends with {code}")
    return code


def status(argv: Sequence[str]) -> int:
    """Run a command line; returns the exit code."""
    given: Options | None = None
    try:
        given = options_of(argv)
        if given is not None and given.switch("version"):
            print(version())
            return 0
        if given is None or not given.arguments or given.arguments[0] == "help":
            words = given.arguments[1:2] if given is not None else []
            print(verb(words[0]).help() if words else overview(), end="")
            return 0
        return dispatch(given)
    except CapsaError as error:
        log_of(given).error(str(error))
        return 1
    except OSError as error:
        log_of(given).error(f"{error.filename}: {reason(error)}" if error.filename else reason(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        log = log_of(given)
        log.trace()
        log.error(f"this is a bug: {type(error).__name__}: {error} (--debug tells where)")
        return 1


def script() -> NoReturn:
    """The console script, as pip makes it."""
    import importlib.util

    from capsa.runtime import entry

    found = importlib.util.find_spec("msgspec")
    assert found is not None and found.origin is not None
    directory = os.path.dirname(os.path.dirname(found.origin))
    sealing.begin_again([os.path.abspath(entry.__file__), directory, *sys.argv[1:]])
    main()


def main() -> NoReturn:
    """Do what the command line says. Leaves without tearing the interpreter down."""
    standard.open_all()
    code = status(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    os._exit(code)
