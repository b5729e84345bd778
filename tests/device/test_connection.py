"""Between two devices: dialling, Hello, sessions, sending, and the end.

The realm, the TLS and the sessions are the real ones; the clock moves when a test says so.
"""

from __future__ import annotations

from typing import Any

from abst import codec
from abst.device import Device
from abst.device.channel import HANDSHAKE_SECONDS, split_content
from abst.device.connection import CONNECT_SECONDS, HELLO_SECONDS, IDLE_SECONDS
from abst.device.paths import DEAD_SECONDS, HEARTBEAT_SECONDS
from abst.device.session import MAX_WAITING_BYTES
from abst.device.ways import LOST_DIAL_SECONDS
from abst.errors import (
    AbstError,
    Code,
    LocalProtocolError,
    NotTrustedError,
    PeerUnreachableError,
    RemoteProtocolError,
    SessionEndedError,
)
from abst.packets import Application, DeviceHello, Heartbeat, KeyCheck, PairProcess
from tests.device.doubles import (
    HIGHER,
    LOWER,
    OTHER,
    OTHERS,
    Base,
    Notes,
    NotesFactory,
    RawDevice,
    connection_of,
    legs_of,
    quietly,
)


class ConnectingTests(Base):
    """A session begins."""

    def test_both_applications_get_a_protocol(self) -> None:
        ours, theirs = self.pair()
        self.assertEqual((1, 1), (ours.made, theirs.made))
        self.assert_same_session(self.alice, self.bob)
        self.assertEqual("bob", ours.peer.name)
        self.assertEqual(self.alice.device_id, theirs.peer.device_id)
        self.assertEqual("realm realm1.test:42278", str(ours.path))
        self.exchange(ours, theirs)

    def test_the_key_is_pinned_at_first_contact(self) -> None:
        ours, theirs = self.pair()
        self.assertEqual(self.bob.identity.public_key, ours.peer.public_key)
        self.assertEqual(self.alice.identity.public_key, theirs.peer.public_key)

    def test_a_session_is_used_again(self) -> None:
        ours, theirs = self.pair()
        self.assertIs(ours, self.connect(self.alice, self.bob))
        self.assertIs(theirs, self.connect(self.bob, self.alice))
        self.assertEqual(1, len(self.built(self.bob)))
        self.assertIs(ours, self.alice.session_with(self.bob.device_id))

    def test_everybody_who_waits_gets_the_same_protocol(self) -> None:
        waiting = [self.alice.connect(self.bob.device_id) for _ in range(5)]
        self.network.settle()
        self.assertEqual(1, len({self.network.result(item) for item in waiting}))

    def test_who_stops_waiting_disturbs_nobody(self) -> None:
        first = self.alice.connect(self.bob.device_id)
        second = self.alice.connect(self.bob.device_id)
        quietly(first)
        first.cancel()
        self.assertIs(self.connected(second), self.connect(self.alice, self.bob))

    def test_what_is_sent_at_once_arrives(self) -> None:
        class Eager(Notes):
            def connectionMade(self) -> None:
                super().connectionMade()
                for number in range(3):
                    self.sendPacket(5, number)

        self.alice.factory = NotesFactory(Eager)
        self.bob.factory = NotesFactory(Eager)
        ours = self.connect(self.alice, self.bob)
        self.network.advance(0.2)
        self.assertEqual([0, 1, 2], ours.contents)
        self.assertEqual([0, 1, 2], self.built(self.bob)[0].contents)

    def test_who_connects_before_the_realm_is_there_waits_for_it(self) -> None:
        next(iter(self.alice.links.values())).cut()  # type: ignore[attr-defined]
        waiting = self.alice.connect(self.bob.device_id)
        self.network.settle()
        self.assertNoResult(waiting)
        self.network.advance(5)
        self.network.result(waiting)

    def test_no_realm_in_time_is_told(self) -> None:
        self.network.realm.stop()
        waiting = self.alice.connect(self.bob.device_id)
        self.network.advance(CONNECT_SECONDS + 0.5)
        problem = self.assert_fails(PeerUnreachableError, waiting)
        self.assertIn("the realm is off", str(problem))

    def test_a_peer_that_is_not_there_is_told_at_once(self) -> None:
        self.network.kill(self.bob)
        self.network.settle()
        problem = self.assert_fails(PeerUnreachableError, self.alice.connect(self.bob.device_id))
        self.assertIn("not connected", str(problem))
        self.network.settle()
        self.assertIsNone(connection_of(self.alice, self.bob.device_id))

    def test_a_peer_that_does_not_answer_is_told_in_time(self) -> None:
        raw = self.make_raw()
        raw.answers = False
        waiting = self.alice.connect(raw.device_id)
        self.network.advance(HANDSHAKE_SECONDS + 0.5)
        self.assert_fails(PeerUnreachableError, waiting)
        self.assertIsNone(connection_of(self.alice, raw.device_id))

    def test_a_device_without_a_realm_says_what_to_do(self) -> None:
        lonely = Device(self.network.clock, OTHER, NotesFactory())
        lonely.startService()
        lonely.trust(self.bob.device_id)
        problem = self.assert_fails(PeerUnreachableError, lonely.connect(self.bob.device_id))
        self.assertIn("abst realm add", str(problem))

    def test_a_device_that_does_not_run_says_so(self) -> None:
        self.alice.stopService()
        self.network.settle()
        problem = self.assert_fails(PeerUnreachableError, self.alice.connect(self.bob.device_id))
        self.assertIn("not running", str(problem))

    def test_trusting_oneself_is_a_mistake(self) -> None:
        self.assertRaises(AbstError, self.alice.trust, self.alice.device_id)


