"""Realms that drop, die and come back: sessions lose nothing and do not dial without end."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from abst.device import DeviceProtocol
from abst.device.channel import HANDSHAKE_SECONDS
from abst.errors import (
    Code,
    PeerUnreachableError,
    SessionEndedError,
)
from abst.testing import MemoryNetwork
from tests.device.doubles import OTHER, Base, Notes, NotesFactory, connection_of, quietly


class DropTests(Base):
    """The realm drops packets and says so; the session loses nothing."""

    def setUp(self) -> None:
        super().setUp()
        self.dropping: set[bytes] = set()
        self.reason = Code.QUEUE_FULL
        self.dropped = 0
        switchboard: Any = self.network.realm.realm.switchboard
        route = switchboard.route
        switchboard.route = lambda target: self if target in self.dropping else route(target)

    def deliver(self, run: bytes, count: int, source: Any) -> Code:
        self.dropped += count
        return self.reason

    def run_through(self, reason: Code, seconds: float) -> None:
        self.reason = reason
        ours, theirs = self.pair()
        waiting = [ours.sendPacket(5, number) for number in range(10)]
        self.network.settle()
        self.dropping = {bytes(self.bob.device_id)}
        waiting += [ours.sendPacket(5, number) for number in range(10, 20)]
        self.network.advance(seconds)
        waiting += [ours.sendPacket(5, number) for number in range(20, 30)]
        self.network.advance(seconds)
        self.dropping = set()
        self.network.advance(60)
        for acknowledged in waiting:
            self.successResultOf(acknowledged)
        self.assertEqual(list(range(30)), theirs.contents)
        self.assertIsNone(ours.ended)
        self.assert_same_session(self.alice, self.bob)

    def test_the_queue_was_full(self) -> None:
        self.run_through(Code.QUEUE_FULL, 1)

    def test_the_queue_was_full_for_long(self) -> None:
        self.run_through(Code.QUEUE_FULL, 60)

    def test_the_target_went_away(self) -> None:
        self.run_through(Code.UNDELIVERED, 1)

    def test_the_target_was_absent_for_long(self) -> None:
        self.run_through(Code.TARGET_ABSENT, 60)

    def test_drops_are_no_reason_to_dial_all_the_time(self) -> None:
        ours, _ = self.pair()
        dials = self.dials(self.alice)
        self.dropping = {bytes(self.bob.device_id)}
        quietly(ours.sendPacket(5, "x"))
        self.network.advance(120)
        self.assertGreater(len(dials), 3)
        self.assertLess(len(dials), 30)
        self.dropping = set()

    def test_a_channel_that_opens_and_breaks_is_not_dialled_all_the_time(self) -> None:
        """Handshakes pass and what follows is dropped: that must not spin."""
        ours, theirs = self.pair()
        dials = self.dials(self.alice)
        for _ in range(60):
            self.dropping = {bytes(self.bob.device_id)}
            if not ours.transport.path:
                self.dropping = set()
            ours.sendPacket(5, bytes(1000))
            self.network.advance(1)
        self.assertLess(len(dials), 40)
        self.dropping = set()
        self.network.advance(120)
        self.assertEqual(60, len(theirs.packets))


class RealmLossTests(Base):
    """The realm goes, and comes back."""

    def test_sessions_go_on_when_it_is_back(self) -> None:
        ours, theirs = self.pair()
        self.network.realm.stop()
        self.network.settle()
        self.assertEqual(([None], [None]), (ours.paths, theirs.paths))
        self.assertIsNone(ours.path)
        waiting = [ours.sendPacket(5, 1), theirs.sendPacket(6, 2)]
        self.network.advance(30)
        self.network.realm.start()
        self.network.advance(90)
        for acknowledged in waiting:
            self.successResultOf(acknowledged)
        self.assertEqual(([(6, 2)], [(5, 1)]), (ours.packets, theirs.packets))
        self.assertIsNotNone(ours.paths[1])
        self.assertEqual([None], theirs.paths[:1])
        self.assertIsNone(ours.ended)

    def test_a_link_that_breaks_in_the_middle_of_much_loses_nothing(self) -> None:
        ours, theirs = self.pair()
        waiting = []
        for number in range(40):
            waiting.append(ours.sendPacket(5, [number, bytes(30_000)]))
            waiting.append(theirs.sendPacket(6, [number, bytes(30_000)]))
            if number % 4 == 3:
                device = (self.alice, self.bob)[number // 4 % 2]
                next(iter(device.links.values())).cut()  # type: ignore[attr-defined]
            self.network.advance(0.3, 0.1)
        self.network.advance(60)
        for acknowledged in waiting:
            self.successResultOf(acknowledged)
        for notes in (ours, theirs):
            self.assertEqual(list(range(40)), [number for number, _ in notes.contents])

    def test_a_session_expires_in_the_end(self) -> None:
        carol = self.make("carol", OTHER, session_seconds=100)
        self.network.introduce(carol, self.bob)
        ours = self.connect(carol, self.bob)
        ours.sendPacket(5, "acknowledged")
        self.network.advance(1)
        self.network.realm.stop()
        waiting = [ours.sendPacket(5, "lost") for _ in range(3)]
        self.network.advance(99)
        self.assertIsNone(ours.ended)
        self.network.advance(2)
        problem = ours.ended
        assert isinstance(problem, SessionEndedError)
        self.assertEqual(3, problem.unacknowledged)
        for item in waiting:
            self.failureResultOf(item, SessionEndedError)
        self.assertIsNone(connection_of(carol, self.bob.device_id))
        # The other side is told when it comes to resume.
        theirs = self.built(self.bob)[-1]
        self.network.realm.start()
        self.network.advance(90)
        self.assertIsInstance(theirs.ended, SessionEndedError)

    def test_the_time_without_a_path_counts_from_when_there_is_something_to_say(self) -> None:
        carol = self.make("carol", OTHER, session_seconds=200)
        self.network.introduce(carol, self.bob)
        ours = self.connect(carol, self.bob)
        theirs = self.built(self.bob)[-1]
        self.exchange(ours, theirs)
        self.network.realm.stop()
        self.network.advance(190)
        waiting = ours.sendPacket(5, "late")
        self.network.advance(100)
        self.assertIsNone(ours.ended)
        self.network.realm.start()
        self.network.advance(90)
        self.successResultOf(waiting)
        self.assertEqual(["there", "late"], theirs.contents)

    def test_a_path_that_returns_stops_the_clock(self) -> None:
        carol = self.make("carol", OTHER, session_seconds=200)
        self.network.introduce(carol, self.bob)
        ours = self.connect(carol, self.bob)
        for _ in range(3):
            self.network.realm.stop()
            self.network.advance(120)
            self.network.realm.start()
            self.network.advance(120)
        self.assertIsNone(ours.ended)

    def test_a_realm_that_is_removed_is_left(self) -> None:
        ours, theirs = self.pair()
        self.alice.removeRealm(self.network.realm.address)
        self.network.settle()
        self.assertIsNone(ours.path)
        self.assertIsNone(theirs.path)
        self.alice.removeRealm(self.network.realm.address)
        self.alice.addRealm(self.network.realm.address)
        self.network.advance(70)
        self.exchange(ours, theirs)


class SecondRealmTests(SynchronousTestCase):
    """Two realms: the first that works for a peer is used, the next when it fails."""

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.first = self.network.realm
        self.only_first = self.network.device("one", NotesFactory())
        self.second = self.network.add_realm()
        self.alice = self.network.device("alice", NotesFactory())
        self.bob = self.network.device("bob", NotesFactory())
        self.network.settle()
        self.network.introduce(self.alice, self.bob, self.only_first)

    def tearDown(self) -> None:
        for device in (self.alice, self.bob, self.only_first):
            device.stopService()
        self.network.settle()
        self.assertEqual([], self.network.clock.getDelayedCalls())

    def realm_of(self, protocol: DeviceProtocol) -> Any:
        return protocol.path.realm if protocol.path else None

    def connect(self, seconds: float = 0.0) -> DeviceProtocol:
        waiting = self.alice.connect(self.bob.device_id)
        self.network.settle()
        self.network.advance(seconds)
        return self.network.result(waiting)

    def test_the_first_is_used(self) -> None:
        self.assertEqual(self.first.address, self.realm_of(self.connect()))

    def test_the_second_is_used_when_the_first_is_off(self) -> None:
        self.first.stop()
        self.network.settle()
        self.assertEqual(self.second.address, self.realm_of(self.connect()))

    def test_a_session_moves_when_the_first_dies(self) -> None:
        ours = self.connect()
        theirs: Notes = self.bob.session_with(self.alice.device_id)  # type: ignore[assignment]
        waiting = [ours.sendPacket(5, number) for number in range(5)]
        self.first.stop()
        waiting += [ours.sendPacket(5, number) for number in range(5, 10)]
        self.network.advance(1)
        for acknowledged in waiting:
            self.successResultOf(acknowledged)
        self.assertEqual(list(range(10)), theirs.contents)
        self.assertEqual(self.second.address, self.realm_of(ours))
        self.assertEqual(self.second.address, self.realm_of(theirs))

    def test_the_second_is_used_when_the_peer_is_only_there(self) -> None:
        self.bob.removeRealm(self.first.address)
        self.network.settle()
        self.assertEqual(self.second.address, self.realm_of(self.connect()))

    def test_the_second_is_used_when_the_peer_does_not_answer_in_the_first(self) -> None:
        """The realm has not noticed yet that the peer is gone from there."""
        link: Any = self.bob.links[self.first.address]
        link.arrive = lambda data: None
        self.assertEqual(self.second.address, self.realm_of(self.connect(HANDSHAKE_SECONDS + 1)))

    def test_a_peer_in_neither_is_told_after_both(self) -> None:
        self.network.kill(self.bob)
        self.network.settle()
        waiting = self.alice.connect(self.bob.device_id)
        self.network.settle()
        self.failureResultOf(waiting, PeerUnreachableError)

    def test_a_realm_that_is_removed_hands_its_sessions_over(self) -> None:
        ours = self.connect()
        self.alice.removeRealm(self.first.address)
        self.network.advance(1)
        self.assertEqual(self.second.address, self.realm_of(ours))

    def test_a_connection_in_the_making_moves_too(self) -> None:
        link: Any = self.bob.links[self.first.address]
        link.arrive = lambda data: None
        waiting = self.alice.connect(self.bob.device_id)
        self.network.settle()
        self.first.stop()
        self.network.advance(3)
        self.assertEqual(self.second.address, self.realm_of(self.network.result(waiting)))
