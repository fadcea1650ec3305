"""What a container was asked to be, in the words of the Docker Engine API ("Create a container").

`Create` is the body of ``POST /containers/create``; `Config` and `HostConfig` are also what is stored and what
inspection shows. A property that the API documents has a field here, so that it is honoured or refused by
`capsa.engine.validation`; any other property is refused unless it is empty, so that nothing is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args, get_origin

import msgspec

from capsa.errors import InvalidArgument

_SPELLING = {
    "ipam": "IPAM",
    "ip_range": "IPRange",
    "enable_ipv4": "EnableIPv4",
    "enable_ipv6": "EnableIPv6",
    "uts_mode": "UTSMode",
    "ipam_config": "IPAMConfig",
    "ipv4_address": "IPv4Address",
    "ipv6_address": "IPv6Address",
    "link_local_ips": "LinkLocalIPs",
    "network_id": "NetworkID",
    "endpoint_id": "EndpointID",
    "ip_address": "IPAddress",
    "ip_prefix_len": "IPPrefixLen",
    "ipv6_gateway": "IPv6Gateway",
    "global_ipv6_address": "GlobalIPv6Address",
    "global_ipv6_prefix_len": "GlobalIPv6PrefixLen",
    "dns_names": "DNSNames",
    "container_id_file": "ContainerIDFile",
    "io_maximum_iops": "IOMaximumIOps",
    "io_maximum_bandwidth": "IOMaximumBandwidth",
    "kernel_memory_tcp": "KernelMemoryTCP",
    "device_ids": "DeviceIDs",
    "blkio_device_read_iops": "BlkioDeviceReadIOps",
    "blkio_device_write_iops": "BlkioDeviceWriteIOps",
}


def spelling(name: str) -> str:
    """A field's name on the wire."""
    return _SPELLING.get(name) or "".join(part.title() for part in name.split("_"))


class Struct(msgspec.Struct, rename=spelling, kw_only=True):
    """Base of all: Pascal case on the wire, nothing left out."""


class Healthcheck(Struct):
    """A probe; times in nanoseconds, 0: inherit."""

    test: list[str] = []
    interval: int = 0
    timeout: int = 0
    retries: int = 0
    start_period: int = 0
    start_interval: int = 0


class Config(Struct):
    """The part of a container's configuration that does not depend on the host."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    exposed_ports: dict[str, Any] = {}
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    env: list[str] = []
    cmd: list[str] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    image: str = ""
    volumes: dict[str, Any] = {}
    working_dir: str = ""
    entrypoint: list[str] | None = None
    network_disabled: bool = False
    mac_address: str = ""
    on_build: list[str] = []
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: list[str] = []


class PortBinding(Struct):
    """Where a port is published; ``host_port`` may be empty (any) or a range (``8000-8010``)."""

    host_ip: str = msgspec.field(name="HostIp", default="")
    host_port: str = ""


class RestartPolicy(Struct):
    """``no``, ``always``, ``unless-stopped`` or ``on-failure``."""

    name: str = ""
    maximum_retry_count: int = 0


class LogConfig(Struct):
    """Where output goes: ``json-file`` or ``none``."""

    type: str = ""
    config: dict[str, str] = {}


class DeviceMapping(Struct):
    """A device of the host, given to the container."""

    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = "rwm"


class Ulimit(Struct):
    """A resource limit of processes."""

    name: str
    soft: int = 0
    hard: int = 0


class WeightDevice(Struct):
    """A device's share of input and output."""

    path: str
    weight: int = 0


class ThrottleDevice(Struct):
    """A device's limit, in bytes or operations a second."""

    path: str
    rate: int = 0


class BindOptions(Struct):
    """Options of a bind mount."""

    propagation: str = ""
    non_recursive: bool = False
    create_mountpoint: bool = False
    read_only_non_recursive: bool = False
    read_only_force_recursive: bool = False


class DriverConfig(Struct):
    """A volume driver with its options."""

    name: str = ""
    options: dict[str, str] = {}


