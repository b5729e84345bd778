"""What members say of a roster to their whole group (spec: rosters.md, "Through the group").

Owns what this device has said of its own entries, and how often it says anything. Whether it may
say something just now is its owner's to know.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgpack

from abst import codec
from abst.device.groups.entries import ITEM_BYTES, Entry, first_that_fit, raw_key_of
from abst.device.groups.roster import Roster
from abst.errors import AbstError, Code, RemoteProtocolError
from abst.identity import Identity
from abst.packets import GiveGroup

NEWS_SECONDS: Final = 1.0
"""From one message to the next: who adds a hundred devices at once says so in three messages."""

REJOIN_SECONDS: Final = 60.0
"""After joining, for what has become news before: others have lost the realm at the same time."""

_KEY: Final = "entries"
_FIELD: Final = next(item for item in GiveGroup.body if item.name == _KEY)
_MAP_BYTES: Final = len(msgpack.packb({_KEY: []})) + ITEM_BYTES


class RosterNewsOwner(Protocol):
    """The group."""

    identity: Identity
    roster: Roster
    reactor: Any

    @property
    def max_news_bytes(self) -> int:
        """How long a message about the roster may be just now; 0 while there may be none."""

    def say_news(self, content: bytes) -> None:
        """Tell the other members that are here.

        Raises:
            AbstError: that is not possible.
        """

    def problem_seen(self, problem: AbstError) -> None:
        """Tell the application of something that is not as it should be."""


class RosterNews:
    """What this device says of the roster of one group.

    Args:
        owner: the group.
        said: the number of the last entry of this device that it has said.

    Attributes:
        said: the same, to be stored.
    """

    def __init__(self, owner: RosterNewsOwner, said: int) -> None:
        self.said = said
        self._owner = owner
        self._next_at = 0.0
        self._call: Any = None

    def joined(self) -> None:
        """Say what has become news meanwhile, once others have had the time to join too."""
        if self._fresh():
            self._look_in(REJOIN_SECONDS)

    def look(self) -> None:
        """Say what is new of this device's own entries, as soon as that may be."""
        owner = self._owner
        self.stop()
        fresh = self._fresh()
        most = owner.max_news_bytes if fresh else 0
        if not most:
            return
        wait = self._next_at - owner.reactor.seconds()
        if wait > 0:
            # At most as long as it ever is: somebody may have set the clock back.
            self._look_in(min(wait, NEWS_SECONDS))
            return
        said = first_that_fit([entry.data for entry in fresh], most - _MAP_BYTES)
        if not said:
            return  # At a realm of small packets: it goes from peer to peer alone.
        try:
            owner.say_news(pack_news(said))
        except AbstError as problem:
            owner.problem_seen(problem)
            return
        self.said = fresh[len(said) - 1].number
        self._next_at = owner.reactor.seconds() + NEWS_SECONDS
        self.look()

    def stop(self) -> None:
        """Wait for nothing any more."""
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _fresh(self) -> list[Entry]:
        own = raw_key_of(self._owner.identity)
        return self._owner.roster.entries_by(own, after=self.said)

    def _look_in(self, seconds: float) -> None:
        self.stop()
        self._call = self._owner.reactor.callLater(seconds, self.look)


def pack_news(entries: list[bytes]) -> bytes:
    """Return what a message that says entries of a roster has as its content."""
    packed: bytes = msgpack.packb({_KEY: entries})
    return packed


def read_news(content: bytes) -> list[bytes]:
    """Return the entries that a message says.

    Raises:
        RemoteProtocolError: it says none.
    """
    entries = codec.decode(content).get(_KEY)
    if not isinstance(entries, list) or not _FIELD.holds(entries):
        raise RemoteProtocolError(Code.MALFORMED, f"{_KEY}: needs {_FIELD.type}")
    return entries
