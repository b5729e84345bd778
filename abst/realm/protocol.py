"""The realm on Twisted: ``RealmFactory`` and ``RealmProtocol`` around the pure conversation.

The adapter feeds bytes, flushes every conversation that has something to write, and keeps one
timer. It decides nothing: what is legal stands in ``conversation``.
"""

from __future__ import annotations

import math
import os
import random
import socket
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, Final, cast

from twisted.internet.interfaces import IHandshakeListener, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.device_id import DeviceID
from abst.errors import Code, IdentityError
from abst.handshakes import Handshakes
from abst.identity import Identity
from abst.open_files import files_are_scarce
from abst.poller import descriptor_set
from abst.realm.access import Mode
from abst.realm.circuits import Circuit
from abst.realm.conversation import Conversation, State
from abst.realm.entrance import Entrance
from abst.realm.gate import Gate, Place, Shut, address_of
from abst.realm.legs import Leg, join_in_user_space
from abst.realm.limits import Limits
from abst.realm.pipes import MAX_PIPES, Pipes
from abst.realm.plain import PlainConnection
from abst.realm.realm import Realm
from abst.realm.splicing import CAN_SPLICE, join_by_splicing
from abst.realm.store.interface import Store
from abst.realm.store.memory import MemoryStore
from abst.realm.story import Stories, Story
from abst.realm.values.values import Values
from abst.tls import REALM_ALPN, device_key_of, realm_server_context
from abst.tls_acceptor import TlsAcceptor

BULK_BYTES: Final = 4096

FILES_KEPT: Final = 16
"""How many files can still be opened when connections are taken no more: the disk wants some."""

LOG_SECONDS: Final = 60.0
"""How long the want of files is mentioned once."""


