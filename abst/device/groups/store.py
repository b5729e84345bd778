"""Where groups survive restarts: a narrow interface, memory and SQLite behind it.

Owns which facts of a group are kept: its keys, its roster, which messages of members were taken,
and what has been checked of its values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from abst.database import Database
from abst.packets import HASH_BYTES, SEED_BYTES


class SavedReader(NamedTuple):
    """Which messages of a member were taken: up to this one."""

    device_id: bytes
    stream: int
    counter: int


class SavedValue(NamedTuple):
    """The last change of a name that this device has checked.

    Attributes:
        hidden_name: the name as the realm sees it.
        revision: the change's number.
        sha256: of the sealed value; zero bytes when its time was over.
        sealed: the sealed value; None when there is none.
    """

    hidden_name: bytes
    revision: int
    sha256: bytes
    sealed: bytes | None


@dataclass(slots=True)
class SavedGroup:
    """A group as it was last committed.

    Attributes:
        group_id: the group.
        kind: ``group`` or ``network``.
        founder: the raw key of the device that has made it.
        realm: the address of its realm, or None.
        seeds: of all epochs, from 0 on.
        next_seed: of the epoch to which this device is about to move the group, or None.
        stream: the last number of a stream of messages that this device has used.
        entries: the roster.
        readers: which messages of the other members were taken.
        revision: the newest change of the values that was checked.
        head: the hash of the history up to there.
        values: the last change of each name.
        checked_at: when this device has last heard from the realm how the values stand, in seconds
            since 1970; None for never.
    """

    group_id: bytes
    kind: str
    founder: bytes
    realm: str | None
    seeds: tuple[bytes, ...]
    next_seed: bytes | None = None
    stream: int = 0
    entries: list[bytes] = field(default_factory=list)
    readers: list[SavedReader] = field(default_factory=list)
    revision: int = 0
    head: bytes = bytes(HASH_BYTES)
    values: list[SavedValue] = field(default_factory=list)
    checked_at: float | None = None


class GroupStore(Protocol):
    """What a device keeps of its groups. Nothing is durable before ``commit``."""

    def load(self) -> list[SavedGroup]:
        """Return every group."""

    def put(self, group: SavedGroup) -> None:
        """Keep a group's own facts: all but its entries, readers and values."""

    def add_entries(self, group_id: bytes, entries: Iterable[bytes]) -> None:
        """Keep more entries of a roster."""

    def put_readers(self, group_id: bytes, readers: Iterable[SavedReader]) -> None:
        """Keep which messages were taken."""

    def put_values(self, group_id: bytes, values: Iterable[SavedValue]) -> None:
        """Keep the last change of each of these names."""

    def drop_values(self, group_id: bytes) -> None:
        """Forget all values of a group."""

    def drop(self, group_id: bytes) -> None:
        """Forget a group with all that belongs to it."""

    def commit(self) -> None:
        """Make all of the above durable.

        Raises:
            DatabaseError: that failed, and everything since the last commit is undone.
        """


class ForgetfulGroupStore:
    """Keeps nothing: groups last as long as their process."""

    def load(self) -> list[SavedGroup]:
        """Return nothing."""
        return []

    def put(self, group: SavedGroup) -> None:
        """Keep nothing."""

    def add_entries(self, group_id: bytes, entries: Iterable[bytes]) -> None:
        """Keep nothing."""

    def put_readers(self, group_id: bytes, readers: Iterable[SavedReader]) -> None:
        """Keep nothing."""

    def put_values(self, group_id: bytes, values: Iterable[SavedValue]) -> None:
        """Keep nothing."""

    def drop_values(self, group_id: bytes) -> None:
        """Do nothing."""

    def drop(self, group_id: bytes) -> None:
        """Do nothing."""

    def commit(self) -> None:
        """Do nothing."""


