"""Pushing: blobs first, those that the registry has, here or in a neighbouring repository, are not sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import msgspec
from isal import isal_zlib

from capsa.errors import Forbidden, Unauthorized
from capsa.image.contents import Contents, together
from capsa.image.digest import of, short
from capsa.image.holds import Hold
from capsa.image.progress import Meter, Progress, state, status
from capsa.image.reference import Reference, parse_whole
from capsa.image.registry import Registry
from capsa.image.stream import finished
from capsa.oci.image import DOCKER_LAYER, DOCKER_LAYER_GZIP, OCI_LAYER, OCI_LAYER_GZIP, Descriptor, Manifest

PARALLEL = 5
LEVEL = 3
PIECE = 1 << 20
_COMPRESSED = {OCI_LAYER: OCI_LAYER_GZIP, DOCKER_LAYER: DOCKER_LAYER_GZIP}


@dataclass
class Push:
    """One push of ``image`` to the tag ``reference`` of ``registry``."""

    contents: Contents
    registry: Registry
    reference: Reference
    image: str
    progress: Progress
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL))

    async def run(self) -> str:
        """Send it; returns the manifest's digest there. Raises what `Registry` raises, and `Forbidden`."""
        self.progress(status(f"The push refers to repository [{self.reference.repository}]"))
        async with self.contents.operation() as hold:
            data, manifest = self.contents.manifest(self.image)
            layers = {layer.digest: layer for layer in manifest.layers}
            for blob in (*layers, manifest.config.digest, of(data)):
                hold(blob)
            try:
                pushed = await together([self._layer(layer, hold) for layer in layers.values()])
                await self._send(manifest.config, "")
                sent = dict(zip(layers, pushed, strict=True))
                if any(sent[digest].digest != digest for digest in sent):
                    manifest = msgspec.structs.replace(
                        manifest, layers=[sent[layer.digest] for layer in manifest.layers]
                    )
                    data = msgspec.json.encode(manifest)
                await self.registry.put_manifest(self.reference.tag, data, manifest.media_type)
            except (Unauthorized, Forbidden) as error:
                if "capsa login" in str(error):
                    raise
                raise Forbidden(f"requested access to {self.reference.repository} is denied: {error}") from error
            digest = of(data)
            self._enter(digest, manifest)
        self.progress(status(f"{self.reference.tag}: digest: {digest} size: {len(data)}"))
        self.progress({"progressDetail": {}, "aux": {"Tag": self.reference.tag, "Digest": digest, "Size": len(data)}})
        return digest

    async def _layer(self, layer: Descriptor, hold: Hold) -> Descriptor:
        """Send a layer; returns what it is in the registry. A layer that is kept plain here travels compressed."""
        id = short(layer.digest)
        self.progress(state("Preparing", id))
        async with self._slots:
            if layer.media_type in _COMPRESSED:
                layer = await finished(self._compress, layer, hold)
            await self._send(layer, id)
        return layer

    async def _send(self, blob: Descriptor, id: str) -> None:
        if await self.registry.has(blob.digest):
            self._tell("Layer already exists", id)
            return
        for origin in self.contents.catalog.origins(blob.digest):
            neighbour = parse_whole(origin)
            same = neighbour.domain == self.reference.domain and neighbour.path != self.reference.path
            if same and await self.registry.mount(blob.digest, neighbour.path):
                self._tell(f"Mounted from {neighbour.path}", id)
                return
        meter = Meter(self.progress if id else lambda message: None, "Pushing", id, blob.size)
        await self.registry.upload(blob, lambda: self._content(blob), meter)
        self._tell("Pushed", id)

    def _tell(self, text: str, id: str) -> None:
        if id:
            self.progress(state(text, id))

    async def _content(self, blob: Descriptor) -> AsyncIterator[bytes]:
        chunks = self.contents.read(blob)
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield chunk

    def _compress(self, layer: Descriptor, hold: Hold) -> Descriptor:
        """Gzip a layer, the same way each time; blocks. The result is a blob until the end of the push."""
        packer = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, 31)
        with self.contents.blobs.writer() as writer:
            for chunk in _even(self.contents.read(layer)):  # what comes out depends on how it goes in
                writer.write(packer.compress(chunk))
            writer.write(packer.flush())
            hold(writer.digest)
            return Descriptor(media_type=_COMPRESSED[layer.media_type], digest=writer.commit(), size=writer.size)

    def _enter(self, digest: str, manifest: Manifest) -> None:
        catalog = self.contents.catalog
        with catalog.database.transaction():
            catalog.add_digest(self.reference.repository, digest, self.image)
            for blob in (manifest.config, *manifest.layers):
                catalog.add_origin(blob.digest, self.reference.repository)


def _even(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of one size."""
    rest = bytearray()
    for chunk in chunks:
        rest += chunk
        while len(rest) >= PIECE:
            yield bytes(rest[:PIECE])
            del rest[:PIECE]
    yield bytes(rest)
