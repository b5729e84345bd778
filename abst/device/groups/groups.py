"""All peer groups of a device.

Owns which groups there are, and brings together what each of them wants: the realms' links, the
peers that carry rosters and keys, the store, and the application.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.device.finding import find_one
from abst.device.groups import sharing
from abst.device.groups.entries import raw_key_of
from abst.device.groups.group import Group
from abst.device.groups.keys import GroupKeys
from abst.device.groups.networks import NETWORK, NetworkOwner, Networks
from abst.device.groups.offers import KINDS, Offer, Refusal
from abst.device.groups.protocol import GroupFactory, GroupOffer
from abst.device.groups.store import ForgetfulGroupStore, GroupStore, SavedGroup
from abst.device.link import Link
from abst.device.peers import Peer
from abst.device_id import DeviceID, raw_public_key
from abst.errors import AbstError, GroupError, LocalProtocolError
from abst.identity import Identity
from abst.packets import GiveGroup, Packet

MAX_GROUPS: Final = 256
"""Of one device, whoever has made them."""


class GroupsOwner(NetworkOwner, Protocol):
    """This device."""

    reactor: Any
    identity: Identity
    running: int
    random_bytes: Callable[[int], bytes]

    @property
    def device_name(self) -> str:
        """What it calls itself."""

    @property
    def links(self) -> Mapping[RealmAddress, Link]:
        """The realms that it uses."""

    def say_to(self, device_id: bytes, packet: GiveGroup) -> bool:
        """Say something to a peer over the channel that there is; False when there is none."""

    def storage_failed(self, problem: AbstError) -> None:
        """Take every session back to what is on disk: writing has failed."""


class Groups:
    """The groups and networks of one device.

    Args:
        owner: the device.
        factory: builds the protocol of each group, and decides about offers.
        store: where they survive restarts.
    """

    log = Logger(namespace="abst.device")

    def __init__(
        self, owner: GroupsOwner, factory: GroupFactory | None, store: GroupStore | None
    ) -> None:
        self.reactor = owner.reactor
        self.identity = owner.identity
        self.random_bytes = owner.random_bytes
        self.store: GroupStore = store or ForgetfulGroupStore()
        self.factory = factory or GroupFactory()
        self._owner = owner
        self._groups: dict[bytes, Group] = {}
        self._sharing = sharing.Sharing(bytes(owner.device_id), self._groups, self._is_peer)
        self._networks = Networks(owner)
        self._gifts: dict[tuple[bytes, bytes], list[Deferred[None]]] = {}
        self._deciding: dict[bytes, Deferred[Any]] = {}
        self._is_acting = False

    # For applications.

    def all(self) -> list[Group]:
        """Return every group and network, by name."""
        return sorted(self._groups.values(), key=lambda group: (group.name, group.group_id))

    def get(self, group_id: bytes) -> Group | None:
        """Return the group with an ID, or None."""
        return self._groups.get(group_id)

    def find(self, text: str, kind: str | None = None) -> Group:
        """Return the group that a name, an ID, or the beginning of an ID means.

        Args:
            text: what a person has typed.
            kind: ``network`` for networks alone.

        Raises:
            GroupError: none does, or several do.
        """
        what = kind or "group"
        groups = [group for group in self.all() if kind in (None, group.kind)]
        return find_one(
            text,
            ((group.group_id, (group.name,), group) for group in groups),
            what=what,
            otherwise=f"this device is in no {what} called {text!r}: 'abst {what} list' lists "
            f"them, 'abst {what} create' makes one",
            error=GroupError,
        )

    def create(self, name: str, *, realm: RealmAddress | None, kind: str = "group") -> Group:
        """Make a group; the realm hears of it as soon as it is connected.

        Args:
            name: what it is called, for all members.
            realm: where messages go through and values are kept; a network needs none.
            kind: ``group`` or ``network``.

        Raises:
            GroupError: the name or the kind is none, a group has no realm, or the device does not
                use that realm.
        """
        if len(self._groups) >= MAX_GROUPS:
            raise GroupError(f"a device is in at most {MAX_GROUPS} groups: leave one")
        if kind not in KINDS:
            raise GroupError(f"a group's kind is one of {', '.join(KINDS)}")
        if realm is None and kind != NETWORK:
            raise GroupError("a group needs a realm: messages go through it")
        if realm is not None and realm not in self._owner.links:
            raise GroupError(f"this device does not use {realm}: 'abst realm add' it first")
        keys = GroupKeys.create(self.random_bytes)
        founder = raw_key_of(self.identity)
        saved = SavedGroup(
            bytes(keys.group_id), kind, founder, None if realm is None else str(realm), keys.seeds
        )
        group = Group(self, saved)
        group.roster.rename(self.identity, self._owner.device_name)
        group.roster.set_name(self.identity, _checked_name(name))
        if kind == NETWORK:
            for address in self._owner.links:
                group.roster.set_realm(self.identity, str(address), is_used=True)
        self._keep(group)
        return group

    def give(self, group: Group, device_id: DeviceID) -> Deferred[None]:
        """Let a peer into a group.

        The Deferred fires when the peer has accepted, which it can only when it is reachable; it
        fails with ``GroupError`` when the peer refuses. The offer outlives a restart.

        Raises:
            GroupError: the device is no peer whose key is known, or is in the group already.
        """
        peer = self._owner.peers.get(device_id)
        if peer is None or not peer.is_trusted:
            raise GroupError(f"{device_id} is no peer of this device: pair with it first")
        if peer.public_key is None:
            raise GroupError(f"{peer} has not been met yet: 'abst ping' it first")
        if bytes(device_id) not in group.offered:
            group.roster.add(self.identity, raw_public_key(peer.public_key), peer.name)
            group.note_offered(device_id)
        self._sharing.offer(group.group_id, device_id)
        given: Deferred[None] = Deferred()
        self._gifts.setdefault((bytes(group.group_id), bytes(device_id)), []).append(given)
        group.roster_changed()
        return given

    def leave(self, group: Group) -> None:
        """Be in a group no more; the other members learn it when they are next met."""
        self._is_acting = True  # What is to be said is said once it is known why.
        try:
            if self._owner.device_id in group.roster.members():
                group.roster.leave(self.identity)
                group.roster_changed()
        except GroupError as problem:
            # There is no room in the roster: the others learn it by being told that it is gone.
            self.log.warn("not said in a group's roster: {problem}", problem=str(problem))
        finally:
            self._is_acting = False
        self._end(group, GroupError("this device has left the group"))

    # For the device.

    def start(self) -> None:
        """Take up the groups that are stored."""
        for saved in self.store.load():
            try:
                group = Group(self, saved)
            except (AbstError, ValueError) as error:
                self.log.error("a stored group cannot be used: {error}", error=str(error))
                continue
            if self._owner.device_id not in group.roster.members():
                # It was over already when this device was stopped, or when the disk was full.
                self._drop(saved.group_id)
                continue
            self._begin(group)
            for device_id in group.offered:
                self._offer_again(group, device_id)
        self._act()

    def stop(self) -> None:
        """Store what is not stored, and wait for nothing any more."""
        for waiting in list(self._deciding.values()):
            waiting.cancel()
        for group in self._groups.values():
            group.stop()
        gifts, self._gifts = self._gifts, {}
        for deferreds in gifts.values():
            for given in deferreds:
                given.errback(GroupError("this device stops; the offer is made again later"))

    def link_up(self, link: Link) -> None:
        """Join the groups of a realm."""
        for group in list(self._groups.values()):
            if self._link_of(group) is link:
                group.link_up(link)

    def link_down(self, link: Link) -> None:
        """Wait for a realm."""
        for group in list(self._groups.values()):
            # Not by its realm, which this device may just have been told to use no more.
            if group.link is link:
                group.link_down()

    def told(self, link: Link, peer_group: bytes, packet: Packet) -> None:
        """Take what a realm, or a member through it, says about a group."""
        group = self._groups.get(peer_group)
        if group is not None and self._link_of(group) is link:
            group.told(packet)

    def peer_reached(self, device_id: bytes) -> None:
        """Compare groups with a peer to which there is a channel now."""
        self._sharing.connected(bytes(device_id))
        self._act()

    def peer_lost(self, device_id: bytes) -> None:
        """Wait for a peer."""
        self._sharing.lost(bytes(device_id))

    def given(self, device_id: bytes, packet: GiveGroup) -> None:
        """Take what a peer says about a group."""
        self._sharing.received(bytes(device_id), packet)
        self._act()

    # For the groups.

    def group_changed(self, group: Group, *, is_known: bool = False) -> None:
        """Tell the other members what is new in a group."""
        if group.group_id not in self._groups:
            return
        for device_id in group.offered:
            if device_id not in group.roster.members():
                self._withdraw(group, device_id, "was removed before it had answered")
        if group.kind == NETWORK:
            self._networks.follow(group, is_known=is_known)
        self._sharing.changed(bytes(group.group_id), is_known=is_known)
        self._act()

    def seek_members(self, group: Group) -> None:
        """Look for a way to each member that is a peer."""
        for member in group.members():
            if member.device_id != self._owner.device_id and self._is_peer(member.device_id):
                self._owner.reach(member.device_id)

    def offer_answered(self, group: Group, device_id: bytes) -> None:
        """Offer a group to a device no more: it has taken it."""
        self._sharing.offer_answered(bytes(group.group_id), bytes(device_id))
        group.note_answered(bytes(device_id))
        for given in self._gifts.pop((bytes(group.group_id), bytes(device_id)), ()):
            given.callback(None)

    def storage_failed(self, problem: AbstError) -> None:
        """Tell the sessions, which may be in the same file, that what they wrote is undone."""
        self.log.error("a group cannot be stored: {problem}", problem=str(problem))
        self._owner.storage_failed(problem)

    # Inside.

    def _is_peer(self, device_id: bytes) -> bool:
        peer = self._owner.peers.get(device_id)
        return peer is not None and peer.is_trusted

    def _link_of(self, group: Group) -> Link | None:
        return None if group.realm is None else self._owner.links.get(group.realm)

    def _keep(self, group: Group) -> None:
        """Store a group that is new here, and begin with it.

        Raises:
            AbstError: it cannot be stored.
        """
        group.store()
        self._begin(group)
        group.roster_changed()

    def _begin(self, group: Group) -> None:
        self._groups[bytes(group.group_id)] = group
        if group.realm is not None:
            self._networks.use_realm(group.realm)
        try:
            group.protocol = self.factory.buildProtocol(group)
            group.protocol.makeConnection(group)
        except Exception:
            self.log.failure("an application's group factory failed")
        if group.kind == NETWORK:
            self._networks.follow(group)
        link = self._link_of(group)
        if link is not None and link.is_up:
            group.link_up(link)
        group.start()

    def _end(self, group: Group, reason: AbstError) -> None:
        if self._groups.pop(bytes(group.group_id), None) is None:
            return
        for key in [key for key in self._gifts if key[0] == group.group_id]:
            for given in self._gifts.pop(key):
                given.errback(reason)
        if group.kind == NETWORK:
            self._networks.leave(group)
        self._sharing.changed(bytes(group.group_id))
        group.end(reason)
        self._drop(bytes(group.group_id))
        self._act()

    def _drop(self, group_id: bytes) -> None:
        """Forget a group on the disk; when that fails, it is tried again at the next start."""
        try:
            self.store.drop(group_id)
            self.store.commit()
        except AbstError as error:
            self.storage_failed(error)

    def _offer_again(self, group: Group, device_id: bytes) -> None:
        try:
            self._sharing.offer(bytes(group.group_id), device_id)
        except GroupError:
            group.note_answered(device_id)

    # What sharing wants done.

    def _act(self) -> None:
        if self._is_acting:
            return
        self._is_acting = True
        try:
            while (action := self._sharing.next_action()) is not None:
                self._do(action)
        finally:
            self._is_acting = False

    def _do(self, action: sharing.Action) -> None:
        match action:
            case sharing.Say():
                self._say(action)
            case sharing.Reach():
                self._owner.reach(action.device_id)
            case sharing.Offered():
                self._decide(action.offer)
            case _:
                group = self._groups.get(action.group_id)
                if group is not None:
                    self._do_in(group, action)

    def _say(self, action: sharing.Say) -> None:
        try:
            self._owner.say_to(action.device_id, action.packet)
        except LocalProtocolError as problem:
            self.log.error("a group cannot be shared: {problem}", problem=str(problem))

    def _do_in(self, group: Group, action: Any) -> None:
        match action:
            case sharing.RosterGrown():
                group.roster_changed()
            case sharing.KeysGiven():
                group.take_keys(action.keys)
            case sharing.KeysRefused():
                problem = GroupError("a member names other keys of the group than those known here")
                group.problem_seen(problem)
            case sharing.Accepted():
                self.offer_answered(group, action.device_id)
            case sharing.Refused():
                self._refused(group, action.device_id, action.code)
            case sharing.Gone() if group.roster.has_added(self.identity, action.device_id):
                # It has left, and the word of that was lost. Others cannot know: perhaps it has
                # not got the offer yet.
                self._remove(group, action.device_id)
            case sharing.Out():
                self._end(group, GroupError("another member has removed this device"))

    def _refused(self, group: Group, device_id: bytes, code: str) -> None:
        why = "does not want it" if code == Refusal.NOT_WANTED else f"cannot take it ({code})"
        self._withdraw(group, device_id, why)
        self._remove(group, device_id)

    def _withdraw(self, group: Group, device_id: bytes, why: str) -> None:
        """Offer a group to a device no more: it has not taken it."""
        self._sharing.offer_answered(bytes(group.group_id), device_id)
        group.note_answered(device_id)
        for given in self._gifts.pop((bytes(group.group_id), device_id), ()):
            given.errback(GroupError(f"the other device {why}"))

    def _remove(self, group: Group, device_id: bytes) -> None:
        if device_id not in group.roster.members():
            return
        try:
            group.remove(DeviceID(device_id)).addErrback(lambda failure: None)
        except GroupError as problem:
            group.problem_seen(problem)

    # Offers.

    def _decide(self, offer: Offer) -> None:
        peer = self._owner.peers.get(offer.device_id)
        if peer is None:
            # What came before it was reason to forget who offers.
            self._sharing.offer_refused(offer.group_id)
            return
        if len(self._groups) >= MAX_GROUPS:
            self._sharing.offer_refused(offer.group_id, Refusal.OFFERS_FULL)
            return
        deciding = ensureDeferred(self._ask(offer, peer))
        if not deciding.called:
            self._deciding[offer.group_id] = deciding
        deciding.addCallbacks(
            partial(self._decided, offer=offer), partial(self._not_decided, offer=offer)
        )

    async def _ask(self, offer: Offer, peer: Peer) -> bool:
        asked = self.factory.acceptsOffer(
            GroupOffer(
                peer,
                DeviceID(offer.group_id),
                offer.kind,
                offer.roster.name(),
                len(offer.roster.members()),
            )
        )
        return await asked if isinstance(asked, Awaitable) else asked

    def _decided(self, accepts: bool, *, offer: Offer) -> None:
        self._deciding.pop(offer.group_id, None)
        if not accepts or not self._is_peer(offer.device_id):
            self._sharing.offer_refused(offer.group_id)
        elif bytes(offer.group_id) not in self._groups:
            try:
                self._take(offer)
            except AbstError as error:
                self.storage_failed(error)
                self._sharing.offer_refused(offer.group_id, Refusal.NOT_STORED)
            else:
                self._sharing.offer_taken(offer.group_id)
        self._act()

    def _take(self, offer: Offer) -> None:
        realm = None if offer.realm is None else str(offer.realm)
        saved = SavedGroup(
            bytes(offer.group_id), offer.kind, offer.roster.founder, realm, offer.keys.seeds
        )
        group = Group(self, saved)
        group.roster.merge(offer.roster.entries())
        self._keep(group)

    def _not_decided(self, failure: Failure, *, offer: Offer) -> None:
        self._deciding.pop(offer.group_id, None)
        if failure.check(AbstError) is None and self._owner.running:
            self.log.failure("an application failed to decide about an offer", failure=failure)
        self._sharing.offer_refused(offer.group_id, Refusal.NOT_STORED)
        self._act()


def _checked_name(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise GroupError("a name has 1 to 64 printable characters")
    return name.strip()
