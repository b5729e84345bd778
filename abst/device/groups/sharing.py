"""What a device and its peers tell each other about groups (spec: groups.md, "Giving access").

Pure. Owns who may be told what: nothing is said of a group to a device that is not in it, and
nothing is taken from such a device but an offer. Its owner carries packets, stores what was
learned, and decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from abst.device.groups.keys import GroupKeys
from abst.device.groups.offers import Offer, OfferBook, Refusal
from abst.device.groups.talk import SharedGroup, Talk
from abst.errors import GroupError
from abst.packets import GiveGroup


@dataclass(frozen=True, slots=True)
class Say:
    """Send a packet to a peer; drop it when there is no channel just now."""

    device_id: bytes
    packet: GiveGroup


@dataclass(frozen=True, slots=True)
class RosterGrown:
    """A group's roster has new entries: store them, and call ``changed``."""

    group_id: bytes


@dataclass(frozen=True, slots=True)
class KeysGiven:
    """A member has given these keys: let the group have them, store them, and call ``changed``."""

    group_id: bytes
    keys: GroupKeys


@dataclass(frozen=True, slots=True)
class KeysRefused:
    """A member has given other keys of epochs that are known here; nothing has changed."""

    group_id: bytes
    device_id: bytes


@dataclass(frozen=True, slots=True)
class Offered:
    """Decide about an offer: call ``offer_taken`` or ``offer_refused``."""

    offer: Offer


@dataclass(frozen=True, slots=True)
class Accepted:
    """A device has taken the group that was offered to it."""

    group_id: bytes
    device_id: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """A device does not take the group that was offered to it: remove it from the roster."""

    group_id: bytes
    device_id: bytes
    code: str


@dataclass(frozen=True, slots=True)
class Gone:
    """A member says that it has not got the group, or is not in it any more."""

    group_id: bytes
    device_id: bytes


@dataclass(frozen=True, slots=True)
class Out:
    """This device is not in the group any more."""

    group_id: bytes


@dataclass(frozen=True, slots=True)
class Reach:
    """There is something to tell a peer: look for a way to it."""

    device_id: bytes


Action = (
    Say | RosterGrown | KeysGiven | KeysRefused | Offered | Accepted | Refused | Gone | Out | Reach
)


