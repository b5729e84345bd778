"""The ways to one peer: every channel with it, how well each does, and which of them is used.

Spec: channel.md, "Paths". What is dialled, and when, is ``dialling``'s business; what a session is,
and what packets mean, is the host's.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Final, Protocol

from abst.device import dialling
from abst.device.carriers import (
    DIRECT_PIECE_BYTES,
    Carrier,
    DirectCarrier,
    RealmCarrier,
)
from abst.device.channel import Channel, ChannelState
from abst.device.introduction import Host, Household, Introduction
from abst.device.leg import Leg
from abst.device.link import Link
from abst.device.paths import FOLLOWER_SECONDS, PROOFS, Path, Reason, choose
from abst.device.pipes import Pipe
from abst.device_id import DeviceID
from abst.errors import (
    AbstError,
    Code,
    PeerUnreachableError,
    RemoteProtocolError,
    WrongKeyError,
    explain,
)
from abst.packets import CHANNEL_NUMBER_BYTES, Error, Heartbeat, Packet
from abst.tls import TlsEngine

STEADY_SECONDS: Final = 5.0
"""A path that has lasted so long was a good one: after it the next is dialled at once."""

LOST_DIAL_SECONDS: Final = 1.0
"""A dial unanswered for so long was lost, when the device that should answer dials by itself."""

GRACE_SECONDS: Final = 2.0
"""How long an older channel stays after a move."""

MAX_ARRIVED: Final = 4
"""Accepted channels of one peer that are not through yet, or are not used."""


class WaysOwner(Household, dialling.Owner, Protocol):
    """What is needed of the device."""


class WaysHost(Host, dialling.Host, Protocol):
    """Whoever needs a path."""

    def packet_received(self, leg: Leg, packet: Packet, size: int, now: float) -> None:
        """A packet came on a channel whose introduction is over."""

    def heartbeat(self, **fields: Any) -> Heartbeat:
        """Return a heartbeat of the session."""

    def moved(self) -> None:
        """Another channel is used from now on, or none."""

    def peer_closed(self, leg: Leg) -> None:
        """The peer has closed a channel in an orderly way; it is about to be dropped."""

    def broken(self, problem: RemoteProtocolError) -> None:
        """The peer breaks the protocol: sent again, it would be as wrong."""

    def settle(self) -> None:
        """Send what is due, and set the timer."""


class Ways:
    """All channels with one peer.

    Args:
        owner: this device.
        host: whoever needs a path.
        device_id: the peer.

    Attributes:
        legs: the channels, by key.
        active: the channel that is used, or None.
        dialling: what is dialled to have more of them.
    """

    def __init__(self, owner: WaysOwner, host: WaysHost, device_id: DeviceID) -> None:
        self.legs: dict[bytes, Leg] = {}
        self.active: Leg | None = None
        self._owner = owner
        self._host = host
        self._device_id = device_id
        self._decides = bytes(owner.device_id) < bytes(device_id)
        self._reason = Reason.FIRST
        self._asked_for: Leg | None = None
        self._moved_at = 0.0
        self._next_ping = 0
        self.dialling = dialling.Dialling(owner, host, self, device_id)

    @property
    def path(self) -> Path | None:
        """What is used, how fast it is, and why; None while there is nothing."""
        leg = self.active
        if leg is None:
            return None
        return replace(
            leg.carrier.path, rtt_seconds=leg.health.rtt_seconds, reason=self._reason.value
        )

    # Accepting.

    def accept(self, link: Link, number: bytes) -> Leg | None:
        """Return a new channel that the peer dials over a realm; None when it may not now."""
        for other in [leg for leg in self.legs.values() if not leg.is_proved]:
            if other.carrier.slot is not link:
                continue
            if not other.channel.dialled:
                self.drop(other, PeerUnreachableError("the other side has dialled again"))
            elif self._decides:
                # Both dial: the lower ID's dial counts, and that is ours.
                RealmCarrier(link, self._device_id, number).close()
                if self._now() >= other.channel.opened_at + LOST_DIAL_SECONDS:
                    self.drop(other, PeerUnreachableError("the dial was lost"))
                    self.dialling.dial_realm()
                return None
            else:
                self.drop(other, PeerUnreachableError("the other side's dial counts"))
        engine = self._owner.contexts.accept(self._check_key)
        return self._add_realm(link, number, engine, dialled=False)

    def adopt(self, pipe: Pipe, channel: Channel) -> Leg:
        """Take a direct connection on which the peer has proved its key."""
        arrived = [
            leg
            for leg in self.legs.values()
            if leg.is_direct and leg is not self.active and not leg.channel.dialled
        ]
        if len(arrived) >= MAX_ARRIVED:
            self.drop(arrived[0], PeerUnreachableError("the other side has dialled again"))
        return self._add_direct(pipe, channel)

    def dial_over_realm(self, link: Link, number: bytes, engine: TlsEngine) -> None:
        """Begin a channel over a realm."""
        self._add_realm(link, number, engine, dialled=True)

    def dial_over_pipe(self, pipe: Pipe, engine: TlsEngine) -> None:
        """Begin a channel on a direct connection."""
        channel = Channel(
            b"", engine, dialled=True, now=self._now(), max_content_bytes=DIRECT_PIECE_BYTES
        )
        self._add_direct(pipe, channel)

    def _add_realm(self, link: Link, number: bytes, engine: TlsEngine, *, dialled: bool) -> Leg:
        channel = Channel(
            number,
            engine,
            dialled=dialled,
            now=self._now(),
            max_content_bytes=link.max_content_bytes,
        )
        return self._add(number, channel, RealmCarrier(link, self._device_id, number))

    def _add_direct(self, pipe: Pipe, channel: Channel) -> Leg:
        # One byte longer than any number of a channel over a realm.
        key = self._owner.random_bytes(CHANNEL_NUMBER_BYTES + 1)
        leg = self._add(key, channel, DirectCarrier(pipe))
        pipe.owner = _PipeEnd(self, leg)
        return leg

    def _add(self, key: bytes, channel: Channel, carrier: Carrier) -> Leg:
        introduction = Introduction(self._owner, self._host, self._device_id, channel)
        leg = self.legs[key] = Leg(key, channel, carrier, introduction, self._now())
        if not self._decides:
            leg.heartbeat_seconds += FOLLOWER_SECONDS
        return leg

    def _check_key(self, key: bytes) -> None:
        self._host.peer.check_key(key)

    # Receiving.

    def receive(self, leg: Leg, records: bytes) -> None:
        """Take TLS bytes of a channel."""
        self.take(leg, leg.channel.receive_data(records))

    def take(self, leg: Leg, found: list[tuple[Packet, int]]) -> None:
        """Take what has come on a channel, and see what has become of it."""
        now = self._now()
        channel = leg.channel
        leg.health.heard(now)
        is_open = channel.state is ChannelState.OPEN
        if is_open and channel.dialled and not leg.introduction.hello_sent:
            leg.introduction.begin()
        for packet, size in found:
            if leg.key not in self.legs:
                return
            try:
                if leg.is_proved or leg.buries:
                    self._host.packet_received(leg, packet, size, now)
                else:
                    leg.introduction.take(packet, now)
            except RemoteProtocolError as problem:
                channel.close(problem)
                break
        if channel.state is ChannelState.CLOSED and leg.key in self.legs:
            if channel.is_closed_there:
                self._host.peer_closed(leg)
            self.lose(leg, channel.problem or PeerUnreachableError("the channel closed"))

    def leg_of(self, introduction: Introduction) -> Leg | None:
        """Return the channel of an introduction, if it is still there."""
        for leg in self.legs.values():
            if leg.introduction is introduction:
                return leg
        return None

    def proved(self, leg: Leg) -> None:
        """Let the session use a channel: its Key check is passed."""
        leg.is_proved = True
        for other in list(self.legs.values()):
            is_older = other is not leg and other.carrier.slot is leg.carrier.slot
            if is_older and not leg.is_direct and other.is_proved:
                if other is self.active:
                    self._move(leg, Reason.FIRST)
                self.drop(other, PeerUnreachableError("a newer channel took over"))
        if leg.key in self.legs:
            self.ping(leg)
            self.consider()

    def first_received(self, leg: Leg) -> None:
        """Note which channel the peer uses."""
        self._asked_for = leg
        if leg is not self.active and self.active is not None and self._decides:
            # It may have left ours for a reason that this side does not see yet.
            self.active.health.doubt()
            self.ping(self.active)
        self.consider()

    def pong_received(self, leg: Leg, number: int) -> None:
        """Note that a ping was answered."""
        leg.health.answered(number, self._now())
        if leg is not self.active and leg.health.proofs < PROOFS:
            self.ping(leg)
        self.consider()

    def ping(self, leg: Leg) -> int:
        """Ask the other side for an answer; return the ping's number."""
        self._next_ping += 1
        leg.say(self._host.heartbeat(ping=self._next_ping), self._now())
        return self._next_ping

    # Moving.

    def consider(self) -> None:
        """Move to a better channel when there is one."""
        proved = [leg for leg in self.legs.values() if leg.is_proved]
        if not proved:
            return
        found, reason = choose(
            proved, self.active, self._asked_for, decides=self._decides, now=self._now()
        )
        if found is not None and found is not self.active:
            self._move(found, Reason.ONLY if len(proved) == 1 else reason)

    def _move(self, leg: Leg, reason: Reason) -> None:
        now = self._now()
        self.active = leg
        self._reason = reason
        self._moved_at = now
        leg.next_out = None
        self.dialling.moved(is_direct=leg.is_direct)
        self._host.moved()

    def _prune(self, now: float) -> None:
        """Close what is not needed any more, once the peer is on the channel that was chosen."""
        active = self.active
        if active is None or now < self._prune_at():
            return
        for leg in list(self.legs.values()):
            if leg.is_proved and leg is not active and leg.is_direct <= active.is_direct:
                self.drop(leg, PeerUnreachableError("a better path is used"))

    def _prune_at(self) -> float:
        active = self.active
        if not self._decides or active is None or active.next_in is None:
            return math.inf
        if active.health.is_suspect or self._asked_for is not active:
            return math.inf
        for leg in self.legs.values():
            if leg.is_proved and leg is not active and leg.is_direct <= active.is_direct:
                return self._moved_at + GRACE_SECONDS
        return math.inf

    # Losing.

    def lose(self, leg: Leg, problem: AbstError) -> None:
        """Drop a channel that failed, and see whether there is another way."""
        was_proved = leg.is_proved
        if leg.is_direct and not leg.channel.peer_key and not isinstance(problem, WrongKeyError):
            # Whoever is there does not know the knock, or speaks something else.
            where = leg.carrier.path.address
            problem = PeerUnreachableError(f"{self._host.peer} is not the one at {where}")
        self.drop(leg, problem)
        if was_proved and isinstance(problem, RemoteProtocolError):
            self._host.broken(problem)
        elif leg.channel.dialled and not was_proved:
            self.dialling.way_failed(leg.carrier.slot, problem)

    def drop(self, leg: Leg, problem: AbstError) -> None:
        """Forget a channel; tell the other end."""
        if self.legs.pop(leg.key, None) is None:
            return
        now = self._now()
        leg.channel.close(problem)
        leg.flush(now)
        leg.carrier.close()
        leg.introduction.channel_lost()
        if leg is self._asked_for:
            self._asked_for = None
        if leg is not self.active:
            return
        self.active = None
        if now >= self._moved_at + STEADY_SECONDS:
            self.dialling.succeeded()
        self.dialling.lost()
        self.consider()
        if self.active is None:
            self._host.moved()

    def close_all(self, problem: AbstError) -> None:
        """Drop every channel."""
        self.dialling.rest()
        for leg in [leg for leg in self.legs.values() if leg is not self.active]:
            self.drop(leg, problem)
        if self.active is not None:
            self.drop(self.active, problem)

    def discard_unsent(self) -> None:
        """Take back what no channel has encrypted yet."""
        for leg in self.legs.values():
            leg.channel.discard_unsent()

    # What the device hears of.

    def leave_lan(self) -> None:
        """Give up what goes over the local network, or is being dialled there."""
        self.dialling.leave_lan()
        for leg in [leg for leg in self.legs.values() if leg.is_direct]:
            self.drop(leg, PeerUnreachableError("the local network is not used any more"))

    def link_down(self, link: Link) -> None:
        """Give up what went over a link."""
        for leg in [leg for leg in self.legs.values() if leg.carrier.slot is link]:
            self.drop(leg, PeerUnreachableError("the connection to the realm is gone"))

    def refused(self, link: Link, error: Error) -> None:
        """The realm dropped something for this peer: its TLS stream has a hole."""
        lost = [leg for leg in self.legs.values() if leg.carrier.slot is link]
        problem = PeerUnreachableError(f"{self._host.peer}: {explain(error.code, error.reason)}")
        for leg in lost:
            self.drop(leg, problem)
        if lost and error.code == Code.TARGET_ABSENT:
            self.dialling.way_failed(link, problem)

    def network_changed(self) -> None:
        """Something has happened to this device's network: doubt every path."""
        for leg in list(self.legs.values()):
            if leg.is_proved:
                leg.health.doubt()
                self.ping(leg)
        self.dialling.network_changed()

    # Time.

    def next_deadline(self) -> float:
        """Return when ``handle_deadline`` wants to be called; infinity for never."""
        due = min(self.dialling.next_deadline(), self._prune_at())
        for leg in self.legs.values():
            due = min(due, leg.next_deadline())
            if leg.is_proved and leg is not self.active and leg.health.rests_until > self._now():
                due = min(due, leg.health.rests_until)
        return due

    def handle_deadline(self) -> None:
        """Do what is due by now."""
        now = self._now()
        for leg in list(self.legs.values()):
            if leg.key in self.legs:
                self._look(leg, now)
        self.consider()
        self._prune(now)
        self.dialling.handle_deadline(now)

    def _look(self, leg: Leg, now: float) -> None:
        if now >= leg.ends_at():
            what = "has been silent for too long" if leg.is_proved else "did not finish in time"
            self.lose(leg, PeerUnreachableError(f"{self._host.peer} {what}"))
        elif leg.is_proved and (
            leg.health.overdue(now) or now >= leg.sent_at + leg.heartbeat_seconds
        ):
            self.ping(leg)

    def flush(self) -> None:
        """Send what the channels have gathered."""
        now = self._now()
        for leg in list(self.legs.values()):
            leg.flush(now)

    def _now(self) -> float:
        return float(self._owner.reactor.seconds())


class _PipeEnd:
    """Hands a direct connection's bytes to its leg."""

    def __init__(self, ways: Ways, leg: Leg) -> None:
        self._ways = ways
        self._leg = leg

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        if self._leg.key in self._ways.legs:
            self._ways.receive(self._leg, data)
            self._ways._host.settle()

    def pipe_lost(self, pipe: Pipe, problem: AbstError) -> None:
        if self._leg.key in self._ways.legs:
            self._ways.lose(self._leg, problem)
            self._ways._host.changed()
