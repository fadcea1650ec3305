"""Containers as the Docker Engine API shows them: a line of the list, and the whole inspection."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from capsa.api.docker.versions import NEWEST
from capsa.engine import links, name_service, securityopt
from capsa.engine.config import HostConfig
from capsa.engine.container import Container, MountPoint
from capsa.engine.creation import warnings
from capsa.engine.networking import joined, published
from capsa.engine.spec import MASKED, READ_ONLY
from capsa.engine.times import NEVER, rfc3339
from capsa.errors import NotFound

if TYPE_CHECKING:
    from capsa.engine.engine import Engine
    from capsa.network.model import Endpoint

_NULLABLE = (
    "Binds",
    "CapAdd",
    "CapDrop",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "SecurityOpt",
    "Ulimits",
    "VolumesFrom",
)
_NO_NETWORK: dict[str, Any] = {
    "IPAMConfig": None,
    "Links": None,
    "Aliases": None,
    "MacAddress": "",
    "DriverOpts": None,
    "GwPriority": 0,
    "NetworkID": "",
    "EndpointID": "",
    "Gateway": "",
    "IPAddress": "",
    "IPPrefixLen": 0,
    "IPv6Gateway": "",
    "GlobalIPv6Address": "",
    "GlobalIPv6PrefixLen": 0,
    "DNSNames": None,
}


def summary(
    engine: Engine, container: Container, *, size: int = -1, now: int = 0, names: Sequence[str] = ()
) -> dict[str, Any]:
    """A line of ``GET /containers/json``.

    ``size``: bytes of the writable layer, if that was asked for; ``names``: what it is called by links to it.
    """
    document, state = container.document, container.state
    found: dict[str, Any] = {
        "Id": container.id,
        "Names": [f"/{container.name}", *names],
        "Image": document.image_name,
        "ImageID": document.image,
        "Command": container.command,
        "Created": document.created // 10**9,
        "Ports": port_list(engine, container),
        "Labels": document.config.labels,
        "State": state.status,
        "Status": container.describe(now or time.time_ns()),
        "HostConfig": {"NetworkMode": document.host.network_mode},
        "NetworkSettings": {"Networks": networks(engine, container)},
        "Mounts": [mount(point) for point in document.mounts if point.type != "tmpfs" or point.from_mounts],
    }
    if document.host.annotations:
        found["HostConfig"]["Annotations"] = document.host.annotations
    if size >= 0:
        found["SizeRw"] = size
        found["SizeRootFs"] = size + engine.images.resolve(document.image).size
    return found


def port_list(engine: Engine, container: Container) -> list[dict[str, Any]]:
    """Published and exposed ports, as the list shows them."""
    found: list[dict[str, Any]] = []
    mapped = set()
    if container.running and container.document.endpoints:
        for binding in published(engine, container):
            mapped.add(f"{binding.container_port}/{binding.protocol}")
            found.append(
                {
                    "IP": binding.host_ip,
                    "PrivatePort": binding.container_port,
                    "PublicPort": binding.host_port,
                    "Type": binding.protocol,
                }
            )
    if container.running:
        for text in container.config.exposed_ports:
            number, _slash, protocol = text.partition("/")
            if text not in mapped and number.isdigit():
                found.append({"PrivatePort": int(number), "Type": protocol})
    return found


def _port_map(engine: Engine, container: Container) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not container.running:
        return found
    for text in container.config.exposed_ports:
        found[text] = None
    if container.document.endpoints:
        for binding in published(engine, container):
            entries = found.get(f"{binding.container_port}/{binding.protocol}") or []
            entries.append({"HostIp": binding.host_ip, "HostPort": str(binding.host_port)})
            found[f"{binding.container_port}/{binding.protocol}"] = entries
    return found


def networks(engine: Engine, container: Container, version: tuple[int, int] = NEWEST) -> dict[str, Any]:
    """The networks that it is in, or will be when it runs, by name."""
    document = container.document
    mode = document.host.network_mode
    if not document.endpoints:
        return {} if joined(mode) else {mode: _NO_NETWORK}
    connected = {endpoint.network: endpoint for endpoint in container.endpoints}
    found: dict[str, Any] = {}
    for reference, wish in document.endpoints.items():
        try:
            network = engine.networks.get(reference)
        except NotFound:
            found[reference] = _NO_NETWORK
            continue
        entry = dict(_NO_NETWORK)
        entry["Aliases"] = wish.aliases or None
        entry["Links"] = wish.links or None
        entry["GwPriority"] = wish.gw_priority
        entry["NetworkID"] = network.id
        entry["MacAddress"] = wish.mac_address
        if wish.ipam_config is not None:
            wished = msgspec.to_builtins(wish.ipam_config)
            entry["IPAMConfig"] = {key: value for key, value in wished.items() if value}
        entry["DriverOpts"] = wish.driver_opts or None
        entry["Links"] = wish.links or None
        endpoint = connected.get(network.id)
        if endpoint is not None:
            entry.update(_addresses(endpoint))
            if name_service.wanted(network):
                entry["DNSNames"] = name_service.names(container, wish)
                if version < (1, 45):  # before there were DNSNames
                    entry["Aliases"] = list(dict.fromkeys((*wish.aliases, container.id[:12])))
        found[network.name] = entry
    return found


def _addresses(endpoint: Endpoint) -> dict[str, Any]:
    address, length = endpoint.address(4)
    address6, length6 = endpoint.address(6)
    return {
        "EndpointID": endpoint.id,
        "Gateway": endpoint.gateway(4),
        "IPAddress": address,
        "IPPrefixLen": length,
        "IPv6Gateway": endpoint.gateway(6),
        "GlobalIPv6Address": address6,
        "GlobalIPv6PrefixLen": length6,
        "MacAddress": endpoint.mac,
    }


def mount(point: MountPoint) -> dict[str, Any]:
    """A mount, as the list and the inspection show it."""
    found: dict[str, Any] = {
        "Type": point.type,
        "Source": point.source,
        "Destination": point.destination,
        "Mode": point.mode,
        "RW": point.writable,
        "Propagation": point.propagation or ("rprivate" if point.type == "bind" else ""),
    }
    if point.type == "volume":
        found["Name"] = point.name
        found["Driver"] = point.driver
    return found


def inspection(
    engine: Engine, container: Container, version: tuple[int, int] = NEWEST, *, size: int = -1
) -> dict[str, Any]:
    """``GET /containers/ID/json``; ``size``: bytes of the writable layer, if that was asked for."""
    document, state = container.document, container.state
    bundle = container.bundle
    settings: dict[str, Any] = {
        "Bridge": "",
        "SandboxID": container.id if container.running else "",
        "SandboxKey": f"/proc/{state.pid}/ns/net" if container.running else "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "Ports": _port_map(engine, container),
        "Networks": networks(engine, container, version),
    }
    main = settings["Networks"].get("bridge", _NO_NETWORK)
    for name in (
        "EndpointID",
        "Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "MacAddress",
    ):
        settings[name] = main[name]
    config = msgspec.to_builtins(document.config)
    for name in ("ExposedPorts", "Volumes", "OnBuild", "Shell"):
        if not config[name]:
            config[name] = None
    for name in ("ExposedPorts", "Shell", "StopSignal", "StopTimeout", "Healthcheck", "NetworkDisabled", "MacAddress"):
        if not config[name]:
            del config[name]
    found: dict[str, Any] = {
        "Id": container.id,
        "Created": rfc3339(document.created),
        "Path": document.path,
        "Args": document.args,
        "State": _state(container),
        "Image": document.image,
        "ResolvConfPath": str(bundle / "resolv.conf"),
        "HostnamePath": str(bundle / "hostname"),
        "HostsPath": str(bundle / "hosts"),
        "LogPath": str(container.log_path) if container.host.log_config.type == "json-file" else "",
        "Name": f"/{container.name}",
        "RestartCount": state.restart_count,
        "Driver": "overlay2",
        "Platform": document.platform,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": [each.id for each in container.execs.values() if each.exit_code is None] or None,
        "HostConfig": _host(engine, container),
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {
                "LowerDir": ":".join(str(path) for path in reversed(engine.images.layers(document.image))),
                "UpperDir": str(bundle / "upper"),
                "WorkDir": str(bundle / "work"),
            },
        },
        "Mounts": [mount(point) for point in document.mounts if point.type != "tmpfs" or point.from_mounts],
        "Config": config,
        "NetworkSettings": settings,
    }
    if size >= 0:
        found["SizeRw"] = size
        found["SizeRootFs"] = size + engine.images.resolve(document.image).size
    return found


def _host(engine: Engine, container: Container) -> dict[str, Any]:
    host = container.host
    found: dict[str, Any] = msgspec.to_builtins(host)
    if host.links:
        found["Links"] = links.documents(engine, container)
    for name in ("Mounts", "Tmpfs", "Sysctls", "StorageOpt", "Annotations", "Init"):
        if not found[name]:
            del found[name]
    for name in _NULLABLE:
        found[name] = found[name] or None
    if not securityopt.open_system_paths(host):
        for name, default in (("MaskedPaths", MASKED), ("ReadonlyPaths", READ_ONLY)):
            if found[name] is None:
                found[name] = list(default)
    return found


def _state(container: Container) -> dict[str, Any]:
    state = container.state
    found: dict[str, Any] = {
        "Status": state.status,
        "Running": container.active,
        "Paused": state.status == "paused",
        "Restarting": state.status == "restarting",
        "OOMKilled": state.out_of_memory,
        "Dead": state.status == "dead",
        "Pid": state.pid,
        "ExitCode": state.exit_code,
        "Error": state.error,
        "StartedAt": rfc3339(state.started_at) if state.started_at else NEVER,
        "FinishedAt": rfc3339(state.finished_at) if state.finished_at else NEVER,
    }
    if container.health is not None:
        found["Health"] = container.health.document()
    return found


def update_warnings(host: HostConfig) -> list[str]:
    """What was accepted and may surprise."""
    return warnings(host)
