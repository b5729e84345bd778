"""Sessions: everything once and in order, whatever happens to what carries it."""

from __future__ import annotations

from collections import deque
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import TestCase

from abst.device.session import (
    ACK_AFTER_BYTES,
    ACK_AFTER_PACKETS,
    ACK_AFTER_SECONDS,
    MAX_IN_FLIGHT_BYTES,
    MAX_WAITING_BYTES,
    Session,
)
from abst.errors import LocalProtocolError, RemoteProtocolError

SESSION_ID: Final = bytes(16)


class SendingTests(TestCase):
    """One side alone."""

    def setUp(self) -> None:
        self.session = Session(SESSION_ID)

    def in_flight(self) -> list[bytes]:
        return list(self.session.packets_to_send())

    def test_packets_go_out_in_order_and_once(self) -> None:
        self.assertEqual([0, 1], [self.session.add(b"a"), self.session.add(b"b")])
        self.assertEqual([b"a", b"b"], self.in_flight())
        self.assertEqual([], self.in_flight())
        self.assertEqual(2, self.session.add(b"c"))
        self.assertEqual([b"c"], self.in_flight())

    def test_no_more_is_in_flight_than_the_bound(self) -> None:
        piece = bytes(60_000)
        for _ in range(10):
            self.session.add(piece)
        sent = self.in_flight()
        self.assertEqual(MAX_IN_FLIGHT_BYTES // len(piece), len(sent))
        self.session.acknowledge(1)
        self.assertEqual(1, len(self.in_flight()))

    def test_a_packet_larger_than_the_bound_goes_alone(self) -> None:
        self.session.add(bytes(MAX_IN_FLIGHT_BYTES + 1))
        self.session.add(b"next")
        self.assertEqual(1, len(self.in_flight()))
        self.session.acknowledge(1)
        self.assertEqual([b"next"], self.in_flight())

    def test_it_tells_whether_a_packet_would_have_to_wait(self) -> None:
        self.assertTrue(self.session.has_room)
        self.session.add(bytes(MAX_IN_FLIGHT_BYTES))
        self.assertFalse(self.session.has_room)

    def test_too_much_is_refused_and_room_comes_back(self) -> None:
        piece = bytes(64 * 1024)
        for _ in range(MAX_WAITING_BYTES // len(piece)):
            self.session.add(piece)
        self.assertRaises(LocalProtocolError, self.session.add, b"x")
        count = self.session.unacknowledged
        self.in_flight()
        self.session.acknowledge(1)
        self.session.add(piece)
        self.assertEqual(count, self.session.unacknowledged)

    def test_one_packet_larger_than_all_that_may_wait_is_taken_when_nothing_waits(self) -> None:
        self.assertEqual(0, self.session.add(bytes(MAX_WAITING_BYTES + 1)))

    def test_an_acknowledgement_outside_of_what_was_sent_is_refused(self) -> None:
        for _ in range(3):
            self.session.add(b"x")
        self.assertRaises(RemoteProtocolError, self.session.acknowledge, 1)
        self.in_flight()
        self.assertEqual(2, self.session.acknowledge(2))
        for lie in (-1, 0, 1, 4, 2**63):
            self.assertRaises(RemoteProtocolError, self.session.acknowledge, lie)
        self.assertEqual(2, self.session.acknowledged)
        self.assertEqual(0, self.session.acknowledge(2))
        self.assertEqual(1, self.session.acknowledge(3))

    def test_a_lying_resumption_is_refused_and_changes_nothing(self) -> None:
        self.session.add(b"a")
        self.in_flight()
        self.session.acknowledge(1)
        self.session.add(b"b")
        for lie in (0, 2, 3):
            self.assertRaises(RemoteProtocolError, self.session.resume, lie)
        self.assertEqual([b"b"], self.in_flight())

    def test_resuming_sends_again_what_the_other_side_has_not(self) -> None:
        for packet in (b"a", b"b", b"c"):
            self.session.add(packet)
        self.in_flight()
        self.assertEqual(2, self.session.resume(2))
        self.assertEqual([b"c"], self.in_flight())
        self.assertEqual(1, self.session.unacknowledged)


class AcknowledgingTests(TestCase):
    """When the other side is told what has come."""

    def setUp(self) -> None:
        self.session = Session(SESSION_ID)

    def test_one_packet_is_acknowledged_after_a_moment(self) -> None:
        self.assertIsNone(self.session.next_deadline())
        self.session.packet_received(10, 5.0)
        self.assertEqual(5.0 + ACK_AFTER_SECONDS, self.session.next_deadline())
        self.session.packet_received(10, 5.01)
        self.assertEqual(5.0 + ACK_AFTER_SECONDS, self.session.next_deadline())
        self.session.reported()
        self.assertIsNone(self.session.next_deadline())

    def test_many_packets_are_acknowledged_at_once(self) -> None:
        for _ in range(ACK_AFTER_PACKETS):
            self.session.packet_received(1, 7.0)
        self.assertEqual(7.0, self.session.next_deadline())

    def test_many_bytes_are_acknowledged_at_once(self) -> None:
        self.session.packet_received(ACK_AFTER_BYTES - 1, 7.0)
        self.assertEqual(7.0 + ACK_AFTER_SECONDS, self.session.next_deadline())
        self.session.packet_received(1, 7.0)
        self.assertEqual(7.0, self.session.next_deadline())

    def test_the_bounds_let_a_sender_go_on(self) -> None:
        """The receiver says something long before the sender has to wait for it."""
        self.assertLess(2 * ACK_AFTER_BYTES, MAX_IN_FLIGHT_BYTES)


class TwoSessionsMachine(RuleBasedStateMachine):
    """Two sessions over a carrier that loses whatever is on its way when it is cut."""

    sizes = st.sampled_from([0, 1, 100, 60_000, 65_536, MAX_IN_FLIGHT_BYTES + 1])

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sessions = (Session(SESSION_ID), Session(SESSION_ID))
        self.connected = True
        # What is on its way to each side: packets, and counts as acknowledgements.
        self.carried: tuple[deque[bytes | int], deque[bytes | int]] = (deque(), deque())
        self.sent: tuple[list[bytes], list[bytes]] = ([], [])
        self.arrived: tuple[list[bytes], list[bytes]] = ([], [])

    @rule(side=st.integers(0, 1), size=sizes)
    def add(self, side: int, size: int) -> None:
        packet = len(self.sent[side]).to_bytes(4, "big") + bytes(size)
        try:
            number = self.sessions[side].add(packet)
        except LocalProtocolError:
            return
        assert number == len(self.sent[side])
        self.sent[side].append(packet)

    @precondition(lambda self: self.connected)
    @rule(side=st.integers(0, 1))
    def flush(self, side: int) -> None:
        session = self.sessions[side]
        self.carried[1 - side].extend(session.packets_to_send())

    @precondition(lambda self: self.connected)
    @rule(side=st.integers(0, 1))
    def acknowledge(self, side: int) -> None:
        session = self.sessions[side]
        self.carried[1 - side].append(session.received)
        session.reported()
        assert session.next_deadline() is None

    @precondition(lambda self: self.connected)
    @rule(side=st.integers(0, 1), count=st.integers(1, 20))
    def deliver(self, side: int, count: int) -> None:
        session = self.sessions[side]
        for _ in range(min(count, len(self.carried[side]))):
            item = self.carried[side].popleft()
            if isinstance(item, int):
                session.acknowledge(item)
            else:
                session.packet_received(len(item), self.now)
                self.arrived[side].append(item)

    @rule(seconds=st.floats(0, 1))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.connected:
            for side in (0, 1):
                due = self.sessions[side].next_deadline()
                if due is not None and due <= self.now:
                    self.acknowledge(side)

    @precondition(lambda self: self.connected)
    @rule(
        side=st.integers(0, 1),
        lie=st.integers(-3, 3).filter(bool),
    )
    def lie(self, side: int, lie: int) -> None:
        """A count that was never true is refused, and leaves no trace."""
        session = self.sessions[side]
        before = (session.acknowledged, session.unacknowledged)
        sent = session.acknowledged + session._in_flight
        claimed = sent + lie if lie > 0 else session.acknowledged + lie
        try:
            session.acknowledge(claimed)
        except RemoteProtocolError:
            pass
        else:
            raise AssertionError("a lie was believed")
        assert before == (session.acknowledged, session.unacknowledged)

    @rule()
    def cut(self) -> None:
        self.connected = False
        for queue in self.carried:
            queue.clear()

    @precondition(lambda self: not self.connected)
    @rule()
    def resume(self) -> None:
        counts = [session.received for session in self.sessions]
        for side in (0, 1):
            self.sessions[side].resume(counts[1 - side])
            assert self.sessions[side].acknowledged == counts[1 - side]
        self.connected = True

    @invariant()
    def everything_arrives_once_and_in_order(self) -> None:
        for side in (0, 1):
            assert self.arrived[side] == self.sent[1 - side][: len(self.arrived[side])]
            assert self.sessions[side].received == len(self.arrived[side])

    @invariant()
    def nothing_is_acknowledged_that_has_not_come(self) -> None:
        for side in (0, 1):
            assert self.sessions[side].acknowledged <= self.sessions[1 - side].received
            session = self.sessions[side]
            assert session.acknowledged + session.unacknowledged == len(self.sent[side])

    @invariant()
    def what_is_in_flight_is_bounded(self) -> None:
        for session in self.sessions:
            flying = list(session._kept)[: session._in_flight]
            assert session._in_flight_bytes == sum(map(len, flying))
            assert session._in_flight_bytes <= MAX_IN_FLIGHT_BYTES or session._in_flight == 1
            assert session._kept_bytes == sum(map(len, session._kept))

    def teardown(self) -> None:
        """Let everything through: all of it arrives, and nothing is kept."""
        if not self.connected:
            self.resume()
        while any(session.unacknowledged for session in self.sessions):
            for side in (0, 1):
                self.flush(side)
                self.acknowledge(side)
            for side in (0, 1):
                self.deliver(side, len(self.carried[side]))
        for side in (0, 1):
            assert self.arrived[side] == self.sent[1 - side]
            assert self.sessions[side]._kept_bytes == 0
            assert self.sessions[side]._in_flight_bytes == 0


class TwoSessionsTests(TestCase):
    """The machine above, with whatever Hypothesis comes up with."""

    def test_nothing_is_lost_doubled_or_swapped(self) -> None:
        run_state_machine_as_test(
            TwoSessionsMachine,
            settings=settings(max_examples=100, stateful_step_count=60, deadline=None),
        )
