"""Unpacked layers, named by diff id, made of files that are stored once (DESIGN.md, decision 5).

A layer does not depend on what lies below it, so the same layer in any number of images is one directory::

    layers/HEX/tree/        what overlayfs gets as a lower directory; whiteouts are in overlayfs' form
    layers/HEX/layer.json   `Record`
    layers/HEX/unsettled    there until the layer is known to have reached the disk; holds the boot id
    objects/AB/REST         see `capsa.image.objects`
    recipes/HEX             see `capsa.image.recipes`
    tmp/layer-*             being made, locked by its maker; or being removed

Two mount options matter to whoever mounts these: ``index=off`` and ``metacopy=off``. With the inode index, overlayfs
would take equal files for hard links of each other and a write to one would appear in the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from capsa.errors import BrokenArchive, CapsaError, DigestMismatch, InvalidArgument, NotFound, Unsupported, reason
from capsa.image.compression import pieces
from capsa.image.feed import HashingFeed
from capsa.image.limits import DEFAULT, Limits
from capsa.image.objects import ObjectStore
from capsa.image.recipes import Recipes, Recording
from capsa.image.rmtree import remove_tree
from capsa.image.tar import TarReader
from capsa.image.unpack import Unpacker

__all__ = ["Layer", "LayerStore", "remove_tree"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_WORK = "layer-"
_MEDIA_TYPES = frozenset(
    f"{base}{suffix}"
    for base, suffixes in {
        "application/vnd.oci.image.layer.v1.tar": ("", "+gzip", "+zstd", "+bzip2", "+xz"),
        "application/vnd.oci.image.layer.nondistributable.v1.tar": ("", "+gzip", "+zstd"),
        "application/vnd.docker.image.rootfs.diff.tar": ("", ".gzip", ".zstd", ".xz", ".bzip2"),
        "application/vnd.docker.image.rootfs.foreign.diff.tar": ("", ".gzip", ".zstd"),
        "application/x-tar": ("", "+gzip"),
    }.items()
    for suffix in suffixes
)


class Record(msgspec.Struct, omit_defaults=True, kw_only=True, frozen=True):
    """``layer.json``. ``links``: names of files that the archive had as hard links to each other, as opposed to
    merely equal.
    """

    diff_id: str
    size: int
    entries: int
    opaque: bool = False
    links: list[list[bytes]] = []


@dataclass(frozen=True, slots=True)
class Layer:
    """An unpacked layer: ``path`` is the directory for overlayfs, ``size`` the bytes of all its regular files.

    ``opaque``: its root hides everything below it (see `LayerStore.stack`).
    """

    diff_id: str
    path: Path
    size: int
    entries: int
    opaque: bool


class LayerStore:
    """The layers below ``root``. Any number of threads and processes may use it at once."""

    def __init__(self, root: Path, limits: Limits = DEFAULT) -> None:
        """Raises `CapsaError` where the directories cannot be made."""
        self.root = root
        self._limits = limits
        self._layers = root / "layers"
        self._tmp = root / "tmp"
        try:
            for directory in (self._layers, self._tmp):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._objects = ObjectStore(root / "objects")
            self.recipes = Recipes(root)
        except OSError as error:
            raise CapsaError(f"cannot use {root} for layers: {reason(error)}") from error

    def close(self) -> None:
        """Let go of ``root`` (it could not be unmounted otherwise); the store cannot be used any more."""
        self._objects.close()

    def recover(self) -> None:
        """Tidy up after a crash: unfinished work goes, and so do layers that a power failure may have damaged.

        Work of living processes is left alone. Call it once at start, before anything relies on `has`.
        """
        unfinished = 0
        for path in self._abandoned():
            remove_tree(path)
            unfinished += 1
        lost = [path.parent for path in self._layers.glob("*/unsettled") if _content(path) != _boot_id()]
        for path in lost:
            self.recipes.remove(f"sha256:{path.name}")
            self._discard(path)
        if unfinished or lost:
            self._objects.collect()

    def unpack(
        self,
        blob: Path | BinaryIO,
        *,
        diff_id: str | None = None,
        media_type: str = "",
        progress: Callable[[int], None] | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> Layer:
        """Unpack the layer ``blob`` (plain, gzip, zstd, bzip2 or xz: its content tells), all of it or nothing.

        With ``diff_id`` the content is verified, and a blob whose layer is there already is not read again.
        ``media_type`` refuses what is no file system layer. ``progress`` gets the number of bytes read so far, from
        another thread. ``announce``: the layer comes uncompressed and will not be kept as a blob, so it gets a recipe;
        called with its diff id before it is there to be collected. Raises `BrokenArchive`, `DigestMismatch`,
        `Unsupported`, and `CapsaError` (a full disk).
        """
        if media_type and media_type.partition(";")[0].strip() not in _MEDIA_TYPES:
            raise Unsupported(f"a layer of the type {media_type[:100]!r} is not a file system and cannot be unpacked")
        if diff_id is not None and announce is None and self.has(diff_id):
            return self.layer(diff_id)
        try:
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(blob.open("rb", buffering=0)) if isinstance(blob, Path) else blob
                work = stack.enter_context(self._work())
                return self._unpack(file, work, diff_id, progress, announce)
        except OSError as error:
            about = f" ({os.fsdecode(error.filename)})" if error.filename else ""
            which = diff_id or ("that arrives" if announce else blob)
            raise CapsaError(f"cannot unpack the layer {which}: {reason(error)}{about}") from error
        except BrokenArchive as error:
            raise type(error)(f"{error} (layer {diff_id})" if diff_id else str(error)) from error

    def _unpack(
        self,
        file: BinaryIO,
        work: Path,
        diff_id: str | None,
        progress: Callable[[int], None] | None,
        announce: Callable[[str], None] | None,
    ) -> Layer:
        made = work / "layer"
        (made / "tree").mkdir(parents=True)
        (work / "files").mkdir()
        staging = os.open(work / "files", _DIRECTORY)
        target = os.open(made / "tree", _DIRECTORY)
        try:
            with contextlib.ExitStack() as stack:
                feed = stack.enter_context(HashingFeed(pieces(file, progress=progress, limits=self._limits)))
                recording = stack.enter_context(Recording(work / "recipe")) if announce else None
                unpacker = Unpacker(self._objects, staging, target, self._limits, recording)
                pull = _recorded(feed.pull, recording) if recording else feed.pull
                result = unpacker.run(TarReader(pull, self._limits))
        finally:
            os.close(staging)
            os.close(target)
        actual = feed.digest()
        if diff_id is not None and actual != diff_id:
            raise DigestMismatch(f"the layer's content has the diff id {actual}, where {diff_id} was announced")
        if announce:
            announce(actual)
            # A layer that is new goes with its recipe when a power failure overtakes both (`recover`).
            self.recipes.adopt(actual, work / "recipe", sync=self.has(actual))
        record = Record(
            diff_id=actual, size=result.size, entries=result.entries, opaque=result.opaque, links=result.links
        )
        (made / "layer.json").write_bytes(msgspec.json.encode(record))
        (made / "unsettled").write_text(_boot_id())
        try:
            made.rename(self._home(actual))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise  # otherwise somebody else was faster, with the same content
        return self.layer(actual)

    def has(self, diff_id: str) -> bool:
        """Whether the layer is there, whole."""
        return (self._home(diff_id) / "layer.json").exists()

    def path(self, diff_id: str) -> Path:
        """The directory for overlayfs; raises `NotFound`."""
        path = self._home(diff_id) / "tree"
        if not path.is_dir():
            raise NotFound(f"the layer {diff_id} is not unpacked")
        return path

    def stack(self, diff_ids: Iterable[str]) -> list[Path]:
        """The directories of several layers, lowest first, without those that a later one hides altogether.

        overlayfs does not look at opaqueness of a layer's root. Raises `NotFound`.
        """
        layers = [self.layer(diff_id) for diff_id in diff_ids]
        hidden = max((index for index, layer in enumerate(layers) if layer.opaque), default=0)
        return [layer.path for layer in layers[hidden:]]

    def layer(self, diff_id: str) -> Layer:
        """What is known about a layer; raises `NotFound`."""
        record = self._record(diff_id)
        return Layer(record.diff_id, self._home(diff_id) / "tree", record.size, record.entries, record.opaque)

    def size(self, diff_id: str) -> int:
        """Bytes of the layer's regular files, as ``docker images`` counts them, shared or not; raises `NotFound`."""
        return self._record(diff_id).size

    def links(self, diff_id: str) -> list[list[bytes]]:
        """Groups of names that the archive had as hard links; other files of one inode are merely equal."""
        return self._record(diff_id).links

    def diff_ids(self) -> list[str]:
        """All layers."""
        return [f"sha256:{path.name}" for path in sorted(self._layers.iterdir())]

    def remove(self, diff_id: str) -> None:
        """Remove a layer if it is there; its objects stay until `collect`. Raises `CapsaError`."""
        try:
            self._discard(self._home(diff_id))
        except OSError as error:
            raise CapsaError(f"cannot remove the layer {diff_id}: {reason(error)}") from error

    def collect(self, keep: Collection[str]) -> int:
        """Remove all layers but ``keep``, then what nothing refers to; returns the bytes on disk freed of objects.

        A layer that is just being unpacked must be in ``keep`` as well, once it is unpacked. Raises `CapsaError`.
        """
        for diff_id in self.diff_ids():
            if diff_id not in keep:
                self.remove(diff_id)
        try:
            return self._objects.collect()
        except OSError as error:
            raise CapsaError(f"cannot remove unused files below {self.root}: {reason(error)}") from error

    def usage(self) -> int:
        """Bytes on disk of all layers, each file once."""
        return self._objects.usage()

    def settle(self) -> None:
        """Wait until what was unpacked so far has reached the disk, and take note of that.

        A layer that a power failure overtakes before this is dropped by `recover`. Takes as long as the disk does.
        """
        markers = list(self._layers.glob("*/unsettled"))
        if not markers:
            return
        directory = os.open(self._layers, _DIRECTORY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(directory) < 0:
                raise CapsaError(f"cannot write {self.root} to disk: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(directory)
        for marker in markers:
            marker.unlink(missing_ok=True)

    def _home(self, diff_id: str) -> Path:
        algorithm, _, digest = diff_id.partition(":")
        if algorithm != "sha256" or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise InvalidArgument(f"{diff_id[:100]!r} is not a diff id (sha256 and 64 hexadecimal digits)")
        return self._layers / digest

    def _record(self, diff_id: str) -> Record:
        try:
            return msgspec.json.decode((self._home(diff_id) / "layer.json").read_bytes(), type=Record)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"the layer {diff_id} is not unpacked") from None

    def _discard(self, path: Path) -> None:
        """Out of sight in one step, then gone bit by bit."""
        with self._work() as work, contextlib.suppress(FileNotFoundError):
            path.rename(work / "gone")

    @contextmanager
    def _work(self) -> Iterator[Path]:
        """A directory of one's own below ``tmp``, locked for as long as it is in use, removed afterwards."""
        while True:
            work = self._tmp / f"{_WORK}{secrets.token_hex(8)}"
            work.mkdir(mode=0o700)
            try:
                fd = os.open(work, _DIRECTORY)
            except FileNotFoundError:
                continue  # somebody's `recover` came between the two steps
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                break
            os.close(fd)  # or here
        try:
            yield work
        finally:
            remove_tree(work)
            os.close(fd)

    def _abandoned(self) -> Iterator[Path]:
        """Such directories whose owner is gone, each locked until the next: one may be just about to be locked."""
        for path in self._tmp.glob(f"{_WORK}*"):
            try:
                fd = os.open(path, _DIRECTORY)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                yield path
            finally:
                os.close(fd)


def _recorded(pull: Callable[[], bytes], recording: Recording) -> Callable[[], bytes]:
    def pulled() -> bytes:
        piece = pull()
        recording.passed(piece)
        return piece

    return pulled


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


def _content(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return _boot_id()  # settled, or removed, at this moment
