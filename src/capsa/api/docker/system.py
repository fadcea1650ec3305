"""``/_ping``, ``/version``, ``/system/df``, ``/auth``."""

from __future__ import annotations

import asyncio
import os
import platform
from typing import TYPE_CHECKING, Any

from aiohttp import web

import capsa
from capsa.api.docker import compat, versions
from capsa.api.docker.call import Call, answer
from capsa.api.docker.documents import summary
from capsa.engine.times import parse as parse_time
from capsa.engine.volumes import describe
from capsa.errors import InvalidArgument
from capsa.image.credentials import Credentials

if TYPE_CHECKING:
    from capsa.api.docker.router import Router

_HERE = {
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Builder-Version": "",  # neither the classic builder nor BuildKit is here
    "Swarm": "inactive",
}

#: What takes room on the disk.
_USES = ("container", "image", "volume", "build-cache")


def routes(router: Router) -> None:
    """Serve them."""
    for method in ("GET", "HEAD"):
        router.add(method, "/_ping", ping)
    router.add("GET", "/version", version)
    router.add("GET", "/system/df", disk_use)
    router.add("POST", "/auth", auth)


async def ping(call: Call) -> web.StreamResponse:
    """Here, and which versions."""
    body = b"" if call.request.method == "HEAD" else b"OK"
    return web.Response(body=body, content_type="text/plain", charset="utf-8", headers=_HERE)


async def version(call: Call) -> web.StreamResponse:
    """Versions of the parts."""
    uname = os.uname()
    parts = {
        "ApiVersion": versions.text(versions.NEWEST),
        "Arch": call.engine.architecture,
        "BuildTime": "",
        "Experimental": "false",
        "GoVersion": "",
        "GitCommit": "",
        "KernelVersion": uname.release,
        "MinAPIVersion": versions.text(versions.OLDEST),
        "Os": "linux",
    }
    found: dict[str, Any] = {
        "Platform": {"Name": "capsa"},
        "Components": [{"Name": "Engine", "Version": capsa.__version__, "Details": parts}],
        "Version": capsa.__version__,
        "ApiVersion": parts["ApiVersion"],
        "MinAPIVersion": parts["MinAPIVersion"],
        "GitCommit": "",
        "GoVersion": "",
        "Os": "linux",
        "Arch": call.engine.architecture,
        "KernelVersion": uname.release,
        "BuildTime": "",
        "PythonVersion": platform.python_version(),
    }
    return answer(found)


async def auth(call: Call) -> web.StreamResponse:
    """Check credentials with a registry."""
    wanted = await call.json()
    if not isinstance(wanted, dict) or not wanted.get("serveraddress"):
        raise InvalidArgument("serveraddress is needed: the registry to log in to")
    given = {name: str(wanted.get(name) or "") for name in ("username", "password", "identitytoken")}
    auth = Credentials(given["username"], given["password"], given["identitytoken"])
    await call.engine.images.login(str(wanted["serveraddress"]), auth)
    return answer({"Status": "Login Succeeded", "IdentityToken": ""})


async def disk_use(call: Call) -> web.StreamResponse:
    """What takes how much room."""
    engine = call.engine
    kinds = call.query.getall("type", [*_USES])
    for kind in kinds:
        if kind not in _USES:
            raise InvalidArgument(f"unknown object type: {kind[:80]}")
    found: dict[str, Any] = {}
    if "image" in kinds:
        users = engine.image_users()
        shared = engine.images.shared_sizes()
        found["LayersSize"] = engine.images.disk_use()
        found["Images"] = [
            {
                "Id": image.id,
                "ParentId": image.parent,
                "RepoTags": list(image.names),
                "RepoDigests": list(image.digests),
                "Created": parse_time(image.created) // 10**9 if image.created else 0,
                "Size": image.size,
                "SharedSize": shared[image.id],
                "Labels": engine.images.config(image.id).config.labels or None,
                "Containers": len(users.get(image.id, ())),
            }
            for image in engine.images.list()
        ]
    if "container" in kinds:
        found["Containers"] = [
            summary(engine, container, size=await asyncio.to_thread(engine.writable_size, container))
            for container in engine.containers
        ]
    if "volume" in kinds:
        used = engine.volume_users()
        found["Volumes"] = [
            {
                **describe(volume, engine.volumes.path(volume.name)),
                "UsageData": {
                    "Size": await asyncio.to_thread(engine.volumes.size, volume.name),
                    "RefCount": len(used.get(volume.name, ())),
                },
            }
            for volume in engine.volumes
        ]
    if "build-cache" in kinds:
        found["BuildCache"] = []
    return answer(compat.disk_use(found, call.version))
