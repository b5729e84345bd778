"""The peer groups of a realm: which there are, and who has joined them (spec: groups.md).

Pure. Owns the checks of proofs and limits, the moves from epoch to epoch, who is told of whom, and
to whom a message goes. What a group is lasts in the store, and is said to be so only once the store
has it. Who has joined lives in memory, as long as the connection that has joined.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from abst.errors import Code
from abst.group_proofs import allows_move, group_id_of, proves
from abst.packets import (
    MAX_EPOCHS,
    CreateGroup,
    GroupEpoch,
    GroupLeft,
    GroupMembers,
    HereInGroup,
    JoinGroup,
    LeaveGroup,
)
from abst.realm.client import Client
from abst.realm.counters import Counters
from abst.realm.limits import Limits
from abst.realm.news import News
from abst.realm.quota import Quota
from abst.realm.refusal import Refusal
from abst.realm.store.interface import GroupRecord, Store
from abst.realm.switchboard import Sender

MAX_WAITING_MOVES: Final = 64
"""How many more may ask for a move of one group while one is being written to the disk."""
WAITING_RETRY_SECONDS: Final = 1.0
FULL_RETRY_SECONDS: Final = 60.0

WRONG_PROOF_REQUESTS: Final = 10
"""As how many requests one with a wrong proof counts: no other costs as much, and whoever has the
key makes none."""

DAY_SECONDS: Final = 86400
LOOK_SECONDS: Final = 3600.0
"""How often it is looked which groups are in use, as long as somebody asks anything of groups."""

GroupRequest = CreateGroup | JoinGroup | HereInGroup | LeaveGroup


class Member(Client, Protocol):
    """A connection as groups see it.

    Attributes:
        memberships: the groups that it has joined, by their IDs; written by ``Groups`` alone.
        nonce: what its proofs are made over.
    """

    memberships: dict[bytes, Membership]
    nonce: bytes

    def news(self) -> News:
        """Return what it is going to be told; something is going to be added."""

    def owe_answer(self, group: bytes, request: int | None) -> None:
        """Answer a Join with the members that are here, when it can be written to."""

    def parted(self, group: bytes) -> None:
        """Take note that it has not joined a group any more."""

    def refuse(self, refusal: Refusal, refused: GroupRequest) -> None:
        """Say that it does not get what it has asked for."""

    def deliver(self, run: bytes, count: int, source: Sender) -> Code | None:
        """Queue a run of messages, or return why it does not fit."""

    def report_message_drop(
        self, code: Code, group: bytes, target_device: bytes | None, count: int
    ) -> None:
        """Note that messages of this device have not reached a member."""


class _Group:
    """A group: what the store has of it, and who has joined."""

    __slots__ = ("members", "record")

    def __init__(self, record: GroupRecord) -> None:
        self.record = record
        self.members: dict[bytes, Membership] = {}


class Membership:
    """A device that has joined a group, and the sender of what it says there.

    Attributes:
        client: its connection.
        device_id: the device.
        group: the group.
    """

    __slots__ = ("client", "device_id", "group")

    def __init__(self, group: _Group, client: Member, device_id: bytes) -> None:
        self.group = group
        self.client = client
        self.device_id = device_id

    def report_drop(self, code: Code, target_device: bytes, count: int) -> None:
        """Note that messages have not reached a member."""
        self.client.report_message_drop(code, self.group.record.group, target_device, count)


class Groups:
    """All groups of a realm.

    Args:
        limits: how many there may be, and how many a device may join.
        store: what lasts.
        counters: where moves, joins and drops are counted.
        wall: returns the seconds since 1970.
    """

    def __init__(
        self, limits: Limits, store: Store, counters: Counters, wall: Callable[[], float]
    ) -> None:
        self._wall = wall
        self._now = -math.inf
        self._look_at = -math.inf
        self._store = store
        self._counters = counters
        self._groups = {record.group: _Group(record) for record in store.groups()}
        # Those that are being written to the disk are counted as if they were there already.
        self._count = len(self._groups)
        self._made = Counter(group.record.maker for group in self._groups.values())
        self._writing: dict[bytes, deque[tuple[Member, CreateGroup]]] = {}
        self.use_limits(limits)

    def use_limits(self, limits: Limits) -> None:
        """Let these limits count from now on; what there is already may be more than they allow."""
        self._limits = limits
        per_minute = limits.group_requests_per_minute
        self._quota = Quota(per_minute, per_minute / 60)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def members(self) -> int:
        """How often a device that is here has joined one."""
        return sum(len(group.members) for group in self._groups.values())

    def records(self) -> list[tuple[GroupRecord, int]]:
        """Return every group, and how many of its members are here."""
        return [(group.record, len(group.members)) for group in self._groups.values()]

    def handle(self, client: Member, wanted: GroupRequest, now: float) -> None:
        """Do what a device asks for, and answer it; or say why not."""
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            self._look_for_idle()
        self._now = now
        wait = self._quota.take(client.device_id, now)
        if wait:
            client.refuse(Refusal(Code.RATE_LIMITED, round(wait, 1) + 0.1), wanted)
            return
        match wanted:
            case CreateGroup():
                self._create(client, wanted)
            case JoinGroup():
                self._join(client, wanted)
            case HereInGroup():
                self._say_here(client, wanted)
            case LeaveGroup():
                self._leave(client, wanted)

    def leave_all(self, client: Member) -> None:
        """Count a device out of everything that its connection has joined."""
        for membership in tuple(client.memberships.values()):
            self._count_out(membership)

    def stop(self) -> None:
        """Tell nobody of anybody any more: all connections are going to be closed."""
        for group in self._groups.values():
            group.members.clear()

    def relay(self, membership: Membership, run: bytes, count: int) -> None:
        """Hand a run of ``count`` messages to every other member of the sender's group."""
        for device_id, other in membership.group.members.items():
            if other is membership:
                continue
            refusal = other.client.deliver(run, count, membership)
            if refusal is not None:
                self._counters.dropped_packets[refusal] += count
                membership.report_drop(refusal, device_id, count)

    def members_packet(
        self, group: bytes, request: int | None, limits: dict[str, float]
    ) -> GroupMembers:
        """Return the answer to a Join: all members that are here, and the limits."""
        found = self._groups[group]
        own = {"members": self._limits.group_members, "device_groups": self._limits.device_groups}
        return GroupMembers(
            group, found.record.epoch, list(found.members), {**own, **limits}, request
        )

    # Making and moving.

    def _create(self, client: Member, wanted: CreateGroup) -> None:
        waiting = self._writing.get(wanted.peer_group)
        if waiting is not None:
            # Whether this one can be done turns out when the one before it is.
            if len(waiting) >= MAX_WAITING_MOVES:
                client.refuse(Refusal(Code.RATE_LIMITED, WAITING_RETRY_SECONDS), wanted)
            else:
                waiting.append((client, wanted))
            return
        record = self._judge(client, wanted)
        if isinstance(record, Refusal):
            self._refuse(client, record, wanted)
        elif self._is_done(record):
            client.tell(GroupEpoch(record.group, record.epoch, record.key, wanted.request))
        else:
            self._write(client, wanted, record)

    def _refuse(self, client: Member, refusal: Refusal, wanted: GroupRequest) -> None:
        if refusal.code is Code.WRONG_PROOF:
            self._quota.charge(client.device_id, WRONG_PROOF_REQUESTS - 1, self._now)
        client.refuse(refusal, wanted)

    def _judge(self, client: Member, wanted: CreateGroup) -> GroupRecord | Refusal:
        """Return what the group is to be, or is already; or why it cannot be that."""
        group = self._groups.get(wanted.peer_group)
        if wanted.epoch == 0 and group_id_of(wanted.key) != wanted.peer_group:
            return Refusal(Code.WRONG_PROOF)
        if group is not None:
            present = group.record
            record = present._replace(epoch=wanted.epoch, key=wanted.key)
            is_next = wanted.epoch == present.epoch + 1 < MAX_EPOCHS
            if record != present and not is_next:
                return Refusal(Code.WRONG_EPOCH, epoch=present.epoch)
            if is_next and not _is_allowed(wanted, present):
                return Refusal(Code.WRONG_PROOF)
        elif wanted.epoch:
            return Refusal(Code.NO_GROUP)
        else:
            assert client.device_id is not None
            record = GroupRecord(wanted.peer_group, 0, wanted.key, client.device_id, self._today())
        if not _is_proved(client, record, wanted.proof):
            return Refusal(Code.WRONG_PROOF)
        if group is None and (
            self._count >= self._limits.groups
            or self._made[record.maker] >= self._limits.device_groups
        ):
            return Refusal(Code.GROUPS_FULL, FULL_RETRY_SECONDS)
        return record

    def _is_done(self, record: GroupRecord) -> bool:
        group = self._groups.get(record.group)
        return group is not None and group.record == record

    def _write(self, client: Member, wanted: CreateGroup, record: GroupRecord) -> None:
        self._writing[record.group] = deque()
        if record.group not in self._groups:
            self._count += 1
            self._made[record.maker] += 1

        def written(is_kept: bool) -> None:
            waiting = self._writing.pop(record.group)
            if is_kept:
                self._put_in_force(record, client)
                client.tell(GroupEpoch(record.group, record.epoch, record.key, wanted.request))
            else:
                if record.group not in self._groups:
                    self._count_less(record)
                client.refuse(Refusal(Code.NOT_KEPT), wanted)
            self._go_on(waiting)

        self._store.put_group(record, written)

    def _go_on(self, waiting: Iterable[tuple[Member, CreateGroup]]) -> None:
        """Do what has waited, but for those that are gone, or were shut out meanwhile."""
        for client, wanted in waiting:
            if client.is_here:
                self._create(client, wanted)

    def _count_less(self, record: GroupRecord) -> None:
        self._count -= 1
        self._made[record.maker] -= 1
        if not self._made[record.maker]:
            del self._made[record.maker]

    def _put_in_force(self, record: GroupRecord, mover: Member) -> None:
        group = self._groups.get(record.group)
        if group is None:
            self._groups[record.group] = _Group(record)
            self._counters.groups_made += 1
            return
        were_here = list(group.members.values())
        for membership in were_here:
            membership.client.parted(record.group)
        group.record = record
        group.members.clear()
        self._counters.groups_moved += 1
        for membership in were_here:
            if membership.client is not mover:
                membership.client.tell(GroupEpoch(record.group, record.epoch, record.key))

    # Forgetting what nobody uses.

    def _today(self) -> int:
        return int(self._wall() // DAY_SECONDS)

    def _note_use(self, group: _Group) -> None:
        record, today = group.record, self._today()
        if record.used < today:
            group.record = record._replace(used=today)
            self._store.note_use(record.group, today)

    def _look_for_idle(self) -> None:
        """Note which groups are in use, and forget those that have not been for too long."""
        days = self._limits.group_idle_days
        last = self._today() - days
        idle = []
        for group in self._groups.values():
            record = group.record
            if group.members:
                self._note_use(group)
            elif record.used <= last and not record.epoch and record.group not in self._writing:
                idle.append(group)
        if not (days and idle):
            return
        for group in idle:
            # Whoever wants one of them makes it anew, and waits until this is done.
            del self._groups[group.record.group]
            self._writing[group.record.group] = deque()
        asked = [group.record.group for group in idle]
        self._store.forget_groups(asked, lambda gone: self._forgotten(idle, gone))

    def _forgotten(self, idle: Sequence[_Group], gone: Sequence[bytes] | None) -> None:
        are_gone = frozenset(gone or ())
        for group in idle:
            record = group.record
            if record.group in are_gone:
                self._counters.groups_forgotten += 1
                self._count_less(record)
            else:
                # It has values, or the disk takes nothing: not to be asked again for a while.
                group.record = record._replace(used=self._today())
                self._groups[record.group] = group
            self._go_on(self._writing.pop(record.group))

    # Coming and going.

    def _join(self, client: Member, wanted: JoinGroup) -> None:
        group = self._groups.get(wanted.peer_group)
        if group is None:
            client.refuse(Refusal(Code.NO_GROUP), wanted)
            return
        record = group.record
        if wanted.epoch != record.epoch:
            client.refuse(Refusal(Code.WRONG_EPOCH, epoch=record.epoch), wanted)
        elif not _is_proved(client, record, wanted.proof):
            self._refuse(client, Refusal(Code.WRONG_PROOF), wanted)
        elif client.is_joined(record.group) or self._count_in(group, client):
            client.owe_answer(record.group, wanted.request)
        else:
            client.refuse(Refusal(Code.GROUPS_FULL, FULL_RETRY_SECONDS), wanted)

    def _say_here(self, client: Member, wanted: HereInGroup) -> None:
        membership = client.memberships.get(wanted.peer_group)
        if membership is None:
            client.refuse(Refusal(Code.NOT_JOINED), wanted)
            return
        for other in membership.group.members.values():
            if other is not membership:
                other.client.news().still_here(wanted.peer_group, membership.device_id)

    def _leave(self, client: Member, wanted: LeaveGroup) -> None:
        membership = client.memberships.get(wanted.peer_group)
        if membership is not None:
            self._count_out(membership)
        # To leave what one has not joined is done at once.
        assert client.device_id is not None
        client.tell(GroupLeft(wanted.peer_group, [client.device_id], wanted.request))

    def _count_in(self, group: _Group, client: Member) -> bool:
        """Make a device a member; False when there is no room for it."""
        limits = self._limits
        if (
            len(group.members) >= limits.group_members
            or len(client.memberships) >= limits.device_groups
        ):
            return False
        self._note_use(group)
        record, device_id = group.record, client.device_id
        assert device_id is not None
        for other in group.members.values():
            other.client.news().came(record.group, record.epoch, device_id)
        membership = Membership(group, client, device_id)
        group.members[device_id] = client.memberships[record.group] = membership
        self._counters.group_joins += 1
        return True

    def _count_out(self, membership: Membership) -> None:
        group, device_id = membership.group, membership.device_id
        membership.client.parted(group.record.group)
        group.members.pop(device_id, None)
        for other in group.members.values():
            other.client.news().gone(group.record.group, device_id)


def _is_proved(client: Member, record: GroupRecord, proof: bytes) -> bool:
    assert client.device_id is not None
    return proves(
        proof,
        nonce=client.nonce,
        device_id=client.device_id,
        group=record.group,
        epoch=record.epoch,
        key=record.key,
    )


def _is_allowed(wanted: CreateGroup, present: GroupRecord) -> bool:
    return wanted.signature is not None and allows_move(
        wanted.signature,
        group=wanted.peer_group,
        epoch=wanted.epoch,
        key=wanted.key,
        present_key=present.key,
    )
