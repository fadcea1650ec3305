"""The images that an engine has: names, configurations, layers.

Public interface (all of it for the event loop's thread; what blocks runs in threads or in the layer workers)::

    images = Images(root / "image", database, users=..., insecure=...)
    await images.start()                     # tidy up after a crash
    await images.close()

    image = images.resolve("nginx" | "nginx:1" | "nginx@sha256:…" | "sha256:…" | "4bcf")
    images.list() -> list[Image]
    images.config(image.id) -> ImageConfig                  # cached: a dictionary look-up
    images.layers(image.id) -> list[Path]                   # lowest first, for `capsa.vfs.tree`; cached as well
    images.history(image.id) -> list[Step]                  # newest first, as ``docker history``
    images.tag("nginx", "localhost:5000/mine:2")
    await images.remove("nginx", force=False, prune=True) -> list[Untagged | Deleted]
    await images.prune(dangling_only=True) -> Pruned(removed, reclaimed)
    await images.pull("nginx", platform="linux/arm64", auth=…, progress=…) -> Image
    await images.push("localhost:5000/mine:2", auth=…, progress=…) -> digest
    await images.load(path_or_chunks, progress=…) -> list[Loaded(name, id)]
    async for chunk in images.save(["nginx", "4bcf"]): …   # a tar archive
    await images.import_(path_or_chunks, "mine:1", changes=["CMD x"], message="", platform=None) -> Image
    await images.commit(layer_tar_chunks, parent=image.id | None, config=ContainerConfig, …) -> Image
    await images.collect() -> int                           # bytes freed of what nothing refers to

``progress`` is called with Docker's JSON messages as dictionaries (``{"status": …, "id": …, "progressDetail": …}``).
``users()`` tells which containers use which image: ``{image id: [User(container id, running)]}``; an image that a
container uses stays on disk, even when it was removed by force, until that container is gone.

Errors: `NotFound` (``No such image: foo:latest``), `InvalidArgument` (``invalid reference format``), `Conflict`
(removing what is in use, in Docker's words), `BrokenArchive`, `DigestMismatch`, `Unauthorized`, `Unavailable`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from capsa.database import Database
from capsa.errors import InvalidArgument, NotFound
from capsa.image import platforms
from capsa.image import reference as references
from capsa.image.archive import ArchiveReader, Found
from capsa.image.arrivals import Arrivals
from capsa.image.catalog import Image
from capsa.image.changes import apply
from capsa.image.compression import pieces
from capsa.image.contents import Contents
from capsa.image.credentials import ANONYMOUS, Credentials
from capsa.image.digest import is_digest, of, short
from capsa.image.distribution import Offer, offered
from capsa.image.export import Exported, archive
from capsa.image.holds import Hold
from capsa.image.layers import LayerStore
from capsa.image.login import login
from capsa.image.manifest import CONFIG_LIMIT, parse_config
from capsa.image.members import FolderMembers, TarMembers
from capsa.image.progress import Progress, silent
from capsa.image.pull import Pull
from capsa.image.push import Push
from capsa.image.reference import Reference
from capsa.image.registry import Registry
from capsa.image.removal import Deleted, Removed, Untagged, User, Users, remove
from capsa.image.stream import Chunks, Feed, finished, in_thread
from capsa.image.tar import BLOCK
from capsa.oci.image import OCI_LAYER, ContainerConfig, Descriptor, History, ImageConfig, Platform, RootFS

__all__ = [
    "Deleted",
    "Image",
    "Images",
    "Loaded",
    "Pruned",
    "Removed",
    "Step",
    "Untagged",
    "User",
]


class Loaded(msgspec.Struct, frozen=True):
    """An image that came in; ``name`` is familiar, or empty. ``renamed``: the id of the image that lost this name."""

    name: str
    id: str
    renamed: str = ""


class Pruned(msgspec.Struct, frozen=True):
    """What went away, and how many bytes that freed."""

    removed: list[Removed]
    reclaimed: int


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One line of an image's history; ``id`` is ``<missing>`` for all but the newest, ``size`` in bytes."""

    id: str
    created: str
    created_by: str
    comment: str
    size: int
    names: tuple[str, ...] = ()


