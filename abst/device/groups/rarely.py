"""Things that others can bring about, done once in a while at most."""

from __future__ import annotations

import math
from typing import Any


class Rarely:
    """Tells when it is time to do something again.

    Args:
        reactor: the clock.
        seconds: how long to wait after each time.
    """

    def __init__(self, reactor: Any, seconds: float) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._next = -math.inf

    def is_time(self) -> bool:
        """Return whether to do it now; if so, it counts as done."""
        now: float = self._reactor.seconds()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True
