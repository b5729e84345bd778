"""A connection in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from abst.device.pipes import Finished, PipeOwner, Producer
from abst.errors import AbstError, PeerUnreachableError

MAX_UNREAD_BYTES: Final = 65536
"""How much a connection in memory holds before whoever writes is told to wait."""


class MemoryPipe:
    """One end of a connection in memory; what ``TcpPipe`` is on a real network.

    Args:
        later: calls something after as long as bytes take; a network that is silent never does.
        address: where the other end is.
        local: where this end is.
    """

    def __init__(self, later: Callable[..., Any], address: str, local: str) -> None:
        self.address = self.remote = address
        self.local = local
        self.owner: PipeOwner | None = None
        self.other: MemoryPipe | None = None
        self._later = later
        self._producer: Producer | None = None
        self._is_paused = False
        self._is_full = False
        self._unread: list[Callable[[], None]] = []
        self._unread_bytes = 0

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self.other is not None:
            self._later(self.other.arrive, data)

    def abort(self) -> None:
        """Break the connection."""
        self._leave("the connection was reset")

    def close(self) -> None:
        """Close once what was written is out."""
        self._leave("the other side closed")

    def finish(self, finished: Finished) -> None:
        """Close once what was written is out."""
        self.close()
        self._later(finished, None)

    def is_stranded(self) -> bool:
        """Tell that this end has its address for ever."""
        return False

    def pause(self) -> None:
        """Read nothing until ``resume``."""
        self._is_paused = True

    def resume(self) -> None:
        """Read again."""
        self._is_paused = False
        while self._unread and not self._is_paused:
            self._unread.pop(0)()

    def register_producer(self, producer: Producer) -> None:
        """Tell somebody when to stop writing and when to go on."""
        self._producer = producer
        if self._is_full:
            producer.pauseProducing()

    def unregister_producer(self) -> None:
        """Tell nobody any more."""
        self._producer = None

    def arrive(self, data: bytes) -> None:
        """Take the other end's bytes, now or when they are read."""
        self._unread_bytes += len(data)
        self._when_read(lambda: self._read(data))
        if self._unread_bytes > MAX_UNREAD_BYTES and self.other is not None:
            self.other.fill()

    def lost(self, problem: AbstError) -> None:
        """Hear that the connection is gone, behind the bytes that came before."""
        self.other = None
        self._when_read(lambda: self._end(problem))

    def fill(self) -> None:
        """Hear that the other end does not read."""
        if not self._is_full:
            self._is_full = True
            if self._producer is not None:
                self._producer.pauseProducing()

    def drain(self) -> None:
        """Hear that the other end has read everything."""
        if self._is_full:
            self._is_full = False
            if self._producer is not None:
                self._producer.resumeProducing()

    def _when_read(self, call: Callable[[], None]) -> None:
        if self._is_paused or self._unread:
            self._unread.append(call)
        else:
            call()

    def _read(self, data: bytes) -> None:
        self._unread_bytes -= len(data)
        if self.owner is not None:
            self.owner.pipe_received(self, data)
        if not self._unread_bytes and self.other is not None:
            self._later(self.other.drain)

    def _end(self, problem: AbstError) -> None:
        owner, self.owner = self.owner, None
        if owner is not None:
            owner.pipe_lost(self, problem)

    def break_off(self, problem: AbstError) -> None:
        """Close, and have the other end hear why."""
        self.owner = None
        other, self.other = self.other, None
        if other is not None:
            self._later(other.lost, problem)

    def _leave(self, why: str) -> None:
        self.break_off(PeerUnreachableError(f"{self.local}: {why}"))


def memory_pipes(
    later: Callable[..., Any], address: str, local: str
) -> tuple[MemoryPipe, MemoryPipe]:
    """Return both ends of a connection: the one at ``local``, and the one at ``address``."""
    near, far = MemoryPipe(later, address, local), MemoryPipe(later, local, address)
    near.other, far.other = far, near
    return near, far
