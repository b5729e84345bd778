"""Moving a group to its next epoch (spec: groups.md, "Removing a member").

Owns the key of the epoch that this device wants: it is stored before the realm hears of it, given
up when another member was faster, and asked for again as long as a removal has not been answered by
a key that the removed device does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from abst.device.groups.entries import raw_key_of
from abst.device.groups.keys import GroupKeys
from abst.device.groups.roster import Roster
from abst.errors import AbstError, GroupError
from abst.identity import Identity
from abst.packets import SEED_BYTES


class RotationOwner(Protocol):
    """The group."""

    identity: Identity
    keys: GroupKeys
    roster: Roster
    random_bytes: Callable[[int], bytes]

    @property
    def can_rotate(self) -> bool:
        """Whether it has a realm, and this device is a member."""

    def keep_next_seed(self, seed: bytes | None) -> None:
        """Store the seed of the epoch that is wanted, at once.

        Raises:
            AbstError: that failed.
        """

    def move(self) -> None:
        """Have the realm move the group to ``next_keys``."""

    def problem_seen(self, problem: AbstError) -> None:
        """Tell the application of something that is not as it should be."""


class Rotation:
    """The next epoch of one group.

    Args:
        owner: the group.
        next_seed: the seed that was stored, or None.

    Attributes:
        next_keys: the keys with the epoch to which the group shall be moved, or None.
    """

    def __init__(self, owner: RotationOwner, next_seed: bytes | None) -> None:
        self.next_keys = None if next_seed is None else owner.keys.with_next(next_seed)
        self._owner = owner
        # Removals for which a key was made, and of which the roster cannot say so.
        self._unsaid: set[bytes] = set()
        self._waiting: list[Deferred[None]] = []

    def when_moved(self) -> Deferred[None]:
        """Return a Deferred that fires once no move is wanted any more."""
        moved: Deferred[None] = Deferred()
        self._waiting.append(moved)
        return moved

    @property
    def is_wanted(self) -> bool:
        """Whether this device wants the group to move, or should since somebody was removed."""
        return self.next_keys is not None or self._is_due()

    def want(self) -> None:
        """Move the group, unless that is going on already."""
        if self.next_keys is None:
            seed = self._owner.random_bytes(SEED_BYTES)
            try:
                next_keys = self._owner.keys.with_next(seed)
                # Before the realm hears of it: the key of an epoch must not be lost.
                self._owner.keep_next_seed(seed)
            except AbstError as problem:
                self._owner.problem_seen(problem)
                self.fail(problem)
                return
            self.next_keys = next_keys
        self._owner.move()

    def look_for_removals(self) -> None:
        """Move the group when this device has to, since somebody was removed."""
        if not self._owner.can_rotate:
            return
        if self._is_due():
            self.want()
        elif self.next_keys is None:
            waiting, self._waiting = self._waiting, []
            for moved in waiting:
                moved.callback(None)

    def moved(self) -> GroupKeys:
        """Note in the roster that the realm has moved the group; return the keys from now on."""
        keys = self.next_keys
        assert keys is not None
        self.next_keys = None
        # Also for a removal that was not known yet when the key was made: nobody has got it so far.
        pending = self._pending(keys.epoch - 1)
        public = keys.public_key(keys.epoch)
        try:
            self._owner.roster.note_epoch(self._owner.identity, keys.epoch, public, pending)
        except GroupError as problem:
            # The roster is full, say. Nobody else has the key: without it the group would be lost.
            self._unsaid.update(pending)
            self._owner.problem_seen(problem)
        return keys

    def outrun(self) -> None:
        """Forget the key that is wanted: another member has moved the group."""
        self.next_keys = None

    def fail(self, problem: AbstError) -> None:
        """Tell who waits for a move that it does not come."""
        waiting, self._waiting = self._waiting, []
        for moved in waiting:
            moved.errback(problem)

    def _is_due(self) -> bool:
        return not self._unsaid.issuperset(self._pending(self._owner.keys.epoch))

    def _pending(self, last: int) -> list[bytes]:
        """Return the removals for which no key was made, up to an epoch."""
        keys = self._owner.keys
        epoch_keys = [keys.public_key(epoch) for epoch in range(last + 1)]
        return self._owner.roster.pending_removals(raw_key_of(self._owner.identity), epoch_keys)