class ComingBackTests(Base):
    """A device that comes to a realm says Hello to those whom it trusts."""

    def test_what_waits_for_it_goes_at_once(self) -> None:
        self.network.kill(self.bob)
        self.network.settle()
        protocol = self.alice.open(self.bob.device_id)
        waiting = protocol.sendPacket(5, "welcome back")
        self.network.advance(300)
        self.assertNoResult(waiting)
        dials = self.dials(self.alice)
        bob = self.restart(self.bob)
        self.network.advance(0.2, 0.05)
        self.successResultOf(waiting)
        self.assertEqual(["welcome back"], self.built(bob)[0].contents)
        self.assertEqual([], dials)

    def test_each_is_dialled_once(self) -> None:
        self.network.kill(self.bob)
        self.network.kill(self.alice)
        alice = self.make("alice", self.identities[0], peers=self.alice.peers)
        dials = self.dials(alice)
        self.network.advance(600)
        self.assertEqual(1, len(dials))
        self.assertIsNone(connection_of(alice, self.bob.device_id))

    def test_a_session_that_exists_is_resumed_and_no_other_begins(self) -> None:
        ours, theirs = self.pair()
        next(iter(self.bob.links.values())).cut()  # type: ignore[attr-defined]
        self.network.advance(5)
        self.exchange(ours, theirs)
        self.assertEqual((1, 1), (len(self.built(self.alice)), len(self.built(self.bob))))

    def test_strangers_are_not_dialled(self) -> None:
        self.alice.forget(self.bob.device_id)
        dials = self.dials(self.alice)
        next(iter(self.alice.links.values())).cut()  # type: ignore[attr-defined]
        self.network.advance(60)
        self.assertEqual([], dials)


class KeyCheckTests(Base):
    """No application packet before both have proved that they hold the same pairing."""

    def opened(self, *, dialled: bool) -> tuple[RawDevice, Any]:
        """Return a raw peer and its channel, on which both have said Hello."""
        raw = self.make_raw()
        raw.proves = False
        if dialled:
            channel = raw.dial(self.alice.device_id)
            self.network.settle()
            raw.hello(channel)
        else:
            raw.took_packet = lambda channel, packet: (
                raw.hello(channel, packet.session) if isinstance(packet, DeviceHello) else None
            )
            quietly(self.alice.connect(raw.device_id))
            self.network.settle()
            (channel,) = raw.channels.values()
        self.network.settle()
        self.assertEqual(1, len(raw.packets(KeyCheck)))
        self.assertEqual([], self.built(self.alice))
        return raw, channel

    def assert_closed(self, raw: RawDevice) -> None:
        self.network.settle()
        self.assertEqual([], self.built(self.alice))
        self.assertEqual(1, len(raw.resets))
        self.assertEqual(0, legs_of(self.alice, raw.device_id))

    def test_the_right_proof_begins_the_session(self) -> None:
        for dialled in (True, False):
            self.setUp()
            raw, channel = self.opened(dialled=dialled)
            raw.say(channel, raw.key_check(channel))
            self.network.settle()
            self.assertEqual(1, len(self.built(self.alice)))
            self.tearDown()

    def test_a_wrong_proof_ends_the_channel(self) -> None:
        for dialled in (True, False):
            self.setUp()
            raw, channel = self.opened(dialled=dialled)
            raw.say(channel, KeyCheck(bytes(32)))
            self.assert_closed(raw)
            self.tearDown()

    def test_its_own_proof_sent_back_is_refused(self) -> None:
        for dialled in (True, False):
            self.setUp()
            raw, channel = self.opened(dialled=dialled)
            raw.say(channel, raw.packets(KeyCheck)[0])
            self.assert_closed(raw)
            self.tearDown()

    def test_the_proof_of_another_channel_is_refused(self) -> None:
        raw, channel = self.opened(dialled=True)
        replayed = raw.key_check(channel)
        raw.say(channel, replayed)
        self.network.settle()
        second = raw.dial(self.alice.device_id)
        self.network.settle()
        raw.hello(second)
        raw.say(second, replayed)
        self.network.settle()
        self.assertIn(second.number, raw.resets)
        self.assertEqual(1, len(self.built(self.alice)))

    def test_nothing_else_may_come_before_the_proof(self) -> None:
        for packet in (
            Application(5, "x"),
            Heartbeat(0),
            PairProcess("begin", way="compare"),
        ):
            for dialled in (True, False):
                self.setUp()
                raw, channel = self.opened(dialled=dialled)
                raw.say(channel, packet)
                self.assert_closed(raw)
                self.network.advance(20)
                self.tearDown()

    def test_no_proof_in_time_ends_the_channel(self) -> None:
        raw, _ = self.opened(dialled=True)
        self.network.advance(HANDSHAKE_SECONDS + 0.5)
        self.assert_closed(raw)

    def test_two_different_pairings_are_told_and_never_loop(self) -> None:
        raw, channel = self.opened(dialled=False)
        dials = self.dials(self.alice)
        raw.say(channel, KeyCheck(bytes(32)))
        self.network.advance(300)
        self.assertEqual([], dials)

    def test_a_peer_that_was_paired_and_has_forgotten_is_named(self) -> None:
        for device, other in ((self.alice, self.bob), (self.bob, self.alice)):
            key = device.peers.pend(other.device_id, other.public_key, bytes(32), "").pending_key
            assert key is not None
            device.peers.settle(other.device_id, key)
        ours, theirs = self.pair()
        self.exchange(ours, theirs)
        next(iter(self.alice.links.values())).cut()  # type: ignore[attr-defined]
        self.bob.forget(self.alice.device_id)
        self.network.advance(5)
        problem = self.assert_fails(NotTrustedError, self.alice.connect(self.bob.device_id))
        self.assertEqual("bob has forgotten this device: pair again", str(problem))
        self.assertIsInstance(ours.ended, SessionEndedError)
        dials = self.dials(self.alice)
        self.network.advance(300)
        self.assertEqual([], dials)


