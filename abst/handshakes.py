"""Handshakes wait for each other, and established connections do not wait for them.

Owns when the steps of TLS handshakes are done. A step takes OpenSSL and Python half a millisecond
and more, which is what relaying hundreds of packets takes; and anybody may ask for one. So between
two turns of the reactor there is time for one or a few of them, those of the oldest connections
first. Where more are asked for than there is time for, the oldest are about to be given up, and
serving these would serve nobody: a step that has waited for too long comes after all others.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from twisted.logger import Logger

STEPS_SECONDS: Final = 0.001
"""After how long no other step is begun before established connections have their turn."""

PATIENCE_SECONDS: Final = 2.0
"""How long a step waits before it is late: a device gives up after ten seconds (realm.md)."""


class Handshakes:
    """The steps that wait to be done.

    Args:
        call_later: the reactor's.
        seconds: a clock.
    """

    log = Logger(namespace="abst.handshakes")

    def __init__(
        self, call_later: Callable[..., Any], seconds: Callable[[], float] = time.monotonic
    ) -> None:
        self._call_later = call_later
        self._seconds = seconds
        self._numbers = count()
        self._waiting: list[tuple[int, float, Callable[[], None]]] = []
        self._late: list[Callable[[], None]] = []
        self._is_called = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._late)

    def number(self) -> int:
        """Return the number of a new connection; lower ones are older."""
        return next(self._numbers)

    def add(self, number: int, step: Callable[[], None]) -> None:
        """Do a step of that connection soon; it has no other one waiting."""
        heapq.heappush(self._waiting, (number, self._seconds(), step))
        self._call()

    def _call(self) -> None:
        if len(self) and not self._is_called:
            self._is_called = True
            self._call_later(0, self._work)

    def _work(self) -> None:
        self._is_called = False
        end = self._seconds() + STEPS_SECONDS
        while len(self):
            step = self._next()
            try:
                step()
            except Exception:
                # One connection's failure must not keep the others from being made.
                self.log.failure("a step of a handshake failed")
            if self._seconds() >= end:
                break
        self._call()

    def _next(self) -> Callable[[], None]:
        """Return the step of the oldest connection that is not late; else the least late one."""
        now = self._seconds()
        while self._waiting:
            _, since, step = heapq.heappop(self._waiting)
            if now - since <= PATIENCE_SECONDS:
                return step
            self._late.append(step)
        return self._late.pop()
