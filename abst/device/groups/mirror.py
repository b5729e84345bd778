"""A device's checked copy of a group's values (spec: values.md).

Owns staying in step with the realm: it watches, lists what it has missed, has everything checked by
``history``, and keeps what was checked for when the realm is away. Once a realm was seen to lie it
takes nothing more from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import msgpack
from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst import codec
from abst.device.groups import sealed_values
from abst.device.groups.changes import Accepted, Change, LastChange, Snapshot, What
from abst.device.groups.history import History
from abst.device.groups.keys import GroupKeys
from abst.device.groups.known import MAX_STEPS
from abst.device.groups.roster import Roster
from abst.device.groups.sealed_values import ValueWord
from abst.device.groups.store import GroupStore, SavedGroup, SavedStep, SavedValue
from abst.device.link import Link
from abst.errors import (
    AbstError,
    Code,
    DishonestRealmError,
    GroupError,
    MissingEpochError,
    RemoteProtocolError,
)
from abst.packets import ListValues, Packet, ValueChanges, WatchingValues, WatchValues

RETRY_SECONDS: Final = 5.0


class MirrorOwner(Protocol):
    """The group."""

    keys: GroupKeys
    roster: Roster
    reactor: Any

    @property
    def group_id(self) -> bytes:
        """The group's ID."""

    def save_soon(self) -> None:
        """Store what has been taken, not at once but soon."""

    def problem_seen(self, problem: AbstError) -> None:
        """Tell the application of something that is not as it should be."""


