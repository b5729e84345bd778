"""A realm in memory, and the connections of devices to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from abst import packets
from abst.address import RealmAddress
from abst.device.backoff import Backoff
from abst.device.connect_problem import lasting_refusal, refusal_of
from abst.device.link import NOT_YET, LinkOwner
from abst.device.paths import Path
from abst.device.pipes import Pipe
from abst.device.realm_client import (
    Answered,
    CircuitEnded,
    CircuitOffered,
    Delivered,
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
from abst.packets import Error
from abst.realm.circuits import Circuit, Leg, Seat
from abst.realm.conversation import Conversation, State
from abst.realm.limits import Limits
from abst.realm.realm import Realm
from abst.realm.values.values import Values
from abst.testing.pipes import MemoryPipe, memory_pipes


class MemoryRealm:
    """A realm without sockets.

    Attributes:
        address: what devices name it by.
        realm: the real core, with its counters.
        relayed: every byte that the realm has been given, for looking whether it could read any.
    """

    def __init__(self, clock: Clock, host: str, seed: int, limits: Limits | None = None) -> None:
        self.address = RealmAddress(host)
        self.relayed = bytearray()
        self._clock = clock
        self._random = random.Random(seed)
        # Groups and their values outlive ``stop``, as they do on a realm's disk.
        self.realm = Realm(
            limits or Limits(), self._random.randbytes, self._random.random, clock.seconds
        )
        self.realm.values = Values(
            self.realm.store, self.realm.limits, self.realm.counters, clock.seconds
        )
        self._timer: Any = None
        self._is_on = True
        self._links: list[MemoryLink] = []

    def stop(self) -> None:
        """Vanish without a word, as a killed process does."""
        self._is_on = False
        self.realm.circuits.stop()
        for link in list(self._links):
            link.cut()

    def start(self) -> None:
        """Be there again."""
        self._is_on = True

    def now(self) -> float:
        """Return the time."""
        return float(self._clock.seconds())

    def open(self, link: MemoryLink) -> Conversation | None:
        """Return a conversation for a device's new connection, or None while the realm is off."""
        if not self._is_on:
            return None
        conversation = self.realm.open(("192.0.2.1", 40000), self._clock.seconds())
        conversation.identify(link.identity.device_id)
        conversation.carrier = link
        self._links.append(link)
        return conversation

    def receive(self, conversation: Conversation, data: bytes) -> None:
        """Take a device's bytes."""
        self.relayed += data
        conversation.receive_data(data, self._clock.seconds())
        self.settle()

    def lost(self, link: MemoryLink, conversation: Conversation) -> None:
        """Hear that a device's connection is gone."""
        if link in self._links:
            self._links.remove(link)
        conversation.carrier = None
        conversation.connection_lost()
        self.settle()

    def open_leg(self, token: bytes, device_id: bytes) -> MemoryPipe:
        """Return a device's end of a leg.

        Raises:
            AbstError: the realm is off, or the token is not good.
        """
        if not self._is_on:
            raise PeerUnreachableError("the realm is off")
        seat = self.realm.circuits.claim(token, device_id, self._clock.seconds())
        if seat is None:
            raise RealmRefusedError(str(Code.WRONG_TOKEN))
        near, far = memory_pipes(self._carry, self.address.host, "192.0.2.1:40000")
        seat.take(MemoryLeg(self, far, seat), self.now())
        return near

    def _carry(self, call: Callable[..., Any], *args: Any) -> None:
        self._clock.callLater(0, call, *args)

    def settle(self) -> None:
        """Hand out what the realm wants to send."""
        while self.realm.touched:
            conversation = self.realm.touched.pop()
            link = conversation.carrier
            if not isinstance(link, MemoryLink):
                continue
            while data := conversation.data_to_send():
                link.arrive(data)
            if conversation.state is State.CLOSED:
                link.closed_by_realm()
        if not self.realm.conversations and not self.realm.circuits:
            self._disarm()
            return
        due = self.realm.next_deadline()
        if due is not None:
            self._arm(due)

    def _arm(self, due: float) -> None:
        timer = self._timer
        if timer is not None and timer.active():
            if timer.getTime() <= due:
                return
            timer.cancel()
        self._timer = self._clock.callLater(max(0.0, due - self._clock.seconds()), self._ring)

    def _disarm(self) -> None:
        """Leave nothing on the clock when nobody is here, as the real one does."""
        self.realm.deadlines.clear()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _ring(self) -> None:
        self.realm.handle_deadline(self._clock.seconds())
        self.settle()


