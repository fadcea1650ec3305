"""Bundles to configurations of `init`: pure functions, from plain data to HID trees.

Three configurations make up a Genode of containers. `system` is the fixed one that core starts with; its `init` named
``containers`` has the dynamic one (`containers`), with one start node for each container, an `init` of its own,
the sub-init, with the third (`subinit`). docs/genode.md draws them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from capsa.errors import InvalidArgument
from capsa.hid import Node
from capsa.platform.genode import budget, drivers, file_servers, network
from capsa.platform.genode.budget import Quota
from capsa.platform.genode.bundle import BASE_SERVICES, MAIN, TERMINAL, Bundle, Console
from capsa.platform.genode.equipment import Equipment
from capsa.platform.genode.nodes import (
    ROM_PREFIX,
    anything_of_the_parent,
    node,
    provided,
    provides,
    quoted,
    routed,
    to_child,
)

CONTAINERS = "containers"
SYSTEM = (
    "init",
    *(f"init -> {name}" for name in ("timer", "lx_fs", "config_rom", "fs_report", CONTAINERS)),
    f"init -> {CONTAINERS} -> configs",
)
CONFIG_PREFIX = "config-"
REPORT = "state"
REPORT_MS = 50
# The report on all containers is asked for when much happens, costs the more the more containers there are, and says
# little that others wait for.
SUMMARY_MS = 25
HEARTBEAT_MS = 1000
PRIORITIES = 4
CONFIGS = Quota(16 * budget.MIB, 500)
OUTERMOST = Quota(16 * budget.MIB, 500)
SPARE = Quota(30 * budget.MIB, 420)  # what a container with files takes, and two volumes
SPARE_SERVICES = ("Timer",)
BARE = Equipment()
_HOST_ROMS = ("ld.lib.so", "init", *file_servers.ROMS, *network.ROMS, *drivers.PROGRAMS.values())
# Services that a sub-init may pass on; which of them a component gets, its routes say.
_OFFERED = ("ROM", *BASE_SERVICES, "Timer", "Report", "Rtc", "Terminal", "Trace", "Gui", "Event")


class Exec(msgspec.Struct, frozen=True):
    """One more component in a container: what `Bundle` says of the main one."""

    name: str
    binary: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    config: Node | None = None
    console: Console = Console()


class Entry(msgspec.Struct, frozen=True):
    """A container as `containers` sees it: the name of its start node, its quota, what it may use."""

    name: str
    quota: Quota
    services: tuple[str, ...] = ()
    files: bool = True
    network: bool = False
    priority: int = 0
    programs: tuple[str, ...] = ()


# ---- the fixed part ----


def system(quota: Quota) -> Node:
    """What core starts with; ``quota`` is what containers may have together."""
    root = node("config", "", provided(("ROM", *BASE_SERVICES)))
    root.add(node("default-route", "", node("any-service", "", node("parent"), node("any-child"))))
    # What it needs for the sessions that all others open through it; it would hand out all but a little.
    root.add(node("resource", "RAM", preserve=budget.shown(OUTERMOST.ram)))
    root.add(node("resource", "CAP", preserve=OUTERMOST.caps))
    root.add(node("default", caps=120, ram="2M"))
    root.add(node("start", "timer", provides("Timer"), ram="1M"))
    policies = (
        node("policy", label_prefix="config_rom", root="/host/config"),
        node("policy", label_prefix=f"{CONTAINERS} -> configs", root="/host/config"),
        node("policy", label_prefix="fs_report", root="/host/report", writeable=True),
    )
    files = (provides("File_system"), node("config", "", *policies))
    root.add(node("start", "lx_fs", *files, caps=400, ram="12M", ld=False))
    root.add(
        node(
            "start",
            "config_rom",
            node("binary", "fs_rom"),
            provides("ROM"),
            routed(to_child("File_system", "lx_fs"), anything_of_the_parent()),
            ram="4M",
        )
    )
    root.add(
        node(
            "start",
            "fs_report",
            provides("Report"),
            node("config", "", node("vfs", "", node("fs"))),
            routed(to_child("File_system", "lx_fs"), anything_of_the_parent()),
            caps=500,
            ram="24M",
        )
    )
    routes = routed(
        node("service", "ROM", node("child", "config_rom", label=CONTAINERS), label="config"),
        to_child("Report", "fs_report"),
        to_child("File_system", "lx_fs"),
        to_child("Timer", "timer"),
        anything_of_the_parent(),
    )
    root.add(node("start", CONTAINERS, node("binary", "init"), routes, caps=quota.caps, ram=budget.shown(quota.ram)))
    return root


# ---- the dynamic part ----


def entry(bundle: Bundle, total: Quota | None = None, *, waited: bool = False) -> Entry:
    """A container's part; ``total``: with another quota than it needs.

    ``waited``: as of `subinit`. The routes of file servers stay: to lose one that is in use is the end of an `init`.
    """
    services, files = _of_the_parent(bundle), bundle.files or waited
    programs = tuple(drivers.PROGRAMS[each] for each in bundle.drivers)
    return Entry(bundle.name, total or quota(bundle), services, files, bundle.network, bundle.priority, programs)


def spare(name: str) -> Entry:
    """The part of a sub-init that waits for a container."""
    return Entry(name, SPARE, SPARE_SERVICES)


def suits_spare(bundle: Bundle) -> bool:
    """Whether such a sub-init can be this container's, with quota and routes as they are."""
    same = bundle.services == SPARE_SERVICES and not bundle.network and bundle.priority == 0
    return same and quota(bundle).fits(SPARE)


