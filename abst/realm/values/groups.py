"""Which groups' indexes are in memory: loaded when they are used, and bounded. Pure.

Owns the sum of what is kept of all groups, when each group's next value is over, and that an index
with which something goes on is not put away.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final

from abst.realm.client import Client, ValueRequest
from abst.realm.store.interface import History, Store
from abst.realm.values.index import Index
from abst.value_history import NO_HASH

MAX_NAMES: Final = 250_000
"""In all indexes that are in memory; they take about 100 MB. Those in use may be more."""

MAX_LOADS: Final = 4
"""How many indexes may be on their way at once: each may be as large as a group gets, and who asks
for those of many groups shall not have them all in memory."""

MAX_DUE_GROUPS: Final = 8
"""In so many groups values end at once; the others come next, so that requests come in between."""

CHANGES_PER_NAME: Final = 64
"""So many changes take what a name takes."""

GROUP_NAMES: Final = 16
"""What an index takes beside its names, counted as names."""


class Group:
    """One group that is used, or watched.

    Attributes:
        group_id: its ID.
        maker: the device that has made it; None while that is not known.
        index: its changes; None while they are not in memory.
        waiting: the requests that came while they are being loaded, in order.
        pending: how many requests are at the store.
        watchers: who is told every change, in a dict without values, for their order.
        told_revision: the newest change that is safe, and that watchers have been told.
        told_head: the hash of the history after it.
        told_bytes: how much is kept of the group after it.
        loading: whether the index is on its way.
        counted_bytes: the group's share in ``Groups.stored_bytes``.
        counted_names: its share in the names that are in memory.
    """

    __slots__ = (
        "counted_bytes",
        "counted_names",
        "group_id",
        "index",
        "loading",
        "maker",
        "pending",
        "told_bytes",
        "told_head",
        "told_revision",
        "waiting",
        "watchers",
    )

    def __init__(self, group_id: bytes, maker: bytes | None) -> None:
        self.group_id = group_id
        self.maker = maker
        self.index: Index | None = None
        self.waiting: list[tuple[Client, ValueRequest]] = []
        self.pending = 0
        self.watchers: dict[Client, None] = {}
        self.told_revision = 0
        self.told_head = NO_HASH
        self.told_bytes = 0
        self.loading = False
        self.counted_bytes = 0
        self.counted_names = 0


class Groups:
    """All groups that are used.

    Args:
        store: where indexes are loaded from.
        loaded: called with a group whose index has come, or could not be loaded.
        max_names: how many names may be in memory.

    Attributes:
        stored_bytes: how much is kept of all groups, in memory or not.
        next_due: when ``take_due`` may have something, in milliseconds since 1970.
    """

    def __init__(
        self, store: Store, loaded: Callable[[Group], None], max_names: int = MAX_NAMES
    ) -> None:
        self._store = store
        self._loaded = loaded
        self._max_names = max_names
        self._groups: dict[bytes, Group] = {}
        # Those that have an index, the least recently used first.
        self._recent: OrderedDict[bytes, Group] = OrderedDict()
        self._names = 0
        # Those whose indexes are still to be asked for, and how many have been.
        self._to_load: deque[Group] = deque()
        self._loads = 0
        # Of every group that has been in memory, so that its values end in time.
        self._dues: dict[bytes, float] = {}
        self._makers = {record.group: record.maker for record in store.groups()}
        self._bytes_by_maker: Counter[bytes | None] = Counter()
        for group_id, kept_bytes in store.stored_bytes().items():
            self._bytes_by_maker[self._makers.get(group_id)] += kept_bytes
        self.stored_bytes = sum(self._bytes_by_maker.values())
        self.next_due = math.inf

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def loaded_values(self) -> int:
        """How many values the groups have whose indexes are in memory."""
        return sum(group.index.values for group in self._recent.values() if group.index is not None)

    def bytes_of(self, maker: bytes | None) -> int:
        """Return how much is kept of all groups that a device has made."""
        return self._bytes_by_maker[maker]

    def use(self, group_id: bytes, maker: bytes | None = None) -> Group:
        """Return a group; ``maker`` is who has made it, if that is known."""
        group = self._groups.get(group_id)
        if group is None:
            group = Group(group_id, maker or self._makers.get(group_id))
            self._groups[group_id] = group
        elif group.index is not None:
            self._recent.move_to_end(group_id)
        return group

    def load(self, group: Group) -> None:
        """Ask for a group's index, if it is not on its way already."""
        if not group.loading:
            group.loading = True
            self._to_load.append(group)
            self._load_some()

    def stop_watching(self, group_id: bytes, watcher: Client) -> None:
        """Tell somebody nothing more of a group."""
        group = self._groups.get(group_id)
        if group is not None:
            group.watchers.pop(watcher, None)
            self.forget_unused(group)

    def account(self, group: Group) -> None:
        """Note that a group's index has changed."""
        index = group.index
        assert index is not None
        if index.stored_bytes != group.counted_bytes:
            self._count(group, index.stored_bytes - group.counted_bytes)
            group.counted_bytes = index.stored_bytes
        names = len(index) + GROUP_NAMES + index.changes // CHANGES_PER_NAME
        if names != group.counted_names:
            self._names += names - group.counted_names
            group.counted_names = names
            if self._names > self._max_names:
                self._make_room()
        if index.next_due < self._dues.get(group.group_id, math.inf):
            self.wake(group, index.next_due)

    def undo(self, group: Group) -> None:
        """Throw an index away: it tells of changes that were not kept."""
        if group.index is not None:
            self._count(group, group.told_bytes - group.counted_bytes)
            self._put_away(group)

    def wake(self, group: Group, due: float) -> None:
        """Have ``take_due`` return a group at a time."""
        self._dues[group.group_id] = due
        self.next_due = min(self.next_due, due)

    def take_due(self, now: float) -> list[Group]:
        """Return some groups in which a value may be over at a time, in milliseconds."""
        due = list(
            islice((group_id for group_id, at in self._dues.items() if at <= now), MAX_DUE_GROUPS)
        )
        for group_id in due:
            del self._dues[group_id]
        self.next_due = min(self._dues.values(), default=math.inf)
        return [self.use(group_id) for group_id in due]

    def forget_unused(self, group: Group) -> None:
        """Forget a group that nobody waits for or watches, and that is not in memory."""
        if group.index is None and not (group.watchers or group.loading or group.pending):
            self._groups.pop(group.group_id, None)

    def _count(self, group: Group, more: int) -> None:
        self.stored_bytes += more
        self._bytes_by_maker[group.maker] += more
        if group.maker is not None:
            # It has had a value by now, so the realm does not forget it either.
            self._makers[group.group_id] = group.maker

    def _load_some(self) -> None:
        while self._to_load and self._loads < MAX_LOADS:
            self._loads += 1
            group = self._to_load.popleft()
            self._store.load(group.group_id, partial(self._take, group))

    def _take(self, group: Group, history: History | None) -> None:
        self._loads -= 1
        self._load_some()
        group.loading = False
        if history is not None:
            group.index = index = Index(history)
            group.told_revision = index.revision
            group.told_head = index.head
            group.told_bytes = group.counted_bytes = index.stored_bytes
            self._recent[group.group_id] = group
        self._loaded(group)
        if group.index is not None:
            self.account(group)
        self.forget_unused(group)

    def _make_room(self) -> None:
        for group in list(self._recent.values()):
            if self._names <= self._max_names:
                return
            if not group.pending and not group.waiting:
                self._put_away(group)

    def _put_away(self, group: Group) -> None:
        group.index = None
        del self._recent[group.group_id]
        self._names -= group.counted_names
        group.counted_names = 0
        self.forget_unused(group)
