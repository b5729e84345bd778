"""The legs of circuits on Twisted: connections that begin with a token (spec: circuits.md).

A leg is what its connection's protocol is until the other leg has come, or until it has been told
why nothing comes of it. It owns when its connection is read from. What is legal stands in
``circuits``.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from abst import codec
from abst.errors import MEANINGS, Code
from abst.joining import End, can_half_close
from abst.packets import Error
from abst.realm.circuits import Circuit, Seat, State
from abst.realm.circuits import Leg as CircuitLeg
from abst.realm.story import Story
from abst.tls_socket import LINGER_SECONDS, TlsSocket

KEEPALIVE_SECONDS: Final = 60


def tune_leg(connection: socket.socket) -> None:
    """Set the options of a socket whose other end may stop reading for as long as it likes.

    The limits for packets' sockets would close it, because they take a full window for a dead
    device. Keepalive tells the two apart.
    """
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_USER_TIMEOUT", 0),
        ("TCP_NOTSENT_LOWAT", 0),
        ("TCP_KEEPIDLE", KEEPALIVE_SECONDS),
        ("TCP_KEEPINTVL", KEEPALIVE_SECONDS // 4),
        ("TCP_KEEPCNT", 4),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def hand_over(transport: Any, protocol: Any) -> None:
    """Give a connection, whatever carries it, to another protocol."""
    if isinstance(transport, TlsSocket):
        transport.hand_over(protocol)
    elif isinstance(transport, TLSMemoryBIOProtocol):
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol


@implementer(IHalfCloseableProtocol)
class Leg(Protocol):
    """A leg whose token was good; the protocol of its connection until the other one has come.

    Args:
        factory: the realm's.
        transport: its connection, which it takes over.
        seat: what the token was good for.
        early: what came behind the token.
        story: what the log says of the connection.

    Attributes:
        story: the same.
        device: whose it is.
        socket: the bare TCP socket of a plain leg; None inside TLS.
    """

    def __init__(
        self, factory: Any, transport: Any, seat: Seat, early: bytes, story: Story
    ) -> None:
        self.factory = factory
        self.story = story
        self.device = seat.device
        self.transport: Any = transport
        handle = transport.getHandle()
        self.socket = handle if _is_plain(transport) else None
        self._seat: Seat | None = seat
        self._mover: Any = None
        self._early = [early] if early else []
        factory.legs.add(transport)
        hand_over(transport, self)
        transport.pauseProducing()
        if isinstance(handle, socket.socket):
            tune_leg(handle)
        story.became_leg(seat.device)
        seat.take(self, factory.now())

    # As the circuit sees it.

    def refuse(self, code: Code) -> None:
        """Say why nothing comes of it, and close so that the word arrives."""
        self._seat = None
        self._early.clear()
        self.story.refused_leg(code)
        Farewell(self.factory, self.transport, error_bytes(code))

    def reset(self) -> None:
        """Cut the connection off."""
        self._seat = None
        if self._mover is None:
            self.transport.abortConnection()
        else:
            self._mover.give_up()

    def meet(self, other: CircuitLeg, circuit: Circuit) -> None:
        """Have the bytes of the two go to each other."""
        assert isinstance(other, Leg)
        self.factory.join_legs(self, other, circuit)

    def give(self, mover: Any) -> list[bytes]:
        """Hand the connection over to who moves its bytes; return what it has read already."""
        self._seat = None
        self._mover = mover
        hand_over(self.transport, mover)
        early, self._early = self._early, []
        return early

    # As a protocol.

    def dataReceived(self, data: bytes) -> None:
        """Keep what was read before reading could be stopped."""
        self._early.append(data)

    def readConnectionLost(self) -> None:
        """Nothing: who is not read from does not end."""

    def writeConnectionLost(self) -> None:
        """Nothing: no direction is closed here."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Leave the seat."""
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.leave()
        self.factory.leg_gone(self.transport)