#: The layer without anything: an archive of nothing but its end mark.
_EMPTY = of(bytes(1024))


def _nobody() -> Users:
    return {}


class Images:
    """The image store below ``root``; one at a time for a root.

    ``users`` tells which containers use which image. ``insecure`` are registries (``HOST[:PORT]``) that may be spoken
    to without TLS, besides those on this machine.
    """

    def __init__(
        self,
        root: Path,
        database: Database,
        *,
        users: Callable[[], Users] = _nobody,
        insecure: Sequence[str] = (),
    ) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        self._contents = Contents(root, database, LayerStore(root), users)
        self._catalog = self._contents.catalog
        self._users = users
        self._insecure = frozenset(insecure)
        self._configs: dict[str, ImageConfig] = {}
        self._paths: dict[str, list[Path]] = {}

    async def start(self) -> None:
        """Remove half-done work and what nothing refers to."""
        await self._contents.tidy()

    async def close(self) -> None:
        """End background work."""
        await self._contents.close()

    # What there is

    def resolve(self, name: str) -> Image:
        """The image that a reference, an id or the beginning of an id means.

        Raises `NotFound` (``No such image: foo:latest``), `InvalidArgument` for what can be neither.
        """
        return self._catalog.image(self._find(name)[0])

    def _find(self, name: str) -> tuple[str, Reference | None]:
        """The id, and the reference unless ``name`` is an id."""
        digits = name.removeprefix("sha256:")
        if is_digest("sha256:" + digits):
            if self._catalog.has("sha256:" + digits):
                return "sha256:" + digits, None
            raise NotFound(f"No such image: {name}")
        if name.startswith("sha256:") and digits and not digits.strip("0123456789abcdef"):
            reference = None
        else:
            reference = references.parse(name).with_default_tag()
            image = self._catalog.named(reference)
            if image is None and reference.tag and reference.digest:
                image = self._catalog.named(reference.digested(reference.digest))
            if image is not None:
                return image, reference
        if digits and not digits.strip("0123456789abcdef"):
            ids = self._catalog.starting_with(digits)
            if len(ids) > 1:
                raise InvalidArgument(f"the image id {name} is ambiguous: give more of its digits")
            if ids:
                return ids[0], None
        raise NotFound(f"No such image: {reference.familiar if reference else name}")

    def list(self) -> list[Image]:
        """All images, newest first."""
        return self._catalog.images()

    def config(self, image: str) -> ImageConfig:
        """The configuration of the image with that id; raises `NotFound`. Do not change it: it is shared."""
        found = self._configs.get(image)
        if found is None:
            found = parse_config(self.config_bytes(image), short(image))
            self._configs[image] = found
        return found

    def config_bytes(self, image: str) -> bytes:
        """The exact bytes of the configuration; raises `NotFound`."""
        if not self._catalog.has(image, removed=True):
            raise NotFound(f"No such image: {image}")
        return self._contents.blobs.read(image, CONFIG_LIMIT)

    def layers(self, image: str) -> Sequence[Path]:
        """The directories of the image's layers, lowest first; raises `NotFound`."""
        found = self._paths.get(image)
        if found is None:
            if not self._catalog.has(image, removed=True):
                raise NotFound(f"No such image: {image}")
            found = self._contents.layers.stack(self._catalog.diff_ids(image))
            self._paths[image] = found
        return found

    def links(self, image: str) -> Sequence[Sequence[bytes]]:
        """Groups of names that are hard links of each other; other files of one inode are merely equal."""
        layers = self._contents.layers
        return [names for diff_id in self._catalog.diff_ids(image) for names in layers.links(diff_id)]

    def history(self, image: str) -> Sequence[Step]:
        """How the image was made, newest step first."""
        config = self.config(image)
        sizes = [self._contents.layers.size(diff_id) for diff_id in config.rootfs.diff_ids]
        steps = config.history
        if sum(not step.empty_layer for step in steps) != len(sizes):
            steps = [History(created=config.created)] * len(sizes)
        result: list[Step] = []
        remaining = iter(sizes)
        for step in steps:
            result.append(
                Step(
                    id="<missing>",
                    created=step.created,
                    created_by=step.created_by,
                    comment=step.comment,
                    size=0 if step.empty_layer else next(remaining),
                )
            )
        result.reverse()
        if result:
            found = self._catalog.image(image)
            result[0] = msgspec.structs.replace(result[0], id=image, names=found.names)
        return result

    def disk_use(self) -> int:
        """Bytes of all layers, each counted once."""
        return sum([self._contents.layers.size(diff_id) for diff_id in self._catalog.all_diff_ids()])

    def shared_sizes(self) -> dict[str, int]:
        """Of each image the bytes in layers that others have, too."""
        chains = {image.id: self._catalog.diff_ids(image.id) for image in self.list()}
        users = Counter(diff_id for chain in chains.values() for diff_id in set(chain))
        size = self._contents.layers.size
        return {image: sum(size(each) for each in chain if users[each] > 1) for image, chain in chains.items()}

    def manifest(self, image: str) -> Descriptor | None:
        """The manifest that it came with last, or that it was pushed with."""
        return self._catalog.manifest_descriptor(image)

    # Names and removal

    def tag(self, source: str, target: str) -> Image:
        """Let ``target`` name the image ``source``, too; raises `NotFound`, `InvalidArgument`."""
        image = self.resolve(source)
        self._catalog.name(_target(target), image.id)
        return image

    async def remove(self, name: str, *, force: bool = False, prune: bool = True) -> Sequence[Removed]:
        """Remove a name and, with its last one, the image (Docker's rules); raises `NotFound`, `Conflict`.

        ``prune``: also its parents that have no name and that nothing uses.
        """
        image, reference = self._find(name)
        users = self._users()
        removed = remove(
            self._catalog, image, reference, users.get(image, ()), force=force, prune=prune, all_users=users
        )
        self._forget(removed)
        if any(isinstance(each, Deleted) for each in removed):
            await self._contents.collect(thorough=False)
        return removed

    async def prune(
        self, *, dangling_only: bool = True, accept: Callable[[Image], bool] = lambda image: True
    ) -> Pruned:
        """Remove images without a name, or all that no container uses; only those that ``accept`` takes."""
        users = self._users()
        removed: list[Removed] = []
        for image in self._catalog.images():
            if (dangling_only and image.names) or users.get(image.id) or not accept(image):
                continue
            if not self._catalog.has(image.id) or self._catalog.children(image.id):
                continue
            with self._catalog.database.transaction():
                for name in self._catalog.names_of(image.id):
                    self._catalog.unname(name)
                    removed.append(Untagged(name.familiar))
                removed += remove(self._catalog, image.id, None, (), force=True, prune=True, all_users=users)
        self._forget(removed)
        return Pruned(removed, await self._contents.collect())

    def _forget(self, removed: Sequence[Removed]) -> None:
        for each in removed:
            if isinstance(each, Deleted) and not self._catalog.has(each.id, removed=True):
                self._configs.pop(each.id, None)
                self._paths.pop(each.id, None)

    async def collect(self) -> int:
        """Remove what nothing refers to; returns the bytes freed."""
        return await self._contents.collect()

    # Coming in

    async def load(self, source: Path | Chunks, *, platform: str = "", progress: Progress = silent) -> Sequence[Loaded]:
        """Load an image archive, or an OCI layout folder; see `capsa.image.archive`.

        Raises `BrokenArchive`, `DigestMismatch`; then nothing of it is kept.
        """
        wanted = platforms.parse(platform) if platform else None
        async with self._contents.operation() as hold:
            await self._contents.expect()
            async with self._contents.arrivals(hold, progress, "Loading layer") as arrivals:
                found = await self._read(source, hold, wanted, arrivals)
            ready = [await self._contents.prepare(each, hold, progress, verb="Loading layer") for each in found]
            loaded: list[Loaded] = []
            with self._catalog.database.transaction():
                for each, image in zip(found, map(self._contents.enter, ready), strict=True):
                    for name in each.names:
                        before = self._catalog.name(name, image)
                        loaded.append(Loaded(name.familiar, image, before or ""))
                    if not each.names:
                        loaded.append(Loaded("", image))
        return loaded

    async def pull(
        self, name: str, *, platform: str = "", auth: Credentials = ANONYMOUS, progress: Progress = silent
    ) -> Image:
        """Pull an image; without a tag, ``latest``.

        Raises `NotFound` (no such image there, or none for the platform), `Unauthorized`, `Unavailable`,
        `DigestMismatch`, `BrokenArchive`, `Unsupported`; then nothing of it is kept.
        """
        reference = references.parse(name).with_default_tag()
        wanted = platforms.parse(platform) if platform else None
        async with self._registry(reference, auth) as registry:
            image = await Pull(self._contents, registry, reference, wanted, progress).run()
        return self._catalog.image(image)

    async def offered(self, name: str, *, auth: Credentials = ANONYMOUS) -> Offer:
        """What the registry has under a name; raises as `pull`."""
        reference = references.parse(name).with_default_tag()
        async with self._registry(reference, auth) as registry:
            return await offered(registry, reference)

    async def tags(self, name: str, *, auth: Credentials = ANONYMOUS) -> Sequence[str]:
        """All tags that a registry has of a repository."""
        async with self._registry(references.parse(name), auth) as registry:
            return await registry.tags()

    async def push(self, name: str, *, auth: Credentials = ANONYMOUS, progress: Progress = silent) -> str:
        """Push an image under that tag, which it must have here; returns the manifest's digest there.

        Raises `NotFound`, `Forbidden`, `Unauthorized`, `Unavailable`.
        """
        reference = references.parse(name).with_default_tag()
        if reference.digest:
            raise InvalidArgument("cannot push a digest reference")
        image = self._catalog.named(reference)
        if image is None:
            raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_repository}")
        async with self._registry(reference, auth, push=True) as registry:
            return await Push(self._contents, registry, reference, image, progress).run()

    async def login(self, server: str, auth: Credentials) -> None:
        """Ask a registry whether it accepts ``auth``; raises `Unauthorized`, `Unavailable`."""
        await login(server, auth, insecure=self._insecure)

    def _registry(self, reference: Reference, auth: Credentials, *, push: bool = False) -> Registry:
        return Registry(reference, auth, insecure=reference.domain in self._insecure, push=push)

    async def _read(
        self, source: Path | Chunks, hold: Hold, platform: Platform | None, arrivals: Arrivals
    ) -> Sequence[Found]:
        reader = ArchiveReader(self._contents.blobs, hold, self._contents.known, arrivals.begin)
        if isinstance(source, Path) and source.is_dir():
            return await finished(reader.read, FolderMembers(source), platform)
        feed = Feed(source, asyncio.get_running_loop(), arrivals.stop)
        return await in_thread(lambda feed: reader.read(_members(feed), platform), feed)

    async def import_(
        self,
        source: Path | Chunks,
        name: str = "",
        *,
        changes: Sequence[str] = (),
        message: str = "",
        platform: str = "",
    ) -> Image:
        """Make an image of a root file system's tar (compressed or not); ``changes`` are Dockerfile instructions."""
        config = ContainerConfig()
        apply(config, changes)
        return await self.commit(
            source, name=name, config=config, comment=message or "Imported from -", platform=platform
        )

    async def commit(
        self,
        source: Path | Chunks,
        *,
        name: str = "",
        parent: str = "",
        config: ContainerConfig,
        author: str = "",
        comment: str = "",
        created_by: str = "",
        platform: str = "",
        created: str = "",
    ) -> Image:
        """Make an image of a layer's tar on top of the image with the id ``parent``; ``created`` defaults to now."""
        target = _target(name) if name else None
        below = self.config(parent) if parent else ImageConfig()
        on = below.platform if parent else platforms.parse(platform) if platform else platforms.native()
        async with self._contents.operation() as hold:
            async with self._contents.arrivals(hold, silent, "") as arrivals:
                feed = Feed(source, asyncio.get_running_loop(), arrivals.stop)
                layer = await in_thread(lambda feed: self._keep_layer(feed, hold, arrivals), feed)
            added = [] if parent and layer.digest == _EMPTY else [layer]
            made = created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            image_config = ImageConfig(
                architecture=on.architecture,
                os=on.os,
                variant=on.variant,
                created=made,
                author=author,
                config=config,
                rootfs=RootFS(diff_ids=[*below.rootfs.diff_ids, *(each.digest for each in added)]),
                history=[
                    *below.history,
                    History(created=made, created_by=created_by, author=author, comment=comment, empty_layer=not added),
                ],
            )
            data = msgspec.json.encode(image_config)
            layers = [*self._contents.descriptors(parent), *added] if parent else added
            ready = await self._contents.prepare(Found(data, image_config, layers), hold, silent, parent=parent)
            with self._catalog.database.transaction():
                image = self._contents.enter(ready)
                if target:
                    self._catalog.name(target, image)
        return self.resolve(image)

    # Going out

    async def save(self, names: Sequence[str]) -> AsyncIterator[bytes]:
        """An archive of images by name or id; a repository without a tag stands for all its tags.

        It is an OCI image layout and a ``docker save`` archive at once. Raises `NotFound` before the first byte.
        """
        async with self._contents.operation() as hold:
            images = [self._exported(image, wanted, hold) for image, wanted in self._selected(names).items()]
            chunks = archive(images, self._contents.read)
            while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                yield chunk

    def _selected(self, names: Sequence[str]) -> dict[str, Sequence[Reference]]:
        """The ids of images, and under which tags each is wanted."""
        selected: dict[str, Any] = {}
        for name in names:
            tags = self._catalog.tags(references.parse(name)) if references.is_repository(name) else []
            for tag in tags:
                selected.setdefault(self._catalog.named(tag) or "", []).append(tag)
            if not tags:
                image, reference = self._find(name)
                wanted = selected.setdefault(image, [])
                if reference and reference.tag:
                    wanted.append(replace(reference, digest=""))
        return {image: list(dict.fromkeys(wanted)) for image, wanted in selected.items()}

    def _exported(self, image: str, names: Sequence[Reference], hold: Hold) -> Exported:
        data, manifest = self._contents.manifest(image)
        for digest in (of(data), manifest.config.digest, *(layer.digest for layer in manifest.layers)):
            hold(digest)
        return Exported(data, manifest, self.config(image).platform, [*names])

    def _keep_layer(self, feed: Feed, hold: Hold, arrivals: Arrivals) -> Descriptor:
        """Take a layer that comes as a tar, plain, since only then its digest is its diff id. In a thread."""
        parts = pieces(cast(BinaryIO, feed))
        head = next(parts, b"")
        while len(head) < BLOCK and (part := next(parts, b"")):
            head += part
        if not head:
            raise InvalidArgument("the archive is empty")
        arrival = arrivals.begin(head, "", 0)
        if arrival:
            arrival.hand_on(chain((head,), parts))
            return Descriptor(media_type=OCI_LAYER, digest=arrival.layer().diff_id, size=arrival.size)
        with self._contents.blobs.writer() as writer:
            for piece in chain((head,), parts):
                writer.write(piece)
            hold(writer.digest)
            return Descriptor(media_type=OCI_LAYER, digest=writer.commit(), size=writer.size)


def _members(feed: Feed) -> TarMembers:
    content = pieces(cast(BinaryIO, feed))
    return TarMembers(lambda: next(content, b""))


def _target(name: str) -> Reference:
    """A name to give; raises `InvalidArgument` for one with a digest."""
    if is_digest(name):
        raise InvalidArgument(f"{name} cannot be a name: it is a digest")
    reference = references.parse(name).with_default_tag()
    if reference.digest:
        raise InvalidArgument("refusing to create a tag with a digest reference")
    return reference
