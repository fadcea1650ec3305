"""Blobs: content named by its digest, in the form of an OCI image layout (``blobs/sha256/HEX``).

A blob is written below ``tmp`` while its digest is computed, and renamed when digest and size are right, so a file
below ``blobs`` is whole. Small blobs (manifests, configurations) are synced to disk before the rename. Large ones are
not: the file system is synced once, after an operation (see `capsa.image.contents`), and until that is through
an image is not trusted to have outlived a power failure.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from capsa.errors import BrokenArchive, CapsaError, DigestMismatch, NotFound, reason
from capsa.image.digest import check, of

CHUNK = 1 << 20


class BlobStore:
    """The blobs below ``root``; all methods block, and any thread may call them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs" / "sha256"
        self._tmp = root / "tmp"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._tmp.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Where the blob is or would be; raises `BrokenArchive` if that is no digest."""
        return self._blobs / check(digest, "a blob").removeprefix("sha256:")

    def has(self, digest: str, size: int | None = None) -> bool:
        """Whether the blob is there, with ``size`` bytes if that is given."""
        try:
            found = self.path(digest).stat()
        except FileNotFoundError:
            return False
        return size is None or found.st_size == size

    def size(self, digest: str) -> int:
        """Bytes of a blob; raises `NotFound`."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise NotFound(f"the blob {digest} is not in {self.root}") from None

    def open(self, digest: str) -> BinaryIO:
        """A blob for reading; raises `NotFound`."""
        try:
            return self.path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            raise NotFound(f"the blob {digest} is not in {self.root}") from None

    def read(self, digest: str, limit: int) -> bytes:
        """A small blob, verified; raises `NotFound`, `BrokenArchive` beyond ``limit`` bytes, `DigestMismatch`."""
        try:
            with self.path(digest).open("rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError:
            raise NotFound(f"the blob {digest} is not in {self.root}") from None
        if len(data) > limit:
            raise BrokenArchive(f"{digest} is larger than the {limit} bytes that are allowed for it")
        if of(data) != digest:
            raise DigestMismatch(f"the blob {digest} in {self.root} was damaged: remove its image and get it again")
        return data

    def write(self, data: bytes) -> str:
        """Keep a small blob, synced to disk; returns its digest."""
        digest = of(data)
        if not self.has(digest, len(data)):
            with self.writer() as writer:
                writer.write(data)
                writer.commit(sync=True)
        return digest

    def writer(self, digest: str = "", size: int | None = None) -> BlobWriter:
        """Write a blob piece by piece; ``digest`` and ``size`` are what it has to have, if that is known."""
        if digest:
            check(digest, "a blob")
        return BlobWriter(self._blobs, self._tmp, digest, size)

    def recover(self) -> None:
        """Remove what a crash left half written."""
        for path in self._tmp.glob("blob-*"):
            path.unlink(missing_ok=True)

    def remove(self, digest: str) -> int:
        """Remove a blob; returns the bytes freed (0 if it was not there)."""
        path = self.path(digest)
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return size

    def __iter__(self) -> Iterator[str]:
        """The digests of all blobs."""
        with os.scandir(self._blobs) as entries:
            for entry in entries:
                yield "sha256:" + entry.name


class BlobWriter:
    """A blob that is being written; leaving the ``with`` block without `commit` leaves nothing behind."""

    def __init__(self, blobs: Path, tmp: Path, digest: str, size: int | None) -> None:
        self._blobs = blobs
        self._wanted = digest
        self._wanted_size = size
        self._hash = hashlib.sha256()
        self.size = 0
        self.path = tmp / f"blob-{secrets.token_hex(8)}"
        try:
            self._file: BinaryIO = self.path.open("xb", buffering=0)
        except OSError as error:
            raise CapsaError(f"cannot write {self.path}: {reason(error)}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises `DigestMismatch` as soon as there is more than announced."""
        self.size += len(data)
        if self._wanted_size is not None and self.size > self._wanted_size:
            raise DigestMismatch(f"{self._wanted or 'a blob'} is longer than the announced {self._wanted_size} bytes")
        self._hash.update(data)
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise CapsaError(f"cannot write {self.path.parent}: {reason(error)}") from error

    @property
    def digest(self) -> str:
        """The digest of what was written so far."""
        return "sha256:" + self._hash.hexdigest()

    def restart(self) -> None:
        """Forget what was written (a download that cannot be resumed)."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    def commit(self, *, sync: bool = False) -> str:
        """Verify digest and size and give the blob its name; returns the digest; raises `DigestMismatch`."""
        digest = self.digest
        if self._wanted_size is not None and self.size != self._wanted_size:
            raise DigestMismatch(
                f"{self._wanted or digest} has {self.size} bytes where {self._wanted_size} were announced"
            )
        if self._wanted and digest != self._wanted:
            raise DigestMismatch(f"the content of {self._wanted} has the digest {digest}: it was altered on its way")
        try:
            if sync:
                os.fsync(self._file.fileno())
            self.path.replace(self._blobs / digest.removeprefix("sha256:"))
            if sync:
                _sync_directory(self._blobs)
        except OSError as error:
            raise CapsaError(f"cannot write {self._blobs}: {reason(error)}") from error
        return digest


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
