"""What the agent keeps in its database beside its sessions: what arrived, and files on their way.

Everything here is written in the same transaction as the session that it belongs to. So what a
session counts as received is in the inbox, and nothing is there twice.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from abst.database import Database
from abst.device.session_store import ENDS_MIGRATION, MIGRATION

DATABASE_KIND: Final = 0x41425354
MAX_ITEMS: Final = 10_000

MIGRATIONS: Final = (
    MIGRATION
    + """;
CREATE TABLE inbox (
    number INTEGER PRIMARY KEY,
    item TEXT NOT NULL
);
CREATE TABLE sending (
    transfer BLOB PRIMARY KEY,
    device_id BLOB NOT NULL,
    path BLOB NOT NULL,
    size_bytes INTEGER NOT NULL,
    modified_nanoseconds INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE arriving (
    transfer BLOB PRIMARY KEY,
    device_id BLOB NOT NULL,
    name TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    sha256 BLOB
) WITHOUT ROWID
""",
    ENDS_MIGRATION,
)


@dataclass(frozen=True, slots=True)
class Sending:
    """A file on its way out, as it was when the transfer began."""

    transfer: bytes
    path: Path
    size_bytes: int
    modified_nanoseconds: int


@dataclass(frozen=True, slots=True)
class Arriving:
    """A file on its way in; its hash is known once all of it has come."""

    transfer: bytes
    name: str
    size_bytes: int
    sha256: bytes | None = None


class Records:
    """The agent's tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_item(self, item: dict[str, Any]) -> None:
        """Note something that arrived; the oldest gives way when there are too many."""
        self._database.write("INSERT INTO inbox (item) VALUES (?)", (json.dumps(item),))
        self._database.write(
            "DELETE FROM inbox WHERE number <= (SELECT max(number) FROM inbox) - ?", (MAX_ITEMS,)
        )

    def items(self) -> Iterator[dict[str, Any]]:
        """Yield what has arrived, oldest first."""
        for row in self._database.read("SELECT item FROM inbox ORDER BY number"):
            yield json.loads(row[0])

    def begin_sending(self, device_id: bytes, sending: Sending) -> None:
        """Note a file on its way out."""
        self._database.write(
            "INSERT INTO sending VALUES (?, ?, ?, ?, ?)",
            (
                sending.transfer,
                device_id,
                bytes(sending.path),
                sending.size_bytes,
                sending.modified_nanoseconds,
            ),
        )

    def sending(self, device_id: bytes) -> list[Sending]:
        """Return the files on their way to a device."""
        return [
            Sending(row[0], Path(row[1].decode("utf-8", "surrogateescape")), row[2], row[3])
            for row in self._database.read(
                "SELECT transfer, path, size_bytes, modified_nanoseconds FROM sending"
                " WHERE device_id = ?",
                (device_id,),
            )
        ]

    def end_sending(self, transfer: bytes) -> None:
        """Forget a file that is across, or given up."""
        self._database.write("DELETE FROM sending WHERE transfer = ?", (transfer,))

    def begin_arriving(self, device_id: bytes, arriving: Arriving) -> None:
        """Note a file on its way in."""
        self._database.write(
            "INSERT OR REPLACE INTO arriving VALUES (?, ?, ?, ?, ?)",
            (arriving.transfer, device_id, arriving.name, arriving.size_bytes, arriving.sha256),
        )

    def arriving(self, device_id: bytes) -> list[Arriving]:
        """Return the files on their way from a device."""
        return [
            Arriving(*row)
            for row in self._database.read(
                "SELECT transfer, name, size_bytes, sha256 FROM arriving WHERE device_id = ?",
                (device_id,),
            )
        ]

    def all_arriving(self) -> set[bytes]:
        """Return every transfer on its way in."""
        return {row[0] for row in self._database.read("SELECT transfer FROM arriving")}

    def end_arriving(self, transfer: bytes) -> None:
        """Forget a file that has arrived, or is given up."""
        self._database.write("DELETE FROM arriving WHERE transfer = ?", (transfer,))

    def keep_only(self, device_ids: Collection[bytes]) -> None:
        """Forget the files on their way from and to all other devices."""
        for table in ("sending", "arriving"):
            for (device_id,) in self._database.read(f"SELECT DISTINCT device_id FROM {table}"):
                if device_id not in device_ids:
                    self._database.write(f"DELETE FROM {table} WHERE device_id = ?", (device_id,))

    def commit(self) -> None:
        """Make it durable, outside of a session's own commits."""
        self._database.commit()
