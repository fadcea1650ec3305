"""What older versions of the API mean by a request, and what they get as an answer (Docker's "API version history").

Handlers speak the newest version. Here is what clients of others do not know of: fields that came later are not theirs
to set, and defaults that have changed stay for them what they were.
"""

from __future__ import annotations

from typing import Any

from capsa.errors import InvalidArgument

Version = tuple[int, int]


def creation(body: Any, version: Version, *, unified: bool) -> Any:
    """The body of ``POST /containers/create`` as the newest version would say it; raises `InvalidArgument`.

    ``unified``: this machine has cgroup v2 only. What is not an object is left to who parses it.
    """
    if not isinstance(body, dict):
        return body
    host = body.get("HostConfig")
    host = body["HostConfig"] = dict(host) if isinstance(host, dict) else {} if host is None else host
    if not isinstance(host, dict):
        return body
    mounts = [mount for mount in _list(host.get("Mounts")) if isinstance(mount, dict)]
    networking = body.get("NetworkingConfig")
    endpoints = networking.get("EndpointsConfig") if isinstance(networking, dict) else None
    endpoints = endpoints if isinstance(endpoints, dict) else {}
    if version < (1, 40):
        host["IpcMode"] = host.get("IpcMode") or "shareable"
    if version < (1, 41) and not unified:
        host["CgroupnsMode"] = host.get("CgroupnsMode") or "host"
    if version < (1, 42):
        host.pop("ConsoleSize", None)
        for mount in mounts:
            _old_mount(mount)
    if version < (1, 43):
        host.pop("Annotations", None)
    if version < (1, 44):
        _before_1_44(body, mounts, endpoints)
    if version < (1, 45) and any(_dict(mount.get("VolumeOptions")).get("Subpath") for mount in mounts):
        raise InvalidArgument("VolumeOptions.Subpath needs API v1.45 or newer")
    if version < (1, 48):
        if any(mount.get("Type") == "image" for mount in mounts):
            raise InvalidArgument('Mount type "Image" needs API v1.48 or newer')
        for endpoint in endpoints.values():
            _dict(endpoint).pop("GwPriority", None)
    return body


def _old_mount(mount: dict[str, Any]) -> None:
    """Options of another type of mount were let pass, and a missing source was never made."""
    for name, kind in (("VolumeOptions", "volume"), ("TmpfsOptions", "tmpfs")):
        if mount.get("Type") != kind:
            mount.pop(name, None)
    _dict(mount.get("BindOptions")).pop("CreateMountpoint", None)


def _before_1_44(body: dict[str, Any], mounts: list[dict[str, Any]], endpoints: dict[str, Any]) -> None:
    _dict(body.get("Healthcheck")).pop("StartInterval", None)
    if len(endpoints) > 1:
        raise InvalidArgument(f"Container cannot be created with multiple network endpoints: {', '.join(endpoints)}")
    for mount in mounts:
        options = _dict(mount.get("BindOptions"))
        if options.get("ReadOnlyForceRecursive"):
            raise InvalidArgument("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")


def stop_signal(text: str, version: Version) -> str:
    """The query ``signal`` of stop and restart, which came with 1.42."""
    return text if version >= (1, 42) else ""


def summaries(found: list[dict[str, Any]], version: Version) -> list[dict[str, Any]]:
    """``GET /containers/json``: annotations came with 1.46."""
    if version < (1, 46):
        for line in found:
            line["HostConfig"].pop("Annotations", None)
    return found


def disk_use(found: dict[str, Any], version: Version) -> dict[str, Any]:
    """``GET /system/df``: what 1.42 and 1.44 took away."""
    if version < (1, 42):
        found["BuilderSize"] = 0
    if version < (1, 44):
        for image in found.get("Images") or ():
            image["VirtualSize"] = image["Size"]
    return found


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
