"""Whether somebody who waits for a peer shall be told so. Pure: the time is an argument."""

from __future__ import annotations

from typing import Final

QUIET_SECONDS: Final = 10.0
"""How long a peer may acknowledge nothing of what has been sent."""

PATHLESS_SECONDS: Final = 2.0
"""How long a session may have no path: it often finds another one at once."""


class Patience:
    """One wait, looked at again and again.

    Attributes:
        is_waiting: nothing goes on just now.
    """

    def __init__(self, now: float) -> None:
        self.is_waiting = False
        self._moves = 0
        self._moved_at = now
        self._path_at = now

    def look(self, now: float, *, has_path: bool, unacknowledged: int, moves: int) -> bool:
        """Return whether ``is_waiting`` has changed.

        Args:
            now: the time.
            has_path: something carries the session.
            unacknowledged: how many packets the peer has not acknowledged.
            moves: how often anything has come from it, a number that grows.
        """
        has_moved = moves != self._moves or (has_path and not unacknowledged)
        if has_moved:
            self._moves, self._moved_at = moves, now
        if has_path:
            self._path_at = now
        if self.is_waiting:
            changed = has_path and has_moved
        else:
            changed = (
                now - self._moved_at >= QUIET_SECONDS or now - self._path_at >= PATHLESS_SECONDS
            )
        self.is_waiting ^= changed
        return changed
