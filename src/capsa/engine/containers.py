"""All containers of an engine: finding them, and keeping them in the database.

They are all held in memory; SQLite has a row for each, written at every change, read at start-up only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from capsa.database import Database
from capsa.engine.container import Container, Document, State
from capsa.engine.names import generate
from capsa.errors import CapsaError, Conflict, InvalidArgument, NotFound

MIGRATIONS = [
    "CREATE TABLE containers"
    " (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, document BLOB NOT NULL, state BLOB NOT NULL) WITHOUT ROWID",
]

_documents = msgspec.json.Decoder(Document)
_states = msgspec.json.Decoder(State)
_encode = msgspec.json.Encoder().encode


class Containers:
    """The containers, by id, name or a unique beginning of the id."""

    def __init__(self, database: Database, directory: Path) -> None:
        """``directory`` holds a bundle for each."""
        self._database = database
        self.directory = directory
        self._unsaved: set[str] = set()
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, Container] = {}

    def load(self) -> None:
        """Read them from the database."""
        for row in self._database.rows("SELECT id, name, document, state FROM containers"):
            self._keep(
                Container(
                    row["id"],
                    row["name"],
                    _documents.decode(row["document"]),
                    _states.decode(row["state"]),
                    self.directory / row["id"],
                )
            )

    def __iter__(self) -> Iterator[Container]:
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, identity: str) -> bool:
        return identity in self._by_id

    def newest_first(self) -> list[Container]:
        """In the order of ``docker ps``."""
        return sorted(self._by_id.values(), key=lambda container: container.document.created, reverse=True)

    def find(self, reference: str) -> Container:
        """By full id, name (with or without a slash), or a unique beginning of the id; raises `NotFound`."""
        found = self._by_id.get(reference) or self._by_name.get(reference.removeprefix("/"))
        if found is not None:
            return found
        if not reference:
            raise InvalidArgument('invalid name or ID supplied: ""')
        if len(reference) < 64:
            matches = [container for identity, container in self._by_id.items() if identity.startswith(reference)]
            if len(matches) == 1:
                return matches[0]
            if matches:
                raise InvalidArgument(f"multiple IDs found with provided prefix: {reference}")
        raise NotFound(f"No such container: {reference}")

    def name_taken(self, name: str) -> None:
        """Raises `Conflict` if a container has this name."""
        owner = self._by_name.get(name)
        if owner is not None:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{owner.id}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )

    def free_name(self) -> str:
        """A generated name that nobody has."""
        return generate(self._by_name)

    def add(self, container: Container) -> None:
        """Keep a new container."""
        self.name_taken(container.name)
        self._database.execute(
            "INSERT INTO containers (id, name, document, state) VALUES (?, ?, ?, ?)",
            (container.id, container.name, _encode(container.document), _encode(container.state)),
        )
        self._keep(container)

    def save(self, container: Container) -> None:
        """Store the state, which is a fact already; if the disk is full, `saved` is False until it has been stored."""
        self._unsaved.add(container.id)
        with contextlib.suppress(CapsaError):
            self.store(container)

    def store(self, container: Container) -> None:
        """Store the state; raises `CapsaError` if the disk is full."""
        self._database.execute("UPDATE containers SET state=? WHERE id=?", (_encode(container.state), container.id))
        self._unsaved.discard(container.id)

    def saved(self, container: Container) -> bool:
        """Whether the state is stored."""
        return container.id not in self._unsaved

    def save_document(self, container: Container) -> None:
        """Store the rest, too."""
        self._database.execute(
            "UPDATE containers SET document=?, state=? WHERE id=?",
            (_encode(container.document), _encode(container.state), container.id),
        )
        self._unsaved.discard(container.id)

    def rename(self, container: Container, name: str) -> None:
        """Give it another name; raises `Conflict`."""
        if name == container.name:
            raise InvalidArgument("Renaming a container with the same name as its current name")
        self.name_taken(name)
        self._database.execute("UPDATE containers SET name=? WHERE id=?", (name, container.id))
        del self._by_name[container.name]
        container.name = name
        self._by_name[name] = container

    def remove(self, container: Container) -> None:
        """Forget it."""
        self._database.execute("DELETE FROM containers WHERE id=?", (container.id,))
        self._unsaved.discard(container.id)
        self._by_id.pop(container.id, None)
        if self._by_name.get(container.name) is container:
            del self._by_name[container.name]

    def _keep(self, container: Container) -> None:
        self._by_id[container.id] = container
        self._by_name[container.name] = container
