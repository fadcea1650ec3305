"""Image archives as ``docker save`` (old and new form), skopeo, podman and buildkit write them; OCI layout folders.

An archive is read once, front to back, since it may come from a connection: its files become blobs under the digest
of their content, and what they mean is found out at the end. What looks like an uncompressed layer is unpacked while it
is read, and does not become a blob. Nothing is ever written under a name from the archive.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain

import msgspec

from capsa.errors import BrokenArchive, DigestMismatch, InvalidArgument
from capsa.image import platforms
from capsa.image.arrivals import Arrival
from capsa.image.blobs import BlobStore
from capsa.image.compression import kind
from capsa.image.digest import is_digest, of
from capsa.image.manifest import CONFIG_LIMIT, MANIFEST_LIMIT, MAX_LAYERS, parse, parse_config
from capsa.image.members import Member, Members, inside
from capsa.image.reference import Reference
from capsa.image.reference import parse as parse_reference
from capsa.image.tar import BLOCK
from capsa.oci.image import (
    INDEXES,
    MANIFESTS,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
)

SMALL = 1 << 18
SMALL_TOTAL = 64 << 20
MAX_NAMES = 1000
MAX_NESTING = 4
CONTAINERD_NAME = "io.containerd.image.name"
OCI_NAME = "org.opencontainers.image.ref.name"
Begin = Callable[[bytes, str, int, str | None], Arrival | None]
_DIGITS = re.compile(r"[0-9a-f]{12}")
_LAYER_TYPES = {"": OCI_LAYER, "gzip": OCI_LAYER_GZIP, "zstd": OCI_LAYER_ZSTD}


@dataclass
class Found:
    """One image of an archive. Its layers are blobs already; ``manifest`` has its manifest's bytes, if any."""

    config_bytes: bytes
    config: ImageConfig
    layers: list[Descriptor]
    manifest: bytes = b""
    manifest_type: str = ""
    names: list[Reference] = field(default_factory=list)


class _Entry(msgspec.Struct, rename="pascal", kw_only=True):
    """One image in ``manifest.json``."""

    config: str
    repo_tags: list[str] | None = None
    layers: list[str] | None = None


