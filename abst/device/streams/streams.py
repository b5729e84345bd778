"""Streams: connections for any protocol between paired devices (spec: streams.md).

Owns a device's services, the streams that are open, and the bounds on them. How a stream is reached
is the business of ``stream_dial``, how it begins that of ``stream_opening``, and what it is to an
application that of ``stream``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IListeningPort, IProtocol, IProtocolFactory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.device.link import Link
from abst.device.paths import Path
from abst.device.peers import Peer
from abst.device.pipes import Pipe
from abst.device.streams.carried import Carried
from abst.device.streams.circuit_dial import give_back
from abst.device.streams.dial import DialOwner, StreamDial
from abst.device.streams.offered_circuit import OfferedCircuit
from abst.device.streams.opening import (
    OPENING_SECONDS,
    AcceptedOpening,
    DialledOpening,
    Opened,
)
from abst.device.streams.stream import Stream, StreamAddress
from abst.device_id import DeviceID
from abst.errors import (
    AbstError,
    Code,
    NotTrustedError,
    PeerUnreachableError,
    StreamError,
    explain,
)
from abst.packets import Circuit, Error, is_service
from abst.tls import TlsEngine

MAX_STREAMS_OF_PEER: Final = 256
"""How many streams a peer may have opened, those included whose handshake is done."""

DEVICE_CIRCUITS: Final = 200
"""How many circuits a device may have at a realm that does not say."""

PEER_SHARE: Final = 0.5
"""Which part of this device's circuits at a realm one peer may have."""

LATELY_SECONDS: Final = 60.0
"""How long the way of the last stream with a peer is believed to be the best."""

Admits = Callable[[Peer], bool]


class Owner(DialOwner, Protocol):
    """This device."""

    running: int

    def path_to(self, device_id: DeviceID) -> Path | None:
        """Return what carries the session with a peer just now, or None."""


@implementer(IListeningPort)
@dataclass(eq=False, slots=True)
class Service:
    """Something that is offered to peers, until it stops listening.

    Attributes:
        address: this device, and the service's name.
        factory: builds the protocol of each stream.
    """

    streams: Streams
    address: StreamAddress
    factory: IProtocolFactory
    admits: Admits

    def startListening(self) -> None:
        """Do nothing: it listens since it was made."""

    def stopListening(self) -> Deferred[None]:
        """Offer it no more; the streams that are open go on."""
        self.streams.withdraw(self)
        return succeed(None)

    def getHost(self) -> StreamAddress:
        """Return this device, and the service's name."""
        return self.address


