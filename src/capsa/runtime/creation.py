"""``create`` and ``run`` (runtime.md, Create and Start)."""

from __future__ import annotations

import contextlib
import os
import time

from capsa.errors import CapsaError, InvalidArgument, NotFound, Unsupported, reason
from capsa.oci import runtime
from capsa.runtime import console, removal, streams
from capsa.runtime.container import Container, process_began
from capsa.runtime.record import Record
from capsa.runtime.verb import PROGRAM, Verb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from capsa.cli.options import Options
    from capsa.oci.runtime import Spec
    from capsa.platform.linux.cgroup import Cgroup
    from capsa.platform.linux.container import Birth
    from capsa.runtime.verb import Settings

_TABLE = """
  -b, --bundle string           Directory of the bundle (default: the working directory)
      --console-socket string   Send the terminal's master side to this unix socket
      --no-new-keyring          Let the container have the caller's session keyring
      --no-pivot                Do not exchange the root, which is impossible on a RAM disk
      --pid-file string         Write the process id to this file
      --preserve-fds int        Pass this many more file descriptors on, from 3 on
"""
_RUN_TABLE = """
  -d, --detach                  Return when the program runs
      --keep                    Keep the container's state when it has ended
      --no-subreaper            Do not look after orphans of the container
"""


def create(settings: Settings, options: Options) -> int:
    """``capsa-runtime create ID``."""
    container = Container(settings.root, options.arguments[0])
    keep = preserved(options, activation=True)
    _create(settings, options, container, console.socket_of(options, required=True), keep)
    return 0


def run(settings: Settings, options: Options) -> int:
    """``capsa-runtime run ID``: create, start, wait, delete; the program's exit code."""
    from capsa.runtime import foreground

    container = Container(settings.root, options.arguments[0])
    keep = preserved(options, activation=True)
    detach = options.switch("detach")
    target = console.socket_of(options, required=detach)
    if not detach:
        foreground.prepare(subreaper=not options.switch("no-subreaper"))

    def begin(birth: Birth) -> None:
        try:
            birth.start()
        except BaseException:
            with contextlib.suppress(CapsaError):
                removal.remove(settings, container, force=True)
            raise

    master = _create(settings, options, container, target, keep, relayed=not detach, begin=begin)
    if detach:
        return 0
    code = foreground.wait(container.record.pid, master)
    if not options.switch("keep"):
        with contextlib.suppress(NotFound), container.locked():  # `checkpoint` may have removed it
            removal.remove(settings, container, force=True)
    return code


def _create(
    settings: Settings,
    options: Options,
    container: Container,
    target: str,
    keep: int,
    *,
    relayed: bool = False,
    begin: Callable[[Birth], None] | None = None,
) -> int | None:
    """Make it; the master side of its terminal where that is to be ``relayed`` and no socket ``target`` wants it.

    ``begin`` starts it while nobody else can do anything with it; without that it waits at its door. After a failure
    nothing is left.
    """
    bundle, config, spec = specification(options)
    assert spec.process is not None
    if spec.process.terminal and not target and not relayed:
        raise InvalidArgument(
            "the process wants a terminal (process.terminal), and nobody would get it: name a --console-socket"
        )
    if target and not spec.process.terminal:
        raise InvalidArgument("--console-socket is given, but the process wants no terminal (process.terminal)")
    _announce(spec)
    container.make(config)
    with contextlib.ExitStack() as undo:
        undo.callback(container.remove)
        with container.locked():
            record = record_of(settings, container, bundle, spec)
            undo.push(lambda _kind, error, _trace: _ended(settings, container, error))
            container.save(record)  # what is made from here on can be found if this process is killed
            with group(record, container, spec, undo) as cgroup:
                _expose(container, record, spec, undo)
                record.freezer = cgroup.freezer()

                def born(pid: int) -> None:
                    # While the process sets itself up, there is time. It is known to others once it has done so.
                    record.pid, record.began = pid, process_began(pid)
                    container.keep()
                    container.prepare(record)

                waits = begin is None
                birth = _birth(settings, options, container, spec, bundle, cgroup, keep, born, waits=waits)
                undo.callback(birth.abort)
            master: int | None = None
            if birth.console is not None:
                if target:
                    console.send(target, birth.console)
                    os.close(birth.console)
                else:
                    master = birth.console
                birth.console = None
            container.commit(record)
            if pid_file := options.text("pid-file"):
                write_pid(pid_file, birth.pid)
            undo.pop_all()
            if begin is not None:
                begin(birth)
            else:
                birth.close()
    return master


