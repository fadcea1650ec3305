"""Networks: what there are, who is in them, and that the kernel agrees.

Rows in the database say what ought to be; bridges and the firewall's table follow when they are needed first
(`Networks.connect`) and after a restart (`Networks.restore`). Connecting a container costs one row: its veth pair is
made by its sub-init, and as a rule goes away with its network namespace. The rule has exceptions: a connection whose
other end does not answer keeps the namespace of an ended container for minutes. So what has left is looked after
(`Networks.left`).
"""

from __future__ import annotations

import re
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from capsa.database import Database
from capsa.errors import CapsaError, Conflict, Forbidden, InvalidArgument, NotFound, Unsupported
from capsa.network import addresses, ports, store
from capsa.network.bridge import Bridges, present, remove_host_ends
from capsa.network.endpoint import Wish, make, routed
from capsa.network.firewall import Firewall
from capsa.network.model import Binding, Driver, Endpoint, Network, Pool, Port
from capsa.network.options import bridge_options

_NAME = re.compile(r"[a-zA-Z0-9][^/]{0,254}\Z")
_DRIVERS: dict[str, Driver] = {"bridge": "bridge", "host": "host", "null": "null"}
DEFAULT = "bridge"


class Networks:
    """All networks of one engine, in the network namespace the engine is in. For a single thread."""

    def __init__(self, database: Database, name: str, run: Path) -> None:
        """``name`` is the engine's: it names bridges and the nftables table. ``run`` is the engine's run directory."""
        self._store = store.Store(database)
        self._name = name
        self.run = run
        self._bridges = Bridges(name)
        self._firewall = Firewall(name)
        self._networks = {network.id: network for network in self._store.networks()}
        self._endpoints: dict[str, dict[str, Endpoint]] = {}
        self._published = self._store.bindings()
        self._allocators = addresses.Allocators()
        self._made: set[str] = set()
        self._ruled = False
        self._left: dict[str, str] = {}  # host ends that may still be there, by their addresses
        for endpoint in self._store.endpoints():
            self._endpoints.setdefault(endpoint.container, {})[endpoint.network] = endpoint
            self._allocators.seed(self._networks[endpoint.network], endpoint.taken)
        self._add_predefined()

    # Networks

    def all(self) -> list[Network]:
        """All networks, oldest first."""
        return sorted(self._networks.values(), key=lambda network: network.created)

    def get(self, reference: str) -> Network:
        """The network with this name, id or beginning of an id.

        Raises `NotFound`, or `InvalidArgument` where several ids begin so.
        """
        if reference in self._networks:
            return self._networks[reference]
        if reference == "default":
            reference = DEFAULT
        for network in self._networks.values():
            if network.name == reference:
                return network
        found = [network for network in self._networks.values() if reference and network.id.startswith(reference)]
        if len(found) > 1:
            raise InvalidArgument(f"network {reference} is ambiguous ({len(found)} matches found on ID prefix)")
        if not found:
            raise NotFound(f"network {reference} not found")
        return found[0]

    def create(
        self,
        name: str,
        *,
        driver: str = "bridge",
        pools: Sequence[Pool] = (),
        internal: bool = False,
        attachable: bool = False,
        ipv4: bool = True,
        ipv6: bool = False,
        labels: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> Network:
        """Make a network with a bridge of its own.

        Raises `Conflict` where the name is in use, `Forbidden` where a subnet overlaps another network's or a name is
        predefined, `InvalidArgument` for what cannot be meant, `NotFound` for an unknown driver.
        """
        if not _NAME.match(name) or not name.isprintable() or name != name.strip():
            raise InvalidArgument(
                f"invalid network name {name[:80]!r}: it begins with a letter or a digit, has up to 255 printable "
                "characters and no slash"
            )
        if name in ("bridge", "host", "none", "default"):
            raise Forbidden(f"operation is not permitted on predefined {name} network")
        if any(network.name == name for network in self._networks.values()):
            raise Conflict(f"network with name {name} already exists")
        if driver in ("host", "null"):
            raise Forbidden(f'only one instance of "{driver}" network is allowed')
        if driver in ("macvlan", "ipvlan"):
            raise Unsupported(f"networks of the driver {driver} are not supported by capsa: use the driver bridge")
        if driver not in _DRIVERS:
            raise NotFound(f'could not find plugin {driver} in v1 plugin registry: plugin "{driver}" not found')
        settings = bridge_options(options or {})
        if settings.default:
            raise Forbidden(
                "com.docker.network.bridge.default_bridge is what the predefined network bridge is: leave it out"
            )
        network_id = secrets.token_hex(32)
        network = Network(
            id=network_id,
            name=name,
            driver="bridge",
            created=time.time_ns(),
            bridge=self._bridge_name(settings.bridge),
            pools=self._pools(network_id, pools, ipv4, ipv6),
            internal=internal,
            attachable=attachable,
            ipv4=ipv4,
            ipv6=ipv6,
            labels=dict(labels or {}),
            options=dict(options or {}),
            mtu=settings.mtu,
            masquerade=settings.masquerade,
            inter_container=settings.inter_container,
        )
        self._bridges.check_free(network)
        self._store.add_network(network)
        self._networks[network.id] = network
        try:
            self._bridges.make(network)
            self._made.add(network.id)
            self._change(lambda: self._firewall.add_network(network))
        except CapsaError:
            self._bridges.remove(network)
            self._forget(network)
            raise
        return network

    def remove(self, reference: str, name_of: Callable[[str], str] = str) -> Network:
        """Remove a network; raises `Forbidden` where it is predefined or has endpoints.

        ``name_of`` gives a container's name by its id, for the message.
        """
        network = self.get(reference)
        if network.predefined:
            raise Forbidden(f"{network.name} is a pre-defined network and cannot be removed")
        if endpoints := self.endpoints(network=network.id):
            active = ", ".join(f'name:"{name_of(each.container)}" id:"{each.id[:12]}"' for each in endpoints)
            raise Forbidden(f"error while removing network: network {network.name} has active endpoints ({active})")
        self._bridges.remove(network)
        self._forget(network)
        if self._ruled:
            self._change(lambda: self._firewall.remove_network(network))
        return network

    # Endpoints

    def connect(
        self,
        reference: str,
        container: str,
        wish: Wish | None = None,
    ) -> Endpoint:
        """Give ``container`` (an id) a place in a network.

        Other endpoints of the container may change with that: see `endpoint.routed`. Raises `Forbidden` where it is
        connected already or an address cannot be had, and what `endpoint.make` raises.
        """
        network = self.get(reference)
        if network.id in self._endpoints.get(container, {}):
            raise Forbidden(f"endpoint for container {container[:12]} already exists in network {network.name}")
        if network.driver != "bridge":
            endpoint = Endpoint(
                id=secrets.token_hex(32), network=network.id, network_name=network.name, container=container
            )
        else:
            wish = wish or Wish()
            if (wish.ipv4 or wish.ipv6) and network.predefined:
                raise InvalidArgument("user-specified IP address is supported on user-defined networks only")
            network = self._ensure(network)
            endpoint = make(network, container, wish, self.endpoints(container=container), self._allocators)
            if had := {self._left[address] for address in endpoint.addresses if address in self._left}:
                remove_host_ends(had)  # or two would answer for one address
        try:
            self._store.add_endpoint(endpoint)
        except BaseException:
            self._allocators.give_back(network, endpoint.taken)
            raise
        self._endpoints.setdefault(container, {})[network.id] = endpoint
        self.route(container)
        return self._endpoints[container][network.id]

    def route(self, container: str) -> list[Endpoint]:
        """Choose a container's default routes anew; the endpoints that have one now and had none."""
        changed = routed(self.endpoints(container=container), self._networks)
        for endpoint in changed:
            self._store.change_endpoint(endpoint)
            self._endpoints[container][endpoint.network] = endpoint
        return [endpoint for endpoint in changed if endpoint.gateways]

    def disconnect(self, reference: str, container: str) -> Endpoint:
        """Take ``container`` out of a network, its published ports there too; raises `Forbidden` where it is not in it.

        The interface itself is left to the kernel or, in a running container, to its sub-init.
        """
        network = self.get(reference)
        endpoint = self._endpoints.get(container, {}).get(network.id)
        if endpoint is None:
            raise Forbidden(f"container {container} is not connected to network {network.name}")
        self.unpublish(endpoint)
        self._drop(endpoint)
        return endpoint

    def release(self, container: str) -> None:
        """Take ``container`` out of all its networks (it has ended)."""
        for endpoint in self.endpoints(container=container):
            self.disconnect(endpoint.network, container)

    def left(self) -> list[str]:
        """Host ends of endpoints that are no more, those that are still there; they are the caller's to remove.

        The kernel removes them with the network namespace of their container, which takes it a moment: ask later.
        """
        left, self._left = {*self._left.values()}, {}
        return [name for name in left if present(name)]

    def endpoints(self, *, network: str = "", container: str = "") -> list[Endpoint]:
        """The endpoints of a network (by its id), of a container, or all."""
        groups = [self._endpoints.get(container, {})] if container else self._endpoints.values()
        return [endpoint for group in groups for endpoint in group.values() if network in ("", endpoint.network)]

    def host_gateway(self) -> str:
        """The host's IPv4 address in the default network, what ``host-gateway`` stands for."""
        pool = self.get(DEFAULT).pool(4)
        return pool.gateway if pool else ""

    # Published ports

    def publish(
        self, endpoint: Endpoint, wanted: Sequence[Port], *, name: str = ""
    ) -> tuple[list[Binding], list[socket.socket]]:
        """Publish ports of an endpoint on the host.

        Returns what was bound and the sockets that reserve it: they have to stay open as long as the container lives.
        All or nothing; raises `PortUnavailable`, `InvalidArgument` or `Unsupported`. ``name`` is the container's, for
        the message.
        """
        if not wanted:
            return [], []
        default_ip = bridge_options(self._networks[endpoint.network].options).host_ip
        if default_ip:
            wanted = [port if port.host_ip else msgspec.structs.replace(port, host_ip=default_ip) for port in wanted]
        self._rule()
        bindings, sockets = ports.reserve(endpoint, wanted, name=name)
        before = self._published.get(endpoint.id, [])
        try:
            # The row first: what a crash leaves in the table is then known to `restore`.
            self._store.add_bindings(endpoint, bindings)
            self._published[endpoint.id] = [*before, *bindings]
            self._change(lambda: self._firewall.publish(endpoint, bindings))
        except BaseException:
            for held in sockets:
                held.close()
            self.unpublish(endpoint)
            raise
        return bindings, sockets

    def unpublish(self, endpoint: Endpoint) -> None:
        """Take back all published ports of an endpoint."""
        bindings = self._published.pop(endpoint.id, [])
        if bindings:
            self._store.remove_bindings(endpoint)
            self._firewall.unpublish(endpoint, bindings)

    def move(self, before: Sequence[Binding], endpoint: Endpoint) -> None:
        """Redirect ports that another endpoint of the same container had to ``endpoint``.

        Their sockets are held already; those of an IP version that it lacks are published no more.
        """
        bindings = [each for each in before if endpoint.address(6 if ":" in each.host_ip else 4)[0]]
        if bindings:
            self._store.add_bindings(endpoint, bindings)
            self._published[endpoint.id] = [*self._published.get(endpoint.id, []), *bindings]
            self._change(lambda: self._firewall.publish(endpoint, bindings))

    def bindings(self, endpoint: Endpoint) -> list[Binding]:
        """The published ports of an endpoint."""
        return list(self._published.get(endpoint.id, []))

    # The machine

    def restore(self, containers: Iterable[str]) -> None:
        """After a start of the engine: agree with the machine.

        ``containers`` are the ids of those that live; endpoints of others are released. Where some live, bridges and
        rules are made again if they are missing; what is there stays, no connection breaks.
        """
        alive = set(containers)
        uncertain = bool(self._published)
        for endpoint in self.endpoints():
            if endpoint.container not in alive:
                self._published.pop(endpoint.id, None)
                self._drop(endpoint)
        living = {endpoint.network for endpoint in self.endpoints() if endpoint.bridge}
        for network_id in living:
            self._ensure(self._networks[network_id])
        if living:
            self._rule()
        elif uncertain or self._firewall.present():
            self._clear_away()

    def remove_all(self) -> None:
        """Remove all bridges, the firewall's table and all rows; the predefined networks are there again at once."""
        self._clear_away()
        self._store.clear()
        self._networks.clear()
        self._endpoints.clear()
        self._published.clear()
        self._allocators.clear()
        self._add_predefined()

    def close(self) -> None:
        """Finish what is under way; where no container needs them, bridges and rules go (rows stay)."""
        self._firewall.close()
        remove_host_ends(self.left())
        if (self._made or self._ruled) and not any(endpoint.bridge for endpoint in self.endpoints()):
            self._clear_away()

    # Inside

    def _clear_away(self) -> None:
        """Remove bridges and rules from the machine; they are made again when they are needed."""
        self._firewall.remove()
        self._bridges.remove_all(self._networks.values())
        self._made.clear()
        self._ruled = False

    def _add_predefined(self) -> None:
        present = {network.name for network in self._networks.values()}
        drivers: tuple[tuple[str, Driver], ...] = (("bridge", "bridge"), ("host", "host"), ("none", "null"))
        for name, driver in drivers:
            if name in present:
                continue
            network = Network(
                id=secrets.token_hex(32), name=name, driver=driver, created=time.time_ns(), predefined=True
            )
            if driver == "bridge":
                bridge = self._bridges.pick(())
                pool = addresses.choose([*self._subnets(), *addresses.in_use_by_machine(bridge)])
                options = {"com.docker.network.bridge.default_bridge": "true", "com.docker.network.bridge.name": bridge}
                network = msgspec.structs.replace(network, bridge=bridge, pools=(pool,), options=options)
            self._store.add_network(network)
            self._networks[network.id] = network

    def _subnets(self) -> list[addresses.IPNetwork]:
        return [pool.network for network in self._networks.values() for pool in network.pools]

    def _pools(self, network_id: str, wanted: Sequence[Pool], ipv4: bool, ipv6: bool) -> tuple[Pool, ...]:
        """The pools of a new network: those asked for, else chosen ones."""
        versions = [version for version, enabled in ((4, ipv4), (6, ipv6)) if enabled]
        if not versions:
            raise InvalidArgument("IPv4 or IPv6 must be enabled")
        found: dict[int, Pool] = {}
        for pool in wanted:
            checked = addresses.check(pool)
            if checked.version in found:
                raise Forbidden("bridge driver doesn't support multiple subnets")
            if checked.version not in versions:
                raise InvalidArgument(
                    f"subnet {checked.subnet} needs IPv{checked.version} to be enabled for the network"
                )
            if any(checked.network.overlaps(other) for other in self._subnets()):
                raise Forbidden(f"Pool overlaps with other one on this address space: {checked.subnet}")
            found[checked.version] = checked
        taken = [*self._subnets(), *addresses.in_use_by_machine(), *(pool.network for pool in found.values())]
        if ipv4 and 4 not in found:
            found[4] = addresses.choose(taken)
        if ipv6 and 6 not in found:
            found[6] = addresses.choose_ipv6(network_id, taken)
        return tuple(found[version] for version in sorted(found))

    def _bridge_name(self, wanted: str) -> str:
        taken = [network.bridge for network in self._networks.values()]
        if wanted and wanted in taken:
            raise Conflict(f"bridge name {wanted} is used by another network")
        return wanted or self._bridges.pick(taken)

    def _drop(self, endpoint: Endpoint) -> None:
        self._store.remove_endpoint(endpoint)
        mine = self._endpoints[endpoint.container]
        del mine[endpoint.network]
        if not mine:
            del self._endpoints[endpoint.container]
        self._allocators.give_back(self._networks[endpoint.network], endpoint.taken)
        if endpoint.bridge:
            self._left.update(dict.fromkeys(endpoint.addresses, endpoint.host_name))

    def _forget(self, network: Network) -> None:
        self._store.remove_network(network)
        del self._networks[network.id]
        self._made.discard(network.id)
        self._allocators.forget(network)

    def _ensure(self, network: Network) -> Network:
        """See to it that a network's bridge and rules are there, also if somebody took them away."""
        if network.id in self._made and present(network.bridge):
            if not self._firewall.present():
                self._ruled = False
                self._rule()
            return network
        endpoints = self.endpoints(network=network.id)
        if network.predefined and not endpoints:
            network = self._settle(network)
        self._bridges.make(network, endpoints)
        self._made.add(network.id)
        self._rule()
        return network

    def _settle(self, network: Network) -> Network:
        """Before the default bridge is made: another subnet if the machine meanwhile uses the one it was to have."""
        pool = network.pools[0]
        machine = addresses.in_use_by_machine(network.bridge)
        if not any(pool.network.overlaps(other) for other in machine):
            return network
        others = [p.network for each in self._networks.values() if each.id != network.id for p in each.pools]
        network = msgspec.structs.replace(network, pools=(addresses.choose([*machine, *others]),))
        self._bridges.remove(network)
        self._store.add_network(network)
        self._networks[network.id] = network
        self._allocators.forget(network)
        if self._ruled:
            self._ruled = False
            self._rule()
        return network

    def _rule(self) -> None:
        """See to it that the firewall's table is there: made once in an engine's life, changed from then on."""
        if self._ruled:
            return
        self._firewall.rebuild(
            [network for network in self._networks.values() if network.bridge],
            [(endpoint, binding) for endpoint in self.endpoints() for binding in self._published.get(endpoint.id, [])],
        )
        self._ruled = True

    def _change(self, change: Callable[[], None]) -> None:
        """Change the table; where that fails (somebody flushed it) make it again as a whole."""
        if self._ruled:
            try:
                change()
                return
            except CapsaError:
                self._ruled = False
        self._rule()
