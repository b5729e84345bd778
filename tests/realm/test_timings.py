"""How long something takes, counted in steps."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from abst.realm.lag import LOOK_SECONDS, LagMeter
from abst.realm.timings import STEPS_SECONDS, Timings


class TimingsTests(SynchronousTestCase):
    @given(st.lists(st.floats(0, 20), max_size=50))
    def test_every_time_is_in_the_steps_that_are_not_shorter(self, times: list[float]) -> None:
        timings = Timings()
        for seconds in times:
            timings.add(seconds)
        expected = [
            (bound, sum(seconds <= bound for seconds in times))
            for bound in (*STEPS_SECONDS, math.inf)
        ]
        self.assertEqual(expected, timings.up_to_steps())
        self.assertEqual(len(times), timings.count)
        self.assertAlmostEqual(sum(times), timings.total_seconds)

    @given(st.lists(st.floats(0, 20), min_size=1, max_size=50), st.floats(0, 1))
    def test_a_quantile_is_not_exceeded_by_so_large_a_part(
        self, times: list[float], fraction: float
    ) -> None:
        timings = Timings()
        for seconds in times:
            timings.add(seconds)
        found = timings.quantile(fraction)
        assert found is not None
        self.assertIn(found, times)
        self.assertGreaterEqual(sum(seconds <= found for seconds in times), fraction * len(times))
        self.assertLess(sum(seconds < found for seconds in times), max(1.0, fraction * len(times)))

    def test_only_the_newest_are_remembered_and_all_are_counted(self) -> None:
        timings = Timings(remembered=3)
        for seconds in (9.0, 1.0, 2.0, 3.0):
            timings.add(seconds)
        self.assertEqual((3.0, 3.0), (timings.quantile(1.0), timings.newest_seconds))
        self.assertEqual((4, 15.0), (timings.count, timings.total_seconds))

    def test_without_any_there_is_no_quantile(self) -> None:
        timings = Timings()
        self.assertEqual((None, None), (timings.quantile(0.5), timings.newest_seconds))

    def test_a_clock_that_was_set_back_gives_nothing(self) -> None:
        timings = Timings()
        timings.add(-3.0)
        self.assertEqual((1, 0.0), (timings.count, timings.total_seconds))


class LagTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.timings = Timings()
        self.meter = LagMeter(self.clock, self.timings)
        self.meter.start()

    def test_a_reactor_in_time_has_no_lag(self) -> None:
        self.clock.pump([LOOK_SECONDS] * 3)
        self.assertEqual((3, 0.0), (self.timings.count, self.timings.total_seconds))

    def test_what_keeps_it_is_the_lag(self) -> None:
        self.clock.advance(LOOK_SECONDS + 0.75)
        self.assertEqual(0.75, self.timings.newest_seconds)
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual(0.0, self.timings.newest_seconds)

    def test_it_stops(self) -> None:
        self.meter.stop()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.meter.stop()
