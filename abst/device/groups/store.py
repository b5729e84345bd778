"""Where groups survive restarts: a narrow interface, memory and SQLite behind it.

Owns which facts of a group are kept: its keys, its roster, which messages of members were taken,
and what has been checked of its values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from abst.database import Database
from abst.device_id import DEVICE_ID_BYTES
from abst.packets import SEED_BYTES


class SavedReader(NamedTuple):
    """Which messages of a member were taken: up to this one.

    Attributes:
        device_id: the member.
        stream: its stream of messages.
        counter: the number of the message in it.
        place: how many messages of its application it had said in that stream by then.
    """

    device_id: bytes
    stream: int
    counter: int
    place: int


class SavedValue(NamedTuple):
    """What this device knows of a name: its last change, and the sealed value.

    Attributes:
        hidden_name: the name as the realm sees it.
        change: the fields of its ``LastChange``, encoded.
        sealed: the sealed value; None when there is none.
    """

    hidden_name: bytes
    change: bytes
    sealed: bytes | None


class SavedStep(NamedTuple):
    """One of the newest changes of a group's values: the history after it, and its own hash."""

    revision: int
    head: bytes
    digest: bytes


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
        offered: devices that this one has added, and that have not answered yet.
        said: the number of this device's last roster entry that it has said through the group.
        entries: the roster.
        readers: which messages of the other members were taken.
        history: what was checked of the values, encoded, but for what ``values`` and ``steps``
            have; None when nothing was.
        values: what is known of each name.
        steps: the newest changes.
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
    offered: tuple[bytes, ...] = ()
    said: int = 0
    entries: list[bytes] = field(default_factory=list)
    readers: list[SavedReader] = field(default_factory=list)
    history: bytes | None = None
    values: list[SavedValue] = field(default_factory=list)
    steps: list[SavedStep] = field(default_factory=list)
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

    def put_steps(self, group_id: bytes, steps: Iterable[SavedStep], most: int) -> None:
        """Keep more of the newest changes, and of all no more than so many."""

    def drop_values(self, group_id: bytes) -> None:
        """Forget what is known of the values of a group."""

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

    def put_steps(self, group_id: bytes, steps: Iterable[SavedStep], most: int) -> None:
        """Keep nothing."""

    def drop_values(self, group_id: bytes) -> None:
        """Do nothing."""

    def drop(self, group_id: bytes) -> None:
        """Do nothing."""

    def commit(self) -> None:
        """Do nothing."""


MIGRATIONS: Final = (
    """
CREATE TABLE peer_group (
    group_id BLOB PRIMARY KEY,
    kind TEXT NOT NULL,
    founder BLOB NOT NULL,
    realm TEXT,
    seeds BLOB NOT NULL,
    next_seed BLOB,
    stream INTEGER NOT NULL,
    offered BLOB NOT NULL,
    history BLOB,
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
    change BLOB NOT NULL,
    sealed BLOB,
    PRIMARY KEY (group_id, hidden_name)
);
CREATE TABLE value_step (
    group_id BLOB NOT NULL REFERENCES peer_group ON DELETE CASCADE,
    revision INTEGER NOT NULL,
    head BLOB NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (group_id, revision)
) WITHOUT ROWID
""",
    """
ALTER TABLE peer_group ADD COLUMN said INTEGER NOT NULL DEFAULT 0;
ALTER TABLE group_reader ADD COLUMN place INTEGER NOT NULL DEFAULT 0
""",
)
"""The tables of ``SqliteGroupStore``, for the database that it is given."""


class SqliteGroupStore:
    """Groups in a ``Database`` that has had ``MIGRATIONS``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.commit = database.commit

    def load(self) -> list[SavedGroup]:
        """Return every group."""
        read = self._database.read
        found: dict[bytes, SavedGroup] = {}
        for row in read(
            "SELECT group_id, kind, founder, realm, seeds, next_seed, stream, offered,"
            " history, checked_at, said FROM peer_group"
        ):
            seeds, offered = _cut(row[4], SEED_BYTES), _cut(row[7], DEVICE_ID_BYTES)
            group = SavedGroup(
                group_id=row[0],
                kind=row[1],
                founder=row[2],
                realm=row[3],
                seeds=seeds,
                next_seed=row[5],
                stream=row[6],
                offered=offered,
                history=row[8],
                checked_at=row[9],
                said=row[10],
            )
            found[group.group_id] = group
        for group_id, entry in read("SELECT group_id, entry FROM roster_entry ORDER BY number"):
            found[group_id].entries.append(entry)
        for row in read("SELECT group_id, device_id, stream, counter, place FROM group_reader"):
            found[row[0]].readers.append(SavedReader(*row[1:]))
        for row in read("SELECT group_id, hidden_name, change, sealed FROM group_value"):
            found[row[0]].values.append(SavedValue(*row[1:]))
        for row in read("SELECT group_id, revision, head, digest FROM value_step"):
            found[row[0]].steps.append(SavedStep(*row[1:]))
        return list(found.values())

    def put(self, group: SavedGroup) -> None:
        """Keep a group's own facts: all but its entries, readers and values."""
        self._database.write(
            "INSERT INTO peer_group (group_id, kind, founder, realm, seeds, next_seed, stream,"
            " offered, history, checked_at, said) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (group_id) DO UPDATE SET realm = excluded.realm, seeds = excluded.seeds,"
            " next_seed = excluded.next_seed, stream = excluded.stream,"
            " offered = excluded.offered, history = excluded.history,"
            " checked_at = excluded.checked_at, said = excluded.said",
            (
                group.group_id,
                group.kind,
                group.founder,
                group.realm,
                b"".join(group.seeds),
                group.next_seed,
                group.stream,
                b"".join(group.offered),
                group.history,
                group.checked_at,
                group.said,
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
                "INSERT OR REPLACE INTO group_reader (group_id, device_id, stream, counter, place)"
                " VALUES (?, ?, ?, ?, ?)",
                (group_id, *reader),
            )

    def put_values(self, group_id: bytes, values: Iterable[SavedValue]) -> None:
        """Keep the last change of each of these names."""
        for value in values:
            self._database.write(
                "INSERT OR REPLACE INTO group_value (group_id, hidden_name, change, sealed)"
                " VALUES (?, ?, ?, ?)",
                (group_id, *value),
            )

    def put_steps(self, group_id: bytes, steps: Iterable[SavedStep], most: int) -> None:
        """Keep more of the newest changes, and of all no more than so many."""
        for step in steps:
            self._database.write(
                "INSERT OR REPLACE INTO value_step (group_id, revision, head, digest)"
                " VALUES (?, ?, ?, ?)",
                (group_id, *step),
            )
        self._database.write(
            "DELETE FROM value_step WHERE group_id = ? AND revision <="
            " (SELECT max(revision) FROM value_step WHERE group_id = ?) - ?",
            (group_id, group_id, most),
        )

    def drop_values(self, group_id: bytes) -> None:
        """Forget what is known of the values of a group."""
        for table in ("group_value", "value_step"):
            self._database.write(f"DELETE FROM {table} WHERE group_id = ?", (group_id,))

    def drop(self, group_id: bytes) -> None:
        """Forget a group with all that belongs to it."""
        self._database.write("DELETE FROM peer_group WHERE group_id = ?", (group_id,))


def _cut(joined: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(joined[at : at + size] for at in range(0, len(joined), size))