def _of_the_parent(bundle: Bundle) -> tuple[str, ...]:
    return tuple(name for name in bundle.services if name != "Nic" and name not in bundle.drivers)


def containers(entries: Iterable[Entry]) -> Node:
    """The configuration of the `init` that has a sub-init for each container."""
    root = node("config", "", prio_levels=PRIORITIES)
    root.add(provided((*_OFFERED, "File_system")))
    root.add(node("report", ids=True, init_ram=True, init_caps=True, delay_ms=SUMMARY_MS, buffer="256K"))
    root.add(node("heartbeat", rate_ms=HEARTBEAT_MS))
    root.add(
        node(
            "start",
            "configs",
            node("binary", "fs_rom"),
            provides("ROM"),
            routed(anything_of_the_parent()),
            caps=CONFIGS.caps,
            ram=budget.shown(CONFIGS.ram),
        )
    )
    for entry in entries:
        root.add(_container(entry))
    return root


def _container(entry: Entry) -> Node:
    routes = [
        node("service", "ROM", node("child", "configs", label=CONFIG_PREFIX + entry.name), label="config"),
        node("service", "ROM", node("parent"), label_prefix=ROM_PREFIX),
        *(
            node("service", "ROM", node("parent"), label_last=name)
            for name in (
                *("ld.lib.so", "init"),
                *(file_servers.ROMS if entry.files else ()),
                *(network.ROMS if entry.network else ()),
                *entry.programs,
            )
        ),
        node("service", "ROM", node("parent"), label_suffix=".lib.so"),
        node("service", "Report", node("parent"), label=REPORT),
        *(node("service", name, node("parent")) for name in (*BASE_SERVICES, *entry.services)),
    ]
    return node(
        "start",
        entry.name,
        node("binary", "init"),
        routed(*routes),
        caps=entry.quota.caps,
        ram=budget.shown(entry.quota.ram),
        **({"priority": entry.priority} if entry.priority else {}),
    )


# ---- one container ----


def quota(bundle: Bundle, execs: int = 0) -> Quota:
    """What its sub-init has to get, so that the main component gets its own."""
    total = budget.INIT + bundle.quota + file_servers.quota(bundle) + network.quota(bundle) + drivers.quota(bundle)
    for _ in range(execs):
        total = total + exec_quota(bundle)
    return total


def exec_quota(bundle: Bundle) -> Quota:
    """What one more component takes, with what it alone uses."""
    return _exec_quota(bundle) + drivers.exec_quota(bundle)


def _exec_quota(bundle: Bundle) -> Quota:
    """What one more component gets; a session at a router takes some of it."""
    return budget.EXEC + network.SESSION_QUOTA if bundle.network else budget.EXEC


def components(bundle: Bundle) -> int:
    """How many there are in its sub-init at first, with itself."""
    servers = bundle.files + file_servers.has_directories(bundle) + len(bundle.drivers)
    return 2 + servers + len(list(network.components(bundle)))


def waiting(name: str, *, files: bool, has: Equipment) -> Node:
    """The configuration of a sub-init that waits for a container; ``files``: its file servers wait as well."""
    root = _empty(SPARE_SERVICES)
    for each in file_servers.waiting(name, has) if files else ():
        root.add(each)
    return root


def keeps_unused(bundle: Bundle) -> bool:
    """Whether file servers that a container has no use for may stay for a while: not where it needs their quota."""
    return not bundle.files and (quota(bundle) + file_servers.FILES + budget.VFS).fits(SPARE)


def _empty(services: Iterable[str]) -> Node:
    root = node("config")
    root.add(provided(("ROM", *BASE_SERVICES, *services)))
    root.add(node("report", ids=True, child_ram=True, child_caps=True, delay_ms=REPORT_MS, buffer="16K"))
    return root


