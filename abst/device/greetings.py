"""Saying Hello to all peers when this device comes back, a few at a time.

Two hundred devices that come back at once, after a power cut, shall not all dial each other in the
same second. Whom somebody has dialled in the meantime need not be dialled any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final

from abst.device_id import DeviceID

AT_ONCE: Final = 8
APART_SECONDS: Final = 0.2


class Greetings:
    """The peers that are still to be said Hello to.

    Args:
        reactor: the reactor.
        greet: says Hello to one; False when there was no need to.
    """

    def __init__(self, reactor: Any, greet: Callable[[DeviceID], bool]) -> None:
        self._reactor = reactor
        self._greet = greet
        self._waiting: deque[DeviceID] = deque()
        self._timer: Any = None

    def add(self, device_ids: Iterable[DeviceID]) -> None:
        """Say Hello to these, soon."""
        known = set(self._waiting)
        self._waiting.extend(one for one in device_ids if one not in known)
        if self._timer is None:
            self._next(AT_ONCE)

    def stop(self) -> None:
        """Say Hello to nobody any more."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self, count: int) -> None:
        self._timer = None
        while self._waiting and count:
            if self._greet(self._waiting.popleft()):
                count -= 1
        if self._waiting:
            self._timer = self._reactor.callLater(APART_SECONDS, self._next, 1)
