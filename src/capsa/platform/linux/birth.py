"""The container's first process, from ``clone3`` to ``execve``: everything that is done inside the child.

`first` is all of it where the caller can make the process at once. With a user namespace, or offsets of a time
namespace, `stage` comes before: a process that does what takes the host's privileges, then makes the first process as
its own sibling.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys

import msgspec

from capsa.errors import LaunchFailed, reason
from capsa.oci.runtime import Hooks, Linux, Process, Spec
from capsa.platform.linux import (
    capabilities,
    hooks,
    indoors,
    labels,
    nameserver,
    namespaces,
    process,
    reaper,
    rootfs,
    seccomp,
    sysctl,
    terminal,
)
from capsa.platform.linux.cgroup import Entry, Mount
from capsa.platform.linux.channel import Channel
from capsa.sys import credentials, loopback, namespace, netlink
from capsa.sys import process as calls
from capsa.vfs import linux as vfs_linux

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn

    from capsa.platform.protocol import Interface


class Plan(msgspec.Struct, kw_only=True):
    """What a child has to know; it inherits this by fork.

    ``door``: a listening socket, where the process waits for whoever starts it, once its maker has ended. ``tied``: it
    dies with its maker, as it does in any case before it is at its door or executes its program.
    ``keep``: how many descriptors from 3 on the program gets. ``pivot``: whether the root can be exchanged, or only
    covered (a RAM disk). ``keyring``: whether it gets one of its own.
    """

    spec: Spec
    process: Process
    id: str
    bundle: str
    entry: Entry
    unified: bool
    groups: Sequence[Mount]
    stdio: tuple[int, int, int] | None
    steps: Sequence[vfs_linux.Step]
    interfaces: Sequence[Interface]
    init: bool
    names: bool
    spaces: namespaces.Namespaces
    id_maps: Mapping[rootfs.IDMap, int]
    network: int | None = None
    door: int | None = None
    tied: bool = True
    keep: int = 0
    pivot: bool = True
    keyring: bool = True

    @property
    def linux(self) -> Linux:
        """The Linux part of the specification."""
        return self.spec.linux or Linux()

    def kept(self, channel: Channel) -> tuple[int, ...]:
        """The descriptors that stay open until it executes its program."""
        return (channel.fileno(), *(() if self.door is None else (self.door,)), *range(3, 3 + self.keep))


def guard(channel: Channel, body: Callable[[], None]) -> NoReturn:
    """Run ``body`` as the whole life of a child; what it raises is told to the parent."""
    try:
        sys.meta_path.clear()  # what would be imported from here on would be the container's
        gc.disable()  # garbage of the parent may hold descriptors whose numbers are used anew here
        body()
    except BaseException as error:
        channel.fail(error)
    finally:
        os._exit(1)


def arrive(stdio: tuple[int, int, int] | None, keep: tuple[int, ...]) -> None:
    """Be a child of one's own: ends with the parent, cannot be looked into, has the streams and nothing else open."""
    tie()
    # Who shares the pid namespace must not reach the runtime's executable or descriptors through /proc/PID.
    calls.prctl(calls.PR_SET_DUMPABLE, 0)
    signal.set_wakeup_fd(-1)
    if stdio is not None:
        moved = [fd if fd > 2 else os.dup(fd) for fd in stdio]
        for number, fd in enumerate(moved):
            os.dup2(fd, number)
    calls.close_all_but(keep)
    os.umask(0)


def tie() -> None:
    """Die when the parent does; the kernel forgets this at every change of credentials."""
    calls.prctl(calls.PR_SET_PDEATHSIG, signal.SIGKILL)


# ---- the two ways in ----


def first(plan: Plan, channel: Channel) -> None:
    """The first process, a child of the caller that is in all new namespaces already, cgroup's excepted."""
    tie()
    plan.entry.join(plan.unified)
    if plan.network is not None:
        namespaces.enter("network", plan.network, "in reserve")
    arrive(plan.stdio, (*plan.kept(channel), *plan.id_maps.values()))
    be_killed_for_memory(plan.process.oom_score_adj)
    tree = _rootfs(plan)
    plan.spaces.join()
    if plan.spaces.is_new("cgroup"):
        namespace.unshare(namespace.FLAGS["cgroup"])
    if plan.spaces.has("mount"):
        tree.leave_host()
    _live(plan, channel, tree)


