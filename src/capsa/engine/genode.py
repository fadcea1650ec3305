"""Containers of Genode images: what of a container's configuration means something there, and what is refused."""

from __future__ import annotations

from capsa.engine.config import Config, EndpointConfig, HostConfig
from capsa.errors import InvalidArgument, Unsupported

OS = "genode"
PREFIX = "org.genode."
_DEFAULT = ("default", "bridge", "")


def check(config: Config, host: HostConfig, endpoints: dict[str, EndpointConfig]) -> None:
    """Raises `Unsupported` for what Genode lacks, rather than to ignore it; the default network becomes none."""
    wanted = {
        "--tty": config.tty,
        "--interactive": config.open_stdin,
        "--user": config.user not in ("", "0", "root", "0:0", "root:root"),
        "--privileged": host.privileged,
        "--cap-add": bool(host.cap_add),
        "--device": bool(host.devices or host.device_cgroup_rules or host.device_requests),
        "--pid": host.pid_mode not in ("",),
        "--init": bool(host.init),
        "--link": bool(host.links),
        "--ulimit": bool(host.ulimits),
        "--sysctl": bool(host.sysctls),
        "--pids-limit": bool(host.pids_limit and host.pids_limit > 0),
        "--cpus": bool(host.nano_cpus or host.cpu_quota or host.cpu_shares),
        "--cpuset-cpus": bool(host.cpuset_cpus or host.cpuset_mems),
        "--blkio-weight": bool(host.blkio_weight),
        "--tmpfs": bool(host.tmpfs),
        "--health-cmd": config.healthcheck is not None and config.healthcheck.test[:1] not in ([], ["NONE"]),
        "--publish": bool(host.port_bindings or host.publish_all_ports),
        "--security-opt": bool(host.security_opt),
    }
    for flag, given in wanted.items():
        if given:
            raise Unsupported(f"{flag} means nothing on Genode: leave it out for a Genode image")
    if host.network_mode in _DEFAULT:
        host.network_mode = "none"
        for name in _DEFAULT:
            endpoints.pop(name, None)
    if endpoints:
        raise InvalidArgument(f"a container on Genode cannot join the network {next(iter(endpoints))}: it has none yet")
    if host.network_mode != "none":
        raise InvalidArgument(f"a container on Genode cannot join the network {host.network_mode}: use --network none")


def settings(config: Config) -> dict[str, str]:
    """The settings ``org.genode.*``, from the labels of image and container."""
    return {name: value for name, value in config.labels.items() if name.startswith(PREFIX)}
