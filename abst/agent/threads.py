"""What may wait long for the disk, in threads; and the end of that when the agent stops.

Owns that the agent does not leave while a thread still works for it: what comes of it has to be
written down, and told to whoever waits for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread


class Threads:
    """Calls functions in threads until it is closed.

    Args:
        in_thread: calls a function with arguments elsewhere; returns a Deferred of its result.
    """

    def __init__(self, in_thread: Callable[..., Deferred[Any]] = deferToThread) -> None:
        self._in_thread = in_thread
        self._underway = 0
        self._closed: Deferred[None] | None = None

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Call a function; the Deferred never fires when the agent is stopping already.

        What is not begun is on record, and is begun after the next start.
        """
        told: Deferred[Any] = Deferred()
        if self._closed is None:
            self._underway += 1
            # Whoever asked is told first, and only then is it over.
            self._in_thread(function, *arguments).addBoth(told.callback).addBoth(self._ended)
        return told

    def close(self) -> Deferred[None]:
        """Begin nothing any more; the Deferred fires once nothing is under way."""
        if not self._underway:
            self._closed = succeed(None)
        elif self._closed is None:
            self._closed = Deferred()
        waiting: Deferred[None] = Deferred()
        self._closed.addCallback(lambda _: waiting.callback(None))
        return waiting

    def _ended(self, _: None) -> None:
        self._underway -= 1
        if not self._underway and self._closed is not None:
            self._closed.callback(None)
