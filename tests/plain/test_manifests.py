"""Manifests and indexes of other people are checked before anything is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from capsa.errors import BrokenArchive, CapsaError, NotFound, Unsupported
from capsa.image.manifest import MANIFEST_LIMIT, parse, parse_config
from capsa.image.platforms import choose, fits
from capsa.image.platforms import parse as parse_platform
from capsa.oci.image import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
)

DIGEST = "sha256:" + "0" * 64


def descriptor(media_type: str = OCI_LAYER_GZIP, **other: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 7, **other}


def manifest(**other: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "config": descriptor(OCI_CONFIG), "layers": [descriptor()], **other}


def index(*platforms: str) -> dict[str, Any]:
    entries = []
    for number, text in enumerate(platforms):
        os, architecture, *variant = text.split("/")
        platform = {"os": os, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
        entries.append(descriptor(OCI_MANIFEST, platform=platform, size=number))
    return {"schemaVersion": 2, "manifests": entries}


def read(document: dict[str, Any], media_type: str = "") -> Manifest | Index:
    return parse(json.dumps(document).encode(), media_type, "foo")


def test_both_formats_are_read() -> None:
    assert isinstance(read(manifest()), Manifest)
    assert read(manifest(mediaType=DOCKER_MANIFEST)).media_type == DOCKER_MANIFEST
    assert read(manifest(), OCI_MANIFEST).media_type == OCI_MANIFEST
    assert isinstance(read(index("linux/amd64")), Index)
    assert read(index("linux/amd64"), DOCKER_LIST).media_type == DOCKER_LIST


def test_null_is_as_good_as_absent() -> None:
    assert read(manifest(annotations=None, mediaType=None)).annotations == {}


@pytest.mark.parametrize(
    ("document", "media_type", "error", "words"),
    [
        ({**manifest(), "manifests": []}, "", BrokenArchive, "neither clearly"),
        ({"schemaVersion": 2}, "", BrokenArchive, "neither clearly"),
        (manifest(), OCI_INDEX, BrokenArchive, "something else"),
        (manifest(mediaType=OCI_INDEX), "", BrokenArchive, "something else"),
        ({"schemaVersion": 1, "fsLayers": []}, "", Unsupported, "schema 1"),
        (manifest(schemaVersion=3), "", BrokenArchive, "schema version 3"),
        (manifest(config=descriptor("application/vnd.example.chart")), "", Unsupported, "not a container image"),
        (manifest(layers=[descriptor("application/vnd.example")]), "", Unsupported, "unknown type"),
        (manifest(layers=[descriptor(digest="sha256:../../etc")]), "", BrokenArchive, "digest"),
        (manifest(layers=[descriptor(digest="md5:" + "0" * 32)]), "", BrokenArchive, "digest"),
        (manifest(layers=[descriptor(size=-1)]), "", BrokenArchive, "-1 bytes"),
        (manifest(config=descriptor(OCI_CONFIG, size=1 << 40)), "", BrokenArchive, "at most"),
        (manifest(layers=[descriptor()] * 1001), "", BrokenArchive, "more than 1000 layers"),
        (manifest(layers="x"), "", BrokenArchive, r"\$\.layers"),
        (manifest(), "text/html", Unsupported, "not a container image"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(
    document: dict[str, Any], media_type: str, error: type[CapsaError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read(document, media_type)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b" " * (MANIFEST_LIMIT + 1)])
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(BrokenArchive):
        parse(data, "", "foo")


@pytest.mark.parametrize(
    ("there", "wanted", "chosen"),
    [
        (["linux/amd64", "linux/arm64/v8"], "linux/arm64", 1),
        (["linux/arm/v6", "linux/arm/v7"], "linux/arm", 1),
        (["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", 1),
        (["linux/arm64"], "linux/arm64/v8", 0),
        (["linux/amd64/v2", "linux/amd64"], "linux/amd64", 1),
        (["linux/amd64", "genode/amd64"], "genode", 1),
        (["unknown/unknown", "linux/amd64"], "linux/amd64", 1),
    ],
)
def test_the_best_image_for_a_platform_is_chosen(there: list[str], wanted: str, chosen: int) -> None:
    if wanted == "genode":
        wanted = "genode/amd64"
    found = read(index(*there))
    assert isinstance(found, Index)
    assert choose(found.manifests, parse_platform(wanted), "foo").size == chosen


def test_without_a_fitting_image_those_that_are_there_are_listed() -> None:
    found = read(index("linux/amd64", "linux/s390x"))
    assert isinstance(found, Index)
    with pytest.raises(NotFound, match=r"no matching manifest for linux/arm/v7 .*linux/amd64, linux/s390x"):
        choose(found.manifests, parse_platform("linux/arm/v7"), "foo")


def test_attestations_are_no_images() -> None:
    attestation = Descriptor(
        media_type=OCI_MANIFEST,
        digest=DIGEST,
        size=1,
        platform=Platform(os="linux", architecture="amd64"),
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    with pytest.raises(NotFound):
        choose([attestation], parse_platform("linux/amd64"), "foo")


def test_an_image_without_variant_fits() -> None:
    assert fits(Platform(os="linux", architecture="arm64"), parse_platform("linux/arm64"))
    assert not fits(Platform(os="linux", architecture="amd64"), parse_platform("linux/arm64"))


def test_configurations_take_what_docker_writes() -> None:
    data = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": None, "Entrypoint": "run", "Env": None, "Labels": None, "Volumes": {"/a": {}}},
        "rootfs": {"type": "layers", "diff_ids": None},
        "history": None,
    }
    config = parse_config(json.dumps(data).encode(), "foo")
    assert config.config.cmd == [] and config.config.entrypoint == ["run"] and config.config.volumes == {"/a": {}}


@pytest.mark.parametrize(
    "config",
    [
        {"rootfs": {"type": "layers", "diff_ids": ["sha256:/../x"]}},
        {"rootfs": {"type": "base"}},
        {"config": {"Env": "x"}},
        {"config": []},
    ],
)
def test_malformed_configurations_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(BrokenArchive, match="the configuration of foo"):
        parse_config(json.dumps(config).encode(), "foo")