class BothDialTests(Base):
    """Two devices dial each other at the same time: one session comes out of it."""

    def test_one_session_comes_of_two_dials(self) -> None:
        waiting = [self.alice.connect(self.bob.device_id), self.bob.connect(self.alice.device_id)]
        self.network.settle()
        ours, theirs = map(self.network.result, waiting)
        self.assert_same_session(self.alice, self.bob)
        self.assertEqual((1, 1), (len(self.built(self.alice)), len(self.built(self.bob))))
        self.exchange(ours, theirs)

    def test_a_dial_that_nobody_heard_does_not_keep_the_other_side_out(self) -> None:
        """The lower ID's dial went to a process that was killed; its next one dials back."""
        link: Any = next(iter(self.bob.links.values()))
        link.arrive = lambda data: None
        waiting = self.alice.connect(self.bob.device_id)
        self.network.advance(LOST_DIAL_SECONDS)
        bob = self.restart(self.bob)
        theirs = self.connect(bob, self.alice)
        ours = self.network.result(waiting)
        self.assert_same_session(self.alice, bob)
        self.exchange(ours, theirs)

    def test_who_stops_just_after_it_was_dialled(self) -> None:
        """A dial that is younger might still be answered; the other side tries again."""
        link: Any = next(iter(self.bob.links.values()))
        link.arrive = lambda data: None
        waiting = self.alice.connect(self.bob.device_id)
        self.network.settle()
        bob = self.restart(self.bob)
        theirs = bob.connect(self.alice.device_id)
        self.network.advance(CONNECT_SECONDS)
        self.exchange(self.network.result(waiting), self.network.result(theirs))

    def test_both_resume_at_once(self) -> None:
        ours, theirs = self.pair()
        self.network.realm.stop()
        acknowledged = [ours.sendPacket(5, "a"), theirs.sendPacket(5, "b")]
        self.network.advance(1)
        self.network.realm.start()
        self.network.advance(10)
        for item in acknowledged:
            self.successResultOf(item)
        self.assert_same_session(self.alice, self.bob)
        self.assertEqual((["b"], ["a"]), (ours.contents, theirs.contents))
        self.assertEqual(1, len(self.built(self.alice)))


class BothDialTheOtherWayTests(BothDialTests):
    """The same, with the IDs in the other order."""

    identities = (HIGHER, LOWER)


