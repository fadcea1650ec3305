"""Archives and registries that are broken or lie: one sentence, no image, nothing left."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from fixtures import leftovers
from fixtures.complaints import check, warm_up
from fixtures.engine import EngineUnderTest
from fixtures.registry import made_up, manifest_of
from fixtures.wait import until

from capsa.oci.image import OCI_MANIFEST


@pytest.fixture(scope="module")
def warm(engine: EngineUnderTest, busybox: str) -> EngineUnderTest:
    """The engine, with bridge and firewall in place."""
    warm_up(engine)
    return engine


@pytest.fixture(autouse=True)
def nothing_left(warm: EngineUnderTest) -> Iterator[None]:
    """After each test all is as it was before."""
    with leftovers.nothing_left(warm):
        yield


def tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


LAYER = tar({"file": b"content" * 3000})
CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(LAYER)}"]}}
).encode()


def saved(manifest: object = None, config: bytes = CONFIG, layer: bytes = LAYER) -> bytes:
    """A `docker save` archive."""
    found = (
        [{"Config": "config.json", "RepoTags": ["bad:1"], "Layers": ["layer.tar"]}] if manifest is None else manifest
    )
    return tar({"config.json": config, "layer.tar": layer, "manifest.json": json.dumps(found).encode()})


def layout(*, layer: bytes = LAYER, config: bytes = CONFIG, index: object = None) -> bytes:
    """An OCI archive, its blobs named after what they should be."""
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": f"sha256:{digest(CONFIG)}",
                "size": len(CONFIG),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": f"sha256:{digest(LAYER)}",
                    "size": len(LAYER),
                }
            ],
        }
    ).encode()
    described = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{digest(manifest)}", "size": len(manifest)}
    found = {"schemaVersion": 2, "manifests": [described]} if index is None else index
    blobs = {digest(manifest): manifest, digest(CONFIG): config, digest(LAYER): layer}
    return tar(
        {
            "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
            "index.json": json.dumps(found).encode(),
            **{f"blobs/sha256/{name}": data for name, data in blobs.items()},
        }
    )


BROKEN: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "garbage": lambda: os.urandom(100_000),
    "text": lambda: b"no archive at all\n" * 1000,
    "a line": lambda: b"no archive at all\n",
    "zeros": lambda: bytes(10240),
    "truncated": lambda: saved()[: len(LAYER) // 2],
    "truncated in its manifest": lambda: saved()[:-11_000],
    "truncated gzip": lambda: gzip.compress(saved())[:-300],
    "damaged gzip": lambda: gzip.compress(saved())[:60] + b"x" * 5000,
    "only other files": lambda: tar({"hello": b"x"}),
    "manifest is no JSON": lambda: tar({"manifest.json": b"{"}),
    "manifest is no list": lambda: saved({"Config": "config.json"}),
    "manifest of nonsense": lambda: saved([{"Config": 5}]),
    "missing configuration": lambda: saved([{"Config": "nosuch", "RepoTags": ["bad:1"], "Layers": ["layer.tar"]}]),
    "missing layer": lambda: saved([{"Config": "config.json", "RepoTags": ["bad:1"], "Layers": ["nosuch"]}]),
    "too few layers": lambda: saved([{"Config": "config.json", "RepoTags": ["bad:1"], "Layers": []}]),
    "bad name": lambda: saved([{"Config": "config.json", "RepoTags": ["BAD//x"], "Layers": ["layer.tar"]}]),
    "configuration is no JSON": lambda: saved(config=b"{"),
    "configuration of another type": lambda: saved(config=b"[]"),
    "another layer than described": lambda: saved(layer=tar({"file": b"other"})),
    "layer is no archive": lambda: saved(layer=b"x" * 2000),
    "oci: another layer than described": lambda: layout(layer=tar({"file": b"other" * 3000})),
    "oci: another configuration": lambda: layout(config=CONFIG.replace(b"amd64", b"arm64")),
    "oci: bad index": lambda: layout(index={"schemaVersion": 2, "manifests": [{"digest": "sha256:../../x"}]}),
    "oci: missing manifest": lambda: layout(
        index={
            "schemaVersion": 2,
            "manifests": [{"mediaType": OCI_MANIFEST, "digest": f"sha256:{'0' * 64}", "size": 5}],
        }
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_archive_is_not_loaded(warm: EngineUnderTest, kind: str) -> None:
    status, answer = warm.api("POST", "/images/load?quiet=1", BROKEN[kind]())
    assert status == 200, (status, answer)
    check(answer["error"], "")
    if kind in ("garbage", "text", "a line", "truncated gzip", "damaged gzip"):
        assert "archive" in answer["error"] and "layer" not in answer["error"]


@pytest.mark.parametrize("kind", ["garbage", "text", "a line", "truncated", "truncated gzip", "damaged gzip"])
def test_a_broken_root_file_system_is_not_imported(warm: EngineUnderTest, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "root.tar"
    path.write_bytes(BROKEN[kind]())
    done = warm.capsa("import", str(path), "bad:1", check=False)
    assert done.returncode == 1 and done.stderr.startswith("capsa: "), done
    check(done.stderr.strip(), "")


def test_a_damaged_image_is_not_saved_as_if_it_were_whole(warm: EngineUnderTest, tmp_path: Path) -> None:
    status, answer = warm.api("POST", "/images/load?quiet=1", saved())
    assert (status, "error" in answer) == (200, False), answer
    layer = digest(LAYER)
    until(lambda: not (warm.root / "image/blobs/sha256" / layer).exists())  # only its files are kept
    (warm.root / "image/layers" / layer / "tree/file").write_bytes(b"damaged" * 3000)
    image = f"sha256:{digest(CONFIG)}"
    done = warm.capsa("save", "-o", str(tmp_path / "saved"), image, check=False)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"GET /images/get breaks off: the blob sha256:{layer}" in warm.log.read_text()
    assert warm.api("DELETE", f"/images/{image}")[0] == 200


# ---- a registry that lies ----


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("layer", "sha256:"),
        ("configuration", "sha256:"),
        ("missing layer", "sha256:"),
        ("manifest", "sha256:"),
        ("nonsense", "manifest"),
        ("another diff id", "sha256:"),
    ],
)
def test_what_does_not_have_its_digest_is_not_pulled(warm: EngineUnderTest, which: str, words: str) -> None:
    blobs = {digest(CONFIG): CONFIG, digest(LAYER): LAYER}
    manifest = manifest_of(CONFIG, [LAYER])
    name = "team/app:1"
    match which:
        case "layer":
            blobs[digest(LAYER)] = LAYER[:-1] + b"x"
        case "configuration":
            blobs[digest(CONFIG)] = CONFIG[:-1] + b" "
        case "missing layer":
            del blobs[digest(LAYER)]
        case "manifest":
            name = f"team/app@sha256:{'1' * 64}"
        case "nonsense":
            manifest = b'{"schemaVersion": "two"}'
        case "another diff id":
            other = CONFIG.replace(digest(LAYER).encode(), b"2" * 64)
            blobs[digest(other)] = other
            manifest = manifest_of(other, [LAYER])
    with made_up(blobs, manifest) as address:
        done = warm.capsa("pull", f"{address}/{name}", check=False)
    assert done.returncode == 1, done
    check(done.stderr.strip().splitlines()[-1], words)
    assert warm.capsa("images", "-q", f"{address}/team/app").stdout == ""
