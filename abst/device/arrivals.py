"""Direct connections that somebody has made to this device, until they prove which device it is.

Owns the bounds on them. Whoever does not knock rightly sees no certificate; whoever does not finish
the handshake in time is closed; a device that proves its key goes to its connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from abst.device.carriers import DIRECT_PIECE_BYTES
from abst.device.channel import HANDSHAKE_SECONDS, Channel, ChannelState
from abst.device.pipes import Pipe
from abst.device_id import DeviceID
from abst.errors import AbstError
from abst.packets import Packet
from abst.tls import STREAM_ALPN, ChannelContexts, TlsEngine

MAX_ARRIVALS: Final = 128
MAX_ARRIVALS_PER_HOST: Final = 32
"""A browser on a peer opens six streams at once, on each address that the peer knows."""


class Host(Protocol):
    """The device that they have come to."""

    reactor: Any
    contexts: ChannelContexts

    def check_visitor(self, key: bytes) -> None:
        """Accept a key that a handshake is about to prove.

        Raises:
            AbstError: it is refused.
        """

    def admits_knock(self, server_name: bytes | None, local: str) -> bool:
        """Tell whether a dialler who has reached an address of this device knows whose it is."""

    def device_arrived(
        self, device_id: DeviceID, pipe: Pipe, channel: Channel, found: list[tuple[Packet, int]]
    ) -> None:
        """A device has proved its key, and wants a channel."""

    def stream_arrived(
        self, device_id: DeviceID, pipe: Pipe, engine: TlsEngine, plaintext: bytes
    ) -> None:
        """A device has proved its key, and wants a stream."""


class Arrivals:
    """The connections of which nobody knows yet whose they are."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._arrivals: set[Arrival] = set()

    def accept(self, pipe: Pipe) -> None:
        """Take a new connection, or close it at once when there are too many."""
        host = _host_of(pipe)
        same = sum(_host_of(other.pipe) == host for other in self._arrivals)
        if len(self._arrivals) >= MAX_ARRIVALS or same >= MAX_ARRIVALS_PER_HOST:
            pipe.abort()
            return
        self._arrivals.add(Arrival(self._host, pipe, self._arrivals.discard))

    def stop(self) -> None:
        """Close all of them."""
        for arrival in list(self._arrivals):
            arrival.close()


class Arrival:
    """One of them."""

    def __init__(self, host: Host, pipe: Pipe, over: Callable[[Arrival], None]) -> None:
        self.pipe = pipe
        self._host = host
        self._over = over
        self._engine = host.contexts.accept(
            host.check_visitor, lambda name: host.admits_knock(name, pipe.local)
        )
        self._timer = host.reactor.callLater(HANDSHAKE_SECONDS, self.close)
        pipe.owner = self

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        """Go on with the handshake."""
        engine = self._engine
        plaintext = engine.receive_data(data)
        records = engine.data_to_send()
        if records:
            pipe.write(records)
        if engine.closed:
            self.close()
        elif engine.established:
            self._end()
            self._hand_over(DeviceID.of_key(engine.peer_key), plaintext)

    def _hand_over(self, device_id: DeviceID, plaintext: bytes) -> None:
        """Give the connection to whom it is for."""
        if self._engine.alpn == STREAM_ALPN:
            self._host.stream_arrived(device_id, self.pipe, self._engine, plaintext)
            return
        now = float(self._host.reactor.seconds())
        channel = Channel(
            b"", self._engine, dialled=False, now=now, max_content_bytes=DIRECT_PIECE_BYTES
        )
        found = channel.receive_plaintext(plaintext)
        if channel.state is ChannelState.CLOSED:
            self.pipe.finish(lambda problem: None)
        else:
            self._host.device_arrived(device_id, self.pipe, channel, found)

    def pipe_lost(self, pipe: Pipe, problem: AbstError) -> None:
        """Forget it."""
        self._end()

    def close(self) -> None:
        """Close it, once a last alert is out."""
        self._end()
        self.pipe.finish(lambda problem: None)

    def _end(self) -> None:
        if self._timer.active():
            self._timer.cancel()
        self._over(self)


def _host_of(pipe: Pipe) -> str:
    return pipe.address.rpartition(":")[0]
