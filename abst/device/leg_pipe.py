"""Legs: this device's end of a circuit, a connection to a realm that becomes one to a device.

Spec: circuits.md. Owns that a leg begins with its token, that a realm's Error in place of the other
end's bytes is understood, and which kind of leg is opened: a plain one, or one inside TLS where
that has worked and a plain one came to nothing.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from abst import codec, packets
from abst.address import RealmAddress
from abst.device.connect_problem import connect_problem
from abst.device.pipes import Finished, Pipe
from abst.device.tcp_pipe import LINGER_SECONDS, TcpPipe
from abst.errors import AbstError, PeerUnreachableError, RealmRefusedError, RemoteProtocolError
from abst.identity import Identity
from abst.packets import MAX_PACKET_BYTES_BEFORE_HELLO, REALM_TO_DEVICE, Circuit, Error, Leg
from abst.tls import realm_client_creator

CONNECT_SECONDS: Final = 10.0

SILENT_SECONDS: Final = 2.0
"""So much later than a realm has to say that the other end does not come, what is silent is
something on the way that lets nothing through."""

MAX_MEETING_SECONDS: Final = 60.0
"""How long the other end of a circuit is waited for at most, whatever the realm says."""

TLS_SECONDS: Final = 600.0
"""After a leg inside TLS has worked where a plain one came to nothing, the next ones are opened in
the same way for so long."""

_FIRST_TLS_BYTES: Final = range(0x14, 0x18)
"""What the other end begins with: a TLS record of one of four types (RFC 8446, 5.1)."""


def meeting_seconds(circuit: Circuit) -> float:
    """Return how long the two legs of a circuit may take to come."""
    return min(float(circuit.seconds), MAX_MEETING_SECONDS)


class LegDialler:
    """Opens legs to one realm.

    Args:
        reactor: the reactor.
        identity: this device's.
        address: the realm's.
    """

    def __init__(self, reactor: Any, identity: Identity, address: RealmAddress) -> None:
        self._reactor = reactor
        self._identity = identity
        self._address = address
        self._tls_until = 0.0

    def open(self, circuit: Circuit, *, inside_tls: bool) -> Deferred[Pipe]:
        """Open a leg; fails with an ``AbstError``, and can be cancelled.

        Args:
            circuit: what the realm has said.
            inside_tls: a plain leg has just come to nothing.
        """
        address = self._address
        endpoint: Any = HostnameEndpoint(
            self._reactor, address.host, address.port, timeout=CONNECT_SECONDS
        )
        make = LegPipe
        if inside_tls or self._reactor.seconds() < self._tls_until:
            endpoint = wrapClientTLS(realm_client_creator(self._identity, address), endpoint)
            make = TlsLegPipe
        factory = Factory.forProtocol(lambda: make(self, address, circuit))
        factory.noisy = False
        connecting: Deferred[Pipe] = endpoint.connect(factory)
        return connecting.addErrback(self._not_connected)

    def tls_works(self) -> None:
        """Hear that something has come over a leg inside TLS."""
        self._tls_until = self._reactor.seconds() + TLS_SECONDS

    def _not_connected(self, failure: Failure) -> Any:
        raise PeerUnreachableError(connect_problem(failure, self._address))


class LegPipe(TcpPipe):
    """A leg.

    Args:
        dialler: whoever has opened it.
        address: the realm's.
        circuit: what the realm has said.
    """

    def __init__(self, dialler: LegDialler, address: RealmAddress, circuit: Circuit) -> None:
        super().__init__(f"{address.host}:{address.port}")
        self._dialler = dialler
        self._circuit = circuit
        self._has_begun = False
        self._refusal = bytearray()
        self._timer: Any = None

    def connectionMade(self) -> None:
        """Say whose leg it is."""
        super().connectionMade()
        self.transport.write(codec.encode(Leg(self._circuit.token)))
        wait = meeting_seconds(self._circuit) + SILENT_SECONDS
        self._timer = self.transport.reactor.callLater(wait, self._silent)

    def dataReceived(self, data: bytes) -> None:
        """Hand bytes on, or learn why there are none."""
        if not self._has_begun:
            self._stop_timer()
            if self._refusal or data[0] not in _FIRST_TLS_BYTES:
                self._take_refusal(data)
                return
            self._has_begun = True
            self.has_begun()
        super().dataReceived(data)

    def has_begun(self) -> None:
        """Hear that the other end's bytes have begun to come."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Say that it is gone, unless that was asked for."""
        self._stop_timer()
        super().connectionLost(reason)

    def _silent(self) -> None:
        if not self._closing:
            self._fail(PeerUnreachableError(f"{self.address}: nothing comes over a circuit"))

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _take_refusal(self, data: bytes) -> None:
        """Read the Error that the realm has sent instead of the other end's bytes."""
        self._refusal += data
        decoder = codec.Decoder(MAX_PACKET_BYTES_BEFORE_HELLO)
        try:
            decoder.receive_data(bytes(self._refusal))
            found = decoder.next_map()
            if found is None:
                return
            packet = packets.parse(found, REALM_TO_DEVICE)
        except RemoteProtocolError as problem:
            self._fail(problem)
            return
        if isinstance(packet, Error):
            self._fail(RealmRefusedError(packet.code, packet.reason))
        else:
            self._fail(PeerUnreachableError(f"{self.address} is no realm that offers circuits"))

    def _fail(self, problem: AbstError) -> None:
        owner, self.owner = self.owner, None
        self.abort()
        if owner is not None:
            owner.pipe_lost(self, problem)


class TlsLegPipe(LegPipe):
    """A leg inside TLS."""

    def has_begun(self) -> None:
        """Hear that the other end's bytes have begun to come."""
        self._dialler.tls_works()

    def finish(self, finished: Finished) -> None:
        """Close once what was written is out, however long that takes."""
        super().finish(finished)
        # Twisted's TLS waits for an answer to its end; what it has written is not lost below it.
        below = self.transport.transport
        self._linger = self.transport.reactor.callLater(LINGER_SECONDS, below.loseConnection)

    def close(self) -> None:
        """Close once what was written has come, or after a while."""
        if not self._closing:
            self._closing = True
            # One direction of Twisted's TLS cannot be closed alone; it answers what still comes.
            self.transport.loseConnection()
            self._linger_on()
