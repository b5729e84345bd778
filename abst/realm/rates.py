"""How fast bytes may go, and how many in a day. Pure; times in seconds on the caller's clock."""

from __future__ import annotations

import math

DAY_SECONDS = 86400.0


class Rate:
    """A bucket of bytes that may be overdrawn: who has taken too much waits until it is even.

    Args:
        per_second: how fast the bucket fills.
        now: the time.
        burst_seconds: in how long it is full; it holds that much.
        most_seconds: how long anybody has to wait at most, whatever has been taken.
    """

    __slots__ = ("_at", "_burst", "_least", "_left", "_per_second")

    def __init__(
        self,
        per_second: float,
        now: float,
        *,
        burst_seconds: float = 1.0,
        most_seconds: float = math.inf,
    ) -> None:
        self._per_second = per_second
        self._burst = self._left = per_second * burst_seconds
        self._least = -per_second * most_seconds
        self._at = now

    def take(self, count: int, now: float) -> float:
        """Count bytes that have gone; return how long none may follow."""
        self._left = max(self._least, self.left(now) - count)
        self._at = now
        return max(0.0, -self._left / self._per_second)

    def left(self, now: float) -> float:
        """Return how many bytes may go at once; less than none when too many have gone."""
        grown = self._left + max(0.0, now - self._at) * self._per_second
        return min(self._burst, grown)

    def wait(self, now: float) -> float:
        """Return how long nothing may go."""
        return max(0.0, -self.left(now) / self._per_second)


class DayVolume:
    """How many bytes have gone since a day began; the next day begins with the bytes after it.

    Attributes:
        most_bytes: how many may.
    """

    __slots__ = ("_begun_at", "_bytes", "most_bytes")

    def __init__(self, most_bytes: int, now: float) -> None:
        self.most_bytes = most_bytes
        self._begun_at = now
        self._bytes = 0

    def take(self, count: int, now: float) -> bool:
        """Count bytes that have gone; return whether they were more than a day may have."""
        self._begin_day(now)
        self._bytes += count
        return self._bytes > self.most_bytes

    def seconds_left(self, now: float) -> float:
        """Return how long nothing may go since all is used up; 0.0 when something may."""
        self._begin_day(now)
        return self._begun_at + DAY_SECONDS - now if self._bytes >= self.most_bytes else 0.0

    def _begin_day(self, now: float) -> None:
        if now - self._begun_at >= DAY_SECONDS:
            self._begun_at = now
            self._bytes = 0
