"""How fast and how much: no schedule of pieces gets more through than the rate gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.realm.rates import DAY_SECONDS, DayVolume, Rate


class RateTests(SynchronousTestCase):
    def test_a_seconds_bytes_go_at_once(self) -> None:
        rate = Rate(1000, now=5.0)
        self.assertEqual(0.0, rate.take(1000, 5.0))
        self.assertEqual(0.5, rate.take(500, 5.0))
        self.assertEqual(0.0, rate.take(0, 5.5))

    def test_rest_is_not_saved_up(self) -> None:
        rate = Rate(1000, now=0.0)
        self.assertEqual(1.0, rate.take(2000, 1_000_000.0))

    @given(st.lists(st.tuples(st.integers(0, 5000), st.floats(0, 3)), min_size=1, max_size=30))
    def test_who_waits_as_told_keeps_the_rate(self, pieces: list[tuple[int, float]]) -> None:
        rate = Rate(1000, now=0.0)
        now = 0.0
        total = 0
        for size, rest in pieces:
            total += size
            now += rate.take(size, now) + rest
            self.assertLessEqual(total, 1000 * (now + 1) + 1e-3)


class DayVolumeTests(SynchronousTestCase):
    def test_a_day_has_so_many_bytes(self) -> None:
        volume = DayVolume(100, now=7.0)
        self.assertFalse(volume.take(99, 8.0))
        self.assertEqual(0.0, volume.seconds_left(8.0))
        self.assertFalse(volume.take(1, 9.0))
        self.assertEqual(DAY_SECONDS - 2.0, volume.seconds_left(9.0))
        self.assertTrue(volume.take(1, 9.0))

    def test_the_next_day_is_a_new_one(self) -> None:
        volume = DayVolume(100, now=0.0)
        self.assertTrue(volume.take(101, 1.0))
        self.assertEqual(0.0, volume.seconds_left(DAY_SECONDS))
        self.assertFalse(volume.take(100, DAY_SECONDS))
