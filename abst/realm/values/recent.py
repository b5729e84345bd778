"""Small sealed values that were put or read lately, in memory: to get them asks no disk. Pure.

Owns nothing that is not on the disk too. Who keeps a value here has been told that it is safe.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MAX_RECENT_BYTES: Final = 32 * 1024 * 1024
"""What all of them may take in memory."""

MAX_SMALL_BYTES: Final = 1024
"""How large a value may be to be kept here."""

RECENT_BYTES: Final = 300
"""What a value takes here beside its own bytes."""


class Recent:
    """The values, the least recently used first.

    Args:
        max_bytes: what all of them may take.
    """

    def __init__(self, max_bytes: int = MAX_RECENT_BYTES) -> None:
        self._left = max_bytes
        self._values: OrderedDict[tuple[bytes, bytes], tuple[int, bytes]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def keep(self, group: bytes, name: bytes, revision: int, sealed: bytes | None) -> None:
        """Keep what a change has put under a name, in place of what an older one has."""
        key = (group, name)
        older = self._values.pop(key, None)
        if older is not None:
            self._left += RECENT_BYTES + len(older[1])
        if sealed is None or len(sealed) > MAX_SMALL_BYTES:
            return
        self._values[key] = (revision, sealed)
        self._left -= RECENT_BYTES + len(sealed)
        while self._left < 0:
            self._left += RECENT_BYTES + len(self._values.popitem(last=False)[1][1])

    def find(self, group: bytes, name: bytes, revision: int) -> bytes | None:
        """Return what a change has put under a name; None when it is not here."""
        key = (group, name)
        found = self._values.get(key)
        if found is None or found[0] != revision:
            return None
        self._values.move_to_end(key)
        return found[1]
