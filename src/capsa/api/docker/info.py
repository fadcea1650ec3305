"""``GET /info``: the engine and its machine (Docker Engine API, "Get system information")."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

import capsa
from capsa.api.docker.call import Call, answer
from capsa.engine.times import rfc3339

if TYPE_CHECKING:
    from capsa.api.docker.router import Router
    from capsa.platform.linux.cgroup.hierarchy import Layout

_ABSENT = {
    "MemoryLimit": "memory limit",
    "SwapLimit": "swap limit",
    "CpuCfsPeriod": "cpu cfs period",
    "CpuCfsQuota": "cpu cfs quota",
    "CPUShares": "cpu shares",
    "CPUSet": "cpuset",
    "PidsLimit": "pids limit",
}


def routes(router: Router) -> None:
    """Serve it."""
    router.add("GET", "/info", info)


async def info(call: Call) -> web.StreamResponse:
    """The engine and its machine."""
    from capsa.platform.linux.cgroup import layout

    engine = call.engine
    states = [container.state.status for container in engine.containers]
    groups = layout()
    unified = not any(hierarchy.controllers for hierarchy in groups.v1)
    limits = _limits(groups)
    forwarding = _forwarding()
    uname = os.uname()
    system = _operating_system()
    found: dict[str, Any] = {
        "ID": engine.name,
        "Containers": len(states),
        "ContainersRunning": states.count("running"),
        "ContainersPaused": states.count("paused"),
        "ContainersStopped": len(states) - states.count("running") - states.count("paused"),
        "Images": len(engine.images.list()),
        "Driver": "overlay2",
        "DriverStatus": [["Shared files", "true"]],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": None,
            "Log": ["json-file", "local", "none"],
        },
        **limits,
        "IPv4Forwarding": forwarding,
        "OomKillDisable": not unified,
        "Debug": False,
        "NFd": len(os.listdir("/proc/self/fd")),
        "NGoroutines": len(asyncio.all_tasks()),
        "NEventsListener": engine.events.listeners,
        "SystemTime": rfc3339(time.time_ns()),
        "LoggingDriver": "json-file",
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2" if unified else "1",
        "KernelVersion": uname.release,
        "OperatingSystem": system.get("PRETTY_NAME", "Linux"),
        "OSVersion": system.get("VERSION_ID", ""),
        "OSType": "linux",
        "Architecture": uname.machine,
        "IndexServerAddress": "",
        "RegistryConfig": {"IndexConfigs": {}, "InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"], "Mirrors": None},
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "GenericResources": None,
        "DockerRootDir": str(engine.root),
        "HttpProxy": os.environ.get("HTTP_PROXY", ""),
        "HttpsProxy": os.environ.get("HTTPS_PROXY", ""),
        "NoProxy": os.environ.get("NO_PROXY", ""),
        "Name": socket.gethostname(),
        "Labels": [],
        "ExperimentalBuild": False,
        "ServerVersion": capsa.__version__,
        "Runtimes": {"capsa": {"path": "capsa-runtime"}},
        "DefaultRuntime": "capsa",
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        },
        "LiveRestoreEnabled": True,
        "Isolation": "",
        "InitBinary": "capsa",
        "ContainerdCommit": {"ID": ""},
        "RuncCommit": {"ID": ""},
        "InitCommit": {"ID": ""},
        "SecurityOptions": ["name=seccomp,profile=builtin", "name=cgroupns"],
        "CDISpecDirs": [],
        "Warnings": [
            *(f"WARNING: No {word} support" for name, word in _ABSENT.items() if not limits[name]),
            *([] if forwarding else ["WARNING: IPv4 forwarding is disabled"]),
            *engine.warnings,
        ],
    }
    _as_of(call.version, found)
    return answer(found)


def _as_of(version: tuple[int, int], found: dict[str, Any]) -> None:
    """What came later is taken away, what was dropped later is put back."""
    if version >= (1, 49):
        found["FirewallBackend"] = {"Driver": "nftables"}
    else:
        for name in ("ContainerdCommit", "RuncCommit", "InitCommit"):
            found[name]["Expected"] = ""
    if version < (1, 47):
        for name in ("AllowNondistributableArtifactsCIDRs", "AllowNondistributableArtifactsHostnames"):
            found["RegistryConfig"][name] = None
    if version >= (1, 50):
        found["DiscoveredDevices"] = []
    else:
        found["BridgeNfIptables"] = found["BridgeNfIp6tables"] = False
    if version < (1, 42):
        found["KernelMemory"] = found["KernelMemoryTCP"] = False
    if version < (1, 25):
        found["SecurityOptions"] = ["seccomp"]


def _limits(groups: Layout) -> dict[str, bool]:
    """What can be limited here."""
    memory, cpu = groups.where("memory"), groups.where("cpu")
    swap = memory is not None and (memory.version == 2 or _exists(memory.mount, "memory.memsw.limit_in_bytes"))
    quota = cpu is not None and (cpu.version == 2 or _exists(cpu.mount, "cpu.cfs_quota_us"))
    return {
        "MemoryLimit": memory is not None,
        "SwapLimit": swap,
        "CpuCfsPeriod": quota,
        "CpuCfsQuota": quota,
        "CPUShares": cpu is not None,
        "CPUSet": groups.where("cpuset") is not None,
        "PidsLimit": groups.where("pids") is not None,
    }


def _exists(directory: str, name: str) -> bool:
    return os.path.exists(f"{directory}/{name}")


def _forwarding() -> bool:
    try:
        return Path("/proc/sys/net/ipv4/ip_forward").read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def _operating_system() -> dict[str, str]:
    """os-release(5)."""
    found = {}
    try:
        for line in Path("/etc/os-release").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _equals, value = line.partition("=")
            found[name] = value.strip("\"'")
    except OSError:
        pass
    return found
