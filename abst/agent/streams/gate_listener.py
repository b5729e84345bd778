"""A program that offers a service: it is told of each stream, which waits until it is fetched.

Owns how many streams may wait for one program, and for how long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.interfaces import (
    IDelayedCall,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.agent.streams.gate_lines import Arrival, arrival_line
from abst.device import Peer, StreamAddress
from abst.joining import End, joined_ends

FETCH_SECONDS: Final = 10.0
"""How long a program has to fetch a stream."""

BUSY_SECONDS: Final = 0.5
"""How long a stream stays open that the program cannot take: the peer has to hear first that it is
open, and the service there."""

MAX_WAITING_STREAMS: Final = 64


@dataclass(frozen=True, slots=True)
class WaitingStream:
    """A stream that was not fetched yet.

    Attributes:
        end: what the program's connection is to become.
        address: whose stream it is, and for what.
        expiry: ends it.
    """

    end: End
    address: StreamAddress
    expiry: IDelayedCall


@implementer(IProtocolFactory, IPushProducer)
class Listener:
    """Takes the streams of one service for one program.

    Args:
        reactor: the reactor.
        service: the service.
        peers: to whom it is offered; None is every peer.
        tell: writes a line to the program.
        next_id: returns a number that no other stream has.

    Attributes:
        port: what ends the service; None before it is offered.
    """

    log = Logger(namespace="abst.agent")

    def __init__(
        self,
        reactor: Any,
        service: str,
        peers: tuple[Peer, ...] | None,
        tell: Callable[[bytes], None],
        next_id: Callable[[], int],
    ) -> None:
        self.service = service
        self.peers = peers
        self.port: IListeningPort | None = None
        self._reactor = reactor
        self._tell = tell
        self._next_id = next_id
        self._waiting: dict[int, WaitingStream] = {}
        self._is_reading = True

    def admits(self, peer: Peer) -> bool:
        """Tell whether the service is offered to a peer."""
        return self.peers is None or any(
            peer.device_id == admitted.device_id for admitted in self.peers
        )

    def take(self, stream_id: int) -> WaitingStream | None:
        """Return a stream that waits, which is no longer this one's; None when it does not."""
        waiting = self._waiting.pop(stream_id, None)
        if waiting is not None and waiting.expiry.active():
            waiting.expiry.cancel()
        return waiting

    # As the factory of the device's streams.

    def doStart(self) -> None:
        """Have nothing to prepare."""

    def doStop(self) -> None:
        """Have nothing to end."""

    def buildProtocol(self, addr: Any) -> IProtocol:
        """Tell the program of a stream; end it soon when it leaves too many, or does not read.

        To refuse it would say that this peer is not admitted, which is not so.
        """
        outer, inner = joined_ends()
        stream_id = self._next_id()
        if self._is_reading and len(self._waiting) < MAX_WAITING_STREAMS:
            expiry = self._reactor.callLater(FETCH_SECONDS, self._expire, stream_id)
            self._tell(arrival_line(Arrival(stream_id, addr.device_id)))
        else:
            self.log.warn("a program does not fetch its streams: one is broken off")
            expiry = self._reactor.callLater(BUSY_SECONDS, self._give_up, stream_id)
        self._waiting[stream_id] = WaitingStream(inner, addr, expiry)
        return outer

    # As what the program's connection is for.

    def dataReceived(self, data: bytes) -> None:
        """Drop it: a program that listens has nothing to say."""

    def connectionLost(self, reason: Failure) -> None:
        """Offer the service no more, and end what nobody is going to fetch."""
        if self.port is not None:
            self.port.stopListening()
        for stream_id in tuple(self._waiting):
            self._give_up(stream_id)

    # As a producer, which is told when the program does not read.

    def pauseProducing(self) -> None:
        """Take no more streams."""
        self._is_reading = False

    def resumeProducing(self) -> None:
        """Take streams again."""
        self._is_reading = True

    def stopProducing(self) -> None:
        """The connection is gone; ``connectionLost`` follows."""

    # Inside.

    def _expire(self, stream_id: int) -> None:
        self.log.warn(
            "a program has not fetched a stream within {seconds:g} s", seconds=FETCH_SECONDS
        )
        self._give_up(stream_id)

    def _give_up(self, stream_id: int) -> None:
        waiting = self.take(stream_id)
        if waiting is not None:
            waiting.end.give_up()
