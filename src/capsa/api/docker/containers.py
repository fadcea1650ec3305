"""``/containers``: their life (Docker Engine API, "Container")."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from capsa.api.docker import compat
from capsa.api.docker.call import Call, answer, nothing
from capsa.api.docker.documents import inspection, summary, update_warnings
from capsa.api.docker.relay import detach_keys
from capsa.engine import creation, links, name_service, validation
from capsa.engine.config import Create, parse
from capsa.engine.container import Container
from capsa.engine.names import check_container
from capsa.errors import Conflict, InvalidArgument, NotFound, Unsupported

if TYPE_CHECKING:
    from capsa.api.docker.filters import Filters
    from capsa.api.docker.router import Router

_FILTERS = (
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
)
_HEALTH = frozenset({"starting", "healthy", "unhealthy", "none"})
_STATES = frozenset({"created", "running", "paused", "restarting", "removing", "exited", "dead"})


def routes(router: Router) -> None:
    """Serve them."""
    router.add("GET", "/containers/json", list_)
    router.add("POST", "/containers/create", create)
    router.add("POST", "/containers/prune", prune)
    router.add("GET", "/containers/{}/json", inspect)
    router.add("POST", "/containers/{}/start", start)
    router.add("POST", "/containers/{}/stop", stop)
    router.add("POST", "/containers/{}/restart", restart)
    router.add("POST", "/containers/{}/kill", kill)
    router.add("POST", "/containers/{}/pause", pause)
    router.add("POST", "/containers/{}/unpause", unpause)
    router.add("POST", "/containers/{}/rename", rename)
    router.add("POST", "/containers/{}/resize", resize)
    router.add("POST", "/containers/{}/update", update_)
    router.add("POST", "/containers/{}/wait", wait)
    router.add("DELETE", "/containers/{}", remove)


async def create(call: Call) -> web.StreamResponse:
    """Create a container."""
    from capsa.platform.linux.cgroup import layout

    unified = not any(hierarchy.controllers for hierarchy in layout().v1)
    body = compat.creation(await call.json(), call.version, unified=unified)
    wanted: Create = parse(body, Create, "the container's configuration")
    made = creation.create(call.engine, wanted, call.query.get("name", ""), call.query.get("platform", ""))
    call.engine.events.container("create", made.container)
    return answer({"Id": made.container.id, "Warnings": made.warnings}, 201)


async def list_(call: Call) -> web.StreamResponse:
    """List containers."""
    filters = call.filters(*_FILTERS)
    limit = call.number("limit", 0) or 0
    everything = call.flag("all") or limit > 0 or "status" in filters
    _check_filters(filters)
    found = []
    engine = call.engine
    everything = everything or "before" in filters or "since" in filters
    bounds = _bounds(call, filters)
    linked = links.names(engine)
    sized, now = call.flag("size"), time.time_ns()
    for container in engine.containers.newest_first():
        if not everything and not container.active:
            continue
        if filters and not _selected(call, container, filters, bounds):
            continue
        also = linked.get(container.id, ())
        size = await asyncio.to_thread(engine.writable_size, container) if sized else -1
        found.append(summary(engine, container, size=size, now=now, names=also))
        if limit > 0 and len(found) >= limit:
            break
    return answer(compat.summaries(found, call.version))


def _check_filters(filters: Filters) -> None:
    filters.check("status", lambda state: state in _STATES)
    filters.check("health", lambda health: health in _HEALTH)
    filters.check("exited", lambda code: code.removeprefix("-").isdecimal())
    for key in ("expose", "publish"):
        for text in filters.get(key):
            validation.port(text)


async def _size(call: Call, container: Container) -> int:
    """Bytes of its writable layer where that was asked for, else -1."""
    return await asyncio.to_thread(call.engine.writable_size, container) if call.flag("size") else -1


def _bounds(call: Call, filters: Filters) -> tuple[int, int]:
    """Creation times that ``since`` and ``before`` name."""
    since, before = 0, 1 << 63
    for reference in filters.get("since"):
        since = call.engine.containers.find(reference).document.created
    for reference in filters.get("before"):
        before = call.engine.containers.find(reference).document.created
    return since, before


def _selected(call: Call, container: Container, filters: Filters, bounds: tuple[int, int]) -> bool:
    document, state = container.document, container.state
    if not bounds[0] < document.created < bounds[1] or filters.flag("is-task"):
        return False
    health = container.health.status if container.health is not None else "none"
    mounts = [entry for point in document.mounts for entry in (point.name, point.source, point.destination)]
    return (
        filters.prefix("id", container.id)
        and filters.match("name", container.name, f"/{container.name}")
        and filters.labels(document.config.labels)
        and filters.without(document.config.labels)
        and filters.exact("status", state.status)
        and filters.exact("health", health)
        and (not filters.get("exited") or (state.status == "exited" and filters.exact("exited", str(state.exit_code))))
        and filters.exact("volume", *mounts)
        and _in_network(call, container, filters)
        and _of_image(call, container, filters)
        and _ports_match(container, filters)
    )


def _in_network(call: Call, container: Container, filters: Filters) -> bool:
    wanted = filters.get("network")
    if not wanted:
        return True
    networks = call.engine.networks
    names = set()
    for reference in container.document.endpoints or [container.host.network_mode]:
        names.add(reference)
        if reference in container.document.endpoints:
            network = networks.get(reference)
            names |= {network.name, network.id}
    return any(entry in names or any(name.startswith(entry) for name in names if len(name) == 64) for entry in wanted)


def _of_image(call: Call, container: Container, filters: Filters) -> bool:
    wanted = filters.get("ancestor")
    if not wanted:
        return True
    layers = call.engine.images.config(container.document.image).rootfs.diff_ids
    for name in wanted:
        try:
            image = call.engine.images.resolve(name)
        except NotFound:
            continue
        below = call.engine.images.config(image.id).rootfs.diff_ids
        if image.id == container.document.image or layers[: len(below)] == below:
            return True
    return False


def _ports_match(container: Container, filters: Filters) -> bool:
    for key, known in (("expose", container.config.exposed_ports), ("publish", container.host.port_bindings)):
        wanted = filters.get(key)
        if wanted and not any(
            (number in ports and protocol == asked_protocol)
            for text in known
            for ports, protocol in (validation.port(text),)
            for asked, asked_protocol in map(validation.port, wanted)
            for number in asked
        ):
            return False
    return True


async def inspect(call: Call) -> web.StreamResponse:
    """Inspect a container."""
    container = call.engine.containers.find(call.name)
    return answer(inspection(call.engine, container, call.version, size=await _size(call, container)))


async def start(call: Call) -> web.StreamResponse:
    """Start a container."""
    body = await call.json()
    for name in ("checkpoint", "checkpoint-dir"):
        if call.query.get(name):
            raise Unsupported("checkpoints are not supported by capsa; start the container without one")
    detach_keys(call.query.get("detachKeys", ""))  # of the terminal that is attached, which reads them
    if body:
        raise InvalidArgument(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    await call.engine.lifecycle.start(call.engine.containers.find(call.name))
    return nothing()


async def stop(call: Call) -> web.StreamResponse:
    """Stop a container."""
    container = call.engine.containers.find(call.name)
    await call.engine.lifecycle.stop(container, call.number("t"), _stop_signal(call))
    return nothing()


def _stop_signal(call: Call) -> str:
    return compat.stop_signal(call.query.get("signal", ""), call.version)


async def restart(call: Call) -> web.StreamResponse:
    """Restart a container."""
    container = call.engine.containers.find(call.name)
    await call.engine.lifecycle.restart(container, call.number("t"), _stop_signal(call))
    return nothing()


async def kill(call: Call) -> web.StreamResponse:
    """Send a signal."""
    container = call.engine.containers.find(call.name)
    if not container.active:
        raise Conflict(f"cannot kill container: {call.name}: container {container.id} is not running")
    await call.engine.lifecycle.kill(container, call.query.get("signal", ""))
    return nothing()


async def pause(call: Call) -> web.StreamResponse:
    """Pause a container."""
    await call.engine.lifecycle.pause(call.engine.containers.find(call.name))
    return nothing()


async def unpause(call: Call) -> web.StreamResponse:
    """Unpause a container."""
    await call.engine.lifecycle.unpause(call.engine.containers.find(call.name))
    return nothing()


async def rename(call: Call) -> web.StreamResponse:
    """Rename a container."""
    container = call.engine.containers.find(call.name)
    if not call.query.get("name"):
        raise InvalidArgument("Neither old nor new names may be empty")
    before = container.name
    call.engine.containers.rename(container, check_container(call.query["name"]))
    name_service.renamed(call.engine, container)
    call.engine.events.container("rename", container, oldName=f"/{before}")
    return nothing()


async def resize(call: Call) -> web.StreamResponse:
    """Resize a container's terminal."""
    container = call.engine.containers.find(call.name)
    height, width = call.size()
    await call.engine.lifecycle.resize(container, height, width)
    return nothing(200)


