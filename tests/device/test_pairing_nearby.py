"""Pairing on one network, with a realm or without, and pairing again those who are paired."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from abst.address import RealmAddress
from abst.device import Device, NearbyDevice, Peer
from abst.device.channel import HANDSHAKE_SECONDS
from abst.device.knock import RANDOM_BYTES, knock
from abst.device.link import LinkOwner
from abst.device.pairing import PAIRING_SECONDS, Ends, Pairing, Role, Show, Way
from abst.device.pairing_attempt import PairingAttempt
from abst.device.words import PairingCode
from abst.errors import AbstError
from abst.identity import Identity
from abst.packets import DeviceHello, PairProcess
from abst.testing import MemoryLan, MemoryLink, MemoryNetwork
from tests.device.doubles import HIGHER, LOWER, OTHER, Stranger, Visit, connection_of
from tests.device.test_pairing_attempt import Base, Person

LATENCY_SECONDS: Final = 0.02


class Neighbour(Person):
    """A person who is also told who else is nearby."""

    def __init__(self) -> None:
        super().__init__()
        self.neighbours: list[NearbyDevice] = []

    def nearby(self, devices: list[NearbyDevice]) -> None:
        self.neighbours = devices


class LanBase(Base):
    """Alice and Bob are in one local network, each at two addresses, and no realm is up."""

    def setUp(self) -> None:
        self.has_lan = False
        super().setUp()
        self.network.realm.stop()
        self.network.settle()

    def make(self, name: str, identity: Identity, **options: object) -> Device:
        if not self.has_lan:
            self.has_lan, self.lan = True, self.network.lan()
        return super().make(name, identity, lan=self.lan.port(2), **options)

    def wait_for_offer(self, device: Device | None = None, person: Person | None = None) -> None:
        self.offer(device, person)
        self.network.advance(3, 0.1)


class NearbyTests(LanBase):
    """Pairing without a realm."""

    def test_a_code_needs_no_realm_and_is_one_guess_at_several_addresses(self) -> None:
        self.wait_for_offer()
        self.take(self.person.code)
        self.network.advance(3, 0.1)
        self.assert_paired()

    def test_a_link_and_comparing_need_no_realm(self) -> None:
        self.wait_for_offer()
        self.take(self.person.link)
        self.network.advance(1, 0.1)
        self.assert_paired()
        carol, hers = self.make("carol", OTHER), Neighbour()
        person = Neighbour()
        self.wait_for_offer(person=person)
        self.take(str(self.alice.device_id), carol, hers)
        self.assertEqual(person.words, hers.words)
        for device in (self.alice, carol):
            assert device._pairing is not None
            device._pairing.person_says(True)
        self.network.advance(1, 0.1)
        self.assert_paired(self.alice, carol)

    def test_a_wrong_code_is_one_guess_here_too(self) -> None:
        self.wait_for_offer()
        self.take(self.wrong(self.person.code))
        self.network.advance(3, 0.1)
        self.assertIsInstance(self.other.outcome, AbstError)
        self.assertIsInstance(self.person.outcome, AbstError)
        self.assert_nobody_is_paired()

    def test_two_devices_with_the_same_number_are_not_guessed_between(self) -> None:
        """A neighbour who announces a number that he has seen gets no try at its words."""
        self.wait_for_offer()
        assert self.person.code is not None
        number = PairingCode.parse(self.person.code).number
        carol = self.make("carol", OTHER)
        assert carol.lan is not None
        carol.lan.announce_pairing("alice", number)
        self.network.settle()
        self.take(self.person.code)
        self.network.advance(3, 0.1)
        self.assertIn("several devices", str(self.other.outcome))
        self.assertIsNone(connection_of(carol, self.bob.device_id))

    def test_who_waits_is_told_who_else_does(self) -> None:
        ours, theirs = Neighbour(), Neighbour()
        self.wait_for_offer(self.alice, ours)
        self.assertEqual([], ours.neighbours)
        self.wait_for_offer(self.bob, theirs)
        for person, device in ((ours, self.bob), (theirs, self.alice)):
            expected = [NearbyDevice(device.device_id, device.device_name)]
            self.assertEqual(expected, person.neighbours)

    def test_a_device_is_announced_by_name_only_while_it_waits(self) -> None:
        assert self.bob.lan is not None
        self.wait_for_offer()
        (announced,) = self.bob.lan.open_announcements()
        self.assertEqual("alice", announced.name)
        self.network.advance(PAIRING_SECONDS)
        self.assertEqual([], self.bob.lan.open_announcements())


class SlowLink(MemoryLink):
    """A connection to a realm whose answers take a while."""

    def arrive(self, data: bytes) -> None:
        self._clock.callLater(LATENCY_SECONDS, super().arrive, data)


class SlowNetwork(MemoryNetwork):
    """Realms that are far away."""

    def _make_link(
        self,
        reactor: Any,
        identity: Identity,
        address: RealmAddress,
        owner: LinkOwner,
        random_fraction: Callable[[], float],
    ) -> MemoryLink:
        return SlowLink(reactor, identity, self._realms[address], owner, random_fraction)


class FarTests(Base):
    """Bytes take a while, and so do persons; there is a realm and no local network."""

    def setUp(self) -> None:
        super().setUp()
        for device in self.devices:
            device.stopService()
        self.devices = []
        self.network = SlowNetwork()
        self.alice, self.bob = self.make("alice", LOWER), self.make("bob", HIGHER)
        self.network.advance(1, 0.01)

    def assert_compared(self, attempts: list[PairingAttempt], seconds: float) -> None:
        """Let one person say so after a while, and the other one a little later."""
        self.network.advance(1, 0.01)
        self.assertEqual((1, 1), (self.person.asked, self.other.asked))
        self.assertEqual(self.person.words, self.other.words)
        self.network.advance(seconds, 0.1)
        for attempt in attempts:
            self.assertIsNone(self.person.outcome)
            self.assertIsNone(self.other.outcome)
            attempt.person_says(True)
            self.network.advance(2, 0.01)
        for person in (self.person, self.other):
            self.assertIsInstance(person.outcome, Peer)
        self.assert_paired()

    def test_persons_may_compare_at_once(self) -> None:
        for first in (0, 1):
            self.setUp()
            attempts = [self.wait_for_offer(), self.take(str(self.alice.device_id))]
            self.assert_compared([attempts[first], attempts[1 - first]], 0)
            self.tearDown()

    def test_persons_may_compare_for_longer_than_a_handshake_lasts(self) -> None:
        for first in (0, 1):
            self.setUp()
            attempts = [self.wait_for_offer(), self.take(str(self.alice.device_id))]
            self.assert_compared([attempts[first], attempts[1 - first]], HANDSHAKE_SECONDS + 2)
            self.tearDown()

    def test_when_both_dial_there_is_one_comparison(self) -> None:
        one = self.alice.pair_with(self.bob.device_id, self.person)
        other = self.bob.pair_with(self.alice.device_id, self.other)
        self.network.advance(2, 0.01)
        self.assert_compared([one, other], HANDSHAKE_SECONDS + 2)

    def wait_for_offer(self) -> PairingAttempt:
        attempt = self.offer()
        self.network.advance(3, 0.01)
        return attempt


class FarNearbyTests(FarTests):
    """The same in a slow local network, where each device has two addresses."""

    def setUp(self) -> None:
        self.lan: MemoryLan | None = None
        super().setUp()
        self.network.realm.stop()
        self.network.advance(1, 0.01)

    def make(self, name: str, identity: Identity, **options: object) -> Device:
        if self.lan is None or not self.devices:
            self.lan = self.network.lan()
            self.lan.latency_seconds = LATENCY_SECONDS
        return super().make(name, identity, lan=self.lan.port(2), **options)


class ManyTriesTests(LanBase):
    """One device begins several comparisons; each would be a chance that the words are alike."""

    def setUp(self) -> None:
        super().setUp()
        self.stranger = Stranger(self.network, self.lan)

    def begin_comparing(self) -> bool:
        """Begin a comparison on a new connection; tell whether it was answered."""
        who, alice = self.stranger, self.alice
        assert alice.lan is not None
        name = knock(alice.device_id, os.urandom(RANDOM_BYTES))
        visit = who.visit(alice.lan.addresses()[0], name)
        own = bytes(who.device_id)
        visit.say(DeviceHello(own, "", False, bytes(16), 0, pairing=True))
        ends = Ends(
            (own, who.identity.public_key),
            (alice.device_id, alice.public_key),
            visit.channel.exporter(),
        )
        pairing = Pairing(
            *(Role.INITIATOR, Way.COMPARE, ends),
            name="stranger",
            secret=b"",
            random_bytes=os.urandom,
            now=0.0,
        )
        pairing.start()
        self.say_all(visit, pairing)
        for packet in visit.found:
            if isinstance(packet, PairProcess):
                pairing.receive(packet)
        self.say_all(visit, pairing)
        return isinstance(pairing.next_event(), Show)

    def say_all(self, visit: Visit, pairing: Pairing) -> None:
        while (step := pairing.next_packet()) is not None:
            visit.say(step)

    def test_who_is_waited_for_gets_one(self) -> None:
        self.wait_for_offer()
        self.assertEqual([True, False, False], [self.begin_comparing() for _ in range(3)])
        self.assertEqual(1, self.person.asked)

    def test_who_is_dialled_gets_one(self) -> None:
        self.alice.pair_with(self.stranger.device_id, self.person)
        self.assertEqual([True, False, False], [self.begin_comparing() for _ in range(3)])
        self.assertEqual(1, self.person.asked)


class AgainTests(Base):
    """Those who are paired already are asked to pair again."""

    def keys(self) -> set[bytes | None]:
        mine = self.alice.peers.get(self.bob.device_id)
        theirs = self.bob.peers.get(self.alice.device_id)
        assert mine is not None and theirs is not None
        return {mine.pairing_key, theirs.pairing_key}

    def pair_once(self) -> None:
        self.offer()
        self.take(self.person.code)
        self.assert_paired()
        self.person, self.other = Person(), Person()

    def test_both_have_a_new_pairing_and_the_session_goes_on(self) -> None:
        self.pair_once()
        (older,) = self.keys()
        session = self.alice.session_with(self.bob.device_id)
        self.offer()
        self.take(self.person.code)
        for person in (self.person, self.other):
            self.assertIsInstance(person.outcome, Peer)
        self.assertEqual(1, len(self.keys()))
        self.assertNotIn(older, self.keys())
        self.assert_paired()
        self.assertIs(session, self.alice.session_with(self.bob.device_id))

    def test_a_wrong_code_leaves_the_pairing_as_it_was(self) -> None:
        self.pair_once()
        keys = self.keys()
        self.offer()
        self.take(self.wrong(self.person.code))
        for person in (self.person, self.other):
            self.assertIsInstance(person.outcome, AbstError)
        self.assertEqual(keys, self.keys())
        self.assert_paired()

    def test_who_asks_one_that_does_not_wait_is_told_at_once_that_they_are_paired(self) -> None:
        self.pair_once()
        keys = self.keys()
        self.take(str(self.alice.device_id))
        self.assertIsInstance(self.other.outcome, Peer)
        self.assertEqual(keys, self.keys())

    def test_trust_by_id_becomes_a_pairing(self) -> None:
        self.network.introduce(self.alice, self.bob)
        self.offer()
        self.take(self.person.code)
        self.assert_paired()

    def test_one_that_had_forgotten_the_other_is_paired_anew(self) -> None:
        self.pair_once()
        self.alice.peers.forget(self.bob.device_id)
        self.offer()
        self.take(self.person.code)
        self.assert_paired()
