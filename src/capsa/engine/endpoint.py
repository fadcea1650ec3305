"""What clients say about a container's place in a network (``EndpointSettings`` of the Docker Engine API)."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from capsa.engine.config import EndpointConfig
from capsa.errors import InvalidArgument

if TYPE_CHECKING:
    from capsa.network.endpoint import Wish
    from capsa.network.model import Network

SYSCTLS = "com.docker.network.endpoint.sysctls"
IFNAME = "com.docker.network.endpoint.ifname"
_SYSCTL = re.compile(r"net\.(ipv4|ipv6|mpls)\.([a-z]+)\.(?:IFNAME|ifname)\.([a-zA-Z0-9_]+)=([^\0\n]{1,256})", re.ASCII)
_INTERFACE = re.compile(r"[^\s/:]{1,15}")
_MAC = re.compile(r"([0-9a-fA-F]{2}[:-]){5}[0-9a-fA-F]{2}")


def check(settings: EndpointConfig) -> None:
    """Raises `InvalidArgument`, in Docker's words, for what cannot be meant in any network."""
    wrong: list[str] = []
    if settings.mac_address and not _MAC.fullmatch(settings.mac_address):
        raise InvalidArgument(f"{settings.mac_address} is not a valid mac address")
    asked = settings.ipam_config
    if asked is not None:
        if asked.ipv4_address and not _is(asked.ipv4_address, 4):
            wrong.append(f"invalid IPv4 address: {asked.ipv4_address}")
        if asked.ipv6_address and not _is(asked.ipv6_address, 6):
            wrong.append(f"invalid IPv6 address: {asked.ipv6_address}")
        wrong += [f"invalid link-local IP address: {text}" for text in asked.link_local_ips if not _is(text, 4, 6)]
    for key, value in settings.driver_opts.items():
        match key:
            case "com.docker.network.endpoint.sysctls":
                wrong += [
                    f"unrecognised network interface sysctl '{each}'; represent 'net.X.Y.ethN.Z=V' as "
                    "'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
                    for each in value.split(",")
                    if not _SYSCTL.fullmatch(each)
                ]
            case "com.docker.network.endpoint.ifname":
                if not _INTERFACE.fullmatch(value) or value in (".", "..", "lo", "all", "default"):
                    wrong.append(f"invalid interface name {value!r}: 1 to 15 characters without '/', ':' and spaces")
            case _ if key.startswith("com.docker.network."):  # others are the client's own: kept, and shown like labels
                wrong.append(f"unknown driver option {key!r} of an endpoint: leave it out")
    if not -(2**31) <= settings.gw_priority < 2**31:
        wrong.append(f"GwPriority {settings.gw_priority} is out of range: it has 32 bits")
    if wrong:
        raise InvalidArgument("invalid endpoint settings:\n" + "\n".join(wrong))


def check_fits(settings: EndpointConfig, network: Network) -> None:
    """Raises `InvalidArgument`, in Docker's words, for what cannot be in this network."""
    asked = settings.ipam_config
    addresses = [text for text in (asked.ipv4_address, asked.ipv6_address) if text] if asked is not None else []
    wrong = []
    if network.predefined:
        if addresses:
            wrong.append("user-specified IP address is supported on user-defined networks only")
        if settings.aliases:
            wrong.append("network-scoped aliases are only supported for user-defined networks")
    for text in addresses:
        address = ipaddress.ip_address(text)
        if not any(address in pool.network for pool in network.pools):
            wrong.append(f"no configured subnet contains IP address {text}")
    if wrong:
        raise InvalidArgument("invalid endpoint settings:\n" + "\n".join(wrong))


def wish(settings: EndpointConfig, *, apart: bool = False) -> Wish:
    """What the network is asked for; ``settings`` are checked; ``apart`` as in `Wish`."""
    from capsa.network.endpoint import Wish

    asked = settings.ipam_config
    sysctls: dict[str, str] = {}
    for each in filter(None, settings.driver_opts.get(SYSCTLS, "").split(",")):
        found = _SYSCTL.fullmatch(each)
        if found:
            sysctls[f"net/{found[1]}/{found[2]}/IFNAME/{found[3]}"] = found[4]
    return Wish(
        interface=settings.driver_opts.get(IFNAME, ""),
        ipv4=asked.ipv4_address if asked is not None else "",
        ipv6=asked.ipv6_address if asked is not None else "",
        mac=settings.mac_address.replace("-", ":"),
        aliases=tuple(settings.aliases),
        priority=settings.gw_priority,
        link_local=tuple(asked.link_local_ips) if asked is not None else (),
        sysctls=sysctls,
        apart=apart,
    )


def _is(text: str, *versions: int) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version in versions and not address.is_unspecified and "%" not in text