async def wait(call: Call) -> web.StreamResponse:
    """Wait until a container has stopped, stops next, or is removed; the answer's head goes out at once."""
    container = call.engine.containers.find(call.name)
    condition = call.query.get("condition") if call.version >= (1, 30) else None
    condition = condition or "not-running"
    if condition not in ("not-running", "next-exit", "removed"):
        raise InvalidArgument(f"invalid condition: {condition!r}")
    if condition == "not-running" and not container.active:
        return answer(_waited(container, container.state.exit_code))
    waiting = container.removed() if condition == "removed" else container.exited()
    try:
        response = await call.stream()
        code = await waiting
        await response.write(msgspec.json.encode(_waited(container, code)) + b"\n")
    finally:
        waiting.cancel()
    return response


def _waited(container: Container, code: int) -> dict[str, Any]:
    found: dict[str, Any] = {"StatusCode": code}
    if container.state.error and container.state.finished_at:  # a start that failed was told to who asked for it
        found["Error"] = {"Message": container.state.error}
    return found


async def update_(call: Call) -> web.StreamResponse:
    """Change limits and the restart policy."""
    from capsa.engine.update import update

    container = call.engine.containers.find(call.name)
    body = await call.json()
    if not isinstance(body, dict):
        raise InvalidArgument("the container's update has to be a JSON object")
    await update(call.engine, container, body)
    return answer({"Warnings": update_warnings(container.host)})


async def remove(call: Call) -> web.StreamResponse:
    """Remove a container."""
    if call.flag("link"):
        links.remove(call.engine, call.name)
        return nothing()
    container = call.engine.containers.find(call.name)
    await call.engine.lifecycle.remove(container, force=call.flag("force"), volumes=call.flag("v"))
    return nothing()


async def prune(call: Call) -> web.StreamResponse:
    """Remove all containers that do not run."""
    from capsa.engine.times import parse as parse_time

    filters = call.filters("until", "label", "label!")
    until = min((parse_time(text) for text in filters.get("until")), default=1 << 63)
    removed, freed = [], 0
    for container in call.engine.containers:
        labels = container.config.labels
        if container.active or container.document.created > until:
            continue
        if not filters.labels(labels) or not filters.without(labels):
            continue
        freed += await asyncio.to_thread(call.engine.writable_size, container)
        await call.engine.lifecycle.remove(container)
        removed.append(container.id)
    call.engine.events.emit("container", "prune", "", {"reclaimed": str(freed)})
    return answer({"ContainersDeleted": removed or None, "SpaceReclaimed": freed})
