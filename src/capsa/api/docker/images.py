"""``/images`` (Docker Engine API, "Image"), without what moves them: `capsa.api.docker.transfers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from capsa.api.docker.call import Call, answer
from capsa.engine.times import parse as parse_time
from capsa.engine.times import rfc3339
from capsa.errors import InvalidArgument
from capsa.image import platforms

if TYPE_CHECKING:
    from capsa.api.docker.filters import Filters
    from capsa.api.docker.router import Router
    from capsa.image.store import Image

_FILTERS = ("before", "dangling", "label", "label!", "reference", "since", "until")
# Of no container: Docker shows it up to version 1.44, and docker-compose 1 looks for volumes in it
_NO_CONTAINER: dict[str, Any] = {
    **dict.fromkeys(("Hostname", "Domainname", "User", "Image", "WorkingDir"), ""),
    **dict.fromkeys(("AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"), False),
    **dict.fromkeys(("Env", "Cmd", "Volumes", "Entrypoint", "OnBuild", "Labels")),
}


def routes(router: Router) -> None:
    """Serve them."""
    router.add("GET", "/images/json", list_)
    router.add("POST", "/images/prune", prune)
    router.add("GET", "/images/search", search)
    router.add("GET", "/images/{}/json", inspect)
    router.add("GET", "/images/{}/history", history)
    router.add("POST", "/images/{}/tag", tag)
    router.add("DELETE", "/images/{}", remove)


async def list_(call: Call) -> web.StreamResponse:
    """List images."""
    filters = call.filters(*_FILTERS)
    if call.version < (1, 41) and call.query.get("filter"):  # what there was before there were filters
        filters.add("reference", call.query["filter"])
    images = call.engine.images
    everything = images.list()
    parents = {image.parent for image in everything}
    users = call.engine.image_users()
    since, before = _bounds(call, filters)
    dangling = filters.flag("dangling")
    until = min((parse_time(text) for text in filters.get("until")), default=1 << 63)
    shared = images.shared_sizes() if call.flag("shared-size") else {}
    manifests = call.flag("manifests")
    found = []
    for image in everything:
        untagged = not image.names
        if untagged and image.id in parents and not call.flag("all"):
            continue
        if dangling is not None and dangling != untagged:
            continue
        if not since < image.added_at < before or image.added_at > until:
            continue
        if not _named(image, filters):
            continue
        labels = images.config(image.id).config.labels
        if not filters.labels(labels) or not filters.without(labels):
            continue
        found.append(
            {
                "Containers": len(users.get(image.id, ())),
                "Created": _created(image) // 10**9,
                "Id": image.id,
                "Labels": labels or None,
                "ParentId": image.parent,
                "RepoDigests": list(image.digests),
                "RepoTags": list(image.names) if call.version >= (1, 43) or image.names else ["<none>:<none>"],
                "SharedSize": shared.get(image.id, -1),
                "Size": image.size,
            }
            | ({"VirtualSize": image.size} if call.version < (1, 44) else {})
            | (_manifests(call, image, users) if manifests else {})
        )
    return answer(found)


def _manifests(call: Call, image: Image, users: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The manifest that an image came with, as far as it came with one: of an index only what was chosen is here."""
    images = call.engine.images
    descriptor = images.manifest(image.id)
    if descriptor is None:
        return {"Manifests": []}
    found = {
        "ID": descriptor.digest,
        "Descriptor": descriptor,
        "Available": True,
        "Kind": "image",
        "Size": {"Content": descriptor.size, "Total": descriptor.size + image.size},
        "ImageData": {
            "Platform": images.config(image.id).platform,
            "Containers": [user.id for user in users.get(image.id, ())],
            "Size": {"Unpacked": image.size},
        },
    }
    return {"Descriptor": descriptor, "Manifests": [found]}


def _created(image: Image) -> int:
    try:
        return parse_time(image.created) if image.created else 0
    except InvalidArgument:
        return 0


def _bounds(call: Call, filters: Filters) -> tuple[int, int]:
    images = call.engine.images
    since = max((images.resolve(name).added_at for name in filters.get("since")), default=-1)
    before = min((images.resolve(name).added_at for name in filters.get("before")), default=1 << 63)
    return since, before


def _named(image: Image, filters: Filters) -> bool:
    patterns = filters.get("reference")
    if not patterns:
        return True
    from fnmatch import fnmatchcase

    for name in (*image.names, *image.digests):
        repository = name.partition("@")[0].rpartition(":")[0] if "@" not in name else name.partition("@")[0]
        for pattern in patterns:
            if fnmatchcase(name, pattern) or (repository and fnmatchcase(repository, pattern)):
                return True
    return False


