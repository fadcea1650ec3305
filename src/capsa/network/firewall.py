"""What may pass between containers, host and outside: one nftables table, ``inet NAME``, per engine.

The chains never change, only the elements of sets and maps do, so a published port is one small transaction.

========== =====================================================================================================
raw        drops what pretends: loopback addresses that did not come through ``lo`` (a published port of 127.0.0.1
           is the host's alone, though its bridge has ``route_localnet``), and source addresses that do not belong
           to the network they come from
prerouting sends published ports to their container; ``output`` does so for the host's own processes
forward    within a network all, unless its containers are to be apart; into a network only answers and published
           ports; out of it all, unless it is internal; never from one network to another, except to published ports
input      from an internal network only its gateway's address is there
postrouting masquerades what leaves a network, and what comes back into one by a published port
========== =====================================================================================================
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from capsa.errors import CapsaError
from capsa.network.model import Binding, Endpoint, Network
from capsa.sys import nftables
from capsa.sys.conntrack import forget_udp

Published = tuple[Endpoint, Binding]

_TABLE = """
table inet {name} {{
    set bridges {{ type ifname; }}
    set internal {{ type ifname; }}
    set pairs {{ type ifname . ifname; }}
    set gateways4 {{ type ifname . ipv4_addr; }}
    set gateways6 {{ type ifname . ipv6_addr; }}
    set subnets4 {{ type ipv4_addr; flags interval; }}
    set subnets6 {{ type ipv6_addr; flags interval; }}
    set masquerade4 {{ type ipv4_addr; flags interval; }}
    set masquerade6 {{ type ipv6_addr; flags interval; }}
    map any4 {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map any6 {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}
    map bound4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
    map bound6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}

    chain raw {{
        type filter hook prerouting priority raw; policy accept;
        iifname != "lo" ip daddr 127.0.0.0/8 drop
        iifname @bridges ip saddr != 0.0.0.0 fib saddr . iif oif missing drop
        iifname @bridges ip6 saddr != {{ ::, fe80::/10 }} fib saddr . iif oif missing drop
    }}
    chain published {{
        dnat ip to ip daddr . meta l4proto . th dport map @bound4
        dnat ip6 to ip6 daddr . meta l4proto . th dport map @bound6
        dnat ip to meta l4proto . th dport map @any4
        dnat ip6 to meta l4proto . th dport map @any6
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        meta l4proto {{ tcp, udp }} fib daddr type local jump published
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        meta l4proto {{ tcp, udp }} ip6 daddr != ::1 fib daddr type local jump published
        meta l4proto {{ tcp, udp }} meta nfproto ipv4 fib daddr type local jump published
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname != @internal accept
        ct state established,related accept
        iifname . ip daddr @gateways4 accept
        iifname . ip6 daddr @gateways6 accept
        icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }} accept
        drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname . oifname @pairs accept
        iifname @internal drop
        oifname @internal drop
        oifname @bridges ct state established,related accept
        oifname @bridges ct status dnat accept
        oifname @bridges drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr @masquerade4 oifname != @bridges masquerade
        ip6 saddr @masquerade6 oifname != @bridges masquerade
        oifname @bridges ct status dnat ip saddr @subnets4 masquerade
        oifname @bridges ct status dnat ip6 saddr @subnets6 masquerade
        oifname @bridges ip saddr 127.0.0.0/8 masquerade
    }}
}}
"""


class Firewall:
    """The table of the engine ``name``, in the network namespace of the thread that uses it.

    All methods raise `CapsaError`. Removing an element makes the kernel wait for some milliseconds until no packet
    sees it any more: that happens in a thread, several at once.
    """

    def __init__(self, name: str) -> None:
        self._table = f"inet {name}"
        self._name = name
        self._lock = threading.Lock()  # one transaction after the other
        self._brief = threading.Lock()  # guards what follows, never held for long
        self._worker: ThreadPoolExecutor | None = None
        self._leaving: dict[str, set[str]] = {}
        self._flows: list[Published] = []

    def rebuild(self, networks: Iterable[Network], published: Iterable[Published]) -> None:
        """Put the whole table up as it should be, in one transaction; established connections go on."""
        commands = [f"add table {self._table}", f"delete table {self._table}", _TABLE.format(name=self._name)]
        for network in networks:
            commands += self._elements("add", _network_elements(network))
        commands += self._elements("add", _port_elements(published))
        with self._lock:
            with self._brief:
                self._leaving.clear()
            nftables.run("\n".join(commands))

    def add_network(self, network: Network) -> None:
        """Let a network in."""
        self._run(self._elements("add", _network_elements(network)))

    def remove_network(self, network: Network) -> None:
        """Take it out."""
        self._run(self._elements("delete", _network_elements(network)))

    def publish(self, endpoint: Endpoint, bindings: Sequence[Binding]) -> None:
        """Redirect the ports of ``bindings`` to ``endpoint``."""
        elements = _port_elements((endpoint, each) for each in bindings)
        again: dict[str, list[str]] = {}
        with self._lock:
            with self._brief:
                for name, found in elements.items():
                    leaving = self._leaving.get(name, set())
                    again[name] = [key for key in map(_key, found) if key in leaving]
                    leaving.difference_update(again[name])
            nftables.run("\n".join(self._elements("delete", again) + self._elements("add", elements)))
        if udp := [each.host_port for each in bindings if each.protocol == "udp"]:
            forget_udp(udp)

    def unpublish(self, endpoint: Endpoint, bindings: Sequence[Binding]) -> None:
        """Redirect them no longer; done in a moment, by a thread."""
        published = [(endpoint, each) for each in bindings]
        with self._brief:
            for name, found in _port_elements(published).items():
                self._leaving.setdefault(name, set()).update(map(_key, found))
            self._flows += [each for each in published if each[1].protocol == "udp"]
            if self._worker is None:
                self._worker = ThreadPoolExecutor(1, "firewall")
            self._worker.submit(self._flush)

    def present(self) -> bool:
        """Whether the table is there; an administrator's ``flush ruleset`` takes it away."""
        return nftables.has_table(self._name)

    def remove(self) -> None:
        """Remove the table."""
        with self._lock:
            with self._brief:
                self._leaving.clear()
            nftables.run(f"add table {self._table}\ndelete table {self._table}")

    def close(self) -> None:
        """Finish what is under way."""
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None

    def _flush(self) -> None:
        with self._lock:
            with self._brief:
                leaving, self._leaving = self._leaving, {}
                flows, self._flows = self._flows, []
            keys = {name: sorted(found) for name, found in leaving.items() if found}
            if keys:
                self._delete(keys)
        ports: dict[str, list[int]] = {}
        for endpoint, binding in flows:
            ports.setdefault(endpoint.address(6 if ":" in binding.host_ip else 4)[0], []).append(binding.host_port)
        for address, numbers in ports.items():
            forget_udp(numbers, address)

    def _delete(self, keys: Mapping[str, Sequence[str]]) -> None:
        try:
            nftables.run("\n".join(self._elements("delete", keys)))
        except CapsaError:
            # Somebody else removed some: the others have to go nevertheless.
            for name, found in keys.items():
                for key in found:
                    with contextlib.suppress(CapsaError):
                        nftables.run("\n".join(self._elements("delete", {name: [key]})))

    def _run(self, commands: Sequence[str]) -> None:
        with self._lock:
            nftables.run("\n".join(commands))

    def _elements(self, verb: str, sets: Mapping[str, Sequence[str]]) -> list[str]:
        return [
            f"{verb} element {self._table} {name} {{ {', '.join(elements)} }}"
            for name, elements in sets.items()
            if elements
        ]