class Streams:
    """The streams of one device.

    Args:
        owner: the device.
    """

    log = Logger(namespace="abst.device")

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._services: dict[str, Service] = {}
        self._open: set[Stream] = set()
        self._openings: set[AcceptedOpening | DialledOpening] = set()
        self._dials: set[StreamDial] = set()
        self._offered: set[OfferedCircuit] = set()
        self._of_peer: dict[bytes, int] = {}
        self._lately: dict[bytes, tuple[float, Path]] = {}

    # For applications.

    def connect(
        self, device_id: DeviceID, service: str, factory: IProtocolFactory
    ) -> Deferred[IProtocol]:
        """Open a stream to a peer's service.

        Args:
            device_id: the peer.
            service: the name of the service there.
            factory: builds the protocol, once the stream is open.

        Returns:
            A Deferred of the protocol. It can be cancelled, and fails with ``StreamError`` when the
            peer refuses, ``PeerUnreachableError``, ``NotTrustedError`` or ``IdentityError``.
        """
        peer = self._owner.peer_of(device_id)
        if not is_service(service):
            return fail(_bad_name(service))
        if not self._owner.running:
            return fail(PeerUnreachableError("this device is not running"))
        if peer is None or not peer.is_trusted:
            return fail(
                NotTrustedError(f"{device_id} is not trusted here: pair with it", theirs=False)
            )
        return _Connecting(self, peer, service, factory).connected

    def listen(
        self, service: str, factory: IProtocolFactory, admits: Admits | None = None
    ) -> Deferred[IListeningPort]:
        """Offer a service to peers.

        Args:
            service: its name: letters, digits, ``-``, ``.`` and ``_``, at most 64.
            factory: builds the protocol of each stream; its ``buildProtocol`` gets the address of
                the peer, and may return None to close the stream.
            admits: decides which peers may use it; None admits all peers.

        Returns:
            A Deferred of the port, whose ``stopListening`` ends it. It fails with ``StreamError``
            when the name cannot be used or is in use.
        """
        if not is_service(service):
            return fail(_bad_name(service))
        if service in self._services:
            return fail(StreamError(f"something offers a service {service!r} here already"))
        address = StreamAddress(self._owner.device_id, service)
        offered = Service(self, address, factory, admits or (lambda peer: True))
        self._services[service] = offered
        factory.doStart()
        return succeed(offered)

    def open_streams(self) -> list[Stream]:
        """Return the streams that are open."""
        return list(self._open)

    def services(self) -> list[str]:
        """Return the names of what is offered."""
        return sorted(self._services)

    def withdraw(self, service: Service) -> None:
        """Offer a service no more."""
        if self._services.get(service.address.service) is service:
            del self._services[service.address.service]
            service.factory.doStop()

    # For the device.

    def stop(self) -> None:
        """End every stream, and open none any more."""
        for dial in list(self._dials):
            dial.found.cancel()
        for beginning in (*self._openings, *self._offered):
            beginning.give_up(PeerUnreachableError("this device stops"))
        for stream in list(self._open):
            stream.stop()

    def link_up(self, link: Link) -> None:
        """Let who has waited for a realm go on."""
        for dial in list(self._dials):
            dial.link_up(link)

    def network_changed(self) -> None:
        """Break what this machine's network has cut off; nothing else would tell for long."""
        self._lately.clear()
        for stream in list(self._open):
            stream.network_changed()

    def forget(self, device_id: DeviceID) -> None:
        """End every stream with a device that is not trusted any more."""
        self._lately.pop(device_id, None)
        for beginning in (*self._openings, *self._offered):
            if beginning.device_id == device_id:
                beginning.give_up(NotTrustedError("this device has forgotten it", theirs=False))
        for stream in list(self._open):
            if stream.device_id == device_id:
                stream.abortConnection()

    def arrived(self, device_id: DeviceID, pipe: Pipe, engine: TlsEngine, plaintext: bytes) -> None:
        """Take a direct connection that is for a stream; its handshake is done."""
        if not self._may_open(device_id):
            pipe.abort()
            return
        carried = Carried(pipe, engine, Path("direct", address=pipe.address))
        opening = AcceptedOpening(
            self._owner, carried, device_id, OPENING_SECONDS, self._decide, self._opening_over
        )
        self._openings.add(opening)
        self._count(device_id, 1)
        opening.take(plaintext)

    def circuit_offered(self, link: Link, circuit: Circuit) -> None:
        """Open this device's leg of a circuit for which a peer has asked, or refuse it."""
        device_id = DeviceID(circuit.device)
        peer = self._owner.peer_of(device_id)
        if peer is None or not self._may_open(device_id) or self._is_share_used(link, circuit):
            link.tell(give_back(circuit))
            return
        offered = OfferedCircuit(
            self._owner, link, circuit, peer, self._decide, self._offered.discard
        )
        self._offered.add(offered)
        offered.start()

    def _is_share_used(self, link: Link, circuit: Circuit) -> bool:
        """Tell whether a peer has so many circuits that others would soon find none."""
        most = int(circuit.limits.get("device_circuits", DEVICE_CIRCUITS) * PEER_SHARE)
        held: list[OfferedCircuit | Stream] = [*self._offered, *self._open]
        used = sum(each.link is link and each.device_id == circuit.device for each in held)
        return used >= max(1, most)

    def circuit_ended(self, link: Link, error: Error) -> None:
        """Break the stream whose circuit the realm has ended."""
        for stream in list(self._open):
            if stream.link is link and stream.circuit == error.circuit:
                stream.realm_ended(explain(error.code, error.reason))

    def lately(self, device_id: DeviceID) -> Path | None:
        """Return what a stream to a peer is most likely to be carried by, if that is known."""
        opened_at, path = self._lately.get(device_id, (-LATELY_SECONDS, None))
        if self._owner.reactor.seconds() - opened_at < LATELY_SECONDS:
            return path
        return self._owner.path_to(device_id)

    # Inside.

    def _may_open(self, device_id: DeviceID) -> bool:
        peer = self._owner.peer_of(device_id)
        return (
            bool(self._owner.running)
            and peer is not None
            and self._of_peer.get(device_id, 0) < MAX_STREAMS_OF_PEER
        )

    def _count(self, device_id: DeviceID, change: int) -> None:
        found = self._of_peer.get(device_id, 0) + change
        if found:
            self._of_peer[device_id] = found
        else:
            self._of_peer.pop(device_id, None)

    def _opening_over(self, opening: AcceptedOpening, problem: AbstError | None) -> None:
        self._openings.discard(opening)
        self._count(opening.device_id, -1)

    def _decide(self, name: str, peer: Peer) -> Code | Opened:
        """Say what becomes of a peer who asks for a service."""
        service = self._services.get(name)
        if service is None:
            return Code.NO_SERVICE
        address = StreamAddress(peer.device_id, name)
        try:
            admitted = service.admits(peer)
            protocol = service.factory.buildProtocol(address) if admitted else None
        except Exception:
            self.log.failure("an application's factory failed")
            protocol = None
        if protocol is None:
            return Code.NOT_ADMITTED

        def closed(stream: Stream) -> None:
            self._open.discard(stream)
            self._count(peer.device_id, -1)

        def opened(carried: Carried, plaintext: bytes) -> None:
            self._count(peer.device_id, 1)
            failure = self.begin(carried, protocol, address, closed).start(plaintext)
            if failure is not None:
                self.log.failure("an application's protocol failed", failure)

        return opened

    def begin(
        self,
        carried: Carried,
        protocol: IProtocol,
        peer: StreamAddress,
        closed: Callable[[Stream], None],
    ) -> Stream:
        """Return a new stream, which is counted until it is closed."""
        stream = Stream(
            carried,
            protocol,
            StreamAddress(self._owner.device_id, peer.service),
            peer,
            self._owner.reactor.callLater,
            closed,
        )
        self._open.add(stream)
        return stream