class StaleChannelTests(Base):
    """One side knows of a channel, or of a session, that the other has forgotten."""

    def test_a_restarted_peer_dials_while_the_old_channel_still_stands(self) -> None:
        ours, theirs = self.pair()
        self.exchange(ours, theirs)
        waiting = ours.sendPacket(5, "never acknowledged")
        bob = self.restart(self.bob)
        theirs = self.connect(bob, self.alice)
        self.assertIsInstance(ours.ended, SessionEndedError)
        problem = self.assert_fails(SessionEndedError, waiting)
        self.assertEqual(1, problem.unacknowledged)
        self.assert_same_session(self.alice, bob)
        self.exchange(self.built(self.alice)[-1], theirs)

    def test_a_packet_on_a_channel_that_the_peer_has_forgotten(self) -> None:
        ours, theirs = self.pair()
        self.exchange(ours, theirs)
        self.network.kill(self.bob)
        # It comes back with nothing in its memory, and says Hello to nobody by itself.
        bob = self.make("bob", self.bob.identity)
        self.network.settle()
        bob.trust(self.alice.device_id)
        waiting = ours.sendPacket(5, "for whom?")
        self.network.advance(5)
        self.assert_fails(SessionEndedError, waiting)
        self.assertIsInstance(ours.ended, SessionEndedError)
        self.assert_same_session(self.alice, bob)
        self.assertEqual([], self.built(bob)[0].packets)

    def test_what_has_never_come_across_goes_to_the_restarted_peer(self) -> None:
        """A session in which nothing has come across goes on under the ID agreed on next."""
        ours, _ = self.pair()
        waiting = [ours.sendPacket(5, number) for number in range(3)]
        bob = self.restart(self.bob)
        theirs = self.connect(bob, self.alice)
        self.network.advance(1)
        for acknowledged in waiting:
            self.successResultOf(acknowledged)
        self.assertEqual([0, 1, 2], theirs.contents)
        self.assertIsNone(ours.ended)
        self.assertEqual(1, len(self.built(self.alice)))
        self.assert_same_session(self.alice, bob)

    def test_what_a_peer_has_handled_before_it_ended_the_session_is_not_sent_again(self) -> None:
        """Its last word was lost, and so was the acknowledgement."""
        ours, theirs = self.pair()
        waiting = [ours.sendPacket(5, number) for number in range(3)]
        link: Any = next(iter(self.alice.links.values()))
        arrive, link.arrive = link.arrive, lambda data: None
        self.network.settle()
        self.assertEqual([0, 1, 2], theirs.contents)
        theirs.loseConnection()
        self.network.settle()
        self.assertTrue(theirs.ended_well)
        link.arrive = arrive
        link.cut()
        self.network.advance(10)
        self.assertIsNotNone(ours.ended)
        for item in waiting:
            quietly(item)
        again = self.connect(self.alice, self.bob)
        self.exchange(again, self.built(self.bob)[-1])
        handled = [content for notes in self.built(self.bob) for content in notes.contents]
        self.assertEqual([0, 1, 2, "there"], handled)

    def test_a_reset_is_no_word_of_the_peer_that_it_knows_of_the_end(self) -> None:
        """A realm can make one; what was handled must not come again after it."""
        ours, theirs = self.pair()
        link: Any = next(iter(self.alice.links.values()))
        handled: list[Any] = []

        def packet_received(packet_id: int, content: Any) -> None:
            handled.append(content)
            link.cut()

        # Alice handles it, and Bob does not hear so; then the session ends on her side alone.
        ours.packetReceived = packet_received  # type: ignore[method-assign]
        quietly(theirs.sendPacket(5, "pay"))
        self.network.settle()
        connection = connection_of(self.alice, self.bob.device_id)
        assert connection is not None
        connection.broken(RemoteProtocolError(Code.MALFORMED, "a reason to end it"))
        connection.changed()
        send = link.send
        resets: list[bytes] = []

        def reset_or_send(target: bytes, content: bytes) -> None:
            number, _ = split_content(content)
            found = connection_of(self.alice, self.bob.device_id)
            leg = None if found is None else found.ways.legs.get(number)
            if resets or leg is None or not leg.buries:
                send(target, content)
                return
            resets.append(number)
            later = self.network.clock.callLater
            later(0, self.alice.content_received, link, bytes(self.bob.device_id), number)
            later(0, self.alice.contents_over, link)

        link.send = reset_or_send
        self.network.advance(30)
        self.assertEqual(1, len(resets))
        handled += [content for notes in self.built(self.alice)[1:] for content in notes.contents]
        self.assertEqual(["pay"], handled)
        self.assertIsNotNone(theirs.ended)

    def test_a_channel_that_nobody_knows_is_reset_once(self) -> None:
        raw = self.make_raw()
        raw.link.send(self.alice.device_id, b"12345678" + b"\x17\x03\x03 some record")
        self.network.settle()
        self.assertEqual([b"12345678"], raw.resets)

    def test_a_reset_is_never_answered(self) -> None:
        raw = self.make_raw()
        raw.link.send(self.alice.device_id, b"12345678")
        raw.link.send(self.alice.device_id, b"1234")
        raw.link.send(self.alice.device_id, b"")
        self.network.settle()
        self.assertEqual([], raw.contents)

    def test_a_session_moves_to_the_channel_that_the_peer_dials_anew(self) -> None:
        """Make before break: the old channel stays until the new one has proved itself."""
        raw = self.make_raw()
        first = raw.dial(self.alice.device_id)
        self.network.settle()
        raw.hello(first)
        self.network.settle()
        (notes,) = self.built(self.alice)
        (welcome,) = raw.packets(DeviceHello)
        second = raw.dial(self.alice.device_id)
        self.network.settle()
        self.assertEqual([], raw.resets)
        raw.hello(second, welcome.session)
        self.network.settle()
        self.assertEqual([first.number], raw.resets)
        quietly(notes.sendPacket(5, "on the new one"))
        self.network.settle()
        self.assertEqual((second, Application(5, "on the new one")), raw.found[-1])
        self.assertEqual(1, len(raw.packets(Application)))
        self.assertIsNone(notes.ended)

    def test_dials_without_end_leave_a_bounded_number_of_channels(self) -> None:
        for trusted in (True, False):
            raw = self.make_raw(OTHERS[trusted], trusted=trusted)
            for _ in range(50):
                raw.dial(self.alice.device_id)
            self.network.settle()
            self.assertLessEqual(legs_of(self.alice, raw.device_id), 4)

    def test_a_handshake_that_stops_half_way_is_given_up(self) -> None:
        raw = self.make_raw()
        raw.dial(self.alice.device_id)
        self.network.settle()
        self.assertEqual(1, legs_of(self.alice, raw.device_id))
        self.network.advance(HANDSHAKE_SECONDS + 0.5)
        self.assertIsNone(connection_of(self.alice, raw.device_id))


