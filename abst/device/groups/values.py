"""A group's values, as an application uses them (spec: values.md).

Owns what may be asked, and what an answer means. What is known, and whether the realm is believed,
is in ``mirror``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.logger import Logger

from abst.device.groups import sealed_values
from abst.device.groups.changes import Change, What
from abst.device.groups.mirror import Mirror, MirrorOwner
from abst.device.groups.rewriting import Rewriting, RewritingOwner
from abst.device.groups.sealed_values import SALT_BYTES, ValueWord
from abst.device.groups.store import GroupStore, SavedGroup
from abst.device.link import Link
from abst.device_id import DeviceID
from abst.errors import (
    AbstError,
    Code,
    DishonestRealmError,
    GroupError,
    LocalProtocolError,
    PeerUnreachableError,
    RealmRefusedError,
    RemoteProtocolError,
    ValueConflictError,
)
from abst.identity import Identity
from abst.packets import (
    DeleteValue,
    GetValue,
    ListValues,
    Packet,
    PutValue,
    ValueChanges,
    ValueDeleted,
    ValueFound,
    ValuePut,
)


@dataclass(frozen=True, slots=True)
class Value:
    """A value.

    Attributes:
        name: its name.
        value: what is kept.
        revision: the number of the change that has put it there.
        writer: the device that has put it there.
        written_at: by the writer's clock, in seconds since 1970.
        ends_at: when the realm drops it, likewise; None for never.
        age_seconds: how long ago the realm was last heard to have nothing newer; 0.0 when that was
            part of this answer.
    """

    name: bytes
    value: bytes
    revision: int
    writer: DeviceID
    written_at: float
    ends_at: float | None
    age_seconds: float


@dataclass(frozen=True, slots=True)
class ValueChange:
    """A change of a value.

    Attributes:
        name: the name.
        value: what is there now; None when there is nothing any more.
        revision: the number of the change.
        writer: the device that has made it; None when the value's time was over.
        what: ``put``, ``deleted``, ``ended`` (its time was over), or ``forgotten`` (deleted or
            ended while this device was away for so long that the realm has forgotten how).
    """

    name: bytes
    value: bytes | None
    revision: int
    writer: DeviceID | None
    what: What


class Watch:
    """Somebody who is told of changes.

    Args:
        prefix: of the names that matter.
        callback: is called with each change.
        forget: called when it is stopped.
    """

    def __init__(
        self,
        prefix: bytes,
        callback: Callable[[ValueChange], object],
        forget: Callable[[Watch], None],
    ) -> None:
        self.prefix = prefix
        self.callback = callback
        self._forget = forget

    def stop(self) -> None:
        """Be told nothing any more."""
        self._forget(self)


class ValuesOwner(MirrorOwner, RewritingOwner, Protocol):
    """The group."""

    identity: Identity
    random_bytes: Callable[[int], bytes]


class Values:
    """The values of one group.

    Everything that is asked of the realm waits until this device knows what is there; it fails
    with ``GroupError`` when the group is not joined, and with ``DishonestRealmError`` once the
    realm was seen to lie.

    Args:
        owner: the group.
        saved: what was stored.
    """

    log = Logger(namespace="abst.device")

    def __init__(self, owner: ValuesOwner, saved: SavedGroup) -> None:
        self._owner = owner
        self._mirror = Mirror(owner, saved, self._changed)
        self._rewriting = Rewriting(owner, self._mirror, self.set)
        self._watches: list[Watch] = []

    # For applications.

    @property
    def problem(self) -> DishonestRealmError | None:
        """How the realm was seen to lie, or None."""
        return self._mirror.problem

    @property
    def limits(self) -> dict[str, float]:
        """What the group may use at the realm, by the names of the specification."""
        return dict(self._mirror.limits)

    def set(
        self,
        name: str | bytes,
        value: bytes,
        *,
        if_revision: int | None = None,
        seconds: int | None = None,
    ) -> Deferred[int]:
        """Keep a value under a name; the Deferred fires with the revision once it is safe.

        Args:
            name: 1 to 1024 bytes; a str stands for its UTF-8.
            value: at most 65536 bytes, or what the realm allows.
            if_revision: the revision that the name must have; 0 when it must have no value.
            seconds: after how long it shall be gone; None for never.

        The Deferred fails with ``ValueConflictError`` when the name has another revision, with
        ``RealmRefusedError`` when the realm does not take it, and with ``GroupError`` when it was
        not sent, or when the connection was lost before the answer: then it may be there or not.
        """
        return ensureDeferred(self._set(_bytes(name), value, if_revision, seconds))

    def delete(self, name: str | bytes, *, if_revision: int | None = None) -> Deferred[int]:
        """Keep nothing under a name; fires with the revision, 0 when there was nothing.

        It fails as ``set`` does.
        """
        return ensureDeferred(self._delete(_bytes(name), if_revision))

    def get(self, name: str | bytes) -> Deferred[Value | None]:
        """Return a Deferred of what is under a name, or of None.

        While the realm cannot be asked, or is not believed, it is what was checked last, and its
        ``age_seconds`` say how long ago that was.
        """
        return ensureDeferred(self._get(_bytes(name)))

    def items(self, prefix: str | bytes = b"") -> Deferred[list[Value]]:
        """Return a Deferred of the values whose names begin with a prefix, by name.

        Their age is as for ``get``.
        """
        return ensureDeferred(self._items(_bytes(prefix)))

    def watch(self, prefix: str | bytes, callback: Callable[[ValueChange], object]) -> Watch:
        """Have a function called with each change of a name that begins with a prefix.

        It is called for this device's own changes too, in the order of their revisions, and after
        each reconnection for what has happened meanwhile: once for each name, with what came last.
        """
        watch = Watch(_bytes(prefix), callback, self._watches.remove)
        self._watches.append(watch)
        return watch

    def start_again(self) -> None:
        """Believe the realm again, from the beginning: everything that was checked is forgotten."""
        self._mirror.start_again()

    # For the group.

    def joined(self, link: Link, limits: dict[str, float]) -> None:
        """Follow the values: the group is joined."""
        self._mirror.joined(link, limits, self._owner.keys.epoch)
        self._rewriting.joined()

    def parted(self) -> None:
        """Wait until the group is joined again."""
        self._mirror.parted()
        self._rewriting.parted()

    def told(self, packet: ValueChanges) -> None:
        """Take changes that the realm tells."""
        self._mirror.told(packet)

    def seen_by(self, member: DeviceID, revision: int, head: bytes) -> None:
        """Compare what this device knows with what another member knows."""
        try:
            self._mirror.history.take_seen(member, revision, head)
        except DishonestRealmError as problem:
            self._mirror.accuse(problem)

    def checked(self) -> tuple[int, bytes]:
        """Return the newest revision that was checked, and the hash of the history up to there."""
        return self._mirror.history.revision, self._mirror.history.head

    def save(self, store: GroupStore, saved: SavedGroup) -> None:
        """Put a group's own facts, and what was checked since ``saved``, into a store."""
        self._mirror.save(store, saved)

    def saved(self) -> None:
        """Note that what was put into the store is durable."""
        self._mirror.saved()

    # Inside.

    async def _set(
        self, name: bytes, value: bytes, if_revision: int | None, seconds: int | None
    ) -> int:
        link = await self._mirror.when_following()
        hidden_name = self._owner.keys.hidden_name(name)
        most = self._mirror.limits.get("value_bytes")
        if most is not None and len(value) > most:
            raise GroupError(f"a value has at most {most:.0f} bytes, this one {len(value)}")
        sealed = self._seal(name, hidden_name, value, seconds)
        digest = hashlib.sha256(sealed).digest()
        packet = PutValue(bytes(self._owner.group_id), hidden_name, sealed, if_revision, seconds)
        answer = await self._change(link, packet, hidden_name, digest)
        if not isinstance(answer, ValuePut):
            raise RemoteProtocolError(Code.MALFORMED, "the answer to Put is another packet")
        self._check_put(answer.revision, hidden_name, digest, if_revision)
        return answer.revision

    async def _delete(self, name: bytes, if_revision: int | None) -> int:
        link = await self._mirror.when_following()
        hidden_name = self._owner.keys.hidden_name(name)
        sealed = self._seal(name, hidden_name, None, None)
        digest = hashlib.sha256(sealed).digest()
        packet = DeleteValue(bytes(self._owner.group_id), hidden_name, sealed, if_revision)
        answer = await self._change(link, packet, hidden_name, digest)
        if not isinstance(answer, ValueDeleted):
            raise RemoteProtocolError(Code.MALFORMED, "the answer to Delete is another packet")
        if answer.revision:
            self._check_put(answer.revision, hidden_name, digest, if_revision)
        else:
            self._believe(lambda: self._mirror.history.take_nothing_deleted(hidden_name, digest))
        return answer.revision

    def _seal(
        self, name: bytes, hidden_name: bytes, value: bytes | None, seconds: int | None
    ) -> bytes:
        owner, history = self._owner, self._mirror.history
        device_id = owner.identity.device_id
        now = int(owner.reactor.seconds() * 1000)
        word = ValueWord(
            writer=device_id,
            name=name,
            value=value,
            replaces=self._mirror.revision_of(hidden_name),
            revision=history.revision,
            head=history.head,
            milliseconds=history.stamp(device_id, now),
            seconds=seconds,
        )
        return sealed_values.seal(owner.keys, owner.identity, word, owner.random_bytes(SALT_BYTES))

    async def _change(
        self, link: Link, packet: Packet, hidden_name: bytes, digest: bytes
    ) -> Packet:
        history = self._mirror.history
        history.expect(digest)
        try:
            answer: Packet = await link.ask(packet)
        except RealmRefusedError as refusal:
            history.give_up(digest)
            if refusal.code == Code.WRONG_REVISION:
                word = self._mirror.word(hidden_name)
                value = None if word is None else word.value
                raise ValueConflictError(value, self._mirror.revision_of(hidden_name)) from None
            raise
        except (LocalProtocolError, CancelledError):
            history.give_up(digest)
            raise
        except PeerUnreachableError:
            raise GroupError(
                "the connection to the realm was lost before it answered: look whether the value "
                "is there when it is back"
            ) from None
        return answer

    def _check_put(
        self, revision: int, hidden_name: bytes, digest: bytes, if_revision: int | None
    ) -> None:
        history = self._mirror.history
        self._believe(lambda: history.take_put(revision, hidden_name, digest, if_revision))

    def _believe(self, check: Callable[[], Any]) -> Any:
        """Check what the realm says; it is not believed any more when that cannot be true."""
        try:
            return check()
        except DishonestRealmError as problem:
            self._mirror.accuse(problem)
            raise

    async def _get(self, name: bytes) -> Value | None:
        hidden_name = self._owner.keys.hidden_name(name)
        link = await self._reachable()
        if link is None:
            return self._known(hidden_name, self._age())
        packet = GetValue(bytes(self._owner.group_id), hidden_name)
        try:
            answer = await link.ask(packet)
        except PeerUnreachableError:
            return self._known(hidden_name, self._age())
        if not isinstance(answer, ValueFound) or answer.name != hidden_name:
            raise RemoteProtocolError(Code.MALFORMED, "the answer to Get is another packet")
        history = self._mirror.history
        word = self._believe(lambda: history.take_found(answer, self._mirror.open))
        return None if word is None else _value(word, answer.revision, 0.0)

    async def _items(self, prefix: bytes) -> list[Value]:
        link = await self._reachable()
        age = self._age()
        if link is not None:
            # What was told lately may still be on its way: an answer comes behind it.
            since = self._mirror.history.next_since
            try:
                answer = await link.ask(ListValues(bytes(self._owner.group_id), since))
            except PeerUnreachableError:
                pass
            else:
                if isinstance(answer, ValueChanges) and not self._mirror.history.is_behind:
                    age = 0.0
        found = [
            _value(word, self._mirror.revision_of(hidden_name), age)
            for hidden_name, word in self._mirror.words()
            if word.name.startswith(prefix)
        ]
        return sorted(found, key=lambda value: value.name)

    async def _reachable(self) -> Link | None:
        """Return the connection once everything is known; None when it cannot be had."""
        try:
            return await self._mirror.when_following()
        except AbstError:
            return None

    def _age(self) -> float:
        checked_at = self._mirror.checked_at
        if checked_at is None:
            return float("inf")
        now: float = self._owner.reactor.seconds()
        return max(0.0, now - checked_at)

    def _known(self, hidden_name: bytes, age: float) -> Value | None:
        word = self._mirror.word(hidden_name)
        if word is None:
            return None
        return _value(word, self._mirror.revision_of(hidden_name), age)

    def _changed(self, change: Change, before: ValueWord | None) -> None:
        known = change.word or before
        if known is None:
            return  # A name that this device has never known has no value again.
        value = None if change.word is None else change.word.value
        writer = None if change.word is None else change.word.writer
        told = ValueChange(known.name, value, change.revision, writer, change.what)
        for watch in list(self._watches):
            if known.name.startswith(watch.prefix):
                try:
                    watch.callback(told)
                except Exception:
                    self.log.failure("an application's watch failed")


def _value(word: ValueWord, revision: int, age: float) -> Value:
    assert word.value is not None
    written_at = word.milliseconds / 1000
    ends_at = None if word.seconds is None else written_at + word.seconds
    return Value(word.name, word.value, revision, word.writer, written_at, ends_at, age)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