@implementer(IHalfCloseableProtocol)
class Farewell(Protocol):
    """A last word, and then the end of a connection that is no conversation.

    A socket that is closed with unread bytes resets the connection, and the last word is lost with
    it: so what still comes is read for a while and thrown away.
    """

    def __init__(self, factory: Any, transport: Any, last_word: bytes) -> None:
        self.transport: Any = transport
        self._factory = factory
        self._timer: Any = None
        hand_over(transport, self)
        transport.write(last_word)
        if not _is_plain(transport):
            # TLS does all this by itself, if it may read.
            transport.resumeProducing()
            transport.loseConnection()
            return
        transport.loseWriteConnection()
        transport.resumeProducing()
        self._timer = factory.call_later(LINGER_SECONDS, transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        """Throw away what still comes."""

    def readConnectionLost(self) -> None:
        """Close: the other side has heard enough."""
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Go on reading until the other side has closed too."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Be gone."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._factory.leg_gone(self.transport)


class CountedEnd(End):
    """One end of a circuit whose bytes go through user space, within the limits.

    Args:
        factory: the realm's.
        circuit: which one.
        device: whose end it is.

    Attributes:
        is_held: whether its device, or all of them, send too fast for it to be read from.
    """

    def __init__(self, factory: Any, circuit: Circuit, device: bytes) -> None:
        super().__init__()
        self._factory = factory
        self._circuit = circuit
        self._device = device
        self._is_full = False
        self._is_too_fast = False
        self.is_held = False

    def dataReceived(self, data: bytes) -> None:
        """Count bytes, and pass them on unless they were too many."""
        count, now = len(data), self._factory.now()
        wait = self._circuit.count(count, now)
        if self._circuit.state is not State.JOINED:
            self._factory.settle()
            return
        super().dataReceived(data)
        if wait and not self._is_too_fast:
            self._is_too_fast = True
            super().pauseProducing()
            self._factory.realm.deadlines.add(now + wait, self._slow_again)
        shaper = self._factory.realm.shaper
        is_held = shaper.is_on and shaper.spend(self, self._device, count, 0, count, now)
        if wait or is_held:
            self._factory.settle()

    def pauseProducing(self) -> None:
        """Stop reading: the other end does not take as much."""
        self._is_full = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Read on, unless it would be too fast."""
        self._is_full = False
        self._read_on()

    def hold(self) -> None:
        """Stop reading: the device sends too fast."""
        self.is_held = True
        super().pauseProducing()

    def release(self, now: float) -> None:
        """Read on."""
        self.is_held = False
        self._read_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the circuit with the later one of the two."""
        super().connectionLost(reason)
        self._factory.leg_gone(self.transport)
        if self._other is not None and not self._other.connected:
            self._circuit.ended()
            self._factory.settle()

    def _slow_again(self, now: float) -> None:
        self._is_too_fast = False
        self._read_on()

    def _read_on(self) -> None:
        if not (self._is_full or self._is_too_fast or self.is_held):
            super().resumeProducing()


def join_in_user_space(factory: Any, legs: tuple[Leg, Leg], circuit: Circuit) -> None:
    """Join two legs of any kind."""
    ends = [CountedEnd(factory, circuit, leg.device) for leg in legs]
    ends[0].join(ends[1])
    early = [leg.give(end) for leg, end in zip(legs, ends, strict=True)]
    for leg, end in zip(legs, ends, strict=True):
        end.makeConnection(leg.transport)
    for pieces, end in zip(early, ends, strict=True):
        for data in pieces:
            end.dataReceived(data)


def error_bytes(code: Code) -> bytes:
    """Return an Error packet's bytes."""
    return codec.encode(Error(str(code), MEANINGS[code].sentence))


def _is_plain(transport: Any) -> bool:
    """Tell whether a connection is a bare TCP socket."""
    return can_half_close(transport) and not isinstance(transport, TlsSocket)