async def inspect(call: Call) -> web.StreamResponse:
    """Inspect an image."""
    images = call.engine.images
    image = images.resolve(call.name)
    if call.query.get("platform"):
        if call.flag("manifests"):
            raise InvalidArgument("conflicting options: manifests and platform options cannot both be set")
        platforms.check(images.config(image.id), call.query["platform"], call.name)
    config = images.config(image.id)
    own = config.config
    settings: dict[str, Any] = {
        "Hostname": own.hostname,
        "Domainname": own.domainname,
        "User": own.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": own.env,
        "Cmd": own.cmd or None,
        "Image": "",
        "Volumes": own.volumes or None,
        "WorkingDir": own.working_dir,
        "Entrypoint": own.entrypoint or None,
        "OnBuild": own.on_build or None,
        "Labels": own.labels or None,
    }
    if own.exposed_ports:
        settings["ExposedPorts"] = own.exposed_ports
    if own.stop_signal:
        settings["StopSignal"] = own.stop_signal
    if own.shell:
        settings["Shell"] = own.shell
    if own.healthcheck is not None:
        settings["Healthcheck"] = _health(own.healthcheck)
    layers = [str(path) for path in images.layers(image.id)]
    found: dict[str, Any] = {
        "Id": image.id,
        "RepoTags": list(image.names),
        "RepoDigests": list(image.digests),
        "Parent": image.parent,
        "Comment": config.comment or (config.history[-1].comment if config.history else ""),
        "Created": config.created or "0001-01-01T00:00:00Z",
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": settings,
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": {
            "Name": "overlay2",
            "Data": {"UpperDir": layers[-1] if layers else "", "LowerDir": ":".join(reversed(layers[:-1]))},
        },
        "RootFS": {"Type": "layers", "Layers": config.rootfs.diff_ids},
        "Metadata": {"LastTagTime": rfc3339(image.added_at)},
    }
    if not config.variant:
        del found["Variant"]
    found |= {
        "Container": "",
        "ContainerConfig": _NO_CONTAINER,
    }  # in every version: docker-compose 1 asks for the newest
    if config.os_version:
        found["OsVersion"] = config.os_version
    if call.flag("manifests"):
        found |= _manifests(call, image, call.engine.image_users())
    return answer(found)


def _health(check: Any) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(check)
    return built


async def history(call: Call) -> web.StreamResponse:
    """How an image was made."""
    images = call.engine.images
    platforms.check(images.config(images.resolve(call.name).id), call.query.get("platform", ""), call.name)
    return answer(
        [
            {
                "Id": step.id,
                "Created": _seconds(step.created),
                "CreatedBy": step.created_by,
                "Tags": list(step.names) or None,
                "Size": step.size,
                "Comment": step.comment,
            }
            for step in images.history(images.resolve(call.name).id)
        ]
    )


def _seconds(text: str) -> int:
    try:
        return parse_time(text) // 10**9 if text else 0
    except InvalidArgument:
        return 0


async def tag(call: Call) -> web.StreamResponse:
    """Give an image one more name."""
    repository = call.query.get("repo", "")
    if not repository:
        raise InvalidArgument("invalid reference format: repo is empty")
    name = f"{repository}:{call.query['tag']}" if call.query.get("tag") else repository
    image = call.engine.images.tag(call.name, name)
    call.engine.events.image("tag", image.id, name)
    return web.Response(status=201)


async def remove(call: Call) -> web.StreamResponse:
    """Remove a name of an image, and with its last one the image."""
    images = call.engine.images
    for platform in call.query.getall("platforms", []):  # it has one, so that this is all of it or nothing
        platforms.check(images.config(images.resolve(call.name).id), platform, call.name)
    removed = await call.engine.images.remove(call.name, force=call.flag("force"), prune=not call.flag("noprune"))
    return answer(_removed(call, removed))


def _removed(call: Call, removed: Any) -> list[dict[str, str]]:
    found = []
    for each in removed:
        name = getattr(each, "name", None)
        if name is not None:
            found.append({"Untagged": name})
            call.engine.events.image("untag", name, name)
        else:
            found.append({"Deleted": each.id})
            call.engine.events.image("delete", each.id, each.id)
    return found


async def prune(call: Call) -> web.StreamResponse:
    """Remove images without a name, with ``dangling=false`` all that no container uses."""
    filters = call.filters("dangling", "label", "label!", "until")
    dangling = filters.flag("dangling")
    until = min((parse_time(text) for text in filters.get("until")), default=1 << 63)
    images = call.engine.images

    def accept(image: Image) -> bool:
        labels = images.config(image.id).config.labels
        return _created(image) <= until and filters.labels(labels) and filters.without(labels)

    pruned = await images.prune(dangling_only=dangling is not False, accept=accept)
    return answer({"ImagesDeleted": _removed(call, pruned.removed) or None, "SpaceReclaimed": pruned.reclaimed})


async def search(call: Call) -> web.StreamResponse:
    """Searching is something that one registry offers outside the distribution protocol."""
    raise InvalidArgument("searching is not supported by capsa: registries have no common way to be searched")
