"""Makes containers and additional processes in them: the caller's side.

`create` and `enter` clone a process, which sets itself up (`birth`, `entering`), and do meanwhile what only the caller
can: id maps, network interfaces, hooks in its own namespaces. The caller stays the parent. It has to be
single-threaded, see `capsa.sys.process.clone`.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from capsa.errors import CapsaError, InvalidArgument, LaunchFailed, Unsupported, reason
from capsa.oci.runtime import Hooks, Linux, Process, Spec
from capsa.platform.linux import (
    birth,
    capabilities,
    entering,
    hooks,
    idmap,
    interfaces,
    namespaces,
    netdevices,
    rootfs,
    seccomp,
)
from capsa.platform.linux.cgroup import Cgroup
from capsa.platform.linux.channel import Channel, Gone
from capsa.platform.linux.newborn import Birth as Birth
from capsa.platform.linux.process import limit
from capsa.sys import namespace, netlink
from capsa.sys import process as calls
from capsa.sys.namespace import FLAGS
from capsa.vfs import compile as vfs_compile
from capsa.vfs import linux as vfs_linux
from capsa.vfs.tree import RootNode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from capsa.platform.protocol import Interface

Streams = tuple[int, int, int]
StrPath = str | os.PathLike[str]


def create(
    spec: Spec,
    *,
    id: str,
    bundle: StrPath,
    root: RootNode | None = None,
    cgroup: Cgroup,
    stdio: Streams | None,
    interfaces: Sequence[Interface] = (),
    cache: StrPath | None = None,
    init: bool = False,
    names: bool = False,
    sibling: bool = False,
    network: int | None = None,
    meanwhile: Callable[[Birth], None] | None = None,
    born: Callable[[int], None] | None = None,
    at_once: bool = False,
    door: int | None = None,
    tied: bool = True,
    keep: int = 0,
    pivot: bool = True,
    keyring: bool = True,
    warn: Callable[[str], None] | None = None,
) -> Birth:
    """Make the container ``id`` as ``spec`` says, up to the moment before its program is executed.

    ``root`` replaces the specification's root. ``stdio`` are the standard streams, None when the process has a
    terminal. ``interfaces``: veth pairs to make. ``cache``: directory of compiled seccomp filters. ``init``: a reaper
    as PID 1. ``names``: make the sockets of a name service. ``sibling``: the process becomes a child of the caller's
    parent, and dies with that. ``network``: a namespace of `interfaces.new_network` to take instead of a new one.
    ``meanwhile`` is called while the process sets itself up; with it, the process need not wait for `Birth.start`,
    which has to follow at once. ``at_once``: likewise, with nothing to be done meanwhile. ``born`` is called with its
    pid meanwhile, and changes nothing of that.
    ``door``, ``tied``, ``keep``, ``pivot``, ``keyring``: see `birth.Plan`; at the door it is `start` that lets it go
    on, in any process, and `Birth.start` is not to be called.
    ``warn``: the specification is somebody else's and is taken at its word: ``warn`` is told of capabilities that
    cannot be granted and of mount options that have no effect, and without a mount namespace the mounts are made in the
    caller's (`shared_mounts` prepares that). Without it, all that is refused.
    Runs the hooks up to createContainer. Raises `LaunchFailed` or another `CapsaError` naming the step; then nothing
    is left of it (the cgroup is the caller's).
    """
    if spec.process is None:
        raise InvalidArgument("the specification has no process to run")
    linux = spec.linux or Linux()
    _refuse(linux)
    if spec.hooks is not None:
        hooks.check(spec.hooks)
    spaces = namespaces.Namespaces(linux, share_mounts=warn is not None)
    if linux.net_devices:
        netdevices.check(linux.net_devices, apart=spaces.has("network"))
    where = os.path.abspath(bundle)
    with _id_maps(spec) as id_maps, cgroup.entry() as entry:
        plan = birth.Plan(
            spec=spec,
            process=_granted(spec.process, warn),
            id=id,
            bundle=where,
            # Here rather than there: a fork pays for each page of memory that it is the first to write to.
            steps=vfs_linux.lower(vfs_compile.tree(spec, root, bundle=where, warn=warn)),
            entry=entry,
            unified=cgroup.fd is None,
            groups=cgroup.mounts() if any(mount.type.startswith("cgroup") for mount in spec.mounts) else (),
            stdio=stdio,
            interfaces=interfaces,
            init=init,
            names=names,
            spaces=spaces,
            id_maps=id_maps,
            network=network if spaces.is_new("network") and not spaces.staged else None,
            door=door,
            tied=tied,
            keep=keep,
            pivot=pivot,
            keyring=keyring,
        )
        _read_ahead(linux)
        made = _make(plan, cgroup.fd, sibling)
    try:
        _attend(made, plan, cache, meanwhile, born, at_once)
    except Gone as error:
        made.abort()
        raise _gone(error, cgroup) from error
    except BaseException:
        made.abort()
        raise
    wanted = spec.hooks or Hooks()
    if wanted.poststart:
        told = hooks.state(spec, id, plan.bundle, "running", made.pid)
        made.after = lambda: hooks.run("poststart", wanted.poststart, told, where=plan.bundle)
    return made


def _granted(process: Process, warn: Callable[[str], None] | None) -> Process:
    """``process`` with capabilities that it can have, see `create`."""
    if warn is None or process.capabilities is None:
        return process
    return msgspec.structs.replace(process, capabilities=capabilities.grantable(process.capabilities, warn))


def _gone(error: Gone, cgroup: Cgroup) -> LaunchFailed:
    """Why a process ended without a word while it was set up, as far as the kernel tells."""
    if cgroup.oom_kills() > 0:
        return LaunchFailed("the process was killed for lack of memory while it was set up: raise the memory limit")
    return LaunchFailed(str(error))


def _read_ahead(linux: Linux) -> None:
    """Have modules read that were put off (`capsa.runtime.lean`): a child that looks into them can read nothing."""
    if linux.seccomp is not None:
        getattr(seccomp, "install")  # noqa: B009


def _filter(linux: Linux, cache: StrPath | None) -> seccomp.Filter | None:
    """The seccomp filter, made while the child sets itself up."""
    return seccomp.program(linux.seccomp, cache) if linux.seccomp else None


def _refuse(linux: Linux) -> None:
    """What would not be done is an error if asked for."""
    if linux.mount_label:
        raise Unsupported(
            f"mountLabel {linux.mount_label!r} needs SELinux on mounts, which capsa does not set: remove it"
        )
    if linux.intel_rdt is not None:
        raise Unsupported(
            "linux.intelRdt asks for a share of the processor's cache or of memory bandwidth (resctrl), which"
            " capsa cannot give: remove it from the specification"
        )


@contextlib.contextmanager
def _id_maps(spec: Spec) -> Iterator[dict[rootfs.IDMap, int]]:
    """A user namespace for each pair of maps that mounts need."""
    found: dict[rootfs.IDMap, int] = {}
    try:
        for mount in spec.mounts:
            if mount.uid_mappings and mount.gid_mappings:
                uids, gids = idmap.ranges(mount.uid_mappings), idmap.ranges(mount.gid_mappings)
                if (uids, gids) not in found:
                    found[uids, gids] = idmap.namespace((uids, gids))
        yield found
    finally:
        for fd in found.values():
            os.close(fd)


def _make(plan: birth.Plan, group: int | None, sibling: bool) -> Birth:
    """Clone the child, or the process in between."""
    body = birth.stage if plan.spaces.staged else birth.first
    flags = 0 if plan.spaces.staged else plan.spaces.new & ~FLAGS["cgroup"]
    if plan.network is not None:
        flags &= ~FLAGS["network"]
    path = "" if plan.spaces.staged else plan.spaces.joined.get("pid", "")
    with contextlib.ExitStack() as stack:
        space = stack.enter_context(namespaces.opened("pid", path)) if path else None
        pid, channel = _clone(lambda theirs: body(plan, theirs), flags, group, space, path, sibling)
    return Birth(pid, channel, lambda: interfaces.remove(plan.interfaces) if plan.interfaces else None)


def _clone(
    body: Callable[[Channel], None], flags: int, group: int | None, space: int | None, about: str, sibling: bool = False
) -> tuple[int, Channel]:
    """A child that lives ``body``, in the pid namespace behind ``space``; its pid, and a channel to it.

    From its first moment on it cannot be looked into, see `birth.arrive`.
    """
    ours, theirs = Channel.pair()
    dumpable = calls.prctl(calls.PR_GET_DUMPABLE)
    own = -1
    try:
        calls.prctl(calls.PR_SET_DUMPABLE, 0)
        if space is not None:
            own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            namespaces.enter("pid", space, about)
        pid = calls.clone(flags, cgroup=group, sibling=sibling)
        if pid == 0:
            birth.guard(theirs, lambda: body(theirs))
    except OSError as error:
        ours.close()
        raise LaunchFailed(f"cannot make the container's process: {reason(error)} ({error.filename})") from error
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        if own >= 0:
            namespace.setns(own, FLAGS["pid"])
            os.close(own)
        calls.prctl(calls.PR_SET_DUMPABLE, int(dumpable == 1))
    return pid, ours


def _attend(
    made: Birth,
    plan: birth.Plan,
    cache: StrPath | None,
    meanwhile: Callable[[Birth], None] | None,
    born: Callable[[int], None] | None,
    at_once: bool,
) -> None:
    """The caller's part until the child says ``created``."""
    channel, spec = made.channel, plan.spec
    if plan.spaces.staged:
        between = made.pid
        made.pid = channel.expect("pid").number
        with contextlib.suppress(ChildProcessError):  # a sibling is waited for by the common parent
            os.waitpid(between, 0)
        if plan.spaces.is_new("user"):
            idmap.write_maps(made.pid, plan.linux.uid_mappings, plan.linux.gid_mappings)
            channel.send("mapped")
    if plan.linux.net_devices:
        made.devices = netdevices.NetDevices(made.pid, plan.network)
        made.devices.move(plan.linux.net_devices)
    if plan.interfaces:
        interfaces.add(plan.interfaces, made.pid, plan.network)
    if plan.interfaces or plan.linux.net_devices:
        channel.send("network")
    if plan.linux.seccomp is not None and plan.linux.seccomp.listener_path:
        made.listener = _to_agent(spec, plan, made)
    made.filter = _filter(plan.linux, cache)
    if born is not None:
        born(made.pid)
    if meanwhile is not None:
        try:
            made.end = calls.pidfd_open(made.pid)  # before it may execute, and end
        except OSError:
            channel.last_words()
    if (at_once or meanwhile is not None) and spec.hooks is None and not plan.spaces.has("user"):
        made.tell()  # otherwise those have their turn before it executes
    if meanwhile is not None:
        meanwhile(made)
    while True:
        message, fd = channel.receive()
        if message is None:
            raise Gone("the container's process ended while it was set up")
        if message.word == "console":
            made.console = fd
        elif message.word == "names" and fd is not None:
            made.names.append(fd)
        elif message.word == "hooks":
            wanted = spec.hooks or Hooks()
            told = hooks.state(spec, plan.id, plan.bundle, "creating", made.pid)
            hooks.run("prestart", wanted.prestart, told, where=plan.bundle)
            hooks.run("createRuntime", wanted.create_runtime, told, where=plan.bundle)
            channel.send("go on")
        elif message.word == "created":
            if plan.spaces.has("user"):
                limit(plan.process.rlimits, made.pid)  # to raise one takes the host's privileges
            if plan.door is None:
                return
            made.tell()
        elif message.word == "waiting":
            return


def _to_agent(spec: Spec, plan: birth.Plan, made: Birth) -> Callable[[int], None]:
    """What to do with the listener of a seccomp filter that asks another process."""

    def hand_over(fd: int) -> None:
        try:
            policy = plan.linux.seccomp
            assert policy is not None
            told = hooks.state(spec, plan.id, plan.bundle, "creating", made.pid)
            seccomp.send_listener(policy, fd, made.pid, told)
        finally:
            os.close(fd)

    return hand_over


# ---- additional processes ----


def enter(
    process: Process,
    *,
    spec: Spec,
    pid: int,
    cgroup: Cgroup,
    stdio: Streams | None,
    cache: StrPath | None = None,
    tied: bool = True,
    keep: int = 0,
    warn: Callable[[str], None] | None = None,
) -> Birth:
    """Make one more process in the container whose first process is ``pid``, up to the moment before it is executed.

    ``spec`` is the container's. ``tied``, ``keep``: see `entering.Plan`. ``warn``: see `create`. Raises `LaunchFailed`
    or another `CapsaError`; then nothing is left of it.
    """
    process = _granted(process, warn)
    made = _enter(process, spec, pid, cgroup, stdio, cache, sibling=False, tied=tied, keep=keep)
    try:
        while not made.ready:
            if made.advance():
                raise Gone("the process ended while it was set up")
    except Gone as error:
        made.abort()
        raise _gone(error, cgroup) from error
    except BaseException:
        made.abort()
        raise
    return made


def begin(
    process: Process, *, spec: Spec, pid: int, cgroup: Cgroup, stdio: Streams | None, cache: StrPath | None = None
) -> Birth:
    """Make one more process as `enter` does, as a child of the caller's parent, and execute its program.

    Waits for nothing, since the container's own file systems could make that last for ever: the caller calls
    `Birth.advance` whenever `Birth.fileno` is readable, until that is done or raises; then `Birth.close` or
    `Birth.abort`.
    """
    made = _enter(process, spec, pid, cgroup, stdio, cache, sibling=True)
    try:
        made.end = calls.pidfd_open(made.pid)
        if made.limits is None:
            made.tell()
    except OSError:  # it has ended already
        try:
            made.last_words()
        except Gone as error:
            raise _gone(error, cgroup) from error
        finally:
            made.close()
    except BaseException:
        made.abort()
        if made.end is not None:
            os.close(made.end)
        raise
    return made


def _enter(
    process: Process,
    spec: Spec,
    pid: int,
    cgroup: Cgroup,
    stdio: Streams | None,
    cache: StrPath | None,
    sibling: bool,
    tied: bool = True,
    keep: int = 0,
) -> Birth:
    linux = spec.linux or Linux()
    kinds = [wanted.type for wanted in linux.namespaces]
    policy = _filter(linux, cache)
    try:
        target = calls.pidfd_open(pid)
    except OSError as error:
        raise LaunchFailed(f"cannot enter the container: {reason(error)}") from error
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, target)
        entry = stack.enter_context(cgroup.entry())
        plan = entering.Plan(
            process=process, linux=linux, pid=pid, target=target, kinds=kinds, entry=entry,
            unified=cgroup.fd is None, stdio=stdio, keyring=cgroup.path.rpartition("/")[2],
            tied=tied, keep=keep,
        )  # fmt: skip
        space = target if "pid" in kinds else None
        number, channel = _clone(
            lambda theirs: entering.live(plan, theirs), 0, cgroup.fd, space, f"of process {pid}", sibling
        )
    made = Birth(number, channel, lambda: None)
    made.limits = process.rlimits if "user" in kinds else None
    made.filter = policy
    return made


