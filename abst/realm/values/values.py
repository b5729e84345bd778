"""What a realm does about values (spec: values.md): requests in, answers out.

Pure. Everything is decided in memory when a request comes, in the order in which requests come,
and said when the store has made it safe, in the same order. Who watches a group is told a change
before anybody is answered with it. When the disk fails, what was decided since is undone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from abst import codec
from abst.errors import Code
from abst.packets import MAX_CHANGES, DeleteValue, GetValue, ListValues, PutValue, WatchValues
from abst.realm.client import Client, ValueRequest
from abst.realm.counters import Counters
from abst.realm.limits import Limits
from abst.realm.store.interface import (
    CHANGE_BYTES,
    MAX_REVISION,
    Addition,
    Change,
    Page,
    Store,
)
from abst.realm.values import answers
from abst.realm.values.admission import Admission
from abst.realm.values.groups import MAX_NAMES, Group, Groups
from abst.realm.values.index import PAGE_BYTES, ROW_BYTES, Entry, Index, Plan
from abst.realm.values.recent import Recent

SEALING_BYTES: Final = 2048
"""How much larger a sealed value may be than the value, and what a deletion may say."""

DISK_RETRY_SECONDS: Final = 10.0
"""After how long a time that is over is looked at again, when the disk took nothing."""

FULL_RETRY_SECONDS: Final = 60.0

DELETIONS_SHARE: Final = 1 / 8
"""So much more than all groups may take is there for deletions."""

MAX_SECONDS: Final = 2**40
"""A value with a longer time than this, 35000 years, is given this one."""


MAX_GATHERED: Final = 128
"""How many changes are given to the store as one."""


class _Gathered:
    """What goes to the store as one addition.

    Attributes:
        group: whose changes these are.
        changes: in order.
        asked: who has asked for which of them, by its revision.
        forgotten: what need not be kept any more, as pairs of first and last revision.
        floor: the new floor, or None when it stays.
    """

    __slots__ = ("asked", "changes", "floor", "forgotten", "group")

    def __init__(self, group: Group) -> None:
        self.group = group
        self.changes: list[Change] = []
        self.asked: list[tuple[Client, PutValue | DeleteValue, int]] = []
        self.forgotten: list[tuple[int, int]] = []
        self.floor: int | None = None


class Values:
    """The values of all groups.

    Args:
        store: where they are kept.
        limits: what devices may use.
        counters: where refusals are counted.
        wall: returns the seconds since 1970, a clock that goes on while the realm does not.
        max_names: how many names may be in memory.
    """

    def __init__(
        self,
        store: Store,
        limits: Limits,
        counters: Counters,
        wall: Callable[[], float],
        max_names: int = MAX_NAMES,
    ) -> None:
        self._store = store
        self._counters = counters
        self._wall = wall
        self._groups = Groups(store, self._loaded, max_names)
        self._admission = Admission(limits)
        self._recent = Recent()
        # What was decided of one group since the store was last asked for anything.
        self._gathered: _Gathered | None = None
        # From the clock on the wall to the one that deadlines are on.
        self._offset = 0.0
        self._now = 0.0
        self._set_limits(limits)

    def use_limits(self, limits: Limits) -> None:
        """Let these limits count from now on; what is kept already may be more than they allow."""
        self._set_limits(limits)
        self._admission.use_limits(limits)

    def _set_limits(self, limits: Limits) -> None:
        self._limits = limits
        # Floors rise in steps: one for each change would cost more than the change.
        self._most_changes = limits.group_changes + limits.group_changes // 8 + 1

    @property
    def stored_bytes(self) -> int:
        """How much is kept of all groups."""
        return self._groups.stored_bytes

    @property
    def loaded_values(self) -> int:
        """How many values the groups have whose indexes are in memory."""
        return self._groups.loaded_values

    def limits_told(self) -> dict[str, float]:
        """Return what Members says of values (spec: values.md, "Limits")."""
        limits = self._limits
        return {
            "value_bytes": limits.value_bytes,
            "values": limits.group_values,
            "bytes": limits.group_bytes,
            "changes": limits.group_changes,
            "requests_per_second": limits.value_requests_per_second,
            "waiting_requests": limits.waiting_value_requests,
        }

    def handle(self, client: Client, packet: ValueRequest, now: float) -> None:
        """Take a request."""
        self.handle_all(client, (packet,), now)

    def handle_all(self, client: Client, requests: Sequence[ValueRequest], now: float) -> None:
        """Take requests that have come together, in their order."""
        self._offset = now - self._wall()
        self._now = now
        for packet in requests:
            self._admit(client, packet, now)
        self._hand_over()

    def _admit(self, client: Client, packet: ValueRequest, now: float) -> None:
        if not client.is_joined(packet.peer_group):
            self._refuse(client, packet, Code.NOT_JOINED)
            return
        device_id = client.device_id
        assert device_id is not None
        wait = self._admission.enter(device_id, packet, now)
        if wait:
            self._refuse(client, packet, Code.RATE_LIMITED, wait)
            return
        group = self._groups.use(packet.peer_group, client.maker_of(packet.peer_group))
        if group.index is None:
            group.waiting.append((client, packet))
            self._groups.load(group)
        else:
            self._take(group, group.index, client, packet)

    def leave(self, client: Client, group: bytes) -> None:
        """Tell a device nothing more of a group: it has left it, or is gone."""
        self._groups.stop_watching(group, client)

    def next_deadline(self) -> float | None:
        """Return when ``handle_deadline`` wants to be called, or None."""
        due = self._groups.next_due
        return None if due == math.inf else due / 1000 + self._offset

    def handle_deadline(self, now: float) -> None:
        """Drop the values whose time is over; of very many some, the others soon after."""
        wall = self._wall()
        self._offset = now - wall
        for group in self._groups.take_due(wall * 1000):
            if group.index is None:
                self._groups.load(group)
            else:
                self._expire(group, group.index)
                self._groups.account(group)
        self._hand_over()

    # What requests do.

    def _loaded(self, group: Group) -> None:
        """Take the requests that have waited for a group's index."""
        waiting, group.waiting = group.waiting, []
        if group.index is not None:
            self._expire(group, group.index)
            if waiting:
                self._charge(waiting[0][0], max(len(group.index), group.index.changes))
        for client, packet in waiting:
            if not client.is_here:
                # It is gone, or was shut out meanwhile.
                self._release(client, packet)
            elif group.index is None:
                self._release(client, packet)
                self._answer_refused(client, packet, Code.NOT_KEPT)
            else:
                self._take(group, group.index, client, packet)
        self._hand_over()

    def _take(self, group: Group, index: Index, client: Client, packet: ValueRequest) -> None:
        if index.next_due < math.inf:
            self._expire(group, index)
        match packet:
            case PutValue():
                self._put(group, index, client, packet)
            case GetValue():
                self._get(group, index, client, packet)
            case DeleteValue():
                self._delete(group, index, client, packet)
            case ListValues():
                self._list(group, index, client, packet)
            case WatchValues():
                self._follow(group, client, packet, partial(self._watch, group, client, packet))

    def _put(self, group: Group, index: Index, client: Client, packet: PutValue) -> None:
        entry = index.find(packet.name)
        if not _is_revision(entry, packet.if_revision):
            self._follow_refused(group, client, packet, Code.WRONG_REVISION)
        elif not self._has_room(group, index, entry, len(packet.value)):
            self._follow_refused(group, client, packet, Code.VALUES_FULL)
        else:
            due = None
            if packet.seconds is not None:
                due = int(self._wall() * 1000) + 1000 * min(packet.seconds, MAX_SECONDS)
            change = index.put(packet.name, packet.value, due)
            self._add(group, index, (change,), client, packet)

    def _delete(self, group: Group, index: Index, client: Client, packet: DeleteValue) -> None:
        entry = index.find(packet.name)
        if not _is_revision(entry, packet.if_revision):
            self._follow_refused(group, client, packet, Code.WRONG_REVISION)
        elif entry is None or not entry.has_value:
            answer = answers.changed(packet.packet_id, packet.peer_group, 0, packet.request)
            self._follow(group, client, packet, partial(self._answer, client, answer))
        elif not self._has_room_to_delete(group, index, entry, len(packet.value)):
            self._follow_refused(group, client, packet, Code.VALUES_FULL)
        else:
            change = index.delete(packet.name, packet.value)
            self._add(group, index, (change,), client, packet)

    def _get(self, group: Group, index: Index, client: Client, packet: GetValue) -> None:
        entry = index.find(packet.name)
        if entry is None:
            answer = answers.found(packet.peer_group, packet.name, 0, None, packet.request)
            self._follow(group, client, packet, partial(self._answer_large, client, packet, answer))
            return
        revision = entry.revision
        sealed = self._recent.find(packet.peer_group, packet.name, revision)
        if sealed is not None:
            say = partial(self._answer_found, client, packet, revision, sealed)
            self._follow(group, client, packet, say)
            return
        self._hand_over()
        group.pending += 1
        done = partial(self._got, group, client, packet)
        self._store.read(packet.peer_group, revision, revision, done)

    def _list(self, group: Group, index: Index, client: Client, packet: ListValues) -> None:
        self._hand_over()
        plan = index.plan(packet.since)
        self._charge(client, len(plan.revisions))
        group.pending += 1
        # An empty plan asks for nothing, but for the floor.
        first = next(iter(plan.revisions), 1)
        last = max(plan.revisions, default=0)
        done = partial(self._listed, group, client, packet, plan)
        self._store.read(packet.peer_group, first, last, done)

    def _watch(self, group: Group, client: Client, packet: WatchValues) -> None:
        if packet.stop:
            self._groups.stop_watching(packet.peer_group, client)
        elif client.is_joined(packet.peer_group):
            group.watchers[client] = None
        answer = answers.watching(
            packet.peer_group, group.told_revision, group.told_head, packet.request
        )
        self._answer(client, answer)

    def _expire(self, group: Group, index: Index) -> None:
        """Make the changes for the values whose time is over."""
        now = self._wall() * 1000
        if index.next_due <= now:
            changes = index.expire(now)
            if changes:  # What was due has been replaced, as a rule.
                self._add(group, index, changes)

    def _has_room(self, group: Group, index: Index, entry: Entry | None, size: int) -> bool:
        limits = self._limits
        if size > limits.value_bytes + SEALING_BYTES or index.revision >= MAX_REVISION:
            return False
        has_value = entry is not None and entry.has_value
        more = size - entry.size if entry is not None and has_value else size
        return (
            (has_value or index.values < limits.group_values)
            and (more <= 0 or index.value_bytes + more <= limits.group_bytes)
            and self._is_room_on_disk(group, size, 1)
        )

    def _has_room_to_delete(self, group: Group, index: Index, entry: Entry, size: int) -> bool:
        if size > SEALING_BYTES or index.revision >= MAX_REVISION:
            return False
        # Where nothing can be put any more, something can still be deleted; what makes room
        # always can, however far a limit has been lowered.
        is_gain = CHANGE_BYTES + size <= entry.size
        return is_gain or self._is_room_on_disk(group, size, 1 + DELETIONS_SHARE)

    def _is_room_on_disk(self, group: Group, size: int, share: float) -> bool:
        """Tell whether a change fits what all groups may take, and those of this group's maker."""
        limits, more = self._limits, CHANGE_BYTES + size
        return (
            self._groups.stored_bytes + more <= limits.all_values_bytes * share
            and self._groups.bytes_of(group.maker) + more <= limits.device_values_bytes * share
        )

    # What comes back from the store.

    def _add(
        self,
        group: Group,
        index: Index,
        changes: Sequence[Change],
        client: Client | None = None,
        packet: PutValue | DeleteValue | None = None,
    ) -> None:
        """Have the store keep changes; ``client`` is who has asked for them, or None."""
        gathered = self._gathered
        if gathered is None or gathered.group is not group:
            self._hand_over()
            gathered = self._gathered = _Gathered(group)
            group.pending += 1
        gathered.changes += changes
        if client is not None and packet is not None:
            gathered.asked.append((client, packet, changes[-1].revision))
        if index.revision - index.floor >= self._most_changes:
            gathered.forgotten += index.forget(self._limits.group_changes)
            gathered.floor = index.floor
        self._groups.account(group)
        if len(gathered.changes) >= MAX_GATHERED:
            self._hand_over()

    def _hand_over(self) -> None:
        """Give the store what was gathered; before it is asked for anything else."""
        gathered, self._gathered = self._gathered, None
        if gathered is None:
            return
        group = gathered.group
        index = group.index
        assert index is not None
        addition = Addition(
            group.group_id,
            gathered.changes,
            index.stored_bytes,
            index.take_emptied(),
            gathered.forgotten,
            gathered.floor,
        )
        self._store.add(addition, partial(self._added, gathered, addition))

    def _added(self, gathered: _Gathered, addition: Addition, ok: bool) -> None:
        group = gathered.group
        group.pending -= 1
        if not ok:
            self._undo(group)
            for client, packet, _ in gathered.asked:
                self._release(client, packet)
                self._answer_refused(client, packet, Code.NOT_KEPT)
            return
        newest = addition.changes[-1]
        group.told_revision = newest.revision
        group.told_head = newest.head
        group.told_bytes = addition.stored_bytes
        for change in addition.changes:
            self._recent.keep(group.group_id, change.name, change.revision, change.sealed)
        if group.watchers:
            self._tell_watchers(group, addition.changes)
        for client, packet, revision in gathered.asked:
            self._release(client, packet)
            answer = answers.changed(packet.packet_id, packet.peer_group, revision, packet.request)
            self._answer(client, answer)

    def _got(self, group: Group, client: Client, packet: GetValue, page: Page | None) -> None:
        if self._is_kept(group, client, packet, page is not None):
            assert page is not None
            (change,) = page.changes
            self._recent.keep(packet.peer_group, packet.name, change.revision, change.sealed)
            self._answer_found(client, packet, change.revision, change.sealed)

    def _listed(
        self, group: Group, client: Client, packet: ListValues, plan: Plan, page: Page | None
    ) -> None:
        if not self._is_kept(group, client, packet, page is not None):
            return
        assert page is not None
        fields: dict[str, object] = {"floor": page.floor, "floor_head": page.floor_head}
        if plan.more:
            fields["more"] = True
        these = [
            change if plan.revisions[change.revision] else change._replace(sealed=None)
            for change in page.changes
            if change.revision in plan.revisions
        ]
        answer = answers.changes(
            packet.peer_group, group.told_revision, group.told_head, these, packet.request, **fields
        )
        self._answer_large(client, packet, answer)

    def _follow(
        self, group: Group, client: Client, packet: ValueRequest, say: Callable[[], None]
    ) -> None:
        """Say something once what was decided before it is safe."""
        if not group.pending:
            self._release(client, packet)
            say()
            return
        self._hand_over()
        group.pending += 1
        self._store.follow(group.group_id, partial(self._followed, group, client, packet, say))

    def _follow_refused(
        self, group: Group, client: Client, packet: ValueRequest, code: Code
    ) -> None:
        self._follow(group, client, packet, partial(self._answer_refused, client, packet, code))

    def _followed(
        self, group: Group, client: Client, packet: ValueRequest, say: Callable[[], None], ok: bool
    ) -> None:
        if self._is_kept(group, client, packet, ok):
            say()

    def _is_kept(self, group: Group, client: Client, packet: ValueRequest, ok: bool) -> bool:
        """Note that the store has answered; when it has failed, say so."""
        group.pending -= 1
        self._release(client, packet)
        if not ok:
            self._undo(group)
            self._answer_refused(client, packet, Code.NOT_KEPT)
        return ok

    def _undo(self, group: Group) -> None:
        if group.index is not None and group.index.next_due < math.inf:
            self._groups.wake(group, (self._wall() + DISK_RETRY_SECONDS) * 1000)
        self._groups.undo(group)
        self._groups.forget_unused(group)

    def _charge(self, client: Client, changes: int) -> None:
        """Count what is read for a device among its requests."""
        device_id = client.device_id
        assert device_id is not None
        self._admission.charge(device_id, changes, self._now)

    def _release(self, client: Client, packet: ValueRequest) -> None:
        """Note that a request waits no more."""
        device_id = client.device_id
        assert device_id is not None
        self._admission.leave(device_id, packet)

    # What is said.

    def _tell_watchers(self, group: Group, changes: Sequence[Change]) -> None:
        for part in _parts(changes):
            newest = part[-1]
            news = answers.changes(group.group_id, newest.revision, newest.head, part)
            for watcher in tuple(group.watchers):
                self._answer(watcher, news)

    def _answer(self, client: Client, answer: bytes) -> None:
        if not client.deliver_own(answer):
            client.close(Code.STALLED, "it does not read what it has asked for")

    def _answer_found(
        self, client: Client, packet: GetValue, revision: int, sealed: bytes | None
    ) -> None:
        answer = answers.found(packet.peer_group, packet.name, revision, sealed, packet.request)
        self._answer_large(client, packet, answer)

    def _answer_large(self, client: Client, packet: ValueRequest, answer: bytes) -> None:
        if not client.deliver_own(answer):
            self._refuse(client, packet, Code.QUEUE_FULL)

    def _answer_refused(self, client: Client, packet: ValueRequest, code: Code) -> None:
        """Refuse what is known only with the answers that are in front of it."""
        self._counters.refused_packets[code] += 1
        wait = FULL_RETRY_SECONDS if code is Code.VALUES_FULL else None
        self._answer(client, codec.encode(answers.refused(code, packet, wait)))

    def _refuse(
        self, client: Client, packet: ValueRequest, code: Code, retry_after: float | None = None
    ) -> None:
        """Refuse at once."""
        self._counters.refused_packets[code] += 1
        client.tell(answers.refused(code, packet, retry_after))


def _is_revision(entry: Entry | None, wanted: int | None) -> bool:
    """Tell whether a name's last change is the one that a request is made for."""
    if wanted is None:
        return True
    if wanted == 0:
        return entry is None or not entry.has_value
    return entry is not None and entry.revision == wanted


def _parts(changes: Sequence[Change]) -> list[list[Change]]:
    """Cut changes into as many as one packet holds."""
    parts: list[list[Change]] = []
    used = 0
    for change in changes:
        size = ROW_BYTES + (0 if change.sealed is None else len(change.sealed))
        if not parts or used + size > PAGE_BYTES or len(parts[-1]) == MAX_CHANGES:
            parts.append([])
            used = 0
        parts[-1].append(change)
        used += size
    return parts
