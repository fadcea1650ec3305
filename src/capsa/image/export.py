"""Writing image archives: an OCI image layout with Docker's ``manifest.json`` beside it, as today's ``docker save``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from capsa.image import envelope
from capsa.image.digest import of
from capsa.image.reference import Reference
from capsa.oci.image import OCI_INDEX, Descriptor, Manifest, Platform

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
CONTAINERD_NAME = "io.containerd.image.name"
OCI_NAME = "org.opencontainers.image.ref.name"


@dataclass
class Exported:
    """One image to write; ``names`` are those that were asked for."""

    manifest_bytes: bytes
    manifest: Manifest
    platform: Platform
    names: list[Reference] = field(default_factory=list)


class _DockerEntry(msgspec.Struct, rename="pascal"):
    """One image in ``manifest.json``."""

    config: str
    repo_tags: list[str] | None
    layers: list[str]


def archive(images: list[Exported], content: Callable[[Descriptor], Iterable[bytes]]) -> Iterator[bytes]:
    """The archive, piece by piece; the same bytes for the same images. ``content`` reads a blob; it may block."""
    yield envelope.header("blobs/", 0, directory=True)
    yield envelope.header("blobs/sha256/", 0, directory=True)
    written: set[str] = set()
    for image in images:
        for descriptor in (*image.manifest.layers, image.manifest.config):
            if descriptor.digest not in written:
                written.add(descriptor.digest)
                yield envelope.header(_path(descriptor.digest), descriptor.size)
                yield from content(descriptor)
                yield envelope.padding(descriptor.size)
        digest = of(image.manifest_bytes)
        if digest not in written:
            written.add(digest)
            yield envelope.file(_path(digest), image.manifest_bytes)
    yield envelope.file("index.json", _index(images))
    yield envelope.file("manifest.json", _docker(images))
    yield envelope.file("oci-layout", LAYOUT)
    yield envelope.END


def _index(images: list[Exported]) -> bytes:
    """``index.json``: a descriptor for each name, or one without a name."""
    manifests = []
    for image in images:
        plain = Descriptor(
            media_type=image.manifest.media_type,
            digest=of(image.manifest_bytes),
            size=len(image.manifest_bytes),
            platform=image.platform,
        )
        for name in image.names:
            annotations = {CONTAINERD_NAME: str(name), OCI_NAME: name.tag}
            manifests.append(msgspec.structs.replace(plain, annotations=annotations))
        if not image.names:
            manifests.append(plain)
    return msgspec.json.encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})


def _docker(images: list[Exported]) -> bytes:
    return msgspec.json.encode(
        [
            _DockerEntry(
                config=_path(image.manifest.config.digest),
                repo_tags=[name.familiar for name in image.names] or None,
                layers=[_path(layer.digest) for layer in image.manifest.layers],
            )
            for image in images
        ]
    )


def _path(digest: str) -> str:
    return "blobs/sha256/" + digest.removeprefix("sha256:")
