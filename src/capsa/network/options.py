"""The driver options of bridge networks that Docker documents, checked."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from capsa.errors import InvalidArgument, Unsupported
from capsa.network.model import Struct

_PREFIX = "com.docker.network."
INTERFACE = re.compile(r"[^\s/:]{1,15}\Z")


class BridgeOptions(Struct, frozen=True):
    """``bridge`` names the interface, ``host_ip`` is where ports are published by default, ``prefix`` as in ``eth``."""

    bridge: str = ""
    masquerade: bool = True
    host_ip: str = ""
    mtu: int = 1500
    prefix: str = "eth"
    inter_container: bool = True
    default: bool = False


def bridge_options(options: Mapping[str, str]) -> BridgeOptions:
    """Parse driver options; raises `InvalidArgument`, or `Unsupported` for what cannot be done."""
    found: dict[str, str | bool | int] = {}
    for key, value in options.items():
        match key.removeprefix(_PREFIX):
            case "bridge.name":
                if not INTERFACE.match(value) or value in (".", ".."):
                    raise InvalidArgument(
                        f'invalid bridge name "{value}": 1 to 15 characters without "/", ":" and spaces'
                    )
                found["bridge"] = value
            case "bridge.enable_ip_masquerade":
                found["masquerade"] = _truth(key, value)
            case "bridge.enable_icc":
                found["inter_container"] = _truth(key, value)
            case "bridge.host_binding_ipv4":
                found["host_ip"] = _address(key, value)
            case "driver.mtu":
                if not value.isascii() or not value.isdigit() or not 68 <= int(value) <= 65535:
                    raise InvalidArgument(f'invalid {key} "{value}": must be 68 to 65535')
                found["mtu"] = int(value)
            case "container_iface_prefix":
                if not INTERFACE.match(value) or len(value) > 12:
                    raise InvalidArgument(f'invalid {key} "{value}": at most 12 characters without "/", ":" and spaces')
                found["prefix"] = value
            case "bridge.default_bridge":
                found["default"] = _truth(key, value)
            case "bridge.gateway_mode_ipv4" | "bridge.gateway_mode_ipv6":
                if value not in ("", "nat"):
                    raise Unsupported(f"{key}={value} is not supported by capsa: the gateway mode is always nat")
            case "bridge.inhibit_ipv4":
                if _truth(key, value):
                    raise Unsupported(f"{key} is not supported by capsa: a bridge has its gateway's address")
            case "bridge.trusted_host_interfaces" | "host_ipv4" | "host_ipv6":
                if value:
                    raise Unsupported(f"{key} is not supported by capsa; leave it out")
            case _:
                raise InvalidArgument(f'unknown option "{key}" of driver bridge')
    return BridgeOptions(**found)  # type: ignore[arg-type]


def _truth(key: str, value: str) -> bool:
    if value.lower() in ("true", "1", "t"):
        return True
    if value.lower() in ("false", "0", "f"):
        return False
    raise InvalidArgument(f'invalid {key} "{value}": must be true or false')


def _address(key: str, value: str) -> str:
    try:
        return str(ipaddress.IPv4Address(value))
    except ValueError as error:
        raise InvalidArgument(f'invalid {key} "{value}": not an IPv4 address') from error
