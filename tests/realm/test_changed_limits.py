"""Limits that change while a realm runs: they count for what comes next, and end nothing."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from abst.errors import Code
from abst.packets import (
    BackHeartbeat,
    Circuit,
    ConnectToDevice,
    GetValue,
    GroupEpoch,
    GroupMembers,
    Hello,
    OpenWindow,
    WindowOpened,
)
from abst.realm.limits import Limits
from tests.realm.group_members import Keys
from tests.realm.memory_realm import ALICE, BOB, CAROL, Line, MemoryLeg, MemoryRealm, send

KEYS, OTHER = Keys(b"garden"), Keys(b"cellar")


class ChangedLimitsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.realm = MemoryRealm()
        self.alice, self.bob = self.realm.join(ALICE), self.realm.join(BOB)

    def change(self, **limits: Any) -> None:
        self.realm.core.use_limits(Limits(**limits))

    def heartbeat(self, line: Line) -> BackHeartbeat:
        """Return the answer to another Hello."""
        assert line.device_id is not None
        line.send(Hello(line.device_id))
        (answer,) = line.take()
        assert isinstance(answer, BackHeartbeat)
        return answer

    def test_devices_are_told_with_their_next_heartbeat(self) -> None:
        self.change(heartbeat_seconds=3.0, device_bytes_per_month=10**9)
        self.assertEqual([], self.alice.take())
        answer = self.heartbeat(self.alice)
        self.assertEqual(3.0, answer.heartbeat_seconds)
        self.assertEqual(10**9, answer.limits["device_bytes_per_month"])

    def test_what_a_connection_was_told_for_good_stays_so(self) -> None:
        told = self.heartbeat(self.alice)
        self.change(packet_bytes=4096, queue_bytes=32768, heartbeat_seconds=50, silence_seconds=110)
        again = self.heartbeat(self.alice)
        self.assertEqual(told.heartbeat_seconds, again.heartbeat_seconds)
        self.assertEqual(told.limits, again.limits)
        for _ in range(10):
            self.alice.send(send(ALICE, BOB, bytes(5000)))
        self.assertEqual([5000] * 10, [len(getattr(it, "content", "")) for it in self.bob.take()])
        carol = self.realm.join(CAROL)
        self.assertEqual(4096, self.heartbeat(carol).limits["packet_bytes"])
        carol.send(send(CAROL, BOB, bytes(5000)))
        self.assertEqual([Code.TOO_LARGE], carol.take_codes())

    def test_who_is_here_stays_also_over_the_new_number(self) -> None:
        self.change(connections=1)
        carol = self.realm.connect(CAROL)
        carol.send(Hello(CAROL))
        self.assertEqual([Code.REALM_FULL], carol.take_codes())
        self.alice.send(send(ALICE, BOB, b"still here"))
        self.assertEqual(1, len(self.bob.take()))

    def test_circuits(self) -> None:
        self.change(circuits=0)
        self.alice.send(ConnectToDevice(ALICE, BOB))
        self.assertEqual([Code.CIRCUITS_FULL], self.alice.take_codes())
        self.change(circuit_requests_per_minute=1)
        self.alice.send(ConnectToDevice(ALICE, BOB), ConnectToDevice(ALICE, BOB))
        self.assertEqual(Code.RATE_LIMITED, getattr(self.alice.take()[1], "code", None))

    def test_circuits_that_are_open_are_measured_anew(self) -> None:
        self.alice.send(ConnectToDevice(ALICE, BOB))
        legs = []
        for line in (self.alice, self.bob):
            (circuit,) = line.take()
            assert isinstance(circuit, Circuit)
            legs.append(MemoryLeg(self.realm, circuit.token))
            self.assertTrue(legs[-1].come())
        seat = legs[0].seat
        assert seat is not None
        opened = seat.circuit
        now = self.realm.now
        self.assertEqual(0.0, opened.count(10**6, now))
        self.change(circuit_bytes_per_second=1000, device_circuit_bytes_per_day=10_000)
        self.assertEqual(4096, opened.turn_bytes)
        self.assertEqual(0.0, opened.count(1000, now))
        self.assertEqual(2.0, opened.count(2000, now))
        self.change(device_circuit_bytes_per_day=10_000)
        self.assertEqual(0.0, opened.count(6000, now))
        self.change(device_circuit_bytes_per_day=8000)
        self.assertFalse(legs[0].was_reset)
        opened.count(1, now)
        self.assertTrue(legs[0].was_reset and legs[1].was_reset)

    def test_pairing_windows(self) -> None:
        self.change(pairing_requests_per_minute=1)
        self.alice.send(OpenWindow(), OpenWindow())
        opened, refused = self.alice.take()
        self.assertIsInstance(opened, WindowOpened)
        self.assertEqual(Code.RATE_LIMITED, getattr(refused, "code", None))

    def test_groups_and_values(self) -> None:
        self.alice.send(KEYS.create(self.alice))
        self.assertIsInstance(self.alice.take()[0], GroupEpoch)
        self.change(groups=1, group_values=7, value_requests_per_second=1)
        self.alice.send(OTHER.create(self.alice))
        self.assertEqual([Code.GROUPS_FULL], self.alice.take_codes())
        self.alice.send(KEYS.join(self.alice))
        (joined,) = self.alice.take()
        assert isinstance(joined, GroupMembers)
        self.assertEqual(7, (joined.limits or {})["values"])
        for request in (1, 2):
            self.alice.send(GetValue(KEYS.group, bytes(32), request))
        self.assertEqual(Code.RATE_LIMITED, getattr(self.alice.take()[-1], "code", None))

    def test_requests_about_groups(self) -> None:
        self.change(group_requests_per_minute=1)
        self.alice.send(KEYS.create(self.alice), KEYS.join(self.alice))
        self.assertEqual(Code.RATE_LIMITED, getattr(self.alice.take()[1], "code", None))