MIGRATION = """
CREATE TABLE peer_group (
    group_id BLOB PRIMARY KEY,
    kind TEXT NOT NULL,
    founder BLOB NOT NULL,
    realm TEXT,
    seeds BLOB NOT NULL,
    next_seed BLOB,
    stream INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    head BLOB NOT NULL,
    checked_at REAL
) WITHOUT ROWID;
CREATE TABLE roster_entry (
    number INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL REFERENCES peer_group ON DELETE CASCADE,
    entry BLOB NOT NULL
);
CREATE INDEX roster_entry_of ON roster_entry (group_id, number);
CREATE TABLE group_reader (
    group_id BLOB NOT NULL REFERENCES peer_group ON DELETE CASCADE,
    device_id BLOB NOT NULL,
    stream INTEGER NOT NULL,
    counter INTEGER NOT NULL,
    PRIMARY KEY (group_id, device_id)
) WITHOUT ROWID;
CREATE TABLE group_value (
    group_id BLOB NOT NULL REFERENCES peer_group ON DELETE CASCADE,
    hidden_name BLOB NOT NULL,
    revision INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    sealed BLOB,
    PRIMARY KEY (group_id, hidden_name)
)
"""
"""The tables of ``SqliteGroupStore``, for the database that it is given."""


class SqliteGroupStore:
    """Groups in a ``Database`` that has had ``MIGRATION``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.commit = database.commit

    def load(self) -> list[SavedGroup]:
        """Return every group."""
        read = self._database.read
        found: dict[bytes, SavedGroup] = {}
        for row in read(
            "SELECT group_id, kind, founder, realm, seeds, next_seed, stream, revision, head,"
            " checked_at FROM peer_group"
        ):
            group = SavedGroup(*row[:4], seeds=_cut(row[4]), next_seed=row[5], stream=row[6])
            group.revision, group.head, group.checked_at = row[7:]
            found[group.group_id] = group
        for group_id, entry in read("SELECT group_id, entry FROM roster_entry ORDER BY number"):
            found[group_id].entries.append(entry)
        for row in read("SELECT group_id, device_id, stream, counter FROM group_reader"):
            found[row[0]].readers.append(SavedReader(*row[1:]))
        for row in read(
            "SELECT group_id, hidden_name, revision, sha256, sealed FROM group_value"
            " ORDER BY revision"
        ):
            found[row[0]].values.append(SavedValue(*row[1:]))
        return list(found.values())

    def put(self, group: SavedGroup) -> None:
        """Keep a group's own facts: all but its entries, readers and values."""
        self._database.write(
            "INSERT INTO peer_group (group_id, kind, founder, realm, seeds, next_seed, stream,"
            " revision, head, checked_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (group_id) DO UPDATE SET realm = excluded.realm, seeds = excluded.seeds,"
            " next_seed = excluded.next_seed, stream = excluded.stream,"
            " revision = excluded.revision, head = excluded.head,"
            " checked_at = excluded.checked_at",
            (
                group.group_id,
                group.kind,
                group.founder,
                group.realm,
                b"".join(group.seeds),
                group.next_seed,
                group.stream,
                group.revision,
                group.head,
                group.checked_at,
            ),
        )

    def add_entries(self, group_id: bytes, entries: Iterable[bytes]) -> None:
        """Keep more entries of a roster."""
        for entry in entries:
            self._database.write(
                "INSERT INTO roster_entry (group_id, entry) VALUES (?, ?)", (group_id, entry)
            )

    def put_readers(self, group_id: bytes, readers: Iterable[SavedReader]) -> None:
        """Keep which messages were taken."""
        for reader in readers:
            self._database.write(
                "INSERT OR REPLACE INTO group_reader (group_id, device_id, stream, counter)"
                " VALUES (?, ?, ?, ?)",
                (group_id, *reader),
            )

    def put_values(self, group_id: bytes, values: Iterable[SavedValue]) -> None:
        """Keep the last change of each of these names."""
        for value in values:
            self._database.write(
                "INSERT OR REPLACE INTO group_value (group_id, hidden_name, revision, sha256,"
                " sealed) VALUES (?, ?, ?, ?, ?)",
                (group_id, *value),
            )

    def drop_values(self, group_id: bytes) -> None:
        """Forget all values of a group."""
        self._database.write("DELETE FROM group_value WHERE group_id = ?", (group_id,))

    def drop(self, group_id: bytes) -> None:
        """Forget a group with all that belongs to it."""
        self._database.write("DELETE FROM peer_group WHERE group_id = ?", (group_id,))


def _cut(seeds: bytes) -> tuple[bytes, ...]:
    return tuple(seeds[at : at + SEED_BYTES] for at in range(0, len(seeds), SEED_BYTES))
