"""Legs: this device's end of a circuit, a connection to a realm that becomes one to a device.

Spec: circuits.md. Owns that a leg begins with its token, that a realm's Error in place of the other
end's bytes is understood, and which kind of leg is opened: a plain one, or one inside TLS once a
plain one came to nothing over this realm.
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
from abst.device.pipes import Pipe
from abst.device.tcp_pipe import TcpPipe
from abst.errors import AbstError, PeerUnreachableError, RealmRefusedError, RemoteProtocolError
from abst.identity import Identity
from abst.packets import MAX_PACKET_BYTES_BEFORE_HELLO, REALM_TO_DEVICE, Error, Leg
from abst.tls import realm_client_creator

CONNECT_SECONDS: Final = 10.0

SILENT_SECONDS: Final = 12.0
"""A realm says within 10 seconds that the other end does not come; so what is silent for longer is
something on the way that lets nothing through."""

TLS_SECONDS: Final = 600.0
"""After a plain leg came to nothing, legs are opened inside TLS for so long."""

_FIRST_TLS_BYTES: Final = range(0x14, 0x18)
"""What the other end begins with: a TLS record of one of four types (RFC 8446, 5.1)."""


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

    def open(self, token: bytes) -> Deferred[Pipe]:
        """Open a leg; fails with an ``AbstError``, and can be cancelled."""
        address = self._address
        endpoint: Any = HostnameEndpoint(
            self._reactor, address.host, address.port, timeout=CONNECT_SECONDS
        )
        make = LegPipe
        if self._reactor.seconds() < self._tls_until:
            endpoint = wrapClientTLS(realm_client_creator(self._identity, address), endpoint)
            make = TlsLegPipe
        factory = Factory.forProtocol(lambda: make(self, address, token))
        factory.noisy = False
        connecting: Deferred[Pipe] = endpoint.connect(factory)
        return connecting.addErrback(self._not_connected)

    def came_to_nothing(self) -> None:
        """Hear that not one byte came over a leg, not even an Error."""
        # Something on the way may let nothing but TLS through. If it was not that, TLS works too.
        self._tls_until = self._reactor.seconds() + TLS_SECONDS

    def _not_connected(self, failure: Failure) -> Any:
        raise PeerUnreachableError(connect_problem(failure, self._address))


class LegPipe(TcpPipe):
    """A leg.

    Args:
        dialler: hears when nothing comes over it.
        address: the realm's.
        token: what it begins with.
    """

    def __init__(self, dialler: LegDialler, address: RealmAddress, token: bytes) -> None:
        super().__init__(f"{address.host}:{address.port}")
        self._dialler = dialler
        self._realm = address
        self._token = token
        self._has_begun = False
        self._refusal = bytearray()
        self._timer: Any = None

    def connectionMade(self) -> None:
        """Say whose leg it is."""
        super().connectionMade()
        self.transport.write(codec.encode(Leg(self._token)))
        self._token = b""
        self._timer = self.transport.reactor.callLater(SILENT_SECONDS, self._silent)

    def dataReceived(self, data: bytes) -> None:
        """Hand bytes on, or learn why there are none."""
        if not self._has_begun:
            self._stop_timer()
            if self._refusal or data[0] not in _FIRST_TLS_BYTES:
                self._take_refusal(data)
                return
            self._has_begun = True
        super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Say that it is gone, unless that was asked for."""
        self._stop_timer()
        if not self._has_begun and not self._refusal and not self._closing:
            self._dialler.came_to_nothing()
        super().connectionLost(reason)

    def _silent(self) -> None:
        if not self._closing:
            self._dialler.came_to_nothing()
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

    def close(self) -> None:
        """Close once what was written has come, or after a while."""
        if not self._closing:
            self._closing = True
            # One direction of Twisted's TLS cannot be closed alone; it answers what still comes.
            self.transport.loseConnection()
            self._linger_on()
