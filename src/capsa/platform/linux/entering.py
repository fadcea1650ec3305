"""An additional process of a container (``exec``), from ``clone3`` to ``execve``: what is done inside the child.

The container is up and may be hostile: nothing of it is trusted that is seen after joining its namespaces, and nothing
of the runtime may be reachable from there (`birth.arrive`).
"""

from __future__ import annotations

import os

import msgspec

from capsa.errors import LaunchFailed, reason
from capsa.oci.runtime import Linux, Process
from capsa.platform.linux import birth, capabilities, process, terminal
from capsa.platform.linux.cgroup import Entry
from capsa.platform.linux.channel import Channel
from capsa.sys import namespace
from capsa.sys import process as calls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Plan(msgspec.Struct, kw_only=True):
    """What the child has to know. ``kinds``: the namespaces to join of process ``pid``, whose pidfd is ``target``.

    ``tied``: it dies with its parent. ``keep``: how many descriptors from 3 on the program gets.
    """

    process: Process
    linux: Linux
    pid: int
    target: int
    kinds: Sequence[str]
    entry: Entry
    unified: bool
    stdio: tuple[int, int, int] | None
    keyring: str
    tied: bool = True
    keep: int = 0


def live(plan: Plan, channel: Channel) -> None:
    """Join, set up, wait for the word, execute."""
    birth.tie()
    wanted = plan.process
    affinity = wanted.exec_cpu_affinity
    if affinity is not None and affinity.initial:
        process.pin(affinity.initial)
    plan.entry.join(plan.unified)
    if affinity is not None and affinity.final:
        process.pin(affinity.final)
    kept = (channel.fileno(), *range(3, 3 + plan.keep))
    birth.arrive(plan.stdio, (*kept, plan.target))
    birth.be_killed_for_memory(wanted.oom_score_adj)
    process.check(wanted)
    sets = capabilities.Sets(wanted.capabilities)
    os.setsid()
    birth.keyring(plan.keyring)
    if "mount" in plan.kinds:
        _join(plan)
    else:
        root = _root(plan)
        _join(plan)
        os.fchdir(root)
        os.chroot(".")
        os.close(root)
    if "user" in plan.kinds:
        birth.be_root()
    if wanted.terminal:
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        master, slave = terminal.open_pair_at(root, wanted.console_size)
        channel.send("console", fds=(master,))
        terminal.take(slave)
    calls.close_all_but(kept)
    if plan.linux.personality is not None:
        process.personality(plan.linux.personality)
    if plan.linux.memory_policy is not None:
        process.memory_policy(plan.linux.memory_policy)
    environment = process.environment(wanted)
    process.find(wanted.args[0], environment, wanted.cwd)
    channel.send("created")
    policy = birth.await_start(channel)
    birth.finish(wanted, sets, policy, environment, channel, make_directory=False, tied=plan.tied)


def _root(plan: Plan) -> int:
    """The root of a container that shares its caller's mount namespace, and so is told apart by nothing else."""
    try:
        return os.open(f"/proc/{plan.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise LaunchFailed(f"cannot enter the container: {reason(error)}") from error


def _join(plan: Plan) -> None:
    flags = 0
    for kind in plan.kinds:
        if kind != "pid" and not (kind == "user" and _same_user_namespace(plan.pid)):
            flags |= namespace.FLAGS[kind]
    try:
        namespace.setns(plan.target, flags)
    except OSError as error:
        raise LaunchFailed(f"cannot join the container's namespaces: {reason(error)} ({error.filename})") from error


def _same_user_namespace(pid: int) -> bool:
    """The kernel refuses to join the user namespace that one is in."""
    try:
        return os.path.samefile(f"/proc/{pid}/ns/user", "/proc/self/ns/user")
    except OSError as error:
        raise LaunchFailed(f"cannot enter the container: {reason(error)}") from error
