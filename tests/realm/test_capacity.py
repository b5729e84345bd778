"""What a realm can afford with the open files that the system allows."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from abst.realm.capacity import files_for, limits_within
from abst.realm.limits import Limits
from abst.realm.pipes import MAX_PIPES
from abst.realm.protocol import hard_limit_of


class CapacityTests(SynchronousTestCase):
    def test_limits_that_the_files_suffice_for_stay(self) -> None:
        limits = Limits()
        self.assertEqual((limits, MAX_PIPES), limits_within(limits, files_for(limits)))

    def test_fewer_files_mean_fewer_connections_and_circuits(self) -> None:
        limits = Limits()
        for files in (256, 400, 1024, 4096, 10_000, files_for(limits) - 1):
            lowered, pipes = limits_within(limits, files)
            used = hard_limit_of(lowered) + 2 * lowered.circuits + 2 * pipes
            self.assertLess(used, files)
            self.assertGreater(lowered.circuits, 0)
            self.assertGreater(pipes, 0)

    def test_limits_that_are_low_anyway_stay(self) -> None:
        limits = Limits(connections=10, circuits=10)
        self.assertEqual(limits, limits_within(limits, 1024)[0])
