"""Whether a realm is honest about a group's values (spec: values.md, "A realm that lies").

Pure. A history is what a device has checked of a group's changes. It compares with that whatever
the realm says, and what other members know; it takes what must be true, and refuses what cannot
be. What is refused changes nothing here. Names are as the realm sees them.
"""

from __future__ import annotations

import hashlib
from typing import Final

from abst.device.groups.changes import Accepted, LastChange, Snapshot
from abst.device.groups.draft import BROKEN, Draft, OpenValue, forked, open_named
from abst.device.groups.known import Known
from abst.device.groups.leap import Leap
from abst.device.groups.sealed_values import ValueWord
from abst.errors import DishonestRealmError, GroupError, LocalProtocolError
from abst.packets import ValueChanges, ValueFound, WatchingValues
from abst.value_history import NO_HASH

MAX_AWAITED: Final = 1024
"""How many of this device's own changes may be on their way."""

_NEVER: Final = LastChange(0, NO_HASH, False, False)


class History:
    """What one device knows of the values of one group on one realm.

    After each connection: watch, and pass the answer to ``take_watching``. While ``is_behind``,
    list since ``next_since`` and pass the answers to ``take_listed``. What the realm tells without
    being asked goes to ``take_told``, always.

    Every method that takes something of the realm, or of a member, raises DishonestRealmError for
    what cannot be true. Its owner then uses the group's values no more until a person says so.

    Args:
        snapshot: the history as it was last stored; none for a group that is new to this device.
    """

    def __init__(self, snapshot: Snapshot | None = None) -> None:
        self._known = Known(snapshot or Snapshot())
        # What has been listed so far; it counts once the list has come to its end.
        self._listing: Draft | None = None
        self._is_watching = False
        self._awaited: dict[bytes, tuple[int, LastChange | None] | None] = {}
        self._last_stamp = 0

    # What is known.

    @property
    def revision(self) -> int:
        """The newest change that was checked; 0 when none was."""
        return self._known.revision

    @property
    def head(self) -> bytes:
        """The hash of the history up to there."""
        return self._known.head

    @property
    def is_behind(self) -> bool:
        """Whether the realm has named changes that have not come."""
        return self._listing is not None or self._known.newest_named > self.revision

    @property
    def next_since(self) -> int:
        """The revision since which to list."""
        return self.revision if self._listing is None else self._listing.revision

    def last_change(self, name: bytes) -> LastChange | None:
        """Return the last change of a name, or None when there was none."""
        return self._known.names.get(name)

    def snapshot(self, since: int = 0) -> Snapshot:
        """Return what has to be stored.

        Args:
            since: of names and steps, only those with a later revision are returned: the
                ``revision`` of this history when it was last stored.
        """
        return self._known.snapshot(since)

    def stamp(self, device_id: bytes, now_milliseconds: int) -> int:
        """Return the ``milliseconds`` for this device's next word: larger than in all before."""
        written = self._known.writers.get(device_id, (0, -1))[1]
        self._last_stamp = max(now_milliseconds, written + 1, self._last_stamp + 1)
        return self._last_stamp

    # What happens to the connection and to the group.

    def disconnected(self) -> None:
        """Note that the connection to the realm has ended, with all that was on its way."""
        self._is_watching = False
        self._listing = None
        self._awaited.clear()

    def moved(self, epoch: int) -> None:
        """Note that changes after those known are of this epoch, or of a later one.

        It is so once this device has joined in that epoch and is not behind.
        """
        self._known.epoch = max(self._known.epoch, epoch)

    # What the realm says about all values.

    def take_watching(self, packet: WatchingValues) -> None:
        """Take that every later change is going to be told."""
        self._check_newest(packet.revision, packet.head)
        self._known.claim(packet.revision, packet.head)
        self._is_watching = True

    def take_told(self, packet: ValueChanges, open_value: OpenValue) -> Accepted:
        """Check changes that the realm tells without being asked, and return them.

        What comes while this device is behind is left to the lists that it asks for.

        Raises:
            MissingEpochError: one is of an epoch whose key has not come; list again when it has.
            GroupError: there are too many names.
        """
        self._check_newest(packet.revision, packet.head)
        accepted = Accepted([])
        if not self._is_ahead(packet):
            draft = Draft(self._known, self._awaited)
            try:
                draft.take_all(packet.changes, packet.revision, open_value)
            except DishonestRealmError:
                raise
            except GroupError:
                # The realm has told it as it should: it is this device that is behind now.
                self._known.claim(packet.revision, packet.head)
                raise
            self._check_end(draft, packet)
            self._adopt(draft)
            accepted = Accepted(draft.changes)
        self._known.claim(packet.revision, packet.head)
        return accepted

    def take_listed(self, packet: ValueChanges, since: int, open_value: OpenValue) -> Accepted:
        """Check an answer to List values.

        A list counts as a whole: its last page returns what all of them have brought.

        Args:
            packet: the answer.
            since: what was asked for: ``next_since`` at that time.
            open_value: opens sealed values.

        Raises:
            MissingEpochError: a change is of an epoch whose key has not come; list again when it
                has.
            LocalProtocolError: it is not the answer that is needed next.
        """
        if since > self.next_since or (self._listing is not None and since < self.next_since):
            raise LocalProtocolError(f"list since {self.next_since}, not since {since}")
        try:
            self._check_newest(packet.revision, packet.head)
            accepted = self._take_page(packet, since, open_value)
        except Exception:
            self._listing = None
            raise
        self._known.claim(packet.revision, packet.head)
        return accepted

    # What the realm says about one name.

    def take_found(self, packet: ValueFound, open_value: OpenValue) -> ValueWord | None:
        """Check an answer to Get value; return its value's word, or None when there is no value.

        Raises:
            MissingEpochError: it is of an epoch whose key has not come.
        """
        revision, name, sealed = packet.revision, packet.name, packet.value
        digest = NO_HASH if sealed is None else hashlib.sha256(sealed).digest()
        if revision > self.revision:
            self._check_promise(revision, name, digest)
        else:
            self._check_last(revision, name, digest)
        word = None
        if sealed is not None:
            word = open_named(self._known, name, digest, sealed, open_value)
            self._check_word(revision, name, word)
        if revision > self.revision:
            self._known.promise(revision, name, digest)
        return None if word is None or word.value is None else word

    def expect(self, digest: bytes) -> None:
        """Note that this device is about to send a sealed value with a hash.

        Raises:
            LocalProtocolError: too many are on their way.
        """
        if len(self._awaited) >= MAX_AWAITED:
            raise LocalProtocolError("too many values are on their way: wait for their answers")
        self._awaited[digest] = None

    def give_up(self, digest: bytes) -> None:
        """Note that the realm has refused what was expected, or has not answered."""
        self._awaited.pop(digest, None)

    def take_put(
        self, revision: int, name: bytes, digest: bytes, if_revision: int | None = None
    ) -> None:
        """Check the answer to a put or a deletion that was expected.

        Args:
            revision: what the realm says.
            name: what was changed.
            digest: the SHA-256 of what was sealed for it.
            if_revision: what the realm was told to compare.

        Raises:
            LocalProtocolError: it was not expected.
        """
        if digest not in self._awaited:
            raise LocalProtocolError("a change is acknowledged that was not expected")
        passed = self._awaited.pop(digest)
        if passed is not None:
            if passed[0] != revision:
                raise DishonestRealmError(
                    BROKEN, f"change {passed[0]} is acknowledged as {revision}"
                )
            _check_compared(passed[1], revision, if_revision)
        elif revision <= self.revision:
            raise DishonestRealmError(
                BROKEN, f"change {revision} is acknowledged, and is another one"
            )
        else:
            self._check_promise(revision, name, digest)
            self._known.promise(revision, name, digest)

    def take_nothing_deleted(self, name: bytes, digest: bytes) -> None:
        """Check the answer that there was nothing to delete."""
        self.give_up(digest)
        last = self.last_change(name)
        if self._is_following and last is not None and last.has_value:
            raise DishonestRealmError(
                BROKEN, f"a value of revision {last.revision} is said not to be there"
            )

    # What another member knows.

    def take_seen(self, member: bytes, revision: int, head: bytes) -> None:
        """Compare what a member names, in a message, as the newest change that it knows."""
        known = self._known.head_at(revision)
        for other_revision, other in (self._known.claimed, *self._known.seen.values()):
            if other_revision == revision > self.revision:
                known = other
        if known is not None and known != head:
            raise forked(revision)
        self._known.see(member, revision, head)

    # Inside.

    @property
    def _is_following(self) -> bool:
        """Whether every change is told before any answer that knows of it."""
        return self._is_watching and not self.is_behind

    def _check_newest(self, revision: int, head: bytes) -> None:
        """Check what the realm names as its newest change."""
        known = self._known
        seen = dict(known.seen.values())
        for what, least in (
            ("this device has checked", self.revision),
            ("the realm has named", known.newest_named),
            ("another member has seen", max(seen, default=0)),
        ):
            if revision < least:
                raise DishonestRealmError(
                    "rolled_back", f"the newest change is {revision}, and {what} change {least}"
                )
        if (revision == self.revision and head != self.head) or (
            revision == known.claimed[0] and head != known.claimed[1]
        ):
            raise DishonestRealmError(
                BROKEN, f"the history up to {revision} is not the one that it was"
            )
        if seen.get(revision, head) != head:
            raise forked(revision)

    def _is_ahead(self, packet: ValueChanges) -> bool:
        """Tell whether changes that are told do not follow the known ones, and need not."""
        if self._listing is not None:
            return True
        first = packet.changes[0][0] if packet.changes else packet.revision
        return self.is_behind and first > self.revision + 1

    def _take_page(self, packet: ValueChanges, since: int, open_value: OpenValue) -> Accepted:
        floor = packet.floor or 0
        floor_head = packet.floor_head or NO_HASH
        self._check_floor(packet, floor, floor_head)
        draft = self._listing or Draft(self._known, self._awaited)
        if floor > draft.reach:
            # What is known, or has been listed so far, may be deleted and forgotten by now.
            draft = self._listing = Leap(self._known, self._awaited, packet.revision)
            if since > 0:
                return Accepted([])
        draft.raise_floor(floor, floor_head)
        draft.take_all(packet.changes, packet.revision, open_value)
        if packet.more:
            if not packet.changes:
                raise DishonestRealmError(BROKEN, "a list goes on without end")
            self._listing = draft
            return Accepted([])
        draft.finish()
        self._check_end(draft, packet)
        self._listing = None
        missed = draft.missed
        self._adopt(draft)
        return Accepted(draft.changes, missed)

    def _check_floor(self, packet: ValueChanges, floor: int, floor_head: bytes) -> None:
        """Compare the end of what is forgotten with what is known."""
        newest = packet.head if floor == packet.revision else floor_head
        known = self._known.head_at(floor)
        if floor > packet.revision or floor_head != newest or floor_head != (known or floor_head):
            raise DishonestRealmError(
                BROKEN, f"the changes up to {floor} do not lead to the hash that is named"
            )

    def _check_end(self, draft: Draft, packet: ValueChanges) -> None:
        """Check that the changes of a packet lead to where the realm says that they do."""
        if (draft.revision, draft.head) != (packet.revision, packet.head):
            raise DishonestRealmError(
                BROKEN,
                f"the changes up to {draft.revision} do not lead to {packet.revision} as told",
            )

    def _adopt(self, draft: Draft) -> None:
        # What was said while a list came is compared with what it had brought before.
        for revision, head in self._known.seen.values():
            step = draft.steps.get(revision)
            if step is not None and step.head != head:
                raise forked(revision)
        for revision, (_, digest) in self._known.promised.items():
            step = draft.steps.get(revision)
            if step is not None and step.digest != digest:
                raise DishonestRealmError(BROKEN, f"change {revision} is another one than told")
        self._known.add(draft)
        self._awaited.update(draft.passed)

    def _check_promise(self, revision: int, name: bytes, digest: bytes) -> None:
        """Check what the realm says of a change that has not come."""
        promised = self._known.promised.get(revision, (name, digest))
        if promised != (name, digest) or self._is_following:
            raise DishonestRealmError(
                BROKEN, f"change {revision} is named, and was told otherwise or not at all"
            )

    def _check_last(self, revision: int, name: bytes, digest: bytes) -> None:
        """Check what the realm says to be a name's last change, among those that have come."""
        last = self.last_change(name) or _NEVER
        is_right = (revision, digest) == (last.revision, last.digest)
        if not last.has_value and last.digest == NO_HASH:
            # Perhaps nobody remembers: no value is right, and so is a word that says so.
            is_right = is_right or revision > 0 or digest == NO_HASH
        elif not last.has_value:
            is_right = is_right or (revision, digest) == (0, NO_HASH)
        if not is_right:
            raise DishonestRealmError(
                BROKEN,
                f"a name's last change is said to be {revision}, and {last.revision} was told",
            )

    def _check_word(self, revision: int, name: bytes, word: ValueWord) -> None:
        """Check that a word fits the change that it is said to be."""
        if word.revision >= revision:
            raise DishonestRealmError(
                "rolled_back",
                f"who has written change {revision} knew a change {word.revision} already",
            )
        last = self.last_change(name) or _NEVER
        if revision <= self.revision and word.value is not None and not last.has_value:
            raise DishonestRealmError(BROKEN, f"there is no value of revision {revision}")
        head = self._known.head_at(word.revision)
        if head is not None and head != word.head:
            raise forked(word.revision)


def _check_compared(before: LastChange | None, revision: int, if_revision: int | None) -> None:
    """Check that a change was made only since its name's last change was the right one."""
    if if_revision is None or before is None:
        return
    if before.has_value:
        is_right = if_revision == before.revision
    else:
        # Of what is forgotten, nobody knows which revision it was.
        is_right = before.digest == NO_HASH or if_revision in (0, before.revision)
    if not is_right:
        raise DishonestRealmError(
            BROKEN, f"change {revision} was made though its name was not at {if_revision}"
        )
