"""A container's files: ``/containers/{id}/archive``, ``/changes``, ``/export``, and ``/commit`` (Docker Engine API)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from capsa.api.docker.call import Call, answer, nothing
from capsa.errors import InvalidArgument

if TYPE_CHECKING:
    from capsa.api.docker.router import Router

_STAT = "X-Docker-Container-Path-Stat"


def routes(router: Router) -> None:
    """Serve them."""
    router.add("HEAD", "/containers/{}/archive", stat)
    router.add("GET", "/containers/{}/archive", read)
    router.add("PUT", "/containers/{}/archive", write)
    router.add("GET", "/containers/{}/export", export)
    router.add("GET", "/containers/{}/changes", changes)
    router.add("GET", "/containers/{}/plan", plan)
    router.add("POST", "/commit", commit)


def _path(call: Call) -> str:
    path = call.query.get("path", "")
    if not path:
        raise InvalidArgument("bad parameter: path cannot be empty")
    if "\0" in path:
        raise InvalidArgument("bad parameter: path contains a null character")
    return path


async def stat(call: Call) -> web.StreamResponse:
    """What is at a path."""
    from capsa.engine import archive
    from capsa.engine.archive_worker import header

    container = call.engine.containers.find(call.name)
    call.end_when_left()
    found = await archive.stat(call.engine, container, _path(call))
    return web.Response(headers={_STAT: header(found)})


async def read(call: Call) -> web.StreamResponse:
    """A file or directory as a tar archive."""
    from capsa.engine import archive
    from capsa.engine.archive_worker import header

    container = call.engine.containers.find(call.name)
    call.end_when_left()
    async with archive.read(call.engine, container, _path(call)) as (found, pieces):
        call.engine.events.container("archive-path", container)
        response = await call.stream("application/x-tar", {_STAT: header(found)})
        await call.send(response, pieces)
    return response


async def write(call: Call) -> web.StreamResponse:
    """Unpack a tar archive into a directory."""
    from capsa.engine import archive

    container = call.engine.containers.find(call.name)
    call.end_when_left()
    await archive.write(
        call.engine,
        container,
        _path(call),
        call.request.content.iter_any(),
        keep_owner=call.flag("copyUIDGID"),
        replace=not call.flag("noOverwriteDirNonDir"),
    )
    call.engine.events.container("extract-to-dir", container)
    return nothing(200)


async def export(call: Call) -> web.StreamResponse:
    """The file tree as a tar archive."""
    from capsa.engine import archive

    container = call.engine.containers.find(call.name)
    call.end_when_left()
    async with archive.export(call.engine, container) as pieces:
        response = await call.stream("application/octet-stream")
        await call.send(response, pieces)
    call.engine.events.container("export", container)
    return response


async def plan(call: Call) -> web.StreamResponse:
    """What it would become on its platform; not in Docker's API."""
    from capsa.engine.plan import plan

    return web.Response(text=await plan(call.engine, call.engine.containers.find(call.name)))


async def changes(call: Call) -> web.StreamResponse:
    """What was changed in the image's files."""
    from capsa.engine import archive

    container = call.engine.containers.find(call.name)
    call.end_when_left()
    async with archive.changes(call.engine, container) as pieces:
        first = await anext(pieces)
        response = await call.stream()
        await response.write(first)
        await call.send(response, pieces)
    return response


async def commit(call: Call) -> web.StreamResponse:
    """Make an image of a container."""
    from capsa.engine import commit as commits
    from capsa.engine.config import Config, parse
    from capsa.engine.validation import check_config

    query = call.query
    container = call.engine.containers.find(query.get("container", ""))
    name = query.get("repo", "")
    if name and query.get("tag"):
        name = f"{name}:{query['tag']}"
    body = await call.json()
    config: Config | None = None
    if body is not None:
        config = parse(body, Config, "the image's configuration")
        check_config(config)
    call.end_when_left()
    image = await commits.commit(
        call.engine,
        container,
        name=name,
        author=query.get("author", ""),
        comment=query.get("comment", ""),
        pause=call.flag("pause", True),
        config=config,
        changes=[line for each in query.getall("changes", []) for line in each.splitlines()],
    )
    if name:
        call.engine.events.image("tag", image.id, name)
    call.engine.events.container("commit", container, comment=query.get("comment", ""), imageID=image.id, imageRef=name)
    return answer({"Id": image.id}, 201)