class _Connecting:
    """A stream that an application has asked for, until it is open."""

    def __init__(
        self, streams: Streams, peer: Peer, service: str, factory: IProtocolFactory
    ) -> None:
        self.connected: Deferred[IProtocol] = Deferred(lambda _: self._cancel())
        self._streams = streams
        self._service = service
        self._factory = factory
        self._opening: DialledOpening | None = None
        self._address = StreamAddress(peer.device_id, service)
        self._dial = StreamDial(streams._owner, peer, streams.lately(peer.device_id))
        streams._dials.add(self._dial)
        self._dial.found.addCallbacks(self._found, self._not_found)
        self._dial.start()

    def _found(self, opening: DialledOpening) -> None:
        self._streams._dials.discard(self._dial)
        self._streams._openings.add(opening)
        self._opening = opening
        opening.open(self._service, self._opened, self._refused)

    def _not_found(self, failure: Failure) -> None:
        self._streams._dials.discard(self._dial)
        self._fail(failure)

    def _refused(self, opening: DialledOpening, problem: AbstError) -> None:
        self._streams._openings.discard(opening)
        self._fail(Failure(problem))

    def _opened(self, carried: Carried, plaintext: bytes) -> None:
        assert self._opening is not None
        self._streams._openings.discard(self._opening)
        try:
            protocol = self._factory.buildProtocol(self._address)
        except Exception:
            carried.pipe.abort()
            self._fail(Failure())
            return
        if protocol is None:
            carried.pipe.abort()
            self._fail(Failure(StreamError("this application's factory refuses the stream")))
            return
        streams = self._streams
        streams._lately[self._address.device_id] = (
            float(streams._owner.reactor.seconds()),
            carried.path,
        )
        stream = streams.begin(carried, protocol, self._address, streams._open.discard)
        failure = stream.start(plaintext)
        if failure is None:
            self.connected.callback(protocol)
        else:
            self._fail(failure)

    def _cancel(self) -> None:
        if self._opening is None:
            self._dial.found.cancel()
        else:
            self._opening.give_up(PeerUnreachableError("not wanted any more"))

    def _fail(self, failure: Failure) -> None:
        if not self.connected.called:
            self.connected.errback(failure)


def _bad_name(service: object) -> StreamError:
    return StreamError(
        f"{service!r} is no name of a service: it has letters, digits, '-', '.' and '_', at most 64"
    )
