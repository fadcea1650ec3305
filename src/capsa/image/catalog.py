"""What the database knows about images: which there are, their names, manifests and layers."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

import msgspec

from capsa.database import Database
from capsa.errors import NotFound
from capsa.image.digest import chain_ids
from capsa.image.reference import Reference, parse_whole
from capsa.oci.image import Descriptor, Manifest

STEPS = [
    """
    CREATE TABLE image (
        id TEXT PRIMARY KEY,                -- digest of the configuration
        added_at INTEGER NOT NULL,          -- nanoseconds since the epoch
        size INTEGER NOT NULL,              -- bytes of all layers, unpacked
        architecture TEXT NOT NULL,
        os TEXT NOT NULL,
        variant TEXT NOT NULL,
        created TEXT NOT NULL,              -- as the configuration has it
        parent TEXT NOT NULL,               -- id of the image this one was committed from
        removed INTEGER NOT NULL,           -- kept for containers that use it, otherwise gone
        settled INTEGER NOT NULL            -- layers and blobs are known to have reached the disk
    ) STRICT;
    CREATE TABLE image_name (
        name TEXT PRIMARY KEY,              -- docker.io/library/busybox:latest
        image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE
    ) STRICT;
    CREATE INDEX image_name_image ON image_name (image);
    CREATE TABLE image_digest (
        repository TEXT NOT NULL,           -- docker.io/library/busybox
        digest TEXT NOT NULL,               -- of a manifest or an index there
        image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE,
        PRIMARY KEY (repository, digest)
    ) STRICT;
    CREATE INDEX image_digest_image ON image_digest (image);
    CREATE TABLE image_layer (
        image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE,
        position INTEGER NOT NULL,          -- 0 is the lowest
        diff_id TEXT NOT NULL,
        PRIMARY KEY (image, position)
    ) STRICT;
    CREATE TABLE image_manifest (
        digest TEXT PRIMARY KEY,
        image TEXT NOT NULL REFERENCES image (id) ON DELETE CASCADE,
        media_type TEXT NOT NULL,
        size INTEGER NOT NULL,
        added_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX image_manifest_image ON image_manifest (image);
    CREATE TABLE image_blob (
        manifest TEXT NOT NULL REFERENCES image_manifest (digest) ON DELETE CASCADE,
        digest TEXT NOT NULL,
        PRIMARY KEY (manifest, digest)
    ) STRICT;
    CREATE INDEX image_blob_digest ON image_blob (digest);
    CREATE TABLE image_origin (
        digest TEXT NOT NULL,               -- of a blob
        repository TEXT NOT NULL,           -- where it was seen, so that a push can mount it from there
        PRIMARY KEY (digest, repository)
    ) STRICT
    """
]


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image.

    ``names`` and ``digests`` are familiar and sorted, ``size`` is in bytes of all layers unpacked, ``created`` as the
    configuration has it, ``added_at`` in nanoseconds since the epoch, ``parent`` what it was committed from.
    """

    id: str
    names: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size: int = 0
    architecture: str = ""
    os: str = ""
    variant: str = ""
    created: str = ""
    added_at: int = 0
    parent: str = ""


class Catalog:
    """The tables of the component ``image``. Every method is one transaction or part of the caller's."""

    def __init__(self, database: Database) -> None:
        self.database = database
        database.migrate("image", STEPS)

    def add(self, image: Image, diff_ids: list[str]) -> None:
        """Add an image, or bring one back that was removed by force; names are separate."""
        with self.database.transaction():
            self.database.execute(
                "INSERT INTO image VALUES (?,?,?,?,?,?,?,?,0,0) ON CONFLICT (id) DO UPDATE SET removed=0",
                (
                    image.id,
                    time.time_ns(),
                    image.size,
                    image.architecture,
                    image.os,
                    image.variant,
                    image.created,
                    image.parent,
                ),
            )
            for position, diff_id in enumerate(diff_ids):
                self.database.execute("INSERT OR IGNORE INTO image_layer VALUES (?,?,?)", (image.id, position, diff_id))

    def add_manifest(self, image: str, digest: str, size: int, manifest: Manifest) -> None:
        """Note that a manifest describes ``image``, and which blobs it needs."""
        with self.database.transaction():
            self.database.execute(
                "INSERT INTO image_manifest VALUES (?,?,?,?,?)"
                " ON CONFLICT (digest) DO UPDATE SET added_at=excluded.added_at",
                (digest, image, manifest.media_type, size, time.time_ns()),
            )
            for blob in {manifest.config.digest, *(layer.digest for layer in manifest.layers)}:
                self.database.execute("INSERT OR IGNORE INTO image_blob VALUES (?,?)", (digest, blob))

    def manifest(self, image: str) -> str | None:
        """The digest of the manifest that was added last."""
        row = self.database.row(
            "SELECT digest FROM image_manifest WHERE image=? ORDER BY added_at DESC LIMIT 1", (image,)
        )
        return row["digest"] if row else None

    def manifest_descriptor(self, image: str) -> Descriptor | None:
        """The same manifest, with its type and size."""
        row = self.database.row(
            "SELECT digest, media_type, size FROM image_manifest WHERE image=? ORDER BY added_at DESC LIMIT 1", (image,)
        )
        return Descriptor(media_type=row["media_type"], digest=row["digest"], size=row["size"]) if row else None

    def manifest_is_of(self, digest: str, image: str) -> bool:
        """Whether ``digest`` is a known manifest of ``image``."""
        return bool(self.database.row("SELECT 1 FROM image_manifest WHERE digest=? AND image=?", (digest, image)))

    def name(self, reference: Reference, image: str) -> str | None:
        """Let a tag name ``image``; returns the id it named before, if that was another."""
        with self.database.transaction():
            before = self.named(reference)
            self.database.execute(
                "INSERT INTO image_name VALUES (?,?) ON CONFLICT (name) DO UPDATE SET image=excluded.image",
                (str(reference), image),
            )
        return before if before != image else None

    def add_digest(self, repository: str, digest: str, image: str) -> None:
        """Note under which digest ``image`` is known in a repository."""
        self.database.execute(
            "INSERT INTO image_digest VALUES (?,?,?)"
            " ON CONFLICT (repository, digest) DO UPDATE SET image=excluded.image",
            (repository, digest, image),
        )

    def named(self, reference: Reference) -> str | None:
        """The image that a tag or a digest of a repository names."""
        if reference.digest:
            row = self.database.row(
                "SELECT image FROM image_digest WHERE repository=? AND digest=?",
                (reference.repository, reference.digest),
            )
        else:
            row = self.database.row("SELECT image FROM image_name WHERE name=?", (str(reference),))
        return row["image"] if row else None

    def starting_with(self, digits: str) -> list[str]:
        """Ids that begin with some hex digits, at most two."""
        low = "sha256:" + digits
        rows = self.database.rows(
            "SELECT id FROM image WHERE id >= ? AND id < ? AND removed=0 LIMIT 2", (low, low + "g")
        )
        return [row["id"] for row in rows]

    def has(self, image: str, *, removed: bool = False) -> bool:
        """Whether an image is there; with ``removed`` also one that only containers keep."""
        row = self.database.row("SELECT removed FROM image WHERE id=?", (image,))
        return row is not None and (removed or not row["removed"])

    def images(self) -> list[Image]:
        """All images, newest first."""
        names: dict[str, list[str]] = {}
        for row in self.database.rows("SELECT * FROM image_name"):
            names.setdefault(row["image"], []).append(parse_whole(row["name"]).familiar)
        seen: dict[str, list[str]] = {}
        for row in self.database.rows("SELECT * FROM image_digest"):
            familiar = parse_whole(row["repository"]).familiar_repository
            seen.setdefault(row["image"], []).append(f"{familiar}@{row['digest']}")
        rows = self.database.rows("SELECT * FROM image WHERE removed=0 ORDER BY created DESC, added_at DESC")
        return [_image(row, names.get(row["id"], []), seen.get(row["id"], [])) for row in rows]

    def image(self, id: str) -> Image:
        """One image; raises `NotFound`."""
        row = self.database.row("SELECT * FROM image WHERE id=?", (id,))
        if row is None:
            raise NotFound(f"No such image: {id}")
        return _image(
            row,
            [each.familiar for each in self.names_of(id)],
            [each.familiar for each in self.digests_of(id)],
        )

    def names_of(self, image: str) -> list[Reference]:
        """The tags that name ``image``."""
        rows = self.database.rows("SELECT name FROM image_name WHERE image=? ORDER BY name", (image,))
        return [parse_whole(row["name"]) for row in rows]

    def tags(self, repository: Reference) -> list[Reference]:
        """All tags of a repository."""
        start = repository.repository + ":"
        rows = self.database.rows(
            "SELECT name FROM image_name WHERE name >= ? AND name < ? ORDER BY name", (start, start[:-1] + ";")
        )
        return [parse_whole(row["name"]) for row in rows]

    def digests_of(self, image: str) -> list[Reference]:
        """The repositories' digests that name ``image``."""
        rows = self.database.rows(
            "SELECT repository, digest FROM image_digest WHERE image=? ORDER BY repository, digest", (image,)
        )
        return [parse_whole(row["repository"]).digested(row["digest"]) for row in rows]

    def unname(self, reference: Reference) -> None:
        """Forget a tag or a repository's digest."""
        if reference.digest:
            self.database.execute(
                "DELETE FROM image_digest WHERE repository=? AND digest=?", (reference.repository, reference.digest)
            )
        else:
            self.database.execute("DELETE FROM image_name WHERE name=?", (str(reference),))

    def remove(self, image: str, *, keep: bool = False) -> None:
        """Forget an image with all its names; ``keep``: a container still needs its files."""
        with self.database.transaction():
            if keep:
                self.database.execute("DELETE FROM image_name WHERE image=?", (image,))
                self.database.execute("DELETE FROM image_digest WHERE image=?", (image,))
                self.database.execute("UPDATE image SET removed=1 WHERE id=?", (image,))
            else:
                self.database.execute("DELETE FROM image WHERE id=?", (image,))

    def removed(self) -> list[str]:
        """Images that only containers keep."""
        return [row["id"] for row in self.database.rows("SELECT id FROM image WHERE removed=1")]

    def children(self, image: str) -> list[str]:
        """Images that were committed from ``image``."""
        return [row["id"] for row in self.database.rows("SELECT id FROM image WHERE parent=? AND removed=0", (image,))]

    def diff_ids(self, image: str) -> list[str]:
        """The layers of an image, lowest first."""
        rows = self.database.rows("SELECT diff_id FROM image_layer WHERE image=? ORDER BY position", (image,))
        return [row["diff_id"] for row in rows]

    def chains(self) -> list[list[str]]:
        """The chain ids of all images' layers."""
        layers: dict[str, list[str]] = {}
        for row in self.database.rows("SELECT image, diff_id FROM image_layer ORDER BY image, position"):
            layers.setdefault(row["image"], []).append(row["diff_id"])
        return [chain_ids(each) for each in layers.values()]

    def all_diff_ids(self) -> set[str]:
        """The layers of all images."""
        return {row["diff_id"] for row in self.database.rows("SELECT DISTINCT diff_id FROM image_layer")}

    def all_blobs(self) -> set[str]:
        """All manifests and what they refer to."""
        return {
            row["digest"]
            for row in self.database.rows("SELECT digest FROM image_blob UNION SELECT digest FROM image_manifest")
        }

    def add_origin(self, digest: str, repository: str) -> None:
        """Note that a registry's repository has a blob."""
        self.database.execute("INSERT OR IGNORE INTO image_origin VALUES (?,?)", (digest, repository))

    def origins(self, digest: str) -> list[str]:
        """The repositories that have a blob."""
        rows = self.database.rows("SELECT repository FROM image_origin WHERE digest=?", (digest,))
        return [row["repository"] for row in rows]

    def forget_origins(self, digests: Iterable[str]) -> None:
        """Forget where blobs came from that are gone."""
        with self.database.transaction():
            for digest in digests:
                self.database.execute("DELETE FROM image_origin WHERE digest=?", (digest,))

    def unsettled(self) -> list[str]:
        """Images of which a power failure may have taken something."""
        return [row["id"] for row in self.database.rows("SELECT id FROM image WHERE settled=0")]

    def settle(self, images: Iterable[str]) -> None:
        """Note that images have reached the disk."""
        with self.database.transaction():
            for image in images:
                self.database.execute("UPDATE image SET settled=1 WHERE id=?", (image,))


def _image(row: sqlite3.Row, names: list[str], seen: list[str]) -> Image:
    return Image(
        id=row["id"],
        names=tuple(sorted(names)),
        digests=tuple(sorted(seen)),
        size=row["size"],
        architecture=row["architecture"],
        os=row["os"],
        variant=row["variant"],
        created=row["created"],
        added_at=row["added_at"],
        parent=row["parent"],
    )