class MemoryLeg:
    """The realm's end of a leg in memory."""

    def __init__(self, realm: MemoryRealm, pipe: MemoryPipe, seat: Seat) -> None:
        self.pipe = pipe
        self._realm = realm
        self._seat: Seat | None = seat
        self._circuit: Circuit | None = None
        self._other: MemoryLeg | None = None
        pipe.owner = self
        pipe.pause()

    # As the circuit sees it.

    def refuse(self, code: Code) -> None:
        """Say why nothing comes of it, and close."""
        self._seat = None
        self.pipe.break_off(RealmRefusedError(str(code)))

    def reset(self) -> None:
        """Cut it off."""
        self._seat = None
        self.pipe.abort()

    def meet(self, other: Leg, circuit: Circuit) -> None:
        """Be joined with the other leg."""
        assert isinstance(other, MemoryLeg)
        self._begin(other, circuit)
        other._begin(self, circuit)
        for leg in (self, other):
            leg.pipe.resume()

    def _begin(self, other: MemoryLeg, circuit: Circuit) -> None:
        self._seat = None
        self._other, self._circuit = other, circuit
        other.pipe.register_producer(self)

    # As the pipe's owner.

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        """Pass bytes on."""
        self._realm.relayed += data
        if self._other is not None and self._circuit is not None:
            self._other.pipe.write(data)
            self._circuit.count(len(data), self._realm.now())
            self._realm.settle()

    def pipe_lost(self, pipe: Pipe, problem: AbstError) -> None:
        """Close the other leg too."""
        if self._seat is not None:
            self._seat.leave()
        if self._other is not None and self._circuit is not None:
            self._other.pipe.close()
            self._circuit.ended()
        self._realm.settle()

    # As what writes into the other leg's pipe.

    def pauseProducing(self) -> None:
        """Read nothing, since the other end does not."""
        self.pipe.pause()

    def resumeProducing(self) -> None:
        """Read again."""
        self.pipe.resume()

    def stopProducing(self) -> None:
        """Hear that the other leg is gone, which says so itself."""


