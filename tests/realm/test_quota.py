"""Token buckets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.realm import quota
from abst.realm.quota import Quota


class QuotaTests(TestCase):
    def test_what_costs_more_is_paid_afterwards_and_never_for_longer_than_a_full_bucket(
        self,
    ) -> None:
        quota = Quota(burst=4, per_second=2)
        self.assertEqual(0.0, quota.take("a", 0.0))
        quota.charge("a", 5, 0.0)
        self.assertEqual(1.5, quota.take("a", 0.0))
        self.assertEqual(0.0, quota.take("a", 1.5))
        quota.charge("a", 1000, 1.5)
        self.assertEqual(2.5, quota.take("a", 1.5))
        self.assertEqual(0.0, quota.take("b", 1.5))

    def test_a_full_bucket_then_one_at_a_time(self) -> None:
        bucket = Quota(3, 0.5)
        self.assertEqual([0.0] * 3, [bucket.take("a", 10.0) for _ in range(3)])
        self.assertEqual(2.0, bucket.take("a", 10.0))
        self.assertEqual(1.0, bucket.take("a", 11.0))
        self.assertEqual(0.0, bucket.take("a", 12.0))
        self.assertEqual(2.0, bucket.take("a", 12.0))

    def test_asking_too_often_costs_nothing_more(self) -> None:
        bucket = Quota(1, 1.0)
        bucket.take("a", 0.0)
        for tenth in range(10):
            self.assertGreater(bucket.take("a", tenth / 10), 0.0)
        self.assertEqual(0.0, bucket.take("a", 1.0))

    def test_many_at_one_moment_are_as_many_as_there_are(self) -> None:
        """Also when others ask in between, and a clock went back before."""
        bucket = Quota(3, 1.0)
        bucket.take("a", 20.0)
        waits = [bucket.take(key, 10.0) for key in "ababa"]
        self.assertEqual([0.0, 0.0, 0.0, 0.0, 1.0], waits)

    def test_keys_do_not_share(self) -> None:
        bucket = Quota(1, 1.0)
        self.assertEqual([0.0, 0.0], [bucket.take("a", 0.0), bucket.take("b", 0.0)])

    def test_a_clock_that_goes_back_gives_nothing(self) -> None:
        bucket = Quota(1, 1.0)
        bucket.take("a", 100.0)
        self.assertEqual(1.0, bucket.take("a", 0.0))

    def test_a_bucket_that_is_full_again_is_forgotten(self) -> None:
        bucket = Quota(2, 1.0)
        for key in range(1000):
            bucket.take(key, 0.0)
        self.assertEqual(1000, len(bucket))
        bucket.take("later", 2.0)
        self.assertEqual(1, len(bucket))

    def test_it_never_remembers_more_than_its_bound(self) -> None:
        self.patch(quota, "MAX_KEYS", 10)
        bucket = Quota(1, 0.001)
        for key in range(100):
            bucket.take(key, 0.0)
        self.assertEqual(10, len(bucket))
        self.assertGreater(bucket.take(99, 0.0), 0.0)

    @given(
        waits=st.lists(st.floats(0, 5), max_size=60),
        burst=st.integers(1, 5),
        per_second=st.floats(0.1, 5),
    )
    def test_never_more_than_burst_and_rate(
        self, waits: list[float], burst: int, per_second: float
    ) -> None:
        bucket = Quota(burst, per_second)
        now = 0.0
        taken = 0
        for wait in waits:
            now += wait
            told = bucket.take("a", now)
            taken += told == 0.0
            self.assertLessEqual(taken, burst + now * per_second + 1e-6)
            self.assertLessEqual(told, 1 / per_second + 1e-9)