# ---- network interfaces ----


def connect(pid: int, interface: Interface, names: bool = False) -> list[int]:
    """Add an interface to the running container of process ``pid``; raises `LaunchFailed`, then there is none.

    Returns the sockets of a name service where ``names`` wants them made.
    """
    interfaces.add([interface], pid)

    def configure(links: netlink.Netlink, channel: Channel) -> None:
        birth.configure(links, interface)
        if names:
            birth.serve_names(channel)

    try:
        return _in_network(pid, configure)
    except BaseException:
        interfaces.remove([interface])
        raise


def disconnect(pid: int, name: str) -> None:
    """Remove interface ``name`` of the running container of process ``pid``; raises `LaunchFailed`."""

    def remove(links: netlink.Netlink, _channel: Channel) -> None:
        try:
            links.delete(name)
        except OSError as error:
            raise LaunchFailed(f"cannot remove the interface {name}: {error.strerror}") from error

    _in_network(pid, remove)


def route(pid: int, name: str, gateways: Sequence[str]) -> None:
    """Let default routes of the running container of process ``pid`` lead through ``name``; raises `LaunchFailed`."""

    def change(links: netlink.Netlink, _channel: Channel) -> None:
        try:
            links.route(name, gateways)
        except OSError as error:
            raise LaunchFailed(f"cannot make {name} the default route: {error.strerror}") from error

    _in_network(pid, change)


