"""What images consist of on this machine, kept consistent: blobs, layers, and the tables that refer to them.

An image is added, with its names, in one transaction when everything it needs is there. Before that, what an operation
has brought is held (`capsa.image.holds`), afterwards the tables refer to it; the rest is garbage and goes away at the
operation's end.
"""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from capsa.database import Database
from capsa.errors import BrokenArchive, CapsaError, DigestMismatch, NotFound
from capsa.image import digest as digests
from capsa.image.archive import Found, synthesized
from capsa.image.arrivals import Arrivals
from capsa.image.blobs import CHUNK, BlobStore
from capsa.image.catalog import Catalog, Image
from capsa.image.holds import Hold, Holds
from capsa.image.layers import LayerStore
from capsa.image.manifest import CONFIG_LIMIT, MANIFEST_LIMIT, parse
from capsa.image.progress import Meter, Progress, state
from capsa.image.recipes import Interrupted
from capsa.image.removal import Users
from capsa.image.stream import finished
from capsa.image.workers import Workers
from capsa.oci.image import Descriptor, Manifest

EXTRACTING = "Extracting"
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ready:
    """An image whose content is here and verified, but which no table knows yet."""

    image: Image
    diff_ids: list[str]
    manifest_digest: str
    manifest_size: int
    manifest: Manifest


