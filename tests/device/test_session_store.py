"""Sessions on disk: SQLite does what a reference in memory does, whatever is done to it."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import TestCase

from abst.database import Database
from abst.device.session_store import (
    ENDS_MIGRATION,
    MIGRATION,
    SavedSession,
    SessionStore,
    SqliteSessionStore,
)
from abst.errors import DatabaseError

KIND = 1
DEVICES = [bytes([number]) * 16 for number in range(3)]

devices = st.sampled_from(DEVICES)
session_ids = st.binary(min_size=16, max_size=16)


class MemoryStore:
    """The reference: what is written, and what is committed of it."""

    def __init__(self) -> None:
        self.now: dict[bytes, SavedSession] = {}
        self.committed: dict[bytes, SavedSession] = {}
        self.ends: dict[bytes, tuple[bytes, int]] = {}
        self.committed_ends: dict[bytes, tuple[bytes, int]] = {}

    def load(self) -> list[SavedSession]:
        return [copy.deepcopy(self.now[key]) for key in sorted(self.now)]

    def load_one(self, device_id: bytes) -> SavedSession | None:
        return copy.deepcopy(self.now.get(device_id))

    def begin(self, device_id: bytes, session_id: bytes) -> None:
        self.now[device_id] = SavedSession(device_id, session_id, 0, 0)

    def rename(self, device_id: bytes, session_id: bytes) -> None:
        self.now[device_id].session_id = session_id

    def end(self, device_id: bytes) -> None:
        self.now.pop(device_id, None)

    def sent(self, device_id: bytes, number: int, packet: bytes) -> None:
        assert number == self.now[device_id].acknowledged + len(self.now[device_id].packets)
        self.now[device_id].packets.append(packet)

    def acknowledged(self, device_id: bytes, count: int) -> None:
        session = self.now[device_id]
        del session.packets[: count - session.acknowledged]
        session.acknowledged = count

    def received(self, device_id: bytes, count: int) -> None:
        self.now[device_id].received = count

    def replace(self, device_id: bytes, number: int, packet: bytes) -> None:
        session = self.now[device_id]
        session.packets[number - session.acknowledged] = packet

    def load_ends(self) -> dict[bytes, tuple[bytes, int]]:
        return dict(self.ends)

    def remember_end(self, device_id: bytes, session_id: bytes, received: int) -> None:
        self.ends[device_id] = (session_id, received)

    def forget_end(self, device_id: bytes) -> None:
        self.ends.pop(device_id, None)

    def commit(self) -> None:
        self.committed = copy.deepcopy(self.now)
        self.committed_ends = dict(self.ends)

    def restart(self) -> None:
        """Lose what was not committed."""
        self.now = copy.deepcopy(self.committed)
        self.ends = dict(self.committed_ends)


class StoreMachine(RuleBasedStateMachine):
    """The same is done to both; they always hold the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "sessions.sqlite"
        self.reference = MemoryStore()
        self.open()

    def open(self) -> None:
        self.database = Database(self.path, KIND, (MIGRATION, ENDS_MIGRATION))
        self.store = SqliteSessionStore(self.database)

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def both(self) -> tuple[SessionStore, SessionStore]:
        return self.store, self.reference

    def of(self, data: Any) -> SavedSession:
        found: SavedSession = self.reference.now[
            data.draw(st.sampled_from(sorted(self.reference.now)))
        ]
        return found

    @rule(device_id=devices, session_id=session_ids)
    def begin(self, device_id: bytes, session_id: bytes) -> None:
        for store in self.both():
            store.begin(device_id, session_id)

    @rule(device_id=devices)
    def end(self, device_id: bytes) -> None:
        for store in self.both():
            store.end(device_id)

    @rule(device_id=devices, session_id=session_ids, received=st.integers(1, 2**40))
    def remember_end(self, device_id: bytes, session_id: bytes, received: int) -> None:
        for store in self.both():
            store.remember_end(device_id, session_id, received)

    @rule(device_id=devices)
    def forget_end(self, device_id: bytes) -> None:
        for store in self.both():
            store.forget_end(device_id)

    @precondition(lambda self: self.reference.now)
    @rule(data=st.data(), session_id=session_ids)
    def rename(self, data: Any, session_id: bytes) -> None:
        device_id = self.of(data).device_id
        for store in self.both():
            store.rename(device_id, session_id)

    @precondition(lambda self: self.reference.now)
    @rule(data=st.data(), packets=st.lists(st.binary(max_size=50), max_size=5))
    def send(self, data: Any, packets: list[bytes]) -> None:
        session = self.of(data)
        for packet in packets:
            number = session.acknowledged + len(session.packets)
            for store in self.both():
                store.sent(session.device_id, number, packet)

    @precondition(lambda self: self.reference.now)
    @rule(data=st.data())
    def acknowledge(self, data: Any) -> None:
        session = self.of(data)
        most = session.acknowledged + len(session.packets)
        count = data.draw(st.integers(session.acknowledged, most))
        for store in self.both():
            store.acknowledged(session.device_id, count)

    @precondition(lambda self: self.reference.now)
    @rule(data=st.data(), more=st.integers(0, 2**40))
    def receive(self, data: Any, more: int) -> None:
        session = self.of(data)
        count = session.received + more
        for store in self.both():
            store.received(session.device_id, count)

    @precondition(lambda self: any(s.packets for s in self.reference.now.values()))
    @rule(data=st.data(), packet=st.binary(max_size=50))
    def replace(self, data: Any, packet: bytes) -> None:
        full = [s for s in self.reference.now.values() if s.packets]
        session = data.draw(st.sampled_from(full))
        place = data.draw(st.integers(0, len(session.packets) - 1))
        for store in self.both():
            store.replace(session.device_id, session.acknowledged + place, packet)

    @rule()
    def commit(self) -> None:
        for store in self.both():
            store.commit()

    @rule()
    def roll_back(self) -> None:
        self.database.rollback()
        self.reference.restart()

    @rule()
    def restart(self) -> None:
        """The process is killed, and starts again."""
        self.database.close()
        self.reference.restart()
        self.open()

    @precondition(lambda self: any(s.packets for s in self.reference.now.values()))
    @rule(data=st.data())
    def fail(self, data: Any) -> None:
        """A write that the database refuses undoes everything since the last commit."""
        full = [s for s in self.reference.now.values() if s.packets]
        session = data.draw(st.sampled_from(full))
        try:
            self.store.sent(session.device_id, session.acknowledged, b"twice")
        except DatabaseError:
            self.reference.restart()
        else:
            raise AssertionError("a number was taken twice")

    @invariant()
    def the_same(self) -> None:
        found = sorted(self.store.load(), key=lambda session: session.device_id)
        assert found == self.reference.load()
        assert self.store.load_ends() == self.reference.load_ends()
        for device_id in DEVICES:
            assert self.store.load_one(device_id) == self.reference.load_one(device_id)


class SqliteSessionStoreTests(TestCase):
    def test_it_does_what_the_reference_does(self) -> None:
        run_state_machine_as_test(
            StoreMachine, settings=settings(max_examples=40, stateful_step_count=30, deadline=None)
        )

    def test_the_state_machine_would_notice_a_difference(self) -> None:
        machine = StoreMachine()
        self.addCleanup(machine.teardown)
        machine.begin(DEVICES[0], bytes(16))
        machine.the_same()
        machine.store.received(DEVICES[0], 1)
        self.assertRaises(AssertionError, machine.the_same)

    def test_a_packet_without_a_session_is_refused(self) -> None:
        machine = StoreMachine()
        self.addCleanup(machine.teardown)
        self.assertRaises(DatabaseError, machine.store.sent, DEVICES[0], 0, b"x")
