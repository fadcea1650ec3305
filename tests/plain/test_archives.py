"""Image archives: every form is read, nothing in them is trusted, and what is written can be read again."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.images import docker_archive

from capsa.errors import BrokenArchive, DigestMismatch
from capsa.image.archive import ArchiveReader, Found, synthesized
from capsa.image.blobs import BlobStore
from capsa.image.export import Exported, archive
from capsa.image.manifest import parse
from capsa.image.members import FolderMembers, TarMembers
from capsa.image.reference import parse as parse_reference
from capsa.oci.image import OCI_LAYER, OCI_LAYER_GZIP, Manifest, Platform

Change = Callable[[dict[str, bytes]], None]


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


def read(blobs: BlobStore, data: bytes) -> list[Found]:
    pieces = iter([data[start : start + 1000] for start in range(0, len(data), 1000)])
    reader = ArchiveReader(blobs, lambda digest: None, blobs.has, lambda *_: None)
    return reader.read(TarMembers(lambda: next(pieces, b"")), None)


def layer(text: str) -> bytes:
    return tar({text: text.encode() * 1000})


def tar(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as out:
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            out.addfile(entry)
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            out.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def layout(*, compress: bool = False, name: str = "", **index: Any) -> dict[str, bytes]:
    """The files of an OCI image layout with one image of one layer."""
    plain = layer("x")
    blob = gzip.compress(plain, mtime=0) if compress else plain
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha(plain)}"]}}
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": f"sha256:{sha(config)}",
                "size": len(config),
            },
            "layers": [
                {
                    "mediaType": OCI_LAYER_GZIP if compress else OCI_LAYER,
                    "digest": f"sha256:{sha(blob)}",
                    "size": len(blob),
                }
            ],
        }
    ).encode()
    top = {
        "schemaVersion": 2,
        "manifests": [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": f"sha256:{sha(manifest)}",
                "size": len(manifest),
                "annotations": {"org.opencontainers.image.ref.name": name} if name else None,
            }
        ],
        **index,
    }
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(top).encode(),
        **{f"blobs/sha256/{sha(each)}": each for each in (blob, config, manifest)},
    }


def test_an_archive_of_docker_save_gives_its_images(blobs: BlobStore) -> None:
    [found] = read(blobs, docker_archive([layer("a"), layer("b")], ["foo:1", "host:5/bar:2"]))
    assert [str(name) for name in found.names] == ["docker.io/library/foo:1", "host:5/bar:2"]
    assert [each.digest for each in found.layers] == found.config.rootfs.diff_ids
    assert all(blobs.has(each.digest, each.size) for each in found.layers)


def test_shared_layers_may_be_links_as_old_versions_write_them(blobs: BlobStore) -> None:
    base = layer("a")
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha(base)}"] * 2}}).encode()
    manifest = json.dumps([{"Config": "c.json", "RepoTags": None, "Layers": ["1/layer.tar", "2/layer.tar"]}]).encode()
    data = tar({"1/layer.tar": base, "c.json": config, "manifest.json": manifest}, {"2/layer.tar": "../1/layer.tar"})
    [found] = read(blobs, data)
    assert found.layers[0].digest == found.layers[1].digest


@pytest.mark.parametrize("compress", [False, True])
def test_an_oci_archive_keeps_its_manifest(blobs: BlobStore, compress: bool) -> None:
    files = layout(compress=compress, name="foo:3")
    [found] = read(blobs, tar(files))
    assert found.names == [parse_reference("foo:3")]
    assert f"blobs/sha256/{sha(found.manifest)}" in files
    assert found.layers[0].media_type == (OCI_LAYER_GZIP if compress else OCI_LAYER)


def test_a_tag_alone_names_no_image(blobs: BlobStore) -> None:
    [found] = read(blobs, tar(layout(name="latest")))
    assert found.names == []


def test_a_layout_folder_is_read_without_following_links_out_of_it(blobs: BlobStore, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    for name, data in layout().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    reader = ArchiveReader(blobs, lambda digest: None, blobs.has, lambda *_: None)
    assert len(reader.read(FolderMembers(folder), None)) == 1
    (folder / "extra").symlink_to("/etc/passwd")
    with pytest.raises(BrokenArchive, match="leads out of it"):
        ArchiveReader(blobs, lambda digest: None, blobs.has, lambda *_: None).read(FolderMembers(folder), None)


def test_what_is_written_is_read_again(blobs: BlobStore) -> None:
    [found] = read(blobs, docker_archive([layer("a"), layer("b")], ["foo:1"]))
    data, manifest = synthesized(found)
    blobs.write(found.config_bytes)
    image = Exported(data, manifest, Platform(os="linux", architecture="amd64"), found.names)

    def content(descriptor: Any) -> list[bytes]:
        return [blobs.path(descriptor.digest).read_bytes()]

    written = b"".join(archive([image], content))
    assert written == b"".join(archive([image], content))
    with tarfile.open(fileobj=io.BytesIO(written)) as seen:
        assert {"manifest.json", "index.json", "oci-layout"} <= set(seen.getnames())
    [again] = read(blobs, written)
    assert (again.config_bytes, again.names, again.manifest) == (found.config_bytes, found.names, data)
    assert isinstance(parse(again.manifest, "", "x"), Manifest)


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "blobs/sha256/../../../evil", "a/..", "..", "x\0y"]
)
def test_a_name_that_leads_out_is_refused_and_nothing_is_written(blobs: BlobStore, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    if "\0" in name:
        with pytest.raises(BrokenArchive):
            read(blobs, docker_with(manifest={"Config": name, "Layers": []}))
    else:
        with pytest.raises(BrokenArchive, match="leads out of it"):
            read(blobs, tar({name: b"x" * 1_000_000}))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd", "../.."])
def test_a_link_that_leads_out_is_refused(blobs: BlobStore, target: str) -> None:
    with pytest.raises(BrokenArchive, match="leads out of it"):
        read(blobs, tar({}, {"1/layer.tar": target}))


def test_links_in_a_circle_end(blobs: BlobStore) -> None:
    manifest = json.dumps([{"Config": "a", "Layers": []}]).encode()
    with pytest.raises(BrokenArchive, match="circle"):
        read(blobs, tar({"manifest.json": manifest}, {"a": "b", "b": "a"}))


def docker_with(*, manifest: Any = None, files: dict[str, bytes] | None = None) -> bytes:
    return tar({**(files or {}), "manifest.json": json.dumps([manifest] if manifest else []).encode()})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty|no image archive"),
        (b"hello" * 1000, "tar|header"),
        (tar({"x": b""}), "neither manifest.json nor index.json"),
        (tar({"repositories": b"{}"}), "before Docker 1.10"),
        (tar({"manifest.json": b"{"}), "manifest.json of the archive is malformed"),
        (tar({"manifest.json": b"[" * 100_000}), "malformed"),
        (docker_with(manifest={"Config": "c.json", "Layers": []}), "lacks the configuration 'c.json'"),
        (docker_with(manifest={"Config": "c", "Layers": ["l"]}, files={"c": b"{}"}), "lacks the layer 'l'"),
        (docker_with(manifest={"Config": "c", "Layers": ["l"]}, files={"c": b"{}", "l": b""}), "1 layers, but .* 0"),
        (
            docker_with(manifest={"Config": "c", "Layers": [], "RepoTags": ["A B"]}, files={"c": b"{}"}),
            "names an image 'A B'",
        ),
        (docker_archive([b"x" * 20_000], ["a:1"])[:15_000], "ends|cut off|truncated|short"),
    ],
)
def test_a_broken_archive_is_refused_in_a_sentence(blobs: BlobStore, data: bytes, words: str) -> None:
    with pytest.raises(BrokenArchive, match=words):
        read(blobs, data)


def change_blob(files: dict[str, bytes]) -> None:
    name = max((name for name in files if name.startswith("blobs/")), key=lambda name: len(files[name]))
    files[name] = files[name][:-1] + b"!"


def test_a_blob_with_other_content_is_refused(blobs: BlobStore) -> None:
    files = layout()
    change_blob(files)
    with pytest.raises((BrokenArchive, DigestMismatch)):
        read(blobs, tar(files))


def test_a_blob_that_is_there_already_is_compared(blobs: BlobStore) -> None:
    data = os.urandom(1 << 19)
    with blobs.writer() as writer:
        writer.write(data)
        digest = writer.commit().removeprefix("sha256:")
    reader = ArchiveReader(blobs, lambda digest: None, blobs.has, lambda *_: None)
    for content in (data[:-1], data + b"x", b"\x1f\x8b" + data[2:]):
        pieces = iter([tar({f"blobs/sha256/{digest}": content})])
        with pytest.raises(DigestMismatch, match="altered"):
            reader.read(TarMembers(lambda pieces=pieces: next(pieces, b"")), None)
    pieces = iter([tar({f"blobs/sha256/{digest}": data})])
    with pytest.raises(BrokenArchive, match="no image archive"):
        reader.read(TarMembers(lambda: next(pieces, b"")), None)


def test_an_index_without_an_image_is_refused(blobs: BlobStore) -> None:
    with pytest.raises(BrokenArchive, match="lists no image"):
        read(blobs, tar(layout(manifests=[])))


def test_a_blob_is_kept_only_whole(blobs: BlobStore, tmp_path: Path) -> None:
    with blobs.writer("sha256:" + sha(b"abc"), 3) as writer:
        writer.write(b"ab")
        with pytest.raises(DigestMismatch, match="2 bytes where 3"):
            writer.commit()
    with blobs.writer("sha256:" + sha(b"abc"), 3) as writer, pytest.raises(DigestMismatch, match="longer"):
        writer.write(b"abcd")
    with blobs.writer("sha256:" + sha(b"abc")) as writer:
        writer.write(b"xyz")
        with pytest.raises(DigestMismatch, match="altered"):
            writer.commit()
    assert list(blobs) == [] and not list((tmp_path / "store" / "tmp").iterdir())
