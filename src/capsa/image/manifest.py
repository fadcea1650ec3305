"""Reading manifests, indexes and configurations that somebody else wrote, with all the checks they need."""

from __future__ import annotations

import msgspec

from capsa.errors import BrokenArchive, Unsupported
from capsa.image.digest import check
from capsa.oci.image import (
    CONFIGS,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEXES,
    LAYERS,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA_1,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    loads,
)

MANIFEST_LIMIT = 4 << 20
CONFIG_LIMIT = 8 << 20
MAX_LAYERS = 1000
MAX_ENTRIES = 10_000
MAX_BLOB = 1 << 42


class _Shape(msgspec.Struct, kw_only=True):
    """What tells manifests and indexes apart."""

    schema_version: int = msgspec.field(name="schemaVersion", default=0)
    media_type: str | None = msgspec.field(name="mediaType", default="")
    config: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    manifests: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    fs_layers: msgspec.Raw | msgspec.UnsetType = msgspec.field(name="fsLayers", default=msgspec.UNSET)


def parse(data: bytes, media_type: str, name: str) -> Manifest | Index:
    """Parse what ``name`` is; ``media_type`` is what it was announced as (empty: unknown).

    The result's ``media_type`` is always filled in. A document that could be read as both kinds, or is not of the
    kind it was announced as, is refused, since two programs would take it for two things.
    Raises `BrokenArchive`, `Unsupported`.
    """
    what = f"the manifest of {name}"
    if len(data) > MANIFEST_LIMIT:
        raise BrokenArchive(f"{what} is larger than {MANIFEST_LIMIT >> 20} MiB")
    try:
        shape = msgspec.json.decode(data, type=_Shape)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
        raise BrokenArchive(f"{what} is malformed: {error}") from error
    if shape.schema_version == 1 or shape.fs_layers is not msgspec.UNSET or media_type in SCHEMA_1:
        raise Unsupported(
            f"{name} has a manifest of Docker's schema 1, which is obsolete: push it anew with a current tool"
        )
    if shape.schema_version != 2:
        raise BrokenArchive(f"{what} has the schema version {shape.schema_version}, not 2")
    is_index = shape.manifests is not msgspec.UNSET
    is_manifest = shape.config is not msgspec.UNSET or shape.layers is not msgspec.UNSET
    if is_index == is_manifest:
        raise BrokenArchive(f"{what} is neither clearly a manifest nor clearly an index")
    inside = shape.media_type or ""
    kinds = INDEXES if is_index else MANIFESTS
    for announced in (inside, media_type):
        if announced and announced not in kinds:
            if announced in INDEXES | MANIFESTS:
                raise BrokenArchive(f"{what} was announced as {announced} and is something else")
            raise Unsupported(f"{name} is a {announced[:100]}, which is not a container image")
    if is_index:
        index = loads(data, Index, what)
        index.media_type = inside or media_type or OCI_INDEX
        return _checked_index(index, what)
    manifest = loads(data, Manifest, what)
    manifest.media_type = inside or media_type or OCI_MANIFEST
    return _checked_manifest(manifest, name, what)


def _checked_index(index: Index, what: str) -> Index:
    if len(index.manifests) > MAX_ENTRIES:
        raise BrokenArchive(f"{what} lists more than {MAX_ENTRIES} manifests")
    for each in index.manifests:
        check_descriptor(each, what, MANIFEST_LIMIT if each.media_type in MANIFESTS | INDEXES else MAX_BLOB)
    return index


def _checked_manifest(manifest: Manifest, name: str, what: str) -> Manifest:
    if manifest.config.media_type not in CONFIGS:
        kind = manifest.artifact_type or manifest.config.media_type
        raise Unsupported(f"{name} holds a {kind[:100]}, which is not a container image")
    check_descriptor(manifest.config, what, CONFIG_LIMIT)
    if len(manifest.layers) > MAX_LAYERS:
        raise BrokenArchive(f"{what} has more than {MAX_LAYERS} layers")
    for each in manifest.layers:
        if each.media_type not in LAYERS:
            raise Unsupported(f"{name} has a layer of the unknown type {each.media_type[:100]!r}")
        check_descriptor(each, what, MAX_BLOB)
    return manifest


def check_descriptor(descriptor: Descriptor, what: str, limit: int) -> None:
    """Raise `BrokenArchive` unless digest and size can be used."""
    check(descriptor.digest, what)
    if not 0 <= descriptor.size <= limit:
        raise BrokenArchive(
            f"{what} lists {descriptor.digest} with {descriptor.size} bytes; at most {limit} are possible"
        )


def parse_config(data: bytes, name: str) -> ImageConfig:
    """Parse an image configuration; raises `BrokenArchive`."""
    what = f"the configuration of {name}"
    if len(data) > CONFIG_LIMIT:
        raise BrokenArchive(f"{what} is larger than {CONFIG_LIMIT >> 20} MiB")
    config = loads(data, ImageConfig, what)
    if config.rootfs.type != "layers":
        raise BrokenArchive(f"{what} has a root file system of the kind {config.rootfs.type[:100]!r}, not layers")
    if len(config.rootfs.diff_ids) > MAX_LAYERS:
        raise BrokenArchive(f"{what} has more than {MAX_LAYERS} layers")
    for diff_id in config.rootfs.diff_ids:
        check(diff_id, what)
    return config


def accepted() -> str:
    """The ``Accept`` header for manifests."""
    return ", ".join([OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST])
