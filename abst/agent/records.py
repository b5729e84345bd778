"""What the agent keeps in its database beside its sessions: what arrived, and what is being sent.

A message is written in the same transaction as the session that it belongs to. So what a session
counts as received is in the inbox, and nothing is there twice. For files the same holds by their
transfer: it goes on record in the transaction that puts them into the inbox.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from abst.database import Database
from abst.device.groups import store as group_store
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
    """
DROP TABLE sending;
DROP TABLE arriving;
CREATE TABLE sending (
    number INTEGER PRIMARY KEY,
    transfer BLOB NOT NULL UNIQUE,
    device_id BLOB NOT NULL,
    path BLOB NOT NULL
);
CREATE TABLE arrived (
    number INTEGER PRIMARY KEY,
    transfer BLOB NOT NULL UNIQUE,
    device_id BLOB NOT NULL,
    name TEXT NOT NULL,
    sha256 BLOB NOT NULL
);
CREATE INDEX arrived_from ON arrived (device_id, number)
""",
    *group_store.MIGRATIONS,
)

MAX_ARRIVED: Final = 4096
"""How many of a device's transfers are known after they are over: more than it has under way."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A file or a folder on its way out."""

    transfer: bytes
    path: Path


@dataclass(frozen=True, slots=True)
class Arrived:
    """A file or a folder that is in the inbox: its name there, and its hash."""

    transfer: bytes
    name: str
    sha256: bytes


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
        """Note something on its way out."""
        self._database.write(
            "INSERT INTO sending (transfer, device_id, path) VALUES (?, ?, ?)",
            (sending.transfer, device_id, bytes(sending.path)),
        )

    def sending(self, device_id: bytes) -> list[Sending]:
        """Return what is on its way to a device, in the order in which it was begun."""
        return [
            Sending(row[0], Path(os.fsdecode(row[1])))
            for row in self._database.read(
                "SELECT transfer, path FROM sending WHERE device_id = ? ORDER BY number",
                (device_id,),
            )
        ]

    def end_sending(self, transfer: bytes) -> None:
        """Forget what is across, or given up."""
        self._database.write("DELETE FROM sending WHERE transfer = ?", (transfer,))

    def is_sending(self, transfer: bytes) -> bool:
        """Tell whether a transfer is on its way out."""
        found = self._database.read("SELECT 1 FROM sending WHERE transfer = ?", (transfer,))
        return bool(found)

    def add_arrived(self, device_id: bytes, arrived: Arrived) -> None:
        """Note a transfer that is over; the device's oldest gives way when there are too many."""
        self._database.write(
            "INSERT OR REPLACE INTO arrived (transfer, device_id, name, sha256)"
            " VALUES (?, ?, ?, ?)",
            (arrived.transfer, device_id, arrived.name, arrived.sha256),
        )
        self._database.write(
            "DELETE FROM arrived WHERE number <= (SELECT number FROM arrived WHERE device_id = ?"
            " ORDER BY number DESC LIMIT 1 OFFSET ?) AND device_id = ?",
            (device_id, MAX_ARRIVED, device_id),
        )

    def arrived(self, device_id: bytes, transfer: bytes) -> Arrived | None:
        """Return what came of a device's transfer, or None when it is not over."""
        rows = self._database.read(
            "SELECT transfer, name, sha256 FROM arrived WHERE device_id = ? AND transfer = ?",
            (device_id, transfer),
        )
        return Arrived(*rows[0]) if rows else None

    def keep_only(self, device_ids: Collection[bytes]) -> None:
        """Forget the transfers from and to all other devices."""
        for table in ("sending", "arrived"):
            for (device_id,) in self._database.read(f"SELECT DISTINCT device_id FROM {table}"):
                if device_id not in device_ids:
                    self._database.write(f"DELETE FROM {table} WHERE device_id = ?", (device_id,))

    def commit(self) -> None:
        """Make it durable, outside of a session's own commits."""
        self._database.commit()
