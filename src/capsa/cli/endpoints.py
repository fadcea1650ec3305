"""How a container is to be connected: ``--network`` in its short and long form, with the options that belong to it."""

from __future__ import annotations

from capsa.cli.options import Options, UsageError
from capsa.cli.resources import whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEFAULT = ("bridge", "default")
# Options that describe the first network: (option, key of --network's long form, words for a message).
_OPTIONS = (
    ("network-alias", "alias", "per-network alias"),
    ("ip", "ip", "per-network IPv4 address"),
    ("ip6", "ip6", "per-network IPv6 address"),
    ("link", "link", "per-network links"),
    ("link-local-ip", "link-local-ip", "per-network link-local IP addresses"),
    ("mac-address", "mac-address", "per-network MAC address"),
)
_KEYS = ("name", "alias", "driver-opt", "gw-priority", "ip", "ip6", "link", "link-local-ip", "mac-address")
_ONCE = ("gw-priority", "ip", "ip6", "mac-address", "name")


def connections(options: Options) -> tuple[str, dict[str, dict[str, Any]], list[str]]:
    """Network mode, endpoints by network, and links of the default network; raises `UsageError`.

    The first network is the mode; what ``--ip``, ``--network-alias`` and the like say is meant for it.
    """
    wanted = [_long(text) for text in options.all("network")]
    first = wanted[0] if wanted else {"name": ["bridge"]}
    for option, key, words in _OPTIONS:
        if options.given(option):
            if key in first:
                raise UsageError(f"conflicting options: cannot specify both --{option} and {words}")
            first[key] = options.all(option)
    names = [fields["name"][0] for fields in wanted]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"network {name} is specified multiple times")
        if len(names) > 1 and not _is_own(name):
            raise UsageError("conflicting options: cannot attach both user-defined and non-user-defined network-modes")
    if first["name"][0] in _DEFAULT:
        if options.given("network-alias"):
            raise UsageError("network-scoped aliases are only supported for user-defined networks")
        # There, links are the container's alone; elsewhere they are names on the network as well.
        first.pop("link", None)
    endpoints = {}
    for fields in wanted or [first]:
        described = endpoint(fields)
        if described or len(wanted) > 1:
            endpoints[fields["name"][0]] = described
    return names[0] if names else "", endpoints, options.all("link")


def _is_own(name: str) -> bool:
    return name not in (*_DEFAULT, "host", "none") and not name.startswith("container:")


def _long(text: str) -> dict[str, list[str]]:
    """The fields of one ``--network``; raises `UsageError`."""
    if "=" not in text:
        if not text:
            raise UsageError('invalid argument "" for "--network" flag: no name or value specified')
        return {"name": [text]}
    import csv

    fields: dict[str, list[str]] = {}
    for part in next(csv.reader([text]), []):
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if not equals or not value:
            raise UsageError(f"invalid field '{part}' in --network {text} (key=value, separated by commas)")
        if key not in _KEYS:
            raise UsageError(f"invalid field key {key} in --network (use {', '.join(_KEYS)})")
        if key in fields and key in _ONCE:
            raise UsageError(f"the key {key} is given twice in --network {text}")
        fields.setdefault(key, []).append(value.strip())
    if "name" not in fields:
        raise UsageError(f"network name is not specified in --network {text}")
    return fields


def endpoint(fields: dict[str, list[str]]) -> dict[str, Any]:
    """An ``EndpointConfig`` of the Engine API, of values by the keys of ``--network``; raises `UsageError`."""
    result: dict[str, Any] = {}
    addresses = {
        field: fields[key][-1] for key, field in (("ip", "IPv4Address"), ("ip6", "IPv6Address")) if key in fields
    }
    if "link-local-ip" in fields:
        result["IPAMConfig"] = {**addresses, "LinkLocalIPs": fields["link-local-ip"]}
    elif addresses:
        result["IPAMConfig"] = addresses
    for key, field in (("alias", "Aliases"), ("link", "Links")):
        if key in fields:
            result[field] = fields[key]
    if "mac-address" in fields:
        result["MacAddress"] = fields["mac-address"][-1]
    if "gw-priority" in fields:
        result["GwPriority"] = whole(fields["gw-priority"][-1], "gw-priority")
    if "driver-opt" in fields:
        result["DriverOpts"] = driver_options(fields["driver-opt"])
    return result


def driver_options(texts: list[str]) -> dict[str, str]:
    """``name=value`` each; raises `UsageError`."""
    result = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"invalid key value pair format in driver options: {text}")
        result[name.strip().lower()] = value.strip()
    return result