@implementer(IHandshakeListener)
class RealmProtocol(Protocol):
    """One device's connection, above TLS.

    Attributes:
        conversation: its pure core.
        place: what the connection counts as at the gate.
        is_held: whether the device sends too fast to be read from.
    """

    factory: RealmFactory
    place: Place
    transport: Any
    conversation: Conversation
    story: Story

    def __init__(self) -> None:
        self._writable = False
        self._announced = False
        self.is_held = False

    def connectionMade(self) -> None:
        """Open the conversation; the time to say Hello begins."""
        self.conversation = self.factory.realm.open(self.story.remote, self.factory.now())
        self.conversation.carrier = self
        self.conversation.note_error = self.story.told
        self.factory.settle()

    def handshakeCompleted(self) -> None:
        """Take the device ID that the certificate proves; only now anything may be written."""
        conversation = self.conversation
        self.transport.registerProducer(self, True)
        self._writable = True
        if self.transport.negotiatedProtocol != REALM_ALPN:
            conversation.close(Code.TLS_REQUIRED, "this port speaks ALPN abst-realm/1")
            self.factory.settle()
            return
        try:
            key = device_key_of(self.transport.getPeerCertificate())
        except IdentityError:
            # The handshake has already refused whoever shows no Ed25519 key.
            self.transport.abortConnection()
            return
        conversation.identify(DeviceID.of_key(key))
        conversation.measure_progress = getattr(
            self.transport, "measure_progress", conversation.measure_progress
        )
        self.factory.settle()

    def dataReceived(self, data: bytes) -> None:
        """Feed the conversation; flush whom it has written to."""
        factory = self.factory
        if factory.realm.shaper.is_on:
            self._receive_counted(data)
        else:
            self.conversation.receive_data(data, factory.now())
        # Small packets wait for the end of the turn, so that those for one target go as one.
        if factory.realm.touched and (len(data) >= BULK_BYTES or not factory.is_polling):
            factory.settle()

    def _receive_counted(self, data: bytes) -> None:
        """Feed the conversation, and hold this connection if its device sends too fast."""
        conversation, realm, now = self.conversation, self.factory.realm, self.factory.now()
        packets, relayed = conversation.sent_packets, realm.counters.relayed_bytes
        conversation.receive_data(data, now)
        is_held = conversation.device_id is not None and realm.shaper.spend(
            self,
            conversation.device_id,
            len(data),
            conversation.sent_packets - packets,
            max(len(data), realm.counters.relayed_bytes - relayed),
            now,
        )
        if is_held and not self.factory.is_polling:
            self.factory.settle()

    # What slows it down.

    def hold(self) -> None:
        """Read no more for now: the device finds its connection full."""
        self.is_held = True
        self.transport.pauseProducing()

    def release(self, now: float) -> None:
        """Read on."""
        self.is_held = False
        # Nobody can be heard who is not read from.
        self.conversation.heard_at = now
        if self.conversation.carrier is self:
            self.transport.resumeProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget the connection."""
        self._writable = False
        self.conversation.carrier = None
        self.conversation.connection_lost()
        self.story.ended(self.conversation.device_id, self.conversation.closed_for, reason)
        self.factory.settle()

    def flush(self) -> None:
        """Write what the conversation has, as far as the socket takes it; close when told so."""
        conversation = self.conversation
        if conversation.stalled:
            self.transport.abortConnection()
            return
        if conversation.seat is not None:
            self._become_leg()
            return
        if not self._announced and conversation.state is State.HERE:
            self._announced = True
            self.place.admitted()
            self.story.arrived(conversation.device_id or b"", self.factory.realm.here)
        while self._writable:
            data = conversation.data_to_send()
            if not data:
                break
            self.transport.write(data)
        if conversation.state is State.CLOSED and not conversation.is_blocked:
            # Twisted's TLS does not close while a producer might go on.
            self.transport.unregisterProducer()
            self.transport.loseConnection()
            due = self.factory.now() + self.factory.realm.limits.stall_seconds
            self.factory.realm.deadlines.add(due, self._look_for_end)

    def _look_for_end(self, now: float) -> None:
        """Cut a connection off that was closed, and whose last bytes nobody has read."""
        if self.conversation.carrier is not None:
            self.transport.abortConnection()

    def _become_leg(self) -> None:
        """Give the connection to the leg that it has turned into."""
        conversation = self.conversation
        seat, conversation.seat = conversation.seat, None
        assert seat is not None
        self._writable = False
        conversation.carrier = None
        conversation.connection_lost()
        self.transport.unregisterProducer()
        Leg(self.factory, self.transport, seat, conversation.early, self.story)

    # The transport's word on whether it takes more.

    def pauseProducing(self) -> None:
        """The socket is full: what comes now waits in the outbox."""
        self._writable = False
        self.conversation.blocked(self.factory.now())
        self.factory.settle()

    def resumeProducing(self) -> None:
        """The socket takes more."""
        self._writable = True
        self.conversation.unblocked()
        self.factory.realm.touched.append(self.conversation)
        self.factory.settle()

    def stopProducing(self) -> None:
        """The connection is gone; ``connectionLost`` follows."""
        self._writable = False


def hard_limit_of(limits: Limits) -> int:
    """Return how many connections a realm accepts, beside the legs of circuits."""
    return limits.connections + max(16, limits.connections // 10)


class RealmFactory(Factory):
    """A realm: give it to any stream endpoint's ``listen``.

    Args:
        reactor: the reactor that runs it.
        identity: the realm's key; its pin stands in the realm's address.
        limits: what devices may use.
        certificate_file: a PEM chain to show instead of the identity's certificate.
        key_file: its PEM key.
        splices: whether the kernel joins the legs of circuits, where it can.
        pipes: how many pipes it may have for that.
        store: what it keeps over restarts; without one it keeps nothing.
        wall: returns the seconds since 1970, by which the times of values are measured.
        access: who may use it.
        trusted_proxies: addresses of proxies whose connections begin with a PROXY header.

    Attributes:
        context: what new connections are made of; those that are open keep theirs.
        stories: what the log says of each connection.
        newcomers: connections that have not shown yet what they are: a proxy's, or without TLS.
        legs: the transports of all connections that are no conversations.
        trusted_proxies: those addresses, in their shortest form.
        descriptors: what reads sockets.
    """

    protocol: Any = RealmProtocol
    noisy = False

    def __init__(
        self,
        reactor: Any,
        identity: Identity,
        limits: Limits | None = None,
        *,
        certificate_file: str | None = None,
        key_file: str | None = None,
        splices: bool = True,
        pipes: int = MAX_PIPES,
        store: Store | None = None,
        wall: Callable[[], float] = time.time,
        access: Mode = Mode.OPEN,
        trusted_proxies: Collection[str] = (),
    ) -> None:
        self.identity = identity
        store = store or MemoryStore()
        self.realm = Realm(
            limits or Limits(), os.urandom, random.random, wall, store=store, mode=access
        )
        store.told = self.settle
        self.realm.values = Values(store, self.realm.limits, self.realm.counters, wall)
        self.now = reactor.seconds
        self.log = Logger(namespace="abst.realm")
        self._reactor = reactor
        self.descriptors = descriptor_set(reactor, self.settle)
        self.context = realm_server_context(identity, certificate_file, key_file)
        self.stories = Stories(self.log, self.now)
        self.stories.own_devices = self.realm.access.own_devices
        self.call_later = reactor.callLater
        self._gate = Gate(self.realm.limits)
        self.trusted_proxies = frozenset(map(address_of, trusted_proxies))
        self._handshakes = Handshakes(reactor.callLater)
        self._places: dict[Any, Place] = {}
        self._splices = splices and CAN_SPLICE and hasattr(self.descriptors, "addReader")
        self._pipes = Pipes(pipes)
        self.newcomers: set[PlainConnection] = set()
        self.legs: set[Any] = set()
        self._timer: Any = None
        self._timer_at = math.inf
        self._tell_of_files_at = -math.inf
        self._settling = False

    def buildProtocol(self, addr: Any) -> Any:
        """Return the protocol for an accepted connection, or None when it is not let in."""
        if self.trusted_proxies:
            return Entrance(self)
        return self.let_in(self.observed(addr))

    def let_in(self, observed: tuple[str, int] | None) -> Any:
        """Return the protocol for a connection from there: TLS, then ``RealmProtocol``.

        Returns:
            None when it is to be closed without a word: nothing more can be afforded for it.
        """
        if self.turns_away():
            return None
        if self._gate.limits is not self.realm.limits:
            self._gate.use_limits(self.realm.limits)
        place = self._gate.enter(None if observed is None else observed[0], self.now())
        if isinstance(place, Shut):
            self.count_shut(place)
            return None
        protocol = self.protocol()
        protocol.factory = self
        protocol.place = place
        protocol.story = story = self.stories.begin()
        story.remote = observed
        return TlsAcceptor(
            self.descriptors,
            self.context,
            protocol,
            partial(PlainConnection, self, story, place),
            partial(self._may_shake_hands, place),
            self._handshakes,
            place.leave,
        )

    @staticmethod
    def observed(address: Any) -> tuple[str, int] | None:
        """Return the host and port of an address, if it has any."""
        if not hasattr(address, "host"):
            return None
        # A port that takes IPv6 and IPv4 sees IPv4 addresses in IPv6's clothes.
        return str(address.host).removeprefix("::ffff:"), int(address.port)

    def count_shut(self, reason: Shut) -> None:
        """Count a connection that the gate has not let in."""
        self.realm.counters.refused_connections[reason] += 1

    def socket_of(self, transport: Any) -> socket.socket | None:
        """Return a transport's socket where it can be read from here, else None."""
        if not ITCPTransport.providedBy(transport) or not hasattr(self.descriptors, "addReader"):
            return None
        handle = cast(Any, transport).getHandle()
        return handle if isinstance(handle, socket.socket) else None

    def turns_away(self) -> bool:
        """Tell whether nothing can be afforded for one more connection, and count it then."""
        is_full = self._is_full()
        if is_full:
            self.realm.counters.refused_connections[Code.REALM_FULL] += 1
        return is_full

    def _is_full(self) -> bool:
        if files_are_scarce(FILES_KEPT):
            self._tell_of_files()
            return True
        conversations = len(self.realm.conversations)
        unknown = conversations + len(self.newcomers)
        in_all = conversations + len(self.legs)
        most = self.hard_limit
        return unknown >= most or in_all >= most + 2 * self.realm.limits.circuits

    def _tell_of_files(self) -> None:
        now = self.now()
        if now >= self._tell_of_files_at:
            self._tell_of_files_at = now + LOG_SECONDS
            self.log.warn(
                "nobody new gets in while as many files are open as the system allows: raise "
                "LimitNOFILE, or lower 'connections'"
            )

    def _may_shake_hands(self, place: Place) -> bool:
        shut = place.shake_hands(self.now())
        if shut is not None:
            self.count_shut(shut)
        return shut is None

    @property
    def is_polling(self) -> bool:
        """Whether ``settle`` is going to be called at the end of this turn anyway."""
        return getattr(self.descriptors, "polling", False)

    @property
    def hard_limit(self) -> int:
        """How many connections are accepted at all, those included that are only to be refused.

        Legs of circuits come on top.
        """
        return hard_limit_of(self.realm.limits)

    def settle(self) -> None:
        """Flush every touched conversation, then re-arm the one timer."""
        if self._settling:
            return
        self._settling = True
        touched = self.realm.touched
        try:
            while touched:
                batch = touched[:]
                touched.clear()
                for conversation in batch:
                    carrier = conversation.carrier
                    if carrier is not None:
                        self._flush(carrier)
        finally:
            self._settling = False
        self._arm()

    def stop(self) -> None:
        """Announce the restart to every device, and close all connections."""
        self.realm.announce_restart()
        for newcomer in tuple(self.newcomers):
            newcomer.refuse(Code.RESTARTING)
        self.settle()

    @property
    def is_idle(self) -> bool:
        """Whether there is no connection at all, and nothing that waits for one."""
        return not (self.realm.conversations or self.legs or len(self.realm.circuits))

    def join_legs(self, first: Leg, second: Leg, circuit: Circuit) -> None:
        """Have the bytes of two legs go to each other."""
        first.story.joined(second.story)
        circuit.when_over = lambda: first.story.parted(
            second.story, circuit.ended_for, circuit.bytes
        )
        can_splice = first.socket is not None and second.socket is not None
        if self._splices and can_splice:
            join_by_splicing(self, self.descriptors, self._pipes, (first, second), circuit)
        else:
            join_in_user_space(self, (first, second), circuit)

    def leg_came(self, transport: Any, place: Place) -> None:
        """Take note of a connection that is no conversation."""
        self.legs.add(transport)
        self._places[transport] = place

    def leg_gone(self, transport: Any) -> None:
        """Forget a connection that is no conversation."""
        self.legs.discard(transport)
        place = self._places.pop(transport, None)
        if place is not None:
            place.leave()
        if not self.legs:
            self._pipes.close_idle()
        if self.is_idle:
            self._disarm()

    def _flush(self, protocol: Any) -> None:
        try:
            protocol.flush()
        except Exception:
            # One connection's failure must not keep the others from being flushed.
            self.log.failure("a connection failed and is closed")
            protocol.transport.abortConnection()

    def _arm(self) -> None:
        if self.is_idle:
            self._disarm()
            return
        due = self.realm.next_deadline()
        if due is None or due >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._reactor.callLater(max(0.0, due - self.now()), self._ring)

    def _disarm(self) -> None:
        """Leave no timer behind when nobody is here; what it would look at is gone."""
        self.realm.deadlines.clear()
        self.realm.shaper.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = math.inf

    def _ring(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        self.realm.handle_deadline(self.now())
        self.settle()
