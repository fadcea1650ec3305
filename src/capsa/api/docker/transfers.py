"""Images on their way in and out: pull, import, push, load, save, and how long transfers tell their progress."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from capsa.api.docker.call import Call
from capsa.api.docker.errors import explain
from capsa.errors import CapsaError, InvalidArgument, Unauthorized
from capsa.image import platforms
from capsa.image.credentials import Credentials, from_header
from capsa.image.reference import parse as parse_reference

if TYPE_CHECKING:
    from capsa.api.docker.router import Router

Message = dict[str, Any]
_encode = msgspec.json.Encoder().encode
_WAITING = 1000  # messages


def routes(router: Router) -> None:
    """Serve them."""
    router.add("POST", "/images/create", create)
    router.add("POST", "/images/load", load)
    router.add("GET", "/images/get", save)
    router.add("GET", "/images/{}/get", save)
    router.add("POST", "/images/{}/push", push)


async def create(call: Call) -> web.StreamResponse:
    """Pull an image, or make one of a root file system's archive (``fromSrc=-``)."""
    images, query = call.engine.images, call.query
    platform = query.get("platform", "")
    if query.get("fromSrc"):
        if query["fromSrc"] != "-":
            raise InvalidArgument("an image can be imported from the request's body only (fromSrc=-)")
        name = query.get("repo", "")
        if name and query.get("tag"):
            name = f"{name}:{query['tag']}"
        changes = query.getall("changes", [])

        async def import_(progress: Callable[[Message], None]) -> None:
            image = await images.import_(
                call.request.content.iter_chunked(1 << 18),
                name,
                changes=changes,
                message=query.get("message", ""),
                platform=platform,
            )
            call.engine.events.image("import", image.id, name or image.id)
            progress({"status": image.id})

        return await _transfer(call, import_)
    name = query.get("fromImage", "").removesuffix(":")
    if not name:
        raise InvalidArgument("invalid reference format: neither fromImage nor fromSrc is given")
    wanted = query.get("tag", "")
    if wanted:
        name = f"{name}@{wanted}" if wanted.startswith("sha256:") else f"{name}:{wanted}"
    auth = credentials(call)

    async def pull(progress: Callable[[Message], None]) -> None:
        reference = parse_reference(name)
        names = [name]
        if not reference.tag and not reference.digest:  # as Docker: all of them
            names = [f"{name}:{each}" for each in await images.tags(name, auth=auth)]
        for each in names:
            await images.pull(each, platform=platform, auth=auth, progress=progress)
            call.engine.events.image("pull", each, each)

    return await _transfer(call, pull)


async def push(call: Call) -> web.StreamResponse:
    """Push an image."""
    images = call.engine.images
    name = f"{call.name}:{call.query['tag']}" if call.query.get("tag") else call.name
    platforms.check(images.config(images.resolve(name).id), call.query.get("platform", ""), name)
    auth = credentials(call)

    async def send(progress: Callable[[Message], None]) -> None:
        await images.push(name, auth=auth, progress=progress)
        call.engine.events.image("push", name, name)

    return await _transfer(call, send)


async def load(call: Call) -> web.StreamResponse:
    """Load an image archive."""
    images = call.engine.images
    platform = call.query.get("platform", "")

    async def take(progress: Callable[[Message], None]) -> None:
        quiet = call.flag("quiet")
        loaded = await images.load(
            call.request.content.iter_chunked(1 << 18),
            platform=platform,
            progress=(lambda message: None) if quiet else progress,
        )
        for each in loaded:
            if each.renamed:
                lost = (
                    f"The image {each.name} already exists, renaming the old one with ID {each.renamed} to empty string"
                )
                progress({"stream": lost + "\n"})
            text = f"Loaded image: {each.name}" if each.name else f"Loaded image ID: {each.id}"
            progress({"stream": text + "\n"})
            call.engine.events.image("load", each.id, each.name or each.id)

    return await _transfer(call, take, plain_errors=False)


async def save(call: Call) -> web.StreamResponse:
    """One image, or those of ``names``, as an archive."""
    names = [call.name] if call.name else call.query.getall("names", [])
    names = [each for entry in names for each in entry.split(",") if each]
    if not names:
        raise InvalidArgument("no image was named")
    images = call.engine.images
    for name in names if call.query.get("platform") else ():
        platforms.check(images.config(images.resolve(name).id), call.query["platform"], name)
    chunks: AsyncIterator[bytes] = images.save(names)
    first = await anext(chunks, b"")
    response = await call.stream("application/x-tar")
    await response.write(first)
    await call.send(response, chunks)
    return response


async def _transfer(
    call: Call, work: Callable[[Callable[[Message], None]], Awaitable[None]], *, plain_errors: bool = True
) -> web.StreamResponse:
    """Do ``work`` and send its messages as they come.

    What fails before the first message is an ordinary error answer (unless ``plain_errors`` is false); later it is a
    message of its own, as Docker has it. The work ends when the client leaves.
    """
    call.end_when_left()
    queue: asyncio.Queue[Message | None] = asyncio.Queue()

    def tell(message: Message) -> None:
        # Many clients read nothing before they have sent all: what is only a bar's newest length must not pile up.
        if queue.qsize() < _WAITING or not message.get("progressDetail"):
            queue.put_nowait(message)

    async def run() -> None:
        try:
            await work(tell)
        finally:
            queue.put_nowait(None)

    task = asyncio.ensure_future(run())
    response: web.StreamResponse | None = None
    try:
        while (message := await queue.get()) is not None:
            if response is None:
                response = await call.stream()
            batch = [message]
            while not queue.empty():
                more = queue.get_nowait()
                if more is None:
                    queue.put_nowait(None)
                    break
                batch.append(more)
            await response.write(b"".join(_encode(each) + b"\r\n" for each in batch))
        await task
    except (CapsaError, OSError) as error:
        if response is None and isinstance(error, Unauthorized):
            # As dockerd: its client takes a 401 for a request to ask for a password, terminal or not.
            raise CapsaError(str(error)) from error
        if isinstance(error, ConnectionError):
            raise
        if response is None:
            if plain_errors:
                raise
            response = await call.stream()
        text = explain(error)[1]
        await response.write(_encode({"errorDetail": {"message": text}, "error": text}) + b"\r\n")
    finally:
        task.cancel()
    return response if response is not None else await call.stream()


def credentials(call: Call) -> Credentials:
    """What the client gave for the registry (``X-Registry-Auth``); raises `InvalidArgument`."""
    return from_header(call.request.headers.get("X-Registry-Auth", ""))
