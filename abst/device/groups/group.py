"""One peer group that this device is in: its roster, its keys, its messages, its values.

Owns what follows from what: a removal moves the group to another epoch, a key that has come lets it
join again and read what has waited. Who carries rosters and keys between devices is ``groups``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from abst.address import RealmAddress
from abst.device.finding import find_one
from abst.device.groups.entries import raw_key_of
from abst.device.groups.keys import GroupKeys
from abst.device.groups.membership import Membership
from abst.device.groups.messages import Kind, MessageRefusedError, OpenedMessage
from abst.device.groups.messenger import Messenger
from abst.device.groups.protocol import GroupProtocol
from abst.device.groups.rarely import Rarely
from abst.device.groups.roster import Roster
from abst.device.groups.roster_news import RosterNews, read_news
from abst.device.groups.rotation import Rotation
from abst.device.groups.store import GroupStore, SavedGroup, SavedReader
from abst.device.groups.values import Values
from abst.device.groups.view import Member
from abst.device.link import Link
from abst.device_id import DeviceID
from abst.errors import AbstError, GroupError, MissingEpochError, RemoteProtocolError
from abst.identity import Identity
from abst.packets import (
    Error,
    GroupMessage,
    HereInGroup,
    Packet,
    ValueChanges,
)

SAVE_SECONDS: Final = 1.0
"""How long it may take until it is on disk which messages and changes have been taken."""

SEEK_SECONDS: Final = 10.0
"""How often all members are looked for, whoever names an epoch that is not known here."""

LOG_SECONDS: Final = 10.0
"""How often it is logged that messages are refused: a realm can make up any number of them."""

SAVE_AGAIN_SECONDS: Final = 30.0
"""How long it takes until a group that could not be stored is tried to be stored again."""


class GroupOwner(Protocol):
    """All groups of a device."""

    reactor: Any
    identity: Identity
    random_bytes: Callable[[int], bytes]
    store: GroupStore

    def group_changed(self, group: Group, *, is_known: bool = False) -> None:
        """The group's roster or its keys are others: the other members are to be told.

        ``is_known`` says that it has come from a member who has told the whole group.
        """

    def seek_members(self, group: Group) -> None:
        """The group needs something that another member may have."""

    def offer_answered(self, group: Group, device_id: DeviceID) -> None:
        """A device to which the group was offered has taken it."""

    def storage_failed(self, problem: AbstError) -> None:
        """A group cannot be stored; what shares the file is back at the last commit too."""


class Group:
    """A peer group.

    Args:
        owner: all groups of the device.
        saved: the group as it is stored.

    Attributes:
        group_id: its ID.
        kind: ``group`` or ``network``.
        founder: the raw key of the device that has made it.
        realm: where it is; None for a network without a realm.
        keys: the seeds of its epochs.
        roster: who belongs to it.
        values: what its members keep at the realm.
        protocol: the application's.
    """

    log = Logger(namespace="abst.device")

    def __init__(self, owner: GroupOwner, saved: SavedGroup) -> None:
        self._owner = owner
        self._saved = saved
        self.reactor = owner.reactor
        self.random_bytes = owner.random_bytes
        self.identity = owner.identity
        self.keys = GroupKeys(saved.seeds)
        self.group_id = self.keys.group_id
        self.kind = saved.kind
        self.founder = saved.founder
        self.realm = None if saved.realm is None else RealmAddress.parse(saved.realm)
        self.roster = Roster(self.group_id, saved.founder, saved.entries)
        self.protocol = GroupProtocol()
        self._rotation = Rotation(self, saved.next_seed)
        self._membership = Membership(owner.reactor, self.identity.device_id, self)
        self._messenger = Messenger(self, saved.stream, saved.readers)
        self._news = RosterNews(self, saved.said)
        self._link: Link | None = None
        self._save_call: Any = None
        self._seeks = Rarely(owner.reactor, SEEK_SECONDS)
        self._logs_refusals = Rarely(owner.reactor, LOG_SECONDS)
        self._is_over = False
        self.values = Values(self, saved)

    def __str__(self) -> str:
        return self.name or str(self.group_id)

    # What it is.

    @property
    def name(self) -> str:
        """What it is called; two groups may be called alike."""
        return self.roster.name()

    @property
    def epoch(self) -> int:
        """The newest epoch whose key this device has."""
        return self.keys.epoch

    @property
    def link(self) -> Link | None:
        """The connection to its realm while that is up, else None."""
        return self._link

    @property
    def is_joined(self) -> bool:
        """Whether the realm counts this device in just now."""
        return self._membership.is_joined

    @property
    def problem(self) -> AbstError | None:
        """Why it is not joined; None while it is, and for a group without a realm."""
        return None if self.realm is None else self._membership.problem

    @property
    def here(self) -> frozenset[DeviceID]:
        """The other members that are here."""
        return frozenset(self._membership.here)

    def members(self) -> list[Member]:
        """Return everybody who belongs to it, by name."""
        found = self.roster.members().values()
        return sorted(found, key=lambda member: (member.name, member.device_id))

    def find(self, text: str) -> Member:
        """Return the member that a name, an ID, or the beginning of an ID means.

        Raises:
            GroupError: none does, or several do.
        """
        return find_one(
            text,
            ((member.device_id, (member.name,), member) for member in self.members()),
            what="member",
            otherwise=f"no member of {self} is called {text!r}",
            error=GroupError,
        )

    @property
    def device_id(self) -> DeviceID:
        """This device."""
        return self.identity.device_id

    # What this device does in it.

    def send(self, content: bytes) -> None:
        """Send a message to every other member that is here; see ``GroupProtocol.send``."""
        if self.realm is None:
            raise GroupError(f"{self} has no realm, and messages go through one")
        if self._is_over:
            raise GroupError("this device is not in the group any more")
        self._messenger.send(content)

    def say_here(self) -> None:
        """Tell the other members that this device is here; nothing happens when it is not."""
        if self._link is not None and self.is_joined:
            self._link.tell(HereInGroup(bytes(self.group_id)))

    def rename(self, name: str) -> None:
        """Call the group something else, for all members.

        Raises:
            GroupError: the name is empty or too long.
        """
        if not name.strip() or not name.isprintable():
            raise GroupError("a name has 1 to 64 printable characters")
        self.roster.set_name(self.identity, name)
        self.roster_changed()

    def remove(self, device_id: DeviceID) -> Deferred[None]:
        """Remove another member, and move the group to an epoch whose key it does not get.

        The Deferred fires when the realm has moved the group; at once when it has no realm.

        Raises:
            GroupError: there is no such member.
        """
        if device_id == self.device_id:
            raise GroupError("this device leaves with 'leave'")
        self.roster.remove(self.identity, device_id)
        moved: Deferred[None] = succeed(None)
        if self.realm is not None:
            moved = self._rotation.when_moved()
        self.roster_changed()
        return moved

    def rotate(self) -> Deferred[None]:
        """Move the group to another epoch; the Deferred fires when the realm has done it."""
        if self.realm is None:
            return fail(GroupError(f"{self} has no realm: there is no key that needs changing"))
        if self._is_over:
            return fail(GroupError("this device is not in the group any more"))
        moved = self._rotation.when_moved()
        self._rotation.want()
        return moved

    # For the groups.

    def start(self) -> None:
        """Begin: what a removal still asks for is done."""
        self._rotation.look_for_removals()

    def stop(self) -> None:
        """Store what is not stored yet."""
        self.link_down()
        self._rotation.fail(GroupError("this device stops; the group is moved later"))
        if self._stop_waiting_to_save():
            self._try_to_store()

    def end(self, reason: AbstError) -> None:
        """Be in it no more."""
        self._is_over = True
        self._stop_waiting_to_save()
        self._membership.leave()
        self._link = None
        self._rotation.fail(reason)
        self._call(self.protocol.connectionLost, reason)

    def link_up(self, link: Link) -> None:
        """Join: its realm is connected."""
        self._link = link
        self._membership.link_up(link)

    def link_down(self) -> None:
        """Wait for the realm."""
        self._link = None
        self._membership.link_down()

    def told(self, packet: Packet) -> None:
        """Take what the realm, or a member through it, says."""
        match packet:
            case GroupMessage():
                self._messenger.received(packet)
            case ValueChanges():
                self.values.told(packet)
            case Error(dropped=int() as count):
                target = packet.target_device
                device_id = None if target is None else DeviceID(target)
                self._call(self.protocol.messagesDropped, device_id, count, packet.code)
                self._membership.told(packet)
            case _:
                self._membership.told(packet)

    def take_keys(self, keys: GroupKeys) -> None:
        """Go on with the keys that another member has given."""
        if keys.epoch <= self.keys.epoch:
            return
        self._rotation.outrun()
        self._go_on_with(keys)

    @property
    def offered(self) -> tuple[bytes, ...]:
        """The devices that this one has added, and that have not answered yet."""
        return self._saved.offered

    def note_offered(self, device_id: bytes) -> None:
        """Remember to offer the group to a device until it has answered."""
        self._saved.offered = (*self._saved.offered, bytes(device_id))
        self._save()

    def note_answered(self, device_id: bytes) -> None:
        """Offer the group to a device no more."""
        if device_id in self._saved.offered:
            self._saved.offered = tuple(one for one in self._saved.offered if one != device_id)
            self._save()

    def roster_changed(self, *, is_known: bool = False) -> None:
        """Store what is new in the roster, tell the others, and do what it asks for.

        ``is_known`` says that it has come from a member who has told the whole group.
        """
        if len(self.roster) > len(self._saved.entries):
            self._drop_false_keys()
            self._save()
        self._owner.group_changed(self, is_known=is_known)
        self._call(self.protocol.rosterChanged)
        self._messenger.open_held()
        self._rotation.look_for_removals()
        self._news.look()

    # For the membership.

    @property
    def next_keys(self) -> GroupKeys | None:
        """The keys with the epoch to which the group shall be moved, or None."""
        return self._rotation.next_keys

    def moved(self) -> None:
        """Go on in the epoch that this device has made."""
        self._go_on_with(self._rotation.moved())
        self.roster_changed()

    def outrun(self) -> None:
        """Wait for the key of the epoch that somebody else has made."""
        self._rotation.outrun()
        self._saved.next_seed = None
        self._save()

    def missing_epoch(self, epoch: int) -> None:
        """Look for a member that has the key of an epoch."""
        self._call(self.protocol.problemSeen, MissingEpochError(epoch))
        if self._seeks.is_time():
            self._owner.seek_members(self)

    def joined(self, limits: dict[str, float]) -> None:
        """Send what has waited, and follow the values."""
        assert self._link is not None
        self._messenger.joined(self._link)
        self.values.joined(self._link, limits)
        self._news.joined()
        self._call(self.protocol.joined)

    def parted(self) -> None:
        """Wait until it is joined again."""
        self._messenger.parted()
        self._news.stop()
        self.values.parted()

    def arrived(self, device_id: DeviceID) -> None:
        """Another member is here, and so has the group's key."""
        if bytes(device_id) in self.offered:
            self._owner.offer_answered(self, device_id)
        self._call(self.protocol.memberArrived, device_id)

    def still_here(self, device_id: DeviceID) -> None:
        """Another member has said that it is here."""
        self._call(self.protocol.memberHere, device_id)

    def left(self, device_id: DeviceID) -> None:
        """Another member is not here any more."""
        self._call(self.protocol.memberLeft, device_id)

    # For the values.

    def save_soon(self) -> None:
        """Store what has been taken, not at once but soon."""
        self._save_in(SAVE_SECONDS)

    def problem_seen(self, problem: AbstError) -> None:
        """Tell the application of something that is not as it should be."""
        if not isinstance(problem, MessageRefusedError) or self._logs_refusals.is_time():
            self.log.warn("a group: {problem}", problem=str(problem))
        self._call(self.protocol.problemSeen, problem)

    def made_epoch(self, epoch: int) -> bool:
        """Tell whether it was this device that has moved the group to an epoch."""
        public = self.keys.public_key(epoch)
        own = raw_key_of(self.identity)
        return self.roster.maker_of(epoch, public) == own

    # For the messages.

    def keep_stream(self, stream: int) -> None:
        """Store the number of this device's newest stream of messages, at once."""
        self._saved.stream = stream
        self._save()

    def checked(self) -> tuple[int, bytes]:
        """Return how far this device has checked the values: revision and head."""
        return self.values.checked()

    def message_opened(self, device_id: DeviceID, message: OpenedMessage) -> None:
        """Take what a member has said; a kind that is not known means nothing."""
        self.save_soon()
        if message.missing:
            self._call(self.protocol.messagesMissed, device_id, message.missing)
        if message.kind == Kind.APPLICATION:
            self._call(self.protocol.messageReceived, device_id, message.content)
        elif message.kind == Kind.ROSTER:
            self._take_news(message.content)
        self.values.seen_by(device_id, message.revision, message.head)

    def message_waits(self, problem: MissingEpochError) -> None:
        """Look for a member that has the key with which a message can be read."""
        self.missing_epoch(problem.epoch)

    # For the news of the roster.

    @property
    def max_news_bytes(self) -> int:
        """How long a message about the roster may be just now; 0 while there may be none.

        Who was removed still reads what is said before the group has moved.
        """
        is_in = self.is_joined and self.device_id in self.roster.members()
        return self._messenger.max_message_bytes if is_in and not self._rotation.is_wanted else 0

    def say_news(self, content: bytes) -> None:
        """Tell the other members that are here."""
        self._messenger.say(content, Kind.ROSTER)
        self.save_soon()

    def _take_news(self, content: bytes) -> None:
        entries: list[bytes] = []
        with contextlib.suppress(RemoteProtocolError):
            entries = read_news(content)
        if self.roster.merge(entries):
            self.roster_changed(is_known=True)

    # For the rotation.

    @property
    def can_rotate(self) -> bool:
        """Whether it has a realm, and this device is a member."""
        return self.realm is not None and self.device_id in self.roster.members()

    def keep_next_seed(self, seed: bytes | None) -> None:
        """Store the seed of the epoch that is wanted, at once; raises when that fails."""
        before, self._saved.next_seed = self._saved.next_seed, seed
        try:
            self.store()
        except AbstError:
            self._saved.next_seed = before
            raise

    def move(self) -> None:
        """Have the realm move the group."""
        self._membership.work()

    def _drop_false_keys(self) -> None:
        """Forget keys that the roster denies: a member gave them that was removed by then."""
        for epoch, named in sorted(self.roster.epoch_keys().items()):
            if 0 < epoch <= self.epoch and self.keys.public_key(epoch) not in named:
                self.keys = self.keys.until(epoch - 1)
                self._saved.seeds = self.keys.seeds
                self._saved.next_seed = None
                self._rotation.outrun()
                self._membership.work()
                return

    def _go_on_with(self, keys: GroupKeys) -> None:
        """Use the keys with a newer epoch from now on."""
        self.keys = keys
        self._saved.seeds = keys.seeds
        self._saved.next_seed = None
        self._save()
        self._membership.work()
        self._owner.group_changed(self)
        self._call(self.protocol.epochChanged, self.epoch)
        self._messenger.open_held()
        self._rotation.look_for_removals()

    # Storage.

    def store(self) -> None:
        """Store all that is not stored yet, at once.

        Raises:
            AbstError: that failed; it counts as not stored, all of it.
        """
        if self._is_over:
            return
        store, saved = self._owner.store, self._saved
        saved.said = self._news.said
        entries, readers = self.roster.entries(len(saved.entries)), self._messenger.rows()
        # What was checked of the values stands in several rows, which make sense together alone.
        history, checked_at = saved.history, saved.checked_at
        try:
            self.values.save(store, saved)
            store.add_entries(self.group_id, entries)
            store.put_readers(self.group_id, _changed(readers, saved.readers))
            store.commit()
        except AbstError:
            saved.history, saved.checked_at = history, checked_at
            raise
        saved.entries += entries
        saved.readers = readers
        self.values.saved()

    def _save(self) -> None:
        if not self._try_to_store():
            self._save_in(SAVE_AGAIN_SECONDS)

    def _try_to_store(self) -> bool:
        try:
            self.store()
        except AbstError as error:
            self._owner.storage_failed(error)
            return False
        return True

    def _save_in(self, seconds: float) -> None:
        if not self._is_over and (self._save_call is None or not self._save_call.active()):
            self._save_call = self.reactor.callLater(seconds, self._save)

    def _stop_waiting_to_save(self) -> bool:
        """Return whether anything was waited for."""
        if self._save_call is None or not self._save_call.active():
            return False
        self._save_call.cancel()
        return True

    def _call(self, hook: Callable[..., Any], *arguments: Any) -> None:
        try:
            hook(*arguments)
        except Exception:
            self.log.failure("an application's group protocol failed")


def _changed(rows: Iterable[SavedReader], before: Iterable[SavedReader]) -> list[SavedReader]:
    known = set(before)
    return [row for row in rows if row not in known]
