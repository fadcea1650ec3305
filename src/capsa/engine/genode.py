"""Containers of Genode images: what of a container's configuration means something there, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capsa.engine.config import Config, EndpointConfig, HostConfig
from capsa.errors import InvalidArgument, Unsupported

if TYPE_CHECKING:
    from capsa.engine.container import Document

OS = "genode"
PREFIX = "org.genode."
NAME_SERVERS = "org.capsa.dns"
_DEFAULT = ("default", "bridge", "")


def native(document: Document) -> bool:
    """Whether it is a container for Genode."""
    return document.platform == OS


def check(config: Config, host: HostConfig, endpoints: dict[str, EndpointConfig]) -> None:
    """Raises `Unsupported` for what Genode lacks, rather than to ignore it.

    Components that do not say that they use a network are not in the default one.
    """
    for flag, given in (("--tty", config.tty), ("--interactive", config.open_stdin)):
        if given and "Terminal" not in _services(config):
            raise Unsupported(
                f"{flag} means nothing on Genode to a component that does not ask for a terminal: leave it out, or "
                "let it ask (org.genode.services=Terminal)"
            )
    wanted = {
        "--user": config.user not in ("", "0", "root", "0:0", "root:root"),
        "--privileged": host.privileged,
        "--cap-add": bool(host.cap_add),
        "--device": bool(host.devices or host.device_cgroup_rules or host.device_requests),
        "--pid": host.pid_mode not in ("",),
        "--init": bool(host.init),
        "--link": bool(host.links),
        "--add-host": bool(host.extra_hosts),
        "--dns-search": bool(host.dns_search),
        "--dns-option": bool(host.dns_options),
        "--ulimit": bool(host.ulimits),
        "--sysctl": bool(host.sysctls),
        "--pids-limit": bool(host.pids_limit and host.pids_limit > 0),
        "--cpus": bool(host.nano_cpus or host.cpu_quota or host.cpu_shares),
        "--cpuset-cpus": bool(host.cpuset_cpus or host.cpuset_mems),
        "--blkio-weight": bool(host.blkio_weight),
        "--tmpfs": bool(host.tmpfs),
        "--health-cmd": config.healthcheck is not None and config.healthcheck.test[:1] not in ([], ["NONE"]),
        "--security-opt": bool(host.security_opt),
    }
    for flag, given in wanted.items():
        if given:
            raise Unsupported(f"{flag} means nothing on Genode: leave it out for a Genode image")
    mode = host.network_mode
    if mode == "host" or mode.startswith("container:"):
        raise InvalidArgument(f"a container on Genode cannot share the network of {mode}: name one to be in, or none")
    if mode in _DEFAULT and not _uses_network(config, host):
        host.network_mode = "none"
        for name in _DEFAULT:
            endpoints.pop(name, None)
    for settings in endpoints.values():
        check_endpoint(settings)


def _uses_network(config: Config, host: HostConfig) -> bool:
    return "Nic" in _services(config) or bool(host.port_bindings) or host.publish_all_ports


def _services(config: Config) -> list[str]:
    return config.labels.get("org.genode.services", "").replace(",", " ").split()


def check_endpoint(settings: EndpointConfig) -> None:
    """Raises `Unsupported` for what a component cannot have in a network."""
    asked = settings.ipam_config
    if asked is not None and asked.ipv6_address:
        raise Unsupported("Genode's nic_router knows no IPv6: give the container an IPv4 address only")
    if asked is not None and asked.link_local_ips:
        raise Unsupported("a component on Genode has one address in a network: leave --link-local-ip out")
    if "com.docker.network.endpoint.sysctls" in settings.driver_opts:
        raise Unsupported("Genode has no sysctls: leave them out of the endpoint's options")


def settings(config: Config, host: HostConfig) -> dict[str, str]:
    """The settings ``org.genode.*``, from the labels of image and container, and the name servers to use."""
    from capsa.network.names import resolv_conf

    lines = resolv_conf(servers=host.dns).splitlines()
    servers = [line.split()[1] for line in lines if line.startswith("nameserver ") and ":" not in line]
    found = {name: value for name, value in config.labels.items() if name.startswith(PREFIX)}
    return {**found, NAME_SERVERS: " ".join(servers)}
