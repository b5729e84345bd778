"""A device's standing connection to one realm: connects, comes back, and says how it stands.

The adapter around ``RealmClient``. Twisted's ``ClientService`` connects again; the wait between
tries is decided here: 1 s times 1.5, full jitter, at most 60 s, what the realm asks for if that is
more, and from the beginning again after a minute of stability.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.device.backoff import Backoff
from abst.device.connect_problem import connect_problem, lasting_refusal, refusal_of
from abst.device.leg_pipe import LegDialler
from abst.device.paths import Path
from abst.device.pipes import Pipe
from abst.device.realm_client import (
    Answered,
    CircuitEnded,
    CircuitOffered,
    Delivered,
    Event,
    GroupTold,
    RealmClient,
    Refused,
    Welcomed,
)
from abst.device.requests import Requests
from abst.errors import (
    AbstError,
    Code,
    LocalProtocolError,
    PeerUnreachableError,
    RealmRefusedError,
    RemoteProtocolError,
)
from abst.identity import Identity
from abst.packets import Circuit, Error, Packet
from abst.tls import realm_client_creator

CONNECT_SECONDS: Final = 10.0
HURRY_SECONDS: Final = 5.0
"""A connection lost so soon after a change of this device's network is made anew at once."""

NOT_YET: Final = "not connected yet"
"""The problem of a link that has not come to the end of its first try."""


class LinkOwner(Protocol):
    """Whoever uses a link."""

    def link_up(self, link: Link) -> None:
        """The realm has accepted this device."""

    def link_down(self, link: Link) -> None:
        """The connection is gone; the link tries again by itself."""

    def link_failed(self, link: Link, problem: AbstError) -> None:
        """The connection is gone, or was not made or not accepted: why."""

    def content_received(self, link: Link, source_device: bytes, content: bytes) -> None:
        """Another device's bytes came."""

    def content_refused(self, link: Link, error: Error) -> None:
        """The realm dropped bytes that this device sent."""

    def contents_over(self, link: Link) -> None:
        """Everything that came at once has been handed out: answer it."""

    def circuit_offered(self, link: Link, circuit: Circuit) -> None:
        """Another device has asked for a circuit: open its leg, or refuse it."""

    def circuit_ended(self, link: Link, error: Error) -> None:
        """The realm has ended a circuit, and says why."""

    def group_told(self, link: Link, peer_group: bytes, packet: Packet) -> None:
        """The realm, or a member through it, says something about a group."""


class Link(Protocol):
    """What a device needs of a connection to a realm, real or in memory.

    Attributes:
        path: how sessions over it are shown.
        is_up: whether the realm has accepted this device.
        max_content_bytes: the most that ``send`` takes.
        problem: one line on why it is down, or None.
        refusal: why it is going to stay down until somebody does something, or None.
        invitation: what the realm is shown until it has accepted this device, or None: a secret.
        observed_address: where the realm sees this device, host and port, or None.
        nonce: what proofs on the present connection are made with.
    """

    path: Path
    is_up: bool
    max_content_bytes: int
    problem: str | None
    refusal: AbstError | None
    invitation: str | None
    observed_address: tuple[str, int] | None
    nonce: bytes

    def start(self) -> None:
        """Begin to connect."""

    def stop(self) -> Deferred[Any]:
        """Close, and connect no more."""

    def send(self, target_device: bytes, content: bytes) -> None:
        """Queue bytes for another device; what cannot be sent is lost, and the owner is told."""

    def flush(self) -> None:
        """Write what was queued: whoever has called ``send`` calls this too."""

    def network_changed(self) -> None:
        """See at once whether the connection still works, or try to connect now."""

    def invite(self, invitation: str) -> None:
        """Show the realm this invitation: now if it is down, else when it is made anew."""

    def ask(self, packet: Packet) -> Deferred[Any]:
        """Ask the realm something: the packet is given a number, and the answer has it.

        Returns:
            A Deferred of the packet that answers; it fails with ``RealmRefusedError``, with
            ``PeerUnreachableError`` when there is no connection or it ends before the answer, or
            with ``LocalProtocolError`` when the packet is none that a realm takes.
        """

    def tell(self, packet: Packet) -> None:
        """Tell the realm something; nothing happens while the link is down.

        Raises:
            LocalProtocolError: the packet is none that a realm takes.
        """

    def open_leg(self, circuit: Circuit, *, inside_tls: bool = False) -> Deferred[Pipe]:
        """Open this device's leg of a circuit; fails with an ``AbstError``, and can be cancelled.

        Args:
            circuit: what the realm has said.
            inside_tls: whether a plain leg has just come to nothing.
        """


