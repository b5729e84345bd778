"""Groups that others offer to this device, until it has decided (spec: groups.md, "Giving access").

Pure. Owns what of an offer has come: its roster may take several packets, and nobody is asked
before it is whole, and says that both devices are in. Bounded, whoever offers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from abst.address import RealmAddress
from abst.device.groups.keys import GroupKeys
from abst.device.groups.roster import MAX_ENTRIES, Roster
from abst.errors import AddressError, GroupError
from abst.packets import GiveGroup

KINDS: Final = ("group", "network")
MAX_OFFERS: Final = 64
"""Undecided, whole or not."""


class Refusal(StrEnum):
    """Why an offer is refused."""

    NOT_WANTED = "not_wanted"
    NOT_STORED = "not_stored"
    WRONG_GROUP = "wrong_group"
    OFFERS_FULL = "offers_full"


@dataclass(frozen=True, slots=True)
class Offer:
    """A group in which a device wants this one.

    Attributes:
        device_id: who offers it; a member, as this device is.
        group_id: the group.
        kind: ``group`` or ``network``.
        realm: where it is, or None.
        keys: the seeds of its epochs.
        roster: who belongs to it.
    """

    device_id: bytes
    group_id: bytes
    kind: str
    realm: RealmAddress | None
    keys: GroupKeys
    roster: Roster


class OfferBook:
    """All offers that are not decided.

    Args:
        device_id: this device.
    """

    def __init__(self, device_id: bytes) -> None:
        self._device_id = device_id
        self._open: dict[bytes, Offer] = {}
        self._incoming: dict[tuple[bytes, bytes], Offer] = {}

    def is_open(self, group_id: bytes) -> bool:
        """Tell whether a decision about a group is awaited."""
        return group_id in self._open

    def is_incoming(self, group_id: bytes, device_id: bytes) -> bool:
        """Tell whether a part of a device's offer has come."""
        return (group_id, device_id) in self._incoming

    def begin(self, device_id: bytes, packet: GiveGroup) -> Offer | GiveGroup:
        """Take an offer; return it when it is whole, else what to answer."""
        group_id = packet.peer_group
        self._incoming.pop((group_id, device_id), None)
        if len(self._open) + len(self._incoming) >= MAX_OFFERS:
            return _refused(group_id, Refusal.OFFERS_FULL)
        try:
            offer = _read(device_id, packet)
        except (AddressError, GroupError):
            return _refused(group_id, Refusal.WRONG_GROUP)
        self._incoming[group_id, device_id] = offer
        return self._look_at(offer, packet)

    def go_on(self, device_id: bytes, packet: GiveGroup) -> Offer | GiveGroup | None:
        """Take another packet from who has begun to offer; return likewise, or None."""
        offer = self._incoming[packet.peer_group, device_id]
        if packet.step == "entries":
            offer.roster.merge(packet.entries or ())
            return self._refused_for_size(offer)
        return self._look_at(offer, packet) if packet.step == "state" else None

    def lost(self, device_id: bytes) -> None:
        """Forget what of a device's offers has not come whole."""
        for key in [key for key in self._incoming if key[1] == device_id]:
            del self._incoming[key]

    def close(self, group_id: bytes) -> Offer | None:
        """Return the offer of a group that is decided, or None."""
        return self._open.pop(group_id, None)

    def _look_at(self, offer: Offer, packet: GiveGroup) -> Offer | GiveGroup:
        refused = self._refused_for_size(offer)
        if refused is not None:
            return refused
        if offer.roster.digest() != packet.digest:
            epoch, digest = offer.keys.epoch, offer.roster.digest()
            return GiveGroup("state", offer.group_id, epoch=epoch, digest=digest)
        del self._incoming[offer.group_id, offer.device_id]
        if not {self._device_id, offer.device_id} <= offer.roster.members().keys():
            return _refused(offer.group_id, Refusal.WRONG_GROUP)
        self._open[offer.group_id] = offer
        return offer

    def _refused_for_size(self, offer: Offer) -> GiveGroup | None:
        """Drop an offer when all of them together have grown too large; return what to answer."""
        offers = (*self._open.values(), *self._incoming.values())
        if sum(len(one.roster) for one in offers) <= MAX_ENTRIES:
            return None
        del self._incoming[offer.group_id, offer.device_id]
        return _refused(offer.group_id, Refusal.OFFERS_FULL)


def _read(device_id: bytes, packet: GiveGroup) -> Offer:
    """Return what an offer says.

    Raises:
        AddressError: its realm has no address.
        GroupError: it is none of a group.
    """
    keys = GroupKeys(tuple(packet.seeds or ()))
    if packet.founder is None or packet.kind not in KINDS or keys.group_id != packet.peer_group:
        raise GroupError("this is no offer of a group: ask for it again")
    realm = None if packet.realm is None else RealmAddress.parse_told(packet.realm)
    roster = Roster(packet.peer_group, packet.founder)
    roster.merge(packet.entries or ())
    return Offer(device_id, packet.peer_group, packet.kind, realm, keys, roster)


def _refused(group_id: bytes, code: Refusal) -> GiveGroup:
    return GiveGroup("refused", group_id, code=str(code))
