"""Waiting for a moment."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.groups.moment import LATE, in_time, within
from abst.errors import AbstError


class MomentTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.waiting: Deferred[int] = Deferred()

    def test_in_time(self) -> None:
        told = in_time(self.clock, self.waiting, 5)
        self.clock.advance(4.9)
        self.waiting.callback(7)
        self.assertEqual(7, self.successResultOf(told))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_at_once(self) -> None:
        self.waiting.callback(7)
        self.assertEqual(7, self.successResultOf(in_time(self.clock, self.waiting, 5)))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_late(self) -> None:
        told = in_time(self.clock, self.waiting, 5)
        self.clock.advance(5)
        self.assertIs(LATE, self.successResultOf(told))
        # A failure that nobody waits for is dropped: trial would find it.
        self.waiting.errback(AbstError("late"))

    def test_a_failure_is_passed_on(self) -> None:
        told = in_time(self.clock, self.waiting, 5)
        self.waiting.errback(AbstError("no"))
        self.failureResultOf(told, AbstError)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_who_waits_no_more_stops_nothing(self) -> None:
        stopped: list[object] = []
        waiting: Deferred[int] = Deferred(stopped.append)
        told = in_time(self.clock, waiting, 5)
        told.cancel()
        self.failureResultOf(told, CancelledError)
        self.assertEqual(([], []), (stopped, self.clock.getDelayedCalls()))
        waiting.callback(1)

    def test_within(self) -> None:
        told = ensureDeferred(within(self.clock, self.waiting, 5))
        late = ensureDeferred(within(self.clock, Deferred(), 5))
        self.waiting.callback(0)
        self.assertIs(True, self.successResultOf(told))
        self.clock.advance(5)
        self.assertIs(False, self.successResultOf(late))