class Mirror:
    """What one device has checked of a group's values.

    Args:
        owner: the group.
        saved: what was stored.
        changed: called with each change that was checked, and the word that it has replaced.

    Attributes:
        history: what was checked.
        problem: how the realm was seen to lie, or None.
        checked_at: when the realm has last said how things stand, in seconds since 1970, or None.
        limits: what the group may use at the realm.
    """

    log = Logger(namespace="abst.device")

    def __init__(
        self,
        owner: MirrorOwner,
        saved: SavedGroup,
        changed: Callable[[Change, ValueWord | None], None],
    ) -> None:
        self.history = History(_snapshot(saved))
        self.problem = _problem(saved)
        self.checked_at = saved.checked_at
        self.limits: dict[str, float] = {}
        self._owner = owner
        self._changed = changed
        self._sealed = {
            value.hidden_name: value.sealed for value in saved.values if value.sealed is not None
        }
        self._words: dict[bytes, ValueWord] = {}
        self._link: Link | None = None
        self._epoch = 0
        self._is_following = False
        self._is_working = False
        self._works_again = False
        self._waiting: list[Deferred[None]] = []
        self._retry_call: Any = None
        self._saved_revision = self.history.revision
        self._unsaved: set[bytes] = set()
        self._is_dropped = False
        self._partings = 0

    # What there is.

    def word(self, hidden_name: bytes) -> ValueWord | None:
        """Return what was last said about a name, or None when it has no value."""
        word = self._last_word(hidden_name)
        return None if word is None or self._is_over(word) else word

    def words(self) -> Iterator[tuple[bytes, ValueWord]]:
        """Yield every name that has a value, as the realm sees it, and the word."""
        for hidden_name in self.names():
            word = self.word(hidden_name)
            if word is not None:
                yield hidden_name, word

    def revision_of(self, hidden_name: bytes) -> int:
        """Return the revision of a name's last change; 0 when it has no value."""
        last = self.history.last_change(hidden_name)
        return last.revision if last is not None and last.has_value else 0

    def names(self) -> list[bytes]:
        """Return every name that was put and not deleted, as the realm sees it."""
        return list(self._sealed)

    def epoch_of(self, hidden_name: bytes) -> int | None:
        """Return the epoch in which a name's value was sealed, or None when it has none."""
        sealed = self._sealed.get(hidden_name)
        return None if sealed is None else sealed_values.epoch_of(sealed)

    @property
    def link(self) -> Link | None:
        """The connection to the realm while everything there is known and followed, else None."""
        return self._link if self._is_following else None

    def when_following(self) -> Deferred[Link]:
        """Return a Deferred of the connection, once everything at the realm is known.

        It fails when the realm is not connected, has been seen to lie, or is lost meanwhile.
        """
        if self.problem is not None:
            return fail(self.problem)
        if self._link is None:
            return fail(GroupError("the group is not joined: its realm cannot be reached now"))
        waiting: Deferred[Any] = Deferred()
        if self._is_following:
            waiting.callback(self._link)
        else:
            self._waiting.append(waiting)
            waiting.addCallback(lambda _: self._link)
        return waiting

    def open(self, hidden_name: bytes, sealed: bytes) -> ValueWord:
        """Return what is in a sealed value; raises as ``sealed_values.open_value``."""
        roster, keys = self._owner.roster, self._owner.keys
        return sealed_values.open_value(keys, hidden_name, sealed, roster.was_member)

    # What happens.

    def joined(self, link: Link, limits: dict[str, float], epoch: int) -> None:
        """Follow the values: the group is joined, in an epoch."""
        self._link = link
        self.limits = limits
        self._epoch = epoch
        self.work()

    def parted(self) -> None:
        """Wait until the group is joined again."""
        self._link = None
        self._is_following = False
        self._partings += 1
        self.history.disconnected()
        self._stop_retrying()
        self._fail_waiting(GroupError("the connection to the group's realm was lost"))

    def told(self, packet: ValueChanges) -> None:
        """Take changes that the realm tells."""
        if self._link is None or self.problem is not None:
            return
        try:
            self._accepted(self.history.take_told(packet, self.open))
        except AbstError as problem:
            self._is_following = False
            self._failed(Failure(problem))
        else:
            self._heard()

    def work(self) -> None:
        """Watch, and list what was missed."""
        self._stop_retrying()
        if self._link is None or self.problem is not None:
            return
        if self._is_working:
            self._works_again = True
            return
        self._is_working = True
        ensureDeferred(self._work()).addErrback(self._failed)

    def accuse(self, problem: DishonestRealmError) -> None:
        """Take nothing more from the realm: it has been seen to lie."""
        if self.problem is not None:
            return
        self.problem = problem
        self._is_following = False
        self._fail_waiting(problem)
        self._owner.save_soon()
        self._owner.problem_seen(problem)

    def start_again(self) -> None:
        """Forget what was checked, and believe the realm as a device does that is new."""
        self.history = History()
        self.problem = None
        self.checked_at = None
        self._sealed.clear()
        self._words.clear()
        self._unsaved.clear()
        self._is_following = False
        self._is_dropped = True
        self._owner.save_soon()
        self.work()

    # Storage.

    def save(self, store: GroupStore, saved: SavedGroup) -> None:
        """Put a group's own facts, and what was checked since ``saved``, into a store."""
        if self._is_dropped:
            store.drop_values(saved.group_id)
        snapshot = self.history.snapshot(0 if self._is_dropped else self._saved_revision)
        self._unsaved.update(row[0] for row in snapshot.names)
        values = []
        for name in self._unsaved:
            last = self.history.last_change(name)
            if last is not None:
                packed = msgpack.packb(list(last))
                values.append(SavedValue(name, packed, self._sealed.get(name)))
        saved.history = _packed(snapshot, self.problem)
        saved.checked_at = self.checked_at
        store.put(saved)
        store.put_values(saved.group_id, values)
        store.put_steps(saved.group_id, (SavedStep(*step) for step in snapshot.steps), MAX_STEPS)

    def saved(self) -> None:
        """Note that what was put into the store is durable."""
        self._is_dropped = False
        self._saved_revision = self.history.revision
        self._unsaved.clear()

    # Inside.

    def _last_word(self, hidden_name: bytes) -> ValueWord | None:
        word = self._words.get(hidden_name)
        if word is None and (sealed := self._sealed.get(hidden_name)) is not None:
            try:
                word = self._words[hidden_name] = self.open(hidden_name, sealed)
            except AbstError as error:
                # It could be read when it came, so it is this device's own disk or roster.
                self.log.error("a stored value cannot be read: {error}", error=str(error))
        return word

    def _is_over(self, word: ValueWord) -> bool:
        if word.seconds is None:
            return False
        now: float = self._owner.reactor.seconds()
        return now >= word.milliseconds / 1000 + word.seconds

    async def _work(self) -> None:
        link = self._link
        self._works_again = False
        try:
            assert link is not None
            group = bytes(self._owner.group_id)
            if not self._is_following:
                watching = await self._ask(link, WatchValues(group))
                if not isinstance(watching, WatchingValues):
                    raise RemoteProtocolError(Code.MALFORMED, "the answer to Watch is another one")
                self.history.take_watching(watching)
            while self.history.is_behind:
                since = self.history.next_since
                listed = await self._ask(link, ListValues(group, since))
                if self.problem is not None:
                    raise self.problem  # Another member has shown meanwhile that the realm lies.
                if not isinstance(listed, ValueChanges):
                    raise RemoteProtocolError(Code.MALFORMED, "the answer to List is another one")
                self._accepted(self.history.take_listed(listed, since, self.open))
            self._is_following = True
            # Not the newest epoch whose key is here: the realm may not be there yet.
            self.history.moved(self._epoch)
            self._heard()
        finally:
            self._is_working = False
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)
        if self._works_again or self.history.is_behind:
            self.work()

    async def _ask(self, link: Link, packet: Packet) -> Any:
        """Return an answer, unless it was given before this device had to join again."""
        partings = self._partings
        answer = await link.ask(packet)
        if partings != self._partings:
            raise GroupError("the group has moved, and is being joined again")
        return answer

    def _failed(self, failure: Failure) -> None:
        problem = failure.value
        if isinstance(problem, DishonestRealmError):
            self.accuse(problem)
            return
        if isinstance(problem, MissingEpochError):
            self._lag(problem)
            return
        if not isinstance(problem, AbstError):
            self.log.failure("a group's values failed", failure=failure)
            problem = GroupError("its values failed for a reason that stands in the log")
        self._fail_waiting(problem)
        if self._works_again:
            self.work()
        elif self._link is not None:
            self._stop_retrying()
            self._retry_call = self._owner.reactor.callLater(RETRY_SECONDS, self.work)

    def _lag(self, problem: MissingEpochError) -> None:
        """Wait for a key: ``work`` is called when it has come."""
        self._is_following = False
        self._fail_waiting(problem)
        self._owner.problem_seen(problem)

    def _heard(self) -> None:
        self.checked_at = self._owner.reactor.seconds()

    def _accepted(self, accepted: Accepted) -> None:
        if accepted.missed is not None:
            first, last = accepted.missed
            self.log.info(
                "values: the realm has forgotten the changes {first} to {last} of a group",
                first=first,
                last=last,
            )
        for change in accepted.changes:
            before = self._last_word(change.name)
            self._words.pop(change.name, None)
            self._sealed.pop(change.name, None)
            self._unsaved.add(change.name)
            if change.what is What.PUT and change.sealed is not None and change.word is not None:
                self._sealed[change.name] = change.sealed
                self._words[change.name] = change.word
            self._changed(change, before)
        self._owner.save_soon()

    def _fail_waiting(self, problem: AbstError) -> None:
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.errback(problem)

    def _stop_retrying(self) -> None:
        if self._retry_call is not None and self._retry_call.active():
            self._retry_call.cancel()
        self._retry_call = None


