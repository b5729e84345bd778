"""What waits for one device: bounded, control before data (spec: realm.md, "Congestion").

Pure. An outbox holds encoded bytes and knows from whom each run of packets came, so that what is
never delivered can be reported. It refuses what does not fit; it never grows past its bounds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

Source = TypeVar("Source")

MAX_CONTROL_BYTES: Final = 65536


class Outbox(Generic[Source]):
    """Two queues for one reader: the realm's own packets, and runs that other devices sent.

    Attributes:
        control_bytes: how much waits in the first.
        data_bytes: how much waits in the second.
    """

    __slots__ = ("_control", "_runs", "control_bytes", "data_bytes")

    def __init__(self) -> None:
        self._control: deque[bytes] = deque()
        self.control_bytes = 0
        self._runs: deque[tuple[bytes, int, Source]] = deque()
        self.data_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._runs or self._control)

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

    def add_run(self, run: bytes, count: int, source: Source, room_bytes: int) -> bool:
        """Queue a run of ``count`` packets of one sender; False when it does not fit the room."""
        if self.data_bytes + len(run) > room_bytes:
            return False
        self._runs.append((run, count, source))
        self.data_bytes += len(run)
        return True

    def take(self, max_bytes: int) -> bytes:
        """Return the next bytes to write, at least one whole item; b"" when nothing waits.

        Items are joined up to ``max_bytes``, because one write of many packets costs what a write
        of one does. An item larger than that comes alone.
        """
        if not self._control and len(self._runs) == 1:
            run = self._runs.popleft()[0]
            self.data_bytes = 0
            return run
        pieces: list[bytes] = []
        size = 0
        while self._control:
            packet = self._control.popleft()
            self.control_bytes -= len(packet)
            pieces.append(packet)
            size += len(packet)
        while self._runs and (not size or size + len(self._runs[0][0]) <= max_bytes):
            run = self._runs.popleft()[0]
            self.data_bytes -= len(run)
            pieces.append(run)
            size += len(run)
        return b"".join(pieces)

    def drop_runs(self) -> Iterator[tuple[int, Source]]:
        """Throw every waiting run away; yield each one's packet count and sender."""
        while self._runs:
            run, count, source = self._runs.popleft()
            self.data_bytes -= len(run)
            yield count, source
