"""Devices that may not be here: what they send has no effect, and nothing is left of them."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst import codec
from abst.errors import Code
from abst.packets import (
    DEVICE_TO_REALM,
    LEG_TO_REALM,
    BackHeartbeat,
    Circuit,
    ConnectToDevice,
    Error,
    Hello,
    Leg,
    OpenWindow,
    Packet,
    PutValue,
    WindowOpened,
)
from abst.realm import conversation
from abst.realm.access import Invitation, Mode
from abst.realm.conversation import State
from abst.realm.limits import Limits
from tests.realm.group_members import Keys, SlowStore, message
from tests.realm.memory_realm import ALICE, BOB, CAROL, NOBODY, Line, MemoryLeg, MemoryRealm, send
from tests.test_packets import EXAMPLES

KEYS = Keys(b"garden")
OTHER = Keys(b"other")

PACKETS = [
    packet
    for packet in EXAMPLES
    if type(packet) in (*DEVICE_TO_REALM.values(), *LEG_TO_REALM.values())
    if not isinstance(packet, Error)
]
"""One of each kind that a device may send."""


def ignore(is_kept: bool) -> None:
    """Take an answer that the test does not look at."""


def said_by(packet: Packet, source: bytes) -> Packet:
    """Return a packet as if a device had meant it: from itself, about a group that there is."""
    changes: dict[str, Any] = {}
    names = vars(type(packet))["__match_args__"]
    if "source_device" in names:
        changes["source_device"] = source
    if "target_device" in names:
        changes["target_device"] = BOB
    if "peer_group" in names:
        changes["peer_group"] = KEYS.group
    if isinstance(packet, Hello):
        changes["device_id"] = source
    return type(packet)(**{name: changes.get(name, getattr(packet, name)) for name in names})


class AdmissionCase(SynchronousTestCase):
    """A realm that takes invitations; Bob is on its list, and here."""

    limits = Limits()

    def setUp(self) -> None:
        self.store = SlowStore()
        self.store.is_slow = False
        self.realm = MemoryRealm(self.limits, self.store, Mode.INVITED)
        self.access = self.realm.core.access
        self.access.allow(BOB, "", ignore)
        self.bob = self.realm.join(BOB)

    def invite(self, uses: int = 1) -> Invitation:
        return self.access.invite(uses, None, "", ignore)

    def join(self, device: bytes = ALICE) -> Line:
        """Return the line of a device that the operator has allowed."""
        self.access.allow(device, "", ignore)
        return self.realm.join(device)

    def revoke(self, device: bytes = ALICE) -> None:
        self.access.revoke(device, ignore)
        self.realm.settle()

    def state(self) -> Any:
        """Return all that a packet could have changed."""
        core = self.realm.core
        counters = core.counters.as_map()
        for name in ("refused_connections", "refused_packets", "refused_legs"):
            del counters[name]
        return (
            counters,
            bytes(self.bob.received),
            core.groups.records(),
            core.here,
            core.queued_bytes,
            len(core.windows),
            core.circuits.count_states(),
            sorted(core.circuits._awaited),
            core.access.devices(),
            core.access.invitations(),
            self.store._groups,
            {group: dict(kept.changes) for group, kept in self.store._kept.items()},
        )


class RefusalTests(AdmissionCase):
    """Before a device is admitted."""

    def assert_turned_away(self, line: Line, code: Code) -> None:
        (error,) = line.take_errors()
        self.assertEqual((code, 60), (error.code, error.retry_after))
        self.assertEqual("closed", line.ended)

    def test_each_reason_is_told(self) -> None:
        self.revoke(CAROL)
        line = self.realm.connect(ALICE)
        line.send(Hello(ALICE))
        self.assert_turned_away(line, Code.NOT_INVITED)
        line = self.realm.connect(ALICE)
        line.send(Hello(ALICE, invitation="x" * 22))
        self.assert_turned_away(line, Code.WRONG_INVITATION)
        line = self.realm.connect(CAROL)
        line.send(Hello(CAROL, invitation=self.invite().text))
        self.assert_turned_away(line, Code.REVOKED)
        self.access.set_mode(Mode.LISTED)
        line = self.realm.connect(ALICE)
        line.send(Hello(ALICE))
        self.assert_turned_away(line, Code.NOT_LISTED)
        for code in (Code.NOT_INVITED, Code.WRONG_INVITATION, Code.REVOKED, Code.NOT_LISTED):
            self.assertEqual(1, self.realm.refused(code))

    def test_a_good_invitation_lets_a_device_in_for_good(self) -> None:
        invitation = self.invite()
        line = self.realm.connect(ALICE)
        line.send(Hello(ALICE, invitation=invitation.text))
        self.assertIsInstance(line.take()[0], BackHeartbeat)
        line.send(send(ALICE, BOB, b"hello"))
        self.assertEqual(1, len(self.bob.take()))
        self.realm.join_again(line)
        again = MemoryRealm(self.limits, self.store, Mode.INVITED)
        again.join(ALICE)

    def test_only_who_proves_its_id_can_use_it_up(self) -> None:
        invitation = self.invite()
        line = self.realm.connect(ALICE)
        line.send(Hello(NOBODY, invitation=invitation.text))
        self.assertEqual([Code.WRONG_DEVICE], line.take_codes())
        line = self.realm.connect(ALICE)
        line.send(Hello(ALICE, version=0, invitation=invitation.text))
        self.assertEqual([Code.WRONG_VERSION], line.take_codes())
        self.assertEqual([invitation.record], self.access.invitations())

    def test_a_full_realm_spends_no_invitation(self) -> None:
        invitation = self.invite()
        self.realm.core.use_limits(dataclasses.replace(self.limits, connections=1))
        line = self.realm.connect(ALICE)
        line.send(Hello(ALICE, invitation=invitation.text))
        self.assertEqual([Code.REALM_FULL], line.take_codes())
        self.assertEqual([invitation.record], self.access.invitations())
        self.assertFalse(self.access.is_admitted(ALICE))

    def test_a_mistake_in_the_decision_lets_nobody_in(self) -> None:
        def fail() -> float:
            raise ZeroDivisionError("a mistake of ours")

        line = self.realm.connect(ALICE)
        invited = Hello(ALICE, invitation=self.invite().text)
        self.access._wall = fail
        self.assertRaises(ZeroDivisionError, line.send, invited)
        self.realm.settle()
        self.assert_turned_away(line, Code.NOT_INVITED)
        self.assertEqual(1, self.realm.core.here)

    @given(st.sampled_from(PACKETS), st.booleans(), st.lists(st.integers(0, 400), max_size=3))
    def test_no_packet_has_an_effect(self, packet: Packet, hello: bool, cuts: list[int]) -> None:
        self.setUp()
        circuit = ask_for_circuit(self.bob, BOB)
        self.realm.join_again(self.bob)
        before = self.state()
        line = self.realm.connect(ALICE)
        meant = said_by(packet, ALICE)
        if isinstance(meant, Leg):
            meant = Leg(circuit.token)  # Which is Bob's.
        data = (codec.encode(Hello(ALICE)) if hello else b"") + codec.encode(meant)
        line.send(*pieces(data, cuts))
        (error,) = line.take_errors()
        if hello or isinstance(meant, Hello):
            expected = {Code.NOT_INVITED, Code.WRONG_INVITATION}
        elif packet.packet_id == Leg.packet_id:
            expected = {Code.WRONG_TOKEN, Code.MALFORMED}
        else:
            expected = {Code.HELLO_FIRST}
        self.assertIn(error.code, expected)
        self.assertEqual("closed", line.ended)
        line.send(data)
        self.assertEqual([], line.take())
        self.assertEqual(before, self.state())


def ask_for_circuit(line: Line, source: bytes, target: bytes | None = None) -> Circuit:
    """Return what a device is told of a circuit that it has asked for."""
    line.take()
    line.send(ConnectToDevice(source, target or source))
    circuit = line.take()[0]
    assert isinstance(circuit, Circuit)
    return circuit


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """Return bytes cut at some places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(places) if begin < end]