class Contents:
    """Blobs, layers and tables below ``root``; for the event loop's thread, except where noted."""

    def __init__(self, root: Path, database: Database, layers: LayerStore, users: Callable[[], Users]) -> None:
        self.root = root
        self.catalog = Catalog(database)
        self.blobs = BlobStore(root)
        self.layers = layers
        self.recipes = layers.recipes
        self.holds = Holds()
        self._workers = Workers(layers)
        self._users = users
        self._collecting = asyncio.Lock()
        self._busy: dict[str, asyncio.Future[None]] = {}
        self._settling: asyncio.Task[None] | None = None
        self._compacting: asyncio.Task[None] | None = None
        self._closing = False
        self._in_work = ""
        self._idle = asyncio.Event()
        self._missed = False

    def known(self, digest: str) -> bool:
        """Whether the content of a digest is here, as a blob or by a recipe; hold it first. From any thread."""
        return self.blobs.has(digest) or (self.recipes.has(digest) and self.layers.has(digest))

    @asynccontextmanager
    async def operation(self) -> AsyncIterator[Hold]:
        """What the block holds is kept meanwhile; what nothing refers to at the end is removed."""
        try:
            with self.holds.operation() as hold:
                yield hold
        except BaseException:
            await asyncio.shield(self.collect())
            raise
        await asyncio.shield(self._sweep(hold.digests))

    async def expect(self) -> None:
        """Something is coming that will have to be unpacked."""
        await self._workers.prepare()

    def arrivals(self, hold: Hold, progress: Progress, verb: str) -> Arrivals:
        """For layers that are unpacked while they arrive; ``verb`` is what progress calls that."""

        async def announced(diff_id: str) -> None:
            hold(diff_id)
            async with self._collecting:  # which has looked at what is held already
                pass

        return Arrivals(self._workers, announced, lambda label, size: Meter(progress, verb, label, size))

    async def prepare(
        self, found: Found, hold: Hold, progress: Progress, *, parent: str = "", verb: str = EXTRACTING
    ) -> Ready:
        """Unpack the layers of an image and verify them, so that only `enter` is left to be done.

        The layers' blobs are there already; ``verb`` is what progress calls the unpacking. Raises `DigestMismatch` and
        whatever unpacking raises.
        """
        image = digests.of(found.config_bytes)
        hold(image)
        diff_ids = found.config.rootfs.diff_ids
        if len(diff_ids) != len(found.layers):
            raise BrokenArchive(
                f"the image {digests.short(image)} has {len(found.layers)} layers,"
                f" but its configuration lists {len(diff_ids)}"
            )
        layers = dict(zip(diff_ids, found.layers, strict=True))
        await together([self.unpack(diff_id, layer, hold, progress, verb) for diff_id, layer in layers.items()])
        manifest_bytes, manifest = found.manifest, None
        if manifest_bytes:
            parsed = parse(manifest_bytes, found.manifest_type, image)
            manifest = parsed if isinstance(parsed, Manifest) else None
        if manifest is None:
            manifest_bytes, manifest = synthesized(found)
        hold(digests.of(manifest_bytes))
        await asyncio.to_thread(self.blobs.write, found.config_bytes)
        manifest_digest = await asyncio.to_thread(self.blobs.write, manifest_bytes)
        size = sum([self.layers.size(diff_id) for diff_id in diff_ids])
        entry = Image(
            id=image,
            size=size,
            architecture=found.config.architecture,
            os=found.config.os,
            variant=found.config.variant,
            created=found.config.created,
            parent=parent,
        )
        return Ready(entry, diff_ids, manifest_digest, len(manifest_bytes), manifest)

    def enter(self, ready: Ready) -> str:
        """Enter an image, in the transaction that also gives it its names; returns its id."""
        with self.catalog.database.transaction():
            self.catalog.add(ready.image, ready.diff_ids)
            self.catalog.add_manifest(ready.image.id, ready.manifest_digest, ready.manifest_size, ready.manifest)
        self._settle_soon()
        self._compact_soon()
        return ready.image.id

    def read(self, descriptor: Descriptor) -> Iterator[bytes]:
        """A blob's content, verified as it is read; blocks. From any thread; hold it first."""
        seen = hashlib.sha256()
        for chunk in self._chunks(descriptor.digest):
            seen.update(chunk)
            yield chunk
        if "sha256:" + seen.hexdigest() != descriptor.digest:
            raise DigestMismatch(
                f"the blob {descriptor.digest} below {self.root} was damaged: remove its image and get it again"
            )

    def _chunks(self, digest: str) -> Iterator[bytes]:
        try:
            file = self.blobs.open(digest)
        except NotFound:
            if not self.recipes.has(digest):
                raise
            yield from self.recipes.read(digest, self.layers.path(digest))
            return
        with file:
            while chunk := file.read(CHUNK):
                yield chunk

    def descriptors(self, image: str) -> list[Descriptor]:
        """The layers of an image as its newest manifest has them, lowest first."""
        return self.manifest(image)[1].layers

    def manifest(self, image: str) -> tuple[bytes, Manifest]:
        """The newest manifest of an image; raises `BrokenArchive` if it was damaged."""
        digest = self.catalog.manifest(image) or ""
        data = self.blobs.read(digest, MANIFEST_LIMIT)
        parsed = parse(data, "", digests.short(image))
        if not isinstance(parsed, Manifest):
            raise BrokenArchive(f"{digest} is not the manifest of an image")
        return data, parsed

    async def unpack(
        self, diff_id: str, layer: Descriptor, hold: Hold, progress: Progress, verb: str = EXTRACTING
    ) -> None:
        """Unpack one layer, unless it is there; two operations that need the same one wait for the same unpacking."""
        hold(diff_id)
        hold(layer.digest)
        async with self._collecting:
            pass
        async with self.once(diff_id):
            if self.layers.has(diff_id):
                return
            id = digests.short(layer.digest)
            meter = Meter(progress, verb, id, layer.size)
            await self._workers.unpack(
                self.blobs.path(layer.digest), diff_id=diff_id, media_type=layer.media_type, progress=meter
            )
            meter.finish()
            if verb == EXTRACTING:
                progress(state("Pull complete", id))

    @asynccontextmanager
    async def once(self, digest: str) -> AsyncIterator[None]:
        """Wait until nobody else brings that digest here; in the block one does so oneself."""
        while busy := self._busy.get(digest):
            await asyncio.wait([busy])
        mark = asyncio.get_running_loop().create_future()
        self._busy[digest] = mark
        try:
            yield
        finally:
            del self._busy[digest]
            mark.set_result(None)

    async def collect(self, *, thorough: bool = True) -> int:
        """Remove blobs and layers that nothing refers to; returns the bytes freed.

        ``thorough``: look for files without a layer, too, as an unpacking that failed leaves them.
        """
        async with self._collecting:
            self._forget_removed()
            await self._leave_alone(self.catalog.all_diff_ids())
            with self.holds.lock:
                held = self.holds.counts.keys()
                wanted, layers = self.catalog.all_blobs(), self.catalog.all_diff_ids()
                there = {*self.blobs, *self.recipes, *self.layers.diff_ids()}
                self._missed = bool((there - wanted - layers) & held)
                garbage = {digest for digest in self.blobs if digest not in wanted | held}
                freed = sum([self.blobs.remove(digest) for digest in garbage])
                layers |= held
                freed += sum([self.recipes.remove(each) for each in [*self.recipes] if each not in layers])
            self.catalog.forget_origins(garbage)
            if thorough or not layers.issuperset(self.layers.diff_ids()):
                freed += await finished(self.layers.collect, layers)
            return freed

    async def _sweep(self, held: set[str]) -> None:
        """Remove those blobs and layers of ``held`` that nothing refers to."""
        unneeded = held - self.catalog.all_diff_ids()
        if self._missed or any(self.layers.has(each) for each in unneeded if digests.is_digest(each)):
            await self.collect(thorough=False)
            return
        with self.holds.lock:
            keep = self.catalog.all_blobs() | self.holds.counts.keys()
            for digest in held - keep:
                self.blobs.remove(digest)

    def _forget_removed(self) -> None:
        """Images that were removed by force, and whose last container is gone by now."""
        removed = self.catalog.removed()
        if removed:
            users = self._users()
            for image in removed:
                if not users.get(image):
                    self.catalog.remove(image)

    def _compact_soon(self) -> None:
        if self._compacting is None and not self._closing:
            self._compacting = asyncio.ensure_future(self._compact())
            self._compacting.add_done_callback(lambda _: setattr(self, "_compacting", None))

    async def _compact(self) -> None:
        """Replace blobs of plain layers by recipes (see `capsa.image.recipes`)."""
        done: set[str] = set()
        while not self._closing and (plain := ({*self.blobs} - done) & self.catalog.all_diff_ids()):
            diff_id = min(plain)
            done.add(diff_id)
            self._in_work = diff_id
            try:
                with self.holds.operation() as hold:
                    hold(diff_id)
                    await self._replace(diff_id)
            except Interrupted:
                continue
            except (OSError, CapsaError) as error:
                log.warning("the layer %s stays on disk as a blob, too: %s", diff_id, error)
            finally:
                self._in_work = ""
                self._idle.set()
                self._idle.clear()

    async def _replace(self, diff_id: str) -> None:
        if not self.layers.has(diff_id):
            return
        if not self.recipes.has(diff_id):
            blob, tree = self.blobs.path(diff_id), self.layers.path(diff_id)
            await finished(self.recipes.make, diff_id, blob, tree, lambda: self._in_work == diff_id)
        self.blobs.remove(diff_id)

    async def _leave_alone(self, needed: set[str]) -> None:
        """Have the work on a recipe given up that nobody needs any more."""
        if self._in_work and self._in_work not in needed:
            self._in_work = ""
            await self._idle.wait()

    def _settle_soon(self) -> None:
        if self._settling is None:
            self._settling = asyncio.ensure_future(self._settle())
            self._settling.add_done_callback(lambda _: setattr(self, "_settling", None))

    async def _settle(self) -> None:
        """Bring the newest images to the disk, then note that they are there."""
        await asyncio.sleep(1)
        images = self.catalog.unsettled()
        try:
            await asyncio.to_thread(_sync, self.root)
            await asyncio.to_thread(self.layers.settle)
        except (OSError, CapsaError) as error:
            log.warning("cannot sync %s: %s", self.root, error)
            return
        self.catalog.settle(images)
        ctypes.CDLL(None).malloc_trim(0)  # the pieces of archives that went through here

    async def close(self) -> None:
        """Wait for what is under way in the background."""
        if self._settling:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)
        self._closing = True
        if self._compacting:
            self._in_work = ""
            await asyncio.gather(self._compacting, return_exceptions=True)
        await self._workers.close()
        self.layers.close()

    async def tidy(self) -> None:
        """After a crash: drop images that a power failure damaged, and everything that nothing refers to."""
        await asyncio.to_thread(self.layers.recover)
        self.blobs.recover()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        mark = self.root / "boot"
        same_boot = mark.exists() and mark.read_text() == boot
        for image in self.catalog.images():
            lost = self._lost(image.id, settled=same_boot)
            if lost:
                log.warning("the image %s is dropped: %s is gone or damaged", digests.short(image.id), lost)
                self.catalog.remove(image.id)
        mark.write_text(boot)
        await self.collect()
        if self.catalog.unsettled():
            self._settle_soon()
        self._compact_soon()

    def _lost(self, image: str, *, settled: bool) -> str:
        """What an image misses. Images that had not settled before the machine went down are not trusted."""
        if not settled and image in self.catalog.unsettled():
            return "what was written just before the machine went down"
        for diff_id in self.catalog.diff_ids(image):
            if not self.layers.has(diff_id):
                return f"the layer {diff_id}"
        try:
            self.blobs.read(image, CONFIG_LIMIT)
        except CapsaError:
            return "the configuration"
        return ""


def _sync(path: Path) -> None:
    """Write the file system of ``path`` to disk. Not through `capsa.sys.call`, which keeps the interpreter's lock."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            raise OSError(ctypes.get_errno(), "syncfs", str(path))
    finally:
        os.close(fd)


async def together(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all and return their results; the first failure ends the others and is raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