class RealmLink:
    """A ``Link`` over TCP and TLS.

    Args:
        reactor: the reactor.
        identity: this device's.
        address: the realm's.
        owner: who is told what happens.
        random_fraction: returns a number in [0, 1), for the jitter.
    """

    log = Logger(namespace="abst.device")

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        address: RealmAddress,
        owner: LinkOwner,
        random_fraction: Callable[[], float],
    ) -> None:
        self.address = address.without_invitation
        self.path = Path("realm", self.address)
        self.is_up = False
        self.max_content_bytes = 0
        self.problem: str | None = NOT_YET
        self.refusal: AbstError | None = None
        self.invitation = address.invitation
        self.observed_address: tuple[str, int] | None = None
        self.nonce = b""
        self.identity = identity
        self.reactor = reactor
        self.owner = owner
        self._backoff = Backoff(random_fraction)
        self._creator = realm_client_creator(identity, self.address)
        endpoint = wrapClientTLS(
            self._creator,
            HostnameEndpoint(reactor, address.host, address.port, timeout=CONNECT_SECONDS),
        )
        self._service = ClientService(
            endpoint, _LinkFactory(self), retryPolicy=self._wait, clock=reactor
        )
        self._protocol: _LinkProtocol | None = None
        self._stopped = True
        self._hurries_until = 0.0
        self._problem = AbstError(NOT_YET)
        self._accepted: str | None = None
        self._legs = LegDialler(reactor, identity, self.address)

    def start(self) -> None:
        """Begin to connect."""
        self._stopped = False
        self._service.startService()
        self._watch_failure()

    def stop(self) -> Deferred[Any]:
        """Close, and connect no more."""
        self._stopped = True
        if self._protocol is not None:
            self._protocol.flush()
        stopped: Deferred[Any] = Deferred()
        if not self._service.running:
            stopped.callback(None)
            return stopped
        # Told on a turn of its own: the service cannot be started or stopped from its own callback.
        maybeDeferred(self._service.stopService).addBoth(
            lambda _: self.reactor.callLater(0, stopped.callback, None)
        )
        return stopped

    def send(self, target_device: bytes, content: bytes) -> None:
        """Queue bytes for another device; nothing happens while the link is down."""
        if self._protocol is not None and self.is_up:
            self._protocol.send(target_device, content)

    def flush(self) -> None:
        """Write what was queued."""
        if self._protocol is not None:
            self._protocol.write()

    def ask(self, packet: Packet) -> Deferred[Any]:
        """Return a Deferred of the realm's answer to a packet."""
        if self._protocol is None or not self.is_up:
            return fail(PeerUnreachableError(self.problem or "the realm is not connected"))
        return self._protocol.ask(packet)

    def tell(self, packet: Packet) -> None:
        """Tell the realm something; nothing happens while the link is down."""
        if self._protocol is not None and self.is_up:
            self._protocol.tell(packet)

    def open_leg(self, circuit: Circuit, *, inside_tls: bool = False) -> Deferred[Pipe]:
        """Open this device's leg of a circuit; fails with an ``AbstError``."""
        return self._legs.open(circuit, inside_tls=inside_tls)

    def network_changed(self) -> None:
        """See at once whether the connection still works, or try to connect now."""
        self._backoff.network_changed()
        if self._protocol is not None:
            self._hurries_until = self.reactor.seconds() + HURRY_SECONDS
            self._protocol.probe()
        else:
            self._try_now()

    def invite(self, invitation: str) -> None:
        """Show the realm this invitation: now if it is down, else when it is made anew."""
        self.invitation = invitation
        if not self.is_up:
            self._note(AbstError(NOT_YET))
            self._try_now()

    def _try_now(self) -> None:
        if self._service.running:
            # The service has no way to be told to hurry: it waits, or tries where nothing is.
            maybeDeferred(self._service.stopService).addBoth(
                lambda _: self.reactor.callLater(0, self._start_again)
            )

    def _start_again(self) -> None:
        if not self._stopped and not self._service.running:
            self.start()

    # What the protocol tells.

    def connected(self, protocol: _LinkProtocol, shown: str | None) -> None:
        """The TLS connection stands, and the realm has answered; it was shown an invitation."""
        self._protocol = protocol
        self.is_up = True
        self.problem = self.refusal = None
        if self.invitation == shown:
            # The realm knows this device now, and the secret is worth nothing any more.
            self.invitation = None
        self._accepted = shown or self._accepted
        self._backoff.connected(self.reactor.seconds())
        self.log.info("realm {realm}: connected", realm=_short(self.address))
        self.owner.link_up(self)

    def disconnected(self, problem: AbstError) -> None:
        """The connection is gone, or was never accepted."""
        was_up, self.is_up = self.is_up, False
        self._protocol = None
        self._backoff.disconnected(self.reactor.seconds())
        is_wanted = self._service.running
        if is_wanted:
            # What the handshake has found says more than what that led to.
            self._note(getattr(self._creator, "problem", None) or problem)
        if was_up:
            self.owner.link_down(self)
        if is_wanted:
            self._failed()

    def refused(self, error: Error, closes: bool) -> None:
        """The realm sent an Error."""
        if error.target_device is not None or not closes:
            self.owner.content_refused(self, error)
        if closes:
            self._note(refusal_of(error))
        self._backoff.refused(error)

    # Inside.

    def _note(self, problem: AbstError) -> None:
        if isinstance(problem, RealmRefusedError) and problem.code == Code.NOT_INVITED:
            # The realm could not keep that it has accepted this device, or an old state was
            # restored there: the invitation may be good still.
            self.invitation = self.invitation or self._accepted
        self._problem = problem
        self.problem = str(problem)
        self.refusal = lasting_refusal(problem)

    def _failed(self) -> None:
        self.log.info(
            "realm {realm}: not connected: {problem}",
            realm=_short(self.address),
            problem=self.problem,
        )
        self.owner.link_failed(self, self._problem)

    def _wait(self, attempt: int) -> float:
        self.reactor.callLater(0, self._watch_failure)
        if self.reactor.seconds() < self._hurries_until:
            # The realm is well: it was this device's network that broke the connection.
            self._hurries_until = 0.0
            return 0.0
        return self._backoff.next_wait_seconds()

    def _watch_failure(self) -> None:
        """Learn why the next try to connect fails, if it does."""
        if self._service.running:
            self._service.whenConnected(failAfterFailures=1).addErrback(self._not_connected)

    def _not_connected(self, failure: Failure) -> None:
        if self._service.running:
            self._note(AbstError(connect_problem(failure, self.address)))
            self._failed()