class HelloTests(Base):
    """What the first packet may be, from somebody who is trusted."""

    def opened(self) -> tuple[RawDevice, Any]:
        raw = self.make_raw()
        channel = raw.dial(self.alice.device_id)
        self.network.settle()
        return raw, channel

    def assert_refused(self, raw: RawDevice) -> None:
        self.network.settle()
        self.assertEqual(1, len(raw.resets))
        self.assertEqual([], self.built(self.alice))
        self.assertIsNone(connection_of(self.alice, raw.device_id))

    def test_another_packet_first(self) -> None:
        for first in (Heartbeat(0), Application(5, "x")):
            self.setUp()
            raw, channel = self.opened()
            raw.say(channel, first)
            self.assert_refused(raw)
            self.tearDown()

    def test_nothing_counts_after_a_mistake(self) -> None:
        raw, channel = self.opened()
        hello = DeviceHello(bytes(raw.device_id), "raw", True, bytes(16), 0)
        for packet in (Application(5, "x"), hello, Application(6, "y")):
            channel.send(codec.encode(packet))
        raw.flush(channel)
        self.assert_refused(raw)

    def test_the_id_of_another_device(self) -> None:
        raw, channel = self.opened()
        raw.say(channel, DeviceHello(bytes(self.bob.device_id), "bob", True, bytes(16), 0))
        self.assert_refused(raw)

    def test_an_older_version(self) -> None:
        raw, channel = self.opened()
        raw.hello(channel, version=0)
        self.assert_refused(raw)

    def test_a_newer_version_is_welcome(self) -> None:
        raw, channel = self.opened()
        raw.hello(channel, version=9, capabilities=["time travel"])
        self.network.settle()
        self.assertEqual(1, len(self.built(self.alice)))

    def test_a_second_hello_ends_the_session(self) -> None:
        raw, channel = self.opened()
        raw.hello(channel)
        self.network.settle()
        raw.hello(channel)
        self.network.settle()
        (notes,) = self.built(self.alice)
        self.assertIsInstance(notes.ended, SessionEndedError)


class LyingPeerTests(Base):
    """Counts that cannot be true end the session, with an error and without a loop."""

    def setUp(self) -> None:
        super().setUp()
        # Whom the device comes back to is said Hello to; here that is one alone.
        self.alice.forget(self.bob.device_id)
        self.peer = self.make_raw()
        self.peer.took_packet = self.answer
        self.received = 0
        self.protocol = self.connect(self.alice, self.peer)
        self.counted = self.dials(self.alice)

    def answer(self, channel: Any, packet: Any) -> None:
        """Accept every channel, and resume whatever session is asked for."""
        if isinstance(packet, DeviceHello):
            self.peer.hello(channel, packet.session, received=self.received)

    @property
    def channel(self) -> Any:
        return list(self.peer.channels.values())[-1]

    def assert_ended(self, unacknowledged: int = 0) -> None:
        self.network.settle()
        problem = self.protocol.ended
        assert isinstance(problem, SessionEndedError), problem
        self.assertEqual(unacknowledged, problem.unacknowledged)
        self.network.advance(120)
        self.assertLessEqual(len(self.counted), 1)
        self.assertIsNone(connection_of(self.alice, self.peer.device_id))

    def test_more_than_was_sent(self) -> None:
        self.peer.heartbeat(self.channel, 1)
        self.assert_ended()

    def test_less_than_was_acknowledged(self) -> None:
        self.protocol.sendPacket(5, "x")
        waiting = self.protocol.sendPacket(5, "y")
        self.network.settle()
        self.peer.heartbeat(self.channel, 1)
        self.network.settle()
        self.peer.heartbeat(self.channel, 0)
        self.assert_ended(1)
        self.failureResultOf(waiting, SessionEndedError)

    def test_more_than_was_sent_when_it_resumes(self) -> None:
        self.received = 7
        self.cut()
        self.assert_ended()

    def test_packets_that_begin_behind_a_hole(self) -> None:
        self.peer.heartbeat(self.channel, 0, first=1)
        self.assert_ended()

    def test_packets_that_nobody_knows_the_numbers_of(self) -> None:
        self.peer.say(self.channel, Application(5, "first?"))
        self.assert_ended()

    def test_what_is_no_packet(self) -> None:
        self.channel.send(b"\xc1")
        self.peer.flush(self.channel)
        self.assert_ended()

    def cut(self) -> None:
        next(iter(self.alice.links.values())).cut()  # type: ignore[attr-defined]
        self.network.advance(5)


