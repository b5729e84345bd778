"""A device's standing in one group at the group's realm (spec: groups.md, "At the realm").

Owns joining: after each reconnection, when the group has moved, and when the realm has forgotten
it; and moving the group to the epoch that its owner wants. It knows who else is here.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from twisted.internet.defer import ensureDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.device.groups.keys import GroupKeys
from abst.device.link import Link
from abst.device_id import DeviceID
from abst.errors import (
    AbstError,
    Code,
    GroupError,
    MissingEpochError,
    PeerUnreachableError,
    RealmRefusedError,
    RemoteProtocolError,
)
from abst.packets import (
    CreateGroup,
    Error,
    GroupEpoch,
    GroupLeft,
    GroupMembers,
    JoinGroup,
    LeaveGroup,
    Packet,
    StillHere,
)

FIRST_RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 60.0


class MembershipOwner(Protocol):
    """The group."""

    @property
    def keys(self) -> GroupKeys:
        """The seeds that this device has."""

    @property
    def next_keys(self) -> GroupKeys | None:
        """The same with the seed of the epoch to which the group shall be moved, or None."""

    def moved(self) -> None:
        """The realm has moved the group to the epoch of ``next_keys``."""

    def outrun(self) -> None:
        """Somebody else has moved the group first: ``next_keys`` are of no use."""

    def missing_epoch(self, epoch: int) -> None:
        """The realm is in an epoch whose key this device has not got."""

    def joined(self, limits: dict[str, float]) -> None:
        """The realm counts this device in."""

    def parted(self) -> None:
        """The realm does not count this device in any more."""

    def arrived(self, device_id: DeviceID) -> None:
        """Another member is here."""

    def still_here(self, device_id: DeviceID) -> None:
        """Another member has said that it is here."""

    def left(self, device_id: DeviceID) -> None:
        """Another member is not here any more."""


class Membership:
    """One device in one group.

    Args:
        reactor: the reactor.
        device_id: this device.
        owner: the group.

    Attributes:
        is_joined: whether the realm counts this device in.
        here: the other members that are here; empty while this device has not joined.
        problem: why it has not joined, or None.
    """

    log = Logger(namespace="abst.device")

    def __init__(self, reactor: Any, device_id: DeviceID, owner: MembershipOwner) -> None:
        self.is_joined = False
        self.here: set[DeviceID] = set()
        self.problem: AbstError | None = PeerUnreachableError("its realm is not connected")
        self._reactor = reactor
        self._device_id = device_id
        self._owner = owner
        self._link: Link | None = None
        self._is_working = False
        self._works_again = False
        self._has_created = False
        self._retry_call: Any = None
        self._failures = 0

    # What happens.

    def link_up(self, link: Link) -> None:
        """Join: the group's realm is connected."""
        self._link = link
        self._failures = 0
        self._has_created = False
        self.work()

    def link_down(self) -> None:
        """Wait for the realm."""
        self._link = None
        self._stop_retrying()
        self._part(PeerUnreachableError("its realm is not connected"))

    def leave(self) -> None:
        """Tell the realm that this device is not in the group any more."""
        link, self._link = self._link, None
        self._stop_retrying()
        if link is not None:
            # Also when it has not joined: what it has asked for may be on its way.
            link.ask(LeaveGroup(bytes(self._owner.keys.group_id))).addErrback(lambda failure: None)
        self._part(GroupError("this device has left the group"))

    def work(self) -> None:
        """Join, or move the group: whatever is to be done now. Call it when the keys change."""
        if self._link is None:
            return
        self._stop_retrying()
        if self._is_working:
            self._works_again = True
            return
        self._is_working = True
        ensureDeferred(self._work()).addErrback(self._failed)

    def told(self, packet: Packet) -> None:
        """Take what the realm says about the group without being asked."""
        match packet:
            case GroupEpoch():
                self._part(GroupError("the group has moved to another epoch"))
                self.work()
            case Error(code=Code.NOT_JOINED) if self.is_joined and not self._is_working:
                self._part(GroupError("the realm has forgotten that this device has joined"))
                self.work()
            case _ if not self.is_joined:
                pass  # On its way while this device was counted out.
            case GroupMembers():
                for device_id in self._others(packet.devices):
                    if device_id not in self.here:
                        self.here.add(device_id)
                        self._owner.arrived(device_id)
            case StillHere():
                for device_id in self._others(packet.devices):
                    self._owner.still_here(device_id)
            case GroupLeft():
                for device_id in self._others(packet.devices):
                    if device_id in self.here:
                        self.here.discard(device_id)
                        self._owner.left(device_id)

    # Inside.

    def _others(self, devices: list[bytes]) -> list[DeviceID]:
        return [DeviceID(device) for device in devices if device != self._device_id]

    def _part(self, problem: AbstError) -> None:
        self.problem = problem
        was_joined, self.is_joined = self.is_joined, False
        gone, self.here = self.here, set()
        for device_id in gone:
            self._owner.left(device_id)
        if was_joined:
            self._owner.parted()

    async def _work(self) -> None:
        link = self._link
        try:
            while link is not None and link is self._link:
                self._works_again = False
                if not self.is_joined or self._owner.next_keys is not None:
                    await self._step(link)
                if not self._works_again:
                    break
        finally:
            self._is_working = False
        if self._works_again:
            # Another link has come meanwhile.
            self.work()

    async def _step(self, link: Link) -> None:
        """Join with what this device has, then move the group if that is wanted."""
        if not self.is_joined:
            try:
                await self._join(link)
            except RealmRefusedError as refusal:
                if link is self._link:  # Else it has left meanwhile.
                    await self._refused(link, refusal)
                return
        if self._owner.next_keys is not None:
            await self._move(link)

    async def _join(self, link: Link) -> None:
        keys = self._owner.keys
        group = bytes(keys.group_id)
        proof = keys.proof(link.nonce, bytes(self._device_id))
        answer = await link.ask(JoinGroup(group, keys.epoch, proof))
        if not isinstance(answer, GroupMembers):
            raise RemoteProtocolError(Code.MALFORMED, "the answer to Join is another packet")
        if link is not self._link or keys is not self._owner.keys:
            self._works_again = True
            return
        self.is_joined = True
        self.problem = None
        self._failures = 0
        self._has_created = False
        self._owner.joined(dict(answer.limits or {}))
        for device_id in self._others(answer.devices):
            if device_id not in self.here:
                self.here.add(device_id)
                self._owner.arrived(device_id)

    async def _refused(self, link: Link, refusal: RealmRefusedError) -> None:
        """Do what a refusal of Join calls for."""
        self.problem = refusal
        keys = self._owner.keys
        if self._has_created:
            # It has taken the group, and does not know it: once more, and not at once.
            self._has_created = False
            self._retry_later(refusal.retry_after_seconds)
        elif refusal.code == Code.NO_GROUP:
            # The first member makes it; and a realm that has lost its disk gets it again.
            await self._create(link, keys, 0)
        elif refusal.code == Code.WRONG_EPOCH and refusal.epoch is not None:
            if refusal.epoch < keys.epoch:
                await self._create(link, keys, refusal.epoch + 1)
            elif self._owner.next_keys is not None:
                # Perhaps it was this very device that has moved it, and has lost the answer.
                await self._move(link)
            else:
                self._miss(refusal.epoch)
        else:
            self._retry_later(refusal.retry_after_seconds)

    async def _create(self, link: Link, keys: GroupKeys, first: int) -> None:
        """Make the group at the realm, or lead it to the epoch whose seed this device has."""
        for epoch in range(first, keys.epoch + 1):
            await link.ask(self._creation(link, keys.until(epoch)))
        self._has_created = True
        self._works_again = True

    async def _move(self, link: Link) -> None:
        wanted = self._owner.next_keys
        assert wanted is not None
        is_outrun = False
        try:
            await link.ask(self._creation(link, wanted))
        except RealmRefusedError as refusal:
            if refusal.code != Code.WRONG_EPOCH:
                raise
            is_outrun = True
        if link is not self._link:
            return  # It has left meanwhile.
        if is_outrun:
            self._owner.outrun()
            self._part(GroupError("another member has moved the group"))
        else:
            self._part(GroupError("the group has moved to another epoch"))
            self._owner.moved()
        self._works_again = True

    def _creation(self, link: Link, keys: GroupKeys) -> CreateGroup:
        proof = keys.proof(link.nonce, bytes(self._device_id))
        key, signature = keys.public_key(keys.epoch), None
        if keys.epoch > 0:
            signature = keys.until(keys.epoch - 1).move_signature(key)
        return CreateGroup(bytes(keys.group_id), keys.epoch, key, proof, signature)

    def _miss(self, epoch: int) -> None:
        self.problem = MissingEpochError(epoch)
        self._owner.missing_epoch(epoch)
        # Who has the key may never come; then somebody may have led the realm back.
        self._retry_later(MAX_RETRY_SECONDS)

    def _failed(self, failure: Failure) -> None:
        problem = failure.value
        if not isinstance(problem, AbstError):
            self.log.failure("a group failed", failure=failure)
            problem = GroupError("it failed for a reason that stands in the log")
        self.problem = problem
        if self._works_again:
            self.work()
        elif self._link is not None:
            asked = problem.retry_after_seconds if isinstance(problem, RealmRefusedError) else None
            self._retry_later(asked)

    def _retry_later(self, asked_seconds: float | None) -> None:
        self._failures += 1
        own = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(self._failures, 10))
        self._stop_retrying()
        wait = own if asked_seconds is None else max(FIRST_RETRY_SECONDS, asked_seconds)
        self._retry_call = self._reactor.callLater(min(wait, MAX_RETRY_SECONDS), self.work)

    def _stop_retrying(self) -> None:
        if self._retry_call is not None and self._retry_call.active():
            self._retry_call.cancel()
        self._retry_call = None
