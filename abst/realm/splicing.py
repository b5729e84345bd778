"""Two plain legs joined in the kernel: their bytes never come into this process.

Owns the reading and writing of two sockets that Twisted's transports still own: bytes go from one
through a pipe into the other by ``splice``. A direction has a pipe only while something is in
it. While the target takes no more, nothing is read from the source. What is in the reserve, and its
target does not take, is copied out of it and kept here. Where there is no pipe at all, a small
piece goes through user space.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Final

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.poller import pace_of
from abst.realm.circuits import Circuit, State
from abst.realm.legs import Leg
from abst.realm.pipes import Pipe, Pipes

COPY_BYTES: Final = 16384
"""How much of one direction is copied at once, when there is no pipe for it."""

BUSY_BYTES: Final = 262_144
"""How much of one circuit moves in a turn while others wait for theirs."""

SPLICED_SHARE: Final = 16
"""How many bytes of a circuit count as one of packets where connections share this process's time:
the kernel moves them by itself, and they take that much less of it."""

KEPT_BYTES: Final = 64 * 1024 * 1024
"""How much of all directions together may wait in this process before less is read for each."""

LEAST_KEPT_BYTES: Final = 65536
"""How much of one direction may wait in this process whatever else does."""

_FLAGS: Final = 0x01 | 0x02
"""SPLICE_F_MOVE and SPLICE_F_NONBLOCK."""

CAN_SPLICE: Final = hasattr(os, "splice") and hasattr(os, "pipe2")


def join_by_splicing(
    factory: Any, descriptors: Any, pipes: Pipes, legs: tuple[Leg, Leg], circuit: Circuit
) -> None:
    """Join two plain legs in the kernel."""
    sides = [_Side(factory, descriptors, pipes, leg, circuit) for leg in legs]
    sides[0].other, sides[1].other = sides[1], sides[0]
    early = [b"".join(leg.give(side)) for leg, side in zip(legs, sides, strict=True)]
    for side, data in zip(sides, early, strict=True):
        side.begin(data)


@implementer(IReadWriteDescriptor)
class _Side:
    """One leg: what comes on it, until the other leg has taken it.

    To Twisted's transport, which stays the socket's owner, it is the protocol that hears when the
    connection is lost. To the reactor it is a descriptor.
    """

    __slots__ = (
        "__provides__",
        "_circuit",
        "_copied",
        "_descriptors",
        "_device",
        "_factory",
        "_has_ended",
        "_in_pipe",
        "_is_gone",
        "_is_reading",
        "_is_too_fast",
        "_kept_bytes",
        "_number",
        "_pace",
        "_pipe",
        "_pipes",
        "_socket",
        "_transport",
        "is_held",
        "other",
        "turn_bytes",
    )

    disconnecting = False
    other: _Side

    def __init__(
        self, factory: Any, descriptors: Any, pipes: Pipes, leg: Leg, circuit: Circuit
    ) -> None:
        assert leg.socket is not None
        self._factory = factory
        self._descriptors = descriptors
        self._pace = pace_of(descriptors)
        self._pipes = pipes
        self._circuit = circuit
        self._device = leg.device
        self._transport = leg.transport
        self._socket = leg.socket
        self._number = leg.socket.fileno()
        self._pipe: Pipe | None = None
        self._in_pipe = 0
        self._copied: bytes | memoryview = b""
        self._kept_bytes = 0
        self._is_reading = False
        self._is_too_fast = False
        self._has_ended = False
        self._is_gone = False
        self.is_held = False
        self.turn_bytes = 0

    def begin(self, early: bytes) -> None:
        """Let the bytes go; what has been read already goes first."""
        if early:
            self._count(len(early))
            self._copied = early
            self._move_on()
        self._choose_to_read()

    def give_up(self) -> None:
        """Cut both off."""
        for side in (self, self.other):
            side._leave()
            side._transport.abortConnection()

    # What slows it down.

    def hold(self) -> None:
        """Stop reading: the device sends too fast."""
        self.is_held = True
        self._choose_to_read()

    def release(self, now: float) -> None:
        """Read on."""
        self.is_held = False
        self._choose_to_read()

    # As the protocol of Twisted's transport, and as a descriptor.

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Hear from the owner that the socket is closed, or from the reactor that it fails."""
        self._leave()
        if not self._transport.disconnected:
            # The reactor found the descriptor unusable; the socket's owner still has to close it.
            self.give_up()
            return
        self._factory.leg_gone(self._transport)
        if not self.other._is_gone:
            self.other.give_up()
        elif self.other._transport.disconnected:
            self._circuit.ended()
        self._factory.settle()

    def dataReceived(self, data: bytes) -> None:
        """Nothing: the transport does not read."""

    def fileno(self) -> int:
        """Return the socket's number, or -1 once it is closed."""
        return -1 if self._is_gone else self._number

    def logPrefix(self) -> str:
        """Return the prefix for the reactor's log lines."""
        return "Splice"

    def doRead(self) -> None:
        """Move what has come, within this circuit's turn."""
        self.turn_bytes = 0
        if not self._is_reading:
            self._look_for_failure()
            return
        pipe = self._pipes.take()
        if pipe is None:
            self._copy()
            return
        most = min(self._circuit.turn_bytes, self._factory.realm.shaper.turn_bytes)
        if self._pace.is_busy:
            most = min(most, BUSY_BYTES)
        if self._pipes.is_reserve(pipe) and self._pipes.kept_bytes >= KEPT_BYTES:
            most = min(most, LEAST_KEPT_BYTES)
        try:
            count = os.splice(self._number, pipe.writing, most, None, None, _FLAGS)
        except BlockingIOError:
            self._pipes.give_back(pipe)
            return
        except OSError:
            self._pipes.give_back(pipe)
            self.give_up()
            return
        if not count:
            self._pipes.give_back(pipe)
            self._end()
            return
        self._pipe = pipe
        self._in_pipe = count
        self.turn_bytes = count // SPLICED_SHARE
        self._count(count)
        self._move_on()

    def doWrite(self) -> None:
        """Take what waits on the other side."""
        if not self._is_gone:
            self.other._move_on()

    # Inside.

    def _copy(self) -> None:
        try:
            data = self._socket.recv(min(COPY_BYTES, self._circuit.turn_bytes))
        except BlockingIOError:
            return
        except OSError:
            self.give_up()
            return
        if not data:
            self._end()
            return
        self._copied = data
        self.turn_bytes = len(data)
        self._count(len(data))
        self._move_on()

    def _move_on(self) -> None:
        """Give the other side what waits here for it, as far as it takes it."""
        if self._is_gone:
            return
        try:
            while self._copied:
                self._copied = memoryview(self._copied)[self.other._socket.send(self._copied) :]
            while self._in_pipe:
                assert self._pipe is not None
                self._in_pipe -= os.splice(
                    self._pipe.reading, self.other._number, self._in_pipe, None, None, _FLAGS
                )
        except BlockingIOError:
            if self._pipes.is_reserve(self._pipe):
                self._empty_pipe()
            self._descriptors.addWriter(self.other)
            self._choose_to_read()
            return
        except OSError:
            self.give_up()
            return
        if self._pipe is not None:
            self._pipes.give_back(self._pipe)
            self._pipe = None
        self._forget_kept()
        if not self._is_reading:
            self._descriptors.removeWriter(self.other)
            self._choose_to_read()

    def _empty_pipe(self) -> None:
        """Keep here what waits for the other side, and leave the pipe to others."""
        assert self._pipe is not None
        self._copied = os.read(self._pipe.reading, self._in_pipe)
        assert len(self._copied) == self._in_pipe
        self._kept_bytes = self._in_pipe
        self._pipes.kept_bytes += self._kept_bytes
        self._in_pipe = 0
        self._pipes.give_back(self._pipe)
        self._pipe = None

    def _forget_kept(self) -> None:
        self._pipes.kept_bytes -= self._kept_bytes
        self._kept_bytes = 0

    def _choose_to_read(self) -> None:
        """Read from this side, unless something is in the way."""
        is_slowed = self._is_too_fast or self.is_held
        reads = not (self._has_ended or self._is_gone or is_slowed or self._in_pipe or self._copied)
        if reads != self._is_reading:
            self._is_reading = reads
            if reads:
                self._descriptors.addReader(self)
            else:
                self._descriptors.removeReader(self)

    def _count(self, count: int) -> None:
        now = self._factory.now()
        wait = self._circuit.count(count, now)
        if wait and not self._is_too_fast:
            self._is_too_fast = True
            self._choose_to_read()
            self._factory.realm.deadlines.add(now + wait, self._slow_again)
        shaper = self._factory.realm.shaper
        is_held = shaper.is_on and shaper.spend(self, self._device, count, 0, count, now)
        if wait or is_held or self._circuit.state is not State.JOINED:
            self._factory.settle()

    def _slow_again(self, now: float) -> None:
        self._is_too_fast = False
        self._choose_to_read()

    def _end(self) -> None:
        """Pass on that nothing more comes from here."""
        self._has_ended = True
        self._choose_to_read()
        if self.other._has_ended:
            for side in (self, self.other):
                side._leave()
                side._transport.loseConnection()
            return
        try:
            self.other._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.give_up()

    def _look_for_failure(self) -> None:
        """See why the reactor calls a side that is not to be read from."""
        if not self._is_gone and self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.give_up()

    def _leave(self) -> None:
        """Give the socket back to its owner, and throw away what still waits."""
        if self._is_gone:
            return
        self._descriptors.removeReader(self)
        self._descriptors.removeWriter(self)
        self._is_gone = True
        self._is_reading = False
        self._copied = b""
        self._forget_kept()
        if self._pipe is not None:
            self._pipes.throw_away(self._pipe)
            self._pipe = None