class EndingTests(Base):
    """Sessions end by agreement."""

    def test_both_sides_are_told(self) -> None:
        ours, theirs = self.pair()
        ours.loseConnection()
        self.network.settle()
        self.assertTrue(ours.ended_well)
        self.assertTrue(theirs.ended_well)
        for device, other in ((self.alice, self.bob), (self.bob, self.alice)):
            self.assertIsNone(connection_of(device, other.device_id))

    def test_everything_is_sent_before(self) -> None:
        ours, theirs = self.pair()
        waiting = [ours.sendPacket(5, [number, bytes(20_000)]) for number in range(50)]
        ours.loseConnection()
        self.network.advance(5)
        for acknowledged in waiting:
            self.successResultOf(acknowledged)
        self.assertEqual(list(range(50)), [number for number, _ in theirs.contents])
        self.assertTrue(ours.ended_well)
        self.assertTrue(theirs.ended_well)

    def test_everything_is_sent_before_even_when_the_path_breaks(self) -> None:
        ours, theirs = self.pair()
        self.network.realm.stop()
        waiting = ours.sendPacket(5, "the last word")
        ours.loseConnection()
        self.network.advance(5)
        self.assertIsNone(ours.ended)
        self.network.realm.start()
        self.network.advance(60)
        self.successResultOf(waiting)
        self.assertEqual(["the last word"], theirs.contents)
        self.assertTrue(ours.ended_well)
        self.assertTrue(theirs.ended_well)

    def test_both_at_once(self) -> None:
        ours, theirs = self.pair()
        ours.loseConnection()
        theirs.loseConnection()
        self.network.settle()
        self.assertTrue(ours.ended_well)
        self.assertTrue(theirs.ended_well)

    def test_twice_is_once(self) -> None:
        ours, _ = self.pair()
        ours.loseConnection()
        ours.loseConnection()
        self.network.settle()
        ours.loseConnection()
        self.network.settle()
        self.assertTrue(ours.ended_well)

    def test_what_the_other_side_still_had_on_its_way_is_told_as_lost(self) -> None:
        ours, theirs = self.pair()
        ours.loseConnection()
        waiting = theirs.sendPacket(5, "too late")
        self.network.settle()
        self.assertTrue(theirs.ended_well)
        self.failureResultOf(waiting, SessionEndedError)

    def test_a_new_session_can_begin_after_it(self) -> None:
        ours, _ = self.pair()
        ours.loseConnection()
        self.network.settle()
        again = self.connect(self.alice, self.bob)
        self.assertIsNot(ours, again)
        self.exchange(again, self.built(self.bob)[-1])

    def test_who_connects_while_a_session_ends_gets_the_next_one(self) -> None:
        ours, _ = self.pair()
        ours.sendPacket(5, "x")
        ours.loseConnection()
        waiting = self.alice.connect(self.bob.device_id)
        self.network.advance(2)
        again = self.network.result(waiting)
        self.assertIsNot(ours, again)
        self.assertTrue(ours.ended_well)
        self.exchange(again, self.built(self.bob)[-1])

    def test_an_ended_protocol_has_no_hold_on_the_next_session(self) -> None:
        ours, _ = self.pair()
        other_connect = []
        ours.loseConnection()
        other_connect.append(self.alice.connect(self.bob.device_id))
        self.network.advance(2)
        again = self.network.result(other_connect[0])
        assert isinstance(again, Notes)
        self.assertRaises(LocalProtocolError, ours.sendPacket, 5, "into the wrong session")
        self.failureResultOf(ours.ping(), PeerUnreachableError)
        self.assertIsNone(ours.path)
        ours.loseConnection()
        self.network.advance(1)
        self.assertIsNone(again.ended)
        self.assertEqual("bob", ours.peer.name)

    def test_stopping_a_device_tells_its_peers(self) -> None:
        ours, theirs = self.pair()
        waiting = ours.sendPacket(5, "x")
        self.alice.stopService()
        self.network.settle()
        self.assertTrue(theirs.ended_well)
        self.assertIsInstance(ours.ended, SessionEndedError)
        self.failureResultOf(waiting, SessionEndedError)

    def test_stopping_fails_who_waits(self) -> None:
        self.network.realm.stop()
        waiting = self.alice.connect(self.bob.device_id)
        self.alice.stopService()
        self.failureResultOf(waiting, PeerUnreachableError)

    def test_a_stopped_device_accepts_nothing(self) -> None:
        self.alice.running = 0
        waiting = self.bob.connect(self.alice.device_id)
        self.network.settle()
        self.assertEqual({}, self.alice._connections)
        self.alice.running = 1
        waiting.addErrback(lambda failure: None)


