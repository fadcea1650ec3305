"""``capsa port``: where a container's ports are published."""

from __future__ import annotations

from capsa.cli.client import quote
from capsa.cli.context import Context
from capsa.cli.options import Command, Options
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def _port(context: Context, options: Options) -> int:
    name = options.arguments[0]
    container = context.engine().call("GET", f"/containers/{quote(name)}/json")
    ports = (container.get("NetworkSettings") or {}).get("Ports") or {}
    if len(options.arguments) == 1:
        lines = [
            (private.partition("/"), f"{private} -> {address}")
            for private, bindings in ports.items()
            for address in _addresses(bindings or [])
        ]
        for _, line in sorted(lines, key=lambda entry: (int(entry[0][0]), entry[0][2], entry[1])):
            print(line)
        return 0
    port, slash, protocol = options.arguments[1].partition("/")
    if not port.isdecimal():
        raise CapsaError(f"invalid port {options.arguments[1]} (PORT or PORT/PROTOCOL)")
    wanted = f"{port}/{protocol.lower() if slash else 'tcp'}"
    bindings = ports.get(wanted)
    if not bindings:
        raise CapsaError(f"no public port '{wanted}' published for {name}")
    for address in sorted(_addresses(bindings)):
        print(address)
    return 0


def _addresses(bindings: Iterable[Mapping[str, str]]) -> list[str]:
    return [
        f"[{binding['HostIp']}]:{binding['HostPort']}"
        if ":" in binding["HostIp"]
        else f"{binding['HostIp']}:{binding['HostPort']}"
        for binding in bindings
    ]


COMMANDS = {
    "port": Command(
        "port",
        "CONTAINER [PRIVATE_PORT[/PROTOCOL]]",
        "Show where the ports of a container are published",
        "",
        _port,
        least=1,
        most=2,
        completes="running",
    ),
}
