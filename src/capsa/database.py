"""SQLite as capsa uses it: one file in WAL mode, migrations per component, one transaction a change.

A component (``image``, ``network``, ``engine``) owns its tables and hands over its migrations, a list of
SQL scripts that only ever grows; how many of them were applied is kept per component.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from capsa.errors import CapsaError, reason


class Database:
    """One SQLite database, for use by a single thread (the engine's event loop)."""

    def __init__(self, path: Path) -> None:
        """Open or create the database at ``path``; raises `CapsaError` if it is unreadable."""
        self.path = path
        try:
            # SQLite gives its log the same mode; the environment of a container may well hold a password.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            path.chmod(0o600)
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            self._connection.executescript(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;"
                "CREATE TABLE IF NOT EXISTS migrations (component TEXT PRIMARY KEY, applied INTEGER NOT NULL);"
            )
        except OSError as error:
            raise CapsaError(f"cannot open the database {path}: {reason(error)}") from error
        except sqlite3.Error as error:
            raise CapsaError(f"cannot open the database {path}: {error}") from error
        self._depth = 0

    def migrate(self, component: str, steps: Sequence[str]) -> None:
        """Apply those of ``steps`` that ``component`` has not seen yet, each in a transaction of its own."""
        row = self._connection.execute("SELECT applied FROM migrations WHERE component=?", (component,)).fetchone()
        applied = row["applied"] if row else 0
        if applied > len(steps):
            raise CapsaError(
                f"the database {self.path} was written by a newer capsa "
                f"({component} at {applied}, this version knows {len(steps)}); use that version"
            )
        for number, step in enumerate(steps[applied:], applied + 1):
            seen = "INSERT INTO migrations VALUES ('{0}', {1}) ON CONFLICT (component) DO UPDATE SET applied={1}"
            script = f"BEGIN IMMEDIATE; {step}; {seen.format(component, number)}; COMMIT;"
            try:
                self._connection.executescript(script)
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise CapsaError(f"migration {number} of {component} in {self.path} failed: {error}") from error

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement; outside `transaction` it is a transaction by itself.

        Raises `CapsaError` where the database cannot be read or written: a full or broken disk.
        """
        with self._explained():
            return self._connection.execute(sql, parameters)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._explained():
            return self._connection.execute(sql, parameters).fetchall()

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        with self._explained():
            found: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
            return found

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; nests (the outermost one commits). Never await inside."""
        if self._depth == 0:
            self.execute("BEGIN IMMEDIATE")
        self._depth += 1
        try:
            yield
            if self._depth == 1:
                self.execute("COMMIT")
        except BaseException:
            if self._depth == 1 and self._connection.in_transaction:  # a full disk makes SQLite end it by itself
                self._connection.execute("ROLLBACK")
            raise
        finally:
            self._depth -= 1

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            hint = "; make room there" if error.sqlite_errorcode == sqlite3.SQLITE_FULL else ""
            raise CapsaError(f"cannot use the database {self.path}: {error}{hint}") from error

    def close(self) -> None:
        """Close it; the write-ahead log is folded back into the file."""
        self._connection.close()