class ArchiveReader:
    """Reads one archive into ``blobs``.

    ``hold`` is told each digest before it is looked for or written, so that it is not collected meanwhile; ``known``
    says whether the content of a digest is there, as a blob or not. Layers that ``begin`` takes (`Arrivals.begin`) do
    not become blobs.
    """

    def __init__(
        self, blobs: BlobStore, hold: Callable[[str], None], known: Callable[[str], bool], begin: Begin
    ) -> None:
        self._blobs = blobs
        self._hold = hold
        self._known = known
        self._begin = begin
        self._arriving: dict[str, Arrival] = {}
        self._failed: dict[str, BrokenArchive] = {}
        self._small: dict[str, bytes] = {}
        self._small_total = 0
        self._large: dict[str, Descriptor] = {}
        self._links: dict[str, str] = {}

    def read(self, source: Members, platform: Platform | None) -> list[Found]:
        """The archive's images; ``platform`` chooses among several. Raises `BrokenArchive`, `DigestMismatch`."""
        for member in source:
            self._links.pop(member.name, None)
            if member.target:
                self._links[member.name] = member.target
            else:
                self._take(member, source)
        self._arrived()
        if self._resolve("manifest.json") in self._small:
            return self._docker()
        if self._resolve("index.json") in self._small:
            return self._oci(platform)
        if self._resolve("repositories") in self._small:
            raise BrokenArchive("the archive is of the form before Docker 1.10, without manifest.json: save it anew")
        raise BrokenArchive("this is no image archive: it has neither manifest.json nor index.json")

    def _take(self, member: Member, source: Members) -> None:
        self._small.pop(member.name, None)
        self._large.pop(member.name, None)
        self._arriving.pop(member.name, None)
        if member.size <= SMALL or member.name in ("manifest.json", "index.json"):
            if member.size > CONFIG_LIMIT:
                raise BrokenArchive(
                    f"{member.name} in the archive has {member.size} bytes, more than any archive needs"
                )
            data = b"".join(source.parts())
            self._small_total += len(data)
            if self._small_total > SMALL_TOTAL:
                raise BrokenArchive("the archive has too many small files")
            self._small[member.name] = data
            return
        wanted = (
            "sha256:" + member.name.removeprefix("blobs/sha256/") if member.name.startswith("blobs/sha256/") else ""
        )
        if is_digest(wanted):
            self._hold(wanted)
            if self._known(wanted):
                self._large[member.name] = self._same(wanted, source)
                return
        parts = iter(source.parts())
        head = _head(parts)
        wanted = wanted if is_digest(wanted) else ""
        arrival = self._begin(head, self._label(member.name), member.size, wanted or None)
        if arrival:
            self._arriving[member.name] = arrival
            arrival.hand_on(chain((head,), parts))
            return
        with self._blobs.writer(wanted, member.size) as writer:
            for part in chain((head,), parts):
                writer.write(part)
            self._hold(writer.digest)
            self._large[member.name] = Descriptor(
                media_type=_layer_type(head), digest=writer.commit(), size=writer.size
            )

    def _label(self, name: str) -> str:
        """What progress calls a layer, whose digest is not known yet: the first digits of one in its name, if any."""
        found = _DIGITS.search(name)
        return found[0] if found else f"layer {len(self._arriving) + 1}"

    def _arrived(self) -> None:
        """Wait for the layers that were handed on. One that is broken matters only if an image has it."""
        for name, arrival in self._arriving.items():
            try:
                layer = arrival.layer()
            except DigestMismatch:
                raise
            except BrokenArchive as error:
                self._failed[name] = error
            else:
                self._large[name] = Descriptor(media_type=OCI_LAYER, digest=layer.diff_id, size=arrival.size)

    @staticmethod
    def _same(wanted: str, source: Members) -> Descriptor:
        """A blob that is there already: its size and type are taken from the archive, so that has to have it, too."""
        seen = hashlib.sha256()
        size, first = 0, b""
        for part in source.parts():
            first += bytes(part[: 16 - len(first)])
            seen.update(part)
            size += len(part)
        if "sha256:" + seen.hexdigest() != wanted:
            raise DigestMismatch(f"the content of {wanted} has the digest sha256:{seen.hexdigest()}: it was altered")
        return Descriptor(media_type=_layer_type(first), digest=wanted, size=size)

    def _resolve(self, name: str) -> str:
        """Follow the archive's own links, some versions of ``docker save`` have them for shared layers."""
        for _ in range(8):
            if name not in self._links:
                return name
            name = self._links[name]
        raise BrokenArchive(f"the archive's links at {name!r} lead in a circle")

    def _bytes(self, name: str, limit: int, what: str) -> bytes:
        """A document of the archive."""
        found = self._resolve(inside(name))
        if found in self._small:
            data = self._small[found]
        elif found in self._large and self._large[found].size <= limit and self._blobs.has(self._large[found].digest):
            data = self._blobs.read(self._large[found].digest, limit)
        else:
            raise BrokenArchive(f"the archive lacks {what} {name!r}")
        if len(data) > limit:
            raise BrokenArchive(f"{what} {name!r} of the archive has more than {limit} bytes")
        return data

    def _blob(self, name: str) -> Descriptor:
        """A layer of the archive, as a blob."""
        found = self._resolve(inside(name))
        if found in self._large:
            return self._large[found]
        if found in self._failed:
            raise self._failed[found]
        if found not in self._small:
            raise BrokenArchive(f"the archive lacks the layer {name!r}")
        data = self._small[found]
        digest = of(data)
        self._hold(digest)
        if not self._known(digest):
            with self._blobs.writer(digest) as writer:
                writer.write(data)
                writer.commit()
        return Descriptor(media_type=_layer_type(data), digest=digest, size=len(data))

    def _docker(self) -> list[Found]:
        try:
            entries = msgspec.json.decode(self._small[self._resolve("manifest.json")], type=list[_Entry])
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
            raise BrokenArchive(f"manifest.json of the archive is malformed: {error}") from error
        manifests = self._manifests_by_config()
        result = []
        for entry in entries:
            names = entry.layers or []
            tags = entry.repo_tags or []
            if len(names) > MAX_LAYERS or len(tags) > MAX_NAMES:
                raise BrokenArchive("manifest.json of the archive lists more layers or names than are possible")
            data = self._bytes(entry.config, CONFIG_LIMIT, "the configuration")
            config = parse_config(data, entry.config)
            found = Found(data, config, [self._blob(name) for name in names])
            _check_count(found, entry.config)
            for tag in tags:
                found.names.append(_reference(tag))
            manifest = manifests.get(of(data))
            if manifest:
                found.manifest, found.manifest_type, parsed = manifest
                layers = [layer.digest for layer in parsed.layers]
                if layers != [layer.digest for layer in found.layers]:
                    found.manifest = b""
                else:
                    found.layers = parsed.layers
            result.append(found)
        return result

    def _manifests_by_config(self) -> dict[str, tuple[bytes, str, Manifest]]:
        """The OCI half of an archive that has both: manifests whose digests are worth keeping."""
        result: dict[str, tuple[bytes, str, Manifest]] = {}
        if self._resolve("index.json") not in self._small:
            return result
        for descriptor in self._top().manifests:
            name = "blobs/sha256/" + descriptor.digest.removeprefix("sha256:")
            if descriptor.media_type not in MANIFESTS or self._resolve(name) not in self._small:
                continue
            data = self._document(descriptor)
            parsed = parse(data, descriptor.media_type, descriptor.digest)
            if isinstance(parsed, Manifest):
                result[parsed.config.digest] = (data, parsed.media_type, parsed)
        return result

    def _top(self) -> Index:
        parsed = parse(self._bytes("index.json", CONFIG_LIMIT, "the index"), "", "index.json")
        if not isinstance(parsed, Index):
            raise BrokenArchive("index.json of the archive is no index")
        return parsed

    def _document(self, descriptor: Descriptor) -> bytes:
        name = "blobs/sha256/" + descriptor.digest.removeprefix("sha256:")
        data = self._bytes(name, MANIFEST_LIMIT, "the manifest")
        if of(data) != descriptor.digest:
            raise BrokenArchive(f"the content of {name} in the archive has another digest")
        return data

    def _oci(self, platform: Platform | None) -> list[Found]:
        self._bytes("oci-layout", 4096, "the file")
        result: dict[str, Found] = {}
        for descriptor in self._top().manifests:
            if descriptor.annotations.get("vnd.docker.reference.type") == "attestation-manifest":
                continue
            if descriptor.media_type not in MANIFESTS | INDEXES:
                continue
            found = self._oci_image(descriptor, platform)
            found = result.setdefault(of(found.config_bytes), found)
            name = descriptor.annotations.get(CONTAINERD_NAME) or descriptor.annotations.get(OCI_NAME, "")
            if "/" in name or ":" in name:
                found.names.append(_reference(name))
        if not result:
            raise BrokenArchive("the archive's index.json lists no image")
        return list(result.values())

    def _oci_image(self, descriptor: Descriptor, platform: Platform | None) -> Found:
        for _ in range(MAX_NESTING):
            data = self._document(descriptor)
            parsed = parse(data, descriptor.media_type, descriptor.digest)
            if isinstance(parsed, Manifest):
                return self._oci_manifest(data, parsed, descriptor.digest)
            there = [each for each in parsed.manifests if self._has(each)]
            descriptor = platforms.choose(there, platform or platforms.native(), descriptor.digest)
        raise BrokenArchive(f"the archive's indexes are nested deeper than {MAX_NESTING}")

    def _has(self, descriptor: Descriptor) -> bool:
        name = self._resolve("blobs/sha256/" + descriptor.digest.removeprefix("sha256:"))
        return name in self._small or name in self._large or name in self._failed

    def _oci_manifest(self, data: bytes, manifest: Manifest, name: str) -> Found:
        path = "blobs/sha256/" + manifest.config.digest.removeprefix("sha256:")
        config_bytes = self._bytes(path, CONFIG_LIMIT, "the configuration")
        if of(config_bytes) != manifest.config.digest:
            raise BrokenArchive(f"the content of {path} in the archive has another digest")
        for layer in manifest.layers:
            blob = self._blob("blobs/sha256/" + layer.digest.removeprefix("sha256:"))
            if (blob.digest, blob.size) != (layer.digest, layer.size):
                raise BrokenArchive(f"the layer {layer.digest} of the archive is not what its manifest says")
        found = Found(
            config_bytes, parse_config(config_bytes, name), manifest.layers, data, manifest.media_type or OCI_MANIFEST
        )
        _check_count(found, name)
        return found


