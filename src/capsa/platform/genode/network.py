"""A container's networks: a `nic_router` of its own, between the component and a TAP device for each network.

A network of the host is one domain of the router, in which the router has the container's address. The component is in
another domain, a subnet of four with the same address in it (the network hands out no other of the four), which it gets
by DHCP. So it has the address that everybody knows it by, and yet all that it sends to others goes through the router,
which translates addresses: it cannot pretend to be somebody else, and it sees nothing that is not for it.

Nothing passes between domains but what a rule lets pass: TCP, UDP and ICMP echo, to the networks that the container is
in, beyond them through the one with the default route, and from its networks to its address there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

from capsa.hid import Node
from capsa.platform.genode import budget
from capsa.platform.genode.budget import Quota
from capsa.platform.genode.bundle import MAIN, Bundle, Link, Names
from capsa.platform.genode.nodes import anything_of_the_parent, node, routed, to_child

ROUTER = "nic"
ROUTER_ROM = "nic_router"
DRIVERS = (
    "tap_nic",
    "linux_nic",
)  # the better one first: linux_nic stands still after more frames than it has room for
ROMS = (ROUTER_ROM, *DRIVERS)
MOST_MTU = 1500  # Genode's packet streams have buffers of 1600 bytes
# Seen on Genode 26.02; what connections take is paid by the sessions that they came through.
ROUTER_QUOTA = Quota(6 * budget.MIB, 150)
DRIVER_QUOTA = Quota(5 * budget.MIB, 100)
SESSION_QUOTA = Quota(6 * budget.MIB, 60)  # the packet buffers of a session are its client's
EXEC = "exec"
# Additional components have addresses that nobody routes (RFC 5737), and are translated to the container's.
EXEC_ROUTER, EXEC_FIRST, EXEC_LAST = "192.0.2.1/27", "192.0.2.2", "192.0.2.30"
EVERYWHERE = "0.0.0.0/0"
ALL_NAT_PORTS, NAT_PORTS = 16384, 4096  # of each protocol, the highest: all of them, and for one domain of clients
# As long as Linux's own tables would remember; a component may keep a connection open without a word.
TCP_SECONDS, UDP_SECONDS = 7200, 120


def quota(bundle: Bundle) -> Quota:
    """What the router and the drivers take."""
    total = Quota(0, 0)
    if bundle.network:
        total = total + ROUTER_QUOTA
    for _ in bundle.links:
        total = total + DRIVER_QUOTA
    return total


def driver(link: Link) -> str:
    """The name of a link's component."""
    return f"{ROUTER}-{link.name}"


def components(bundle: Bundle) -> Iterator[Node]:
    """The start nodes of a container that may use networks."""
    if not bundle.network:
        return
    yield node(
        "start",
        ROUTER,
        node("binary", ROUTER_ROM),
        node("provides", "", node("service", "Nic"), node("service", "Uplink")),
        router(bundle.links, bundle.servers, bundle.names),
        routed(anything_of_the_parent()),
        caps=ROUTER_QUOTA.caps,
        ram=budget.shown(ROUTER_QUOTA.ram),
    )
    for link in bundle.links:
        yield node(
            "start",
            driver(link),
            node("binary", bundle.driver),
            node("config", "", tap=link.tap, mac=link.mac),
            routed(to_child("Uplink", ROUTER), anything_of_the_parent()),
            caps=DRIVER_QUOTA.caps,
            ram=budget.shown(DRIVER_QUOTA.ram),
            ld=False,
        )


def router(links: Sequence[Link], servers: Sequence[str] = (), names: Names | None = None) -> Node:
    """The configuration of the router; with no ``links`` it lets nothing pass."""
    if names is not None and names.link not in [link.name for link in links]:
        names = None
    root = node("config", icmp_echo_server=False, tcp_idle_timeout_sec=TCP_SECONDS, udp_idle_timeout_sec=UDP_SECONDS)
    for link in links:
        root.add(node("policy", "", label_prefix=f"{driver(link)} ->", domain=_outside(link)))
    for link in links:
        root.add(node("policy", "", label=f"{MAIN} -> {link.name}", domain=_inside(link)))
    if links:
        root.add(node("policy", "", label_prefix=f"{MAIN} ->", domain=_inside(links[0])))
        root.add(node("policy", "", label_prefix="exec-", domain=EXEC))
    for link in links:
        root.add(_network(link, [*map(_inside, links), EXEC]))
    for link in links:
        address = ipaddress.IPv4Interface(link.address).ip
        beside = ipaddress.IPv4Address(int(address) ^ 3)
        root.add(_clients(_inside(link), f"{beside}/30", str(address), str(address), links, servers, names))
    if links:
        root.add(_clients(EXEC, EXEC_ROUTER, EXEC_FIRST, EXEC_LAST, links, servers, names))
    return root


def _inside(link: Link) -> str:
    return f"{MAIN}-{link.name}"


def _outside(link: Link) -> str:
    return f"network-{link.name}"


def _network(link: Link, clients: Sequence[str]) -> Node:
    """The domain of a network."""
    address = str(ipaddress.IPv4Interface(link.address).ip)
    gateway = {"gateway": link.gateway} if link.gateway else {}
    made = node("domain", _outside(link), interface=link.address, **gateway)
    for rule in _rules(f"{address}/32", _inside(link)):
        made.add(rule)
    for client in clients:
        ports = dict.fromkeys(("tcp-ports", "udp-ports", "icmp-ids"), min(NAT_PORTS, ALL_NAT_PORTS // len(clients)))
        made.add(node("nat", "", domain=client, **ports))
    return made


def _clients(
    name: str,
    interface: str,
    first: str,
    last: str,
    links: Sequence[Link],
    servers: Sequence[str],
    names: Names | None,
) -> Node:
    """A domain of components, which get addresses from ``first`` to ``last`` and ask the router for names."""
    own = [interface.partition("/")[0]] if names is not None else []
    asked = (node("dns-server", ip=server) for server in (*own, *servers))
    made = node("domain", name, node("dhcp-server", "", *asked, ip_first=first, ip_last=last), interface=interface)
    if names is not None:
        for kind in ("tcp-forward", "udp-forward"):
            made.add(node(kind, port=53, domain=f"network-{names.link}", to=names.address, to_port=names.port))
    for link in links:
        subnet = EVERYWHERE if link.gateway else str(ipaddress.IPv4Interface(link.address).network)
        for rule in _rules(subnet, _outside(link)):
            made.add(rule)
    return made


def _rules(destination: str, domain: str) -> Iterator[Node]:
    """What may pass to ``destination``."""
    for protocol in ("tcp", "udp"):
        yield node(protocol, "", node("permit-any", domain=domain), dst=destination)
    yield node("icmp", dst=destination, domain=domain)
