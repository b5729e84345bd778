"""The pool of pipes: what is lent, what is kept back, and that nothing is left open."""

from __future__ import annotations

import os

from twisted.trial.unittest import SynchronousTestCase

from abst.realm.pipes import LARGE_BYTES, Pipe, Pipes


def take(pipes: Pipes) -> Pipe:
    """Return a pipe, which there must be."""
    pipe = pipes.take()
    assert pipe is not None
    return pipe


class PipesTests(SynchronousTestCase):
    def test_the_last_one_is_the_reserve_however_often_it_is_lent(self) -> None:
        pipes = Pipes(3)
        lent = [take(pipes) for _ in range(2)]
        for pipe in lent:
            self.assertFalse(pipes.is_reserve(pipe))
        last = take(pipes)
        self.assertTrue(pipes.is_reserve(last))
        pipes.give_back(last)
        self.assertIs(last, take(pipes))
        pipes.give_back(lent[0])
        self.assertIs(lent[0], take(pipes))
        self.assertEqual(3, len(pipes))
        for pipe in (*lent, last):
            pipes.throw_away(pipe)

    def test_the_reserve_is_large(self) -> None:
        pipes = Pipes(1)
        reserve = take(pipes)
        self.assertTrue(pipes.is_reserve(reserve))
        self.assertEqual(LARGE_BYTES, os.write(reserve.writing, bytes(2 * LARGE_BYTES)))
        pipes.throw_away(reserve)

    def test_a_reserve_that_was_thrown_away_is_made_again(self) -> None:
        pipes = Pipes(2)
        held = take(pipes)
        pipes.throw_away(take(pipes))
        again = take(pipes)
        self.assertTrue(pipes.is_reserve(again))
        pipes.give_back(held)
        pipes.close_idle()
        self.assertEqual(0, len(pipes))

    def test_there_may_be_none(self) -> None:
        self.assertIsNone(Pipes(0).take())

    def test_nothing_is_left_open(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        pipes = Pipes(5)
        lent = [take(pipes) for _ in range(5)]
        for pipe in lent:
            pipes.give_back(pipe)
        pipes.close_idle()
        self.assertEqual((0, before), (len(pipes), len(os.listdir("/proc/self/fd"))))
