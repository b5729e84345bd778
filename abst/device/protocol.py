"""What applications subclass: ``DeviceProtocol`` and ``DeviceFactory``.

One protocol is one session with one peer. It lives through changes of path; ``connectionLost``
comes when the session is over.
"""

from __future__ import annotations

from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.device.paths import Path
from abst.device.peers import Peer
from abst.errors import AbstError


class SessionTransport(Protocol):
    """What a ``DeviceProtocol`` writes to."""

    @property
    def peer(self) -> Peer:
        """The device at the other end."""

    @property
    def path(self) -> Path | None:
        """What carries the session just now."""

    def send_packet(self, packet_id: int, content: Any) -> Deferred[None]:
        """Send an application packet."""

    def ping(self) -> Deferred[float]:
        """Measure the round trip."""

    @property
    def is_waiting(self) -> bool:
        """Whether anything is not acknowledged."""

    def waiting(self) -> list[tuple[int, int, Any, bool]]:
        """Return what is not acknowledged: number, packet id, content, and whether it is out."""

    def replace_packet(self, number: int, packet_id: int, content: Any) -> bool:
        """Put another packet in the place of one that has not left yet; False when it has."""

    def register_producer(self, producer: Any, streaming: bool) -> None:
        """Pause and resume a producer by what waits to be acknowledged."""

    def unregister_producer(self) -> None:
        """Let the producer go."""

    def end(self) -> None:
        """End the session once everything is acknowledged."""


class DeviceProtocol:
    """A conversation with one peer.

    Override ``connectionMade``, ``packetReceived``, ``connectionLost`` and ``pathChanged``.

    Attributes:
        factory: the factory that built it.
        transport: what carries the session.
        keep_alive: set it to True to have a path open also while nothing is said. Else it is closed
            after a minute, and opened again when there is something to send.
    """

    keep_alive: bool = False
    factory: DeviceFactory
    transport: SessionTransport

    @property
    def peer(self) -> Peer:
        """The device at the other end."""
        return self.transport.peer

    @property
    def path(self) -> Path | None:
        """What carries the session just now; None while it waits for a way."""
        return self.transport.path

    def makeConnection(self, transport: SessionTransport) -> None:
        """Take the session; called once, by the device."""
        self.transport = transport
        self.connectionMade()

    def sendPacket(self, packet_id: int, content: Any) -> Deferred[None]:
        """Send an application packet.

        Args:
            packet_id: 5 to 255.
            content: anything that MessagePack can carry; at most about 64,000 bytes encoded.

        Returns:
            A Deferred that fires when the peer's session has acknowledged the packet, and fails
            with ``SessionEndedError`` when the session ends before that.

        Raises:
            LocalProtocolError: the id is not an application's, the content cannot be encoded or is
                too large, too much is waiting, or the session has ended.
        """
        return self.transport.send_packet(packet_id, content)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Have a producer paused while much waits to be acknowledged, and resumed afterwards.

        Args:
            producer: an ``IPushProducer`` that calls ``sendPacket``, or an ``IPullProducer``.
            streaming: True for a push producer.

        Raises:
            LocalProtocolError: there is a producer already.
        """
        self.transport.register_producer(producer, streaming)

    def unregisterProducer(self) -> None:
        """Let the producer go: it is neither paused nor resumed any more."""
        self.transport.unregister_producer()

    def ping(self) -> Deferred[float]:
        """Return a Deferred of the round-trip time to the peer, in seconds."""
        return self.transport.ping()

    def loseConnection(self) -> None:
        """End the session, once everything that was sent is acknowledged."""
        self.transport.end()

    def connectionMade(self) -> None:
        """Called when the session begins."""

    def packetReceived(self, packet_id: int, content: Any) -> None:
        """Called for each application packet, once each, in the order sent."""

    def pathChanged(self, path: Path | None) -> None:
        """Called when another path carries the session, or none does for now."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Called when the session is over.

        ``reason`` is ``ConnectionDone`` when either side ended it, else ``SessionEndedError``.
        """


class DeviceFactory:
    """Builds a ``DeviceProtocol`` for each session, whichever side began it.

    Override ``realmConnectionMade`` and ``realmConnectionFailed`` to hear how its realms stand.
    """

    protocol: type[DeviceProtocol] = DeviceProtocol

    def buildProtocol(self, peer: Peer) -> DeviceProtocol | None:
        """Return the protocol for a new session with a peer, or None to refuse it."""
        protocol = self.protocol()
        protocol.factory = self
        return protocol

    def realmConnectionMade(self, realm: RealmAddress) -> None:
        """Called when a realm has accepted this device."""

    def realmConnectionFailed(self, realm: RealmAddress, problem: AbstError) -> None:
        """Called when a realm is not connected any more, and when a try to connect has failed.

        The device goes on trying by itself. ``problem`` is a ``RealmRefusedError`` when the realm
        does not let this device in; the text says what to do.
        """
