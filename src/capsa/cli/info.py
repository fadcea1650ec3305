"""``capsa info``: the engine and its machine, laid out as docker does."""

from __future__ import annotations

import sys

import capsa
from capsa.cli.context import Context
from capsa.cli.options import Command, Options
from capsa.cli.table import formatted
from capsa.cli.units import binary_size
from capsa.errors import CapsaError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


def _info(context: Context, options: Options) -> int:
    client = {"Version": capsa.__version__, "Host": context.host}
    info: dict[str, Any] = {}
    failure: CapsaError | None = None
    try:
        info = context.engine().call("GET", "/info")
    except CapsaError as error:
        failure = error
    format = "json" if options.switch("json") else options.text("format")
    if failure and format and format != "json":
        raise failure
    if not formatted({**info, "ClientInfo": client}, format):
        print(f"Client:\n Version:    {capsa.__version__}\n\nServer:")
        for depth, title, value in _lines(info) if info else ():
            if value is not None and value != "":
                print(f"{' ' * (depth + 1)}{title}: {value}" if title else f"{' ' * (depth + 1)}{value}")
        for warning in info.get("Warnings") or []:
            print(warning, file=sys.stderr)
    if failure:
        raise failure
    return 0


def _lines(info: dict[str, Any]) -> Iterator[tuple[int, str, object]]:
    """Depth, title and value of each line."""
    yield 0, "Containers", info.get("Containers")
    yield 1, "Running", info.get("ContainersRunning")
    yield 1, "Paused", info.get("ContainersPaused")
    yield 1, "Stopped", info.get("ContainersStopped")
    yield 0, "Images", info.get("Images")
    yield 0, "Server Version", info.get("ServerVersion")
    yield 0, "Storage Driver", info.get("Driver")
    for name, value in info.get("DriverStatus") or []:
        yield 1, name, value
    yield 0, "Logging Driver", info.get("LoggingDriver")
    yield 0, "Cgroup Driver", info.get("CgroupDriver")
    yield 0, "Cgroup Version", info.get("CgroupVersion")
    plugins = info.get("Plugins") or {}
    if plugins:
        yield 0, "", "Plugins:"
        for kind in ("Volume", "Network", "Log"):
            yield 1, kind, " ".join(plugins.get(kind) or [])
    yield 0, "Swarm", (info.get("Swarm") or {}).get("LocalNodeState")
    yield 0, "Runtimes", " ".join(sorted(info.get("Runtimes") or {}))
    yield 0, "Default Runtime", info.get("DefaultRuntime")
    yield 0, "Init Binary", info.get("InitBinary")
    if info.get("SecurityOptions"):
        yield 0, "", "Security Options:"
        for text in info["SecurityOptions"]:
            yield from _security(str(text))
    yield 0, "Kernel Version", info.get("KernelVersion")
    yield 0, "Operating System", info.get("OperatingSystem")
    yield 0, "OSType", info.get("OSType")
    yield 0, "Architecture", info.get("Architecture")
    yield 0, "CPUs", info.get("NCPU")
    yield 0, "Total Memory", binary_size(info["MemTotal"]) if info.get("MemTotal") else None
    yield 0, "Name", info.get("Name")
    yield 0, "ID", info.get("ID")
    yield 0, "Docker Root Dir", info.get("DockerRootDir")
    yield 0, "Debug Mode", _boolean(info.get("Debug"))
    for title, key in (("HTTP Proxy", "HttpProxy"), ("HTTPS Proxy", "HttpsProxy"), ("No Proxy", "NoProxy")):
        yield 0, title, info.get(key)
    if info.get("Labels"):
        yield 0, "", "Labels:"
        for label in info["Labels"]:
            yield 1, "", label
    yield 0, "Experimental", _boolean(info.get("ExperimentalBuild"))
    registries = (info.get("RegistryConfig") or {}).get("InsecureRegistryCIDRs") or []
    if registries:
        yield 0, "", "Insecure Registries:"
        for registry in registries:
            yield 1, "", registry
    yield 0, "Live Restore Enabled", _boolean(info.get("LiveRestoreEnabled"))


def _security(text: str) -> Iterator[tuple[int, str, object]]:
    """``name=seccomp,profile=builtin``: the name, and what belongs to it below."""
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key == "name":
            yield 1, "", value
        else:
            yield 2, key.title(), value


def _boolean(value: object) -> str | None:
    return None if value is None else str(bool(value)).lower()


COMMANDS = {
    "info": Command(
        "info",
        "",
        "Show the engine and its machine",
        """
  -f, --format string   'json' or a Go template
      --json            All of it, as JSON
""",
        _info,
        most=0,
    ),
}
