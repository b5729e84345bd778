"""Two connections joined into one: what comes on either goes to the other, in user space.

Owns the bytes on their way between two Twisted transports of any kind, and nothing of what they
mean. What one side does not take is not read from the other, so no more waits here than
the transports hold by themselves. The end of one direction is passed on alone where the transport
can do that; a connection that fails takes the other one with it, so that nobody takes the half of
something for the whole.
"""

from __future__ import annotations

import enum
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer


class _State(enum.Enum):
    """Where the connection of one end stands."""

    EXPECTED = "not made yet"
    OPEN = "open"
    ENDED = "it sends nothing more, and still takes something"
    CLOSED = "closed in order"
    FAILED = "failed, or given up"


def joined_ends() -> tuple[End, End]:
    """Return the protocols for two connections that are to be one."""
    first, second = End(), End()
    first.join(second)
    return first, second


@implementer(IHalfCloseableProtocol, IPushProducer)
class End(Protocol):
    """The protocol of one of two connections; ``join`` says which is the other one.

    A connection that is there before the other is not read from. What it had read already is kept,
    and delivered first.
    """

    transport: Any

    def __init__(self) -> None:
        self.transport = None
        self._other: End | None = None
        self._state = _State.EXPECTED
        self._early: list[bytes] = []

    def join(self, other: End) -> None:
        """Pass on to each what the other one gets, once both connections are made."""
        self._other, other._other = other, self
        if self.transport is not None and other.transport is not None:
            self._begin()

    @property
    def is_joined(self) -> bool:
        """Whether both connections have been made."""
        return (
            self._other is not None
            and self.transport is not None
            and self._other.transport is not None
        )

    def give_up(self) -> None:
        """Abort both connections, also one that is still going to be made."""
        for end in (self, self._other):
            if end is not None and end._state is not _State.CLOSED:
                end._fail()

    # As a protocol.

    def makeConnection(self, transport: Any) -> None:
        """Take a connection; read from it only when there is somebody to read for."""
        self.transport = transport
        self.connected = 1
        if self._state is _State.FAILED:
            _abort(transport)
            return
        self._state = _State.OPEN
        if self.is_joined:
            self._begin()
        else:
            transport.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes on."""
        if self.is_joined:
            assert self._other is not None
            self._other.transport.write(data)
        else:
            self._early.append(data)

    def readConnectionLost(self) -> None:
        """Pass on that no more bytes come from here."""
        if self._state is _State.OPEN:
            self._state = _State.ENDED
            if self.is_joined:
                self._pass_on_the_end()

    def writeConnectionLost(self) -> None:
        """Hear that no more bytes go there; only because this side has said so."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Close the other connection as this one was closed: in order, or not."""
        self.connected = 0
        other = self._other
        if not reason.check(ConnectionDone):
            self._state = _State.FAILED
            self._early.clear()
            if other is not None and other._state is not _State.CLOSED:
                other._fail()
        elif self._state is not _State.FAILED:
            self._state = _State.CLOSED
            if other is not None:
                other._close()

    # As what writes to the other end's transport, which says when to stop and when to go on.

    def pauseProducing(self) -> None:
        """Stop reading: the other end does not take as much."""
        if self._state is _State.OPEN:
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Read on."""
        if self._state is _State.OPEN:
            self.transport.resumeProducing()

    def stopProducing(self) -> None:
        """Hear that the other end is gone, of which its ``connectionLost`` tells more."""

    # Inside.

    def _begin(self) -> None:
        """Let the bytes go, both connections being there; what has happened already comes first."""
        other = self._other
        assert other is not None
        for end in (self, other):
            if end._state in (_State.OPEN, _State.ENDED):
                end.transport.registerProducer(end._other, True)
        for end in (self, other):
            end.resumeProducing()
            end._deliver_early()

    def _deliver_early(self) -> None:
        other = self._other
        assert other is not None
        early, self._early = self._early, []
        for data in early:
            other.transport.write(data)
        match self._state:
            case _State.ENDED:
                self._pass_on_the_end()
            case _State.CLOSED:
                other._close()
            case _State.FAILED:
                other._fail()

    def _pass_on_the_end(self) -> None:
        other = self._other
        assert other is not None
        if other._state is _State.ENDED:
            self._close()
            other._close()
        elif other._state is _State.OPEN and can_half_close(other.transport):
            # A transport does not close its direction while a producer might go on.
            other.transport.unregisterProducer()
            other.transport.loseWriteConnection()
        else:
            other._close()

    def _close(self) -> None:
        if self._state in (_State.OPEN, _State.ENDED):
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def _fail(self) -> None:
        self._state = _State.FAILED
        self._early.clear()
        if self.connected:
            _abort(self.transport)


def can_half_close(transport: Any) -> bool:
    """Tell whether a transport can close its own direction alone; Twisted's TLS cannot."""
    if isinstance(transport, TLSMemoryBIOProtocol) or getattr(transport, "TLS", False):
        return False
    return hasattr(transport, "loseWriteConnection")


def _abort(transport: Any) -> None:
    abort = getattr(transport, "abortConnection", None)
    if abort is None:
        # Standard input and output, for one, can only be closed.
        transport.loseConnection()
    else:
        abort()
