"""What a container may ask for: every property is meant, or refused in one sentence.

`check` looks at values only; what needs the image, other containers or networks is checked where those are used.
"""

from __future__ import annotations

import ipaddress
import re
import signal
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from capsa.engine import endpoint, limits, logdriver, securityopt
from capsa.engine.config import BindOptions, Config, Create, HostConfig, Mount, spelling
from capsa.engine.spec import CAPABILITIES, capability_name
from capsa.errors import InvalidArgument, Unsupported

_HOSTNAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9])?|[a-zA-Z0-9]", re.ASCII)
_SYSCTL = re.compile(r"[a-z0-9_]+([./][a-zA-Z0-9_*-]+)+", re.ASCII)
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?/(tcp|udp|sctp)", re.ASCII)
_PROPAGATIONS = frozenset({"", "private", "rprivate", "shared", "rshared", "slave", "rslave"})
_SYSCTL_OF_IPC = frozenset(
    f"kernel.{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_SIGNALS = {item.name.removeprefix("SIG"): item.value for item in signal.Signals}


def signal_number(text: str) -> int:
    """``TERM``, ``SIGTERM``, ``15`` or ``RTMIN+3`` as a number; raises `InvalidArgument`."""
    name = text.upper().removeprefix("SIG")
    if len(name) < 4 and name.isascii() and name.isdigit() and 0 < int(name) <= signal.SIGRTMAX:
        return int(name)
    found = _SIGNALS.get(name)
    if found is not None:
        return found
    real_time = re.fullmatch(r"RT(MIN|MAX)([+-])(\d{1,2})", name)
    if real_time:
        base = signal.SIGRTMIN if real_time[1] == "MIN" else signal.SIGRTMAX
        number = base + int(real_time[2] + real_time[3])
        if signal.SIGRTMIN <= number <= signal.SIGRTMAX:
            return number
    raise InvalidArgument(f"Invalid signal: {text[:40]}")


def port(text: str) -> tuple[range, str]:
    """``80/tcp`` or ``8000-8010/udp`` (without a protocol: tcp); raises `InvalidArgument`."""
    found = _PORT.fullmatch(text if "/" in text else f"{text}/tcp")
    if found:
        first, last = int(found[1]), int(found[2] or found[1])
        if 0 < first <= last < 65536:
            return range(first, last + 1), found[3]
    raise InvalidArgument(f"invalid port specification: {text!r} (a number or range up to 65535, then /tcp or /udp)")


def link(text: str) -> tuple[str, str]:
    """Container and alias of ``NAME`` or ``NAME:ALIAS``, also as inspection shows it; raises `InvalidArgument`."""
    name, _, alias = text.partition(":")
    name, alias = name.removeprefix("/"), alias.rpartition("/")[2]
    if not name or text.count(":") > 1 or any(character.isspace() for character in text):
        raise InvalidArgument(f"bad format for links: {text}")
    return name, alias or name


def host_port(text: str) -> range:
    """``8080``, ``8000-8010`` or nothing (any); raises `InvalidArgument`."""
    if not text or text == "0":
        return range(0, 0)
    first, _dash, last = text.partition("-")
    try:
        ports = range(int(first), int(last or first) + 1)
    except ValueError:
        ports = range(0, 0)
    if not ports or ports[0] < 1 or ports[-1] > 65535:
        raise InvalidArgument(f"invalid port specification: {text!r}")
    return ports


def check(wanted: Create) -> None:
    """Raises `InvalidArgument` or `Unsupported` for what cannot be meant or cannot be done."""
    check_config(wanted)
    host = wanted.host_config
    _plain(wanted, host)
    _modes(host)
    limits.check(host)
    _security(host)
    _network(wanted, host)
    for item in (*host.mounts,):
        _mount(item)
    for path in (*host.tmpfs, *wanted.volumes):
        absolute(path, "invalid mount path: {0!r} mount path must be absolute")


def check_config(config: Config) -> None:
    """The part that images have, too."""
    if config.hostname and not (_HOSTNAME.fullmatch(config.hostname) and len(config.hostname) <= 64):
        raise InvalidArgument(f"invalid hostname format: {config.hostname}")
    if config.domainname and len(config.domainname) > 64:
        raise InvalidArgument(f"the domain name {config.domainname} is longer than 64 characters")
    for entry in config.env:
        if not entry or entry.startswith("="):
            raise InvalidArgument(f"invalid environment variable: {entry}")
        if "\0" in entry:
            raise InvalidArgument("an environment variable contains a null character")
    if config.working_dir and "\0" in config.working_dir:
        raise InvalidArgument("the working directory contains a null character")
    if config.working_dir and not config.working_dir.startswith("/"):
        raise InvalidArgument(
            f"the working directory '{config.working_dir}' is invalid, it needs to be an absolute path"
        )
    if config.stop_signal:
        signal_number(config.stop_signal)
    for text in config.exposed_ports:
        port(text)
    if config.healthcheck is not None:
        _health(config)
    for argument in (*(config.entrypoint or ()), *(config.cmd or ())):
        if "\0" in argument:
            raise InvalidArgument("the command contains a null character")


def _health(config: Config) -> None:
    probe = config.healthcheck
    assert probe is not None
    if probe.test and probe.test[0] not in ("NONE", "CMD", "CMD-SHELL"):
        raise InvalidArgument(f"Unknown healthcheck type {probe.test[0]!r} (expected 'CMD', 'CMD-SHELL' or 'NONE')")
    for name, value in (
        ("Interval", probe.interval),
        ("Timeout", probe.timeout),
        ("StartPeriod", probe.start_period),
        ("StartInterval", probe.start_interval),
    ):
        if value and value < 10**6:
            raise InvalidArgument(f"{name} in Healthcheck cannot be less than 1ms")
    if probe.retries < 0:
        raise InvalidArgument("Retries in Healthcheck cannot be negative")


def _plain(wanted: Create, host: HostConfig) -> None:
    refused = {
        "HostConfig.StorageOpt": bool(host.storage_opt),
        "HostConfig.DeviceRequests": bool(host.device_requests),
        "HostConfig.KernelMemory": host.kernel_memory not in (0, -1),
        "HostConfig.KernelMemoryTCP": host.kernel_memory_tcp not in (0, -1),
        "HostConfig.Cgroup": bool(host.cgroup),
        "HostConfig.Isolation": host.isolation not in ("", "default"),
        "HostConfig.CpuCount": host.cpu_count != 0,
        "HostConfig.CpuPercent": host.cpu_percent != 0,
        "HostConfig.IOMaximumIOps": host.io_maximum_iops != 0,
        "HostConfig.IOMaximumBandwidth": host.io_maximum_bandwidth != 0,
        "HostConfig.UsernsMode": host.userns_mode not in ("", "host"),
    }
    for name, value in refused.items():
        if value:
            raise Unsupported(f"{name} is not supported by capsa; leave it out")
    if host.runtime not in ("", "capsa", "runc", "io.containerd.runc.v2"):
        raise InvalidArgument(f"unknown or invalid runtime name: {host.runtime}")
    logdriver.check(host.log_config)
    check_restart(host)
    if "" in host.annotations:
        raise InvalidArgument("invalid Annotations: the empty string is not permitted as an annotation key")
    if ".." in host.cgroup_parent.split("/") or "\0" in host.cgroup_parent:
        raise InvalidArgument(f"invalid cgroup parent: {host.cgroup_parent!r} (write it like /NAME)")
    if len(host.console_size) != 2 or any(not 0 <= value < 65536 for value in host.console_size):
        raise InvalidArgument("ConsoleSize has to be two numbers, height and width")


def check_restart(host: HostConfig) -> None:
    """The restart policy; raises `InvalidArgument`."""
    policy = host.restart_policy
    if policy.name not in ("", "no", "always", "unless-stopped", "on-failure"):
        raise InvalidArgument(
            f"invalid restart policy: unknown policy '{policy.name}'; use one of 'no', 'always', 'on-failure', "
            "or 'unless-stopped'"
        )
    if policy.maximum_retry_count and policy.name != "on-failure":
        raise InvalidArgument("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if policy.maximum_retry_count < 0:
        raise InvalidArgument("invalid restart policy: maximum retry count cannot be negative")
    if host.auto_remove and policy.name not in ("", "no"):
        raise InvalidArgument("can't create 'AutoRemove' container with restart policy")


def _modes(host: HostConfig) -> None:
    for name, mode, known in (
        ("PID", host.pid_mode, ("", "private", "host")),
        ("IPC", host.ipc_mode, ("", "private", "host", "none", "shareable")),
        ("UTS", host.uts_mode, ("", "private", "host")),
        ("cgroup namespace", host.cgroupns_mode, ("", "private", "host")),
    ):
        other = mode.partition(":")
        if mode in known or (name in ("PID", "IPC") and other[0] == "container" and other[2]):
            continue
        raise InvalidArgument(f"invalid {name} mode: {mode}")
    if host.shm_size and host.ipc_mode not in ("", "private"):
        raise InvalidArgument(f"ShmSize cannot be set with the IPC mode {host.ipc_mode}, which shares /dev/shm")
    if host.shm_size < 0:
        raise InvalidArgument("SHM size can not be less than 0")


def _security(host: HostConfig) -> None:
    for name in (*host.cap_add, *host.cap_drop):
        if capability_name(name) not in (*CAPABILITIES, "ALL"):
            raise InvalidArgument(f"invalid capability: unknown capability: {capability_name(name)!r}")
    for option in host.security_opt:
        securityopt.check(option)
    for name in host.sysctls:
        dotted = name.replace("/", ".")
        if not _SYSCTL.fullmatch(name):
            raise InvalidArgument(f"sysctl {name!r} is not a name")
        if dotted.startswith("net."):
            if host.network_mode == "host" or host.network_mode.startswith("container:"):
                raise InvalidArgument(
                    f"sysctl {name!r} is not allowed as the network namespace is not the container's own"
                )
        elif dotted in _SYSCTL_OF_IPC or dotted.startswith("fs.mqueue."):
            if host.ipc_mode == "host" or host.ipc_mode.startswith("container:"):
                raise InvalidArgument(f"sysctl {name!r} is not allowed as the ipc namespace is not the container's own")
        elif dotted in ("kernel.hostname", "kernel.domainname"):
            if host.uts_mode == "host":
                raise InvalidArgument(f"sysctl {name!r} is not allowed as the uts namespace is not the container's own")
        else:
            raise InvalidArgument(f"sysctl {name!r} is not in a separate kernel namespace")
    for path in (*(host.masked_paths or ()), *(host.readonly_paths or ())):
        absolute(path, "masked and read-only paths have to be absolute: {0!r}")


def _network(wanted: Create, host: HostConfig) -> None:
    mode = host.network_mode
    joined = mode == "host" or mode.startswith("container:")
    if mode == "container:":
        raise InvalidArgument("invalid network mode: container: (write it like container:NAME)")
    if mode.startswith("container:") and (wanted.hostname or host.dns or host.extra_hosts or host.port_bindings):
        what = "hostname" if wanted.hostname else "dns" if host.dns else "hosts" if host.extra_hosts else "ports"
        raise InvalidArgument(f"conflicting options: {what} and the network mode")
    if joined or mode == "none":
        _no_endpoint(wanted, mode)
    if host.uts_mode == "host" and wanted.hostname:
        raise InvalidArgument("conflicting options: hostname and the UTS mode")
    for text, bindings in host.port_bindings.items():
        inside, _protocol = port(text)
        for binding in bindings:
            outside = host_port(binding.host_port)
            if len(inside) > 1 and outside and len(outside) != len(inside):
                raise InvalidArgument(f"invalid port range: {binding.host_port} has not as many ports as {text}")
            if binding.host_ip:
                _address(binding.host_ip, "invalid IP address in a port mapping")
    for address in host.dns:
        _address(address, "bad nameserver address")
    for entry in host.extra_hosts:
        name, colon, address = entry.partition(":") if "=" not in entry.partition(":")[0] else entry.partition("=")
        if not name or not colon or not address:
            raise InvalidArgument(f"bad format for add-host: {entry!r}")
        if address != "host-gateway":
            _address(address.strip("[]"), "invalid IP address in add-host")
    mac_address(wanted.mac_address)
    for name, settings in wanted.networking_config.endpoints_config.items():
        try:
            endpoint.check(settings)
        except InvalidArgument as error:
            raise InvalidArgument(f"invalid config for network {name}: {error}") from error


def _no_endpoint(wanted: Create, mode: str) -> None:
    """Without a network of its own a container has no addresses and names on one."""
    endpoints = wanted.networking_config.endpoints_config
    if endpoints.keys() - {mode}:
        raise InvalidArgument(f"conflicting options: the network mode {mode} and other networks")
    settings = endpoints.get(mode)
    addresses = settings.ipam_config if settings else None
    if addresses and (addresses.ipv4_address or addresses.ipv6_address or addresses.link_local_ips):
        raise InvalidArgument("user specified IP address is supported on user defined networks only")
    if settings and (settings.aliases or settings.links):
        raise InvalidArgument("network-scoped alias is supported only for containers in user defined networks")
    if wanted.mac_address or (settings and settings.mac_address):
        raise InvalidArgument("conflicting options: mac-address and the network mode")


def mac_address(text: str) -> None:
    """Raises `InvalidArgument` for what is not an Ethernet address."""
    if text and not re.fullmatch(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}", text):
        raise InvalidArgument(f"{text} is not a valid mac address")


def _address(text: str, what: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise InvalidArgument(f"{what}: {text}") from None


def absolute(path: str, message: str) -> str:
    """A normalised absolute path; raises `InvalidArgument` with ``message`` (``{0}`` is the path)."""
    if "\0" in path:
        raise InvalidArgument(f"the path {path[:80]!r} contains a null character")
    if not path.startswith("/"):
        raise InvalidArgument(message.format(path))
    parts: list[str] = []
    for part in PurePosixPath(path).parts[1:]:
        if part == "..":
            parts[-1:] = []
        else:
            parts.append(part)
    return "/" + "/".join(parts)


def _mount(item: Mount) -> None:
    def wrong(why: str) -> InvalidArgument:
        return InvalidArgument(f'invalid mount config for type "{item.type}": {why}')

    if item.type in ("npipe", "cluster"):
        raise Unsupported(f"mounts of type {item.type} are not supported by capsa; use bind, volume, image or tmpfs")
    if item.type not in ("bind", "volume", "tmpfs", "image"):
        raise wrong("mount type unknown")
    if not item.target:
        raise wrong("field Target must not be empty")
    if absolute(item.target, "invalid mount path: {0!r} mount path must be absolute") == "/":
        raise wrong("invalid specification: destination can't be '/'")
    for name in ("bind", "volume", "tmpfs", "image", "cluster"):
        if name != item.type and getattr(item, f"{name}_options") is not None:
            raise wrong(f"field {name.title()}Options must not be specified")
    if item.consistency not in ("", "default", "consistent", "cached", "delegated"):
        raise wrong(f"unknown consistency: {item.consistency}")
    if item.type == "bind":
        if not item.source:
            raise wrong("field Source must not be empty")
        absolute(
            item.source, 'invalid mount config for type "bind": invalid mount path: {0!r} mount path must be absolute'
        )
        if item.bind_options is not None:
            _bind_options(item, item.bind_options, wrong)
    if item.type == "volume" and item.volume_options is not None and item.volume_options.subpath:
        if not item.source:
            raise wrong("must not set Subpath when using anonymous volumes")
        _subpath(item.volume_options.subpath, wrong)
    if item.type == "image":
        if not item.source:
            raise wrong("field Source must not be empty")
        if item.image_options is not None and item.image_options.subpath:
            _subpath(item.image_options.subpath, wrong)
    if item.type == "tmpfs":
        if item.source:
            raise wrong("field Source must not be specified")
        options = item.tmpfs_options
        if options is not None and (options.size_bytes < 0 or not 0 <= options.mode <= 0o7777):
            raise wrong("the size or the mode is out of range")
        if options is not None and any(not 1 <= len(each) <= 2 for each in options.options):
            raise wrong("invalid option array length")


def _subpath(path: str, wrong: Callable[[str], InvalidArgument]) -> None:
    depth = 0
    for part in path.split("/"):
        depth += {"": 0, ".": 0, "..": -1}.get(part, 1)
        if depth < 0:
            break
    if path.startswith("/") or depth < 0 or "\0" in path:
        raise wrong("subpath must be a relative path within the volume")


def _bind_options(item: Mount, options: BindOptions, wrong: Callable[[str], InvalidArgument]) -> None:
    if options.propagation not in _PROPAGATIONS:
        raise wrong(f"invalid propagation mode: {options.propagation}")
    if options.read_only_non_recursive and options.read_only_force_recursive:
        raise wrong("ReadOnlyNonRecursive and ReadOnlyForceRecursive exclude each other")
    for name in ("read_only_non_recursive", "read_only_force_recursive"):
        if getattr(options, name) and not item.read_only:
            raise wrong(f"{spelling(name)} needs a mount that is ReadOnly")


def propagations() -> Iterable[str]:
    """The mount propagations that a bind mount may name."""
    return _PROPAGATIONS - {""}
