"""A leg: one channel with a peer, its carrier, its introduction, and how well it does.

Owns the counting of packets on one channel. Each side says where it begins (``first`` in a
Heartbeat) and both count from there; so it does not matter over which of several legs a packet
comes, or comes again.
"""

from __future__ import annotations

from abst import codec
from abst.device.carriers import Carrier
from abst.device.channel import HANDSHAKE_SECONDS, Channel
from abst.device.introduction import Introduction
from abst.device.pairing import PAIRING_SECONDS
from abst.device.paths import DEAD_SECONDS, HEARTBEAT_SECONDS, Health
from abst.errors import Code, RemoteProtocolError
from abst.packets import Heartbeat


class Leg:
    """One channel.

    Attributes:
        key: under which its owner keeps it; over a realm the channel's number.
        is_proved: the Key check is passed, and the session may use it.
        buries: it tells the peer that the session that it asks for has ended here.
        next_in: the number of the next application packet that comes, None before one may come.
        next_out: the number that the other side expects next, None before it was told.
        sent_at: when bytes last went out.
        heartbeat_seconds: how long nothing may go out before a heartbeat.
    """

    def __init__(
        self, key: bytes, channel: Channel, carrier: Carrier, introduction: Introduction, now: float
    ) -> None:
        self.key = key
        self.channel = channel
        self.carrier = carrier
        self.introduction = introduction
        self.health = Health(now)
        self.is_proved = False
        self.buries = False
        self.next_in: int | None = None
        self.next_out: int | None = None
        self.sent_at = now
        self.heartbeat_seconds = HEARTBEAT_SECONDS
        self._counted = 0

    @property
    def is_direct(self) -> bool:
        """Whether it goes through no realm."""
        return self.carrier.path.kind == "direct"

    def flush(self, now: float) -> None:
        """Send what the channel has gathered."""
        contents = self.channel.contents_to_send()
        if contents:
            self.sent_at = now
            self.carrier.send(contents)

    def say(self, heartbeat: Heartbeat, now: float) -> None:
        """Queue a heartbeat."""
        self.channel.send(codec.encode(heartbeat))
        if heartbeat.ping is not None:
            self.health.pinged(heartbeat.ping, now)

    def begins(self, first: int, received: int) -> None:
        """Take the number of the packet that the other side sends next here.

        Raises:
            RemoteProtocolError: there would be a hole before it.
        """
        if first > received:
            raise RemoteProtocolError(Code.MALFORMED, "first: packets are missing before it")
        self.next_in = first

    def take_number(self) -> int:
        """Return the number of an application packet that has come here.

        Raises:
            RemoteProtocolError: the other side has not said where it begins.
        """
        if self.next_in is None:
            raise RemoteProtocolError(Code.MALFORMED, "an application packet without a first one")
        number = self.next_in
        self.next_in += 1
        return number

    def take_count(self, received: int) -> None:
        """Take the other side's count, which never falls on one channel.

        Raises:
            RemoteProtocolError: it has fallen.
        """
        if received < self._counted:
            raise RemoteProtocolError(Code.MALFORMED, "received: it has fallen")
        self._counted = received

    def ends_at(self) -> float:
        """Return when the channel is given up if nothing comes."""
        if self.is_proved:
            return self.health.heard_at + DEAD_SECONDS
        patience = HANDSHAKE_SECONDS
        if self.introduction.is_for_pairing:
            patience = PAIRING_SECONDS
        return self.channel.opened_at + patience

    def next_deadline(self) -> float:
        """Return when something is due on it."""
        due = self.ends_at()
        if self.is_proved:
            due = min(due, self.sent_at + self.heartbeat_seconds, self.health.next_deadline())
        return due
