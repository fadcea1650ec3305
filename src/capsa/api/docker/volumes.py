"""``/volumes`` (Docker Engine API, "Volume")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from capsa.api.docker.call import Call, answer, nothing
from capsa.engine.config import Struct, parse
from capsa.engine.times import parse as parse_time
from capsa.engine.volumes import Volume, describe
from capsa.errors import Unsupported

if TYPE_CHECKING:
    from capsa.api.docker.router import Router


class Create(Struct):
    """The body of ``POST /volumes/create``."""

    name: str = ""
    driver: str = "local"
    driver_opts: dict[str, str] = {}
    labels: dict[str, str] = {}
    cluster_volume_spec: dict[str, Any] = {}


def routes(router: Router) -> None:
    """Serve them."""
    router.add("GET", "/volumes", list_)
    router.add("POST", "/volumes/create", create)
    router.add("POST", "/volumes/prune", prune)
    router.add("GET", "/volumes/{}", inspect)
    router.add("DELETE", "/volumes/{}", remove)


async def list_(call: Call) -> web.StreamResponse:
    """List volumes."""
    filters = call.filters("dangling", "driver", "label", "label!", "name")
    dangling = filters.flag("dangling")
    volumes = call.engine.volumes
    users = call.engine.volume_users() if dangling is not None else {}
    found = [
        describe(volume, volumes.path(volume.name))
        for volume in volumes
        if (dangling is None or dangling == (volume.name not in users))
        and filters.exact("driver", "local")
        and filters.labels(volume.labels)
        and filters.without(volume.labels)
        and filters.match("name", volume.name)
    ]
    return answer({"Volumes": found, "Warnings": None})


async def create(call: Call) -> web.StreamResponse:
    """Create a volume; one that is there already is fine."""
    wanted: Create = parse(await call.json() or {}, Create, "the volume's configuration")
    if wanted.cluster_volume_spec:
        raise Unsupported("cluster volumes are not supported by capsa: there is no swarm")
    volumes = call.engine.volumes
    volume, new = volumes.create(wanted.name, labels=wanted.labels, options=wanted.driver_opts, driver=wanted.driver)
    if new:
        call.engine.events.volume("create", volume.name)
    return answer(describe(volume, volumes.path(volume.name)), 201)


async def inspect(call: Call) -> web.StreamResponse:
    """Inspect a volume."""
    volumes = call.engine.volumes
    return answer(describe(volumes.find(call.name), volumes.path(call.name)))


async def remove(call: Call) -> web.StreamResponse:
    """Remove a volume."""
    known = call.engine.volumes.get(call.name) is not None
    call.engine.volumes.remove(call.name, force=call.flag("force"))
    if known:
        call.engine.events.volume("destroy", call.name)
    return nothing()


async def prune(call: Call) -> web.StreamResponse:
    """Remove what no container uses: anonymous volumes, with the filter ``all`` named ones, too."""
    filters = call.filters("all", "label", "label!", "until")
    everything = filters.flag("all") or call.version < (1, 42)
    until = min((parse_time(text) for text in filters.get("until")), default=1 << 63)

    def wanted(volume: Volume) -> bool:
        return (
            (everything or volume.anonymous)
            and volume.created <= until
            and filters.labels(volume.labels)
            and filters.without(volume.labels)
        )

    removed, freed = await call.engine.volumes.prune(wanted)
    for name in removed:
        call.engine.events.volume("destroy", name)
    return answer({"VolumesDeleted": removed or None, "SpaceReclaimed": freed})
