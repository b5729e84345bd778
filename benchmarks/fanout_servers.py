"""The servers of the fan-out loads: what makes many peers receive what one of them sends.

With ABST they are the members of a peer group; with the brokers they subscribe to one topic, and
the sender does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from benchmarks.certificates import Authority
from benchmarks.conversation import Conversation
from benchmarks.mosquitto import Mosquitto, publication, subscription
from benchmarks.nats import NatsServer
from benchmarks.servers import Packet, Server, peer_name

#: As long as a peer's name is, which no peer has.
_TOPIC = peer_name(1_000_000)
_SUBACK = b"\x90\x03\x00\x02\x00"


class FanoutServer(Server, Protocol):
    """One kind of server that passes a message on to many."""

    def join(self, sender: Conversation, receivers: Sequence[Conversation]) -> None:
        """Make it so that what the sender publishes comes to all receivers.

        Raises: ServerFailed.
        """

    def message(self, sender: int, payload: bytes) -> Packet:
        """Return the message that carries ``payload`` to all of them."""


class FanoutNats(NatsServer):
    """nats-server, with or without TLS."""

    def __init__(self, authority: Authority, *, tls: bool = True) -> None:
        """Find the program. Raises: ServerNotInstalled."""
        super().__init__(authority, tls=tls)
        self.name = NatsServer.name if tls else f"{NatsServer.name} without TLS"

    def join(self, sender: Conversation, receivers: Sequence[Conversation]) -> None:
        """Have all receivers subscribe; see :class:`FanoutServer`."""
        for receiver in receivers:
            receiver.send(b"SUB %b 2\r\nPING\r\n" % _TOPIC)
            receiver.wait_for(self.is_greeted)

    def message(self, sender: int, payload: bytes) -> Packet:
        """Publish to the subject."""
        size = len(payload)
        return Packet(
            b"PUB %b %d\r\n%b\r\n" % (_TOPIC, size, payload),
            b"MSG %b 2 %d\r\n%b\r\n" % (_TOPIC, size, payload),
        )


class FanoutMosquitto(Mosquitto):
    """mosquitto, with or without TLS."""

    def __init__(self, authority: Authority, *, tls: bool = True) -> None:
        """Find the program. Raises: ServerNotInstalled."""
        super().__init__(authority, tls=tls)
        self.name = Mosquitto.name if tls else f"{Mosquitto.name} without TLS"

    def join(self, sender: Conversation, receivers: Sequence[Conversation]) -> None:
        """Have all receivers subscribe; see :class:`FanoutServer`."""
        for receiver in receivers:
            receiver.send(subscription(2, _TOPIC))
            receiver.wait_for(_SUBACK.__eq__)

    def message(self, sender: int, payload: bytes) -> Packet:
        """Publish to the topic; the same bytes arrive."""
        publish = publication(_TOPIC, payload)
        return Packet(publish, publish)
