"""Who is let in: strangers, one-sided trust, forgotten peers, a key that is not the pinned one."""

from __future__ import annotations

from abst.device import Peer, PeerBook
from abst.device.channel import HANDSHAKE_SECONDS, ChannelState
from abst.device.device import MAX_STRANGERS
from abst.errors import (
    AbstError,
    IdentityError,
    NotTrustedError,
    SessionEndedError,
    WrongKeyError,
)
from abst.packets import Application, DeviceHello, Heartbeat, KeyCheck, PairProcess
from tests.device.doubles import OTHER, OTHERS, Base, RawDevice, connection_of, legs_of


class StrangerTests(Base):
    """Devices that this one does not trust."""

    def dial(self, raw: RawDevice) -> None:
        channel = raw.dial(self.alice.device_id)
        self.network.settle()
        if channel.state is ChannelState.OPEN:
            raw.hello(channel)
        self.network.settle()

    def test_a_stranger_learns_that_it_is_one_and_nothing_else(self) -> None:
        raw = self.make_raw(trusted=False)
        self.dial(raw)
        (hello,) = raw.packets(DeviceHello)
        self.assertFalse(hello.paired)
        self.assertEqual(("", [], []), (hello.name, hello.realms, hello.addresses))
        # It may ask to pair, and is told no; nothing else happens on the channel.
        self.assertEqual([], raw.resets)
        self.network.advance(HANDSHAKE_SECONDS + 0.5)
        self.assertEqual(1, len(raw.packets()))
        self.assertEqual(1, len(raw.resets))
        self.assertEqual([], self.built(self.alice))
        self.assertIsNone(connection_of(self.alice, raw.device_id))

    def test_a_stranger_that_asks_to_pair_is_told_no(self) -> None:
        for step in ("begin", "answer", "confirm", "stored", "unheard of"):
            self.setUp()
            raw = self.make_raw(trusted=False)
            self.dial(raw)
            raw.say(next(iter(raw.channels.values())), PairProcess(step, way="compare"))
            self.network.settle()
            (told,) = raw.packets(PairProcess)
            self.assertEqual(("refused", "no_window"), (told.step, told.code))
            self.assertEqual(1, len(raw.resets))
            self.assertIsNone(connection_of(self.alice, raw.device_id))
            self.tearDown()

    def test_a_stranger_that_says_anything_else_is_closed(self) -> None:
        for packet in (Application(5, "x"), Heartbeat(0), KeyCheck(bytes(32))):
            self.setUp()
            raw = self.make_raw(trusted=False)
            self.dial(raw)
            raw.say(next(iter(raw.channels.values())), packet)
            self.network.settle()
            self.assertEqual(1, len(raw.packets()))
            self.assertEqual(1, len(raw.resets))
            self.assertEqual([], self.built(self.alice))
            self.assertIsNone(connection_of(self.alice, raw.device_id))
            self.tearDown()

    def test_a_peer_learns_name_and_realms(self) -> None:
        raw = self.make_raw()
        self.dial(raw)
        (hello,) = raw.packets(DeviceHello)
        self.assertTrue(hello.paired)
        self.assertEqual("alice", hello.name)
        self.assertEqual(["abst://realm1.test:42278/"], hello.realms)

    def test_no_more_than_a_few_strangers_are_heard_at_once(self) -> None:
        strangers = [self.make_raw(identity, trusted=False) for identity in OTHERS]
        for raw in strangers:
            raw.dial(self.alice.device_id)
        self.network.settle()
        opened = [raw for raw in strangers if raw.contents]
        self.assertEqual(MAX_STRANGERS, len(opened))
        # A peer gets in all the same.
        self.connect(self.bob, self.alice)
        self.network.advance(HANDSHAKE_SECONDS + 0.5)
        self.assertEqual([self.bob.device_id], list(self.alice._connections))
        late = next(raw for raw in strangers if raw not in opened)
        self.dial(late)
        self.assertEqual(1, len(late.packets(DeviceHello)))

    def test_one_sided_trust_names_the_command_that_mends_it(self) -> None:
        self.bob.forget(self.alice.device_id)
        problem = self.assert_fails(NotTrustedError, self.alice.connect(self.bob.device_id))
        self.assertTrue(problem.theirs)
        self.assertIn(f"abst trust {self.alice.device_id}", str(problem))
        self.assertIn("bob", str(problem))
        self.assertEqual([], self.built(self.bob))
        self.bob.trust(self.alice.device_id, "alice")
        self.pair()

    def test_nobody_dials_whom_it_does_not_trust(self) -> None:
        self.alice.forget(self.bob.device_id)
        dials = self.dials(self.alice)
        problem = self.assert_fails(NotTrustedError, self.alice.connect(self.bob.device_id))
        self.assertFalse(problem.theirs)
        self.assertIn("abst trust", str(problem))
        self.assertEqual([], dials)

    def test_who_is_not_trusted_may_say_nothing_but_hello(self) -> None:
        raw = self.make_raw(trusted=False)
        channel = raw.dial(self.alice.device_id)
        self.network.settle()
        raw.say(channel, Application(5, "let me in"))
        self.network.settle()
        self.assertEqual([], raw.packets())
        self.assertIsNone(connection_of(self.alice, raw.device_id))


