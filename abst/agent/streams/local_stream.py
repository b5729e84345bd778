"""A stream's bytes on the Unix socket between the agent and a program of its user.

A Unix socket has no reset: a connection that was broken off looks like one that was closed. So the
bytes travel in frames, of which there are three kinds, each beginning with four bytes, big-endian:

- a length from 1 to 2^31 - 1, and as many bytes of the stream;
- 0: nothing more comes from this side, which goes on reading;
- 2^32 - 1: this side is done, in order, and reads nothing more.

A connection that ends without the last one has been aborted, and the application behind it is told
so. Nothing is buffered here but what had been read already when the protocol said that it wants no
more: a frame is passed on as it comes, and whoever does not read lets the other side wait.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from typing import Any, Final

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

_HEADER: Final = struct.Struct(">I")
MAX_FRAME_BYTES: Final = 2**31 - 1
END: Final = _HEADER.pack(0)
CLOSE: Final = _HEADER.pack(2**32 - 1)


class _State(enum.Enum):
    """Where a stream stands, as seen from this side."""

    OPEN = "both sides may send"
    READING = "this side sends nothing more"
    WRITING = "the other side sends nothing more"
    FINISHING = "this side is closed, as soon as its producer is done"
    CLOSING = "this side is closed; the other one may not have read everything yet"
    OVER = "the protocol has been told"


_WRITES: Final = frozenset({_State.OPEN, _State.WRITING, _State.FINISHING})
_READS: Final = frozenset({_State.OPEN, _State.READING})


@implementer(ITransport, IConsumer, IPushProducer)
class LocalStream(Protocol):
    """The protocol of a Unix connection, and the transport of the protocol behind it.

    Args:
        protocol: gets the stream's bytes, and writes them.
        peer: what ``getPeer`` returns.
        host: what ``getHost`` returns.
    """

    transport: Any

    def __init__(self, protocol: IProtocol, peer: IAddress, host: IAddress) -> None:
        self._protocol = protocol
        self._peer = peer
        self._host = host
        self._state = _State.OPEN
        self._header = b""
        self._left_bytes = 0
        self._has_producer = False
        self._is_paused = False
        self._held = b""

    # As the protocol of the Unix connection.

    def connectionMade(self) -> None:
        """Hand the stream to its protocol."""
        self._protocol.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        """Take frames, in pieces of any size; hold them while the protocol has paused."""
        if self._held:
            data = self._held + data
            self._held = b""
        position = 0
        while position < len(data) and self._state is not _State.OVER:
            if self._is_paused:
                self._held = data[position:]
                return
            if self._left_bytes:
                piece = data[position : position + self._left_bytes]
                self._left_bytes -= len(piece)
                position += len(piece)
                if self._state in _READS:
                    self._protocol.dataReceived(piece)
                continue
            missing = _HEADER.size - len(self._header)
            self._header += data[position : position + missing]
            position += missing
            if len(self._header) == _HEADER.size:
                header, self._header = self._header, b""
                self._take(header)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell the protocol how the stream ended, unless it knows."""
        if self._state is _State.CLOSING:
            self._tell(connectionDone)
        elif reason.check(ConnectionDone):
            self._tell(Failure(ConnectionLost("the stream was broken off")))
        else:
            self._tell(reason)

    # As the protocol's transport.

    @property
    def disconnecting(self) -> bool:
        """Whether the protocol has closed the stream."""
        return self._state in (_State.FINISHING, _State.CLOSING)

    def getPeer(self) -> IAddress:
        """Return who is at the other end."""
        return self._peer

    def getHost(self) -> IAddress:
        """Return who this end is."""
        return self._host

    def write(self, data: bytes) -> None:
        """Send bytes; after the end of this direction they are dropped."""
        if self._state in _WRITES:
            for start in range(0, len(data), MAX_FRAME_BYTES):
                piece = data[start : start + MAX_FRAME_BYTES]
                self.transport.writeSequence((_HEADER.pack(len(piece)), piece))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send bytes that come in pieces."""
        self.write(b"".join(data))

    def loseWriteConnection(self) -> None:
        """Send nothing more, and go on reading."""
        if self._state is _State.OPEN:
            self._state = _State.READING
            self.transport.write(END)
        elif self._state is _State.WRITING:
            self.loseConnection()

    def loseConnection(self) -> None:
        """Close the stream once everything that was written is out."""
        if self._state in (_State.OPEN, _State.READING, _State.WRITING):
            self._state = _State.FINISHING
            if not self._has_producer:
                self._close()

    def abortConnection(self) -> None:
        """Break the stream off: the other end is told that the bytes may not be all."""
        if self._state is not _State.OVER:
            self.transport.abortConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let a producer write at the pace of the other end."""
        self.transport.registerProducer(producer, streaming)
        self._has_producer = True

    def unregisterProducer(self) -> None:
        """Be done with the producer."""
        self._has_producer = False
        self.transport.unregisterProducer()
        if self._state is _State.FINISHING:
            self._close()

    def pauseProducing(self) -> None:
        """Read nothing for now."""
        if self._state in _READS:
            self._is_paused = True
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on, first what is held."""
        self._is_paused = False
        if self._held:
            self.dataReceived(b"")
        if self._state is not _State.OVER and not self._is_paused:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Read nothing more: the same as closing."""
        self.loseConnection()

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing: small writes do not wait here. Some protocols ask for it unasked."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Do nothing: a process that ends closes its socket."""

    # Inside.

    def _take(self, header: bytes) -> None:
        if header == END:
            self._end()
        elif header == CLOSE:
            if self._state is not _State.CLOSING:
                # Who has closed is told when the connection is gone, and not while it closes.
                self._tell(connectionDone)
            self.transport.abortConnection()  # Nobody reads what may still wait to be written.
        else:
            (self._left_bytes,) = _HEADER.unpack(header)
            if self._left_bytes > MAX_FRAME_BYTES:
                self._tell(Failure(ConnectionLost("the stream's frames make no sense")))
                self.transport.abortConnection()

    def _end(self) -> None:
        """Hear that the other side sends nothing more."""
        state = self._state
        if state not in _READS:
            return
        half_closeable: Any = IHalfCloseableProtocol(self._protocol, None)
        if state is _State.OPEN:
            self._state = _State.WRITING
        if half_closeable is not None:
            half_closeable.readConnectionLost()
        both_ended = state is _State.READING
        if (both_ended or half_closeable is None) and self._state is not _State.CLOSING:
            # No producer is waited for: as with TCP, whoever cannot go on alone is done.
            self._close()

    def _close(self) -> None:
        self._state = _State.CLOSING
        self.transport.write(CLOSE)
        # The other side closes when it has come to that; until then, what it sends is dropped.
        self.resumeProducing()

    def _tell(self, reason: Failure) -> None:
        if self._state is not _State.OVER:
            self._state = _State.OVER
            self._protocol.connectionLost(reason)
