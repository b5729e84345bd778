"""Networks: groups whose members are peers of each other (spec: networks.md).

Owns what a network's roster means for a device's peers and realms: who is in it is trusted, who was
removed is forgotten, and the network's realms are used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from twisted.logger import Logger

from abst.address import RealmAddress
from abst.device.groups.group import Group
from abst.device.groups.view import Member
from abst.device.link import Link
from abst.device.peers import PeerBook
from abst.device_id import DeviceID, subject_public_key_info
from abst.errors import AbstError, AddressError

NETWORK: Final = "network"
MAX_REALMS: Final = 16
"""How many a device uses before it takes no other member's word for more."""


class NetworkOwner(Protocol):
    """This device."""

    device_id: DeviceID
    peers: PeerBook

    @property
    def links(self) -> Mapping[RealmAddress, Link]:
        """The realms that it uses."""

    def forget(self, device_id: DeviceID) -> None:
        """Stop trusting a device, and end the session with it."""

    def addRealm(self, address: RealmAddress) -> None:
        """Use a realm from now on."""

    def reach(self, device_id: bytes) -> None:
        """Look for a way to a peer, once, unless there is one."""


class Networks:
    """What this device's networks mean for it.

    Args:
        owner: this device.
    """

    log = Logger(namespace="abst.device")

    def __init__(self, owner: NetworkOwner) -> None:
        self._owner = owner

    def follow(self, network: Group, *, is_known: bool = False) -> None:
        """Trust who is in a network, forget who was removed, and use its realms.

        Args:
            network: the network.
            is_known: whether the whole network was told the same just now. Then whoever is new is
                not called: it calls the others, and they would all call it at once.
        """
        members = network.roster.members()
        if self._owner.device_id not in members:
            return
        for address in network.roster.realms():
            with contextlib.suppress(AddressError):
                self.use_realm(RealmAddress.parse_told(address))
        with self._saving():
            for device_id, member in members.items():
                if device_id != self._owner.device_id:
                    self._introduce(network, member, is_called=not is_known)
            for peer in self._owner.peers.all():
                if bytes(network.group_id) in peer.networks and peer.device_id not in members:
                    self._removed(network, peer.device_id)

    def leave(self, network: Group) -> None:
        """Forget whom this device has trusted for this network alone."""
        with self._saving():
            for peer in self._owner.peers.all():
                if self._owner.peers.part(peer.device_id, bytes(network.group_id)):
                    self._owner.forget(peer.device_id)

    def use_realm(self, address: RealmAddress) -> None:
        """Use a realm that other members have named, unless this device uses enough of them."""
        if address in self._owner.links or len(self._owner.links) < MAX_REALMS:
            self._owner.addRealm(address)

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Save the peers once, however many change; what cannot be saved counts all the same."""
        try:
            with self._owner.peers.together():
                yield
        except AbstError as error:
            self.log.error("a network's peers are not saved: {error}", error=str(error))

    def _introduce(self, network: Group, member: Member, *, is_called: bool) -> None:
        known = self._owner.peers.get(member.device_id)
        key = subject_public_key_info(member.public_key)
        self._owner.peers.introduce(member.device_id, key, member.name, bytes(network.group_id))
        if known is None and is_called:
            # It may not know of this device yet: it learns that from whoever it meets first.
            self._owner.reach(member.device_id)

    def _removed(self, network: Group, device_id: DeviceID) -> None:
        """Forget a device, also one that a person has paired: it may have been stolen."""
        self._owner.peers.part(device_id, bytes(network.group_id))
        peer = self._owner.peers.get(device_id)
        if peer is not None and not peer.networks:
            self._owner.forget(device_id)
