"""``capsa version``."""

from __future__ import annotations

import platform

import capsa
from capsa.cli.context import Context
from capsa.cli.options import Command, Options
from capsa.cli.table import formatted
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

API_VERSION = "1.51"
"""The Docker Engine API that this command is written for; an engine answers in the newest that it knows."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def _version(context: Context, options: Options) -> int:
    machine = platform.machine()
    client = {
        "Version": capsa.__version__,
        "ApiVersion": API_VERSION,
        "PythonVersion": platform.python_version(),
        "Os": platform.system().lower(),
        "Arch": _ARCHITECTURES.get(machine, machine),
    }
    failure: CapsaError | None = None
    server: dict[str, Any] | None = None
    try:
        server = context.engine().call("GET", "/version")
    except CapsaError as error:
        failure = error
    if not formatted(
        {"Client": client, "Server": server}, "json" if options.switch("json") else options.text("format")
    ):
        print("Client:")
        for title, key in (("Version", "Version"), ("API version", "ApiVersion"), ("Python version", "PythonVersion")):
            print(f" {title + ':':18}{client[key]}")
        print(f" {'OS/Arch:':18}{client['Os']}/{client['Arch']}")
        if server:
            _server(server)
    if failure:
        raise failure
    return 0


def _server(server: dict[str, Any]) -> None:
    print(f"\nServer: {(server.get('Platform') or {}).get('Name') or ''}".rstrip())
    print(f" {'Version:':18}{server['Version']}")
    print(f" {'API version:':18}{server['ApiVersion']} (minimum version {server.get('MinAPIVersion', '?')})")
    print(f" {'OS/Arch:':18}{server['Os']}/{server['Arch']}")
    print(f" {'Kernel:':18}{server.get('KernelVersion', '')}")
    for component in server.get("Components") or []:
        print(f" {component['Name'] + ':':18}{component.get('Version', '')}")


_FORMAT = """
  -f, --format string   'json' or a Go template
      --json            All of it, as JSON
"""

COMMANDS = {
    "version": Command("version", "", "Show the versions of this command and of the engine", _FORMAT, _version, most=0),
}
