"""Whose turn it is: what is scarce is shared by what has been used of it (spec: realm.md).

Pure. Start-time fair queueing (Goyal, Vin and Cheng, 1996): each turn has a start, which is where
its owner's last one ended, and the earliest start is the next turn. Whoever always wants something
gets as much as others that do, as with deficit round robin. Whoever has used little starts a bit
before the clock, which is before all of these: it waits for one turn and not for a round of them.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)

_KEPT: Final = 64


class Shares(Generic[Owner]):
    """How much each owner has used of something, as far as it matters for who is next.

    Args:
        head_start: how far before the clock those start that have used little: about as much as is
            used in one turn. It is had once, and again only by who uses less than a share.

    Attributes:
        clock: the start of the turn that was taken last.
    """

    __slots__ = ("_ends", "_head_start", "_prune_at", "clock")

    def __init__(self, head_start: int) -> None:
        self.clock = 0
        self._head_start = head_start
        self._ends: dict[Owner, int] = {}
        self._prune_at = _KEPT

    def __len__(self) -> int:
        return len(self._ends)

    def start_of(self, owner: Owner) -> int:
        """Return where a turn of this owner would start; the least start is next."""
        earliest = self.clock - self._head_start
        return max(earliest, self._ends.get(owner, earliest))

    def take(self, owner: Owner, start: int, used: int) -> int:
        """Count a turn that was taken; return where it ends, and the owner's next one starts."""
        self.clock = max(self.clock, start)
        end = self._ends[owner] = start + used
        if len(self._ends) > self._prune_at:
            self._prune()
        return end

    def clear(self) -> None:
        """Forget what was used: nobody waits."""
        self.clock = 0
        self._ends.clear()
        self._prune_at = _KEPT

    def _prune(self) -> None:
        """Forget those that have used so little that it makes no difference."""
        earliest = self.clock - self._head_start
        self._ends = {owner: end for owner, end in self._ends.items() if end > earliest}
        self._prune_at = max(_KEPT, 2 * len(self._ends))
