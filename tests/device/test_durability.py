"""Sessions that are stored: whatever dies when, everything that was kept arrives once and in order.

Each side has a store with transactions. A device that is killed loses what was not committed, and
so does one whose disk fails; what its application has handled is in the same transaction.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Final

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from abst import codec
from abst.database import Database
from abst.device import DeviceProtocol
from abst.device.session_store import ENDS_MIGRATION, MIGRATION, SavedSession, SqliteSessionStore
from abst.errors import AbstError, Code, DatabaseError, RemoteProtocolError
from abst.testing import MemoryNetwork
from tests.device.doubles import HIGHER, LOWER, Base, NotesFactory, connection_of, turn

WRITES: Final = (
    *("commit", "begin", "rename", "end", "sent", "acknowledged", "received"),
    *("remember_end", "forget_end"),
)
"""What of a store may fail."""


class Disk:
    """What one device has stored: its sessions, and what its application has sent and handled."""

    def __init__(self) -> None:
        self.sessions: dict[bytes, SavedSession] = {}
        self.sent: list[Any] = []
        self.handled: list[Any] = []
        self.ends: dict[bytes, tuple[bytes, int]] = {}

    def copy(self) -> Disk:
        return copy.deepcopy(self)


class FailingStore:
    """A session store in memory, with transactions, which can fail and which can be killed.

    Attributes:
        committed: what is on the disk.
        now: what will be there after the next commit.
        failing: the name of the method that fails the next time, or None.
        is_dead: whether nothing reaches the disk any more.
        commits: how often something did.
    """

    def __init__(self, disk: Disk) -> None:
        self.committed = disk
        self.now = disk.copy()
        self.failing: str | None = None
        self.is_dead = False
        self.commits = 0

    def _may_fail(self, name: str) -> None:
        """Fail if it is time to: everything since the last commit is undone then."""
        if self.failing == name:
            self.failing = None
            self.now = self.committed.copy()
            raise DatabaseError("the disk is full")

    def load(self) -> list[SavedSession]:
        return [copy.deepcopy(session) for session in self.now.sessions.values()]

    def load_one(self, device_id: bytes) -> SavedSession | None:
        return copy.deepcopy(self.now.sessions.get(device_id))

    def begin(self, device_id: bytes, session_id: bytes) -> None:
        self._may_fail("begin")
        self.now.sessions[device_id] = SavedSession(device_id, session_id, 0, 0)

    def rename(self, device_id: bytes, session_id: bytes) -> None:
        self._may_fail("rename")
        self.now.sessions[device_id].session_id = session_id

    def end(self, device_id: bytes) -> None:
        self._may_fail("end")
        self.now.sessions.pop(device_id, None)

    def sent(self, device_id: bytes, number: int, packet: bytes) -> None:
        self._may_fail("sent")
        session = self.now.sessions[device_id]
        assert number == session.acknowledged + len(session.packets)
        session.packets.append(packet)
        self.now.sent.append(codec.decode(packet)["content"])

    def acknowledged(self, device_id: bytes, count: int) -> None:
        self._may_fail("acknowledged")
        session = self.now.sessions[device_id]
        assert session.acknowledged <= count <= session.acknowledged + len(session.packets)
        del session.packets[: count - session.acknowledged]
        session.acknowledged = count

    def received(self, device_id: bytes, count: int) -> None:
        self._may_fail("received")
        self.now.sessions[device_id].received = count

    def replace(self, device_id: bytes, number: int, packet: bytes) -> None:
        self._may_fail("replace")
        session = self.now.sessions[device_id]
        session.packets[number - session.acknowledged] = packet

    def load_ends(self) -> dict[bytes, tuple[bytes, int]]:
        return dict(self.now.ends)

    def remember_end(self, device_id: bytes, session_id: bytes, received: int) -> None:
        self._may_fail("remember_end")
        self.now.ends[device_id] = (session_id, received)

    def forget_end(self, device_id: bytes) -> None:
        self._may_fail("forget_end")
        self.now.ends.pop(device_id, None)

    def commit(self) -> None:
        if self.is_dead:
            return
        self._may_fail("commit")
        self.commits += 1
        self.committed = self.now.copy()


class Handling(DeviceProtocol):
    """An application that handles packets in the transaction of the session."""

    def packetReceived(self, packet_id: int, content: Any) -> None:
        assert isinstance(self.factory, HandlingFactory)
        self.factory.store.now.handled.append(content)


class HandlingFactory(NotesFactory):
    """Builds the protocols of one life of one device."""

    def __init__(self, store: FailingStore) -> None:
        super().__init__(Handling)
        self.store = store


class DurableSchedule:
    """Two devices with stores, and everything that may happen to them."""

    def __init__(self, seed: int) -> None:
        self.network = MemoryNetwork(seed)
        self.identities = (LOWER, HIGHER)
        self.stores = [FailingStore(Disk()), FailingStore(Disk())]
        self.devices = [self.start(side, None) for side in (0, 1)]
        self.network.introduce(*self.devices)
        self.number = 0
        self.refused: list[list[int]] = [[], []]
        self.mistakes: list[str] = []
        self.network.settle()

    def start(self, side: int, peers: Any) -> Any:
        store = self.stores[side]
        return self.network.device(
            str(side),
            HandlingFactory(store),
            identity=self.identities[side],
            peers=peers,
            store=store,
        )

    def run(self, steps: list[tuple[Any, ...]]) -> None:
        for kind, *arguments in steps:
            getattr(self, kind)(*arguments)
        self.realm(True)
        for store in self.stores:
            store.failing = None
        self.network.advance(300, 1.0)
        self.check()
        for device in self.devices:
            device.stopService()
        self.network.settle()
        assert not self.network.clock.getDelayedCalls()

    def check(self) -> None:
        for side in (0, 1):
            sent, handled = (
                self.stores[side].committed.sent,
                self.stores[1 - side].committed.handled,
            )
            assert handled == sent, f"{side}: {sent} {handled}"
            assert not self.mistakes, self.mistakes
            refused = set(self.refused[side]) & set(self.handled(1 - side))
            assert not refused, f"{side}: {refused} were said to have failed"

    def send(self, side: int, count: int) -> None:
        try:
            protocol = self.devices[side].open(self.identities[1 - side].device_id)
            for _ in range(count):
                self.number += 1
                # Small contents and large ones: an acknowledgement is due after 64 KiB.
                content = [self.number, bytes(self.number % 5 * 12_000)]
                told = side, self.number
                waiting = protocol.sendPacket(5, content)
                waiting.addCallbacks(self.was_acknowledged, self.has_failed, told, {}, told)
        except AbstError:
            # The session has ended, or could not begin.
            pass

    def was_acknowledged(self, result: None, side: int, number: int) -> None:
        if number not in self.handled(1 - side):
            self.mistakes.append(f"{side}: {number} is not handled, and said to be")

    def has_failed(self, failure: Failure, side: int, number: int) -> None:
        if failure.check(DatabaseError):
            self.refused[side].append(number)

    def handled(self, side: int) -> list[int]:
        """Return the numbers of what a device has handled for good."""
        return [content[0] for content in self.stores[side].committed.handled]

    def ping(self, side: int) -> None:
        protocol = self.devices[side].session_with(self.identities[1 - side].device_id)
        if protocol is not None:
            protocol.ping().addErrback(lambda failure: None)

    def cut(self, side: int) -> None:
        next(iter(self.devices[side].links.values())).cut()

    def realm(self, on: bool) -> None:
        if on:
            self.network.realm.start()
        else:
            self.network.realm.stop()

    def turn(self, count: int) -> None:
        turn(self.network, count)

    def wait(self, seconds: float) -> None:
        self.network.advance(seconds)

    def kill(self, side: int) -> None:
        """Kill a device without a word, and start it with what it has committed."""
        self.stores[side].is_dead = True
        self.network.kill(self.devices[side])
        self.stores[side] = FailingStore(self.stores[side].committed)
        self.devices[side] = self.start(side, self.devices[side].peers)

    def stop(self, side: int) -> None:
        """Stop a device in order, and start it again."""
        self.devices[side].stopService()
        self.stores[side] = FailingStore(self.stores[side].committed)
        self.devices[side] = self.start(side, self.devices[side].peers)

    def fail(self, side: int, name: str) -> None:
        """Let a device's next commit, or its next write of a kind, fail."""
        self.stores[side].failing = name


