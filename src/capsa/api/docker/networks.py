"""``/networks`` (Docker Engine API, "Network")."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiohttp import web

from capsa.api.docker.call import Call, answer, nothing
from capsa.engine import networking
from capsa.engine.config import EndpointConfig, Struct, parse
from capsa.engine.times import parse as parse_time
from capsa.engine.times import rfc3339
from capsa.errors import Forbidden, InvalidArgument, NotFound, Unsupported

if TYPE_CHECKING:
    from capsa.api.docker.router import Router
    from capsa.network.model import Network


class Pool(Struct):
    """A subnet of ``IPAM.Config``."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: dict[str, str] = {}


class Ipam(Struct):
    """Address management."""

    driver: str = "default"
    config: list[Pool] = []
    options: dict[str, str] = {}


class Create(Struct):
    """The body of ``POST /networks/create``."""

    name: str = ""
    check_duplicate: bool = False
    driver: str = "bridge"
    scope: str = ""
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: dict[str, Any] = {}
    ipam: Ipam | None = None
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class Connect(Struct):
    """The body of ``POST /networks/ID/connect``."""

    container: str = ""
    endpoint_config: EndpointConfig | None = None


class Disconnect(Struct):
    """The body of ``POST /networks/ID/disconnect``."""

    container: str = ""
    force: bool = False


def routes(router: Router) -> None:
    """Serve them."""
    router.add("GET", "/networks", list_)
    router.add("POST", "/networks/create", create)
    router.add("POST", "/networks/prune", prune)
    router.add("GET", "/networks/{}", inspect)
    router.add("DELETE", "/networks/{}", remove)
    router.add("POST", "/networks/{}/connect", connect)
    router.add("POST", "/networks/{}/disconnect", disconnect)


def document(call: Call, network: Network, *, containers: bool) -> dict[str, Any]:
    """A network, as the API shows it."""
    found: dict[str, Any] = {
        "Name": network.name,
        "Id": network.id,
        "Created": rfc3339(network.created),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.ipv4,
        "EnableIPv6": network.ipv6,
        "IPAM": {
            "Driver": "default",
            "Options": None,
            "Config": [_pool(pool) for pool in network.pools],
        },
        "Internal": network.internal,
        "Attachable": network.attachable,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": network.options,
        "Labels": network.labels,
    }
    if containers:
        for endpoint in call.engine.networks.endpoints(network=network.id):
            if endpoint.container not in call.engine.containers:
                continue
            found["Containers"][endpoint.container] = {
                "Name": call.engine.containers.find(endpoint.container).name,
                "EndpointID": endpoint.id,
                "MacAddress": endpoint.mac,
                "IPv4Address": next((text for text in endpoint.addresses if ":" not in text), ""),
                "IPv6Address": next((text for text in endpoint.addresses if ":" in text), ""),
            }
    return found


def _pool(pool: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"Subnet": pool.subnet}
    if pool.range:
        found["IPRange"] = pool.range
    if pool.gateway:
        found["Gateway"] = pool.gateway
    if pool.auxiliary:
        found["AuxiliaryAddresses"] = pool.auxiliary
    return found


async def list_(call: Call) -> web.StreamResponse:
    """List networks."""
    filters = call.filters("dangling", "driver", "id", "label", "label!", "name", "scope", "type")
    filters.check("scope", lambda scope: scope in ("local", "global", "swarm"))
    dangling = filters.flag("dangling")
    filters.check("type", lambda kind: kind in ("builtin", "custom"))
    used = _used(call)
    found = []
    for network in call.engine.networks.all():
        kind = "builtin" if network.predefined else "custom"
        if dangling is not None and (network.predefined or dangling != (network.id not in used)):
            continue
        if (
            filters.exact("driver", network.driver)
            and filters.prefix("id", network.id)
            and filters.labels(network.labels)
            and filters.without(network.labels)
            and filters.match("name", network.name)
            and filters.exact("scope", "local")
            and filters.exact("type", kind)
        ):
            found.append(document(call, network, containers=call.version < (1, 28)))
    return answer(found)