class ForgettingTests(Base):
    """Trust ends."""

    def test_a_session_ends_with_the_trust(self) -> None:
        ours, theirs = self.pair()
        self.alice.forget(self.bob.device_id)
        self.assertIsInstance(ours.ended, SessionEndedError)
        self.network.settle()
        self.assertTrue(theirs.ended_well)
        self.assertEqual(0, legs_of(self.alice, self.bob.device_id))
        problem = self.assert_fails(NotTrustedError, self.bob.connect(self.alice.device_id))
        self.assertTrue(problem.theirs)

    def test_a_connection_on_its_way_fails_at_once(self) -> None:
        waiting = self.alice.connect(self.bob.device_id)
        self.alice.forget(self.bob.device_id)
        self.failureResultOf(waiting, NotTrustedError)
        self.network.settle()
        self.assertEqual([], self.built(self.alice))
        self.assertIsNone(connection_of(self.alice, self.bob.device_id))

    def test_a_peer_that_was_away_learns_that_it_was_forgotten(self) -> None:
        ours, theirs = self.pair()
        link = next(iter(self.bob.links.values()))
        link.cut()  # type: ignore[attr-defined]
        waiting = theirs.sendPacket(5, "are you there?")
        self.alice.forget(self.bob.device_id)
        self.network.advance(10)
        self.assertIsInstance(theirs.ended, SessionEndedError)
        self.assert_fails(SessionEndedError, waiting)
        self.assertIsNone(connection_of(self.bob, self.alice.device_id))
        self.assertIsInstance(ours.ended, SessionEndedError)

    def test_a_book_that_cannot_be_saved_forgets_all_the_same(self) -> None:
        ours, _ = self.pair()

        def full() -> None:
            raise AbstError("the disk is full")

        self.alice.peers._changed = full
        self.assertRaises(AbstError, self.alice.forget, self.bob.device_id)
        self.assertIsInstance(ours.ended, SessionEndedError)


class PinnedKeyTests(Base):
    """An ID with another key than the one that was pinned."""

    def setUp(self) -> None:
        super().setUp()
        wrong = Peer(self.bob.device_id, "bob", OTHER.public_key)
        self.network.kill(self.alice)
        self.alice = self.make("alice", self.identities[0], peers=PeerBook((wrong,)))
        self.network.settle()

    def test_the_dialler_refuses_it(self) -> None:
        problem = self.assert_fails(WrongKeyError, self.alice.connect(self.bob.device_id))
        self.assertIn("bob", str(problem))
        self.assertEqual(([], []), (self.built(self.alice), self.built(self.bob)))

    def test_the_acceptor_refuses_it(self) -> None:
        self.assert_fails(IdentityError, self.bob.connect(self.alice.device_id))
        self.assertEqual(([], []), (self.built(self.alice), self.built(self.bob)))
        self.assertIsNone(connection_of(self.alice, self.bob.device_id))
