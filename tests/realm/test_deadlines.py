"""Looks come when they are due, in order, and those that ask come again."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.realm.deadlines import Deadlines


class DeadlinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.deadlines = Deadlines()
        self.seen: list[float] = []

    def test_nothing_is_due_at_first(self) -> None:
        self.assertIsNone(self.deadlines.next())
        self.deadlines.run_due(1e9)
        self.assertEqual(0, len(self.deadlines))

    def test_a_look_comes_when_it_is_due_and_once(self) -> None:
        self.deadlines.add(5.0, self.seen.append)
        self.assertEqual(5.0, self.deadlines.next())
        self.deadlines.run_due(4.999)
        self.assertEqual([], self.seen)
        self.deadlines.run_due(5.0)
        self.deadlines.run_due(6.0)
        self.assertEqual([5.0], self.seen)
        self.assertIsNone(self.deadlines.next())

    def test_looks_of_one_time_come_in_the_order_in_which_they_were_added(self) -> None:
        """They are functions, and functions have no order of their own."""
        order: list[str] = []
        for name in "abcdef":
            self.deadlines.add(1.0, lambda now, name=name: order.append(name))  # type: ignore[misc]
        self.deadlines.run_due(1.0)
        self.assertEqual(list("abcdef"), order)

    def test_a_look_may_ask_to_come_again(self) -> None:
        def look(now: float) -> None:
            self.seen.append(now)
            self.deadlines.add(now + 2.0, look)

        self.deadlines.add(1.0, look)
        for now in (1.0, 2.0, 3.0, 10.0):
            self.deadlines.run_due(now)
        self.assertEqual([1.0, 3.0, 10.0], self.seen)
        self.assertEqual(12.0, self.deadlines.next())

    def test_all_are_forgotten(self) -> None:
        self.deadlines.add(1.0, self.seen.append)
        self.deadlines.clear()
        self.assertIsNone(self.deadlines.next())
        self.deadlines.run_due(2.0)
        self.assertEqual([], self.seen)

    @given(times=st.lists(st.floats(0, 100)), now=st.floats(0, 100))
    def test_all_that_is_due_comes_in_order(self, times: list[float], now: float) -> None:
        deadlines = Deadlines()
        seen: list[float] = []
        for when in times:
            deadlines.add(when, lambda _, when=when: seen.append(when))  # type: ignore[misc]
        self.assertEqual(min(times, default=None), deadlines.next())
        deadlines.run_due(now)
        self.assertEqual(sorted(when for when in times if when <= now), seen)
        self.assertEqual(len(times) - len(seen), len(deadlines))
