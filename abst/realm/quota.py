"""Token buckets: how often somebody may do something. Pure; bounded in memory whoever asks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

MAX_KEYS: Final = 100_000

_NEW: Final = (0.0, 0.0)


class Quota:
    """A bucket of tokens for each key.

    Args:
        burst: how many tokens a full bucket holds.
        per_second: how fast a bucket fills.
    """

    def __init__(self, burst: float, per_second: float) -> None:
        self._burst = burst
        self._per_second = per_second
        # Least recently used first, but for those of one moment. A bucket that is full again need
        # not be remembered.
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable, now: float) -> float:
        """Take a token; return 0.0 when there was one, else the seconds until there is."""
        tokens, at = self._buckets.get(key, _NEW)
        if at == now and tokens >= 1.0:
            # Many of one moment: nothing has filled since, and nothing is to be forgotten.
            self._buckets[key] = (tokens - 1.0, now)
            return 0.0
        tokens, at = self._buckets.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - at) * self._per_second)
        wait = 0.0
        if tokens >= 1.0:
            tokens -= 1.0
        else:
            wait = (1.0 - tokens) / self._per_second
        self._buckets[key] = (tokens, now)
        self._forget(now)
        return wait

    def wait(self, key: Hashable, now: float) -> float:
        """Return the seconds until there is a token, 0.0 when there is one; take none."""
        tokens, at = self._buckets.get(key, (self._burst, now))
        tokens += max(0.0, now - at) * self._per_second
        return max(0.0, (1.0 - tokens) / self._per_second)

    def charge(self, key: Hashable, tokens: float, now: float) -> None:
        """Take tokens for what has turned out to cost more; there may be less than none then."""
        left, at = self._buckets.pop(key, (self._burst, now))
        left = min(self._burst, left + max(0.0, now - at) * self._per_second)
        self._buckets[key] = (max(-self._burst, left - tokens), now)
        self._forget(now)

    def __len__(self) -> int:
        return len(self._buckets)

    def _forget(self, now: float) -> None:
        full_after = self._burst / self._per_second
        while self._buckets:
            oldest = next(iter(self._buckets))
            if len(self._buckets) <= MAX_KEYS and now - self._buckets[oldest][1] < full_after:
                return
            del self._buckets[oldest]
