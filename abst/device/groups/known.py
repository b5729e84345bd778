"""What a device has checked of a group's changes (spec: values.md, "A realm that lies").

Pure. Owns the facts, their bounds and their form in storage; ``draft`` finds new ones, and
``history`` compares what the realm and the members say with them.
"""

from __future__ import annotations

from typing import Final, Protocol

from abst.device.groups.changes import LastChange, Snapshot, Step
from abst.packets.limits import MAX_MEMBERS
from abst.value_history import NO_HASH

MAX_STEPS: Final = 1024
"""How many of the newest changes are remembered one by one."""

MAX_NAMES: Final = 100_000
"""How many names are remembered; a realm allows 10000 values by default."""

MAX_NAMES_WITHOUT_VALUE: Final = 10_000
"""How many of these may be names that have no value any more."""

MAX_WRITERS: Final = 4000
"""Of how many devices it is remembered how new their words were; a group has at most 3000 here."""

MAX_PROMISES: Final = 1024


class Finding(Protocol):
    """What has been checked, on top of what was known."""

    @property
    def revision(self) -> int:
        """The newest change that was checked."""

    @property
    def head(self) -> bytes | None:
        """The hash of the history up to there."""

    @property
    def epoch(self) -> int:
        """The largest epoch in which anything was sealed."""

    @property
    def names(self) -> dict[bytes, LastChange]:
        """The last change of each name that has changed."""

    @property
    def steps(self) -> dict[int, Step]:
        """The changes, by revision."""

    @property
    def writers(self) -> dict[bytes, tuple[int, int]]:
        """The largest revision and milliseconds in words of each that has written."""


class Known:
    """The facts; see ``Snapshot``, which names them.

    Attributes:
        owing: the names whose last change has come with its hash alone.
        digests: those of all ``steps``.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.revision = snapshot.revision
        self.head = snapshot.head
        self.epoch = snapshot.epoch
        self.claimed = snapshot.claimed
        self.names: dict[bytes, LastChange] = {}
        self.owing: set[bytes] = set()
        self.steps: dict[int, Step] = {}
        self.digests: set[bytes] = set()
        self.writers = {writer: (revision, at) for writer, revision, at in snapshot.writers}
        self.seen = {member: (revision, head) for member, revision, head in snapshot.seen}
        self.promised = {revision: (name, digest) for revision, name, digest in snapshot.promised}
        self._without_value: dict[bytes, None] = {}
        for row in sorted(snapshot.names, key=lambda row: row[1]):
            self._set_name(row[0], LastChange(*row[1:]))
        for revision, head, digest in sorted(snapshot.steps):
            self._add_step(revision, Step(head, digest))

    def snapshot(self, since: int = 0) -> Snapshot:
        """Return the facts in rows; of names and steps only those after a revision.

        A store that keeps older rows may do so: what is too much is left out when it is loaded.
        """
        return Snapshot(
            self.revision,
            self.head,
            self.epoch,
            self.claimed,
            [(name, *last) for name, last in self.names.items() if last.revision > since],
            [(at, *step) for at, step in self.steps.items() if at > since],
            [(writer, *largest) for writer, largest in self.writers.items()],
            [(member, *place) for member, place in self.seen.items()],
            [(revision, *change) for revision, change in self.promised.items()],
        )

    @property
    def newest_named(self) -> int:
        """The newest change of which the realm has said that it is there."""
        return max(self.claimed[0], max(self.promised, default=0))

    def head_at(self, revision: int) -> bytes | None:
        """Return the hash of the history up to a revision; None when it is not remembered."""
        if revision == 0:
            return NO_HASH
        step = self.steps.get(revision)
        return None if step is None else step.head

    def add(self, found: Finding) -> None:
        """Take what has been checked."""
        assert found.head is not None
        self.revision, self.head, self.epoch = found.revision, found.head, found.epoch
        for name, last in found.names.items():
            self._set_name(name, last)
        for revision, step in found.steps.items():
            self._add_step(revision, step)
        self.writers.update(found.writers)
        while len(self.writers) > MAX_WRITERS:
            del self.writers[min(self.writers, key=lambda who: self.writers[who])]
        self.seen = {who: place for who, place in self.seen.items() if place[0] > self.revision}
        self.promised = {at: it for at, it in self.promised.items() if at > self.revision}

    def claim(self, revision: int, head: bytes) -> None:
        """Remember the newest change that the realm has named."""
        self.claimed = max(self.claimed, (revision, head), key=lambda place: place[0])

    def promise(self, revision: int, name: bytes, digest: bytes) -> None:
        """Remember what the realm has said of a change that has not come."""
        self.promised[revision] = (name, digest)
        if len(self.promised) > MAX_PROMISES:
            del self.promised[min(self.promised)]

    def see(self, member: bytes, revision: int, head: bytes) -> None:
        """Remember what a member knows that this device does not."""
        if revision > self.seen.get(member, (self.revision, NO_HASH))[0]:
            self.seen[member] = (revision, head)
        if len(self.seen) > MAX_MEMBERS:
            del self.seen[min(self.seen, key=lambda who: self.seen[who][0])]

    def _set_name(self, name: bytes, last: LastChange) -> None:
        self.names[name] = last
        (self.owing.add if last.replaced_by else self.owing.discard)(name)
        self._without_value.pop(name, None)
        if not last.has_value:
            self._without_value[name] = None
            if len(self._without_value) > MAX_NAMES_WITHOUT_VALUE:
                oldest = next(iter(self._without_value))
                del self._without_value[oldest], self.names[oldest]

    def _add_step(self, revision: int, step: Step) -> None:
        self.steps[revision] = step
        self.digests.add(step.digest)
        if len(self.steps) > MAX_STEPS:
            self.digests.discard(self.steps.pop(next(iter(self.steps))).digest)
