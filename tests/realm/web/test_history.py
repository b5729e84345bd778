"""The samples of the last minutes."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from abst.realm.web.history import HISTORY_SECONDS, SAMPLE_SECONDS, History, Sample


class HistoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.history = History()

    def test_it_tells_what_happened_in_a_second(self) -> None:
        self.history.add(Sample(100.0, 1, 10, 1000, 0))
        self.history.add(Sample(102.0, 3, 14, 1500, 1))
        self.history.add(Sample(106.0, 2, 14, 1500, 1))
        found = self.history.series()
        self.assertEqual([3, 2], found.here)
        self.assertEqual([2.0, 0.0], found.packets)
        self.assertEqual([250, 0], found.bytes)
        self.assertEqual([0.5, 0.0], found.drops)

    def test_one_sample_tells_nothing(self) -> None:
        self.history.add(Sample(100.0, 1, 10, 1000, 0))
        self.assertEqual([], self.history.series().here)

    def test_a_second_sample_of_one_moment_is_none(self) -> None:
        for _ in range(2):
            self.history.add(Sample(100.0, 1, 10, 1000, 0))
        self.assertEqual([], self.history.series().packets)

    def test_what_is_older_than_it_remembers_is_forgotten(self) -> None:
        for number in range(1000):
            self.history.add(Sample(number * SAMPLE_SECONDS, number, number, number, 0))
        found = self.history.series().here
        self.assertEqual(int(HISTORY_SECONDS / SAMPLE_SECONDS), len(found))
        self.assertEqual(999, found[-1])
