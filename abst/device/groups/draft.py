"""Changes that are being checked (spec: values.md, "History", "A realm that lies").

Pure. A draft stands on what is known and holds what would be known in addition; nothing of it
counts before all of it has been checked. It goes on without a gap; ``leap`` crosses one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from abst.device.groups.changes import Change, LastChange, Step, What
from abst.device.groups.known import MAX_NAMES, MAX_STEPS, Known
from abst.device.groups.sealed_values import ValueWord, epoch_of
from abst.errors import DishonestRealmError, GroupError
from abst.value_history import NO_HASH, next_head

OpenValue = Callable[[bytes, bytes], ValueWord]
"""Opens what the realm keeps under a hidden name, or raises as ``sealed_values.open_value``."""

BROKEN: Final = "broken_history"


class Draft:
    """Changes that follow the newest one that is known, one by one.

    Args:
        known: what they are added to.
        awaited: the hashes of what this device has sealed and waits to see.

    Attributes:
        revision: the newest change that was checked.
        head: the hash of the history up to there; None while that is not known.
        changes: what has happened, for the application.
        passed: of what was awaited and has come: its revision, and what it has replaced.
    """

    def __init__(self, known: Known, awaited: Mapping[bytes, Any]) -> None:
        self.revision = known.revision
        self.head: bytes | None = known.head
        self.epoch = known.epoch
        self.names: dict[bytes, LastChange] = {}
        self.steps: dict[int, Step] = {}
        self.writers: dict[bytes, tuple[int, int]] = {}
        self.changes: list[Change] = []
        self.passed: dict[bytes, tuple[int, LastChange | None]] = {}
        self._known = known
        self._awaited = awaited
        self._digests: set[bytes] = set()
        self._owing: set[bytes] = set()
        self._member_heads = dict(known.seen.values())

    def take_all(self, changes: Iterable[list[Any]], newest: int, open_value: OpenValue) -> None:
        """Check the changes of a packet that names ``newest`` as the newest change of the group.

        Raises:
            DishonestRealmError: they cannot be true.
            MissingEpochError: one was sealed in an epoch whose key has not come yet.
            GroupError: there are too many names.
        """
        before = 0
        for revision, name, digest, sealed in changes:
            if not before < revision <= newest:
                raise DishonestRealmError(
                    BROKEN, f"change {revision} is told after change {before}, up to {newest}"
                )
            before = revision
            self._check_promise(revision, name, digest)
            if not self._is_told_again(revision, name, digest, sealed, open_value):
                self._take(revision, name, digest, sealed, newest, open_value)
        for name in self._known.owing | self._owing:
            self._check_owed(name, self.revision)

    def last_of(self, name: bytes) -> LastChange | None:
        """Return the last change of a name, as far as this draft goes."""
        return self.names.get(name) or self._known.names.get(name)

    def finish(self) -> None:
        """Take that there is nothing more."""

    # What differs where changes are forgotten.

    @property
    def reach(self) -> int:
        """The largest floor of a realm with which this can go on."""
        return self.revision

    @property
    def missed(self) -> tuple[int, int] | None:
        """The first and the last revision between which changes are forgotten, if any are."""
        return None

    def raise_floor(self, floor: int, head: bytes) -> None:
        """Take up to where the realm has forgotten changes, and the hash of the history there.

        Raises:
            DishonestRealmError: it is not what it was.
        """
        step = self.steps.get(floor)
        if step is not None and step.head != head:
            raise DishonestRealmError(BROKEN, f"the history up to {floor} is not what it was")

    def _is_told_again(
        self, revision: int, name: bytes, digest: bytes, sealed: bytes | None, open_value: OpenValue
    ) -> bool:
        """Tell whether a change is known already; refuse one that is known otherwise."""
        if revision > self._known.revision:
            return False
        step = self._known.steps.get(revision)
        before = self._known.head_at(revision - 1)
        if step is None or before is None:
            return True
        if next_head(before, revision, name, digest) != step.head:
            raise DishonestRealmError(BROKEN, f"change {revision} is told again as another")
        return True

    def _can_end(self, name: bytes) -> bool:
        """Tell whether a name has a value whose time can be over."""
        last = self.last_of(name)
        return last is not None and last.has_value and (last.may_end or last.replaced_by > 0)

    def _owes(self, last: LastChange) -> bool:
        """Tell whether a name must change again before long."""
        return last.replaced_by > 0

    def _replaced(self, last: LastChange | None) -> LastChange | None:
        """Return what a change has replaced for sure; None when that is not known."""
        if last is None:
            return LastChange(0, NO_HASH, False, False)
        return None if last.replaced_by else last

    # A change.

    def _take(
        self,
        revision: int,
        name: bytes,
        digest: bytes,
        sealed: bytes | None,
        newest: int,
        open_value: OpenValue,
    ) -> None:
        before = self.last_of(name)
        if before is None and len(self._known.names) + len(self.names) >= MAX_NAMES:
            raise GroupError(
                f"the group has more than {MAX_NAMES} names of values: delete some, or use "
                "several groups"
            )
        self._check_owed(name, revision - 1)
        self._check_new(revision, digest)
        if sealed is not None:
            last = self._take_word(revision, name, digest, sealed, open_value)
        elif digest == NO_HASH:
            if not self._can_end(name):
                raise DishonestRealmError(
                    "forged", f"at revision {revision} the time of a value is over that had none"
                )
            self.changes.append(Change(What.ENDED, revision, name))
            last = LastChange(revision, digest, False, False)
        else:
            last = LastChange(revision, digest, True, True, replaced_by=newest)
        (self._owing.add if last.replaced_by else self._owing.discard)(name)
        self._link(revision, name, digest)
        if digest in self._awaited:
            self.passed[digest] = (revision, self._replaced(before))
        self.names[name] = last

    def _take_word(
        self, revision: int, name: bytes, digest: bytes, sealed: bytes, open_value: OpenValue
    ) -> LastChange:
        if hashlib.sha256(sealed).digest() != digest:
            raise DishonestRealmError(BROKEN, f"change {revision} has not the hash that is told")
        epoch = epoch_of(sealed)
        if epoch < self.epoch:
            raise DishonestRealmError(
                "forged", f"change {revision} is of epoch {epoch}, after one of {self.epoch}"
            )
        word = open_named(self._known, name, digest, sealed, open_value)
        self._check_knowledge(revision, word)
        self._check_order(revision, word)
        self.epoch = epoch
        what = What.DELETED if word.value is None else What.PUT
        self.changes.append(Change(what, revision, name, word, sealed))
        return LastChange(revision, digest, word.value is not None, word.seconds is not None)

    def _link(self, revision: int, name: bytes, digest: bytes) -> None:
        """Add a change to the history's hash."""
        assert self.head is not None
        if revision != self.revision + 1:
            raise DishonestRealmError(
                BROKEN, f"change {revision} is told after change {self.revision}"
            )
        self.revision, self.head = revision, next_head(self.head, revision, name, digest)
        self.steps[revision] = Step(self.head, digest)
        self._digests.add(digest)
        if len(self.steps) > MAX_STEPS:
            self._digests.discard(self.steps.pop(next(iter(self.steps))).digest)
        self._check_named(revision, self.head)

    # What is compared.

    def _check_promise(self, revision: int, name: bytes, digest: bytes) -> None:
        if self._known.promised.get(revision, (name, digest)) != (name, digest):
            raise DishonestRealmError(
                BROKEN, f"change {revision} is another one than the realm had said"
            )

    def _check_owed(self, name: bytes, revision: int) -> None:
        """Refuse that a change whose content was kept back is the name's last until a revision."""
        last = self.last_of(name)
        if last is not None and self._owes(last) and last.replaced_by <= revision:
            raise DishonestRealmError(
                BROKEN, f"change {last.revision} is told as replaced, and nothing has replaced it"
            )

    def _check_new(self, revision: int, digest: bytes) -> None:
        """Refuse a change that was one before: no member seals the same bytes twice."""
        if digest != NO_HASH and (digest in self._known.digests or digest in self._digests):
            raise DishonestRealmError("forged", f"change {revision} repeats an earlier one")

    def _check_knowledge(self, revision: int, word: ValueWord) -> None:
        """Compare what the writer knew with what this device knows."""
        knew = max(word.revision, word.replaces)
        if knew >= revision:
            raise DishonestRealmError(
                "rolled_back",
                f"who has written change {revision} knew a change {knew} already",
            )
        step = self.steps.get(word.revision)
        head = self._known.head_at(word.revision) if step is None else step.head
        if head is not None and head != word.head:
            raise forked(word.revision)

    def _check_order(self, revision: int, word: ValueWord) -> None:
        """Refuse a word that is not newer than the others by its writer."""
        known = self._known.writers.get(word.writer, (-1, -1))
        knew, at = self.writers.get(word.writer, known)
        if word.revision <= knew and word.milliseconds <= at:
            raise DishonestRealmError(
                "forged", f"change {revision} is older than another one by the same writer"
            )
        self.writers[word.writer] = (max(knew, word.revision), max(at, word.milliseconds))

    def _check_named(self, revision: int, head: bytes) -> None:
        """Compare the hash up to a revision with what the realm and the members have named."""
        claimed_revision, claimed = self._known.claimed
        if revision == claimed_revision and head != claimed:
            raise DishonestRealmError(
                BROKEN, f"the changes up to {revision} do not lead to the hash that was named"
            )
        if self._member_heads.get(revision, head) != head:
            raise forked(revision)


def open_named(
    known: Known, name: bytes, digest: bytes, sealed: bytes, open_value: OpenValue
) -> ValueWord:
    """Open what a realm gives under a name, and tell when it belongs to another name."""
    try:
        return open_value(name, sealed)
    except DishonestRealmError as error:
        # The name is part of what the seal covers, so under another one nothing can be read.
        if any(last.digest == digest for other, last in known.names.items() if other != name):
            raise DishonestRealmError(
                "wrong_name", "a value is given under another name than its own"
            ) from None
        raise error


def forked(revision: int) -> DishonestRealmError:
    """Return the error that another member was told another history."""
    return DishonestRealmError(
        "forked", f"another member was told another history up to revision {revision}"
    )