def _used(call: Call) -> set[str]:
    """The ids of networks that containers are in or want to be in."""
    networks = call.engine.networks
    used = {endpoint.network for endpoint in networks.endpoints()}
    for container in call.engine.containers:
        for reference in container.document.endpoints:
            try:
                used.add(networks.get(reference).id)
            except NotFound:
                continue
    return used


async def inspect(call: Call) -> web.StreamResponse:
    """Inspect a network. What ``verbose`` adds are services, which only swarm has."""
    if call.query.get("scope", "local") not in ("", "local"):
        raise NotFound(f"network {call.name} not found")
    return answer(document(call, call.engine.networks.get(call.name), containers=True))


async def create(call: Call) -> web.StreamResponse:
    """Make a network."""
    from capsa.network.model import Pool as Wanted

    wanted: Create = parse(await call.json(), Create, "the network's configuration")
    if not wanted.name:
        raise InvalidArgument("the network has no Name")
    ipam = wanted.ipam or Ipam()
    if wanted.config_only or wanted.config_from or wanted.ingress or wanted.scope not in ("", "local"):
        raise Unsupported("ConfigOnly, ConfigFrom, Ingress and other scopes than local are not supported by capsa")
    if ipam.driver not in ("", "default"):
        raise NotFound(f'could not find plugin {ipam.driver} in v1 plugin registry: plugin "{ipam.driver}" not found')
    if ipam.options:
        raise Unsupported("options of the address management are not supported by capsa; leave them out")
    network = call.engine.networks.create(
        wanted.name,
        driver=wanted.driver or "bridge",
        pools=[
            Wanted(subnet=pool.subnet, range=pool.ip_range, gateway=pool.gateway, auxiliary=pool.auxiliary_addresses)
            for pool in ipam.config
        ],
        internal=wanted.internal,
        attachable=wanted.attachable,
        ipv4=wanted.enable_ipv4 or call.version < (1, 48),
        ipv6=wanted.enable_ipv6,
        labels=wanted.labels,
        options=wanted.options,
    )
    call.engine.events.network("create", network)
    return answer({"Id": network.id, "Warning": ""}, 201)


async def remove(call: Call) -> web.StreamResponse:
    """Remove a network that nobody is in; who has ended just now leaves it in a moment."""
    engine = call.engine

    def name_of(identity: str) -> str:
        return engine.containers.find(identity).name if identity in engine.containers else identity[:12]

    for endpoint in engine.networks.endpoints(network=engine.networks.get(call.name).id):
        if endpoint.container in engine.containers:
            container = engine.containers.find(endpoint.container)
            if not container.running:
                await engine.lifecycle.aftermath.cleaned(container)
    network = engine.networks.remove(call.name, name_of)
    call.engine.events.network("destroy", network)
    return nothing()


async def connect(call: Call) -> web.StreamResponse:
    """Connect a container with a network."""
    wanted: Connect = parse(await call.json(), Connect, "the connection")
    network = call.engine.networks.get(call.name)
    container = call.engine.containers.find(wanted.container)
    async with container.lock:
        await networking.connect_more(call.engine, container, network.name, wanted.endpoint_config or EndpointConfig())
    return nothing(200)


async def disconnect(call: Call) -> web.StreamResponse:
    """Disconnect a container from a network."""
    wanted: Disconnect = parse(await call.json(), Disconnect, "the connection")
    network = call.engine.networks.get(call.name)
    container = call.engine.containers.find(wanted.container)
    async with container.lock:
        await networking.disconnect(call.engine, container, network.name)
    return nothing(200)


async def prune(call: Call) -> web.StreamResponse:
    """Remove networks that no container is in."""
    filters = call.filters("label", "label!", "until")
    until = min((parse_time(text) for text in filters.get("until")), default=1 << 63)
    removed = []
    for network in call.engine.networks.all():
        if network.predefined or network.created > until:
            continue
        if filters.labels(network.labels) and filters.without(network.labels):
            await asyncio.sleep(0.01)  # the kernel takes several times that for a bridge, and others want answers, too
            if network.id in _used(call):
                continue
            with contextlib.suppress(NotFound, Forbidden):  # somebody was faster
                call.engine.networks.remove(network.id)
                call.engine.events.network("destroy", network)
                removed.append(network.name)
    return answer({"NetworksDeleted": removed or None})
