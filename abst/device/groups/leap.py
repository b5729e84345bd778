"""Changes after a gap: a realm has forgotten what this device has missed (spec: values.md).

Pure. Then all that there is is listed from the beginning. Up to the realm's floor each change
stands for itself: it counts by its signature, and by not going back behind what is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from abst.device.groups.changes import Change, LastChange, Step, What
from abst.device.groups.draft import BROKEN, Draft, OpenValue, open_named
from abst.device.groups.known import Known
from abst.errors import DishonestRealmError
from abst.value_history import NO_HASH


class Leap(Draft):
    """A list of all that there is.

    Args:
        known: what it is compared with.
        awaited: the hashes of what this device has sealed and waits to see.
        began: the newest change when the list was begun.

    Attributes:
        floor: up to where the realm has forgotten changes.
    """

    def __init__(self, known: Known, awaited: Mapping[bytes, Any], began: int) -> None:
        super().__init__(known, awaited)
        self.revision = 0
        self.head = None
        self.began = began
        self.floor = 0
        self._floor_head = NO_HASH
        self._listed: set[bytes] = set()

    @property
    def reach(self) -> int:
        """The largest floor with which this can go on: what is listed is younger than it began."""
        return self.began

    @property
    def missed(self) -> tuple[int, int]:
        """The first and the last revision between which changes are forgotten."""
        return (self._known.revision + 1, self.floor)

    def raise_floor(self, floor: int, head: bytes) -> None:
        """Take where the changes that are forgotten end, as the next page of the list says."""
        super().raise_floor(floor, head)
        if floor < self.floor or (0 < floor == self.floor and head != self._floor_head):
            raise DishonestRealmError(
                BROKEN, f"changes are forgotten up to {floor}, and were up to {self.floor}"
            )
        self.floor, self._floor_head = floor, head
        if self.revision < floor:
            self.head = None

    def finish(self) -> None:
        """Take the end of the list: what has not come has no value any more.

        Raises:
            DishonestRealmError: a change that the realm had promised is not there.
        """
        if self.head is None:
            self._begin_after_floor()
        for name, last in self._known.names.items():
            if last.has_value and name not in self._listed:
                self._forget(name)
        for name, last in list(self.names.items()):
            if last.replaced_by and last.revision <= self.floor:
                self._forget(name)
        for revision, (name, _) in self._known.promised.items():
            found = self.last_of(name)
            is_older = found is not None and found.has_value and found.revision < revision
            if revision <= self.revision and is_older:
                raise DishonestRealmError(BROKEN, f"change {revision} is said to be, and is not")

    def _forget(self, name: bytes) -> None:
        self.changes.append(Change(What.FORGOTTEN, self.floor, name))
        self.names[name] = LastChange(self.floor, NO_HASH, False, False)

    def _begin_after_floor(self) -> None:
        self.revision, self.head = self.floor, self._floor_head
        self.steps[self.floor] = Step(self.head, NO_HASH)
        self._check_named(self.floor, self.head)

    def _is_told_again(
        self, revision: int, name: bytes, digest: bytes, sealed: bytes | None, open_value: OpenValue
    ) -> bool:
        if revision > self.floor:
            if self.head is None:
                self._begin_after_floor()
            return False
        if sealed is None and digest != NO_HASH:
            # What has replaced it comes later, or is forgotten.
            self._link(revision, name, digest)
            return True
        if revision > self._known.revision:
            return False
        last = self._known.names.get(name)
        if last is None:
            # A name whose deletion is so old that it is not remembered.
            is_same = sealed is None or (
                open_named(self._known, name, digest, sealed, open_value).value is None
            )
        else:
            is_same = (revision, digest) == (last.revision, last.digest)
        if not is_same:
            raise DishonestRealmError(
                BROKEN, f"change {revision} is given as its name's last, and is not"
            )
        self._listed.add(name)
        self._link(revision, name, digest)
        return True

    def _can_end(self, name: bytes) -> bool:
        # The change that has given the value its time may be forgotten.
        last = self.last_of(name)
        return last is None or last.revision <= self.floor or super()._can_end(name)

    def _owes(self, last: LastChange) -> bool:
        # What has replaced a change before the floor may be forgotten.
        return super()._owes(last) and last.revision > self.floor

    def _replaced(self, last: LastChange | None) -> LastChange | None:
        return None

    def _take(
        self,
        revision: int,
        name: bytes,
        digest: bytes,
        sealed: bytes | None,
        newest: int,
        open_value: OpenValue,
    ) -> None:
        super()._take(revision, name, digest, sealed, newest, open_value)
        self._listed.add(name)

    def _link(self, revision: int, name: bytes, digest: bytes) -> None:
        if self.head is not None:
            super()._link(revision, name, digest)
        elif revision > self.revision:
            self.revision = revision
        else:
            raise DishonestRealmError(
                BROKEN, f"change {revision} is told after change {self.revision}"
            )