class RevocationTests(AdmissionCase):
    """When a device is shut out that is here."""

    def test_its_connection_ends_with_the_reason(self) -> None:
        line = self.join()
        silent = self.realm.connect(ALICE)
        self.revoke()
        for each in (line, silent):
            (error,) = each.take_errors()
            self.assertEqual((Code.REVOKED, 60), (error.code, error.retry_after))
            self.assertEqual("closed", each.ended)
        self.assertEqual(1, self.realm.core.here)
        self.bob.send(send(BOB, ALICE, b"x"))
        self.assertEqual([Code.TARGET_ABSENT], self.bob.take_codes())
        # Others are not touched.
        self.assertEqual(State.HERE, self.bob.conversation.state)

    def test_what_waits_for_it_is_reported(self) -> None:
        line = self.join()
        line.stop_reading()
        self.bob.send(send(BOB, ALICE, b"1"), send(BOB, ALICE, b"2"), send(BOB, ALICE, b"3"))
        self.revoke()
        (error,) = self.bob.take_errors()
        self.assertEqual((Code.UNDELIVERED, ALICE), (error.code, error.target_device))
        self.assertEqual(2, error.dropped)
        self.assertEqual(0, self.realm.core.queued_bytes)

    def test_its_window_and_its_memberships_end(self) -> None:
        line = self.join()
        line.send(OpenWindow(), KEYS.create(line), KEYS.join(line))
        self.assertIsInstance(line.take()[0], WindowOpened)
        self.bob.send(KEYS.join(self.bob))
        self.bob.take()
        self.revoke()
        (left,) = self.bob.take()
        self.assertEqual([ALICE], getattr(left, "devices", None))
        self.assertEqual(0, len(self.realm.core.windows))
        self.bob.send(message(BOB, KEYS.group, b"x"))
        self.assertEqual([], self.bob.take())

    def test_a_packet_that_has_come_in_part_is_never_whole(self) -> None:
        line = self.join()
        packet = send(ALICE, BOB, b"x" * 100)
        for cut in (1, 20, len(packet) - 1):
            line = self.realm.join_again(line) if line.ended else line
            line.send(packet[:cut])
            self.revoke()
            line.send(packet[cut:], packet)
            self.assertEqual([], self.bob.take())
            self.access.allow(ALICE, "", ignore)

    @given(st.sampled_from(PACKETS), st.lists(st.integers(0, 400), max_size=3), st.integers(0, 400))
    def test_no_packet_has_an_effect(self, packet: Packet, cuts: list[int], at: int) -> None:
        """Wherever in a packet it happens."""
        self.setUp()
        line = self.join()
        line.send(KEYS.create(line), KEYS.join(line))
        self.bob.send(KEYS.join(self.bob))
        circuit = ask_for_circuit(line, ALICE, BOB)
        data = codec.encode(
            Leg(circuit.token) if isinstance(packet, Leg) else said_by(packet, ALICE)
        )
        at %= len(data)
        line.send(*pieces(data[:at], cuts))
        self.revoke()
        before = self.state()
        line.send(*pieces(data[at:] + data, cuts))
        self.assertEqual("closed", line.ended)
        again = self.realm.connect(ALICE)
        again.send(data)
        self.assertIsNot(State.HERE, again.conversation.state)
        self.assertIsNone(again.conversation.seat)
        self.assertEqual(before, self.state())

    def test_what_waits_for_the_disk_is_not_begun_any_more(self) -> None:
        """Two make the same group; one of them is shut out while the other's is written."""
        line = self.join()
        self.store.is_slow = True
        self.bob.send(KEYS.create(self.bob))
        line.send(KEYS.create(line), KEYS.create(line, 1))
        self.store.is_slow = False
        self.revoke()
        self.store.answer()
        self.realm.settle()
        self.assertEqual([0], [record.epoch for record, _ in self.realm.core.groups.records()])

    def test_what_has_waited_for_a_groups_values_is_not_done_any_more(self) -> None:
        line = self.join()
        line.send(KEYS.create(line), KEYS.join(line))
        loads: list[Any] = []
        load = self.store.load
        self.store.load = lambda group, done: loads.append((group, done))  # type: ignore[method-assign]
        line.send(PutValue(KEYS.group, bytes(32), b"sealed"))
        self.revoke()
        (asked,) = loads
        load(*asked)
        self.assertEqual({}, self.store._kept)

    def test_whatever_else_fails_nothing_that_it_sends_is_taken(self) -> None:
        """Even when its connection was not closed."""
        line = self.join()
        self.access.revoked = lambda device: None
        self.revoke()
        self.assertEqual("", line.ended)
        line.send(send(ALICE, BOB, b"x") * 2)
        self.assertEqual([Code.REVOKED], line.take_codes())
        self.assertEqual("closed", line.ended)
        self.assertEqual([], self.bob.take())
        self.bob.send(send(BOB, BOB, b"undisturbed"))
        self.assertEqual(1, len(self.bob.take()))

    def test_it_may_come_again_once_it_is_allowed(self) -> None:
        self.join()
        self.revoke()
        line = self.join()
        line.send(send(ALICE, BOB, b"again"))
        self.assertEqual(1, len(self.bob.take()))


