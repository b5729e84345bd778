"""Where sessions survive restarts: a narrow interface, and SQLite behind it.

Owns which facts of a session are kept: its ID, the two counts, and the packets that the other side
has not acknowledged. A session writes as it goes and commits before anything that follows from it
leaves the device, so that neither side ever knows more than the disk does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from abst.database import Database


@dataclass(slots=True)
class SavedSession:
    """A session as it was last committed.

    Attributes:
        device_id: the peer.
        session_id: the session.
        received: how many of the peer's packets have been handled.
        acknowledged: how many of this side's packets the peer has.
        packets: the encoded packets after those, in order.
    """

    device_id: bytes
    session_id: bytes
    received: int
    acknowledged: int
    packets: list[bytes] = field(default_factory=list)


class SessionStore(Protocol):
    """What a device keeps of its sessions."""

    def load(self) -> list[SavedSession]:
        """Return every session."""

    def load_one(self, device_id: bytes) -> SavedSession | None:
        """Return the session with a peer, or None."""

    def begin(self, device_id: bytes, session_id: bytes) -> None:
        """Keep a new session; an older one with the same peer is gone, with its packets."""

    def rename(self, device_id: bytes, session_id: bytes) -> None:
        """Note another ID for a session in which nothing has come across; its packets stay."""

    def end(self, device_id: bytes) -> None:
        """Forget a session and its packets."""

    def sent(self, device_id: bytes, number: int, packet: bytes) -> None:
        """Keep a packet until it is acknowledged."""

    def acknowledged(self, device_id: bytes, count: int) -> None:
        """Note how many packets the peer has; they need no longer be kept."""

    def received(self, device_id: bytes, count: int) -> None:
        """Note how many of the peer's packets have been handled."""

    def replace(self, device_id: bytes, number: int, packet: bytes) -> None:
        """Keep another packet in a packet's place."""

    def load_ends(self) -> dict[bytes, tuple[bytes, int]]:
        """Return, by peer, the ID and the count of each session of which the end is remembered."""

    def remember_end(self, device_id: bytes, session_id: bytes, received: int) -> None:
        """Remember that a session has ended here, which the peer may not know."""

    def forget_end(self, device_id: bytes) -> None:
        """Remember no end of a session with a peer."""

    def commit(self) -> None:
        """Make all of the above durable.

        Raises:
            DatabaseError: that failed, and everything since the last commit is undone.
        """


MIGRATION = """
CREATE TABLE session (
    device_id BLOB PRIMARY KEY,
    session_id BLOB NOT NULL,
    received INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE unacknowledged (
    device_id BLOB NOT NULL REFERENCES session ON DELETE CASCADE,
    number INTEGER NOT NULL,
    packet BLOB NOT NULL,
    PRIMARY KEY (device_id, number)
) WITHOUT ROWID
"""
"""The tables of ``SqliteSessionStore``, for the database that it is given."""

ENDS_MIGRATION = """
CREATE TABLE ended_session (
    device_id BLOB PRIMARY KEY,
    session_id BLOB NOT NULL,
    received INTEGER NOT NULL
) WITHOUT ROWID
"""
"""What was added to them."""


class EndedSessions:
    """The sessions that have ended here while the peer may not know.

    The peer would send again in the next session what was handled in that one.

    Args:
        store: where they are read from; whoever changes them writes there too.
    """

    def __init__(self, store: SessionStore | None) -> None:
        self._found = {} if store is None else store.load_ends()

    def get(self, device_id: bytes) -> tuple[bytes, int] | None:
        """Return the ID of the ended session with a peer and what was received of it, or None."""
        return self._found.get(bytes(device_id))

    def put(self, device_id: bytes, session_id: bytes, received: int) -> None:
        """Remember an ended session; there is one of each peer at most."""
        self._found[bytes(device_id)] = (session_id, received)

    def pop(self, device_id: bytes) -> bool:
        """Forget it; True when there was one."""
        return self._found.pop(bytes(device_id), None) is not None


class SqliteSessionStore:
    """Sessions in a ``Database`` that has had ``MIGRATION``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.commit = database.commit

    def load(self) -> list[SavedSession]:
        """Return every session."""
        found = {
            row[0]: SavedSession(*row)
            for row in self._database.read(
                "SELECT device_id, session_id, received, acknowledged FROM session"
            )
        }
        for device_id, packet in self._database.read(
            "SELECT device_id, packet FROM unacknowledged ORDER BY device_id, number"
        ):
            found[device_id].packets.append(packet)
        return list(found.values())

    def load_one(self, device_id: bytes) -> SavedSession | None:
        """Return the session with a peer, or None."""
        rows = self._database.read(
            "SELECT device_id, session_id, received, acknowledged FROM session WHERE device_id = ?",
            (device_id,),
        )
        if not rows:
            return None
        saved = SavedSession(*rows[0])
        saved.packets = [
            row[0]
            for row in self._database.read(
                "SELECT packet FROM unacknowledged WHERE device_id = ? ORDER BY number",
                (device_id,),
            )
        ]
        return saved

    def begin(self, device_id: bytes, session_id: bytes) -> None:
        """Keep a new session; an older one with the same peer is gone, with its packets."""
        self.end(device_id)
        self._write("INSERT INTO session VALUES (?, ?, 0, 0)", device_id, session_id)

    def rename(self, device_id: bytes, session_id: bytes) -> None:
        """Note another ID for a session in which nothing has come across; its packets stay."""
        self._write("UPDATE session SET session_id = ? WHERE device_id = ?", session_id, device_id)

    def end(self, device_id: bytes) -> None:
        """Forget a session and its packets."""
        self._write("DELETE FROM session WHERE device_id = ?", device_id)

    def sent(self, device_id: bytes, number: int, packet: bytes) -> None:
        """Keep a packet until it is acknowledged."""
        self._write("INSERT INTO unacknowledged VALUES (?, ?, ?)", device_id, number, packet)

    def acknowledged(self, device_id: bytes, count: int) -> None:
        """Note how many packets the peer has; they need no longer be kept."""
        self._write("UPDATE session SET acknowledged = ? WHERE device_id = ?", count, device_id)
        self._write(
            "DELETE FROM unacknowledged WHERE device_id = ? AND number < ?", device_id, count
        )

    def received(self, device_id: bytes, count: int) -> None:
        """Note how many of the peer's packets have been handled."""
        self._write("UPDATE session SET received = ? WHERE device_id = ?", count, device_id)

    def replace(self, device_id: bytes, number: int, packet: bytes) -> None:
        """Keep another packet in a packet's place."""
        self._write(
            "UPDATE unacknowledged SET packet = ? WHERE device_id = ? AND number = ?",
            packet,
            device_id,
            number,
        )

    def load_ends(self) -> dict[bytes, tuple[bytes, int]]:
        """Return, by peer, the ID and the count of each session of which the end is remembered."""
        rows = self._database.read("SELECT device_id, session_id, received FROM ended_session")
        return {device_id: (session_id, received) for device_id, session_id, received in rows}

    def remember_end(self, device_id: bytes, session_id: bytes, received: int) -> None:
        """Remember that a session has ended here, which the peer may not know."""
        self._write(
            "INSERT OR REPLACE INTO ended_session VALUES (?, ?, ?)",
            device_id,
            session_id,
            received,
        )

    def forget_end(self, device_id: bytes) -> None:
        """Remember no end of a session with a peer."""
        self._write("DELETE FROM ended_session WHERE device_id = ?", device_id)

    def _write(self, sql: str, *values: Any) -> None:
        self._database.write(sql, values)
