"""``exec``: one more process in a container that runs."""

from __future__ import annotations

import os

import msgspec

from capsa.errors import CapsaError, Conflict, InvalidArgument, reason
from capsa.oci.runtime import Box, Capabilities, Process, User
from capsa.runtime import console
from capsa.runtime.container import Container
from capsa.runtime.creation import preserved, write_pid
from capsa.runtime.verb import Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from capsa.cli.options import Options
    from capsa.runtime.verb import Settings

_TABLE = """
  -g, --additional-gids list    More groups of the process (numbers)
      --apparmor string         AppArmor profile of the process
  -c, --cap list                More capabilities for the process
      --cgroup string           Run it in this cgroup below the container's
      --console-socket string   Send the terminal's master side to this unix socket
      --cwd string              Working directory in the container
  -d, --detach                  Return when the program runs
  -e, --env list                Set an environment variable (NAME=VALUE)
      --ignore-paused           Do so in a paused container, which will not go on with it
      --no-new-privs            Let it gain no privileges by execve
      --pid-file string         Write the process id to this file
      --preserve-fds int        Pass this many more file descriptors on, from 3 on
  -p, --process string          The process as JSON, from this file
      --process-label string    SELinux label of the process
  -t, --tty                     Give it a terminal
  -u, --user string             User and group, as numbers (UID[:GID])
"""
FAILED = 255


def execute(settings: Settings, options: Options) -> int:
    """``capsa-runtime exec ID COMMAND…``; the exit code of the process."""
    from capsa.platform.linux import container as platform
    from capsa.platform.linux.cgroup import Cgroup
    from capsa.runtime import foreground

    container = Container(settings.root, options.arguments[0])
    keep = preserved(options)
    detach = options.switch("detach")
    status = container.status()
    if status == "paused" and not options.switch("ignore-paused"):
        raise Conflict(f"cannot exec in a paused container: resume {container.id} first, or use --ignore-paused")
    if status not in ("running", "created", "paused"):
        raise Conflict(f"cannot exec in container {container.id}: it is {status}")
    process = process_of(container.spec.process, options)
    target = console.socket_of(options, required=detach)
    if process.terminal and detach and not target:
        raise InvalidArgument("the process is to have a terminal, and nobody would get it: name a --console-socket")
    if not detach:
        foreground.prepare(subreaper=False)
    group = container.cgroup()
    if below := options.text("cgroup"):
        group = Cgroup.open(f"{group.path}/{below}")
    birth = platform.enter(
        process,
        spec=container.spec,
        pid=container.record.pid,
        cgroup=group,
        stdio=None if process.terminal else (0, 1, 2),
        cache=f"{settings.root}/.seccomp",
        tied=False,
        keep=keep,
        warn=settings.warn,
    )
    try:
        if birth.console is not None and target:
            console.send(target, birth.console)
        if pid_file := options.text("pid-file"):
            write_pid(pid_file, birth.pid)
        birth.start()
    except BaseException:
        birth.abort()
        raise
    return 0 if detach else foreground.wait(birth.pid, birth.console)


def process_of(own: Process | None, options: Options) -> Process:
    """The process to run: from ``--process``, else the container's with what the options change.

    Raises `InvalidArgument`.
    """
    if path := options.text("process"):
        try:
            with open(path, "rb") as file:
                process = msgspec.json.decode(file.read(), type=Process)
        except OSError as error:
            raise InvalidArgument(f"cannot read the process from {path}: {reason(error)}") from error
        except msgspec.DecodeError as error:
            raise InvalidArgument(f"malformed process in {path}: {error}") from error
        if options.switch("tty"):
            process.terminal = True
        return process
    args = options.arguments[1:]
    if not args:
        raise InvalidArgument("no command to execute: give one after the container's id, or --process FILE")
    if own is None:
        raise CapsaError("the container's specification has no process to begin with")
    process = msgspec.structs.replace(
        own,
        args=args,
        terminal=options.switch("tty"),
        env=[*own.env, *options.all("env")],
        cwd=options.text("cwd") or own.cwd,
        no_new_privileges=own.no_new_privileges or options.switch("no-new-privs"),
        apparmor_profile=options.text("apparmor") or own.apparmor_profile,
        selinux_label=options.text("process-label") or own.selinux_label,
        console_size=_size() if options.switch("tty") else None,
    )
    if (user := options.text("user")) is not None:
        process.user = _user(user)
    if groups := options.strings("additional-gids"):
        numbers = [*process.user.additional_gids, *(_number(text, "additional-gids") for text in groups)]
        process.user = msgspec.structs.replace(process.user, additional_gids=numbers)
    if more := options.strings("cap"):
        process.capabilities = _more(process.capabilities or Capabilities(), more)
    return process


def _size() -> Box | None:
    try:
        columns, lines = os.get_terminal_size(0)
    except OSError:
        return None
    return Box(height=lines, width=columns)


def _user(text: str) -> User:
    uid, colon, gid = text.partition(":")
    return User(uid=_number(uid, "user"), gid=_number(gid, "user") if colon else 0)


def _number(text: str, option: str) -> int:
    if not text.isdecimal() or int(text) >= 1 << 32:
        raise InvalidArgument(f"invalid --{option} {text!r}: a number is needed, names are the container's own affair")
    return int(text)


def _more(own: Capabilities, names: list[str]) -> Capabilities:
    """With more in the sets that count: ambient ones where they are inherited."""
    wanted = [name if name.startswith("CAP_") else f"CAP_{name}" for name in map(str.upper, names)]

    def joined(before: list[str]) -> list[str]:
        return [*before, *(name for name in wanted if name not in before)]

    return msgspec.structs.replace(
        own,
        bounding=joined(own.bounding),
        effective=joined(own.effective),
        permitted=joined(own.permitted),
        inheritable=joined(own.inheritable) if own.inheritable else [],
        ambient=joined(own.ambient) if own.ambient else [],
    )


VERBS = {
    "exec": Verb(
        "exec",
        "ID COMMAND [ARGUMENT...]",
        "Run one more process in a container",
        _TABLE,
        execute,
        most=None,
        interspersed=False,
        failure=FAILED,
    )
}
