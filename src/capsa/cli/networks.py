"""``capsa network``."""

from __future__ import annotations

from capsa.cli import units
from capsa.cli.client import ApiError, quote
from capsa.cli.context import Context
from capsa.cli.endpoints import endpoint
from capsa.cli.filters import filters
from capsa.cli.inspection import show
from capsa.cli.lifecycle import each
from capsa.cli.options import Command, Options
from capsa.cli.table import listing

_ENDPOINT = ("alias", "driver-opt", "gw-priority", "ip", "ip6", "link", "link-local-ip")
_HEADERS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "CreatedAt": "CREATED AT",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
}


def _ls(context: Context, options: Options) -> int:
    found = context.engine().call("GET", "/networks", {"filters": filters(options.all("filter"))})
    whole = options.switch("no-trunc")
    items = [
        {
            "ID": network["Id"] if whole else network["Id"][:12],
            "Name": network["Name"],
            "Driver": network["Driver"],
            "Scope": network["Scope"],
            "CreatedAt": units.precise_time(network.get("Created") or ""),
            "IPv4": str(bool(network.get("EnableIPv4", True))).lower(),
            "IPv6": str(bool(network.get("EnableIPv6"))).lower(),
            "Internal": str(bool(network.get("Internal"))).lower(),
            "Labels": ",".join(f"{name}={value}" for name, value in (network.get("Labels") or {}).items()),
            "_labels": network.get("Labels") or {},
        }
        for network in sorted(found, key=lambda network: str(network["Name"]))
    ]
    listing(
        items,
        headers=_HEADERS,
        default="ID Name Driver Scope",
        format="json" if options.switch("json") else options.text("format"),
        quiet=options.switch("quiet"),
    )
    return 0


def _rm(context: Context, options: Options) -> int:
    engine = context.engine()

    def do(name: str) -> str | None:
        try:
            engine.request("DELETE", f"/networks/{quote(name)}").read()
        except ApiError as error:
            if error.code != 404 or not options.switch("force"):
                raise
            return ""
        return None

    return each(options.arguments, do)


def _inspect(context: Context, options: Options) -> int:
    engine = context.engine()
    parameters = {"verbose": options.switch("verbose")}
    return show(options.arguments, lambda name: engine.call("GET", f"/networks/{quote(name)}", parameters), options)


def _connect(context: Context, options: Options) -> int:
    network, container = options.arguments
    fields = {name: options.strings(name) for name in _ENDPOINT if options.given(name)}
    body = {"Container": container, "EndpointConfig": endpoint(fields)}
    context.engine().request("POST", f"/networks/{quote(network)}/connect", json_body=body).read()
    return 0


def _disconnect(context: Context, options: Options) -> int:
    network, container = options.arguments
    body = {"Container": container, "Force": options.switch("force")}
    context.engine().request("POST", f"/networks/{quote(network)}/disconnect", json_body=body).read()
    return 0


COMMANDS = {
    "network connect": Command(
        "network connect",
        "NETWORK CONTAINER",
        "Connect a container to a network",
        """
      --alias strings           Name by which the network knows the container
      --driver-opt strings      Options of the driver (name=value)
      --gw-priority int         The network of the highest has the default gateway
      --ip string               IPv4 address
      --ip6 string              IPv6 address
      --link strings            Add a link to another container (name[:alias])
      --link-local-ip strings   IPv4 or IPv6 link-local address
""",
        _connect,
        least=2,
        most=2,
        completes="networks",
    ),
    "network disconnect": Command(
        "network disconnect",
        "NETWORK CONTAINER",
        "Disconnect a container from a network",
        """
  -f, --force   Disconnect it even if it does not answer
""",
        _disconnect,
        least=2,
        most=2,
        completes="networks",
    ),
    "network inspect": Command(
        "network inspect",
        "NETWORK [NETWORK...]",
        "Show all about networks",
        """
  -f, --format string   'json' or a Go template
      --json            One JSON object a line
  -v, --verbose         With the details of a swarm's services
""",
        _inspect,
        least=1,
        completes="networks",
    ),
    "network ls": Command(
        "network ls",
        "",
        "List networks",
        """
  -f, --filter list     Only those that match (driver=bridge, name=...)
      --format string   'table', 'table TEMPLATE', 'json' or a Go template
      --json            One JSON object a line
      --no-trunc        Do not shorten
  -q, --quiet           Only IDs
""",
        _ls,
        most=0,
    ),
    "network rm": Command(
        "network rm",
        "NETWORK [NETWORK...]",
        "Remove one or more networks",
        """
  -f, --force   It is no failure if it is not there
""",
        _rm,
        least=1,
        completes="networks",
    ),
}