def synthesized(found: Found) -> tuple[bytes, Manifest]:
    """A manifest for an image that came without one; the same for the same image."""
    manifest = Manifest(
        schema_version=2,
        media_type=OCI_MANIFEST,
        config=Descriptor(
            media_type="application/vnd.oci.image.config.v1+json",
            digest=of(found.config_bytes),
            size=len(found.config_bytes),
        ),
        layers=[Descriptor(media_type=each.media_type, digest=each.digest, size=each.size) for each in found.layers],
    )
    return msgspec.json.encode(manifest), manifest


def _head(parts: Iterator[bytes | memoryview]) -> bytes:
    """The beginning of a member, a tar header at least if there is one."""
    head = b""
    while len(head) < BLOCK and (part := next(parts, None)):
        head = bytes(part) if not head else head + part
    return head


def _check_count(found: Found, name: str) -> None:
    layers, diff_ids = len(found.layers), len(found.config.rootfs.diff_ids)
    if layers != diff_ids:
        raise BrokenArchive(f"the image {name} has {layers} layers, but its configuration lists {diff_ids}")


def _reference(text: str) -> Reference:
    try:
        reference = parse_reference(text).with_default_tag()
    except InvalidArgument as error:
        raise BrokenArchive(f"the archive names an image {text[:300]!r}: {error}") from error
    return replace(reference, digest="") if reference.tag else reference


def _layer_type(first: bytes) -> str:
    name = kind(first)
    if name not in _LAYER_TYPES:
        raise BrokenArchive(f"the archive has a file compressed with {name}, where layers use gzip or zstd only")
    return _LAYER_TYPES[name]
