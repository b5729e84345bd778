"""Pairing as an application sees it: two devices, a realm, and persons who type and compare."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.address import RealmAddress
from abst.device import Device, Peer
from abst.device.pairing import PAIRING_SECONDS
from abst.device.pairing_attempt import (
    MAX_LINK_REALMS,
    PairingAttempt,
    PairingLink,
    PairingObserver,
    parse_target,
)
from abst.device.words import FIRST_WORDS, PairingCode
from abst.device_id import DeviceID
from abst.errors import AbstError, NotTrustedError, PairingError
from abst.identity import Identity
from abst.realm.limits import Limits
from abst.testing import MemoryNetwork
from tests.device.doubles import (
    HIGHER,
    LOWER,
    OTHER,
    NotesFactory,
    connection_of,
    count_dials,
    legs_of,
    turn,
)


class Person(PairingObserver):
    """Notes what is shown.

    Attributes:
        code: what was shown to type in, or None.
        link: what was shown to scan.
        words: what was shown to compare, or None.
        asked: how often words were shown.
        outcome: the peer, or the problem; None while it goes on.
    """

    def __init__(self) -> None:
        self.code: str | None = None
        self.link = ""
        self.words: str | None = None
        self.asked = 0
        self.outcome: Peer | AbstError | None = None

    def offer_ready(self, code: str | None, link: str, seconds: float) -> None:
        self.code, self.link = code, link

    def compare(self, words: str) -> None:
        self.words = words
        self.asked += 1

    def paired(self, peer: Peer) -> None:
        assert self.outcome is None
        self.outcome = peer

    def failed(self, problem: AbstError) -> None:
        assert self.outcome is None
        self.outcome = problem


class Base(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.devices: list[Device] = []
        self.alice, self.bob = self.make("alice", LOWER), self.make("bob", HIGHER)
        self.person, self.other = Person(), Person()

    def tearDown(self) -> None:
        for device in self.devices:
            device.stopService()
        self.network.advance(PAIRING_SECONDS + 1)
        self.assertEqual([], self.network.clock.getDelayedCalls())

    def make(self, name: str, identity: Identity, **options: Any) -> Device:
        device = self.network.device(name, NotesFactory(), identity=identity, **options)
        self.devices.append(device)
        self.network.settle()
        return device

    def offer(self, device: Device | None = None, person: Person | None = None) -> PairingAttempt:
        attempt = (device or self.alice).open_pairing(person or self.person)
        self.network.settle()
        return attempt

    def take(
        self, text: str | None, device: Device | None = None, person: Person | None = None
    ) -> PairingAttempt:
        assert text is not None
        attempt = (device or self.bob).pair_with(parse_target(text), person or self.other)
        self.network.advance(0.2, 0.1)
        return attempt

    def wrong(self, code: str | None) -> str:
        """Return a code with the same number and another word."""
        assert code is not None
        right = PairingCode.parse(code)
        word = next(word for word in FIRST_WORDS if word != right.first)
        return str(PairingCode(right.number, word, right.second))

    def assert_paired(self, one: Device | None = None, other: Device | None = None) -> None:
        one, other = one or self.alice, other or self.bob
        mine, theirs = one.peers.get(other.device_id), other.peers.get(one.device_id)
        assert mine is not None and theirs is not None
        self.assertIsNotNone(mine.pairing_key)
        self.assertEqual(mine.pairing_key, theirs.pairing_key)
        for peer, device in ((mine, other), (theirs, one)):
            self.assertTrue(peer.is_trusted)
            self.assertIsNone(peer.pending_key)
            self.assertEqual(device.identity.public_key, peer.public_key)
            self.assertEqual(device.device_name, peer.name)
        protocol = self.network.result(one.connect(other.device_id))
        waiting = protocol.sendPacket(5, "hello")
        self.network.advance(0.2, 0.05)
        self.successResultOf(waiting)
        received: Any = other.session_with(one.device_id)
        self.assertEqual("hello", received.contents[-1])

    def assert_nobody_is_paired(self) -> None:
        for device in (self.alice, self.bob):
            self.assertEqual((), device.peers.all())
            self.assertEqual([], device.factory.built)  # type: ignore[attr-defined]

    def code_of(self, outcome: Peer | AbstError | None) -> str:
        assert isinstance(outcome, PairingError), outcome
        return outcome.code


class WaysTests(Base):
    """The three ways, with honest devices and persons."""

    def test_by_a_code(self) -> None:
        self.offer()
        self.take(self.person.code)
        self.assert_paired()
        assert isinstance(self.person.outcome, Peer) and isinstance(self.other.outcome, Peer)
        self.assertEqual("bob", self.person.outcome.name)
        self.assertEqual("alice", self.other.outcome.name)
        self.assertEqual(0, len(self.network.realm.realm.windows))

    def test_by_a_link(self) -> None:
        self.offer()
        self.take(self.person.link)
        self.assert_paired()
        self.assertIsNone(self.person.words)

    def test_by_comparing(self) -> None:
        waiting = self.offer()
        dialling = self.take(str(self.alice.device_id))
        self.assertEqual(self.person.words, self.other.words)
        self.assertIsNone(self.person.outcome)
        dialling.person_says(True)
        self.network.settle()
        self.assertIsNone(self.other.outcome)
        waiting.person_says(True)
        self.network.advance(1)
        self.assert_paired()

    def test_by_comparing_when_both_dial(self) -> None:
        one = self.alice.pair_with(self.bob.device_id, self.person)
        other = self.bob.pair_with(self.alice.device_id, self.other)
        self.network.settle()
        self.assertEqual(self.person.words, self.other.words)
        for attempt in (one, other):
            attempt.person_says(True)
            self.network.settle()
        self.network.advance(1)
        self.assert_paired()

    def test_the_realm_never_sees_the_words(self) -> None:
        self.offer()
        self.take(self.person.code)
        assert self.person.code is not None
        for word in self.person.code.split("-")[1:]:
            self.assertNotIn(word.encode(), self.network.realm.relayed)

    def test_who_asks_again_for_a_trusted_device_is_told_so_at_once(self) -> None:
        self.network.introduce(self.alice, self.bob)
        self.offer()
        self.take(self.person.code)
        # Both are trusted, so the channel goes to the Key check, and pairing is not needed.
        self.network.advance(1)
        self.assertIsInstance(self.other.outcome, Peer)

    def test_pairing_again_after_one_has_forgotten(self) -> None:
        self.offer()
        self.take(self.person.code)
        self.alice.forget(self.bob.device_id)
        self.network.advance(5)
        waiting = self.bob.connect(self.alice.device_id)
        self.network.advance(1)
        problem = self.failureResultOf(waiting, NotTrustedError).value
        self.assertIn("has forgotten this device: pair again", str(problem))
        self.person, self.other = Person(), Person()
        self.offer()
        self.take(self.person.code)
        self.assert_paired()


class RefusalTests(Base):
    """Every other end is one clear state, in which nothing is stored."""

    def test_a_wrong_code_is_one_try(self) -> None:
        self.offer()
        self.take(self.wrong(self.person.code))
        self.assertEqual("wrong_secret", self.code_of(self.person.outcome))
        self.assertEqual("wrong_secret", self.code_of(self.other.outcome))
        self.assert_nobody_is_paired()
        # The right one comes too late.
        again = Person()
        self.take(self.person.code, person=again)
        self.network.advance(PAIRING_SECONDS + 1)
        self.assertIsInstance(again.outcome, AbstError)
        self.assert_nobody_is_paired()

    def test_a_code_that_nobody_shows(self) -> None:
        self.take("7-otter-marble" if "otter" in FIRST_WORDS else self.wrong("7-x-y"))
        self.assertIsInstance(self.other.outcome, AbstError)
        self.assertIn("no device waits", str(self.other.outcome))
        self.assert_nobody_is_paired()

    def test_a_wrong_link_does_not_pair(self) -> None:
        self.offer()
        link = PairingLink.parse(self.person.link)
        self.take(str(PairingLink(link.device_id, bytes(16), link.realms)))
        self.assertEqual("wrong_secret", self.code_of(self.other.outcome))
        self.assert_nobody_is_paired()

    def test_a_no_on_either_side_ends_it(self) -> None:
        for refuser in (0, 1):
            self.setUp()
            attempts = [self.offer(), self.take(str(self.alice.device_id))]
            attempts[1 - refuser].person_says(True)
            self.network.settle()
            attempts[refuser].person_says(False)
            self.network.advance(1)
            for person in (self.person, self.other):
                self.assertEqual("not_confirmed", self.code_of(person.outcome))
            self.assert_nobody_is_paired()
            self.tearDown()

    def test_nobody_who_has_not_been_asked_pairs(self) -> None:
        self.take(str(self.alice.device_id))
        self.assertEqual("no_window", self.code_of(self.other.outcome))
        self.assert_nobody_is_paired()
        self.assertEqual(0, legs_of(self.alice, self.bob.device_id))

    def test_an_offer_ends_with_its_time(self) -> None:
        self.offer()
        self.network.advance(PAIRING_SECONDS + 1)
        self.assertEqual("pairing_late", self.code_of(self.person.outcome))
        self.take(self.person.code)
        self.assertIsInstance(self.other.outcome, AbstError)
        self.assert_nobody_is_paired()

    def test_persons_who_never_answer(self) -> None:
        self.offer()
        self.take(str(self.alice.device_id))
        self.network.advance(PAIRING_SECONDS + 11)
        for person in (self.person, self.other):
            self.assertIsInstance(person.outcome, PairingError)
        self.assert_nobody_is_paired()
        self.assertIsNone(connection_of(self.bob, self.alice.device_id))

    def test_going_away_ends_it_for_both(self) -> None:
        waiting = self.offer()
        self.take(str(self.alice.device_id))
        waiting.cancel()
        self.network.advance(1)
        for person in (self.person, self.other):
            self.assertEqual("not_confirmed", self.code_of(person.outcome))
        waiting.cancel()
        self.assert_nobody_is_paired()

    def test_an_offer_that_is_withdrawn_frees_its_number(self) -> None:
        self.offer().cancel()
        self.network.settle()
        self.assertEqual(0, len(self.network.realm.realm.windows))

    def test_one_attempt_at_a_time(self) -> None:
        self.offer()
        self.assertRaises(AbstError, self.alice.open_pairing, Person())
        self.assertRaises(AbstError, self.alice.pair_with, self.bob.device_id, Person())

    def test_a_second_device_is_not_let_in_beside_the_first(self) -> None:
        mallory = self.make("mallory", OTHER)
        self.offer()
        self.take(str(self.alice.device_id))
        late = Person()
        self.take(str(self.alice.device_id), mallory, late)
        self.assertEqual("no_window", self.code_of(late.outcome))
        self.assertIsNone(self.person.outcome)

    def test_pairing_with_oneself(self) -> None:
        self.take(str(self.bob.device_id))
        self.assertIn("this device itself", str(self.other.outcome))

    def test_a_disk_that_is_full_pairs_neither(self) -> None:
        def full() -> None:
            raise AbstError("the disk is full")

        self.alice.peers._changed = full
        self.offer()
        self.take(self.person.code)
        self.assertEqual("not_stored", self.code_of(self.other.outcome))
        self.network.advance(1)
        self.assertEqual((), self.bob.peers.all())
        self.assertFalse(any(peer.is_trusted for peer in self.alice.peers.all()))

    def test_whoever_asks_too_often_is_told_when_to_come_back(self) -> None:
        for _ in range(Limits().pairing_requests_per_minute):
            self.offer().cancel()
            self.person = Person()
        self.offer()
        self.assertIn("too often", str(self.person.outcome))


class SeveralTriesTests(Base):
    """More than one device tries to pair."""

    def test_a_link_stays_good_when_somebody_else_tries_a_wrong_one(self) -> None:
        self.offer()
        carol, hers = self.make("carol", OTHER), Person()
        self.take(str(PairingLink(self.alice.device_id, bytes(16))), carol, hers)
        self.assertEqual("wrong_secret", self.code_of(hers.outcome))
        self.assertIsNone(self.person.outcome)
        self.take(self.person.link)
        self.assert_paired()
        self.assertIsInstance(self.person.outcome, Peer)
        self.assertIsNone(self.alice.peers.get(carol.device_id))

    def test_a_code_stays_good_when_somebody_else_tries_a_wrong_link(self) -> None:
        self.offer()
        carol, hers = self.make("carol", OTHER), Person()
        self.take(str(PairingLink(self.alice.device_id, bytes(16))), carol, hers)
        self.take(self.person.code)
        self.assert_paired()
        self.assertIsInstance(self.person.outcome, Peer)


class GivingUpTests(Base):
    """A person, or an application, ends an attempt at any time."""

    def test_giving_up_at_any_time_leaves_those_who_are_paired_as_they_were(self) -> None:
        outcomes = set()
        for quitter in (0, 1):
            for turns in range(60):
                self.setUp()
                self.network.introduce(self.alice, self.bob)
                attempts = [self.offer()]
                assert self.person.code is not None
                target = parse_target(self.person.code)
                attempts.append(self.bob.pair_with(target, self.other))
                turn(self.network, turns)
                attempts[quitter].cancel()
                self.network.advance(1)
                outcomes.add(type((self.person, self.other)[quitter].outcome))
                waiting = self.alice.open(self.bob.device_id).sendPacket(5, "still friends")
                self.network.advance(2)
                self.successResultOf(waiting)
                self.tearDown()
        self.assertEqual({Peer, PairingError}, outcomes)
        self.assertEqual([], self.flushLoggedErrors())

    def test_who_is_told_that_he_is_paired_may_stop_his_device(self) -> None:
        bob = self.bob

        class Leaving(Person):
            def paired(self, peer: Peer) -> None:
                super().paired(peer)
                bob.stopService()

        leaving = Leaving()
        self.offer()
        self.take(self.person.code, person=leaving)
        self.network.advance(1)
        self.assertIsInstance(leaving.outcome, Peer)
        self.assertIsInstance(self.person.outcome, Peer)
        self.assertFalse(bob.running)
        self.assertEqual([], self.flushLoggedErrors())

    def test_stopping_a_device_ends_its_attempt_and_leaves_nothing_on_the_clock(self) -> None:
        self.offer()
        self.bob.pair_with(self.alice.device_id, self.other)
        self.network.settle()
        self.assertIsNotNone(self.other.words)
        for device in self.devices:
            device.stopService()
        self.network.settle()
        for person in (self.person, self.other):
            self.assertEqual("not_confirmed", self.code_of(person.outcome))
        self.assertEqual([], self.network.clock.getDelayedCalls())
        self.assert_nobody_is_paired()

    def test_who_gives_up_before_the_other_device_is_found_dials_nobody(self) -> None:
        self.offer()
        assert self.person.code is not None
        dials = count_dials(self.network, self.bob)
        attempt = self.bob.pair_with(parse_target(self.person.code), self.other)
        attempt.cancel()
        self.network.advance(5)
        self.assertEqual([], dials)
        self.assertEqual("not_confirmed", self.code_of(self.other.outcome))

    def test_a_device_that_is_stopped_before_the_other_is_found_dials_nobody(self) -> None:
        self.offer()
        assert self.person.code is not None
        dials = count_dials(self.network, self.bob)
        self.bob.pair_with(parse_target(self.person.code), self.other)
        self.bob.stopService()
        self.network.advance(5)
        self.assertEqual([], dials)
        self.assertEqual("not_confirmed", self.code_of(self.other.outcome))

    def test_who_gives_up_before_a_number_has_come_leaves_none_in_use(self) -> None:
        self.alice.open_pairing(self.person).cancel()
        self.network.advance(1)
        self.assertEqual("", self.person.link)
        self.assertEqual(0, len(self.network.realm.realm.windows))


class StopTests(Base):
    """A device is killed after any number of packets: both are paired, or neither."""

    def test_both_or_neither(self) -> None:
        outcomes = set()
        for killed in (0, 1):
            for turns in range(60):
                self.setUp()
                self.offer()
                assert self.person.code is not None
                self.bob.pair_with(parse_target(self.person.code), self.other)
                turn(self.network, turns)
                victim = (self.alice, self.bob)[killed]
                self.network.kill(victim)
                self.network.advance(PAIRING_SECONDS + 5)
                again = self.make(victim.device_name, victim.identity, peers=victim.peers)
                self.network.advance(5)
                one, other = (again, self.bob) if killed == 0 else (self.alice, again)
                # Whoever holds something says Hello to the other, and that settles it.
                for device, peer in ((one, other), (other, one)):
                    if device.peers.get(peer.device_id) is not None:
                        device.connection(peer.device_id).probe()
                        self.network.advance(5)
                mine, theirs = one.peers.get(other.device_id), other.peers.get(one.device_id)
                self.assertEqual(mine is None, theirs is None, (killed, turns))
                if mine is not None and theirs is not None:
                    self.assertTrue(mine.is_trusted and theirs.is_trusted, (killed, turns))
                    self.assertEqual(mine.pairing_key, theirs.pairing_key)
                outcomes.add((killed, mine is not None))
                self.tearDown()
        self.assertEqual({(0, False), (0, True), (1, False), (1, True)}, outcomes)


class LinkTests(SynchronousTestCase):
    """Links as text."""

    @given(
        secret=st.binary(min_size=16, max_size=16),
        hosts=st.lists(
            st.from_regex(r"\A[a-z]{1,10}\.test\Z"), max_size=MAX_LINK_REALMS, unique=True
        ),
    )
    def test_every_link_is_read_as_it_was_written(self, secret: bytes, hosts: list[str]) -> None:
        link = PairingLink(LOWER.device_id, secret, tuple(RealmAddress(host) for host in hosts))
        self.assertEqual(link, PairingLink.parse(str(link)))
        self.assertEqual(link, parse_target(f"  {link}\n"))

    def test_a_link_that_is_not_whole(self) -> None:
        whole = str(PairingLink(LOWER.device_id, bytes(16), (RealmAddress("a.test"),)))
        short = str(PairingLink(LOWER.device_id, bytes(15)))
        many = PairingLink(LOWER.device_id, bytes(16), (RealmAddress("a.test"),) * 5)
        for text in (
            *("abst-pair:", "abst-pair:?secret=", whole[:40], short, str(many)),
            *(whole.replace("secret", "sesame"), f"{whole}&secret=AAAA", whole[:-4] + "%00%"),
        ):
            self.assertRaises(AbstError, parse_target, text)

    def test_other_keys_are_ignored(self) -> None:
        link = PairingLink(LOWER.device_id, bytes(16))
        self.assertEqual(link, PairingLink.parse(f"{link}&later=1"))

    def test_what_a_person_types_decides_the_way(self) -> None:
        self.assertIsInstance(parse_target(str(LOWER.device_id)), DeviceID)
        code = PairingCode.from_random(7, b"\x00\x00")
        self.assertEqual(code, parse_target(str(code)))
        for text in ("", "hello", "-" * 36, f"{str(LOWER.device_id)[:-1]}x"):
            self.assertRaises(AbstError, parse_target, text)
