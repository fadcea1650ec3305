"""A registry's API (OCI distribution-spec 1.1): manifests, blobs, uploads, tags."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import msgspec

from capsa.errors import BrokenArchive, CapsaError, DigestMismatch, Forbidden, NotFound, Unauthorized, Unavailable
from capsa.image import digest as digests
from capsa.image.blobs import BlobWriter
from capsa.image.credentials import ANONYMOUS, Credentials
from capsa.image.manifest import CONFIG_LIMIT, MANIFEST_LIMIT, accepted
from capsa.image.reference import Reference
from capsa.image.stream import finished
from capsa.image.transport import Failed, Timing, Transport, bounded, words
from capsa.oci.image import Descriptor

WRITE = 1 << 20
PART = 8 << 20
PROGRESS = 64 << 10  # less than this is no reason to go on asking a registry that breaks off
MAX_TAGS = 100_000
MAX_EMPTY_PAGES = 10  # in a list of tags
T = TypeVar("T")
Temporary = (aiohttp.ClientError, TimeoutError, ConnectionError, OSError)


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class Registry:
    """The registry that ``reference`` belongs to, and there its repository; an async context manager.

    Connections that break are tried again with growing pauses. What a registry says is believed only where a digest
    confirms it.
    """

    def __init__(
        self,
        reference: Reference,
        credentials: Credentials = ANONYMOUS,
        *,
        insecure: bool = False,
        push: bool = False,
        timing: Timing | None = None,
    ) -> None:
        self._reference = reference
        self._timing = timing or Timing()
        self._transport = Transport(reference.domain, credentials, insecure=insecure, timing=self._timing)
        self._path = f"/v2/{reference.path}"
        self._scopes: tuple[str, ...] = (f"repository:{reference.path}:{'pull,push' if push else 'pull'}",)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def manifest(self, version: str) -> tuple[bytes, str]:
        """The manifest or index with a tag or digest, and its media type. A digest is verified.

        Raises `NotFound` in Docker's words, `Unauthorized`, `Unavailable`, `BrokenArchive`, `DigestMismatch`.
        """

        async def get() -> tuple[bytes, str]:
            async with (
                asyncio.timeout(self._timing.answer),
                self._transport.request(
                    "GET", f"{self._path}/manifests/{version}", self._scopes, headers={"Accept": accepted()}
                ) as response,
            ):
                data = await bounded(response, MANIFEST_LIMIT)
                return data, response.headers.get("Content-Type", "").partition(";")[0].strip()

        name = f"{self._reference.familiar_repository}{'@' if ':' in version else ':'}{version}"
        try:
            data, media_type = await self._patiently(get)
        except NotFound as error:
            raise NotFound(f"manifest for {name} not found: {error}") from error
        except (Unauthorized, Forbidden) as error:
            if isinstance(error, Unauthorized) and "capsa login" in str(error):
                raise
            raise NotFound(
                f"pull access denied for {self._reference.familiar_repository}, repository does not exist or may"
                f" require 'docker login': {error}"
            ) from error
        if len(data) > MANIFEST_LIMIT:
            raise BrokenArchive(f"the manifest of {name} is larger than {MANIFEST_LIMIT >> 20} MiB")
        if digests.is_digest(version) and digests.of(data) != version:
            raise DigestMismatch(f"the manifest of {name} has the digest {digests.of(data)}: it was altered on its way")
        return data, media_type

    async def tags(self) -> list[str]:
        """All tags of the repository, page by page."""
        found: list[str] = []
        known = empty = 0
        path = f"{self._path}/tags/list"
        while path and len(found) < MAX_TAGS:

            async def get(path: str = path) -> tuple[bytes, str]:
                async with (
                    asyncio.timeout(self._timing.answer),
                    self._transport.request("GET", path, self._scopes) as response,
                ):
                    following = response.links["next"].get("url") if "next" in response.links else ""
                    return await bounded(response, MANIFEST_LIMIT), str(following or "")

            try:
                data, following = await self._patiently(get)
                found += msgspec.json.decode(data, type=_Tags).tags or []
            except NotFound as error:
                raise NotFound(f"there is no repository {self._reference.familiar_repository}: {error}") from error
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                raise Unavailable(f"{self._reference.domain} gave a malformed list of tags: {error}") from error
            empty += len(found) == known
            if following and (following == path or empty > MAX_EMPTY_PAGES):
                raise Unavailable(f"{self._reference.domain} gives a list of tags without end")
            path, known = following, len(found)
        return found

    async def blob(self, descriptor: Descriptor) -> bytes:
        """A small blob; raises `NotFound`, `BrokenArchive` (it is too large), `DigestMismatch`."""

        async def get() -> bytes:
            async with (
                asyncio.timeout(self._timing.answer),
                self._transport.request("GET", f"{self._path}/blobs/{descriptor.digest}", self._scopes) as response,
            ):
                return await bounded(response, CONFIG_LIMIT)

        data = await self._patiently(get)
        if digests.of(data) != descriptor.digest:
            raise DigestMismatch(f"the blob {descriptor.digest} of {self._reference.familiar} was altered on its way")
        return data

    async def download(self, blob: Descriptor, writer: BlobWriter, progress: Callable[[int], None]) -> None:
        """Get a blob into ``writer``, going on where a connection broke. ``progress`` gets the bytes there so far."""
        patience = _Patience(self._timing)
        farthest = 0
        while True:
            try:
                await self._download_some(blob, writer, progress)
                if writer.size == blob.size:
                    return
                raise aiohttp.ClientPayloadError("the connection was closed too early")
            except NotFound as error:
                raise NotFound(f"{self._reference.domain} does not have the blob {blob.digest}: {error}") from error
            except Temporary as error:
                await self._pause(patience, error, progressed=writer.size >= farthest + PROGRESS)
                farthest = max(farthest, writer.size)
            except Failed as error:
                if error.code < 500 and error.code not in (408, 416, 429):
                    raise
                if error.code == 416:
                    writer.restart()
                await patience.after(error, progressed=False)

    async def _download_some(self, blob: Descriptor, writer: BlobWriter, progress: Callable[[int], None]) -> None:
        headers = {"Range": f"bytes={writer.size}-"} if writer.size else {}
        async with self._transport.request(
            "GET", f"{self._path}/blobs/{blob.digest}", self._scopes, headers=headers
        ) as response:
            if writer.size and not (
                response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {writer.size}-")
            ):
                writer.restart()
            pace = _Pace(self._timing)
            waiting: list[bytes] = []
            size = 0
            try:
                async for part in response.content.iter_any():
                    waiting.append(part)
                    size += len(part)
                    pace(len(part))
                    if size >= WRITE:
                        taken, waiting, size = b"".join(waiting), [], 0
                        await finished(writer.write, taken)
                        progress(writer.size)
            finally:
                if waiting:
                    await finished(writer.write, b"".join(waiting))
            progress(writer.size)

    async def has(self, digest: str) -> bool:
        """Whether the repository has a blob."""

        async def head() -> bool:
            async with (
                asyncio.timeout(self._timing.answer),
                self._transport.request(
                    "HEAD", f"{self._path}/blobs/{digest}", self._scopes, allow=frozenset({404})
                ) as response,
            ):
                return response.status == 200

        return await self._patiently(head)

    async def mount(self, digest: str, origin: str) -> bool:
        """Take a blob over from the repository with the path ``origin`` of the same registry; False: that cannot be."""
        scopes = (*self._scopes, f"repository:{origin}:pull")

        async def post() -> bool:
            async with (
                asyncio.timeout(self._timing.answer),
                self._transport.request(
                    "POST", f"{self._path}/blobs/uploads/?mount={digest}&from={origin}", scopes, follow=False
                ) as response,
            ):
                if response.status == 201:
                    return True
                location = self._transport.location(response.url, response)
            async with self._transport.request("DELETE", location, self._scopes, allow=frozenset(range(400, 600))):
                return False

        try:
            return await self._patiently(post)
        except (Unauthorized, Forbidden, NotFound, Failed):
            return False

    async def upload(
        self, blob: Descriptor, content: Callable[[], AsyncIterator[bytes]], progress: Callable[[int], None]
    ) -> None:
        """Give the repository a blob: in one request, or in parts of 8 MiB if it is larger."""

        async def attempt() -> None:
            async with (
                asyncio.timeout(self._timing.answer),
                self._transport.request(
                    "POST", f"{self._path}/blobs/uploads/", self._scopes, follow=False, headers={"Content-Length": "0"}
                ) as response,
            ):
                location = self._transport.location(response.url, response)
            pieces = content()
            sent = 0
            while blob.size - sent > PART:
                part = await _gather(pieces, PART)
                headers = {
                    "Content-Type": "application/octet-stream",
                    "Content-Range": f"{sent}-{sent + len(part) - 1}",
                    "Content-Length": str(len(part)),
                }
                async with self._transport.request(
                    "PATCH", location, self._scopes, headers=headers, body=partial(bytes, part), follow=False
                ) as response:
                    location = self._transport.location(response.url, response)
                sent += len(part)
                progress(sent)
            rest = await _gather(pieces, PART)
            if sent + len(rest) != blob.size:
                raise DigestMismatch(f"the blob {blob.digest} has {sent + len(rest)} bytes where {blob.size} are noted")
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(rest))}
            async with self._transport.request(
                "PUT",
                location.update_query({"digest": blob.digest}),
                self._scopes,
                headers=headers,
                body=lambda: rest,
                follow=False,
            ):
                progress(blob.size)

        await self._patiently(attempt)

    async def put_manifest(self, version: str, data: bytes, media_type: str) -> None:
        """Store a manifest under a tag or its digest."""

        async def put() -> None:
            async with (
                asyncio.timeout(self._timing.answer),
                self._transport.request(
                    "PUT",
                    f"{self._path}/manifests/{version}",
                    self._scopes,
                    headers={"Content-Type": media_type},
                    body=lambda: data,
                ),
            ):
                return

        await self._patiently(put)

    async def _patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try again while the registry is not reachable or overloaded."""
        patience = _Patience(self._timing)
        while True:
            try:
                return await attempt()
            except Temporary as error:
                await self._pause(patience, error, progressed=False)
            except Failed as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise
                await patience.after(error, progressed=False)

    async def _pause(self, patience: _Patience, error: BaseException, *, progressed: bool) -> None:
        """Wait before another attempt, unless the registry never answered and nobody listens there."""
        lost = Unavailable(f"the registry {self._reference.domain} cannot be reached: {words(error)}")
        if isinstance(error, aiohttp.ClientConnectorError) and not self._transport.reached:
            raise lost from error
        await patience.after(lost, progressed=progressed)


class _Patience:
    """Pauses between attempts: half a second, then twice as long each time, with some chance in it."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._failed = 0

    async def after(self, error: CapsaError, *, progressed: bool) -> None:
        """Wait; raises ``error`` once there were too many in a row without any progress."""
        self._failed = 1 if progressed else self._failed + 1
        if self._failed >= self._timing.attempts:
            raise error
        await asyncio.sleep(self._timing.pause * 2 ** (self._failed - 1) * random.uniform(0.8, 1.2))


class _Pace:
    """Notices a sender that keeps a connection open and sends next to nothing."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        self._since = time.monotonic()
        self._bytes = 0

    def __call__(self, count: int) -> None:
        self._bytes += count
        now = time.monotonic()
        if now - self._since >= self._timing.idle:
            if self._bytes < self._timing.rate * (now - self._since):
                raise TimeoutError
            self._since, self._bytes = now, 0


async def _gather(pieces: AsyncIterator[bytes], size: int) -> bytes:
    """The next ``size`` bytes, fewer at the end; pieces must divide ``size``."""
    parts: list[bytes] = []
    total = 0
    while total < size:
        piece = await anext(pieces, b"")
        if not piece:
            break
        parts.append(piece)
        total += len(piece)
    return b"".join(parts)
