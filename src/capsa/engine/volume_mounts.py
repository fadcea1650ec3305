"""Mounts of volumes that have options of the ``local`` driver: there while a container uses them.

They are the only mounts that the engine has on the host, since the containers that share a volume share its mount: made
for the first, undone after the last. Nothing is written down: which containers run is known, and whether something is
mounted the kernel tells, so that an engine that was killed leaves nothing that the next one would not take away.

A network file system may take its time: a process of its own mounts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from capsa.errors import CapsaError, reason
from capsa.sys import mount

if TYPE_CHECKING:
    from capsa.engine.container import Container
    from capsa.engine.volumes import Volumes

_SECONDS = 90.0
_log = logging.getLogger("capsa.engine")


class VolumeMounts:
    """The mounts of an engine's volumes."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self._holders: defaultdict[str, set[str]] = defaultdict(set)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def of(self, container: Container) -> list[str]:
        """The names of a container's volumes that need a mount."""
        found = []
        for point in container.document.mounts:
            if point.type == "volume":
                volume = self._volumes.get(point.name)
                if volume is not None and volume.options:
                    found.append(point.name)
        return found

    async def hold(self, container: Container, holder: str = "") -> None:
        """Mount what ``container`` needs until ``holder`` (its id) releases it; raises `CapsaError`."""
        held = []
        try:
            for name in self.of(container):
                async with self._locks[name]:
                    if not _is_mounted(self._volumes.path(name)):
                        await self._mount(name)
                    self._holders[name].add(holder or container.id)
                    held.append(name)
        except BaseException:
            await asyncio.shield(self._let_go(held, holder or container.id))
            raise

    async def release(self, container: Container, holder: str = "") -> None:
        """``holder`` needs them no more."""
        await self._let_go(self.of(container), holder or container.id)

    @contextlib.asynccontextmanager
    async def held(self, container: Container, holder: str) -> AsyncIterator[None]:
        """Hold them for the block."""
        await self.hold(container, holder)
        try:
            yield
        finally:
            await asyncio.shield(self.release(container, holder))

    async def reconcile(self, live: Iterable[Container]) -> None:
        """At start-up: ``live`` containers hold theirs; what nobody holds is unmounted."""
        for container in live:
            for name in self.of(container):
                self._holders[name].add(container.id)
        for volume in self._volumes:
            if volume.options:
                await self._let_go([volume.name], "")

    async def _let_go(self, names: list[str], holder: str) -> None:
        for name in names:
            async with self._locks[name]:
                self._holders[name].discard(holder)
                if not self._holders[name]:
                    _unmount(self._volumes.path(name))

    async def _mount(self, name: str) -> None:
        volume, path = self._volumes.find(name), self._volumes.path(name)
        path.mkdir(parents=True, exist_ok=True)
        document = msgspec.json.encode({"path": str(path), "options": volume.options}).decode()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "capsa.engine.volume_worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        try:
            async with asyncio.timeout(_SECONDS):
                _, told = await process.communicate(document.encode())
        except TimeoutError:
            process.kill()  # and not waited for: the kernel may hold on to it
            raise CapsaError(
                f"error while mounting volume '{path}': the server did not answer within {_SECONDS:.0f} seconds"
            ) from None
        except BaseException:
            process.kill()
            _unmount(path)
            raise
        if process.returncode:
            said = (told.decode(errors="replace").strip().splitlines() or ["it was killed"])[-1]
            raise CapsaError(f"error while mounting volume '{path}': failed to mount local volume: {said}")


def _unmount(path: Path) -> None:
    try:
        while _is_mounted(path):
            mount.umount(str(path), mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    except OSError as error:
        _log.warning("cannot unmount the volume at %s: %s", path, reason(error))


def _is_mounted(path: Path) -> bool:
    """Whether ``path`` is a mount point, also for a bind mount of the same file system."""
    try:
        return _mount_id(path) != _mount_id(path.parent)
    except FileNotFoundError:
        return False


def _mount_id(path: Path) -> str:
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
            return next(line for line in file if line.startswith("mnt_id:"))
    finally:
        os.close(fd)
