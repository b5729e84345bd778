"""What a sender is to be told of its packets that were dropped (spec: realm.md, "Congestion").

Pure. Reports are joined, and there is a bound on how many different ones wait: past it what is
dropped is still counted, and it is not said any more for whom it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from abst.errors import MEANINGS, Code
from abst.packets import Error

MAX_REPORTED_TARGETS: Final = 64

_Key = tuple[Code, int, bytes | None, bytes | None]


class Drops:
    """Drops of one sender's packets that it has not been told of.

    Attributes:
        counts: how many packets, by code, packet id, peer group and target.
    """

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[_Key, int] = {}

    def add(
        self, code: Code, about: int, group: bytes | None, target: bytes | None, count: int
    ) -> None:
        """Count packets that were dropped."""
        key: _Key = (code, about, group, target)
        if key not in self.counts and len(self.counts) >= MAX_REPORTED_TARGETS:
            key = (code, about, None, None)
        self.counts[key] = self.counts.get(key, 0) + count

    def take(self, waits: Mapping[Code, float | None]) -> list[Error]:
        """Return what the sender is to be told, and forget it.

        Args:
            waits: after how many seconds to try again, where a code can say that.
        """
        counts, self.counts = self.counts, {}
        return [
            Error(
                str(code),
                MEANINGS[code].sentence,
                about=about,
                retry_after=waits.get(code),
                target_device=target,
                dropped=count,
                peer_group=group,
            )
            for (code, about, group, target), count in counts.items()
        ]