def _ended(settings: Settings, container: Container, error: BaseException | None) -> None:
    """The poststop hooks of a container that was begun and taken down again (runtime.md, Lifecycle)."""
    if not isinstance(error, InvalidArgument | Unsupported):  # those are of before the beginning
        removal.after(settings, container)


def specification(options: Options) -> tuple[str, bytes, Spec]:
    """The bundle's directory, its ``config.json`` and what that says; raises `InvalidArgument`, `Unsupported`."""
    bundle = os.path.realpath(options.text("bundle") or ".")
    path = f"{bundle}/config.json"
    try:
        with open(path, "rb") as file:
            config = file.read()
    except OSError as error:
        raise InvalidArgument(f"cannot read {path}: {reason(error)}") from error
    spec = runtime.loads(config, path)
    _check(spec, path)
    return bundle, config, spec


def _check(spec: Spec, path: str) -> None:
    """What a runtime has to be told."""
    version = spec.oci_version.partition(".")[0]
    if version != "1":
        raise InvalidArgument(f"ociVersion of {path} is {spec.oci_version!r}: 1.x is supported")
    if spec.process is None:
        raise InvalidArgument(f"{path} has no process: nothing could be started")
    if spec.root is None:
        raise InvalidArgument(f"{path} has no root: name the root file system")
    name = (spec.linux.sysctl if spec.linux is not None else {}).get("kernel.domainname", spec.domainname)
    if spec.domainname and name != spec.domainname:
        raise InvalidArgument(f"{path} has two domain names: {spec.domainname!r}, and {name!r} as a sysctl")
    for other in ("windows", "solaris", "vm"):
        if getattr(spec, other) is not None:
            raise Unsupported(f"{path} is for another platform: it has a section {other!r}")


def preserved(options: Options, *, activation: bool = False) -> int:
    """How many descriptors from 3 on go to the program, all of them open; raises `InvalidArgument`.

    To be called before anything is opened that could be taken for one of them. With ``activation`` there are those of
    socket activation, too, and come first (sd_listen_fds(3)).
    """
    keep = options.number("preserve-fds") or 0
    if not 0 <= keep < 1 << 20:
        raise InvalidArgument(f"--preserve-fds {keep}: how many descriptors from 3 on are to be passed on?")
    if activation:
        keep += _activated()
    for fd in range(3, 3 + keep):
        try:
            os.set_inheritable(fd, True)
        except OSError as error:
            raise InvalidArgument(f"file descriptor {fd} cannot be passed on: {reason(error)}") from error
    return keep


def _activated() -> int:
    listen = os.environ.get("LISTEN_FDS", "")
    return int(listen) if listen.isdecimal() else 0


def _announce(spec: Spec) -> None:
    """Tell the program of the sockets that it was activated for."""
    count = _activated()
    if count > 0 and spec.process is not None:
        spec.process.env = [*spec.process.env, f"LISTEN_FDS={count}", "LISTEN_PID=1"]
        names = os.environ.get("LISTEN_FDNAMES")
        if names is not None:
            spec.process.env.append(f"LISTEN_FDNAMES={names}")


def record_of(settings: Settings, container: Container, bundle: str, spec: Spec) -> Record:
    """What is to be remembered of a container that is about to be made."""
    import msgspec

    assert spec.root is not None
    rootfs, created = os.path.normpath(os.path.join(bundle, spec.root.path)), _now()
    told = {
        "ociVersion": spec.oci_version,
        "id": container.id,
        "bundle": bundle,
        "rootfs": rootfs,
        "created": created,
        "owner": "root",
        "annotations": spec.annotations,
    }
    text = msgspec.json.format(msgspec.json.encode(told), indent=2).decode()
    cgroup, unit = _place(settings, container, spec)
    return Record(
        bundle=bundle,
        rootfs=rootfs,
        created=created,
        told=text,
        cgroup=cgroup,
        unit=unit,
        above="" if unit else _above(cgroup),
        streams=streams.own(),
    )