def stage(plan: Plan, channel: Channel) -> None:
    """The process in between: prepares, then makes the first one beside itself."""
    tie()
    plan.entry.join(plan.unified)
    arrive(plan.stdio, (*plan.kept(channel), *plan.id_maps.values()))
    be_killed_for_memory(plan.process.oom_score_adj)
    spaces = plan.spaces
    tree = _rootfs(plan)
    spaces.join()
    if not spaces.has("mount") or spaces.is_new("mount"):
        namespace.unshare(namespace.FLAGS["mount"])
    tree.leave_host()
    tree.prepare()
    flags = spaces.new
    if spaces.is_new("time"):
        namespace.unshare(namespace.FLAGS["time"])
        _offset_clocks(plan.linux)
        flags &= ~namespace.FLAGS["time"]
    for kind in ("pid", "user"):
        if kind in spaces.joined:
            spaces.join((kind,))
    pid = calls.clone(flags, sibling=True)
    if pid:
        channel.send("pid", pid)
        os._exit(0)
    tie()
    calls.prctl(calls.PR_SET_DUMPABLE, 0)
    if spaces.has("user"):
        if spaces.is_new("user"):
            channel.expect("mapped")
        be_root()
    _live(plan, channel, tree)


def be_root() -> None:
    """Be root of the user namespace, if it has one."""
    with contextlib.suppress(OSError):
        credentials.setresgid(0)
        credentials.setresuid(0)
    tie()
    calls.prctl(calls.PR_SET_DUMPABLE, 0)


def _rootfs(plan: Plan) -> rootfs.Rootfs:
    return rootfs.Rootfs(
        plan.steps,
        cgroups=plan.groups,
        id_maps=plan.id_maps,
        user_namespace=plan.spaces.has("user"),
        shared=not plan.spaces.has("mount"),
        # Where the root cannot be exchanged it has to cover the host's.
        in_place=plan.pivot and plan.spec.hooks is not None and bool(plan.spec.hooks.create_container),
    )


def be_killed_for_memory(score: int | None) -> None:
    """Set how readily the kernel ends this process when memory runs out; raises `LaunchFailed`."""
    if score is None:
        return
    try:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(score).encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise LaunchFailed(f"cannot set oomScoreAdj to {score}: {reason(error)}") from error


def _offset_clocks(linux: Linux) -> None:
    text = "".join(f"{clock} {offset.secs} {offset.nanosecs}\n" for clock, offset in linux.time_offsets.items())
    if not text:
        return
    try:
        fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise LaunchFailed(f"cannot set timeOffsets ({text.strip()}): {reason(error)}") from error


# ---- the life up to execve ----


def _live(plan: Plan, channel: Channel, tree: rootfs.Rootfs) -> None:
    process.check(plan.process)
    sets = capabilities.Sets(plan.process.capabilities)
    settings = sysctl.check(plan.linux.sysctl, plan.spaces)
    os.setsid()
    if plan.keyring:
        keyring(plan.id)
    _names(plan)
    tree.build()
    _network(plan, channel)
    sysctl.write(settings)
    wanted = plan.spec.hooks or Hooks()
    if wanted.prestart or wanted.create_runtime or wanted.create_container or wanted.start_container:
        channel.send("hooks")
        channel.expect("go on")
        told = hooks.state(plan.spec, plan.id, plan.bundle, "creating", os.getpid())
        hooks.run("createContainer", wanted.create_container, told, where=plan.bundle, environment=plan.process.env)
    tree.directory(plan.process.cwd)
    tree.finish()
    if plan.process.terminal:
        master, slave = terminal.open_pair(tree.terminals, plan.process.console_size)
        terminal.put_console(tree.root, slave)
        channel.send("console", fds=(master,))
        terminal.take(slave)
    tree.pivot(plan.pivot)
    calls.close_all_but(plan.kept(channel))
    environment = process.environment(plan.process)
    process.find(plan.process.args[0], environment, plan.process.cwd)
    if plan.door is not None:
        process.foresee(plan.process, sets, environment)
    channel.send("created")
    policy = await_start(channel)
    if plan.door is not None:
        indoors.wait(plan.door, channel)
    if wanted.start_container:
        told = hooks.state(plan.spec, plan.id, plan.bundle, "created", os.getpid())
        hooks.run("startContainer", wanted.start_container, told, environment=environment)
    if plan.linux.personality is not None:
        process.personality(plan.linux.personality)
    if plan.linux.memory_policy is not None:
        process.memory_policy(plan.linux.memory_policy)
    if plan.init:
        own = plan.process
        reaper.run(own, sets, policy, lambda: finish(own, sets, policy, environment, channel), channel)
    finish(plan.process, sets, policy, environment, channel, tied=plan.tied)


