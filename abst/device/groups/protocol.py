"""What applications subclass: ``GroupProtocol`` and ``GroupFactory``.

One protocol is one peer group for as long as this device is in it, connected or not.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from abst.device.peers import Peer
from abst.device_id import DeviceID
from abst.errors import AbstError

if TYPE_CHECKING:
    from abst.device.groups.group import Group


@dataclass(frozen=True, slots=True)
class GroupOffer:
    """A peer wants this device in a group.

    Attributes:
        peer: who offers.
        group_id: the group.
        kind: ``group`` or ``network``.
        name: what it is called.
        members: how many devices are in it, this one included.
    """

    peer: Peer
    group_id: DeviceID
    kind: str
    name: str
    members: int


class GroupProtocol:
    """This device's part in a peer group.

    Override ``joined``, ``messageReceived``, ``memberArrived``, ``memberLeft``, ``epochChanged``,
    ``problemSeen`` and ``connectionLost``.

    Attributes:
        factory: the factory that built it.
        group: the group: its members, its values, and what this device may do in it.
    """

    factory: GroupFactory
    group: Group

    def makeConnection(self, group: Group) -> None:
        """Take the group; called once, by the device."""
        self.group = group
        self.connectionMade()

    def send(self, content: bytes) -> None:
        """Send a message to every other member that is here.

        Raises:
            GroupError: it is too long, or the group is not joined and too much waits already.
        """
        self.group.send(content)

    def connectionMade(self) -> None:
        """Called when this device is in the group, after each start, before it has joined."""

    def joined(self) -> None:
        """Called when the realm counts this device in, again after each reconnection."""

    def messageReceived(self, device_id: DeviceID, content: bytes) -> None:
        """Called for each message of another member, once, in the order in which it was sent."""

    def messagesMissed(self, device_id: DeviceID, count: int) -> None:
        """Called before a message when others of the same member have not come."""

    def messagesDropped(self, device_id: DeviceID | None, count: int, code: str) -> None:
        """Called when messages of this device were dropped on the way to one member, or to all."""

    def memberArrived(self, device_id: DeviceID) -> None:
        """Called when another member is here."""

    def memberHere(self, device_id: DeviceID) -> None:
        """Called when another member has said that it is here."""

    def memberLeft(self, device_id: DeviceID) -> None:
        """Called when another member is not here any more."""

    def rosterChanged(self) -> None:
        """Called when somebody was added, removed or renamed, or the group was."""

    def epochChanged(self, epoch: int) -> None:
        """Called when this device has got the key of another epoch."""

    def problemSeen(self, problem: AbstError) -> None:
        """Called when something cannot be read, or the realm has been seen to lie."""

    def connectionLost(self, reason: AbstError) -> None:
        """Called when this device is not in the group any more; the reason says why."""


class GroupFactory:
    """Builds a ``GroupProtocol`` for each group, and decides about offers."""

    protocol: type[GroupProtocol] = GroupProtocol

    def buildProtocol(self, group: Group) -> GroupProtocol:
        """Return the protocol of a group."""
        protocol = self.protocol()
        protocol.factory = self
        return protocol

    def acceptsOffer(self, offer: GroupOffer) -> bool | Awaitable[bool]:
        """Tell whether this device wants to be in a group that a peer offers; False refuses.

        By default nothing is accepted. What is returned may come later, as a Deferred, while a
        person is asked; the offer then waits, and is gone with this device's process.
        """
        return False
