"""Types of the OCI image-spec 1.1 and of Docker's image format ("Image Manifest Version 2, Schema 2").

Both formats describe the same things and differ in media types, so there is one struct for each thing. What
Docker adds to the image configuration (``Healthcheck``, ``OnBuild``, ``Shell``, …) is in `ContainerConfig`.
Unknown properties are ignored and ``null`` counts as absent, since the Go programs that write these files write it
for every empty list. The exact bytes are what a digest names: keep them, never re-encode a parsed document.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from capsa.errors import BrokenArchive

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"

SCHEMA_1 = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYERS = frozenset(
    {
        OCI_LAYER,
        OCI_LAYER_GZIP,
        OCI_LAYER_ZSTD,
        DOCKER_LAYER,
        DOCKER_LAYER_GZIP,
        DOCKER_LAYER_ZSTD,
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    }
)


class Struct(msgspec.Struct, rename="camel", omit_defaults=True, kw_only=True):
    """Base of descriptors and manifests: camel case on the wire, defaults left out."""


class Platform(Struct):
    """What an image runs on (image-spec, image-index.md, ``platform``)."""

    architecture: str
    os: str
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: list[str] = msgspec.field(name="os.features", default_factory=list)

    def __str__(self) -> str:
        return f"{self.os}/{self.architecture}" + (f"/{self.variant}" if self.variant else "")


class Descriptor(Struct):
    """A reference to content by digest; ``size`` in bytes (image-spec, descriptor.md)."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: dict[str, str] = {}
    urls: list[str] = []
    artifact_type: str = ""


class Manifest(Struct):
    """One image for one platform: its configuration and its layers, lowest first (image-spec, manifest.md)."""

    schema_version: int = msgspec.field(name="schemaVersion")
    config: Descriptor
    media_type: str = ""
    artifact_type: str = ""
    layers: list[Descriptor] = []
    annotations: dict[str, str] = {}


class Index(Struct):
    """Several manifests, usually one a platform (image-spec, image-index.md; Docker's manifest list)."""

    schema_version: int = msgspec.field(name="schemaVersion")
    media_type: str = ""
    manifests: list[Descriptor] = []
    annotations: dict[str, str] = {}


class Pascal(msgspec.Struct, rename="pascal", omit_defaults=True, kw_only=True):
    """Base of what Docker spells in Pascal case."""


class Healthcheck(Pascal):
    """How Docker probes a container; times in nanoseconds, 0: inherit."""

    test: list[str] = []
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerConfig(Pascal):
    """The execution parameters of an image (image-spec, config.md, ``config``) with Docker's additions."""

    user: str = ""
    exposed_ports: dict[str, Any] = {}
    env: list[str] = []
    entrypoint: list[str] = []
    cmd: list[str] = []
    volumes: dict[str, Any] = {}
    working_dir: str = ""
    labels: dict[str, str] = {}
    stop_signal: str = ""
    stop_timeout: int | None = None
    healthcheck: Healthcheck | None = None
    on_build: list[str] = []
    shell: list[str] = []
    args_escaped: bool = False
    hostname: str = ""
    domainname: str = ""
    attach_stdin: bool = False
    attach_stdout: bool = False
    attach_stderr: bool = False
    tty: bool = False
    open_stdin: bool = False
    stdin_once: bool = False
    network_disabled: bool = False
    mac_address: str = ""


class RootFS(msgspec.Struct, kw_only=True):
    """The layers' digests before compression, lowest first."""

    type: str = "layers"
    diff_ids: list[str] = []


class History(msgspec.Struct, omit_defaults=True, kw_only=True):
    """How one layer came to be; ``empty_layer``: it changed the configuration only."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An image's configuration (image-spec, config.md). The digest of its bytes is the image's id."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: list[str] = msgspec.field(name="os.features", default_factory=list)
    created: str = ""
    author: str = ""
    comment: str = ""
    docker_version: str = ""
    config: ContainerConfig = msgspec.field(default_factory=ContainerConfig)
    rootfs: RootFS = msgspec.field(default_factory=RootFS)
    history: list[History] = []

    @property
    def platform(self) -> Platform:
        """What it runs on."""
        return Platform(architecture=self.architecture, os=self.os, variant=self.variant)


T = TypeVar("T", Manifest, Index, ImageConfig, Descriptor)
_WORDS = ("Cmd", "Entrypoint", "Shell")


def loads(data: bytes, kind: type[T], what: str) -> T:
    """Parse ``data``; raises `BrokenArchive` with a sentence that begins with ``what``."""
    try:
        return msgspec.convert(_tidy(msgspec.json.decode(data)), kind)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
        raise BrokenArchive(f"{what} is malformed: {error}") from error


def dumps(value: msgspec.Struct) -> bytes:
    """The JSON of any of these structs, the same bytes for the same value."""
    return msgspec.json.encode(value)


def _tidy(value: Any) -> Any:
    """Drop ``null`` properties; a command that is a plain string (ancient images) becomes a list of one."""
    if isinstance(value, dict):
        return {
            key: [item] if key in _WORDS and isinstance(item, str) else _tidy(item)
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    return value