class _LinkFactory(Factory):
    noisy = False

    def __init__(self, link: RealmLink) -> None:
        self._link = link

    def buildProtocol(self, addr: Any) -> TwistedProtocol:
        return _LinkProtocol(self._link)


class _LinkProtocol(TwistedProtocol):
    """One TLS connection to a realm."""

    transport: Any

    def __init__(self, link: RealmLink) -> None:
        self._link = link
        self._reactor = link.reactor
        self._client: RealmClient | None = None
        self._timer: Any = None
        self._last_words: AbstError | None = None
        self._shown: str | None = None
        self._requests = Requests()
        self._is_handing_out = False

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._shown = self._link.invitation
        self._client = RealmClient(
            self._link.identity.device_id, self._reactor.seconds(), self._shown
        )
        self._settle()

    def dataReceived(self, data: bytes) -> None:
        if self._client is None:
            return
        try:
            self._client.receive_data(data, self._reactor.seconds())
        except RemoteProtocolError as problem:
            self._give_up(problem)
        self._settle()

    def send(self, target_device: bytes, content: bytes) -> None:
        if self._client is None:
            return
        self._client.send(target_device, content)

    def ask(self, packet: Packet) -> Deferred[Any]:
        if self._client is None:
            # Whoever has just heard that a request has failed asks again at once.
            return fail(PeerUnreachableError("the connection to the realm is gone"))
        try:
            answer = self._requests.add(self._client.ask(packet))
        except LocalProtocolError as problem:
            return fail(problem)
        self._settle()
        return answer

    def tell(self, packet: Packet) -> None:
        if self._client is not None:
            self._client.tell(packet)
            self._settle()

    def flush(self) -> None:
        self._settle()

    def write(self) -> None:
        """Write what is to be written, without a turn of the reactor in between."""
        # While events are handed out, all of it is written behind the last one.
        if self._client is not None and not self._is_handing_out:
            data = self._client.data_to_send()
            if data:
                self.transport.write(data)

    def probe(self) -> None:
        if self._client is not None:
            self._client.probe(self._reactor.seconds())
            self._settle()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._client = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._requests.lost()
        gone = AbstError(connect_problem(reason, self._link.address))
        self._link.disconnected(self._last_words or gone)

    def _settle(self) -> None:
        """Dispatch what happened, write what is to be written, and re-arm the timer."""
        if self._is_handing_out:
            # Called by what an event has led to: the call that handed it out goes on to the end.
            return
        self._is_handing_out = True
        try:
            while self._client is not None and (event := self._client.next_event()) is not None:
                self._hand_out(event)
        finally:
            self._is_handing_out = False
        self._link.owner.contents_over(self._link)
        if self._client is None:
            return
        data = self._client.data_to_send()
        if data:
            self.transport.write(data)
        self._arm(self._client.next_deadline())

    def _hand_out(self, event: Event) -> None:
        match event:
            case Welcomed():
                self._link.max_content_bytes = event.max_content_bytes
                self._link.observed_address = event.observed_address
                self._link.nonce = event.nonce
                self._link.connected(self, self._shown)
            case Delivered():
                self._link.owner.content_received(self._link, event.source_device, event.content)
            case Answered():
                self._requests.answered(event)
            case CircuitOffered():
                self._link.owner.circuit_offered(self._link, event.circuit)
            case CircuitEnded():
                self._link.owner.circuit_ended(self._link, event.error)
            case GroupTold():
                self._link.owner.group_told(self._link, event.peer_group, event.packet)
            case Refused():
                if event.closes:
                    self._last_words = refusal_of(event.error)
                self._link.refused(event.error, event.closes)

    def _arm(self, due: float) -> None:
        now = self._reactor.seconds()
        if self._timer is not None and self._timer.active():
            if self._timer.getTime() <= due:
                return
            self._timer.cancel()
        self._timer = self._reactor.callLater(max(0.0, due - now), self._ring)

    def _ring(self) -> None:
        if self._client is None:
            return
        try:
            self._client.handle_deadline(self._reactor.seconds())
        except RemoteProtocolError as problem:
            self._give_up(problem)
        self._settle()

    def _give_up(self, problem: AbstError) -> None:
        self._last_words = self._last_words or problem
        self._client = None
        self.transport.abortConnection()


def _short(address: RealmAddress) -> str:
    return f"{address.host}:{address.port}"
