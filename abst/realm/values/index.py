"""What a realm knows in memory of one group's values (spec: values.md, "Changes").

Pure. An index makes the changes: it numbers and hashes them, and knows which ones need not be kept
any more. It holds no sealed value. What it has made counts from then on, though it is not on the
disk yet; who finds out that it never will be throws the index away and loads another one.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterator
from hashlib import sha256
from typing import Final, NamedTuple

from abst.packets import MAX_CHANGES, MAX_VALUE_PACKET_BYTES
from abst.realm.store.interface import CHANGE_BYTES, Change, History
from abst.value_history import NO_HASH, next_head

KEPT_BYTES: Final = 1024
"""A replaced value of at most so many bytes is left on the disk until its change is forgotten.

To empty it at once would cost as much as to write it; this wastes less than the history takes.
"""

PAGE_BYTES: Final = MAX_VALUE_PACKET_BYTES - 512
"""How much the changes of one answer may take; the rest is the answer's own."""

PAUSE_MILLISECONDS: Final = 100
"""How long the rest waits when the times of very many values are over at once."""

ROW_BYTES: Final = 96
"""What a change takes in a packet, beside its sealed value."""


class Entry:
    """The last change of a name.

    Attributes:
        revision: its number.
        name: what the realm sees of the name.
        size: of the sealed value; 0 when there is none.
        has_value: False when the name was deleted, or its time was over.
        due: when its time is over, in milliseconds since 1970; infinite for never.
    """

    __slots__ = ("due", "has_value", "name", "revision", "size")

    def __init__(self, revision: int, name: bytes, size: int, has_value: bool, due: float) -> None:
        self.revision = revision
        self.name = name
        self.size = size
        self.has_value = has_value
        self.due = due


class Plan(NamedTuple):
    """Which changes an answer has.

    Attributes:
        revisions: of the changes, rising; each with whether it is its name's last.
        more: whether there are more after these.
    """

    revisions: dict[int, bool]
    more: bool