class VolumeOptions(Struct):
    """Options of a volume mount."""

    no_copy: bool = False
    labels: dict[str, str] = {}
    driver_config: DriverConfig | None = None
    subpath: str = ""


class TmpfsOptions(Struct):
    """Options of a file system in memory; ``size_bytes`` 0: no limit of its own."""

    size_bytes: int = 0
    mode: int = 0
    options: list[list[str]] = []


class ImageOptions(Struct):
    """Options of an image that is mounted."""

    subpath: str = ""


class Mount(Struct):
    """A mount as ``--mount`` describes it."""

    type: str = ""
    source: str = ""
    target: str = ""
    read_only: bool = False
    consistency: str = ""
    bind_options: BindOptions | None = None
    volume_options: VolumeOptions | None = None
    tmpfs_options: TmpfsOptions | None = None
    image_options: ImageOptions | None = None
    cluster_options: dict[str, Any] | None = None


class HostConfig(Struct):
    """The part of a container's configuration that depends on the host."""

    binds: list[str] = []
    container_id_file: str = ""
    log_config: LogConfig = msgspec.field(default_factory=LogConfig)
    network_mode: str = ""
    port_bindings: dict[str, list[PortBinding]] = {}
    restart_policy: RestartPolicy = msgspec.field(default_factory=RestartPolicy)
    auto_remove: bool = False
    volume_driver: str = ""
    volumes_from: list[str] = []
    mounts: list[Mount] = []
    console_size: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    annotations: dict[str, str] = {}
    cap_add: list[str] = []
    cap_drop: list[str] = []
    cgroupns_mode: str = ""
    dns: list[str] = []
    dns_options: list[str] = []
    dns_search: list[str] = []
    extra_hosts: list[str] = []
    group_add: list[str] = []
    ipc_mode: str = ""
    cgroup: str = ""
    links: list[str] = []
    oom_score_adj: int = 0
    pid_mode: str = ""
    privileged: bool = False
    publish_all_ports: bool = False
    readonly_rootfs: bool = False
    security_opt: list[str] = []
    storage_opt: dict[str, str] = {}
    tmpfs: dict[str, str] = {}
    uts_mode: str = ""
    userns_mode: str = ""
    shm_size: int = 0
    sysctls: dict[str, str] = {}
    runtime: str = ""
    isolation: str = ""
    masked_paths: list[str] | None = None
    readonly_paths: list[str] | None = None

    cpu_shares: int = 0
    memory: int = 0
    nano_cpus: int = 0
    cgroup_parent: str = ""
    blkio_weight: int = 0
    blkio_weight_device: list[WeightDevice] = []
    blkio_device_read_bps: list[ThrottleDevice] = []
    blkio_device_write_bps: list[ThrottleDevice] = []
    blkio_device_read_iops: list[ThrottleDevice] = []
    blkio_device_write_iops: list[ThrottleDevice] = []
    cpu_period: int = 0
    cpu_quota: int = 0
    cpu_realtime_period: int = 0
    cpu_realtime_runtime: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    devices: list[DeviceMapping] = []
    device_cgroup_rules: list[str] = []
    device_requests: list[dict[str, Any]] = []
    kernel_memory: int = 0
    kernel_memory_tcp: int = 0
    memory_reservation: int = 0
    memory_swap: int = 0
    memory_swappiness: int | None = None
    oom_kill_disable: bool | None = None
    init: bool | None = None
    pids_limit: int | None = None
    ulimits: list[Ulimit] = []
    cpu_count: int = 0
    cpu_percent: int = 0
    io_maximum_iops: int = 0
    io_maximum_bandwidth: int = 0


class AddressConfig(Struct):
    """Addresses that were asked for."""

    ipv4_address: str = ""
    ipv6_address: str = ""
    link_local_ips: list[str] = []