class Sharing:
    """All that a device tells its peers about its groups, and is told.

    Args:
        device_id: this device.
        groups: its groups by ID; their owner adds and drops them.
        is_peer: tells whether a device is trusted: its offers are looked at, and it is worth
            looking for a way to it.
    """

    def __init__(
        self,
        device_id: bytes,
        groups: Mapping[bytes, SharedGroup],
        is_peer: Callable[[bytes], bool],
    ) -> None:
        self._device_id = device_id
        self._groups = groups
        self._is_peer = is_peer
        self._talks: dict[bytes, dict[bytes, Talk]] = {}
        self._offered: set[tuple[bytes, bytes]] = set()
        self._book = OfferBook(device_id)
        self._out: set[bytes] = set()
        self._actions: deque[Action] = deque()

    def next_action(self) -> Action | None:
        """Return what is to be done next, or None."""
        return self._actions.popleft() if self._actions else None

    # Channels.

    def connected(self, device_id: bytes) -> None:
        """Begin on a channel that has passed the Key check, also when it takes over from another.

        What was said on the other may be lost, so it is said again.
        """
        self.lost(device_id)
        self._talks[device_id] = {}
        for group_id in self._groups:
            self._meet(group_id, device_id)

    def lost(self, device_id: bytes) -> None:
        """Forget what was said on a channel that is gone."""
        self._talks.pop(device_id, None)
        self._book.lost(device_id)

    def received(self, device_id: bytes, packet: GiveGroup) -> None:
        """Take what a peer says; what makes no sense, or is not its business, is passed over."""
        if device_id not in self._talks:
            return
        group_id = packet.peer_group
        group = self._groups.get(group_id)
        if packet.step == "offer":
            self._take_offer(device_id, packet)
        elif self._book.is_incoming(group_id, device_id):
            self._go_on(device_id, group_id, self._book.go_on(device_id, packet))
        elif group is None or not _are_in(group, self._device_id):
            if packet.step == "state" and not self._book.is_open(group_id):
                self._say(device_id, [GiveGroup("gone", group_id)])
        elif _are_in(group, device_id):
            talk = self._talks[device_id].get(group_id) or self._meet(group_id, device_id)
            if talk is not None:
                self._take(group_id, device_id, talk, packet)

    # Groups.

    def changed(self, group_id: bytes, *, is_known: bool = False) -> None:
        """Tell the others what is new in a group, or that it was dropped.

        Args:
            group_id: the group.
            is_known: whether the whole group was told the same just now. Then no way to anybody is
                looked for, since all members would look for ways to all others at once.
        """
        group = self._groups.get(group_id)
        if group is None:
            self._forget(group_id)
            return
        is_in = _are_in(group, self._device_id)
        for device_id, talks in self._talks.items():
            talk = talks.get(group_id)
            if not _are_in(group, device_id):
                talks.pop(group_id, None)
            elif talk is None:
                self._meet(group_id, device_id)
            elif not talk.is_gone:
                self._say(device_id, talk.change(is_in=is_in, is_known=is_known))
        if is_in and not is_known:
            others = group.roster.members().keys() - self._talks.keys() - {self._device_id}
            self._actions.extend(Reach(other) for other in sorted(others) if self._is_peer(other))
        elif not is_in and group_id not in self._out:
            self._forget(group_id)
            self._out.add(group_id)
            self._actions.append(Out(group_id))

    def offer(self, group_id: bytes, device_id: bytes) -> None:
        """Offer a group to a device that was just added, now or as soon as it is connected.

        Raises:
            GroupError: there is no such group, or one of the two is not in it.
        """
        group = self._groups.get(group_id)
        if group is None or not _are_in(group, self._device_id, device_id):
            raise GroupError("a group is offered by a member, to a device that was added to it")
        self._offered.add((group_id, device_id))
        if device_id in self._talks:
            self._meet(group_id, device_id)
        else:
            self._actions.append(Reach(device_id))

    def offer_answered(self, group_id: bytes, device_id: bytes) -> None:
        """Offer a group to a device no more: it was seen to have it."""
        self._offered.discard((group_id, device_id))

    # Offers of others.

    def offer_taken(self, group_id: bytes) -> None:
        """Begin to share a group whose offer was accepted, and which is stored and among ours."""
        offer = self._book.close(group_id)
        self._forget(group_id)
        for device_id in self._talks:
            # Another member may have offered it too, and was passed over.
            if offer is not None and _are_in(self._groups[group_id], device_id):
                self._say(device_id, [GiveGroup("accepted", group_id)])
            self._meet(group_id, device_id)

    def offer_refused(self, group_id: bytes, code: str = Refusal.NOT_WANTED) -> None:
        """Tell who has offered a group that this device does not take it."""
        offer = self._book.close(group_id)
        if offer is not None:
            self._say(offer.device_id, [GiveGroup("refused", group_id, code=str(code))])

    def _take_offer(self, device_id: bytes, packet: GiveGroup) -> None:
        group_id = packet.peer_group
        if not self._is_peer(device_id):
            return
        group = self._groups.get(group_id)
        if group is not None and packet.founder != group.founder:
            refused = GiveGroup("refused", group_id, code=str(Refusal.WRONG_GROUP))
            self._say(device_id, [refused])
        elif group is not None and _are_in(group, self._device_id):
            self._merge(group_id, group, packet)
            if _are_in(group, device_id):
                self._take_keys(group_id, group, device_id, packet)
                self._say(device_id, [GiveGroup("accepted", group_id)])
                self._meet(group_id, device_id)
        elif not self._book.is_open(group_id):
            self._go_on(device_id, group_id, self._book.begin(device_id, packet))

    def _go_on(self, device_id: bytes, group_id: bytes, came: Offer | GiveGroup | None) -> None:
        match came:
            case Offer():
                self._actions.append(Offered(came))
            case GiveGroup():
                self._say(device_id, [came])

    # What members say.

    def _take(self, group_id: bytes, device_id: bytes, talk: Talk, packet: GiveGroup) -> None:
        is_offered = (group_id, device_id) in self._offered
        match packet:
            case GiveGroup(step="state", epoch=int() as epoch, digest=bytes() as digest):
                self._say(device_id, talk.state_received(epoch, digest))
            case GiveGroup(step="entries", entries=list() as entries):
                self._merge(group_id, talk.group, packet)
                talk.entries_received(entries)
            case GiveGroup(step="keys"):
                self._take_keys(group_id, talk.group, device_id, packet)
            case GiveGroup(step="gone") if not talk.awaits_answer:
                talk.is_gone = True
                self._actions.append(Gone(group_id, device_id))
            case GiveGroup(step="accepted") if is_offered:
                self._offered.discard((group_id, device_id))
                self._actions.append(Accepted(group_id, device_id))
                self._meet(group_id, device_id)
            case GiveGroup(step="accepted"):
                talk.awaits_answer = False  # It was seen to have the group before it said so.
            case GiveGroup(step="refused") if is_offered:
                self._offered.discard((group_id, device_id))
                self._actions.append(Refused(group_id, device_id, packet.code or ""))

    def _merge(self, group_id: bytes, group: SharedGroup, packet: GiveGroup) -> None:
        if group.roster.merge(packet.entries or ()):
            self._actions.append(RosterGrown(group_id))

    def _take_keys(
        self, group_id: bytes, group: SharedGroup, device_id: bytes, packet: GiveGroup
    ) -> None:
        try:
            keys = group.keys.extended_by(packet.seeds or ())
        except GroupError:
            self._actions.append(KeysRefused(group_id, device_id))
            return
        if keys.epoch > group.keys.epoch:
            self._actions.append(KeysGiven(group_id, keys))

    # What is said.

    def _meet(self, group_id: bytes, device_id: bytes) -> Talk | None:
        """Begin to talk with a device about a group, when both are in it."""
        group = self._groups.get(group_id)
        if group is None or not _are_in(group, self._device_id, device_id):
            self._offered.discard((group_id, device_id))
            return None
        offers = (group_id, device_id) in self._offered
        talk = Talk(group_id, group, speaks_first=offers or self._device_id < device_id)
        self._talks[device_id][group_id] = talk
        self._say(device_id, talk.offer() if offers else talk.state())
        return talk

    def _say(self, device_id: bytes, packets: Iterable[GiveGroup]) -> None:
        if device_id in self._talks:
            self._actions.extend(Say(device_id, packet) for packet in packets)

    def _forget(self, group_id: bytes) -> None:
        self._out.discard(group_id)
        self._offered = {key for key in self._offered if key[0] != group_id}
        for talks in self._talks.values():
            talks.pop(group_id, None)


def _are_in(group: SharedGroup, *devices: bytes) -> bool:
    """Tell whether all of some devices are members."""
    members = group.roster.members()
    return all(device_id in members for device_id in devices)