class CircuitTests(AdmissionCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice = self.join()
        self.for_alice = ask_for_circuit(self.alice, ALICE, BOB)
        (told,) = self.bob.take()
        assert isinstance(told, Circuit)
        self.for_bob = told

    def legs(self, *, inside_tls: bool = False) -> tuple[MemoryLeg, MemoryLeg]:
        first, second = (ALICE, BOB) if inside_tls else (None, None)
        return (
            MemoryLeg(self.realm, self.for_alice.token, first),
            MemoryLeg(self.realm, self.for_bob.token, second),
        )

    def test_the_tokens_of_both_ends_are_good_for_nothing(self) -> None:
        for who in (ALICE, BOB):
            for inside_tls in (False, True):
                self.setUp()
                self.revoke(who)
                for leg in self.legs(inside_tls=inside_tls):
                    self.assertFalse(leg.come())
                self.assertEqual(0, len(self.realm.core.circuits))
                self.assertEqual({}, self.realm.core.circuits._awaited)

    def test_a_leg_that_waits_is_told(self) -> None:
        for number in (0, 1):
            self.setUp()
            leg, other = self.legs()[number], self.legs()[1 - number]
            self.assertTrue(leg.come())
            self.revoke()
            self.assertEqual("circuit_refused", leg.code)
            self.assertFalse(other.come())

    def test_a_joined_circuit_is_cut_off_on_both_ends(self) -> None:
        alice, bob = self.legs()
        alice.come()
        bob.come()
        self.assertIs(bob, alice.joined_with)
        self.alice.disconnect()  # It needs no other connection.
        self.revoke()
        self.assertTrue(alice.was_reset and bob.was_reset)
        self.assertEqual(0, len(self.realm.core.circuits))
        self.assertEqual({"revoked": 1}, self.realm.core.counters.ended_circuits)

    def test_other_circuits_stay(self) -> None:
        carol = self.join(CAROL)
        ask_for_circuit(carol, CAROL, BOB)
        self.revoke()
        self.assertEqual({CAROL, BOB}, self.realm.core.circuits.devices())

    def test_a_token_is_good_only_while_both_may_be_here(self) -> None:
        """Whatever else has failed to end it."""
        self.access.revoked = lambda device: None
        self.revoke(BOB)
        for leg in self.legs():
            self.assertFalse(leg.come())

    def test_another_mode_ends_circuits_of_devices_that_have_left(self) -> None:
        self.access.set_mode(Mode.OPEN)
        carol = self.realm.join(CAROL)
        circuit = ask_for_circuit(carol, CAROL, BOB)
        leg = MemoryLeg(self.realm, circuit.token)
        leg.come()
        carol.disconnect()
        self.access.set_mode(Mode.LISTED)
        self.assertEqual("circuit_refused", leg.code)
        self.assertEqual({ALICE, BOB}, self.realm.core.circuits.devices())


class ModeTests(AdmissionCase):
    def test_who_is_here_is_asked_again(self) -> None:
        for mode, code in ((Mode.INVITED, Code.NOT_INVITED), (Mode.LISTED, Code.NOT_LISTED)):
            self.access.set_mode(Mode.OPEN)
            alice = self.realm.join(ALICE)
            unsaid = self.realm.connect(CAROL)
            self.access.set_mode(mode)
            self.realm.settle()
            (error,) = alice.take_errors()
            self.assertEqual((code, 60), (error.code, error.retry_after))
            self.assertEqual("closed", alice.ended)
            self.assertEqual("", unsaid.ended)
            self.assertEqual(State.HERE, self.bob.conversation.state)

    def test_an_open_realm_keeps_no_list_of_who_comes(self) -> None:
        self.access.set_mode(Mode.OPEN)
        self.realm.join(ALICE)
        self.assertEqual([BOB], [record.device for record in self.access.devices()])


class DiskTests(AdmissionCase):
    def come(self, invitation: Invitation) -> Line:
        line = self.realm.connect(ALICE)
        line.send(Hello(ALICE, invitation=invitation.text))
        return line

    def test_who_is_not_kept_is_told_so_and_has_nothing_any_more(self) -> None:
        invitation = self.invite()
        self.store.is_slow = True
        line = self.come(invitation)
        self.assertIsInstance(line.take()[0], BackHeartbeat)
        ask_for_circuit(line, ALICE, BOB)
        self.store.answer_access(is_kept=False)
        self.realm.settle()
        kept, invited = line.take_errors()
        self.assertEqual((Code.NOT_KEPT, 0, False), (kept.code, kept.about, "x" in kept.reason))
        self.assertEqual((Code.NOT_INVITED, 60), (invited.code, invited.retry_after))
        self.assertEqual("closed", line.ended)
        self.assertEqual(0, len(self.realm.core.circuits))
        self.store.is_slow = False
        self.assertIsInstance(self.come(invitation).take()[0], BackHeartbeat)

    def test_a_disk_that_fails_at_once_lets_nobody_in(self) -> None:
        invitation = self.invite()
        self.store.is_slow = True
        self.store.change_access = lambda change, done: done(False)  # type: ignore[method-assign]
        line = self.come(invitation)
        self.assertEqual([Code.NOT_KEPT, Code.NOT_INVITED], line.take_codes())
        self.assertEqual(1, self.realm.core.here)
        self.assertEqual([invitation.record], self.access.invitations())


class ConnectionTests(AdmissionCase):
    limits = Limits(device_connections=3)

    def connect(self) -> Line:
        line = self.realm.connect(ALICE)
        self.realm.settle()
        return line

    def test_those_of_one_device_are_bounded_with_and_without_hello(self) -> None:
        here = self.join()
        others = [self.connect() for _ in range(2)]
        line = self.connect()
        (error,) = line.take_errors()
        wait = conversation.TOO_MANY_RETRY_SECONDS
        self.assertEqual((Code.TOO_MANY_CONNECTIONS, wait), (error.code, error.retry_after))
        self.assertEqual("closed", line.ended)
        line.send(Hello(ALICE))
        self.assertEqual([], line.take())
        self.assertEqual(["", "", ""], [each.ended for each in (here, *others)])
        # Others have their own, and what has ended leaves room.
        self.assertEqual("", self.realm.connect(CAROL).ended)
        others[0].disconnect()
        line.disconnect()
        self.assertEqual("", self.connect().ended)
        self.assertEqual("closed", self.connect().ended)

    def test_a_device_can_always_replace_its_own(self) -> None:
        self.realm.core.use_limits(Limits(device_connections=2))
        line = self.join()
        for _ in range(3):
            line = self.realm.join_again(line)
            self.assertEqual("", line.ended)

    def test_legs_do_not_count(self) -> None:
        line = self.join()
        for _ in range(5):
            circuit = ask_for_circuit(line, ALICE, BOB)
            leg = self.connect()
            leg.send(Leg(circuit.token))
            self.assertIsNotNone(leg.conversation.seat)

    def test_nothing_is_left_behind(self) -> None:
        lines = [self.join(), self.connect(), self.connect(), self.connect()]
        for line in lines:
            line.disconnect()
        self.bob.disconnect()
        self.assertEqual({}, self.realm.core.by_device)

    def test_the_realms_own_are_not_counted(self) -> None:
        before = self.realm.core.here, self.realm.core.counters.connections
        self.access.own_devices.add(bytes(NOBODY))
        lines = [self.realm.connect(NOBODY) for _ in range(5)]
        lines[0].send(Hello(NOBODY))
        self.assertIsInstance(lines[0].take()[0], BackHeartbeat)
        self.assertEqual(before, (self.realm.core.here, self.realm.core.counters.connections))
        for line in lines:
            self.assertEqual("", line.ended)
            line.disconnect()
        self.assertEqual(before[0], self.realm.core.here)
