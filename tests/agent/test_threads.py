"""Threads that work for the agent, and its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.trial.unittest import SynchronousTestCase

from abst.agent.threads import Threads


class ThreadsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.begun: list[Callable[[], Any]] = []
        self.threads = Threads(self.begin)

    def begin(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Note what a thread would do; it is done when the test calls it."""
        done: Deferred[Any] = Deferred()
        self.begun.append(lambda: maybeDeferred(function, *arguments).chainDeferred(done))
        return done

    def test_results_and_failures_come_back(self) -> None:
        good, bad = self.threads(divmod, 7, 2), self.threads(divmod, 7, 0)
        for finish in self.begun:
            finish()
        self.assertEqual((3, 1), self.successResultOf(good))
        self.failureResultOf(bad, ZeroDivisionError)
        self.successResultOf(self.threads.close())

    def test_closing_waits_until_everybody_has_been_told(self) -> None:
        told: list[Any] = []
        for value in (1, 2):
            self.threads(abs, -value).addCallback(told.append)
        closed = [self.threads.close(), self.threads.close()]
        closed[0].addCallback(lambda _: told.append("closed"))
        self.begun[0]()
        self.assertNoResult(closed[1])
        self.begun[1]()
        self.assertEqual([1, 2, "closed"], told)
        self.successResultOf(closed[1])
        self.successResultOf(self.threads.close())

    def test_nothing_is_begun_after_closing(self) -> None:
        self.threads(abs, -1)
        closed = self.threads.close()
        late = self.threads(abs, -2)
        self.assertEqual(1, len(self.begun))
        self.begun[0]()
        self.successResultOf(closed)
        self.assertNoResult(late)
        self.assertNoResult(self.threads(abs, -3))

    def test_who_has_gone_away_is_no_obstacle(self) -> None:
        gone = self.threads(abs, -1)
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        closed = self.threads.close()
        self.assertNoResult(closed)
        self.begun[0]()
        self.successResultOf(closed)
