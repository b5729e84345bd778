"""Which session two devices mean: the IDs that their Hellos propose and decide on. Pure.

Spec: channel.md, "Beginning and resuming". Several channels may be on their way at once, in both
directions, and all of them have to come to the same session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from abst.device.session import Session
from abst.packets import SESSION_ID_BYTES

SESSION_LABEL: Final = b"ABST session 1"


def common_session(one: bytes, other: bytes) -> bytes:
    """Return the ID of the session of two devices that have proposed different ones."""
    return hashlib.sha256(SESSION_LABEL + min(one, other) + max(one, other)).digest()[
        :SESSION_ID_BYTES
    ]


class Agreement:
    """What this device proposes to one peer, and remembers of what it has proposed.

    Args:
        random_bytes: returns that many unpredictable bytes.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._fresh_id: bytes | None = None
        self._former_id: bytes | None = None

    def own_id(self, session: Session | None) -> bytes:
        """Return the ID of the session, or the one that is proposed while there is none."""
        if session is not None:
            return session.session_id
        if self._fresh_id is None:
            self._fresh_id = self._random_bytes(SESSION_ID_BYTES)
        return self._fresh_id

    def decide(self, session: Session | None, proposed: bytes) -> tuple[bytes, int]:
        """Return the ID that counts for a channel, and what has been received of that session."""
        own = self.own_id(session)
        is_former = self._former_id is not None and common_session(self._former_id, proposed) == own
        if session is not None and (proposed == own or is_former):
            return own, session.received
        return common_session(own, proposed), 0

    def agreed(self, former: bytes, session_id: bytes) -> None:
        """Note what this device had proposed before it agreed on a session."""
        if former != session_id:
            self._former_id = former

    def begun(self) -> None:
        """Note that a session has begun: the next one is another."""
        self._fresh_id = None

    def ended(self) -> None:
        """Note that the session is over."""
        self._fresh_id = self._former_id = None
