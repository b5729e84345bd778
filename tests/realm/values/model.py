"""What the specification says of a group's values (values.md), as plainly as it can be written.

It keeps every change for ever, and looks through all of them for each answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from abst.realm.limits import Limits

NO_HASH = bytes(32)


class Made(NamedTuple):
    """A change as it was made."""

    revision: int
    name: bytes
    sealed: bytes | None
    deleted: bool
    due: float | None
    head: bytes
    floor: int
    """Up to where everything but the last change of each value is forgotten after it."""

    @property
    def digest(self) -> bytes:
        """What stands for the value in the history."""
        return NO_HASH if self.sealed is None else sha256(self.sealed).digest()

    @property
    def has_value(self) -> bool:
        """Whether its name has a value after it."""
        return self.sealed is not None and not self.deleted


@dataclass
class Model:
    """One group."""

    limits: Limits
    changes: list[Made] = field(default_factory=list)

    @property
    def revision(self) -> int:
        """The number of the newest change."""
        return len(self.changes)

    @property
    def head(self) -> bytes:
        """The hash of the history."""
        return self.head_at(self.revision)

    @property
    def floor(self) -> int:
        """Up to where changes are forgotten."""
        return self.changes[-1].floor if self.changes else 0

    def head_at(self, revision: int) -> bytes:
        """Return the hash after a change."""
        return self.changes[revision - 1].head if revision else NO_HASH

    def last(self) -> dict[bytes, Made]:
        """Return the last change of each name, but for what is forgotten."""
        found = {change.name: change for change in self.changes}
        return {
            name: change
            for name, change in found.items()
            if change.has_value or change.revision > self.floor
        }

    def value_bytes(self) -> int:
        """Return how much the values take."""
        return sum(len(item.sealed or b"") for item in self.last().values() if item.has_value)

    def kept(self, since: int) -> list[Made]:
        """Return what there is to tell of the changes after a revision."""
        last = self.last()
        return [
            change
            for change in self.changes[since:]
            if change.revision > self.floor or last.get(change.name) is change
        ]

    def add(self, *news: tuple[bytes, bytes | None, bool, float | None]) -> list[Made]:
        """Make changes in one step."""
        made = []
        for name, sealed, deleted, due in news:
            revision = self.revision + 1
            digest = NO_HASH if sealed is None else sha256(sealed).digest()
            number = revision.to_bytes(8, "big")
            head = sha256(b"ABST change 1" + self.head + number + name + digest).digest()
            change = Made(revision, name, sealed, deleted, due, head, self.floor)
            self.changes.append(change)
            made.append(change)
        most = self.limits.group_changes
        if self.revision - self.floor > most + most // 8:
            self.changes[-1] = self.changes[-1]._replace(floor=self.revision - most)
        return made

    def expire(self, now: float) -> list[Made]:
        """Make the changes for the values whose time is over."""
        over = [item for item in self.last().values() if item.due is not None and item.due <= now]
        over.sort(key=lambda item: (item.due, item.revision))
        return self.add(*((item.name, None, False, None) for item in over))
