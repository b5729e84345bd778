"""What waits for one device: bounded, control before data, fair (spec: realm.md, "Congestion").

Pure. An outbox holds encoded bytes and knows from whom each run of packets came, so that what is
never delivered can be reported, and so that its senders take turns. It refuses what does not fit;
it never grows past its bounds.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

from abst.shares import Shares

MAX_CONTROL_BYTES: Final = 65536
HEAD_START_BYTES: Final = 16384
"""How much less than others a sender has sent to come before all of them."""

FEW_BYTES: Final = 16384
"""So much leaves in one write, whoever has sent it, so nobody has to wait for a turn."""

NEWCOMERS_SHARE: Final = 8
"""As one in so many parts of the room, there is more for those who come when it has been filled."""


class HasDevice(Protocol):
    """Whoever sent a run."""

    @property
    def device_id(self) -> bytes | None:
        """The device, which takes turns as one, whichever of its groups it speaks in."""


Source = TypeVar("Source", bound=HasDevice | None)


class Outbox(Generic[Source]):
    """Two queues for one reader: the realm's own packets, and runs that other devices sent.

    A run without a source is the realm's own: it waits among the others, and no run that was added
    after it overtakes it.

    Attributes:
        control_bytes: how much waits in the first.
        data_bytes: how much waits in the second.
    """

    __slots__ = ("_contest", "_control", "_is_mixed", "_runs", "control_bytes", "data_bytes")

    def __init__(self) -> None:
        self._control: deque[bytes] = deque()
        self.control_bytes = 0
        # As long as all runs are one sender's, or few, which is nearly always, they are a queue.
        self._runs: deque[tuple[bytes, int, Source]] = deque()
        self._is_mixed = False
        self._contest: _Contest[Source] | None = None
        self.data_bytes = 0

    def __bool__(self) -> bool:
        return bool(self.data_bytes or self._control)

    def add_control(self, packet: bytes) -> bool:
        """Queue one of the realm's own packets; False when the reader takes none of them."""
        if self.control_bytes + len(packet) > MAX_CONTROL_BYTES:
            return False
        self._control.append(packet)
        self.control_bytes += len(packet)
        return True

    def add_last_word(self, packet: bytes) -> None:
        """Queue the packet after which none comes; it fits always, since there is but one."""
        self._control.append(packet)
        self.control_bytes += len(packet)

    def clear_control(self) -> None:
        """Throw the realm's own packets away."""
        self._control.clear()
        self.control_bytes = 0

    def add_run(
        self, run: bytes, count: int, source: Source, room_bytes: int, most_bytes: int
    ) -> bool:
        """Queue a run of ``count`` packets of one sender; False when it does not fit.

        Where several wait, each may have as much as is free: so whoever has nothing waiting finds
        some room.

        Args:
            run: the packets.
            count: how many.
            source: who sent them; None for the realm's own.
            room_bytes: how much may wait while it is all of one sender, or the realm's own.
            most_bytes: how much may wait at all. Several senders share an eighth more than
                ``room_bytes`` when this is not less.
        """
        size = len(run)
        waiting = self.data_bytes + size
        runs, contest = self._runs, self._contest
        is_other = bool(runs) and runs[0][2] is not source
        is_mixed = is_other or self._is_mixed
        if contest is None and (
            not is_mixed or (waiting <= FEW_BYTES and waiting <= room_bytes // 2)
        ):
            if waiting > room_bytes:
                return False
            self._is_mixed = is_mixed
            runs.append((run, count, source))
            self.data_bytes = waiting
            return True
        if contest is None:
            # Before it is known whether the run fits: a contest knows what each sender has waiting,
            # and a queue would be gone through for every run that does not fit.
            contest = self._contest = _Contest()
            while runs:
                contest.add(*runs.popleft())
        waiting_of_source = contest.waiting_bytes(source)
        if not self._has_room(waiting_of_source, size, source, room_bytes, most_bytes):
            return False
        contest.add(run, count, source)
        self.data_bytes = waiting
        return True

    def take(self, max_bytes: int) -> bytes:
        """Return the next bytes to write, at least one whole item; b"" when nothing waits.

        Items are joined up to ``max_bytes``, because one write of many packets costs what a write
        of one does. An item larger than that comes alone.
        """
        if not self._control and len(self._runs) == 1:
            run = self._runs.popleft()[0]
            self.data_bytes = 0
            self._is_mixed = False
            return run
        pieces: list[bytes] = []
        size = 0
        while self._control:
            packet = self._control.popleft()
            self.control_bytes -= len(packet)
            pieces.append(packet)
            size += len(packet)
        while self.data_bytes and (not size or size + self._next_bytes() <= max_bytes):
            run = self._take_run()[0]
            pieces.append(run)
            size += len(run)
        return b"".join(pieces)

    def drop_runs(self) -> Iterator[tuple[int, Source]]:
        """Throw every waiting run away; yield each one's packet count and sender."""
        while self.data_bytes:
            _, count, source = self._take_run()
            yield count, source

    def _has_room(
        self, waiting: int, size: int, source: Source, room_bytes: int, most_bytes: int
    ) -> bool:
        """Tell whether a run fits that others than its sender wait beside, or did before."""
        if source is None or waiting == self.data_bytes:
            return self.data_bytes + size <= room_bytes
        shared = min(most_bytes, room_bytes + room_bytes // NEWCOMERS_SHARE)
        return waiting + size <= shared - self.data_bytes - size

    def _next_bytes(self) -> int:
        return len(self._runs[0][0]) if self._contest is None else self._contest.next_bytes()

    def _take_run(self) -> tuple[bytes, int, Source]:
        contest = self._contest
        taken = self._runs.popleft() if contest is None else contest.take()
        self.data_bytes -= len(taken[0])
        if not self.data_bytes:
            self._contest = None
            self._is_mixed = False
        return taken


def _owner(source: HasDevice | None) -> bytes | None:
    """Return whose turn a run takes; None for the realm's own."""
    return None if source is None else source.device_id


class _Line(Generic[Source]):
    """The runs of one sender, in the order in which they came.

    Attributes:
        runs: each with its number, and the earliest start that it may have.
        waiting_bytes: how much they have together.
    """

    __slots__ = ("runs", "waiting_bytes")

    def __init__(self) -> None:
        self.runs: deque[tuple[int, int, bytes, int, Source]] = deque()
        self.waiting_bytes = 0


class _Contest(Generic[Source]):
    """The runs of several senders that wait for one reader, and whose is next."""

    def __init__(self) -> None:
        self._shares: Shares[bytes | None] = Shares(HEAD_START_BYTES)
        self._lines: dict[bytes | None, _Line[Source]] = {}
        # The first run of each line: its start, its number, and whose it is.
        self._heads: list[tuple[int, int, bytes | None]] = []
        self._number = 0
        # Where the newest of the realm's own runs starts, and where it ends.
        self._own_start = self._own_end = self._shares.start_of(None)

    def waiting_bytes(self, source: Source) -> int:
        """Return how much of a sender waits."""
        line = self._lines.get(_owner(source))
        return 0 if line is None else line.waiting_bytes

    def next_bytes(self) -> int:
        """Return the size of the next run."""
        return len(self._lines[self._heads[0][2]].runs[0][2])

    def add(self, run: bytes, count: int, source: Source) -> None:
        """Put a run at the end of its sender's line."""
        owner = _owner(source)
        self._number += 1
        line = self._lines.get(owner)
        is_first = line is None
        if line is None:
            line = self._lines[owner] = _Line()
        if owner is None:
            start = self._own_start = max(self._shares.start_of(None), self._own_end)
            self._own_end = start + len(run)
        else:
            # Not before any of the realm's own that waits: who sends this may know of it.
            start = self._own_start if None in self._lines else self._shares.start_of(owner)
        line.runs.append((self._number, start, run, count, source))
        line.waiting_bytes += len(run)
        if is_first:
            start = max(start, self._shares.start_of(owner))
            heapq.heappush(self._heads, (start, self._number, owner))

    def take(self) -> tuple[bytes, int, Source]:
        """Return the next run with its count and its sender."""
        start, _, owner = self._heads[0]
        line = self._lines[owner]
        _, _, run, count, source = line.runs.popleft()
        line.waiting_bytes -= len(run)
        end = self._shares.take(owner, start, len(run))
        if line.runs:
            number, earliest = line.runs[0][:2]
            heapq.heapreplace(self._heads, (max(end, earliest), number, owner))
        else:
            heapq.heappop(self._heads)
            del self._lines[owner]
        return run, count, source