class SendingTests(Base):
    """What ``sendPacket`` refuses, and when it is done."""

    def test_ids_that_are_not_the_applications(self) -> None:
        ours, _ = self.pair()
        for packet_id in (-1, 0, 1, 4, 256, 10**9):
            self.assertRaises(LocalProtocolError, ours.sendPacket, packet_id, "x")
        for packet_id in (5, 255):
            ours.sendPacket(packet_id, "x")
        self.network.advance(1)

    def test_contents_that_no_peer_would_accept(self) -> None:
        ours, theirs = self.pair()
        nested: list[Any] = []
        for _ in range(100):
            nested = [nested]
        recursive: list[Any] = []
        recursive.append(recursive)
        for content in (
            *(object(), {1, 2}, bytes(70_000), "x" * 70_000, 2**64, -(2**63) - 1, "\ud800"),
            *(nested, recursive, [0] * 5000, {str(n): n for n in range(2000)}),
        ):
            self.assertRaises(LocalProtocolError, ours.sendPacket, 5, content)
        self.exchange(ours, theirs)

    def test_every_other_content_arrives_as_it_was(self) -> None:
        ours, theirs = self.pair()
        contents = [
            *(None, True, 0, -1, 2**64 - 1, -(2**63), 1.5, "", "ü", b"", b"\xff" * 60_000),
            *([], [1, [2, [3]]], {}, {"a": {"b": [None]}}),
        ]
        for content in contents:
            ours.sendPacket(5, content)
        self.network.advance(1)
        self.assertEqual(contents, theirs.contents)

    def test_more_than_may_wait(self) -> None:
        ours, theirs = self.pair()
        self.network.realm.stop()
        self.network.settle()
        piece = bytes(60_000)
        sent = 0
        with self.assertRaises(LocalProtocolError):
            while sent <= MAX_WAITING_BYTES:
                ours.sendPacket(5, piece)
                sent += len(piece)
        self.assertGreater(sent, MAX_WAITING_BYTES - 2 * len(piece))
        self.network.realm.start()
        self.network.advance(60)
        self.assertEqual(sent, sum(map(len, theirs.contents)))
        self.exchange(ours, theirs)

    def test_after_the_end(self) -> None:
        ours, theirs = self.pair()
        ours.loseConnection()
        self.assertRaises(LocalProtocolError, ours.sendPacket, 5, "x")
        self.network.settle()
        self.assertRaises(LocalProtocolError, ours.sendPacket, 5, "x")
        self.assertRaises(LocalProtocolError, theirs.sendPacket, 5, "x")

    def test_it_is_done_when_the_peer_has_it(self) -> None:
        ours, theirs = self.pair()
        seen: list[bool] = []
        waiting = ours.sendPacket(5, "x")
        theirs.packetReceived = (  # type: ignore[method-assign]
            lambda packet_id, content: seen.append(bool(waiting.called))
        )
        self.network.settle()
        self.assertEqual([False], seen)
        self.assertIsNone(self.successResultOf(waiting))

    def test_much_is_acknowledged_without_waiting(self) -> None:
        ours, theirs = self.pair()
        waiting = [ours.sendPacket(5, bytes(50_000)) for _ in range(30)]
        self.network.settle()
        self.assertEqual(30, len(theirs.packets))
        done = [item for item in waiting if item.called]
        self.assertGreaterEqual(len(done), 28)
        self.network.advance(0.1)

    def test_who_gives_up_waiting_disturbs_nobody(self) -> None:
        ours, theirs = self.pair()
        first, second = ours.sendPacket(5, 1), ours.sendPacket(5, 2)
        quietly(first)
        first.cancel()
        self.network.advance(1)
        self.successResultOf(second)
        self.assertEqual([1, 2], theirs.contents)