class InDatabase(DeviceProtocol):
    """An application whose own table is in the session's database."""

    def packetReceived(self, packet_id: int, content: Any) -> None:
        assert isinstance(self.factory, InDatabaseFactory)
        self.factory.database.write("INSERT INTO handled (content) VALUES (?)", (content,))


class InDatabaseFactory(NotesFactory):
    """Builds protocols that write to a database."""

    def __init__(self, database: Database) -> None:
        super().__init__(InDatabase)
        self.database = database


class DatabaseBase(Base):
    """Alice's store is the real one."""

    def setUp(self) -> None:
        table = "CREATE TABLE handled (number INTEGER PRIMARY KEY, content)"
        migrations = [MIGRATION, ENDS_MIGRATION, table]
        self.database = Database(Path(self.mktemp()), 1, migrations)
        super().setUp()
        self.network.kill(self.alice)
        self.alice = self.make(
            "alice",
            self.alice.identity,
            InDatabaseFactory(self.database),
            store=SqliteSessionStore(self.database),
        )
        self.network.settle()
        self.network.introduce(self.alice, self.bob)
        self.ours = self.connected(self.alice.connect(self.bob.device_id))
        self.theirs = self.built(self.bob)[-1]
        self.network.advance(1)

    def tearDown(self) -> None:
        super().tearDown()
        self.database.close()
        self.flushLoggedErrors(DatabaseError)

    def refuse(self, change: str) -> None:
        """Let the database refuse a kind of change from now on."""
        self.database.write(
            f"CREATE TRIGGER full BEFORE {change} "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
        self.database.commit()

    def refuse_nothing(self) -> None:
        self.database.write("DROP TRIGGER full")
        self.database.commit()

    def handled(self) -> list[Any]:
        """Return what Alice has handled, in order."""
        rows = self.database.read("SELECT content FROM handled ORDER BY number")
        return [content for (content,) in rows]


class DatabaseTests(DatabaseBase):
    """Single writes fail, as on a disk that is full."""

    def test_what_cannot_be_kept_fails_and_what_follows_does_not(self) -> None:
        self.refuse("INSERT ON unacknowledged")
        lost = self.ours.sendPacket(5, "lost")
        self.failureResultOf(lost, DatabaseError)
        self.refuse_nothing()
        kept = self.ours.sendPacket(5, "kept")
        self.assertNoResult(kept)
        self.network.advance(30)
        self.successResultOf(kept)
        self.assertEqual(["kept"], self.theirs.contents)

    def test_an_acknowledgement_that_cannot_be_kept_comes_again(self) -> None:
        for number, change in enumerate(
            ("UPDATE OF acknowledged ON session", "DELETE ON unacknowledged")
        ):
            self.refuse(change)
            waiting = self.ours.sendPacket(5, [number, "first"])
            self.network.advance(0.2, 0.05)
            self.successResultOf(waiting)
            self.refuse_nothing()
            waiting = self.ours.sendPacket(5, [number, "second"])
            self.network.advance(30)
            self.successResultOf(waiting)
        expected = [[number, text] for number in (0, 1) for text in ("first", "second")]
        self.assertEqual(expected, self.theirs.contents)
        self.assertEqual([], self.database.read("SELECT * FROM unacknowledged"))

    def test_what_is_not_counted_is_not_handled_and_comes_again(self) -> None:
        for change in ("UPDATE OF received ON session", "INSERT ON handled"):
            before = self.handled()
            self.refuse(change)
            waiting = self.theirs.sendPacket(5, change)
            self.network.advance(2)
            self.assertNoResult(waiting)
            self.assertEqual(before, self.handled())
            self.refuse_nothing()
            self.network.advance(90)
            self.successResultOf(waiting)
            self.assertEqual([*before, change], self.handled())


class DeadDatabaseTests(DatabaseBase):
    """Nothing can be written for a while, or not even read."""

    def be_read_only(self, value: str) -> None:
        self.database.read(f"PRAGMA query_only = {value}")

    def test_a_session_goes_on_when_its_database_can_be_written_again(self) -> None:
        self.be_read_only("ON")
        for content in ("lost", "lost too"):
            self.failureResultOf(self.ours.sendPacket(5, content), DatabaseError)
        theirs = self.theirs.sendPacket(5, "late")
        self.network.advance(2)
        self.assertNoResult(theirs)
        self.be_read_only("OFF")
        ours = self.ours.sendPacket(5, "kept")
        self.network.advance(90)
        self.successResultOf(theirs)
        self.successResultOf(ours)
        self.assertEqual(["late"], self.handled())
        self.assertEqual(["kept"], self.theirs.contents)

    def test_a_session_may_end_while_nothing_can_be_written(self) -> None:
        self.be_read_only("ON")
        self.theirs.loseConnection()
        self.network.advance(2)
        self.assertTrue(self.theirs.ended_well)
        self.be_read_only("OFF")
        self.assert_a_new_session_works()

    def test_no_session_begins_while_nothing_can_be_written(self) -> None:
        self.theirs.loseConnection()
        self.network.advance(2)
        self.be_read_only("ON")
        self.assertRaises(AbstError, self.alice.open, self.bob.device_id)
        waiting = self.alice.connect(self.bob.device_id)
        waiting.addErrback(lambda failure: None)
        self.network.advance(30)
        self.be_read_only("OFF")
        self.assert_a_new_session_works()

    def test_a_session_ends_when_its_database_cannot_even_be_read(self) -> None:
        self.database.write("ALTER TABLE session RENAME TO gone")
        self.database.commit()
        waiting = self.ours.sendPacket(5, "x")
        waiting.addErrback(lambda failure: None)
        self.network.advance(2)
        self.assertTrue(waiting.called)
        self.database.write("ALTER TABLE gone RENAME TO session")
        self.database.commit()
        self.assert_a_new_session_works()

    def assert_a_new_session_works(self) -> None:
        self.network.advance(90)
        waiting = self.alice.open(self.bob.device_id).sendPacket(5, "after")
        self.network.advance(30)
        self.successResultOf(waiting)
        self.assertEqual("after", self.built(self.bob)[-1].contents[-1])


class EndTests(SynchronousTestCase):
    def test_an_end_that_got_lost_is_remembered_over_a_restart(self) -> None:
        """What was handled in a session that has ended is not sent again in the next one."""
        pair = DurableSchedule(0)
        pair.send(0, 3)
        while not pair.stores[1].now.handled:
            pair.turn(1)
        # The other side handles them and ends the session, and none of it is heard here.
        connection = connection_of(pair.devices[1], LOWER.device_id)
        assert connection is not None
        pair.cut(1)
        connection.broken(RemoteProtocolError(Code.MALFORMED, "a reason to end it"))
        connection.changed()
        pair.network.settle()
        pair.stop(1)
        pair.network.advance(60)
        sent = [content[0] for content in pair.stores[0].committed.sent]
        self.assertEqual(sent, [content[0] for content in pair.stores[1].committed.handled])


class DurabilityTests(SynchronousTestCase):
    steps = st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(0, 1), st.integers(1, 6)),
            st.tuples(st.just("ping"), st.integers(0, 1)),
            st.tuples(st.just("cut"), st.integers(0, 1)),
            st.tuples(st.just("realm"), st.booleans()),
            st.tuples(st.just("turn"), st.integers(1, 12)),
            st.tuples(st.just("wait"), st.sampled_from([0.0, 0.06, 1.0, 5.0, 40.0])),
            st.tuples(st.just("kill"), st.integers(0, 1)),
            st.tuples(st.just("stop"), st.integers(0, 1)),
            st.tuples(st.just("fail"), st.integers(0, 1), st.sampled_from(WRITES)),
        ),
        max_size=25,
    )

    @example(
        seed=0,
        steps=[("send", 0, 1), ("wait", 1.0), ("fail", 0, "sent"), ("send", 0, 2), ("wait", 5.0)],
    )
    @settings(max_examples=50)
    @given(steps=steps, seed=st.integers(0, 2**16))
    def test_what_is_kept_arrives_once_and_in_order(
        self, steps: list[tuple[Any, ...]], seed: int
    ) -> None:
        DurableSchedule(seed).run(steps)
        self.flushLoggedErrors(DatabaseError)
