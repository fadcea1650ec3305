"""Components of a container that provide it with what Linux has: the clock, terminals that clients are attached to.

Each is one container's own, in its sub-init, and there only if the container asks for its service. Of terminals there
is one more for each additional component; that of the main one is also what ``/dev/terminal`` is.
"""

from __future__ import annotations

from collections.abc import Iterator

from capsa.hid import Node
from capsa.platform.genode import budget
from capsa.platform.genode.budget import Quota
from capsa.platform.genode.bundle import MAIN, TERMINAL, Bundle, Console
from capsa.platform.genode.nodes import anything_of_the_parent, node, provides, routed, to_child

RTC = "Rtc"
PROGRAMS = {RTC: "linux_rtc", TERMINAL: "fifo_terminal"}  # by the service that they provide
NODES = {RTC: "rtc", TERMINAL: "terminal"}  # in /dev
QUOTA = Quota(1 * budget.MIB, 60)
TERMINALS = "terminal"  # the directory of their FIFOs


def quota(bundle: Bundle) -> Quota:
    """What those of the main component take."""
    total = Quota(0, 0)
    for _ in bundle.drivers:
        total = total + QUOTA
    return total


def exec_quota(bundle: Bundle) -> Quota:
    """What one of an additional component takes, if it has one."""
    return QUOTA if TERMINAL in bundle.drivers else Quota(0, 0)


def devices(bundle: Bundle) -> Iterator[str]:
    """The nodes in ``/dev`` that belong to services which the container has."""
    for service, name in NODES.items():
        if service in bundle.services and service not in bundle.absent:
            yield name


def fifos(container: str, component: str) -> str:
    """Where a terminal's FIFOs are, from Genode's working directory on."""
    return f"{TERMINALS}/{container}/{component}"


def component(service: str, whose: str = MAIN) -> str:
    """What the one is called that provides ``service`` for the component ``whose``."""
    return service.lower() if whose == MAIN or service != TERMINAL else f"{service.lower()}-{whose}"


def components(bundle: Bundle) -> Iterator[Node]:
    """The start nodes of those that the container has from the start."""
    for service in bundle.drivers:
        yield terminal(bundle, MAIN, bundle.console) if service == TERMINAL else _driver(service, node("config"))


def terminal(bundle: Bundle, whose: str, console: Console) -> Node:
    """The start node of a terminal."""
    config = node("config", path=fifos(bundle.name, whose), tty=console.tty)
    if console.columns and console.lines:
        config.set("columns", console.columns)
        config.set("lines", console.lines)
    if whose == MAIN:
        config.set("patient", "vfs")
    return _driver(TERMINAL, config, whose)


def routes(bundle: Bundle, whose: str = MAIN) -> list[Node]:
    """Where the sessions of a component lead that is to use them."""
    return [to_child(service, component(service, whose)) for service in bundle.drivers]


def _driver(service: str, config: Node, whose: str = MAIN) -> Node:
    return node(
        "start",
        component(service, whose),
        node("binary", PROGRAMS[service]),
        provides(service),
        config,
        routed(anything_of_the_parent()),
        caps=QUOTA.caps,
        ram=budget.shown(QUOTA.ram),
        ld=False,
    )