class Index:
    """The last change of every name of one group.

    Attributes:
        revision: of the newest change.
        head: the hash of the history after it.
        floor: up to here changes are forgotten, but for the last of each name.
        values: how many names have a value.
        value_bytes: how much their sealed values take.
        stored_bytes: how much all changes take that are kept, with what is left of their values.
        next_due: when the next value's time may be over, in milliseconds since 1970.
    """

    __slots__ = (
        "_current",
        "_dues",
        "_emptied",
        "_names",
        "_sizes",
        "_stale",
        "_stale_bytes",
        "floor",
        "head",
        "next_due",
        "revision",
        "stored_bytes",
        "value_bytes",
        "values",
    )

    def __init__(self, history: History) -> None:
        self.head = history.head
        self.floor = history.floor
        self.revision = history.outlines[-1].revision if history.outlines else 0
        self.values = 0
        self.value_bytes = 0
        self.next_due = math.inf
        self._names: dict[bytes, Entry] = {}
        # Changes up to the floor that were replaced after the floor came to be there.
        self._stale: list[int] = []
        self._stale_bytes = 0
        # What is kept of the sealed value of each change above the floor.
        self._sizes = array("I")
        self.stored_bytes = 0
        self._emptied: list[int] = []
        self._dues: list[tuple[float, int, bytes]] = []
        for revision, name, size, deleted, due in history.outlines:
            older = self._names.pop(name, None)
            if older is not None and older.revision <= self.floor:
                self._stale.append(older.revision)
                self._stale_bytes += CHANGE_BYTES + older.size
            if revision > self.floor:
                self._sizes.append(size or 0)
            self.stored_bytes += CHANGE_BYTES + (size or 0)
            has_value = size is not None and not deleted
            self._names[name] = Entry(
                revision, name, size or 0, has_value, math.inf if due is None else due
            )
        # By revision, which rise: a name that changes goes to the end.
        self._current: dict[int, Entry] = {entry.revision: entry for entry in self._names.values()}
        for entry in self._names.values():
            if entry.has_value:
                self.values += 1
                self.value_bytes += entry.size
        self._renew_dues()

    def __len__(self) -> int:
        return len(self._names)

    @property
    def changes(self) -> int:
        """How many changes are kept above the floor."""
        return len(self._sizes)

    def find(self, name: bytes) -> Entry | None:
        """Return the last change of a name; None when there was none, or it is forgotten."""
        return self._names.get(name)

    def put(self, name: bytes, sealed: bytes, due: int | None) -> Change:
        """Make the change that gives a name a value."""
        change = self._change(name, sealed, sha256(sealed).digest(), False, due)
        self.values += 1
        self.value_bytes += len(sealed)
        if due is not None:
            if len(self._dues) > 2 * len(self._names) + 64:
                self._renew_dues()
            heapq.heappush(self._dues, (due, change.revision, name))
            self.next_due = self._dues[0][0]
        return change

    def delete(self, name: bytes, sealed: bytes) -> Change:
        """Make the change that takes the value of a name away."""
        return self._change(name, sealed, sha256(sealed).digest(), True, None)

    def expire(self, now: float) -> list[Change]:
        """Make the changes for the values whose time is over at a time, in milliseconds.

        Of very many only the first, as many as one packet tells, and the others a little later.
        """
        changes: list[Change] = []
        dues = self._dues
        while dues and dues[0][0] <= now and len(changes) < MAX_CHANGES:
            _, revision, name = heapq.heappop(dues)
            entry = self._names.get(name)
            if entry is not None and entry.revision == revision:
                changes.append(self._change(name, None, NO_HASH, False, None))
        if not dues:
            self.next_due = math.inf
        elif dues[0][0] > now:
            self.next_due = dues[0][0]
        else:
            self.next_due = now + PAUSE_MILLISECONDS
        return changes

    def take_emptied(self) -> list[int]:
        """Return the changes whose sealed values need not be kept since this was last asked."""
        emptied, self._emptied = self._emptied, []
        return emptied

    def forget(self, keep: int) -> list[tuple[int, int]]:
        """Raise the floor so that so many changes are above it.

        Returns:
            Changes that need not be kept any more, as pairs of first and last revision.
        """
        begin, self.floor = self.floor + 1, max(self.floor, self.revision - keep)
        current = self._current
        gone = []
        freed = self._stale_bytes
        self._stale_bytes = 0
        for revision, size in zip(range(begin, self.floor + 1), self._sizes, strict=False):
            entry = current.get(revision)
            if entry is not None:
                if entry.has_value:
                    continue
                del current[revision], self._names[entry.name]
            gone.append(revision)
            freed += CHANGE_BYTES + size
        del self._sizes[: self.floor + 1 - begin]
        self.stored_bytes -= freed
        stale, self._stale = self._stale, []
        return _runs(sorted(stale) + gone)

    def plan(self, since: int) -> Plan:
        """Return which changes after a revision fit one answer."""
        revisions: dict[int, bool] = {}
        used = 0
        for revision in self._after(since):
            entry = self._current.get(revision)
            used += ROW_BYTES + (0 if entry is None else entry.size)
            if revisions and (used > PAGE_BYTES or len(revisions) == MAX_CHANGES):
                return Plan(revisions, more=True)
            revisions[revision] = entry is not None
        return Plan(revisions, more=False)

    def _after(self, since: int) -> Iterator[int]:
        if since < self.floor:
            for revision in self._current:
                if revision > self.floor:
                    break
                if revision > since:
                    yield revision
        yield from range(max(since, self.floor) + 1, self.revision + 1)

    def _change(
        self, name: bytes, sealed: bytes | None, digest: bytes, deleted: bool, due: int | None
    ) -> Change:
        older = self._names.get(name)
        if older is not None:
            del self._current[older.revision]
            if older.has_value:
                self.values -= 1
                self.value_bytes -= older.size
            left = older.size
            if left > KEPT_BYTES:
                self._emptied.append(older.revision)
                self.stored_bytes -= left
                left = 0
                if older.revision > self.floor:
                    self._sizes[older.revision - self.floor - 1] = 0
            if older.revision <= self.floor:
                self._stale.append(older.revision)
                self._stale_bytes += CHANGE_BYTES + left
        self.revision = revision = self.revision + 1
        self.head = head = next_head(self.head, revision, name, digest)
        size = 0 if sealed is None else len(sealed)
        self._sizes.append(size)
        self.stored_bytes += CHANGE_BYTES + size
        entry = Entry(
            revision,
            name,
            size,
            sealed is not None and not deleted,
            math.inf if due is None else due,
        )
        self._names[name] = self._current[revision] = entry
        return Change(revision, name, digest, head, sealed, deleted, due)

    def _renew_dues(self) -> None:
        """Keep no time of a value that has been replaced."""
        self._dues = [
            (entry.due, entry.revision, entry.name)
            for entry in self._names.values()
            if entry.due < math.inf
        ]
        heapq.heapify(self._dues)
        self.next_due = self._dues[0][0] if self._dues else math.inf


def _runs(revisions: list[int]) -> list[tuple[int, int]]:
    """Return numbers that rise as pairs of the first and the last of each run."""
    runs: list[tuple[int, int]] = []
    for revision in revisions:
        if runs and runs[-1][1] == revision - 1:
            runs[-1] = (runs[-1][0], revision)
        else:
            runs.append((revision, revision))
    return runs