def subinit(
    bundle: Bundle,
    tree: file_servers.Tree | None = None,
    execs: Sequence[Exec] = (),
    *,
    has: Equipment = BARE,
    waited: bool = False,
    unused: bool = False,
) -> Node:
    """The configuration of a container's sub-init.

    ``has``: what this Genode offers to files; ``waited``: there were file servers before the container
    (`waiting`), and with ``unused`` those that it does not need are there still.
    """
    root = _empty(_of_the_parent(bundle))
    if bundle.heartbeat:
        root.add(node("heartbeat", rate_ms=HEARTBEAT_MS))
    if bundle.affinity is not None:
        root.add(node("affinity-space", width=bundle.affinity.space, height=1))
    vfs = file_servers.server(bundle, waited)
    root.add(_main(bundle, vfs))  # first, as they are made in turn: while the others are, it loads
    if bundle.files:
        if tree is None:
            raise InvalidArgument(f"the files of container {bundle.name} are nowhere")
        for each in file_servers.components(bundle, tree, has, waited):
            root.add(each)
    for each in network.components(bundle):
        root.add(each)
    for each in drivers.components(bundle):
        root.add(each)
    for wanted in execs:
        if TERMINAL in bundle.drivers:
            root.add(drivers.terminal(bundle, wanted.name, wanted.console))
        root.add(_exec(bundle, wanted, vfs))
    if waited and unused:
        there = {each.name for each in root.nodes("start")}
        for each in file_servers.waiting(bundle.name, has):
            if each.name not in there:
                root.add(each)
    return root


def _main(bundle: Bundle, vfs: str) -> Node:
    children = [
        _binary(bundle, bundle.binary),
        *_affinity(bundle),
        node("exit", propagate=True),
        _config(bundle.config, bundle.arguments, bundle.environment),
        _component_routes(bundle, vfs),
    ]
    if bundle.heartbeat:
        children.insert(1, node("heartbeat"))
    attributes: dict[str, str | int | bool] = {"caps": bundle.quota.caps, "ram": budget.shown(bundle.quota.ram)}
    return node("start", MAIN, *children, **attributes)


def _exec(bundle: Bundle, wanted: Exec, vfs: str) -> Node:
    return node(
        "start",
        wanted.name,
        _binary(bundle, wanted.binary),
        *_affinity(bundle),
        _config(wanted.config, wanted.arguments, wanted.environment),
        _component_routes(bundle, vfs, wanted.name),
        caps=_exec_quota(bundle).caps,
        ram=budget.shown(_exec_quota(bundle).ram),
    )


def _affinity(bundle: Bundle) -> Iterator[Node]:
    """Where the threads of a component of the image run; what helps it is free to run elsewhere."""
    if bundle.affinity is not None:
        yield node("affinity", xpos=bundle.affinity.xpos, width=bundle.affinity.width)


def _binary(bundle: Bundle, name: str) -> Node:
    if name not in dict(bundle.roms):
        raise InvalidArgument(f"there is no {name} in the image of container {bundle.name}")
    return node("binary", name)


def _config(given: Node | None, arguments: Sequence[str], environment: Sequence[tuple[str, str]]) -> Node:
    """The component's own configuration; arguments and variables as Genode's libc reads them."""
    made = node("config")
    if given is not None:
        made.attributes, made.content = list(given.attributes), list(given.content)
        made.comments = given.comments
    if not any(each.type in ("arg", "env") for each in made.nodes()) and made.text is None:
        made.content += [quoted("arg", text) for text in arguments]
        made.content += [quoted("env", value, name) for name, value in environment]
    return made


def _component_routes(bundle: Bundle, vfs: str, whose: str = MAIN) -> Node:
    """Only what the bundle asks for: the image's own ROMs, its files, the services that it names."""
    routes = [
        node("service", "ROM", node("parent", label=ROM_PREFIX + known), label_last=name)
        for name, known in bundle.roms
        if name not in _HOST_ROMS
    ]
    routes.append(node("service", "ROM", node("parent"), label_last="ld.lib.so"))
    routes.append(node("service", "ROM", node("parent"), label_suffix=".lib.so"))
    if bundle.files:
        routes.append(to_child("File_system", vfs))
    if bundle.network:
        routes.append(to_child("Nic", network.ROUTER))
    routes += drivers.routes(bundle, whose)
    routes += [node("service", name, node("parent")) for name in (*BASE_SERVICES, *_of_the_parent(bundle))]
    return routed(*routes)