def keyring(id: str) -> None:
    """A session keyring of its own; a full key quota or a kernel without keys is no reason to fail."""
    with contextlib.suppress(OSError):
        credentials.join_session_keyring(f"_ses.{id}")


def _names(plan: Plan) -> None:
    for what, name, kind in (
        ("hostname", plan.spec.hostname, namespace.set_host_name),
        ("domainname", plan.spec.domainname, namespace.set_domain_name),
    ):
        if not name:
            continue
        if not plan.spaces.has("uts"):
            raise LaunchFailed(f"{what} {name!r} needs a uts namespace of the container's own")
        try:
            kind(name)
        except OSError as error:
            raise LaunchFailed(f"cannot set the {what} to {name!r}: {reason(error)}") from error


def _network(plan: Plan, channel: Channel) -> None:
    if plan.spaces.is_new("network") and plan.network is None:
        loopback.up()
    if plan.interfaces or plan.linux.net_devices:
        channel.expect("network")
    if plan.interfaces:
        with netlink.Netlink() as links:
            for interface in plan.interfaces:
                configure(links, interface)
    if plan.names:
        serve_names(channel)


def serve_names(channel: Channel) -> None:
    """Make the sockets of the name service and send them to the parent; raises `LaunchFailed`."""
    for each in nameserver.sockets():
        channel.send("names", fds=(each.fileno(),))
        each.close()


def configure(links: netlink.Netlink, interface: Interface) -> None:
    """Give the container's end its addresses and routes; raises `LaunchFailed`."""
    try:
        # Whoever shares the network may send router advertisements, and would get the container's IPv6 traffic.
        sysctl.write([(f"net/ipv6/conf/{interface.name}/accept_ra", "0")], if_there=True)
        links.configure(interface.name, interface.addresses, interface.gateways)
        sysctl.write(list(interface.sysctls.items()))
    except OSError as error:
        raise LaunchFailed(f"cannot configure the interface {interface.name}: {error.strerror}") from error


def finish(
    wanted: Process,
    sets: capabilities.Sets,
    policy: seccomp.Filter | None,
    environment: list[str],
    channel: Channel,
    *,
    make_directory: bool = True,
    tied: bool = True,
) -> None:
    """The last steps of any process, the first or an additional one: limits, user, filter, directory, ``execve``.

    ``tied``: it is to die with its parent; otherwise it may outlive it from here on.
    """
    channel.still()
    if not tied:
        calls.prctl(calls.PR_SET_PDEATHSIG, 0)
    process.limit(wanted.rlimits)
    process.arrange(wanted)
    process.own_streams(wanted.user.uid)
    reachable = process.try_directory(wanted.cwd, make_directory)
    labels.apply(wanted)
    if policy is not None and not wanted.no_new_privileges:
        filter_calls(policy, channel)  # later there may be no CAP_SYS_ADMIN, which takes no_new_privs's place
    process.become(wanted.user, sets)
    if tied:
        tie()
        channel.check()  # the parent may have died while there was no tie: then so has the caller
    if not reachable:
        process.change_directory(wanted.cwd)
    process.reset_signals()
    os.umask(0o022 if wanted.user.umask is None else wanted.user.umask)
    if wanted.no_new_privileges:
        calls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)
        if policy is not None:
            filter_calls(policy, channel)
    process.execute(wanted.args, environment)


def await_start(channel: Channel) -> seccomp.Filter | None:
    """Wait for the word; with it comes the seccomp filter, which the caller has prepared meanwhile."""
    message = channel.expect("start")
    return seccomp.Filter(message.data, message.number) if message.data else None


def filter_calls(policy: seccomp.Filter, channel: Channel) -> None:
    """Install the filter; the descriptor of one that asks another process goes to the caller, who can reach it."""
    listener = seccomp.install(policy)
    if listener is not None:
        channel.send("listener", fds=(listener,))
        os.close(listener)
