"""A realm that tries itself: two devices of its own talk through its port, again and again.

Each time both come in as any device does, through TCP, TLS and Hello; a packet goes from one to the
other and back; and both leave. So what keeps devices from getting in is noticed as well as what
keeps packets from getting through. The two identities live in memory alone, and the realm knows
them as its own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import (
    ConnectError,
    ConnectingCancelledError,
    ConnectionDone,
    ConnectionLost,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst import codec, packets
from abst.address import RealmAddress
from abst.errors import RemoteProtocolError
from abst.identity import Identity
from abst.packets import PROTOCOL_VERSION, BackHeartbeat, Error, Hello, Send
from abst.realm.timings import Timings
from abst.tls import realm_client_creator

PAUSE_SECONDS: Final = 15.0
PATIENCE_SECONDS: Final = 5.0
"""How long one probe may take: whoever waits longer for a realm takes it for dead."""

CONTENT_BYTES: Final = 32

REASONS: Final = {
    "no_connection": "its port takes no connection",
    "closed": "it closes connections without a word",
    "no_tls": "the TLS handshake fails",
    "no_answer": f"no answer comes within {PATIENCE_SECONDS:g} seconds",
}
"""Why a probe fails, beside the codes with which a realm refuses."""


class ProbeError(Exception):
    """A probe that has failed.

    Attributes:
        reason: why, in one word.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ProbeDevice(Protocol):
    """One of the two devices, on one connection."""

    transport: Any

    def __init__(self, identity: Identity) -> None:
        self._device_id = bytes(identity.device_id)
        self._decoder = codec.Decoder()
        self._waiting: Deferred[packets.Packet] | None = None
        self._problem: ProbeError | None = None
        self._gone: Deferred[None] = Deferred()

    def say_hello(self) -> Deferred[packets.Packet]:
        """Say Hello; the answer comes."""
        self.transport.write(codec.encode(Hello(self._device_id, PROTOCOL_VERSION)))
        return self.receive()

    def send(self, target: Identity, content: bytes) -> None:
        """Send something to the other device."""
        packet = Send(self._device_id, bytes(target.device_id), content)
        self.transport.write(codec.encode(packet))

    def receive(self) -> Deferred[packets.Packet]:
        """Return the next packet that comes."""
        waiting: Deferred[packets.Packet] = Deferred()
        self._waiting = waiting
        self._go_on()
        return waiting

    def leave(self) -> Deferred[None]:
        """Cut the connection off, which takes no time whatever is wrong; fires when it is gone."""
        self.transport.abortConnection()
        return self._gone

    def dataReceived(self, data: bytes) -> None:
        """Take what the realm says."""
        try:
            self._decoder.receive_data(data)
        except RemoteProtocolError as error:
            self._problem = ProbeError(error.code)
        self._go_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Have whoever waits wait no more."""
        is_closed = reason.check(ConnectionDone, ConnectionLost) is not None
        self._problem = self._problem or ProbeError("closed" if is_closed else "no_tls")
        self._go_on()
        self._gone.callback(None)

    def _go_on(self) -> None:
        if self._waiting is None:
            return
        try:
            found = self._decoder.next_map()
            packet = None if found is None else packets.parse(found, packets.REALM_TO_DEVICE)
        except RemoteProtocolError as error:
            packet, self._problem = None, ProbeError(error.code)
        if packet is None and self._problem is None:
            return
        waiting, self._waiting = self._waiting, None
        if isinstance(packet, Error):
            waiting.errback(ProbeError(packet.code))
        elif packet is not None:
            waiting.callback(packet)
        else:
            waiting.errback(self._problem or ProbeError("closed"))


class Probe:
    """The two devices, and how it went.

    Args:
        reactor: the reactor.
        where: returns the address of the realm's port, with the pin of what it shows.
        own_devices: the realm's set of its own devices; the two are put there.
        greeting: what each connection begins with, before TLS.
        pause_seconds: how long it is from the beginning of one probe to that of the next.
        patience_seconds: how long one may take.

    Attributes:
        relay_seconds: how long a packet took there and back.
        entry_seconds: how long it took until both were here.
        failures: how many probes have failed, by reason.
        problem: why the last one has failed; None when it has not, or there was none.
    """

    log = Logger(namespace="abst.realm")

    def __init__(
        self,
        reactor: Any,
        where: Callable[[], RealmAddress],
        own_devices: set[bytes],
        greeting: bytes = b"",
        pause_seconds: float = PAUSE_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self.relay_seconds = Timings()
        self.entry_seconds = Timings()
        self.failures: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self.problem: str | None = None
        self._reactor = reactor
        self._where = where
        self._own_devices = own_devices
        self._greeting = greeting
        self._pause_seconds = pause_seconds
        self._patience_seconds = patience_seconds
        self._pair = Identity.generate(), Identity.generate()
        self._loop = LoopingCall(self._probe)
        self._loop.clock = reactor
        self._current: Deferred[None] | None = None
        self._ended: Deferred[LoopingCall] | None = None

    def start(self) -> None:
        """Probe now, and every some seconds."""
        self._own_devices.update(bytes(identity.device_id) for identity in self._pair)
        self._ended = self._loop.start(self._pause_seconds)

    async def stop(self) -> None:
        """Probe no more; returns when both connections have ended."""
        if self._ended is None:
            return
        self._loop.stop()
        if self._current is not None:
            self._current.cancel()
        await self._ended
        self._ended = None

    def _probe(self) -> Deferred[None]:
        return ensureDeferred(self._probe_once())

    async def _probe_once(self) -> None:
        """Do it once, and note how it went."""
        devices: list[ProbeDevice] = []
        self._current = ensureDeferred(self._talk(devices))
        self._current.addTimeout(self._patience_seconds, self._reactor)
        try:
            await self._current
            self._went_well()
        except CancelledError:
            pass  # The realm stops.
        except ProbeError as error:
            self._failed(error.reason)
        except TimeoutError:
            self._failed("no_answer")
        except Exception:
            self.log.failure("the realm could not try itself")
            self._failed("no_connection")
        self._current = None
        for device in devices:
            await device.leave()

    def _went_well(self) -> None:
        if self.problem is not None:
            self.log.info("the realm's own packets get through again")
        self.problem = None

    def _failed(self, reason: str) -> None:
        self.failures[reason] += 1
        if self.problem is None:
            why = REASONS.get(reason, f"it refuses them: {reason}")
            self.log.warn("the realm's own packets do not get through: {why}", why=why)
        self.problem = reason

    async def _talk(self, devices: list[ProbeDevice]) -> None:
        begun = self._reactor.seconds()
        first, second = self._pair
        for identity in self._pair:
            devices.append(await self._connect(identity))
            answer = await devices[-1].say_hello()
            if not isinstance(answer, BackHeartbeat):
                raise ProbeError("no_answer")
        self.entry_seconds.add(self._reactor.seconds() - begun)
        here, there = devices
        begun = self._reactor.seconds()
        here.send(second, os.urandom(CONTENT_BYTES))
        packet = await there.receive()
        assert isinstance(packet, Send)
        there.send(first, packet.content)
        await here.receive()
        self.relay_seconds.add(self._reactor.seconds() - begun)

    async def _connect(self, identity: Identity) -> ProbeDevice:
        address = self._where()
        endpoint_class = TCP6ClientEndpoint if ":" in address.host else TCP4ClientEndpoint
        endpoint = endpoint_class(self._reactor, address.host, address.port)
        factory = Factory.forProtocol(lambda: ProbeDevice(identity))
        factory.noisy = False
        try:
            protocol = await endpoint.connect(factory)
        except ConnectingCancelledError:
            raise CancelledError from None
        except ConnectError:
            raise ProbeError("no_connection") from None
        assert isinstance(protocol, ProbeDevice)
        if self._greeting:
            protocol.transport.write(self._greeting)
        protocol.transport.startTLS(realm_client_creator(identity, address))
        return protocol
