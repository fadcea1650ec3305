"""``capsa network create``."""

from __future__ import annotations

import ipaddress

from capsa.cli.context import Context
from capsa.cli.options import Command, Options, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _create(context: Context, options: Options) -> int:
    body: dict[str, Any] = {"Name": options.arguments[0], "Driver": options.text("driver") or "bridge"}
    for name in ("attachable", "config-only", "ingress", "internal"):
        if options.switch(name):
            body[name.title().replace("-", "")] = True
    if options.given("scope"):
        body["Scope"] = options.text("scope")
    if options.given("config-from"):
        body["ConfigFrom"] = {"Network": options.text("config-from")}
    # Left out, the engine decides.
    for name, field in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if options.given(name):
            body[field] = options.switch(name)
    for name, field in (("label", "Labels"), ("opt", "Options")):
        if options.given(name):
            body[field] = dict(text.partition("=")[::2] for text in options.all(name))
    ipam: dict[str, Any] = {"Driver": options.text("ipam-driver") or "default"}
    if options.given("ipam-opt"):
        ipam["Options"] = dict(text.partition("=")[::2] for text in options.all("ipam-opt"))
    pools = _pools(options)
    if pools:
        ipam["Config"] = pools
    body["IPAM"] = ipam
    answer = context.engine().call("POST", "/networks/create", json_body=body)
    if answer.get("Warning"):
        import sys

        print(f"WARNING: {answer['Warning']}", file=sys.stderr)
    print(answer["Id"])
    return 0


def _pools(options: Options) -> list[dict[str, Any]]:
    """Subnets with the ranges, gateways and reserved addresses that lie in them; raises `UsageError`."""
    subnets, ranges, gateways = (options.strings(name) for name in ("subnet", "ip-range", "gateway"))
    reserved = [text.partition("=")[::2] for text in options.all("aux-address")]
    if len(subnets) < len(ranges) or len(subnets) < len(gateways):
        raise UsageError("every ip-range or gateway must have a corresponding subnet", 1)
    pools: dict[str, dict[str, Any]] = {}
    for subnet in subnets:
        network = _network(subnet, "subnet")
        for other in pools:
            if _network(other, "subnet").overlaps(network):
                raise UsageError("multiple overlapping subnet configuration is not supported", 1)
        pools[subnet] = {"Subnet": subnet}
    for text in ranges:
        _place(pools, text, "IPRange", "range", _network(text, "ip-range"))
    for text in gateways:
        _place(pools, text, "Gateway", "gateway", _network(text, "gateway"))
    for name, text in reserved:
        for subnet, pool in pools.items():
            if _within(_network(text, "aux-address"), _network(subnet, "subnet")):
                pool.setdefault("AuxiliaryAddresses", {})[name] = text
                break
        else:
            raise UsageError(f"no matching subnet for aux-address {text}", 1)
    return list(pools.values())


def _place(pools: dict[str, dict[str, Any]], text: str, field: str, word: str, inner: Any) -> None:
    for subnet, pool in pools.items():
        if _within(inner, _network(subnet, "subnet")):
            if field in pool:
                raise UsageError(
                    f"cannot configure multiple {word}s ({text}, {pool[field]}) on the same subnet ({subnet})", 1
                )
            pool[field] = text
            return
    raise UsageError(f"no matching subnet for {word} {text}", 1)


def _network(text: str, option: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise UsageError(f"invalid --{option}: {error}", 1) from None


def _within(inner: Any, outer: Any) -> bool:
    return inner.version == outer.version and bool(inner.subnet_of(outer))


COMMANDS = {
    "network create": Command(
        "network create",
        "NETWORK",
        "Create a network",
        """
      --attachable           Let containers be connected by hand
      --aux-address list     Keep an address out of use (name=address)
      --config-from string   Network whose configuration to take over
      --config-only          Create no network, only a configuration for others
  -d, --driver string        Driver (default "bridge")
      --gateway strings      Gateway of a subnet
      --ingress              Create the network of a swarm's published ports
      --internal             Keep it from the world outside
      --ip-range strings     Give out addresses of this part of a subnet only
      --ipam-driver string   Driver of the address management (default "default")
      --ipam-opt list        Options of the address management (name=value)
      --ipv4                 Give out IPv4 addresses (default true)
      --ipv6                 Give out IPv6 addresses
      --label list           Set metadata
  -o, --opt list             Options of the driver (name=value)
      --scope string         Scope of the network (local)
      --subnet strings       Subnet, such as 10.1.0.0/24
""",
        _create,
        least=1,
        most=1,
    ),
}