def _in_network(pid: int, do: Callable[[netlink.Netlink, Channel], None]) -> list[int]:
    """Call ``do`` in a child that is in the network namespace of process ``pid``; the sockets that it sends."""

    def live(theirs: Channel) -> None:
        birth.tie()
        with namespaces.opened("network", f"/proc/{pid}/ns/net") as fd:
            namespaces.enter("network", fd, f"of process {pid}")
        with netlink.Netlink() as links:
            do(links, theirs)
        theirs.send("done")

    child, channel = _clone(live, 0, None, None, "")
    sent: list[int] = []
    try:
        while True:
            message, fd = channel.receive()
            if fd is not None:
                sent.append(fd)
            if message is None:
                raise Gone("the process that changes the container's network went away")
            if message.word == "done":
                return sent
    except BaseException:
        for fd in sent:
            os.close(fd)
        raise
    finally:
        channel.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)


# ---- the end ----


def ended(spec: Spec, *, id: str, bundle: StrPath) -> list[str]:
    """Run the poststop hooks of a container that is gone; what went wrong is returned, the others run nonetheless."""
    trouble = []
    told = hooks.state(spec, id, os.path.abspath(bundle), "stopped", 0)
    for hook in (spec.hooks or Hooks()).poststop:
        try:
            hooks.run("poststop", [hook], told, where=told.bundle)
        except CapsaError as error:
            trouble.append(str(error))
    return trouble
