"""What two members say to each other about one group on one channel (spec: groups.md).

Pure: "Giving access". Owns whose turn it is, and what the other side has got already, so that on
one channel nothing is sent twice and two that can never agree fall silent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from abst.address import RealmAddress
from abst.device.groups.entries import ITEM_BYTES, first_that_fit
from abst.device.groups.keys import GroupKeys
from abst.device.groups.roster import Roster
from abst.packets import GiveGroup

PACKETS_AT_ONCE: Final = 2
"""With entries, before the other side has said something: far less than a realm queues."""

MAX_PACKET_BYTES: Final = 60_000
_FIXED_BYTES: Final = 3000
"""Of a packet, without its seeds and entries: most of it a realm's address."""


class SharedGroup(Protocol):
    """A group of this device, as far as other members may know of it."""

    kind: str
    founder: bytes
    realm: RealmAddress | None
    keys: GroupKeys
    roster: Roster


class Talk:
    """One group, one channel.

    Args:
        group_id: the group.
        group: the same, with all that may be said of it.
        speaks_first: whether it is this side that sends its entries first when the rosters differ.
            The other then leaves out what it has got.

    Attributes:
        group: as given.
        is_gone: whether the other side has said that it is not in the group.
        awaits_answer: whether the group was offered, and the other side has not taken it yet. What
            it says of the group until then, it may have said before the offer had come.
    """

    def __init__(self, group_id: bytes, group: SharedGroup, *, speaks_first: bool) -> None:
        self.group = group
        self.is_gone = self.awaits_answer = False
        self._group_id = group_id
        self._speaks_first = speaks_first
        self._told: tuple[int, bytes] | None = None
        self._their_epoch: int | None = None
        # How many entries, in the roster's order, the other side has; and what it has sent itself.
        self._sent = 0
        self._received: set[bytes] = set()
        self._has_said_all = self._has_heard_all = False
        self._entries_came = False
        self._given_epoch = -1
        self._answered: tuple[int, bytes, int, bytes] | None = None

    def offer(self) -> list[GiveGroup]:
        """Return the offer of the group, with as much of its roster as fits."""
        group, seeds = self.group, self.group.keys.seeds
        entries = _that_fit(group.roster.entries(), seeds)
        self._sent = len(entries)
        self.awaits_answer = True
        offer = GiveGroup(
            "offer",
            self._group_id,
            founder=group.founder,
            kind=group.kind,
            realm=None if group.realm is None else str(group.realm),
            epoch=group.keys.epoch,
            seeds=list(seeds),
            entries=entries,
            digest=group.roster.digest(),
        )
        return [offer]

    def state(self) -> list[GiveGroup]:
        """Return how things stand here."""
        epoch, digest = self._told = self._state()
        self._entries_came = False
        return [GiveGroup("state", self._group_id, epoch=epoch, digest=digest)]

    def change(self, *, is_in: bool, is_known: bool = False) -> list[GiveGroup]:
        """Return what to say after the group has changed.

        Args:
            is_in: whether this device is still in it; if not, this is the last that it says.
            is_known: whether the other side is likely to have heard the same. It is told how things
                stand here, and may ask for more.
        """
        said = self._more() if self._has_said_all and not is_known else []
        if not is_in:
            return said
        said += self._keys()
        # While entries are coming their sender's state is about to come, and is answered.
        is_news = self._told != self._state() and not self._entries_came
        return said + self.state() if is_news else said

    def state_received(self, epoch: int, digest: bytes) -> list[GiveGroup]:
        """Return what to answer to how things stand there."""
        self.is_gone = False
        self._their_epoch = epoch
        pair = (epoch, digest, *self._state())
        said: list[GiveGroup] = []
        is_same = digest == self.group.roster.digest()
        if is_same:
            self._sent = len(self.group.roster)
            self._received.clear()
            self._has_said_all = self._has_heard_all = True
            self._entries_came = False
        elif self._is_my_turn():
            said = self._more()
        said += self._keys()
        if said or self._entries_came:
            return said + self.state()
        # The other side may wait for a word. Whatever it makes of it, it is said once.
        is_level = is_same and epoch <= self.group.keys.epoch
        if is_level or pair == self._answered:
            return []
        self._answered = pair
        return (self._end() if not is_same and self._is_my_turn() else []) + self.state()

    def entries_received(self, entries: Sequence[bytes]) -> None:
        """Note what the other side has sent, after it was merged; nothing means that it was all."""
        self._received |= {entry for entry in entries if entry in self.group.roster}
        self._entries_came = True
        self._has_heard_all |= not entries

    def _is_my_turn(self) -> bool:
        return self._speaks_first or self._has_heard_all

    def _state(self) -> tuple[int, bytes]:
        return self.group.keys.epoch, self.group.roster.digest()

    def _more(self) -> list[GiveGroup]:
        """Return what the other side has not got, as much as may be on its way at once."""
        fresh = self.group.roster.entries(since=self._sent)
        unsent = [
            (position, entry)
            for position, entry in enumerate(fresh, self._sent)
            if entry not in self._received
        ]
        rest = [entry for _, entry in unsent]
        said = []
        for _ in range(PACKETS_AT_ONCE):
            if piece := _that_fit(rest):
                said.append(GiveGroup("entries", self._group_id, entries=piece))
                rest = rest[len(piece) :]
        self._sent = unsent[-len(rest)][0] if rest else len(self.group.roster)
        if not rest and not self._has_said_all:
            self._has_said_all = True
            said += self._end()
        return said

    def _end(self) -> list[GiveGroup]:
        return [GiveGroup("entries", self._group_id, entries=[])]

    def _keys(self) -> list[GiveGroup]:
        """Return the keys when the other side needs them, and has the whole roster before them.

        Else it might give them to a device of whose removal it does not know yet.
        """
        keys = self.group.keys
        has_all = self._sent == len(self.group.roster)
        needs = self._their_epoch is not None and self._their_epoch < keys.epoch
        if not has_all or not needs or self._given_epoch == keys.epoch:
            return []
        self._given_epoch = keys.epoch
        return [GiveGroup("keys", self._group_id, epoch=keys.epoch, seeds=list(keys.seeds))]


def _that_fit(entries: Sequence[bytes], seeds: Sequence[bytes] = ()) -> list[bytes]:
    """Return the first entries, as many as fit one packet with these seeds."""
    seeds_bytes = sum(len(seed) + ITEM_BYTES for seed in seeds)
    return first_that_fit(entries, MAX_PACKET_BYTES - _FIXED_BYTES - seeds_bytes)
