"""What a registry has under a name, without pulling it (Docker Engine API, "Distribution")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capsa.errors import BrokenArchive
from capsa.image.digest import of
from capsa.image.manifest import parse, parse_config
from capsa.image.reference import Reference
from capsa.image.registry import Registry
from capsa.oci.image import Descriptor, Manifest, Platform


@dataclass(frozen=True, slots=True)
class Offer:
    """The manifest or index that a name leads to, and the platforms that it has an image for."""

    descriptor: Descriptor
    platforms: Sequence[Platform]


async def offered(registry: Registry, reference: Reference) -> Offer:
    """Ask ``registry`` what ``reference`` is; raises what `Registry.manifest` raises."""
    data, media_type = await registry.manifest(reference.version)
    parsed = parse(data, media_type, reference.familiar)
    descriptor = Descriptor(media_type=parsed.media_type, digest=of(data), size=len(data))
    if isinstance(parsed, Manifest):
        try:
            config = parse_config(await registry.blob(parsed.config), reference.familiar)
        except BrokenArchive:  # an image that cannot be run has a manifest all the same
            return Offer(descriptor, ())
        return Offer(descriptor, (config.platform,))
    return Offer(descriptor, tuple(each.platform for each in parsed.manifests if each.platform is not None))