def _place(settings: Settings, container: Container, spec: Spec) -> tuple[str, str]:
    """The path of the container's cgroup, and the systemd scope that it belongs to."""
    if settings.systemd:
        from capsa.runtime import unit

        scope = unit.place(spec, container.id)
        return scope.path, scope.unit
    from capsa.platform.linux.cgroup import normalised

    path = spec.linux.cgroups_path if spec.linux is not None else ""
    return normalised(path or f"/{PROGRAM}-{container.id}"), ""  # no cgroup above it: it is one more in ten hierarchies


def _above(path: str) -> str:
    """The topmost cgroup that goes with the one at ``path``."""
    from capsa.runtime import ancestors

    return ancestors.missing(path)


@contextlib.contextmanager
def group(record: Record, container: Container, spec: Spec, undo: contextlib.ExitStack) -> Iterator[Cgroup]:
    """The container's cgroup, made as ``record`` says; ``undo`` ends what is in it, and removes it.

    Some process has to be in it when the context is left.
    """
    from capsa.platform.linux.cgroup import Cgroup

    if record.unit:
        from capsa.runtime import unit

        with unit.made(spec, container.id, undo) as cgroup:
            undo.callback(_remove, cgroup, record.above)
            yield cgroup
        return
    resources = spec.linux.resources if spec.linux is not None else None
    # Callers expect it to be in all hierarchies: podman mounts that of systemd, statistics are read of them.
    cgroup = Cgroup.create(record.cgroup, resources, everywhere=True)
    undo.callback(_remove, cgroup, record.above)
    yield cgroup


def _expose(container: Container, record: Record, spec: Spec, undo: contextlib.ExitStack) -> None:
    """Prepare the root of a container without a mount namespace."""
    if any(each.type == "mount" for each in (spec.linux.namespaces if spec.linux is not None else ())):
        return
    from capsa.platform.linux import shared_mounts

    id = shared_mounts.expose(record.rootfs)
    undo.callback(shared_mounts.withdraw, record.rootfs, id)
    record.exposed = str(id)
    container.save(record)


def _remove(cgroup: Cgroup, above: str) -> None:
    from capsa.runtime import ancestors

    with contextlib.suppress(CapsaError):
        cgroup.kill()
        cgroup.remove()
        ancestors.remove(cgroup.path, above)


def _birth(
    settings: Settings,
    options: Options,
    container: Container,
    spec: Spec,
    bundle: str,
    cgroup: Cgroup,
    keep: int,
    born: Callable[[int], None],
    *,
    waits: bool,
) -> Birth:
    from capsa.platform.linux import container as platform

    assert spec.process is not None
    with _door(container.door if waits else "") as listener:
        return platform.create(
            spec,
            id=container.id,
            bundle=bundle,
            cgroup=cgroup,
            stdio=None if spec.process.terminal else (0, 1, 2),
            cache=f"{os.path.dirname(container.directory)}/.seccomp",
            born=born,
            at_once=not waits,
            door=listener,
            tied=False,
            keep=keep,
            pivot=not options.switch("no-pivot"),
            keyring=not options.switch("no-new-keyring"),
            warn=settings.warn,
        )


@contextlib.contextmanager
def _door(path: str) -> Iterator[int | None]:
    """Where the container waits to be started, if somewhere."""
    if not path:
        yield None
        return
    from capsa.platform.linux import door

    with door.make(path) as listener:
        yield listener.fileno()


def write_pid(path: str, pid: int) -> None:
    """The pid file, which appears whole; raises `CapsaError`."""
    hidden = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC  # others may write there, too: no link of theirs
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden)
        with open(os.open(hidden, flags, 0o644), "w") as file:
            file.write(str(pid))
        os.rename(hidden, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(hidden)
        raise CapsaError(f"cannot write the process id to {path}: {reason(error)}") from error


def _now() -> str:
    now = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)) + f".{now % 10**9:09d}Z"


VERBS = {
    "create": Verb("create", "ID", "Create a container, up to the execution of its program", _TABLE, create),
    "run": Verb("run", "ID", "Create a container, start it, wait for its end, delete it", _TABLE + _RUN_TABLE, run),
}