def _packed(snapshot: Snapshot, problem: DishonestRealmError | None) -> bytes:
    """Return a snapshot without its names and steps, which have rows of their own."""
    packed: bytes = msgpack.packb(
        {
            "revision": snapshot.revision,
            "head": snapshot.head,
            "epoch": snapshot.epoch,
            "claimed": snapshot.claimed,
            "writers": snapshot.writers,
            "seen": snapshot.seen,
            "promised": snapshot.promised,
            "problem": None if problem is None else [problem.kind, problem.seen],
        }
    )
    return packed


def _problem(saved: SavedGroup) -> DishonestRealmError | None:
    """Return how the realm was seen to lie, which nothing but a person's word makes up for."""
    found = None if saved.history is None else codec.decode(saved.history).get("problem")
    return None if found is None else DishonestRealmError(*found)


def _snapshot(saved: SavedGroup) -> Snapshot | None:
    if saved.history is None:
        return None
    found = codec.decode(saved.history)
    names = [
        (value.hidden_name, *LastChange(*msgpack.unpackb(value.change))) for value in saved.values
    ]
    return Snapshot(
        revision=found["revision"],
        head=found["head"],
        epoch=found["epoch"],
        claimed=tuple(found["claimed"]),
        names=names,
        steps=[(step.revision, step.head, step.digest) for step in saved.steps],
        writers=[tuple(row) for row in found["writers"]],
        seen=[tuple(row) for row in found["seen"]],
        promised=[tuple(row) for row in found["promised"]],
    )
