"""One SQLite file: opened, checked, migrated, and written in groups.

Owns durability: what ``commit`` has returned from survives ``kill -9`` and power loss. Owns no
table: whoever uses it brings its migrations.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from abst.errors import DatabaseError

Row = tuple[Any, ...]


class Database:
    """A database file of one kind.

    Args:
        path: the file; made, for its owner only, when it does not exist.
        kind: a number that marks files of this kind (SQLite's application_id).
        migrations: SQL scripts; the n-th leads from version n to version n + 1.

    Raises:
        DatabaseError: the file is damaged, of another kind, or of a newer version; it is left
            alone.
    """

    def __init__(self, path: Path, kind: int, migrations: Sequence[str]) -> None:
        self._path = path
        try:
            # SQLite would make the file with the process's umask: others shall not read it.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(path, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise DatabaseError(f"{path}: {error}") from None
        try:
            self._prepare(kind, migrations)
        except sqlite3.Error as error:
            self.close()
            raise DatabaseError(f"{path}: not a usable database: {error}") from None
        except DatabaseError:
            self.close()
            raise

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return the rows of a query; what was written and not committed is seen too.

        Raises:
            DatabaseError: the file cannot be read.
        """
        try:
            return self._connection.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise DatabaseError(f"{self._path}: {error}") from None

    def write(self, sql: str, values: Sequence[Any] = ()) -> None:
        """Change something, within the transaction that the next ``commit`` ends.

        Raises:
            DatabaseError: the disk is full, or the file cannot be written; everything since the
                last ``commit`` is undone.
        """
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(sql, values)
        except sqlite3.Error as error:
            self.rollback()
            raise DatabaseError(f"{self._path}: {error}") from None

    def write_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Do the same for each row, within the transaction that the next ``commit`` ends.

        Raises:
            DatabaseError: as ``write`` does.
        """
        try:
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(sql, rows)
        except sqlite3.Error as error:
            self.rollback()
            raise DatabaseError(f"{self._path}: {error}") from None

    def commit(self) -> None:
        """Make everything written since the last commit durable; cheap when there is nothing.

        Raises:
            DatabaseError: that failed, and all of it is undone.
        """
        if not self._connection.in_transaction:
            return
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self.rollback()
            raise DatabaseError(f"{self._path}: {error}") from None

    def rollback(self) -> None:
        """Undo everything since the last commit."""
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file; what was not committed is undone."""
        self.rollback()
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def _prepare(self, kind: int, migrations: Sequence[str]) -> None:
        run = self._connection.execute
        found = run("PRAGMA application_id").fetchone()[0]
        version = run("PRAGMA user_version").fetchone()[0]
        tables = run("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if found != kind and (found or version or tables):
            raise DatabaseError(f"{self._path}: a database of something else; it is left alone")
        if version > len(migrations):
            raise DatabaseError(
                f"{self._path}: written by a newer version of ABST; update this one"
            )
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA foreign_keys = ON")
        for number in range(version, len(migrations)):
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {migrations[number]};"
                f"PRAGMA application_id = {kind}; PRAGMA user_version = {number + 1}; COMMIT"
            )
