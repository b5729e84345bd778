"""The ways to one peer: dialling, accepting, watching channels, and moving between them.

Owns every channel with the peer and which of them is used (spec: channel.md, "Paths"). What a
session is, and what packets mean, is its host's business.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from abst.device.carriers import (
    DIRECT_PIECE_BYTES,
    Carrier,
    DirectCarrier,
    Pipe,
    RealmCarrier,
)
from abst.device.channel import Channel, ChannelState
from abst.device.introduction import Host, Household, Introduction
from abst.device.knock import RANDOM_BYTES, knock
from abst.device.leg import Leg
from abst.device.link import Link, next_wait_seconds
from abst.device.paths import FOLLOWER_SECONDS, PROOFS, Path, Reason, choose
from abst.device.peers import Peer
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
from abst.tls import ChannelContexts

REALM_LAG_SECONDS: Final = 0.25
"""The realm is dialled so much later than a direct address."""

DIRECT_RETRY_SECONDS: Final = 60.0
ADDRESS_REST_SECONDS: Final = 5.0
"""An address that did not answer is left alone for so long."""

STEADY_SECONDS: Final = 5.0
"""A path that has lasted so long was a good one: after it the next is dialled at once."""

LOST_DIAL_SECONDS: Final = 1.0
"""A dial unanswered for so long was lost, when the device that should answer dials by itself."""

GRACE_SECONDS: Final = 2.0
"""How long an older channel stays after a move."""

SUSPECT_RETRY_SECONDS: Final = 5.0
MAX_ADDRESSES_AT_ONCE: Final = 8
MAX_RESTING_ADDRESSES: Final = 64
MAX_ARRIVED: Final = 4
"""Accepted channels of one peer that are not through yet, or are not used."""


class WaysOwner(Household, Protocol):
    """What is needed of the device."""

    reactor: Any
    contexts: ChannelContexts
    random_fraction: Callable[[], float]

    def links_up(self) -> list[Link]:
        """Return the links that a peer could be reached over, best first."""

    def addresses_of(self, device_id: DeviceID) -> list[str]:
        """Return where a peer may be listening, as ``HOST:PORT``, most likely first."""

    def dial_direct(self, address: str) -> Deferred[Pipe]:
        """Connect to an address."""


class WaysHost(Host, Protocol):
    """Whoever needs a path."""

    @property
    def peer(self) -> Peer:
        """The peer, as it is known now."""

    @property
    def wants_path(self) -> bool:
        """Whether a path is to be looked for again and again."""

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

    def no_way(self, problem: AbstError) -> None:
        """Everything was tried just now."""

    def changed(self) -> None:
        """Something has happened outside of a call: settle soon."""

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
        self._dials: dict[str, Deferred[Pipe]] = {}
        self._address_rests: dict[str, float] = {}
        self._tried: set[int] = set()
        self._failures = 0
        self._next_ping = 0
        self._redial_at = self._realm_at = self._direct_at = self._alternative_at = math.inf

    @property
    def path(self) -> Path | None:
        """What is used, how fast it is, and why; None while there is nothing."""
        leg = self.active
        if leg is None:
            return None
        return replace(
            leg.carrier.path, rtt_seconds=leg.health.rtt_seconds, reason=self._reason.value
        )

    @property
    def is_seeking(self) -> bool:
        """Whether a dial is on its way."""
        return (
            bool(self._dials)
            or self._realm_at < math.inf
            or any(not leg.is_proved and not leg.buries for leg in self.legs.values())
        )

    # Seeking.

    def seek(self) -> None:
        """Look for a path, if there is none and none is being looked for."""
        if self.active is not None or self.is_seeking:
            return
        self._redial_at = math.inf
        self._dial_direct()
        if self._dials:
            self._realm_at = self._now() + REALM_LAG_SECONDS
        elif not any(not leg.is_proved for leg in self.legs.values()):
            self._dial_realm()

    def seek_later(self) -> None:
        """Look for a path again: at once after a good one, and later each time that it fails."""
        if self._host.wants_path and not self.is_seeking:
            self._redial_later()

    def _redial_later(self) -> None:
        if self._redial_at < math.inf:
            return
        wait = 0.0
        if self._failures:
            wait = next_wait_seconds(self._failures, None, self._owner.random_fraction())
        self._failures += 1
        self._redial_at = self._now() + wait

    def succeeded(self) -> None:
        """Forget earlier failures."""
        self._failures = 0

    def rest(self) -> None:
        """Look for no path any more."""
        self._redial_at = self._realm_at = self._direct_at = self._alternative_at = math.inf
        dials, self._dials = self._dials, {}
        for waiting in dials.values():
            waiting.cancel()

    def _is_dialling_realm(self) -> bool:
        return any(not leg.is_proved and not leg.is_direct for leg in self.legs.values())

    def _dial_realm(self) -> bool:
        """Dial over the next realm that was not tried; False when there is none."""
        used = {id(leg.carrier.slot) for leg in self.legs.values()}
        for link in self._owner.links_up():
            if id(link) not in self._tried and id(link) not in used:
                number = self._owner.random_bytes(CHANNEL_NUMBER_BYTES)
                engine = self._owner.contexts.dial(self._check_key)
                self._add_realm(link, number, engine, dialled=True)
                return True
        return False

    def _dial_direct(self) -> None:
        """Dial every address that might be the peer's."""
        now = self._now()
        in_use = {
            leg.carrier.path.address
            for leg in self.legs.values()
            if leg.is_direct and not leg.health.is_suspect
        }
        if len(self._address_rests) > MAX_RESTING_ADDRESSES:
            resting = self._address_rests.items()
            self._address_rests = {at: until for at, until in resting if until > now}
        for address in self._owner.addresses_of(self._device_id):
            begun = sum(leg.is_direct and not leg.is_proved for leg in self.legs.values())
            if len(self._dials) + begun >= MAX_ADDRESSES_AT_ONCE:
                return
            rests = now < self._address_rests.get(address, 0.0)
            if address in self._dials or address in in_use or rests:
                continue
            self._address_rests[address] = now + ADDRESS_REST_SECONDS
            waiting = self._dials[address] = self._owner.dial_direct(address)
            waiting.addCallbacks(
                self._connected, self._not_connected, callbackArgs=(address,),
                errbackArgs=(address,),
            )  # fmt: skip

    def _connected(self, pipe: Pipe, address: str) -> None:
        if self._dials.pop(address, None) is None:
            pipe.close()
            return
        # An address that a person has told may be translated on the way; one that somebody has
        # announced must be his own, or he could pass the knock on.
        told = address in self._host.peer.addresses
        where = "" if told else pipe.remote
        name = knock(self._device_id, self._owner.random_bytes(RANDOM_BYTES), where)
        engine = self._owner.contexts.dial(self._check_key, name)
        channel = Channel(
            b"", engine, dialled=True, now=self._now(), max_content_bytes=DIRECT_PIECE_BYTES
        )
        self._add_direct(pipe, channel)
        self._host.changed()

    def _not_connected(self, failure: Failure, address: str) -> None:
        if self._dials.pop(address, None) is None:
            return
        problem = failure.value
        if not isinstance(problem, AbstError):
            problem = PeerUnreachableError(f"{address}: {failure.getErrorMessage()}")
        if self.active is None or not self.active.is_direct:
            # There may be more addresses than are dialled at once.
            self._dial_direct()
        self._way_failed(None, problem)
        self._host.changed()

    def _way_failed(self, link: object, problem: AbstError) -> None:
        """Try the next way, or say that there is none."""
        if link is not None:
            self._tried.add(id(link))
        if self.active is not None or not self._host.wants_path:
            return
        if self._realm_at < math.inf:
            if self._dials:
                return
            self._realm_at = math.inf
        if self._is_dialling_realm() or self._dial_realm():
            return
        self._tried.clear()
        if self.is_seeking:
            # Somebody who never finishes a handshake must not keep the realm from being tried.
            self._redial_later()
            return
        # Nobody at this end can do more: whoever waits shall know, and it is tried again later.
        self._host.no_way(problem)
        self.seek_later()

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
                    self._dial_realm()
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

    def _add_realm(self, link: Link, number: bytes, engine: Any, *, dialled: bool) -> Leg:
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
        self._tried.clear()
        self._redial_at = self._realm_at = self._alternative_at = math.inf
        if leg.is_direct:
            self.rest()
        else:
            self._direct_at = now
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
            link = leg.carrier.slot
            self._way_failed(link, problem)

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
            self._failures = 0
        self._direct_at = math.inf
        self.consider()
        if self.active is None:
            self._host.moved()

    def close_all(self, problem: AbstError) -> None:
        """Drop every channel."""
        self.rest()
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
        dials, self._dials = self._dials, {}
        for waiting in dials.values():
            waiting.cancel()
        for leg in [leg for leg in self.legs.values() if leg.is_direct]:
            self.drop(leg, PeerUnreachableError("the local network is not used any more"))

    def link_down(self, link: Link) -> None:
        """Give up what went over a link."""
        for leg in [leg for leg in self.legs.values() if leg.carrier.slot is link]:
            self.drop(leg, PeerUnreachableError("the connection to the realm is gone"))

    def link_up(self) -> None:
        """A realm can be used: dial if somebody waits for a path."""
        self._tried.clear()
        if self.active is not None:
            if self.active.health.is_suspect:
                self._dial_realm()
        elif self._host.wants_path:
            self._failures = 0
            self._realm_at = self._redial_at = math.inf
            self._dial_direct()
            if not self._is_dialling_realm():
                self._dial_realm()

    def refused(self, link: Link, error: Error) -> None:
        """The realm dropped something for this peer: its TLS stream has a hole."""
        lost = [leg for leg in self.legs.values() if leg.carrier.slot is link]
        problem = PeerUnreachableError(f"{self._host.peer}: {explain(error.code, error.reason)}")
        for leg in lost:
            self.drop(leg, problem)
        if lost and error.code == Code.TARGET_ABSENT:
            self._way_failed(link, problem)

    def addresses_changed(self) -> None:
        """The peer may be listening somewhere else now."""
        if self.active is None:
            if self._host.wants_path:
                self._dial_direct()
        elif not self.active.is_direct:
            self._direct_at = self._now()

    def network_changed(self) -> None:
        """Something has happened to this device's network: doubt every path."""
        self._address_rests.clear()
        for leg in list(self.legs.values()):
            if leg.is_proved:
                leg.health.doubt()
                self.ping(leg)
        if self._host.wants_path:
            self._failures = 0
        self.addresses_changed()

    # Time.

    def next_deadline(self) -> float:
        """Return when ``handle_deadline`` wants to be called; infinity for never."""
        due = min(
            self._redial_at,
            self._realm_at,
            self._direct_at,
            self._alternative_at,
            self._prune_at(),
        )
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
        self._look_for_another(now)
        if now >= self._direct_at:
            self._direct_at = math.inf
            if self.active is not None and not self.active.is_direct:
                self._direct_at = now + DIRECT_RETRY_SECONDS
                self._dial_direct()
        if now >= self._realm_at:
            self._realm_at = math.inf
            if self.active is None and not self._dial_realm() and not self.is_seeking:
                self._way_failed(None, PeerUnreachableError("no realm is connected"))
        if now >= self._redial_at:
            self._redial_at = math.inf
            self._redial()

    def _look_for_another(self, now: float) -> None:
        """Dial other ways while the path in use is suspect."""
        if self.active is None or not self.active.health.is_suspect:
            self._alternative_at = math.inf
        elif now >= self._alternative_at or self._alternative_at == math.inf:
            self._alternative_at = now + SUSPECT_RETRY_SECONDS
            self._tried.clear()
            self._dial_direct()
            self._dial_realm()

    def _redial(self) -> None:
        if self.active is not None or not self._host.wants_path:
            return
        self._tried.clear()
        if not self.is_seeking:
            self.seek()
        elif not self._is_dialling_realm() and not self._dial_realm():
            self._redial_later()

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