class MemoryLink:
    """A device's connection to a ``MemoryRealm``; what ``RealmLink`` is to a real one."""

    def __init__(
        self,
        clock: Clock,
        identity: Identity,
        realm: MemoryRealm,
        owner: LinkOwner,
        random_fraction: Callable[[], float],
        invitation: str | None = None,
    ) -> None:
        self.path = Path("realm", realm.address)
        self.is_up = False
        self.max_content_bytes = 0
        self.problem: str | None = NOT_YET
        self.refusal: AbstError | None = None
        self.invitation = invitation
        self.observed_address: tuple[str, int] | None = None
        self.nonce = b""
        self.identity = identity
        self._clock = clock
        self._realm = realm
        self._owner = owner
        self._backoff = Backoff(random_fraction)
        self._client: RealmClient | None = None
        self._conversation: Conversation | None = None
        self._stopped = True
        self._last_words: AbstError | None = None
        self._shown: str | None = None
        self._calls: list[Any] = []
        self._requests = Requests()

    def start(self) -> None:
        """Begin to connect."""
        self._stopped = False
        self._later(0, self._connect)

    def stop(self) -> Deferred[Any]:
        """Close, and connect no more."""
        self._flush()
        self._stopped = True
        self._hang_up(AbstError("stopped"))
        self._forget_calls()
        return succeed(None)

    def send(self, target_device: bytes, content: bytes) -> None:
        """Send bytes to another device."""
        if self._client is not None and self.is_up:
            self._client.send(target_device, content)
            self._later(0, self._flush)

    def flush(self) -> None:
        """Do nothing: what was queued goes on the next turn."""

    def ask(self, packet: packets.Packet) -> Deferred[Any]:
        """Return a Deferred of the realm's answer to a packet."""
        if self._client is None or not self.is_up:
            return fail(PeerUnreachableError(self.problem or "the realm is not connected"))
        try:
            request = self._client.ask(packet)
        except LocalProtocolError as problem:
            return fail(problem)
        self._later(0, self._flush)
        return self._requests.add(request)

    def tell(self, packet: packets.Packet) -> None:
        """Tell the realm something."""
        if self._client is not None and self.is_up:
            self._client.tell(packet)
            self._later(0, self._flush)

    def open_leg(self, circuit: packets.Circuit, *, inside_tls: bool = False) -> Deferred[Pipe]:
        """Open this device's leg of a circuit."""
        try:
            return succeed(self._realm.open_leg(circuit.token, self.identity.device_id))
        except AbstError as problem:
            return fail(problem)

    def network_changed(self) -> None:
        """Do nothing: in memory a connection is there or not."""

    def invite(self, invitation: str) -> None:
        """Show the realm this invitation: now if it is down, else when it is made anew."""
        self.invitation = invitation
        if not self.is_up and not self._stopped:
            self._later(0, self._connect)

    def cut(self) -> None:
        """Lose the connection without a word to either side."""
        self._hang_up(AbstError("the connection was cut"))

    def vanish(self) -> None:
        """Lose the connection without a word, and connect no more."""
        self._stopped = True
        self.cut()
        self._forget_calls()

    def arrive(self, data: bytes) -> None:
        """Take the realm's bytes, on the next turn."""
        client = self._client
        self._later(0, lambda: self._receive(client, data))

    def closed_by_realm(self) -> None:
        """Hear that the realm has closed the connection, after what it has sent."""
        client = self._client
        self._later(0, lambda: self._end(client))

    def _forget_calls(self) -> None:
        for call in self._calls:
            if call.active():
                call.cancel()
        self._calls.clear()

    def _end(self, client: RealmClient | None) -> None:
        if client is self._client:
            self._hang_up(self._last_words or AbstError("closed by the realm"))

    def _later(self, seconds: float, call: Callable[[], Any]) -> None:
        self._calls = [waiting for waiting in self._calls if waiting.active()]
        self._calls.append(self._clock.callLater(seconds, call))

    def _connect(self) -> None:
        if self._stopped or self._client is not None:
            return
        self._conversation = self._realm.open(self)
        if self._conversation is None:
            self._note(AbstError("the realm is off"))
            self._again()
            return
        self._shown = self.invitation
        self._client = RealmClient(self.identity.device_id, self._clock.seconds(), self._shown)
        self._last_words = None
        self._flush()
        self._watch(self._client)

    def _again(self) -> None:
        self._later(self._backoff.next_wait_seconds(), self._connect)

    def _watch(self, client: RealmClient) -> None:
        """Call the client whenever it wants to be called."""
        if client is not self._client:
            return
        try:
            client.handle_deadline(self._clock.seconds())
        except RemoteProtocolError as problem:
            self._hang_up(problem)
            return
        self._flush()
        wait = max(0.01, client.next_deadline() - self._clock.seconds())
        self._later(wait, lambda: self._watch(client))

    def _receive(self, client: RealmClient | None, data: bytes) -> None:
        if client is None or client is not self._client:
            return
        try:
            client.receive_data(data, self._clock.seconds())
        except RemoteProtocolError as problem:
            self._hang_up(problem)
            return
        while (event := client.next_event()) is not None:
            match event:
                case Welcomed():
                    self.max_content_bytes = event.max_content_bytes
                    self.observed_address = event.observed_address
                    self.nonce = event.nonce
                    self.is_up = True
                    self.problem = self.refusal = None
                    if self.invitation == self._shown:
                        self.invitation = None
                    self._backoff.connected(self._clock.seconds())
                    self._owner.link_up(self)
                case Delivered():
                    self._owner.content_received(self, event.source_device, event.content)
                case Answered():
                    self._requests.answered(event)
                case CircuitOffered():
                    self._owner.circuit_offered(self, event.circuit)
                case CircuitEnded():
                    self._owner.circuit_ended(self, event.error)
                case GroupTold():
                    self._owner.group_told(self, event.peer_group, event.packet)
                case Refused():
                    self._refused(event.error, event.closes)
        self._owner.contents_over(self)
        self._flush()

    def _refused(self, error: Error, closes: bool) -> None:
        self._backoff.refused(error)
        if error.target_device is not None or not closes:
            self._owner.content_refused(self, error)
        else:
            self._last_words = refusal_of(error)

    def _flush(self) -> None:
        if self._client is None or self._conversation is None:
            return
        data = self._client.data_to_send()
        if data:
            self._realm.receive(self._conversation, data)

    def _note(self, problem: AbstError) -> None:
        self.problem = str(problem)
        self.refusal = lasting_refusal(problem)
        if not self._stopped:
            self._owner.link_failed(self, problem)

    def _hang_up(self, problem: AbstError) -> None:
        conversation, self._conversation = self._conversation, None
        self._client = None
        was_up, self.is_up = self.is_up, False
        self._backoff.disconnected(self._clock.seconds())
        self._requests.lost()
        if conversation is not None:
            self._realm.lost(self, conversation)
        if was_up:
            self._owner.link_down(self)
        self._note(problem)
        if not self._stopped:
            self._again()
