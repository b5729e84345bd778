"""Direct connections that somebody has made to this device, until they prove which device it is.

Owns the bounds on them. Whoever does not knock rightly sees no certificate; whoever does not finish
the handshake in time is closed; a device that proves its key goes to its connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from abst.device.carriers import DIRECT_PIECE_BYTES, Pipe
from abst.device.channel import HANDSHAKE_SECONDS, Channel, ChannelState
from abst.device_id import DeviceID
from abst.errors import AbstError
from abst.packets import Packet
from abst.tls import ChannelContexts

MAX_ARRIVALS: Final = 64
MAX_ARRIVALS_PER_HOST: Final = 8


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
        """A device has proved its key."""


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
        engine = host.contexts.accept(
            host.check_visitor, lambda name: host.admits_knock(name, pipe.local)
        )
        self._channel = Channel(
            b"",
            engine,
            dialled=False,
            now=float(host.reactor.seconds()),
            max_content_bytes=DIRECT_PIECE_BYTES,
        )
        self._timer = host.reactor.callLater(HANDSHAKE_SECONDS, self.close)
        pipe.owner = self

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        """Go on with the handshake."""
        found = self._channel.receive_data(data)
        for content in self._channel.contents_to_send():
            pipe.write(content)
        if self._channel.state is ChannelState.CLOSED:
            self.close()
        elif self._channel.state is ChannelState.OPEN:
            self._end()
            device_id = DeviceID.of_key(self._channel.peer_key)
            self._host.device_arrived(device_id, pipe, self._channel, found)

    def pipe_lost(self, pipe: Pipe, problem: AbstError) -> None:
        """Forget it."""
        self._end()

    def close(self) -> None:
        """Close it."""
        self._end()
        self.pipe.abort()

    def _end(self) -> None:
        if self._timer.active():
            self._timer.cancel()
        self._over(self)


def _host_of(pipe: Pipe) -> str:
    return pipe.address.rpartition(":")[0]
