"""Handshakes between turns: oldest first, a few at a time, and none keeps others from theirs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from abst.handshakes import PATIENCE_SECONDS, STEPS_SECONDS, Handshakes


class HandshakesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 0.0
        self.calls: list[Callable[[], None]] = []
        self.handshakes = Handshakes(lambda _, call: self.calls.append(call), lambda: self.now)
        self.done: list[int] = []

    def step(self, number: int, seconds: float = STEPS_SECONDS) -> Callable[[], None]:
        """Return a step that takes so long."""

        def work() -> None:
            self.now += seconds
            self.done.append(number)

        return work

    def turn(self) -> list[int]:
        """Let the reactor have a turn; return which steps were done in it."""
        self.done.clear()
        calls, self.calls = self.calls, []
        for call in calls:
            call()
        return list(self.done)

    def test_nothing_is_done_within_the_turn_that_asks(self) -> None:
        self.handshakes.add(self.handshakes.number(), self.step(0))
        self.assertEqual([], self.done)
        self.assertEqual([0], self.turn())
        self.assertEqual([], self.calls)

    def test_others_have_their_turn_between_two_that_take_long(self) -> None:
        for number in range(3):
            self.handshakes.add(number, self.step(number))
        self.assertEqual([[0], [1], [2], []], [self.turn() for _ in range(4)])

    def test_short_ones_share_a_turn(self) -> None:
        for number in range(10):
            self.handshakes.add(number, self.step(number, STEPS_SECONDS / 4))
        self.assertEqual([0, 1, 2, 3], self.turn())

    def test_the_oldest_comes_first(self) -> None:
        """Who has begun goes on before others begin, however many these are."""
        numbers = [self.handshakes.number() for _ in range(5)]
        self.assertEqual(sorted(numbers), numbers)
        for number in (numbers[3], numbers[4]):
            self.handshakes.add(number, self.step(number))
        self.handshakes.add(numbers[0], self.step(numbers[0]))
        self.assertEqual([numbers[0]], self.turn())
        self.handshakes.add(numbers[1], self.step(numbers[1]))
        self.assertEqual(
            [numbers[1], numbers[3], numbers[4]], [done for _ in range(3) for done in self.turn()]
        )

    def test_who_has_waited_too_long_comes_last(self) -> None:
        self.handshakes.add(0, self.step(0))
        self.handshakes.add(1, self.step(1))
        self.now += PATIENCE_SECONDS + 1
        self.handshakes.add(2, self.step(2))
        self.handshakes.add(3, self.step(3))
        self.assertEqual(4, len(self.handshakes))
        self.assertEqual([2, 3, 1, 0], [done for _ in range(4) for done in self.turn()])
        self.assertEqual([], self.calls)

    def test_with_too_much_to_do_most_of_it_is_done_in_time(self) -> None:
        """Served in order, each would be served when it is about to give up, and in vain."""
        each_second, step_seconds, gives_up_seconds = 400, 0.005, 10.0
        in_time = late = begun = 0

        def step(began: float) -> None:
            nonlocal in_time, late
            self.now += step_seconds
            if self.now - began < gives_up_seconds / 2:
                in_time += 1
            else:
                late += 1

        while self.now < 30:
            while begun / each_second <= self.now:
                began = begun / each_second
                self.handshakes.add(self.handshakes.number(), partial(step, began))
                begun += 1
            self.turn()
        self.assertGreater(in_time, 9 * late)

    def test_a_mistake_in_one_ends_no_other(self) -> None:
        def fail() -> Any:
            raise ZeroDivisionError("a mistake of ours")

        self.handshakes.add(0, fail)
        self.handshakes.add(1, self.step(1))
        self.assertEqual([1], self.turn())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(0, len(self.handshakes))
