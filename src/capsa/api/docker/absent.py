"""What of the Docker Engine API capsa does not have: swarm mode, plugins, building. Said plainly, nothing pretends.

Where Docker has an answer of its own for "there is none" (swarm is off, no such plugin), it is that one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from capsa.api.docker.call import Call, answer
from capsa.errors import NotFound, Unavailable, Unsupported

if TYPE_CHECKING:
    from capsa.api.docker.router import Router

_NOUNS = ("services", "secrets", "configs")
_PLUGIN = ("enable", "disable", "push", "set", "upgrade")


def routes(router: Router) -> None:
    """Serve them."""
    for method, path in (("GET", "/swarm"), ("POST", "/swarm/update"), ("GET", "/swarm/unlockkey")):
        router.add(method, path, no_manager)
    router.add("POST", "/swarm/unlock", no_manager)
    for path in ("/swarm/init", "/swarm/join"):
        router.add("POST", path, no_swarm)
    router.add("POST", "/swarm/leave", no_member)
    for noun in ("nodes", "tasks", *_NOUNS):
        router.add("GET", f"/{noun}", no_manager)
        router.add("GET", f"/{noun}/{{}}", no_manager)
    for noun in _NOUNS:
        router.add("POST", f"/{noun}/create", no_manager)
    for noun in ("nodes", *_NOUNS):
        router.add("POST", f"/{noun}/{{}}/update", no_manager)
        router.add("DELETE", f"/{noun}/{{}}", no_manager)
    for noun in ("services", "tasks"):
        router.add("GET", f"/{noun}/{{}}/logs", no_manager)
    router.add("PUT", "/volumes/{}", no_manager)  # of cluster volumes only
    router.add("GET", "/plugins", no_plugins)
    router.add("GET", "/plugins/privileges", plugins)
    for path in ("/plugins/pull", "/plugins/create"):
        router.add("POST", path, plugins)
    router.add("GET", "/plugins/{}/json", no_plugin)
    router.add("DELETE", "/plugins/{}", no_plugin)
    for verb in _PLUGIN:
        router.add("POST", f"/plugins/{{}}/{verb}", no_plugin)
    for path in ("/build", "/build/cancel", "/session", "/grpc"):
        router.add("POST", path, no_build)
    router.add("POST", "/build/prune", no_cache)


async def no_manager(call: Call) -> web.StreamResponse:
    """What Docker answers where swarm is off."""
    raise Unavailable(
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to '
        "swarm and try again."
    )


async def no_member(call: Call) -> web.StreamResponse:
    """What Docker answers to who wants to leave a swarm that is none."""
    raise Unavailable("This node is not part of a swarm")


async def no_swarm(call: Call) -> web.StreamResponse:
    """Swarm mode cannot be turned on."""
    raise Unavailable("swarm mode is not supported by capsa: this engine works alone")


async def no_plugins(call: Call) -> web.StreamResponse:
    """The plugins: none."""
    return answer([])


async def no_plugin(call: Call) -> web.StreamResponse:
    """Whatever it is called, it is not there."""
    raise NotFound(f'plugin "{call.name}" not found')


async def plugins(call: Call) -> web.StreamResponse:
    """Plugins cannot be had."""
    raise Unsupported("plugins are not supported by capsa: volumes, networks and logs have its own drivers only")


async def no_build(call: Call) -> web.StreamResponse:
    """Building is not there yet."""
    raise Unsupported("building images is not supported by capsa yet; build elsewhere and load or pull the image")


async def no_cache(call: Call) -> web.StreamResponse:
    """Nothing is built, so nothing is kept for the next build."""
    return answer({"CachesDeleted": None, "SpaceReclaimed": 0})
