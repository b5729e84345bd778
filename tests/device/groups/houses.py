"""Devices that share groups over channels in memory."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from abst import codec, packets
from abst.address import RealmAddress
from abst.device.groups.keys import GroupKeys
from abst.device.groups.offers import Offer
from abst.device.groups.roster import Roster
from abst.device.groups.sharing import (
    Action,
    KeysGiven,
    Offered,
    RosterGrown,
    Say,
    Sharing,
)
from abst.packets import GiveGroup
from tests.device.groups.rosters import DEVICES, KEYS

MOST_BYTES = 60_000


def seed(epoch: int) -> bytes:
    """Return the seed of an epoch of the group."""
    return epoch.to_bytes(2, "big") * 16


GROUP_ID = bytes(GroupKeys((seed(0),)).group_id)


@dataclass
class Held:
    """A group as a device holds it."""

    kind: str
    founder: bytes
    realm: RealmAddress | None
    keys: GroupKeys
    roster: Roster


class House:
    """One device, with all that it shares.

    Attributes:
        number: which of ``DEVICES`` it is.
        groups: its groups.
        seen: the actions that are not carried out by itself.
        decides: what becomes of an offer: True, False, or None to leave it open.
    """

    def __init__(self, number: int, street: Street) -> None:
        self.number = number
        self.identity = DEVICES[number]
        self.id = bytes(self.identity.device_id)
        self.groups: dict[bytes, Held] = {}
        self.peers = {bytes(device.device_id) for device in DEVICES}
        self.sharing = Sharing(self.id, self.groups, self.peers.__contains__)
        self.seen: list[Action] = []
        self.decides: bool | None = True
        self._street = street

    @property
    def group(self) -> Held:
        return self.groups[GROUP_ID]

    @property
    def is_in(self) -> bool:
        return GROUP_ID in self.groups and self.id in self.group.roster.members()

    def found(self, epoch: int = 0, realm: RealmAddress | None = None) -> None:
        """Make the group."""
        keys = GroupKeys(tuple(map(seed, range(epoch + 1))))
        roster = Roster(GROUP_ID, KEYS[self.number])
        self.groups[GROUP_ID] = Held("group", roster.founder, realm, keys, roster)

    def hold_copy_of(self, other: House) -> None:
        """Have the group as another device has it, as after a restart."""
        held = other.group
        roster = Roster(GROUP_ID, held.founder, held.roster.entries())
        self.groups[GROUP_ID] = Held(held.kind, held.founder, held.realm, held.keys, roster)

    def add(self, other: House, *, offer: bool = True) -> None:
        self.group.roster.add(self.identity, KEYS[other.number], f"device {other.number}")
        self.change()
        if offer:
            self.sharing.offer(GROUP_ID, other.id)
            self.pump()

    def remove(self, other: House) -> None:
        self.group.roster.remove(self.identity, other.id)
        self.change()

    def move(self) -> None:
        """Go to the next epoch."""
        self.group.keys = self.group.keys.with_next(seed(self.group.keys.epoch + 1))
        public = self.group.keys.public_key(self.group.keys.epoch)
        self.group.roster.note_epoch(self.identity, self.group.keys.epoch, public)
        self.change()

    def change(self) -> None:
        self.sharing.changed(GROUP_ID)
        self.pump()

    def receive(self, other: House, packet: GiveGroup) -> None:
        self.sharing.received(other.id, packet)
        self.pump()

    def pump(self) -> None:
        """Do what is to be done."""
        while (action := self.sharing.next_action()) is not None:
            match action:
                case Say():
                    self._street.say(self.number, action)
                case RosterGrown():
                    self.sharing.changed(action.group_id)
                case KeysGiven():
                    if action.keys.epoch > self.groups[action.group_id].keys.epoch:
                        self.groups[action.group_id].keys = action.keys
                        self.sharing.changed(action.group_id)
                case Offered() if self.decides:
                    self.take(action.offer)
                case Offered() if self.decides is False:
                    self.sharing.offer_refused(action.offer.group_id)
                case _:
                    self.seen.append(action)

    def take(self, offer: Offer) -> None:
        """Take a group that is offered."""
        self.groups[offer.group_id] = Held(
            offer.kind, offer.roster.founder, offer.realm, offer.keys, offer.roster
        )
        self.sharing.offer_taken(offer.group_id)


class Street:
    """Some houses, and the channels between them.

    Attributes:
        houses: all of them.
        said: every packet so far: from, to, and what.
    """

    def __init__(self, count: int) -> None:
        self.houses = [House(number, self) for number in range(count)]
        self.said: list[tuple[int, int, GiveGroup]] = []
        self._by_id = {house.id: house.number for house in self.houses}
        self._ways: dict[tuple[int, int], deque[bytes]] = {}

    def is_connected(self, one: int, other: int) -> bool:
        return (one, other) in self._ways

    def connect(self, one: int, other: int) -> None:
        """Give two houses a channel; what was on the way in another is lost."""
        for near, far in ((one, other), (other, one)):
            self._ways[near, far] = deque()
        for near, far in ((one, other), (other, one)):
            self.refresh(near, far)

    def refresh(self, near: int, far: int) -> None:
        """Let one end believe that it has got another channel, as when a path takes over."""
        self.houses[near].sharing.connected(self.houses[far].id)
        self.houses[near].pump()

    def cut(self, one: int, other: int) -> None:
        for near, far in ((one, other), (other, one)):
            if self._ways.pop((near, far), None) is not None:
                self.houses[near].sharing.lost(self.houses[far].id)

    def say(self, number: int, action: Say) -> None:
        """Put a packet on its way, as bytes."""
        far = self._by_id[action.device_id]
        data = codec.encode(action.packet)
        assert len(data) <= MOST_BYTES, len(data)
        self.said.append((number, far, action.packet))
        if (number, far) in self._ways:
            self._ways[number, far].append(data)

    def deliver(self, one: int, other: int) -> bool:
        """Let one packet arrive; False when none was on its way."""
        way = self._ways.get((one, other))
        if not way:
            return False
        packet = packets.parse_between_devices(codec.decode(way.popleft()))
        assert isinstance(packet, GiveGroup)
        self.houses[other].receive(self.houses[one], packet)
        return True

    def settle(self, most: int = 3000) -> int:
        """Let all packets arrive; return how many there were."""
        count = 0
        moved = True
        while moved:
            moved = False
            for way in list(self._ways):
                while self.deliver(*way):
                    moved = True
                    count += 1
                    assert count <= most, "they do not fall silent"
        return count
