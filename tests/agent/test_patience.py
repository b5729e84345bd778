"""When somebody is told that a peer is waited for."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from abst.agent.patience import PATHLESS_SECONDS, QUIET_SECONDS, Patience


class PatienceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1000.0
        self.patience = Patience(self.now)

    def changes(self, seconds: float, *, path: bool = True, out: int = 1, moves: int = 0) -> bool:
        """Let time go by in which nothing else happens; tell whether anything is to be told."""
        before = self.patience.is_waiting
        self.now += seconds
        changed = self.patience.look(self.now, has_path=path, unacknowledged=out, moves=moves)
        self.assertEqual(changed, before != self.patience.is_waiting)
        return changed

    def test_acknowledgements_that_do_not_come(self) -> None:
        self.assertFalse(self.changes(QUIET_SECONDS - 1))
        self.assertTrue(self.changes(1))
        self.assertFalse(self.changes(100))
        self.assertTrue(self.changes(1, moves=1))
        self.assertFalse(self.changes(QUIET_SECONDS - 1, moves=1))
        self.assertTrue(self.changes(1, moves=1))

    def test_acknowledgements_that_come_slowly(self) -> None:
        for moves in range(1, 20):
            self.assertFalse(self.changes(QUIET_SECONDS - 0.1, moves=moves))

    def test_nothing_is_out(self) -> None:
        """The peer may take long to store a large file, and this device to read one."""
        self.assertFalse(self.changes(1000, out=0))
        self.assertFalse(self.changes(QUIET_SECONDS - 1))
        self.assertTrue(self.changes(1))
        self.assertTrue(self.changes(1, out=0))

    def test_no_path(self) -> None:
        self.assertFalse(self.changes(1000, out=0))
        self.assertFalse(self.changes(PATHLESS_SECONDS / 2, path=False, out=0))
        self.assertFalse(self.changes(1, out=0))
        self.assertTrue(self.changes(PATHLESS_SECONDS, path=False, out=0))
        self.assertFalse(self.changes(1000, path=False, out=0))
        self.assertTrue(self.changes(1, out=0))

    def test_a_path_alone_moves_nothing(self) -> None:
        self.assertTrue(self.changes(PATHLESS_SECONDS, path=False))
        self.assertFalse(self.changes(1))
        self.assertTrue(self.changes(1, moves=1))
