"""Whose turn it is: equal shares for those that always want, and no wait for those that do not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.shares import Shares

HEAD_START = 1000


class SharesTests(SynchronousTestCase):
    @given(st.lists(st.lists(st.integers(1, 3000), min_size=1), min_size=2, max_size=10))
    def test_whoever_always_wants_something_gets_the_same(self, sizes: list[list[int]]) -> None:
        shares: Shares[int] = Shares(HEAD_START)
        got = [0] * len(sizes)
        for turn in range(500):
            owner = min(range(len(sizes)), key=shares.start_of)
            size = sizes[owner][turn % len(sizes[owner])]
            shares.take(owner, shares.start_of(owner), size)
            got[owner] += size
        most = max(map(max, sizes))
        self.assertLessEqual(max(got) - min(got), 2 * most + HEAD_START)

    def test_who_has_used_little_is_first_again_and_again(self) -> None:
        shares: Shares[str] = Shares(HEAD_START)
        greedy = "abcdefgh"
        for turn in range(200):
            owner = min(greedy, key=shares.start_of)
            shares.take(owner, shares.start_of(owner), 500)
            if turn > 2 * len(greedy):
                self.assertLess(shares.start_of("light"), min(map(shares.start_of, greedy)))
                shares.take("light", shares.start_of("light"), 10)

    def test_rest_is_not_saved_up(self) -> None:
        shares: Shares[str] = Shares(HEAD_START)
        for _ in range(100):
            shares.take("busy", shares.start_of("busy"), HEAD_START)
        self.assertEqual(shares.clock - HEAD_START, shares.start_of("late"))

    def test_nobody_is_remembered_for_longer_than_it_matters(self) -> None:
        shares: Shares[int] = Shares(HEAD_START)
        for owner in range(10_000):
            shares.take(owner, shares.start_of(owner), 10)
            shares.take(-1, shares.start_of(-1), HEAD_START)
        self.assertLess(len(shares), 200)
        shares.clear()
        self.assertEqual((0, 0), (len(shares), shares.clock))
