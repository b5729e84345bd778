"""The tables of a realm's store, and every statement about them.

Owns what a group's changes look like in SQLite. What is asked for is done at once or with the
next ``commit``, and looks as if it had been done at once. One thread uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from struct import Struct
from typing import Final

from abst.database import Database, Row
from abst.errors import DatabaseError
from abst.packets import HASH_BYTES
from abst.realm.store.interface import (
    MAX_REVISION,
    AccessChange,
    Addition,
    Change,
    DeviceRecord,
    GroupRecord,
    History,
    InvitationRecord,
    Outline,
    Page,
    Volumes,
)

KIND: Final = 0x41425247
"""Marks the database of a realm: ABRG."""

MIGRATIONS: Final = (
    """
CREATE TABLE peer_group (
    group_id BLOB PRIMARY KEY,
    epoch INTEGER NOT NULL,
    key BLOB NOT NULL,
    maker BLOB NOT NULL,
    used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE history (
    number INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL UNIQUE,
    stored_bytes INTEGER NOT NULL,
    floor INTEGER NOT NULL,
    floor_head BLOB NOT NULL
);
CREATE TABLE change (
    position INTEGER PRIMARY KEY,
    facts BLOB NOT NULL,
    sealed BLOB
)
""",
    """
CREATE TABLE device (
    device_id BLOB PRIMARY KEY,
    allowed INTEGER NOT NULL,
    since INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    invitation TEXT NOT NULL,
    note TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE invitation (
    name TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    uses_left INTEGER NOT NULL,
    made INTEGER NOT NULL,
    expires INTEGER,
    note TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE month (
    number INTEGER PRIMARY KEY,
    bytes INTEGER NOT NULL
);
CREATE TABLE month_of_device (
    device_id BLOB PRIMARY KEY,
    bytes INTEGER NOT NULL
) WITHOUT ROWID
""",
)
"""A change's position is the number of its history and its revision, in one number: the changes of
a group stand together in their order, and need no index beside the table. What may be large stands
last, so that the rest is read without it; and the rest is one column, since to bind one
takes as long as to store it."""

_FACTS: Final = Struct(">32s32s32s?Q")
"""A change's name, digest, head, whether it is a deletion, and when it is due: 0 for never."""

_REVISION_BITS: Final = MAX_REVISION.bit_length()
_MAX_NUMBER: Final = 2 ** (63 - _REVISION_BITS) - 1

_INSERT = "INSERT INTO change VALUES (?, ?, ?)"
_EMPTY = "UPDATE change SET sealed = NULL WHERE position = ?"
_FORGET = "DELETE FROM change WHERE position BETWEEN ? AND ?"
_COUNT = "UPDATE history SET stored_bytes = ? WHERE number = ?"
_RAISE = "UPDATE history SET floor = ?, floor_head = ? WHERE number = ?"
_FIND = "SELECT number, floor, floor_head FROM history WHERE group_id = ?"
_BEGIN = "INSERT INTO history (group_id, stored_bytes, floor, floor_head) VALUES (?, 0, 0, ?)"
_HEAD = "SELECT facts FROM change WHERE position = ?"
_OUTLINES = (
    "SELECT position, facts, length(sealed) FROM change "
    "WHERE position BETWEEN ? AND ? ORDER BY position"
)
_CHANGES = (
    "SELECT position, facts, sealed FROM change WHERE position BETWEEN ? AND ? ORDER BY position"
)
_PUT_GROUP = "INSERT OR REPLACE INTO peer_group VALUES (?, ?, ?, ?, ?)"
_GROUPS = "SELECT group_id, epoch, key, maker, used FROM peer_group"
_USE = "UPDATE peer_group SET used = ? WHERE group_id = ?"
_DROP_GROUP = "DELETE FROM peer_group WHERE group_id = ?"
_DEVICES = "SELECT device_id, allowed, since, seen, invitation, note FROM device"
_PUT_DEVICE = "INSERT OR REPLACE INTO device VALUES (?, ?, ?, ?, ?, ?)"
_INVITATIONS = "SELECT name, digest, uses_left, made, expires, note FROM invitation"
_PUT_INVITATION = "INSERT OR REPLACE INTO invitation VALUES (?, ?, ?, ?, ?, ?)"
_DROP_INVITATION = "DELETE FROM invitation WHERE name = ?"
_MONTH = "SELECT number, bytes FROM month"
_PUT_MONTH = "INSERT OR REPLACE INTO month VALUES (?, ?)"
_DROP_MONTHS = "DELETE FROM month"
_VOLUMES = "SELECT device_id, bytes FROM month_of_device"
_PUT_VOLUME = "INSERT OR REPLACE INTO month_of_device VALUES (?, ?)"
_DROP_VOLUMES = "DELETE FROM month_of_device"
_STORED = "SELECT group_id, stored_bytes FROM history"


class _Known:
    """What is known of a history without looking."""

    __slots__ = ("base", "floor", "floor_head", "number")

    def __init__(self, number: int, floor: int, floor_head: bytes) -> None:
        self.number = number
        self.base = number << _REVISION_BITS
        self.floor = floor
        self.floor_head = floor_head


class Tables:
    """A realm's database file.

    Args:
        path: the file; made when it does not exist.

    Raises:
        DatabaseError: it cannot be used; it is left alone.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, KIND, MIGRATIONS)
        self._known: dict[bytes, _Known] = {}
        # What the next commit writes, or whatever has to see it before.
        self._inserts: list[Row] = []
        self._emptied: list[Row] = []
        self._stored_bytes: dict[int, int] = {}

    def groups(self) -> list[GroupRecord]:
        """Return every group."""
        return [GroupRecord(*row) for row in self._database.read(_GROUPS)]

    def stored_bytes(self) -> dict[bytes, int]:
        """Return how much is kept of each group's values."""
        return dict(self._database.read(_STORED))

    def put_group(self, record: GroupRecord) -> bool:
        """Keep a group, or its newer epoch."""
        self._database.write(_PUT_GROUP, record)
        return True

    def note_use(self, asked: tuple[bytes, int]) -> None:
        """Keep a group's newest day of use."""
        group, day = asked
        self._database.write(_USE, (day, group))

    def forget_groups(self, groups: Sequence[bytes]) -> list[bytes]:
        """Forget those groups that have never had a value; return them."""
        forgotten = [group for group in groups if self._find(group) is None]
        self._database.write_many(_DROP_GROUP, [(group,) for group in forgotten])
        return forgotten

    def devices(self) -> list[DeviceRecord]:
        """Return every device that was decided about."""
        rows = self._database.read(_DEVICES)
        return [DeviceRecord(device, bool(allowed), *rest) for device, allowed, *rest in rows]

    def invitations(self) -> list[InvitationRecord]:
        """Return every invitation."""
        return [InvitationRecord(*row) for row in self._database.read(_INVITATIONS)]

    def change_access(self, change: AccessChange) -> bool:
        """Change who may be here."""
        self._database.write_many(_PUT_DEVICE, change.devices)
        self._database.write_many(_PUT_INVITATION, change.invitations)
        names = [(name,) for name in change.forgotten_invitations]
        self._database.write_many(_DROP_INVITATION, names)
        return True

    def volumes(self) -> Volumes:
        """Return how much has been sent in a month."""
        rows = self._database.read(_MONTH)
        month, in_all = rows[0] if rows else (0, 0)
        return Volumes(month, in_all, dict(self._database.read(_VOLUMES)))

    def put_volumes(self, volumes: Volumes) -> bool:
        """Keep how much has been sent."""
        rows = self._database.read(_MONTH)
        if not rows or rows[0][0] != volumes.month:
            self._database.write(_DROP_MONTHS)
            self._database.write(_DROP_VOLUMES)
        self._database.write(_PUT_MONTH, (volumes.month, volumes.in_all))
        self._database.write_many(_PUT_VOLUME, volumes.by_device.items())
        return True

    def load(self, group: bytes) -> History:
        """Return the history of a group."""
        known = self._find(group)
        if known is None:
            return History(bytes(HASH_BYTES), 0, ())
        self._flush()
        base = known.base
        rows = self._database.read(_OUTLINES, (base, base + MAX_REVISION))
        outlines = []
        head = bytes(HASH_BYTES)
        for position, facts, size in rows:
            name, _, head, deleted, due = _FACTS.unpack(facts)
            outlines.append(Outline(position - base, name, size, deleted, due or None))
        return History(head, known.floor, outlines)

    def add(self, addition: Addition) -> bool:
        """Keep changes."""
        group, changes, stored_bytes, emptied, forgotten, floor = addition
        known = self._known.get(group) or self._find(group) or self._begin(group)
        base = known.base
        for revision, name, digest, head, sealed, deleted, due in changes:
            facts = _FACTS.pack(name, digest, head, deleted, due or 0)
            self._inserts.append((base + revision, facts, sealed))
        self._stored_bytes[known.number] = stored_bytes
        if emptied:
            self._emptied += [(base + revision,) for revision in emptied]
        if floor is not None:
            self._flush()
            known.floor, known.floor_head = floor, self._head(base + floor)
            self._database.write(_RAISE, (floor, known.floor_head, known.number))
        if forgotten:
            self._flush()
            runs = [(base + first, base + last) for first, last in forgotten]
            self._database.write_many(_FORGET, runs)
        return True

    def read(self, asked: tuple[bytes, int, int]) -> Page:
        """Return the changes of a group from one revision to another."""
        group, first, last = asked
        known = self._find(group)
        if known is None:
            return Page((), 0, bytes(HASH_BYTES))
        self._flush()
        base = known.base
        rows = self._database.read(_CHANGES, (base + first, base + last))
        changes = []
        for position, facts, sealed in rows:
            name, digest, head, deleted, due = _FACTS.unpack(facts)
            changes.append(
                Change(position - base, name, digest, head, sealed, deleted, due or None)
            )
        return Page(changes, known.floor, known.floor_head)

    def commit(self) -> None:
        """Make everything durable.

        Raises:
            DatabaseError: that failed; ``rollback`` has to be called.
        """
        self._flush()
        if self._stored_bytes:
            counts = [(count, number) for number, count in self._stored_bytes.items()]
            self._database.write_many(_COUNT, counts)
            self._stored_bytes.clear()
        self._database.commit()

    def rollback(self) -> None:
        """Undo everything since the last commit."""
        self._database.rollback()
        self._known.clear()
        self._inserts.clear()
        self._emptied.clear()
        self._stored_bytes.clear()

    def close(self) -> None:
        """Close the file; what was not committed is undone."""
        self._database.close()

    def _find(self, group: bytes) -> _Known | None:
        known = self._known.get(group)
        if known is None:
            rows = self._database.read(_FIND, (group,))
            if rows:
                known = self._known[group] = _Known(*rows[0])
        return known

    def _begin(self, group: bytes) -> _Known:
        self._database.write(_BEGIN, (group, bytes(HASH_BYTES)))
        known = self._find(group)
        assert known is not None
        if known.number > _MAX_NUMBER:
            raise DatabaseError(f"there is no room for more than {_MAX_NUMBER} groups with values")
        return known

    def _head(self, position: int) -> bytes:
        head: bytes = _FACTS.unpack(self._database.read(_HEAD, (position,))[0][0])[2]
        return head

    def _flush(self) -> None:
        """Write what has been gathered."""
        if self._inserts:
            self._database.write_many(_INSERT, self._inserts)
            self._inserts.clear()
        if self._emptied:
            self._database.write_many(_EMPTY, self._emptied)
            self._emptied.clear()
