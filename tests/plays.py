"""What two sides of a joined connection may do, in any order, and what each must have got then."""

from __future__ import annotations

import contextlib
import enum
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence

from hypothesis import strategies as st


class Act(enum.Enum):
    """What one side does; SEND stands with a number of bytes."""

    OPEN = "open"
    SEND = "send"
    HALF_CLOSE = "half-close"
    CLOSE = "close"
    RESET = "reset"


Play = list[tuple[int, Act, int]]


def plays() -> st.SearchStrategy[Play]:
    """Return plays: which side does what, and with how many bytes."""
    acts = st.sampled_from([Act.OPEN, Act.SEND, Act.SEND, Act.HALF_CLOSE, Act.CLOSE, Act.RESET])
    sizes = st.sampled_from([1, 100, 5000, 70_000, 300_000])
    return st.lists(st.tuples(st.integers(0, 1), acts, sizes), max_size=12)


def reset(connection: socket.socket) -> None:
    """Close a socket as a process that crashes does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def read_to_the_end(connection: socket.socket) -> bytes | None:
    """Return all bytes until the other side's end, or None when the connection fails."""
    found = bytearray()
    try:
        while data := connection.recv(1 << 18):
            found += data
    except (ConnectionError, ssl.SSLError):
        return None
    return bytes(found)


def perform(
    play: Play,
    openings: Sequence[Callable[[], socket.socket]],
    read: Callable[[socket.socket], bytes | None] = read_to_the_end,
) -> None:
    """Do what a play says, then end both sides in order; check what each side has got.

    Args:
        play: who does what.
        openings: each makes the connection of one side.
        read: returns what a side gets until the end, or None when that is an error.

    Raises:
        AssertionError: a side got an end in order without all the bytes before it, or an error
            although the other side ended in order.
    """
    sides = [Side(opening, read) for opening in openings]
    for index, act, size in [*play, (0, Act.OPEN, 0), (1, Act.OPEN, 0)]:
        sides[index].do(act, size)
    for side in sides:
        side.do(Act.HALF_CLOSE, 0)
    for side in sides:
        side.start_to_read()
    for side in sides:
        side.finish()
    for side, other in (sides, sides[::-1]):
        if side.got is not None:
            assert side.got == bytes(other.sent), (play, len(side.got), len(other.sent))
            assert not other.was_reset, play
    if not any(side.is_closed for side in sides):
        assert None not in [side.got for side in sides], play


class Side:
    """One side of a play: sends what it is told, and reads when all has been said.

    Attributes:
        sent: what it has sent, all of which the other side must get, or an error.
        got: what it has got until the end, or None when there was an error, or it did not read.
        was_reset: whether it has cut its connection off before it had ended it.
        is_closed: whether it has closed the connection, and so does not read.
    """

    def __init__(
        self,
        opening: Callable[[], socket.socket],
        read: Callable[[socket.socket], bytes | None],
    ) -> None:
        self._opening = opening
        self._read_all = read
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._read)
        self._random = random.Random(7)
        self._has_ended = False
        self._has_failed = False
        self.sent = bytearray()
        self.got: bytes | None = None
        self.was_reset = False
        self.is_closed = False

    def _read(self) -> None:
        assert self._socket is not None
        self.got = self._read_all(self._socket)

    def do(self, act: Act, size: int) -> None:
        """Do something, if it is possible still."""
        if self._socket is None:
            if act is Act.OPEN:
                # Where the other side has failed already, this one may be reset at once.
                with contextlib.suppress(ConnectionError):
                    self._socket = self._opening()
            return
        try:
            self._do(self._socket, act, size)
        except OSError:
            # The system tells of a failure once; whoever reads after that sees an end in order.
            self._has_failed = True

    def _do(self, connection: socket.socket, act: Act, size: int) -> None:
        match act:
            case Act.SEND if not self._has_ended:
                self._send(connection, self._random.randbytes(size))
            case Act.HALF_CLOSE if not self._has_ended:
                self._has_ended = True
                connection.shutdown(socket.SHUT_WR)
            case Act.CLOSE if not self._has_ended:
                self._has_ended = self.is_closed = True
                connection.close()
            case Act.RESET if not self.is_closed:
                # What was ended in order before may have arrived whole.
                self.was_reset = not self._has_ended
                self._has_ended = self.is_closed = True
                reset(connection)

    def _send(self, connection: socket.socket, data: bytes) -> None:
        """Send in pieces, as far as it goes at once: nobody may be reading yet."""
        while data:
            size = self._random.choice([1, 1000, 65536])
            try:
                sent = connection.send(data[:size], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self.sent += data[:sent]
            data = data[sent:]

    def start_to_read(self) -> None:
        """Begin to read, if the connection is there."""
        if self._socket is not None and not self.is_closed:
            self._thread.start()

    def finish(self) -> None:
        """Wait until everything has been read."""
        if self._thread.ident is not None:
            self._thread.join()
            assert self._socket is not None
            self._socket.close()
        if self._has_failed:
            self.got = None