class EndpointConfig(Struct):
    """How a container wants to be connected to one network. What only answers carry is accepted and means nothing."""

    ipam_config: AddressConfig | None = None
    links: list[str] = []
    aliases: list[str] = []
    mac_address: str = ""
    driver_opts: dict[str, str] = {}
    gw_priority: int = 0
    network_id: str = ""
    endpoint_id: str = ""
    gateway: str = ""
    ip_address: str = ""
    ip_prefix_len: int = 0
    ipv6_gateway: str = ""
    global_ipv6_address: str = ""
    global_ipv6_prefix_len: int = 0
    dns_names: list[str] = []


class NetworkingConfig(Struct):
    """The networks of a container, by name or id."""

    endpoints_config: dict[str, EndpointConfig] = {}


class Create(Config):
    """The body of ``POST /containers/create``. ``runtime``: where older clients put ``HostConfig.Runtime``."""

    runtime: str = ""
    host_config: HostConfig = msgspec.field(default_factory=HostConfig)
    networking_config: NetworkingConfig = msgspec.field(default_factory=NetworkingConfig)


#: Objects whose keys are the user's, so that a null is a value that was left empty.
_MAPS = {
    "EndpointsConfig": {},
    "PortBindings": [],
    "ExposedPorts": {},
    "Volumes": {},
    "Labels": "",
    "Options": "",
    "Annotations": "",
    "Sysctls": "",
    "Tmpfs": "",
}
_COMMANDS = ("Cmd", "Entrypoint", "Shell", "Test")
_FIELDS: dict[type[msgspec.Struct], dict[str, tuple[type[msgspec.Struct], int] | None]] = {}


def tidy(value: Any) -> Any:
    """A document as Go programs write it, without the nulls that stand for "not given".

    Raises `InvalidArgument` for numbers that the API has no room for.
    """
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidArgument(f"a number is out of range: it takes {value.bit_length()} bits, more than 64")
    if not isinstance(value, dict):
        return [tidy(item) for item in value] if isinstance(value, list) else value
    clean = {}
    for key, item in value.items():
        if item is None:
            continue
        if isinstance(item, dict):
            empty = _MAPS.get(key)
            if empty is None:
                item = tidy(item)
            else:
                item = {name: empty if entry is None else tidy(entry) for name, entry in item.items()}
        elif key in _COMMANDS and isinstance(item, str):
            item = [item]
        else:
            item = tidy(item)
        clean[key] = item
    return clean


def parse(document: Any, kind: type[msgspec.Struct], what: str) -> Any:
    """A decoded JSON object as a struct of ``kind``.

    Raises `InvalidArgument` for wrong types, and for a property that is not empty and that capsa does not know.
    """
    if not isinstance(document, dict):
        raise InvalidArgument(f"{what} has to be a JSON object")
    document = tidy(document)
    _refuse_unknown(document, kind, what)
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{what}: {error}") from error


def _refuse_unknown(document: dict[str, Any], kind: type[msgspec.Struct], what: str) -> None:
    known = _FIELDS.get(kind)
    if known is None:
        known = {field.encode_name: _nested(field.type) for field in msgspec.structs.fields(kind)}
        _FIELDS[kind] = known
    for key in document.keys() - known.keys():
        value = document.pop(key)
        name = next((name for name in known if name.lower() == key.lower()), "")
        if name:  # upper and lower case are one to Docker, and some clients rely on it
            document.setdefault(name, value)
        elif value:
            raise InvalidArgument(f"{what}: unknown property {key[:80]}")
    for key, value in document.items():
        nested = known[key]
        if nested is not None:
            for each in _structures(value, nested[1]):
                _refuse_unknown(each, nested[0], f"{what}.{key}")


def _nested(annotation: Any, depth: int = 0) -> tuple[type[msgspec.Struct], int] | None:
    """The struct that a property holds, and within how many lists and maps."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation, depth
    inside = depth + (get_origin(annotation) in (list, dict))
    return next((found for each in get_args(annotation) if (found := _nested(each, inside))), None)


def _structures(value: Any, depth: int) -> Iterator[dict[str, Any]]:
    if depth:
        entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        for each in entries:
            yield from _structures(each, depth - 1)
    elif isinstance(value, dict):
        yield value
