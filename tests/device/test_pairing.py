"""Pairing: every step of the table, every attacker that it is made against, every place to stop."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any, Final

from twisted.trial.unittest import TestCase

from abst.device.key_check import matching_key, proof, trust_key
from abst.device.pairing import (
    PAIRING_SECONDS,
    TABLE,
    Ends,
    Failed,
    Input,
    Paired,
    Pairing,
    Role,
    Show,
    State,
    Step,
    Store,
    Way,
)
from abst.device.peers import Peer, PeerBook
from abst.errors import Code, RemoteProtocolError
from abst.identity import Identity
from abst.packets import PairProcess

ALICE: Final = Identity.generate()
BOB: Final = Identity.generate()
MALLORY: Final = Identity.generate()

SECRETS: Final = {Way.CODE: b"otter-marble", Way.LINK: bytes(range(16)), Way.COMPARE: b""}


def end(who: Identity) -> tuple[bytes, bytes]:
    """Return an identity as ``Ends`` has it."""
    return bytes(who.device_id), who.public_key


def ends(dialler: Identity, acceptor: Identity, exporter: bytes = bytes(32)) -> Ends:
    """Return the two ends of a channel."""
    return Ends(end(dialler), end(acceptor), exporter)


class End:
    """One end, with a person who says what a test wants, and a disk.

    Attributes:
        pairing: the pairing.
        said: every packet that it has said.
        events: everything that has happened.
        kept: what it has stored, or None.
    """

    def __init__(
        self,
        role: Role,
        way: Way,
        ends: Ends,
        *,
        secret: bytes | None = None,
        seed: int = 0,
        says: bool | None = True,
        stores: bool = True,
    ) -> None:
        self.pairing = Pairing(
            role,
            way,
            ends,
            name=role.value,
            secret=SECRETS[way] if secret is None else secret,
            random_bytes=random.Random(f"{role}{seed}").randbytes,
            now=0.0,
        )
        self.said: list[PairProcess] = []
        self.events: list[Any] = []
        self.kept: Store | None = None
        self.says = says
        self.stores = stores

    @property
    def state(self) -> State:
        """Where the pairing stands."""
        return self.pairing.state

    @property
    def words(self) -> str:
        """What was shown to the person."""
        (shown,) = (event for event in self.events if isinstance(event, Show))
        return shown.words

    @property
    def code(self) -> str | None:
        """Why it failed, or None."""
        codes = [event.problem.code for event in self.events if isinstance(event, Failed)]
        assert len(codes) <= 1, "failed once"
        return codes[0] if codes else None

    def start(self) -> list[PairProcess]:
        self.pairing.start()
        return self.settle()

    def receive(self, packet: PairProcess) -> list[PairProcess]:
        """Take a packet; return what it says to it."""
        try:
            self.pairing.receive(packet)
        except RemoteProtocolError as problem:
            assert problem.code is Code.MALFORMED
        return self.settle()

    def settle(self) -> list[PairProcess]:
        """Do what the pairing wants done; return what it says."""
        found: list[PairProcess] = []
        while True:
            packet = self.pairing.next_packet()
            if packet is not None:
                # Over the wire and back: what is said has to be what a packet may hold.
                found.append(PairProcess.from_map(packet.to_map()))
                continue
            event = self.pairing.next_event()
            if event is None:
                self.said += found
                return found
            self.events.append(event)
            match event:
                case Show() if self.says is not None:
                    self.pairing.person_says(self.says)
                case Store() if self.stores:
                    self.kept = event
                    self.pairing.stored()
                case Store():
                    self.pairing.not_stored()
                case Failed():
                    self.kept = None


Meddler = Callable[[Role, PairProcess], PairProcess | None]


def run(one: End, other: End, meddle: Meddler = lambda role, packet: packet) -> None:
    """Let two ends talk until neither has anything to say."""
    waiting = [(other, Role.INITIATOR, packet) for packet in one.start()]
    while waiting:
        target, source, packet = waiting.pop(0)
        changed = meddle(source, packet)
        if changed is None:
            continue
        back = one if target is other else other
        role = Role.RESPONDER if target is other else Role.INITIATOR
        waiting += [(back, role, answer) for answer in target.receive(changed)]


def pair(way: Way, **options: Any) -> tuple[End, End]:
    """Return two ends that have not begun."""
    channel = ends(ALICE, BOB)
    return End(Role.INITIATOR, way, channel, **options), End(
        Role.RESPONDER, way, channel, **options
    )


class TogetherTests(TestCase):
    def test_two_honest_devices_share_a_key_in_every_way(self) -> None:
        for way in Way:
            one, other = pair(way)
            run(one, other)
            self.assertEqual((State.PAIRED, State.PAIRED), (one.state, other.state), way)
            assert one.kept is not None and other.kept is not None
            self.assertEqual(one.kept.pairing_key, other.kept.pairing_key)
            self.assertEqual(32, len(one.kept.pairing_key))
            self.assertEqual(("responder", "initiator"), (one.kept.name, other.kept.name))
            for each in (one, other):
                self.assertIsInstance(each.events[-1], Paired)

    def test_both_show_the_same_words(self) -> None:
        one, other = pair(Way.COMPARE)
        run(one, other)
        self.assertEqual(one.words, other.words)
        self.assertRegex(one.words, r"^([a-z]+ ){4}\d\d$")

    def test_every_pairing_has_its_own_key(self) -> None:
        keys = set()
        for way in Way:
            for exporter in (bytes(32), b"\x01" * 32):
                channel = ends(ALICE, BOB, exporter)
                one = End(Role.INITIATOR, way, channel)
                other = End(Role.RESPONDER, way, channel)
                run(one, other)
                assert one.kept is not None
                keys.add(one.kept.pairing_key)
        self.assertEqual(6, len(keys))

    def test_no_secret_and_no_key_is_said(self) -> None:
        for way in Way:
            one, other = pair(way)
            run(one, other)
            assert one.kept is not None
            said = repr([packet.to_map() for packet in one.said + other.said])
            for secret in (SECRETS[way], one.kept.pairing_key):
                if secret:
                    self.assertNotIn(repr(secret)[2:-1], said)


class TableTests(TestCase):
    """Every role, state and input: what is not in the table fails, and stores nothing."""

    def in_state(self, role: Role, state: State) -> Pairing:
        pairing = Pairing(
            role,
            Way.COMPARE,
            ends(ALICE, BOB),
            name="x",
            secret=b"",
            random_bytes=random.Random(0).randbytes,
            now=0.0,
        )
        pairing.state = state
        return pairing

    def test_what_is_not_in_the_table_fails(self) -> None:
        inputs: list[Step | Input] = [*(step for step in Step if step is not Step.REFUSED), *Input]
        tried = 0
        for role, state, what in itertools.product(Role, State, inputs):
            if (role, state, what) in TABLE or what is Input.YES:
                continue
            tried += 1
            pairing = self.in_state(role, state)
            actions: dict[Any, Callable[[], None]] = {
                Input.START: pairing.start,
                Input.KEPT: pairing.stored,
            }
            act = actions.get(what, lambda p=pairing, w=what: p.receive(PairProcess(w)))
            if state in (State.PAIRED, State.FAILED):
                act()
                self.assertIs(state, pairing.state)
                self.assertIsNone(pairing.next_packet())
                self.assertIsNone(pairing.next_event())
                continue
            self.assertRaises(RemoteProtocolError, act)
            self.assertIs(State.FAILED, pairing.state)
            refused = pairing.next_packet()
            assert refused is not None
            self.assertEqual(("refused", "malformed"), (refused.step, refused.code))
            self.assertIsInstance(pairing.next_event(), Failed)
            self.assertIsNone(pairing.next_event())
        self.assertEqual(2 * len(State) * 7 - sum(key[2] is not Input.YES for key in TABLE), tried)

    def test_refused_ends_it_everywhere_and_is_not_answered(self) -> None:
        for role, state in itertools.product(Role, State):
            pairing = self.in_state(role, state)
            pairing.receive(PairProcess("refused", code="not_confirmed"))
            over = state in (State.PAIRED, State.FAILED)
            self.assertIs(state if over else State.FAILED, pairing.state)
            self.assertIsNone(pairing.next_packet())
            event = pairing.next_event()
            if not over:
                assert isinstance(event, Failed)
                self.assertEqual(
                    ("not_confirmed", True), (event.problem.code, event.problem.theirs)
                )

    def test_what_the_person_says_counts_only_when_asked(self) -> None:
        for role, state, same in itertools.product(Role, State, (True, False)):
            if state in (State.ASKED, State.HEARD):
                continue
            pairing = self.in_state(role, state)
            pairing.person_says(same)
            self.assertIs(state, pairing.state)
            self.assertIsNone(pairing.next_packet())

    def test_an_unheard_of_step_is_refused(self) -> None:
        pairing = self.in_state(Role.RESPONDER, State.NEW)
        self.assertRaises(RemoteProtocolError, pairing.receive, PairProcess("embrace"))

    def test_time_ends_it_unless_this_end_has_stored(self) -> None:
        for role, state in itertools.product(Role, State):
            pairing = self.in_state(role, state)
            pairing.handle_deadline(PAIRING_SECONDS - 0.1)
            self.assertIs(state, pairing.state)
            pairing.handle_deadline(PAIRING_SECONDS)
            stays = state in (State.PAIRED, State.STORED, State.FAILED)
            self.assertIs(state if stays else State.FAILED, pairing.state)


class AttackTests(TestCase):
    """Somebody in between, who may be the realm."""

    def assert_refused(self, *victims: End) -> None:
        for victim in victims:
            self.assertIsNone(victim.kept)
            self.assertNotIn(Store, map(type, victim.events))
            self.assertIsNot(State.PAIRED, victim.state)

    def test_a_realm_that_swaps_keys_is_refused(self) -> None:
        """Mallory has a channel with each, and passes on what they say: in every way of pairing."""
        for way in (Way.CODE, Way.LINK):
            one = End(Role.INITIATOR, way, ends(ALICE, MALLORY))
            other = End(Role.RESPONDER, way, ends(MALLORY, BOB))
            run(one, other)
            self.assert_refused(one, other)
            self.assertIn("wrong_secret", (one.code, other.code))

    def test_a_realm_that_swaps_keys_is_seen_in_the_words(self) -> None:
        one = End(Role.INITIATOR, Way.COMPARE, ends(ALICE, MALLORY), says=None)
        other = End(Role.RESPONDER, Way.COMPARE, ends(MALLORY, BOB), says=None)
        run(one, other)
        # The commitment is bound to the keys too, so Bob's words are not even reached.
        self.assertEqual("wrong_secret", other.code)
        self.assert_refused(one, other)

    def test_a_relay_between_two_channels_of_the_same_devices_is_refused(self) -> None:
        """The same keys and another exporter: what is said is bound to the very channel."""
        for way in Way:
            one = End(Role.INITIATOR, way, ends(ALICE, BOB, bytes(32)))
            other = End(Role.RESPONDER, way, ends(ALICE, BOB, b"\x01" * 32))
            run(one, other)
            self.assert_refused(one, other)

    def test_an_attacker_who_compares_with_both_shows_different_words(self) -> None:
        """Mallory is honest towards each, with keys of her own: only the persons can notice."""
        shown = set()
        for first, second in ((ALICE, MALLORY), (MALLORY, BOB)):
            channel = ends(first, second)
            one = End(Role.INITIATOR, Way.COMPARE, channel, says=None)
            other = End(Role.RESPONDER, Way.COMPARE, channel, says=None)
            run(one, other)
            self.assertEqual(one.words, other.words)
            shown.add(one.words)
        self.assertEqual(2, len(shown))

    def test_a_wrong_code_is_one_try(self) -> None:
        channel = ends(MALLORY, BOB)
        guess = End(Role.INITIATOR, Way.CODE, channel, secret=b"otter-violin")
        victim = End(Role.RESPONDER, Way.CODE, channel)
        run(guess, victim)
        self.assertEqual("wrong_secret", victim.code)
        self.assert_refused(guess, victim)
        # Nothing but `answer` was said before the guess was refused: no proof to test others with.
        self.assertEqual(["answer", "refused"], [packet.step for packet in victim.said])
        # And it is over: the right word comes too late.
        better = End(Role.INITIATOR, Way.CODE, channel)
        for packet in better.start():
            self.assertEqual([], victim.receive(packet))

    def test_a_wrong_link_is_refused(self) -> None:
        one = End(Role.INITIATOR, Way.LINK, ends(MALLORY, BOB), secret=bytes(16))
        other = End(Role.RESPONDER, Way.LINK, ends(MALLORY, BOB))
        run(one, other)
        self.assertEqual("wrong_secret", other.code)
        self.assert_refused(one, other)

    def test_another_way_than_the_one_that_was_offered(self) -> None:
        for offered, asked in itertools.permutations(Way, 2):
            one = End(Role.INITIATOR, asked, ends(MALLORY, BOB))
            other = End(Role.RESPONDER, offered, ends(MALLORY, BOB))
            run(one, other)
            self.assertEqual("no_window", other.code)
            self.assert_refused(one, other)

    def test_a_nonce_that_was_not_committed_to_is_refused(self) -> None:
        def reveal(role: Role, packet: PairProcess) -> PairProcess:
            return PairProcess("reveal", nonce=bytes(32)) if packet.step == "reveal" else packet

        one, other = pair(Way.COMPARE, says=None)
        run(one, other, reveal)
        self.assertEqual("wrong_secret", other.code)
        self.assert_refused(one, other)

    def test_fields_that_are_missing_are_refused(self) -> None:
        for way, step in itertools.product(Way, ("begin", "answer", "reveal", "confirm")):
            seen: list[bool] = []

            def strip(
                role: Role, packet: PairProcess, step: str = step, seen: list[bool] = seen
            ) -> PairProcess:
                if packet.step != step:
                    return packet
                bare = PairProcess(step, way=packet.way)
                seen.append(bare != packet)
                return bare

            one, other = pair(way)
            run(one, other, strip)
            if any(seen):
                self.assertNotEqual((State.PAIRED, State.PAIRED), (one.state, other.state))
                self.assertFalse(one.kept and other.kept)

    def test_a_changed_name_is_refused(self) -> None:
        def rename(role: Role, packet: PairProcess) -> PairProcess:
            if packet.step != "confirm":
                return packet
            return PairProcess("confirm", mac=packet.mac, name="mallory")

        for way in Way:
            one, other = pair(way)
            run(one, other, rename)
            self.assertIn("wrong_secret", (one.code, other.code))
            self.assertFalse(one.kept and other.kept)

    def test_what_is_sent_back_is_refused(self) -> None:
        """A confirm of one role is none of the other."""
        for way in Way:
            one, other = pair(way)
            first: list[PairProcess] = []

            def mirror(
                role: Role, packet: PairProcess, first: list[PairProcess] = first
            ) -> PairProcess:
                if packet.step == "confirm" and role is Role.INITIATOR:
                    first.append(packet)
                if packet.step == "confirm" and role is Role.RESPONDER and first:
                    return first[0]
                return packet

            run(one, other, mirror)
            self.assertIsNone(one.kept)

    def test_a_replayed_conversation_is_refused(self) -> None:
        for way in Way:
            one, other = pair(way)
            run(one, other)
            replayed = list(one.said)
            victim = End(Role.RESPONDER, way, ends(ALICE, BOB, b"\x02" * 32), seed=1)
            for packet in replayed:
                victim.receive(packet)
            self.assert_refused(victim)

    def test_twice_is_refused(self) -> None:
        """Each packet said twice: the second one may not be said any more."""
        for way in Way:
            one, other = pair(way)
            for packet in one.start():
                other.receive(packet)
                other.receive(packet)
            self.assert_refused(other)
            self.assertEqual("malformed", other.code)

    def test_a_person_who_says_no_ends_it_for_both(self) -> None:
        for first, second in ((True, False), (False, True), (False, False)):
            channel = ends(ALICE, BOB)
            one = End(Role.INITIATOR, Way.COMPARE, channel, says=first)
            other = End(Role.RESPONDER, Way.COMPARE, channel, says=second)
            run(one, other)
            self.assert_refused(one, other)
            self.assertEqual({"not_confirmed"}, {one.code, other.code})

    def test_a_disk_that_is_full_ends_it_for_both(self) -> None:
        for way, first in itertools.product(Way, (True, False)):
            channel = ends(ALICE, BOB)
            one = End(Role.INITIATOR, way, channel, stores=first)
            other = End(Role.RESPONDER, way, channel, stores=not first)
            run(one, other)
            self.assertEqual((None, None), (one.kept, other.kept), way)
            self.assertEqual({"not_stored"}, {one.code, other.code})

    def test_going_away_ends_it_for_both(self) -> None:
        for way in Way:
            one, other = pair(way, says=None)
            said = one.start()
            one.pairing.cancel()
            for packet in said + one.settle():
                other.receive(packet)
            self.assert_refused(one, other)
            self.assertEqual("not_confirmed", other.code)


class StopTests(TestCase):
    """Either end is stopped between any two steps: after the next Key check, both or neither."""

    def settle_by_key_check(self, books: dict[Identity, PeerBook]) -> None:
        """Do what two devices do on their next channel (spec: channel.md, "Hello and trust")."""
        exporter = b"\x07" * 32
        peers = {me: books[me].get(other.device_id) for me, other in ((ALICE, BOB), (BOB, ALICE))}
        if any(peer is None for peer in peers.values()):
            for me, other in ((ALICE, BOB), (BOB, ALICE)):
                books[me].drop_pending(other.device_id)
            return
        keys = {
            me: peer.pairing_keys(me.device_id) for me, peer in peers.items() if peer is not None
        }
        for me, other in ((ALICE, BOB), (BOB, ALICE)):
            by_dialler = other is ALICE
            proofs = [proof(key, exporter, by_dialler=by_dialler) for key in keys[other]]
            key = matching_key(keys[me], exporter, proofs, by_dialler=by_dialler)
            if key is None:
                books[me].drop_pending(other.device_id)
            else:
                books[me].settle(other.device_id, key)

    def run_and_stop(self, way: Way, before: Peer | None, last: int) -> tuple[bool, bool]:
        """Pair, and lose the packet of that number and all behind it; return who is paired."""
        count = 0

        def stop(role: Role, packet: PairProcess) -> PairProcess | None:
            nonlocal count
            count += 1
            return packet if count <= last else None

        one, other = pair(way)
        run(one, other, stop)
        for each in (one, other):
            each.pairing.channel_lost()
            each.settle()
        books = {me: PeerBook() for me in (ALICE, BOB)}
        for me, them, mine in ((ALICE, BOB, one), (BOB, ALICE, other)):
            if before is not None:
                books[me].trust(them.device_id)
                books[me].pend(them.device_id, them.public_key, bytes(32), "")
                books[me].settle(them.device_id, bytes(32))
            if mine.kept is not None:
                key = mine.kept.pairing_key
                books[me].pend(them.device_id, them.public_key, key, "")
        self.settle_by_key_check(books)
        found = [books[ALICE].get(BOB.device_id), books[BOB].get(ALICE.device_id)]
        for peer in found:
            if peer is not None:
                self.assertIsNone(peer.pending_key)
                self.assertTrue(peer.is_trusted)
        keys = [None if peer is None else peer.pairing_key for peer in found]
        self.assertEqual(keys[0], keys[1], (way, before, last))
        if before is not None:
            self.assertNotIn(None, keys)
        return count <= last, keys[0] not in (None, bytes(32))

    def test_both_or_neither_wherever_it_stops(self) -> None:
        for way, before in itertools.product(Way, (None, Peer(BOB.device_id))):
            outcomes = []
            for last in range(12):
                complete, paired = self.run_and_stop(way, before, last)
                outcomes.append(paired)
                if complete:
                    break
            self.assertFalse(outcomes[0])
            self.assertTrue(outcomes[-1], "a conversation that is complete pairs")
            self.assertEqual(sorted(outcomes), outcomes, "and never less for one more packet")

    def test_a_lost_channel_leaves_what_is_stored_and_nothing_else(self) -> None:
        for way in Way:
            one, other = pair(way, says=None)
            one.start()
            one.pairing.channel_lost()
            one.settle()
            self.assertEqual("pairing_late", one.code)
            self.assertEqual([PairProcess], [type(packet) for packet in one.said])
            other.pairing.channel_lost()
            other.settle()
            self.assertIsNone(other.kept)


class KeyCheckTests(TestCase):
    def test_the_newest_common_key_is_found(self) -> None:
        exporter = bytes(32)
        old, new, other = b"o" * 32, b"n" * 32, b"x" * 32

        def agree(mine: list[bytes], theirs: list[bytes]) -> bytes | None:
            proofs = [proof(key, exporter, by_dialler=True) for key in theirs]
            return matching_key(mine, exporter, proofs, by_dialler=True)

        self.assertEqual(new, agree([new, old], [new, old]))
        self.assertEqual(old, agree([new, old], [old]))
        self.assertEqual(old, agree([old], [new, old]))
        self.assertEqual(old, agree([new, old], [other, old]))
        self.assertIsNone(agree([new], [old]))
        self.assertIsNone(agree([], [old]))

    def test_a_proof_is_good_for_one_direction_and_one_channel(self) -> None:
        key = bytes(32)
        proofs = {
            proof(key, exporter, by_dialler=by_dialler)
            for exporter in (bytes(32), b"\x01" * 32)
            for by_dialler in (True, False)
        }
        self.assertEqual(4, len(proofs))

    def test_trust_by_id_has_one_key_for_both(self) -> None:
        ids = [bytes(who.device_id) for who in (ALICE, BOB, MALLORY)]
        self.assertEqual(trust_key(ids[0], ids[1]), trust_key(ids[1], ids[0]))
        self.assertNotEqual(trust_key(ids[0], ids[1]), trust_key(ids[0], ids[2]))
