"""The table of circuits: whose token is good, what each leg is told, and what nobody gets."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from abst.errors import Code
from abst.packets import Circuit, ConnectToDevice, Error
from abst.realm.circuits import LEAST_TURN_BYTES, TURN_BYTES
from abst.realm.limits import Limits
from abst.realm.rates import DAY_SECONDS
from tests.realm.memory_realm import ALICE, BOB, CAROL, NOBODY, Line, MemoryLeg, MemoryRealm


class CircuitTests(SynchronousTestCase):
    limits = Limits()

    def setUp(self) -> None:
        self.begin(self.limits)

    def begin(self, limits: Limits) -> None:
        self.realm = MemoryRealm(limits)
        self.circuits = self.realm.core.circuits
        self.alice, self.bob = self.realm.join(ALICE), self.realm.join(BOB)

    def ask(self, asker: Line, target: Line) -> tuple[Circuit, Circuit]:
        """Return what both are told of a new circuit."""
        assert asker.device_id is not None
        assert target.device_id is not None
        asker.send(ConnectToDevice(asker.device_id, target.device_id, request=3))
        (offer,), (other,) = asker.take(), target.take()
        assert isinstance(offer, Circuit), offer
        assert isinstance(other, Circuit), other
        return offer, other

    def joined(self) -> tuple[MemoryLeg, MemoryLeg]:
        legs = [MemoryLeg(self.realm, offer.token) for offer in self.ask(self.alice, self.bob)]
        for leg in legs:
            self.assertTrue(leg.come())
        return legs[0], legs[1]

    def refused(self) -> Error:
        """Return how another circuit is refused."""
        self.alice.send(ConnectToDevice(ALICE, BOB, request=9))
        (error,) = self.alice.take_errors()
        self.assertEqual((1, 9), (error.about, error.request))
        self.assertEqual([], self.bob.take())
        return error

    def codes_of_asking(self, asker: Line) -> list[str]:
        """Return how a circuit to Bob is refused to somebody."""
        assert asker.device_id is not None
        asker.send(ConnectToDevice(asker.device_id, BOB))
        return asker.take_codes()

    def test_each_is_told_of_the_other(self) -> None:
        offer, other = self.ask(self.alice, self.bob)
        self.assertEqual((BOB, True, 3), (offer.device, offer.dials, offer.request))
        self.assertEqual((ALICE, False, None), (other.device, other.dials, other.request))
        self.assertEqual(offer.circuit, other.circuit)
        self.assertNotEqual(offer.token, other.token)

    def test_tokens_are_kept_as_hashes(self) -> None:
        offers = self.ask(self.alice, self.bob)
        for offer in offers:
            self.assertNotIn(offer.token, self.circuits._awaited)
        self.assertEqual(2, len(self.circuits._awaited))

    def test_a_token_is_good_for_its_device_and_stays_so_when_another_tries(self) -> None:
        offer, _ = self.ask(self.alice, self.bob)
        for device in (BOB, CAROL):
            self.assertFalse(MemoryLeg(self.realm, offer.token, device).come())
        self.assertTrue(MemoryLeg(self.realm, offer.token, ALICE).come())
        self.assertFalse(MemoryLeg(self.realm, offer.token, ALICE).come())

    def test_a_leg_inside_tls_of_another_device_is_told_wrong_token(self) -> None:
        offer, _ = self.ask(self.alice, self.bob)
        line = self.realm.connect(CAROL)
        line.send(_leg_bytes(offer.token))
        self.assertEqual([Code.WRONG_TOKEN], line.take_codes())
        self.assertTrue(MemoryLeg(self.realm, offer.token).come())

    def test_what_follows_the_token_is_kept(self) -> None:
        offer, _ = self.ask(self.alice, self.bob)
        line = self.realm.connect(ALICE)
        line.send(_leg_bytes(offer.token) + b"\x16\x03early")
        self.assertEqual(b"\x16\x03early", line.conversation.early)

    def test_a_leg_begins_with_a_small_packet(self) -> None:
        offer, _ = self.ask(self.alice, self.bob)
        line = self.realm.connect(ALICE)
        padded = _leg_bytes(offer.token).replace(b"\x82", b"\x83\xa1x\xc5\x01\x00" + bytes(256), 1)
        line.send(padded)
        self.assertEqual([Code.TOO_LARGE], line.take_codes())

    def test_a_refusal_is_the_two_devices_to_say(self) -> None:
        for who, others in ((self.bob, 0), (self.alice, 1)):
            offers = self.ask(self.alice, self.bob)
            refusal = Error("circuit_refused", "no", about=1, circuit=offers[0].circuit)
            self.realm.join(CAROL).send(refusal)
            leg = MemoryLeg(self.realm, offers[others].token)
            leg.come()
            self.assertEqual("", leg.code)
            who.send(refusal)
            self.assertEqual(Code.CIRCUIT_REFUSED, leg.code)
            self.assertEqual(0, len(self.circuits))

    def test_who_gives_back_is_told_on_the_leg_that_waits_already(self) -> None:
        offer, other = self.ask(self.alice, self.bob)
        leg = MemoryLeg(self.realm, offer.token)
        leg.come()
        self.alice.send(Error("circuit_refused", "no", about=1, circuit=offer.circuit))
        self.assertEqual(Code.CIRCUIT_REFUSED, leg.code)
        late = MemoryLeg(self.realm, other.token)
        self.assertTrue(late.come())
        self.assertEqual(Code.CIRCUIT_REFUSED, late.code)
        self.assertEqual(0, len(self.circuits))

    def test_a_token_that_was_given_back_is_good_for_nothing(self) -> None:
        offer, _ = self.ask(self.alice, self.bob)
        self.alice.send(Error("circuit_refused", "no", about=1, circuit=offer.circuit))
        self.assertFalse(MemoryLeg(self.realm, offer.token).come())

    def test_a_circuit_to_oneself_is_refused_as_its_target(self) -> None:
        self.alice.send(ConnectToDevice(ALICE, ALICE))
        offers = [it for it in self.alice.take() if isinstance(it, Circuit)]
        offer = next(it for it in offers if it.dials)
        self.alice.send(Error("circuit_refused", "no", about=1, circuit=offer.circuit))
        leg = MemoryLeg(self.realm, offer.token)
        self.assertTrue(leg.come())
        self.assertEqual(Code.CIRCUIT_REFUSED, leg.code)

    def test_a_joined_circuit_is_not_refused_any_more(self) -> None:
        first, second = self.joined()
        assert first.seat is not None
        circuit = first.seat.circuit
        self.bob.send(Error("circuit_refused", "no", about=1, circuit=circuit.id))
        self.assertFalse(first.was_reset or second.was_reset)

    def test_both_have_room_again_when_nothing_comes_of_a_circuit(self) -> None:
        self.begin(Limits(device_circuits=1))
        carol = self.realm.join(CAROL)
        for who in (self.bob, self.alice):
            offer, _ = self.ask(self.alice, self.bob)
            who.send(Error("circuit_refused", "no", about=1, circuit=offer.circuit))
            self.assertEqual({}, dict(self.circuits._accounts))
        first, second = self.ask(self.alice, self.bob)
        leg = MemoryLeg(self.realm, second.token)
        leg.come()
        assert leg.seat is not None
        leg.seat.leave()
        self.ask(carol, self.bob)
        self.assertEqual([Code.CIRCUITS_FULL], self.codes_of_asking(self.realm.join(NOBODY)))
        late = MemoryLeg(self.realm, first.token)
        late.come()
        self.assertEqual(Code.CIRCUIT_UNANSWERED, late.code)

    def test_a_device_has_so_many(self) -> None:
        self.begin(Limits(device_circuits=2))
        for _ in range(2):
            self.ask(self.alice, self.bob)
        self.assertEqual(Code.CIRCUITS_FULL, self.refused().code)
        self.realm.advance(10.0)
        self.ask(self.alice, self.bob)

    def test_a_realm_has_so_many(self) -> None:
        self.begin(Limits(circuits=1))
        self.ask(self.alice, self.bob)
        error = self.refused()
        self.assertEqual((Code.CIRCUITS_FULL, 10.0), (error.code, error.retry_after))

    def test_a_realm_may_have_none(self) -> None:
        self.begin(Limits(circuits=0))
        self.assertEqual(Code.CIRCUITS_FULL, self.refused().code)

    def test_who_asks_too_often_waits(self) -> None:
        self.begin(Limits(circuit_requests_per_minute=1))
        self.ask(self.alice, self.bob)
        error = self.refused()
        self.assertEqual(Code.RATE_LIMITED, error.code)
        self.realm.now += error.retry_after or 0
        self.ask(self.alice, self.bob)

    def test_a_days_bytes_are_both_devices_bytes(self) -> None:
        self.begin(Limits(device_circuit_bytes_per_day=1000))
        first, second = self.joined()
        assert first.seat is not None
        first.seat.circuit.count(1000, self.realm.now)
        self.assertFalse(first.was_reset)
        error = self.refused()
        self.assertEqual(Code.RATE_LIMITED, error.code)
        self.assertAlmostEqual(DAY_SECONDS, error.retry_after or 0, delta=1)
        first.seat.circuit.count(1, self.realm.now)
        self.realm.settle()
        self.assertTrue(first.was_reset and second.was_reset)
        self.assertEqual([Code.CIRCUIT_SPENT], self.alice.take_codes())
        self.assertEqual([Code.CIRCUIT_SPENT], self.bob.take_codes())

    def test_a_devices_rate_is_one_for_all_its_circuits(self) -> None:
        self.begin(Limits(device_circuit_bytes_per_second=1_000_000))
        circuits = []
        for _ in range(2):
            first, _ = self.joined()
            assert first.seat is not None
            circuits.append(first.seat.circuit)
        self.assertEqual(100_000, circuits[0].turn_bytes)
        self.assertEqual(0.0, circuits[0].count(1_000_000, self.realm.now))
        self.assertEqual(0.5, circuits[1].count(500_000, self.realm.now))

    def test_a_turn_is_bounded(self) -> None:
        first, _ = self.joined()
        assert first.seat is not None
        self.assertEqual(TURN_BYTES, first.seat.circuit.turn_bytes)
        self.begin(Limits(circuit_bytes_per_second=1))
        first, _ = self.joined()
        assert first.seat is not None
        self.assertEqual(LEAST_TURN_BYTES, first.seat.circuit.turn_bytes)

    def test_bytes_keep_a_circuit_from_being_idle(self) -> None:
        self.begin(Limits(circuit_idle_seconds=100.0, silence_seconds=86400))
        first, _ = self.joined()
        assert first.seat is not None
        for _ in range(3):
            self.realm.advance(99.0)
            first.seat.circuit.count(1, self.realm.now)
        self.realm.advance(99.9)
        self.assertFalse(first.was_reset)
        self.realm.advance(0.1)
        self.assertTrue(first.was_reset)
        self.assertEqual([Code.CIRCUIT_IDLE], self.alice.take_codes())

    def test_circuits_outlive_the_devices_connections(self) -> None:
        first, second = self.joined()
        self.alice.disconnect()
        self.bob.disconnect()
        self.realm.advance(100.0)
        self.assertFalse(first.was_reset or second.was_reset)
        self.assertEqual(1, len(self.circuits))

    def test_nothing_is_kept_of_what_is_over(self) -> None:
        first, _ = self.joined()
        assert first.seat is not None
        first.seat.circuit.ended()
        self.assertEqual(0, len(self.circuits))
        self.assertEqual({}, self.circuits._awaited)
        self.assertEqual(0, len(self.circuits._accounts))

    def test_what_is_counted(self) -> None:
        first, _ = self.joined()
        assert first.seat is not None
        first.seat.circuit.count(12, self.realm.now)
        counted = self.realm.core.counters.as_map()
        self.assertEqual(1, counted["circuits_offered"])
        self.assertEqual(1, counted["circuits_joined"])
        self.assertEqual(12, counted["circuit_bytes"])


def _leg_bytes(token: bytes) -> bytes:
    return b"\x82\xa9packet_id\x01\xa7content\x81\xa5token\xc4\x20" + token


class AnyOrder(RuleBasedStateMachine):
    """Two devices ask, come, refuse and wait in any order; tokens are tried by everybody."""

    SECONDS = 10.0

    @initialize()
    def begin(self) -> None:
        self.realm = MemoryRealm(
            Limits(circuits=4, device_circuits=3, silence_seconds=86400, circuit_meet_seconds=10)
        )
        self.lines: dict[bytes, Line] = {device: self.realm.join(device) for device in (ALICE, BOB)}
        # Token: its device, the circuit, and when it was made.
        self.tokens: dict[bytes, tuple[bytes, bytes, float]] = {}
        self.used: set[bytes] = set()
        self.legs: dict[bytes, list[MemoryLeg]] = {}
        self.refused: set[bytes] = set()

    @rule(turned=st.booleans())
    def ask(self, turned: bool) -> None:
        asker, target = (BOB, ALICE) if turned else (ALICE, BOB)
        self.lines[asker].send(ConnectToDevice(asker, target))
        (answer,) = self.lines[asker].take()
        told = self.lines[target].take()
        if isinstance(answer, Error):
            assert answer.code in (Code.CIRCUITS_FULL, Code.RATE_LIMITED)
            assert not told
            return
        (other,) = told
        assert isinstance(answer, Circuit)
        assert isinstance(other, Circuit)
        for device, offer in ((asker, answer), (target, other)):
            self.tokens[offer.token] = (device, offer.circuit, self.realm.now)
        self.legs[answer.circuit] = []

    @precondition(lambda self: self.tokens)
    @rule(data=st.data(), how=st.sampled_from(["plain", "own", "foreign"]))
    def come(self, data: st.DataObject, how: str) -> None:
        token = data.draw(st.sampled_from(sorted(self.tokens)))
        owner, circuit, made_at = self.tokens[token]
        foreign = BOB if owner == ALICE else ALICE
        device = {"plain": None, "own": owner, "foreign": foreign}[how]
        leg = MemoryLeg(self.realm, token, device)
        good = leg.come()
        if how == "foreign" or token in self.used or self.realm.now >= made_at + self.SECONDS:
            assert not good
        if good:
            self.used.add(token)
            self.legs[circuit].append(leg)
            if circuit in self.refused:
                assert leg.code == Code.CIRCUIT_REFUSED

    @rule(token=st.binary(min_size=32, max_size=32))
    def come_with_a_token_of_nobody(self, token: bytes) -> None:
        assert token in self.tokens or not MemoryLeg(self.realm, token).come()

    @precondition(lambda self: self.tokens)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(sorted(self.tokens)))
        device, circuit, _ = self.tokens[token]
        table = self.realm.core.circuits._circuits.get(circuit)
        meets = table is not None and table.state.name == "MEETING"
        self.lines[device].send(Error("circuit_refused", "no", about=1, circuit=circuit))
        if meets:
            self.refused.add(circuit)

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.realm.advance(seconds)

    @invariant()
    def legs_are_joined_or_told_and_nothing_is_left(self) -> None:
        core = self.realm.core.circuits
        for circuit, legs in self.legs.items():
            if len(legs) == 2 and circuit not in self.refused:
                assert legs[0].joined_with is legs[1] or legs[1].code or legs[0].code
            for leg in legs:
                waits = circuit in core._circuits and not leg.joined_with
                assert leg.joined_with or leg.code or waits
        assert len(core._circuits) <= 4
        charged = sum(account.circuits for account in core._accounts.values())
        assert charged == sum(
            seat.is_charged for it in core._circuits.values() for seat in it.seats
        )
        assert all(seat.circuit.id in core._circuits for seat in core._awaited.values())


class AnyOrderTests(SynchronousTestCase):
    def test_whatever_devices_do_each_leg_is_joined_or_told(self) -> None:
        run_state_machine_as_test(
            AnyOrder, settings=settings(max_examples=60, stateful_step_count=30)
        )