def _key(element: str) -> str:
    return element.partition(" : ")[0]


def _network_elements(network: Network) -> dict[str, list[str]]:
    bridge = f'"{network.bridge}"'
    sets = {"bridges": [bridge]}
    if network.inter_container:
        sets["pairs"] = [f"{bridge} . {bridge}"]
    if network.internal:
        sets["internal"] = [bridge]
    for pool in network.pools:
        sets[f"gateways{pool.version}"] = [f"{bridge} . {pool.gateway}"]
        sets[f"subnets{pool.version}"] = [pool.subnet]
        if network.masquerade and not network.internal:
            sets[f"masquerade{pool.version}"] = [pool.subnet]
    return sets


def _port_elements(published: Iterable[Published]) -> dict[str, list[str]]:
    sets: dict[str, list[str]] = {}
    for endpoint, binding in published:
        version = 6 if ":" in binding.host_ip else 4
        value = f"{endpoint.address(version)[0]} . {binding.container_port}"
        key = f"{binding.protocol} . {binding.host_port}"
        if binding.host_ip in ("0.0.0.0", "::"):  # noqa: S104
            sets.setdefault(f"any{version}", []).append(f"{key} : {value}")
        else:
            sets.setdefault(f"bound{version}", []).append(f"{binding.host_ip} . {key} : {value}")
    return sets
