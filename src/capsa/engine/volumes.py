"""Volumes: directories below ``ROOT/volumes`` that outlive containers."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from capsa.database import Database
from capsa.engine import disk, volume_options
from capsa.engine.names import check_volume, new_id
from capsa.errors import CapsaError, Conflict, NotFound, reason

MIGRATIONS = [
    "CREATE TABLE volumes (name TEXT PRIMARY KEY, document BLOB NOT NULL) WITHOUT ROWID",
]
_encode = msgspec.json.Encoder().encode
ANONYMOUS = "com.docker.volume.anonymous"


class Volume(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A volume; ``created`` in nanoseconds since the epoch."""

    name: str
    created: int
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False


class Volumes:
    """All volumes of an engine."""

    def __init__(self, database: Database, directory: Path, users: Callable[[], dict[str, list[str]]]) -> None:
        """``users``: the containers (ids) that use each volume, by name."""
        self._database = database
        self.directory = directory
        self._users = users
        decoder = msgspec.json.Decoder(Volume)
        rows = database.rows("SELECT document FROM volumes")
        self._volumes = {volume.name: volume for volume in (decoder.decode(row["document"]) for row in rows)}

    def __iter__(self) -> Iterator[Volume]:
        return iter(sorted(self._volumes.values(), key=lambda volume: volume.name))

    def find(self, name: str) -> Volume:
        """By name; raises `NotFound`."""
        found = self._volumes.get(name)
        if found is None:
            raise NotFound(f"get {name}: no such volume")
        return found

    def get(self, name: str) -> Volume | None:
        """By name, or None."""
        return self._volumes.get(name)

    def path(self, name: str) -> Path:
        """Where its content is."""
        return self.directory / name / "_data"

    def create(
        self,
        name: str = "",
        *,
        labels: dict[str, str] | None = None,
        options: dict[str, str] | None = None,
        driver: str = "local",
        anonymous: bool = False,
    ) -> tuple[Volume, bool]:
        """The volume called ``name`` (none: a new anonymous one), and whether it is new.

        One that is there already stays as it is. Raises `InvalidArgument`, `NotFound` for another driver.
        """
        if driver not in ("", "local"):
            raise NotFound(f'error looking up volume plugin {driver}: plugin "{driver}" not found')
        if options:
            volume_options.check(options)
        if name:
            check_volume(name)
            found = self._volumes.get(name)
            if found is not None:
                return found, False
        labels = dict(labels or {})
        if anonymous or not name:
            labels.setdefault(ANONYMOUS, "")
        volume = Volume(
            name=name or new_id(),
            created=time.time_ns(),
            labels=labels,
            options=dict(options or {}),
            anonymous=anonymous or not name,
        )
        path = self.path(volume.name)
        try:
            path.mkdir(parents=True, exist_ok=True)
            os.chmod(path, 0o755)  # noqa: S103
        except OSError as error:
            raise CapsaError(f"cannot make the volume's directory {path}: {reason(error)}") from error
        try:
            self._database.execute("INSERT INTO volumes VALUES (?, ?)", (volume.name, _encode(volume)))
        except BaseException:
            _remove(path.parent)
            raise
        self._volumes[volume.name] = volume
        return volume, True

    def remove(self, name: str, *, force: bool = False) -> None:
        """Remove it with its content; raises `NotFound` (not with ``force``), `Conflict` if a container uses it."""
        if name not in self._volumes:
            if force:
                return
            raise NotFound(f"get {name}: no such volume")
        users = self._users().get(name)
        if users:
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(users)}]")
        self._delete(name)

    def remove_unused(self, names: Iterable[str]) -> list[str]:
        """Remove those of ``names`` that are there and that no container uses; returns them."""
        users = self._users()
        unused = [name for name in dict.fromkeys(names) if name in self._volumes and name not in users]
        with self._database.transaction():
            for name in unused:
                self._delete(name)
        return unused

    async def prune(self, wanted: Callable[[Volume], bool]) -> tuple[list[str], int]:
        """Remove those that ``wanted`` accepts and nobody uses: their names, and the bytes freed."""
        users = self._users()
        removed, freed = [], 0
        for volume in list(self._volumes.values()):
            if volume.name not in users and wanted(volume):
                freed += await asyncio.to_thread(self.size, volume.name)
                if volume.name in self._volumes and volume.name not in self._users():
                    self._delete(volume.name)
                    removed.append(volume.name)
        return removed, freed

    def size(self, name: str) -> int:
        """Bytes that its files take."""
        return disk.size(self.path(name))

    def forget_missing(self) -> None:
        """At start-up: directories that no row knows go; a row keeps its volume, empty if the directory is gone."""
        if self.directory.is_dir():
            for entry in self.directory.iterdir():
                if entry.name not in self._volumes:
                    _remove(entry)
        for name in self._volumes:
            self.path(name).mkdir(parents=True, exist_ok=True)

    def _delete(self, name: str) -> None:
        self._database.execute("DELETE FROM volumes WHERE name=?", (name,))
        del self._volumes[name]
        gone = self.directory / f".gone-{new_id()}"
        try:
            os.rename(self.directory / name, gone)
        except FileNotFoundError:
            return
        asyncio.get_running_loop().run_in_executor(None, _remove, gone)


def _remove(path: Path) -> None:
    from capsa.image.rmtree import remove_tree

    try:
        remove_tree(path)
    except OSError as error:
        logging.getLogger("capsa.engine").warning("cannot remove %s: %s", path, reason(error))


def describe(volume: Volume, path: Path) -> dict[str, Any]:
    """As the Docker Engine API shows a volume."""
    from capsa.engine.times import rfc3339

    return {
        "CreatedAt": rfc3339(volume.created // 10**9 * 10**9),
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": str(path),
        "Name": volume.name,
        "Options": volume.options or None,
        "Scope": "local",
    }
