"""Pulling: manifest, configuration, layers, in this order, each verified before the next is asked for.

A layer is unpacked as soon as it is there and has its digest: none depends on the layers below it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from capsa.errors import BrokenArchive, NotFound
from capsa.image import platforms
from capsa.image.archive import Found
from capsa.image.contents import Contents, Ready, together
from capsa.image.digest import of, short
from capsa.image.holds import Hold
from capsa.image.manifest import CONFIG_LIMIT, parse, parse_config
from capsa.image.progress import Meter, Progress, state, status
from capsa.image.reference import Reference
from capsa.image.registry import Registry
from capsa.image.stream import finished
from capsa.oci.image import Descriptor, Manifest, Platform

PARALLEL = 3
MAX_NESTING = 4


@dataclass
class Pull:
    """One pull from ``registry``.

    ``platform`` None means this machine's; then an image for another one is taken if the name offers no choice.
    """

    contents: Contents
    registry: Registry
    reference: Reference
    platform: Platform | None
    progress: Progress
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL))

    async def run(self) -> str:
        """Get the image and return its id; raises what `Registry` raises, `NotFound` without a fitting one."""
        name = self.reference.familiar
        top, media_type = await self.registry.manifest(self.reference.version)
        self.progress(status(f"Pulling from {self.reference.path}", self.reference.version))
        data, manifest = await self._chosen(top, media_type)
        async with self.contents.operation() as hold:
            config_bytes = await self._config(manifest.config, hold)
            config = parse_config(config_bytes, name)
            if self.platform and not platforms.fits(config.platform, self.platform):
                raise NotFound(
                    f"image with reference {name} was found but does not match the specified platform:"
                    f" wanted {self.platform}, actual: {config.platform}"
                )
            if len(config.rootfs.diff_ids) != len(manifest.layers):
                raise BrokenArchive(
                    f"the manifest of {name} has {len(manifest.layers)} layers,"
                    f" but its configuration lists {len(config.rootfs.diff_ids)}"
                )
            pairs = zip(manifest.layers, config.rootfs.diff_ids, strict=True)
            layers = {layer.digest: (layer, diff_id) for layer, diff_id in pairs}
            await together([self._layer(layer, diff_id, hold) for layer, diff_id in layers.values()])
            found = Found(config_bytes, config, manifest.layers, data, manifest.media_type)
            ready = await self.contents.prepare(found, hold, self.progress)
            newer = self._enter(ready, of(top), [*layers, manifest.config.digest])
        self.progress(status(f"Digest: {of(top)}"))
        what = "Downloaded newer image" if newer else "Image is up to date"
        self.progress(status(f"Status: {what} for {name}"))
        return ready.image.id

    async def _chosen(self, data: bytes, media_type: str) -> tuple[bytes, Manifest]:
        """Follow indexes to the manifest for the platform."""
        name = self.reference.familiar
        for _ in range(MAX_NESTING):
            parsed = parse(data, media_type, name)
            if isinstance(parsed, Manifest):
                return data, parsed
            chosen = platforms.choose(parsed.manifests, self.platform or platforms.native(), name)
            data, media_type = await self.registry.manifest(chosen.digest)
            if len(data) != chosen.size:
                raise BrokenArchive(f"the manifest {chosen.digest} of {name} has another size than its index says")
        raise BrokenArchive(f"the indexes of {name} are nested deeper than {MAX_NESTING}")

    async def _config(self, blob: Descriptor, hold: Hold) -> bytes:
        await self._get(blob, hold, lambda done: None)
        return await asyncio.to_thread(self.contents.blobs.read, blob.digest, CONFIG_LIMIT)

    async def _layer(self, blob: Descriptor, diff_id: str, hold: Hold) -> None:
        """Download a layer and unpack it, while others are still on their way."""
        id = short(blob.digest)
        hold(blob.digest)
        if self.contents.known(blob.digest):
            self.progress(state("Already exists", id))
            return
        self.progress(state("Pulling fs layer", id))
        async with self._slots:
            await self._get(blob, hold, Meter(self.progress, "Downloading", id, blob.size))
        self.progress(state("Download complete", id))
        await self.contents.unpack(diff_id, blob, hold, self.progress)

    async def _get(self, blob: Descriptor, hold: Hold, meter: Callable[[int], None]) -> None:
        """Download a blob unless it is there, or wait for somebody else who does."""
        hold(blob.digest)
        async with self.contents.once(blob.digest):
            if self.contents.known(blob.digest):
                return
            with self.contents.blobs.writer(blob.digest, blob.size) as writer:
                await self.registry.download(blob, writer, meter)
                await finished(writer.commit)

    def _enter(self, ready: Ready, digest: str, blobs: list[str]) -> bool:
        """Enter the image with its names; returns whether that was news."""
        catalog, repository = self.contents.catalog, self.reference.repository
        with catalog.database.transaction():
            image = self.contents.enter(ready)
            news = catalog.named(self.reference) != image
            if self.reference.tag and not self.reference.digest:
                catalog.name(self.reference, image)
            catalog.add_digest(repository, digest, image)
            for blob in blobs:
                catalog.add_origin(blob, repository)
        return news
