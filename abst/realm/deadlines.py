"""One timer for many connections: what has to be looked at next.

Pure. A look stands here under the earliest time at which something could be due. When that time
comes it sees for itself whether anything is, and asks to be called again if not; so traffic, which
moves deadlines all the time, costs nothing here.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

Look = Callable[[float], None]


class Deadlines:
    """Looks to take, under times in seconds on whatever clock the caller uses."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Look]] = []
        self._order = count()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, look: Look) -> None:
        """Ask that ``look`` be called with the time then."""
        heapq.heappush(self._heap, (when, next(self._order), look))

    def next(self) -> float | None:
        """Return the earliest time that stands here, or None."""
        return self._heap[0][0] if self._heap else None

    def clear(self) -> None:
        """Forget every look."""
        self._heap.clear()

    def run_due(self, now: float) -> None:
        """Call every look whose time has come."""
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2](now)
