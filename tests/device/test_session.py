"""Sessions: everything once and in order, whatever happens to what carries it."""

from __future__ import annotations

from collections import deque
from typing import Final

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import TestCase

from abst.device.session import MAX_IN_FLIGHT_BYTES, MAX_WAITING_BYTES, Session
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
        for lie in (4, 2**63):
            self.assertRaises(RemoteProtocolError, self.session.acknowledge, lie)
        self.assertEqual(2, self.session.acknowledged)
        self.assertEqual(1, self.session.acknowledge(3))

    def test_a_count_that_came_late_is_no_news(self) -> None:
        for _ in range(3):
            self.session.add(b"x")
        self.in_flight()
        self.session.acknowledge(2)
        self.assertEqual(0, self.session.acknowledge(1))
        self.assertEqual(2, self.session.acknowledged)

    def test_another_channel_carries_again_what_the_other_side_has_not(self) -> None:
        for packet in (b"a", b"b", b"c"):
            self.session.add(packet)
        self.in_flight()
        self.session.acknowledge(2)
        self.session.rewind()
        self.assertEqual(2, self.session.position)
        self.assertEqual([b"c"], self.in_flight())
        self.assertEqual(3, self.session.position)

    def test_what_is_acknowledged_another_way_is_skipped(self) -> None:
        for packet in (b"a", b"b", b"c"):
            self.session.add(packet)
        self.in_flight()
        self.session.rewind()
        self.session.acknowledge(2)
        self.assertEqual([b"c"], self.in_flight())


class ReceivingTests(TestCase):
    def setUp(self) -> None:
        self.session = Session(SESSION_ID)

    def test_each_number_counts_once(self) -> None:
        self.assertEqual([True, True], [self.session.take(0), self.session.take(1)])
        self.assertEqual([False, False], [self.session.take(0), self.session.take(1)])
        self.assertEqual(2, self.session.received)

    def test_a_hole_is_refused(self) -> None:
        self.session.take(0)
        self.assertRaises(RemoteProtocolError, self.session.take, 2)
        self.assertEqual(1, self.session.received)

    def test_what_has_come_is_to_be_told_also_when_it_came_twice(self) -> None:
        self.assertFalse(self.session.owes_acknowledgement)
        for _ in range(2):
            self.session.take(0)
            self.assertTrue(self.session.owes_acknowledgement)
            self.session.reported()
            self.assertFalse(self.session.owes_acknowledgement)


class Way:
    """One way between the two: what it carries to each side, and where each side counts."""

    def __init__(self) -> None:
        # Packets, counts as acknowledgements, and where a sender begins.
        self.carried: tuple[deque[Item], deque[Item]] = (deque(), deque())
        self.next_in: list[int | None] = [None, None]
        self.next_out: list[int | None] = [None, None]


Item = bytes | tuple[str, int]


class TwoSessionsMachine(RuleBasedStateMachine):
    """Two sessions over ways that lose what they carry, and between which each side moves."""

    sizes = st.sampled_from([0, 1, 100, 60_000, 65_536, MAX_IN_FLIGHT_BYTES + 1])
    sides = st.integers(0, 1)
    places = st.integers(0, 2)

    def __init__(self) -> None:
        super().__init__()
        self.sessions = (Session(SESSION_ID), Session(SESSION_ID))
        self.ways = [Way(), Way(), Way()]
        self.used = [0, 0]
        self.sent: tuple[list[bytes], list[bytes]] = ([], [])
        self.arrived: tuple[list[bytes], list[bytes]] = ([], [])
        self.move(0, 0)
        self.move(1, 0)

    @rule(side=sides, size=sizes)
    def add(self, side: int, size: int) -> None:
        packet = len(self.sent[side]).to_bytes(4, "big") + bytes(size)
        try:
            number = self.sessions[side].add(packet)
        except LocalProtocolError:
            return
        assert number == len(self.sent[side])
        self.sent[side].append(packet)

    @rule(side=sides, place=places)
    def move(self, side: int, place: int) -> None:
        """Send over another way from now on."""
        self.used[side] = place
        self.sessions[side].rewind()
        self.ways[place].next_out[side] = None

    @rule(place=places)
    def cut(self, place: int) -> None:
        """Lose a way with all that it carries; a new one takes its place."""
        self.ways[place] = Way()
        for side in (0, 1):
            if self.used[side] == place:
                self.move(side, place)

    @rule(side=sides)
    def flush(self, side: int) -> None:
        session, way = self.sessions[side], self.ways[self.used[side]]
        queue = way.carried[1 - side]
        for packet in session.packets_to_send():
            if way.next_out[side] != session.position - 1:
                queue.append(("first", session.position - 1))
            queue.append(packet)
            way.next_out[side] = session.position

    @rule(side=sides, place=places)
    def acknowledge(self, side: int, place: int) -> None:
        session = self.sessions[side]
        self.ways[place].carried[1 - side].append(("received", session.received))
        session.reported()

    @rule(side=sides, place=places, count=st.integers(1, 20))
    def deliver(self, side: int, place: int, count: int) -> None:
        session, way = self.sessions[side], self.ways[place]
        for _ in range(min(count, len(way.carried[side]))):
            match way.carried[side].popleft():
                case ("received", number):
                    session.acknowledge(number)
                case ("first", number):
                    assert number <= session.received
                    way.next_in[side] = number
                case bytes() as packet:
                    number = way.next_in[side]  # type: ignore[assignment]
                    way.next_in[side] = number + 1
                    if session.take(number):
                        self.arrived[side].append(packet)

    @rule(side=sides, lie=st.integers(1, 3))
    def lie(self, side: int, lie: int) -> None:
        """A count of what was never sent is refused, and leaves no trace."""
        session = self.sessions[side]
        before = (session.acknowledged, session.unacknowledged)
        try:
            session.acknowledge(session._sent + lie)
        except RemoteProtocolError:
            pass
        else:
            raise AssertionError("a lie was believed")
        assert before == (session.acknowledged, session.unacknowledged)

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
            assert session.waiting_bytes == sum(map(len, session._kept))

    def teardown(self) -> None:
        """Let everything through: all of it arrives, and nothing is kept."""
        while any(session.unacknowledged for session in self.sessions):
            for side in (0, 1):
                self.flush(side)
                for place in (0, 1, 2):
                    self.deliver(1 - side, place, 10**6)
            for side in (0, 1):
                self.acknowledge(side, 0)
                self.deliver(1 - side, 0, 10**6)
        for side in (0, 1):
            assert self.arrived[side] == self.sent[1 - side]
            assert self.sessions[side].waiting_bytes == 0
            assert self.sessions[side]._in_flight_bytes == 0


class TwoSessionsTests(TestCase):
    """The machine above, with whatever Hypothesis comes up with."""

    def test_nothing_is_lost_doubled_or_swapped(self) -> None:
        run_state_machine_as_test(
            TwoSessionsMachine,
            settings=settings(max_examples=50, stateful_step_count=60, deadline=None),
        )