class TimeTests(Base):
    """Heartbeats, silence, round trips."""

    def test_a_ping_measures_the_way_there_and_back(self) -> None:
        ours, _ = self.pair()
        link: Any = next(iter(self.alice.links.values()))
        arrive = link.arrive
        link.arrive = lambda data: self.network.clock.callLater(0.25, arrive, data)
        waiting = ours.ping()
        self.network.settle()
        self.assertNoResult(waiting)
        self.network.advance(1, 0.25)
        self.assertEqual(0.25, self.successResultOf(waiting))

    def test_pings_do_not_mix(self) -> None:
        ours, theirs = self.pair()
        waiting = [ours.ping(), theirs.ping(), ours.ping()]
        self.network.settle()
        for item in waiting:
            self.assertEqual(0, self.successResultOf(item))

    def test_a_ping_without_a_path_fails(self) -> None:
        ours, _ = self.pair()
        self.network.realm.stop()
        self.network.settle()
        self.failureResultOf(ours.ping(), PeerUnreachableError)

    def test_a_ping_that_loses_its_path_is_answered_on_the_next_one(self) -> None:
        ours, _ = self.pair()
        waiting = ours.ping()
        self.network.realm.stop()
        self.network.advance(1)
        self.assertNoResult(waiting)
        self.network.realm.start()
        self.network.advance(20)
        seconds: float = self.network.result(waiting)
        self.assertGreater(seconds, 1)

    def test_a_ping_ends_with_the_session(self) -> None:
        ours, _ = self.pair()
        waiting = ours.ping()
        self.alice.stopService()
        self.failureResultOf(waiting)
        self.failureResultOf(ours.ping(), PeerUnreachableError)

    def test_an_idle_session_stays_for_hours_with_few_packets(self) -> None:
        class Kept(Notes):
            keep_alive = True

        self.alice.factory = NotesFactory(Kept)
        ours, theirs = self.pair()
        before = self.network.realm.realm.counters.relayed_packets
        self.network.advance(7200, HEARTBEAT_SECONDS)
        sent = self.network.realm.realm.counters.relayed_packets - before
        self.assertLessEqual(sent, 2 * 7200 / HEARTBEAT_SECONDS + 2)
        self.assertEqual([], ours.paths)
        self.exchange(ours, theirs)

    def test_a_path_that_nobody_uses_is_closed_and_opened_again(self) -> None:
        ours, theirs = self.pair()
        dials = self.dials(self.alice), self.dials(self.bob)
        self.exchange(ours, theirs)
        self.network.advance(IDLE_SECONDS - 1)
        self.assertEqual(([], []), (ours.paths, theirs.paths))
        self.network.advance(2)
        self.assertEqual(([None], [None]), (ours.paths, theirs.paths))
        before = self.network.realm.realm.counters.relayed_packets
        self.network.advance(7200, 10)
        self.assertEqual(before, self.network.realm.realm.counters.relayed_packets)
        self.assertEqual(([], []), dials)
        self.exchange(theirs, ours)
        self.assertIsNone(ours.ended)
        self.assert_same_session(self.alice, self.bob)

    def test_a_peer_that_wanted_the_path_kept_and_vanished_is_not_dialled_without_end(self) -> None:
        ours, theirs = self.pair()
        self.exchange(ours, theirs)
        theirs.keep_alive = True
        link: Any = next(iter(self.bob.links.values()))
        link.cut()
        self.network.advance(5)
        self.exchange(ours, theirs)
        self.network.kill(self.bob)
        self.network.advance(2 * IDLE_SECONDS)
        dials = self.dials(self.alice)
        self.network.advance(7200, 10)
        self.assertEqual([], dials)
        self.assertIsNone(ours.ended)

    def test_a_path_over_which_only_hello_was_said_is_closed_soon(self) -> None:
        self.alice.connection(self.bob.device_id).probe()
        self.network.settle()
        self.assert_same_session(self.alice, self.bob)
        self.network.advance(HELLO_SECONDS + 1)
        self.assertEqual(0, legs_of(self.alice, self.bob.device_id))
        self.assertEqual(0, legs_of(self.bob, self.alice.device_id))

    def test_a_silent_peer_is_noticed(self) -> None:
        raw = self.make_raw()
        raw.took_packet = lambda channel, packet: (
            raw.hello(channel, packet.session) if isinstance(packet, DeviceHello) else None
        )
        ours = self.connect(self.alice, raw)
        raw.answers = False
        self.network.advance(DEAD_SECONDS - 1)
        self.assertEqual([], ours.paths)
        self.network.advance(2)
        self.assertEqual([None], ours.paths)
        self.assertGreaterEqual(len(raw.packets(Heartbeat)), 2)

    def test_a_peer_that_says_anything_is_not_silent(self) -> None:
        raw = self.make_raw()
        raw.took_packet = lambda channel, packet: (
            raw.hello(channel, packet.session) if isinstance(packet, DeviceHello) else None
        )
        ours = self.connect(self.alice, raw)
        (channel,) = raw.channels.values()
        raw.heartbeat(channel, 0, first=0)
        for _ in range(10):
            self.network.advance(DEAD_SECONDS - 5)
            raw.say(channel, Application(5, "still here"))
        self.assertEqual([], ours.paths)
