"""How long something takes, each time: counted in steps, and the newest ones remembered. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from typing import Final

STEPS_SECONDS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the steps; what takes longer than the last one is in a step of its own."""

REMEMBERED: Final = 300


class Timings:
    """How long something has taken, each time.

    Args:
        remembered: of how many of the newest times ``quantile`` knows.

    Attributes:
        count: how many times there were.
        total_seconds: their sum.
        newest_seconds: the last one; None when there was none.
    """

    __slots__ = ("_in_step", "_newest", "count", "newest_seconds", "total_seconds")

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._in_step = [0] * (len(STEPS_SECONDS) + 1)
        self._newest: deque[float] = deque(maxlen=remembered)
        self.count = 0
        self.total_seconds = 0.0
        self.newest_seconds: float | None = None

    def add(self, seconds: float) -> None:
        """Count one more; a clock that was set back gives 0."""
        seconds = max(0.0, seconds)
        self._in_step[bisect_left(STEPS_SECONDS, seconds)] += 1
        self._newest.append(seconds)
        self.count += 1
        self.total_seconds += seconds
        self.newest_seconds = seconds

    def up_to_steps(self) -> list[tuple[float, int]]:
        """Return each step's upper bound with how many times were not longer; infinity is last."""
        found = []
        count = 0
        for bound, here in zip((*STEPS_SECONDS, math.inf), self._in_step, strict=True):
            count += here
            found.append((bound, count))
        return found

    def quantile(self, fraction: float) -> float | None:
        """Return what so large a part of the newest times has not exceeded; None without any."""
        if not self._newest:
            return None
        ordered = sorted(self._newest)
        return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]
