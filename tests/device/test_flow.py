"""Flow: producers are paused by what waits to be acknowledged, alone and in a real session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.interfaces import IPullProducer, IPushProducer
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from abst.device import DeviceProtocol
from abst.device.flow import PAUSE_BYTES, RESUME_BYTES, Flow
from abst.device.session import MAX_IN_FLIGHT_BYTES, MAX_WAITING_BYTES
from abst.errors import LocalProtocolError
from tests.device.doubles import OTHER, Base, Notes, connection_of
from tests.device.test_durability import Disk, FailingStore

PIECE_BYTES: Final = 16 * 1024
TURN_PIECES: Final = 2 * MAX_IN_FLIGHT_BYTES // PIECE_BYTES
MOST_BYTES: Final = PAUSE_BYTES + 2 * TURN_PIECES * PIECE_BYTES
"""What may wait when a producer is paused on the turn after the one on which it was too much."""


@implementer(IPushProducer, IPullProducer)
class Calls:
    """A producer that notes what it is told.

    Attributes:
        told: what it was told: "pause", "resume" or "stop".
    """

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")

    def take(self) -> list[str]:
        """Return what it was told since the last time."""
        told, self.told = self.told, []
        return told


class FlowTests(TestCase):
    """By numbers alone."""

    def setUp(self) -> None:
        self.flow = Flow()
        self.producer = Calls()

    def told(self, waiting_bytes: int) -> list[str]:
        """Return what the producer is told when so much waits."""
        self.flow.update(waiting_bytes)
        return self.producer.take()

    def test_there_is_room_for_more_than_what_is_in_flight(self) -> None:
        """Else a producer would be asked only when the network stands still."""
        self.assertGreater(RESUME_BYTES, MAX_IN_FLIGHT_BYTES)
        self.assertEqual(PAUSE_BYTES, 2 * RESUME_BYTES)
        self.assertLess(PAUSE_BYTES, MAX_WAITING_BYTES // 2)

    def test_without_a_producer_nothing_happens(self) -> None:
        for waiting in (0, PAUSE_BYTES, 0):
            self.flow.update(waiting)
        self.flow.unregister()
        self.flow.stop()

    def test_a_push_producer_is_paused_once_at_the_bound(self) -> None:
        self.flow.register(self.producer, True, 0)
        self.assertEqual([], self.producer.take(), "it produces from the beginning")
        self.assertEqual([], self.told(PAUSE_BYTES - 1))
        self.assertEqual(["pause"], self.told(PAUSE_BYTES))
        self.assertEqual([], self.told(PAUSE_BYTES + 1))

    def test_a_push_producer_is_resumed_once_at_half(self) -> None:
        self.flow.register(self.producer, True, PAUSE_BYTES)
        self.assertEqual(["pause"], self.producer.take(), "too much waits already")
        self.assertEqual([], self.told(RESUME_BYTES + 1))
        self.assertEqual(["resume"], self.told(RESUME_BYTES))
        self.assertEqual([], self.told(0))
        self.assertEqual([], self.told(PAUSE_BYTES - 1))
        self.assertEqual(["pause"], self.told(PAUSE_BYTES))

    def test_a_pull_producer_is_asked_each_time_that_there_is_room(self) -> None:
        self.flow.register(self.producer, False, 0)
        self.assertEqual(["resume"], self.producer.take())
        self.assertEqual(["resume"], self.told(PIECE_BYTES))
        self.assertEqual(["resume"], self.told(RESUME_BYTES))
        self.assertEqual([], self.told(RESUME_BYTES + 1))
        self.assertEqual([], self.told(PAUSE_BYTES))
        self.assertEqual(["resume"], self.told(RESUME_BYTES))

    def test_a_pull_producer_is_not_asked_while_much_waits(self) -> None:
        self.flow.register(self.producer, False, RESUME_BYTES + 1)
        self.assertEqual([], self.producer.take())

    def test_a_second_producer_is_refused(self) -> None:
        self.flow.register(self.producer, True, 0)
        second = Calls()
        for streaming in (True, False):
            self.assertRaises(LocalProtocolError, self.flow.register, second, streaming, 0)
        self.flow.update(PAUSE_BYTES)
        self.assertEqual([], second.take())
        self.assertEqual(["pause"], self.producer.take())

    def test_who_is_unregistered_hears_nothing_more(self) -> None:
        self.flow.register(self.producer, True, 0)
        self.flow.unregister()
        self.assertEqual([], self.told(PAUSE_BYTES))
        self.flow.stop()
        self.assertEqual([], self.producer.take())

    def test_another_producer_begins_afresh(self) -> None:
        self.flow.register(self.producer, True, PAUSE_BYTES)
        self.flow.unregister()
        second = Calls()
        self.flow.register(second, True, 0)
        self.flow.update(0)
        self.assertEqual([], second.take(), "it was never paused")
        self.flow.update(PAUSE_BYTES)
        self.assertEqual(["pause"], second.take())

    def test_the_end_stops_it_once(self) -> None:
        for streaming in (True, False):
            self.flow.register(self.producer, streaming, PAUSE_BYTES)
            self.producer.take()
            self.flow.stop()
            self.assertEqual(["stop"], self.producer.take())
            self.flow.stop()
            self.assertEqual([], self.told(0))

    def test_a_producer_may_leave_while_it_is_being_asked(self) -> None:
        flow = self.flow

        class Last(Calls):
            def resumeProducing(self) -> None:
                super().resumeProducing()
                flow.unregister()

        last = Last()
        flow.register(last, False, 0)
        flow.update(0)
        self.assertEqual(["resume"], last.take())

    @given(waiting=st.lists(st.integers(0, 2 * PAUSE_BYTES)))
    def test_a_push_producer_is_told_in_turn_and_only_beyond_the_bounds(
        self, waiting: list[int]
    ) -> None:
        flow, producer = Flow(), Calls()
        flow.register(producer, True, 0)
        is_paused = False
        for waiting_bytes in waiting:
            flow.update(waiting_bytes)
            told = producer.take()
            if waiting_bytes >= PAUSE_BYTES:
                self.assertEqual([] if is_paused else ["pause"], told)
                is_paused = True
            elif waiting_bytes <= RESUME_BYTES:
                self.assertEqual(["resume"] if is_paused else [], told)
                is_paused = False
            else:
                self.assertEqual([], told)


@implementer(IPushProducer)
class Pump:
    """Sends some on each turn of the reactor while it is not paused, as a file's reader does.

    Attributes:
        pauses: how often it was paused.
        most_waiting_bytes: the most that waited at once.
        is_stopped: whether it was told to stop.
    """

    def __init__(self, protocol: DeviceProtocol, pieces: int, later: Callable[..., Any]) -> None:
        self.pauses = 0
        self.most_waiting_bytes = 0
        self.is_stopped = False
        self.is_paused = False
        self._protocol = protocol
        self._later = later
        self._left = pieces
        self._next = 0
        self._turn()

    def _turn(self) -> None:
        if self.is_paused or self.is_stopped:
            return
        if self._next == self._left:
            self._protocol.unregisterProducer()
            return
        # More on each turn than can be in flight: only pausing keeps it from piling up.
        for _ in range(min(TURN_PIECES, self._left - self._next)):
            self._protocol.sendPacket(5, [self._next, bytes(PIECE_BYTES)]).addErrback(
                lambda _: None
            )
            self._next += 1
        waiting = sum(len(content[1]) for _, _, content, _ in self._protocol.transport.waiting())
        self.most_waiting_bytes = max(self.most_waiting_bytes, waiting)
        self._later(0, self._turn)

    def pauseProducing(self) -> None:
        assert not self.is_paused
        self.is_paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        assert self.is_paused
        self.is_paused = False
        self._later(0, self._turn)

    def stopProducing(self) -> None:
        self.is_stopped = True


@implementer(IPullProducer)
class Well:
    """Sends one piece each time that it is asked."""

    def __init__(self, protocol: DeviceProtocol, pieces: int) -> None:
        self.is_stopped = False
        self.asked = 0
        self._protocol = protocol
        self._pieces = pieces

    def resumeProducing(self) -> None:
        if self.asked == self._pieces:
            self._protocol.unregisterProducer()
            return
        self._protocol.sendPacket(5, [self.asked, bytes(PIECE_BYTES)]).addErrback(lambda _: None)
        self.asked += 1

    def stopProducing(self) -> None:
        self.is_stopped = True


class Loop(Calls):
    """A push producer that sends in a loop until it is paused, as one may."""

    def __init__(self, protocol: DeviceProtocol, pieces: int) -> None:
        super().__init__()
        self.sent = 0
        self._protocol = protocol
        self._pieces = pieces

    def resumeProducing(self) -> None:
        self.is_paused = False
        while not self.is_paused and self.sent < self._pieces:
            self._protocol.sendPacket(5, [self.sent, bytes(PIECE_BYTES)])
            self.sent += 1

    def pauseProducing(self) -> None:
        self.is_paused = True


class SessionTests(Base):
    """Two devices on a realm in memory."""

    def setUp(self) -> None:
        super().setUp()
        self.ours, self.theirs = self.pair()

    def numbers(self) -> list[int]:
        """Return the numbers of the pieces that have arrived, in the order in which they did."""
        return [content[0] for content in self.theirs.contents]

    def waiting_bytes(self) -> int:
        """Return how much Alice's session holds."""
        connection = connection_of(self.alice, self.bob.device_id)
        assert connection is not None and connection.session is not None
        return connection.session.waiting_bytes

    def pump(self, protocol: Notes, pieces: int) -> Pump:
        pump = Pump(protocol, pieces, self.network.clock.callLater)
        protocol.registerProducer(pump, True)
        return pump

    def test_twenty_megabytes_never_fill_the_session(self) -> None:
        pieces = 20_000_000 // PIECE_BYTES + 1
        pump = self.pump(self.ours, pieces)
        self.network.advance(60, 0.1)
        self.assertEqual(list(range(pieces)), self.numbers())
        self.assertEqual(0, self.waiting_bytes())
        self.assertGreater(pump.pauses, 1)
        self.assertLess(pump.most_waiting_bytes, MOST_BYTES)

    def test_who_sends_while_nobody_is_there_is_paused_and_goes_on_afterwards(self) -> None:
        pieces = 4 * PAUSE_BYTES // PIECE_BYTES
        self.network.realm.stop()
        self.network.settle()
        pump = self.pump(self.ours, pieces)
        self.network.advance(5)
        self.assertTrue(pump.is_paused)
        self.assertEqual(1, pump.pauses)
        self.assertLess(pump.most_waiting_bytes, MOST_BYTES)
        self.assertEqual([], self.numbers())
        self.network.realm.start()
        self.network.advance(120)
        self.assertEqual(list(range(pieces)), self.numbers())

    def test_who_sends_in_a_loop_is_paused_in_the_middle_of_it(self) -> None:
        pieces = 20_000_000 // PIECE_BYTES
        loop = Loop(self.ours, pieces)
        self.ours.registerProducer(loop, True)
        loop.resumeProducing()
        self.assertTrue(loop.is_paused)
        self.assertLess(self.waiting_bytes(), PAUSE_BYTES + 2 * PIECE_BYTES)
        self.network.advance(30, 0.1)
        self.assertEqual(list(range(pieces)), self.numbers())

    def test_a_producer_is_stopped_also_when_the_session_goes_on_after_a_restart(self) -> None:
        stored = self.make("carol", OTHER, store=FailingStore(Disk()))
        self.network.introduce(stored, self.bob)
        session = self.connect(stored, self.bob)
        producer = Calls()
        session.registerProducer(producer, True)
        stored.stopService()
        self.assertEqual(["stop"], producer.take())

    def test_a_pull_producer_is_asked_until_it_has_no_more(self) -> None:
        pieces = 3 * PAUSE_BYTES // PIECE_BYTES
        well = Well(self.ours, pieces)
        self.ours.registerProducer(well, False)
        self.network.advance(10, 0.1)
        self.assertEqual(list(range(pieces)), self.numbers())

    def test_a_pull_producer_is_asked_for_no_more_than_there_is_room(self) -> None:
        self.network.realm.stop()
        self.network.settle()
        well = Well(self.ours, 10_000)
        self.ours.registerProducer(well, False)
        self.network.advance(5)
        self.assertEqual(RESUME_BYTES // PIECE_BYTES, well.asked)
        self.assertLess(self.waiting_bytes(), PAUSE_BYTES)

    def test_the_end_of_the_session_stops_a_producer(self) -> None:
        pump = self.pump(self.ours, 10_000)
        self.alice.forget(self.bob.device_id)
        self.assertTrue(pump.is_stopped)
        self.assertIsNotNone(self.ours.ended)
        self.network.settle()

    def test_who_produces_for_a_session_that_is_over_is_stopped_at_once(self) -> None:
        self.alice.forget(self.bob.device_id)
        late = Calls()
        self.ours.registerProducer(late, True)
        self.assertEqual(["stop"], late.take())
        self.ours.unregisterProducer()

    def test_the_next_session_has_no_producer_yet(self) -> None:
        self.ours.registerProducer(Calls(), True)
        self.ours.loseConnection()
        self.network.settle()
        again, _ = self.pair()
        self.assertIsNot(self.ours, again)
        again.registerProducer(Calls(), True)

    def test_the_end_of_a_session_does_not_stop_the_producer_of_the_next_one(self) -> None:
        """It may begin while the first one ends, when somebody hears that a packet is lost."""
        first, second = Calls(), Calls()
        self.ours.registerProducer(first, True)
        opened: list[DeviceProtocol] = []

        def open_again(failure: Any) -> None:
            opened.append(self.alice.open(self.bob.device_id))
            opened[0].registerProducer(second, True)

        self.exchange(self.ours, self.theirs)
        lost = self.ours.sendPacket(5, "lost").addErrback(open_again)
        self.restart(self.bob)
        self.network.advance(30)
        self.successResultOf(lost)
        self.assertEqual(["stop"], first.take())
        self.assertEqual([], second.take())
        assert isinstance(opened[0], Notes)
        self.assertIsNone(opened[0].ended)

    def test_a_second_producer_is_refused(self) -> None:
        first = Calls()
        self.ours.registerProducer(first, True)
        self.assertRaises(LocalProtocolError, self.ours.registerProducer, Calls(), True)
        self.ours.unregisterProducer()
        self.ours.registerProducer(Calls(), False)
        self.assertEqual([], first.take())
