"""Dialling one peer: directly where it may be listening, and over the realms.

Owns what is being dialled, what was tried, and when something is tried again (spec: channel.md,
"Seeking"). What becomes of a channel once it is there is the business of ``ways``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from abst.device.backoff import next_wait_seconds
from abst.device.knock import RANDOM_BYTES, knock
from abst.device.leg import Leg
from abst.device.link import Link
from abst.device.peers import Peer
from abst.device.pipes import Pipe
from abst.device_id import DeviceID
from abst.errors import AbstError, PeerUnreachableError
from abst.packets import CHANNEL_NUMBER_BYTES
from abst.tls import ChannelContexts, TlsEngine

REALM_LAG_SECONDS: Final = 0.25
"""The realm is dialled so much later than a direct address."""

DIRECT_RETRY_SECONDS: Final = 60.0
ADDRESS_REST_SECONDS: Final = 5.0
"""An address that did not answer is left alone for so long."""

SUSPECT_RETRY_SECONDS: Final = 5.0
MAX_ADDRESSES_AT_ONCE: Final = 8
MAX_RESTING_ADDRESSES: Final = 64


class Owner(Protocol):
    """What is needed of the device."""

    reactor: Any
    contexts: ChannelContexts
    random_bytes: Callable[[int], bytes]
    random_fraction: Callable[[], float]

    def links_up(self) -> list[Link]:
        """Return the links that a peer could be reached over, best first."""

    def addresses_of(self, device_id: DeviceID) -> list[str]:
        """Return where a peer may be listening, as ``HOST:PORT``, most likely first."""

    def dial_direct(self, address: str) -> Deferred[Pipe]:
        """Connect to an address."""


class Host(Protocol):
    """Whoever needs a path."""

    @property
    def peer(self) -> Peer:
        """The peer, as it is known now."""

    @property
    def wants_path(self) -> bool:
        """Whether a path is to be looked for again and again."""

    def no_way(self, problem: AbstError) -> None:
        """Everything was tried just now."""

    def changed(self) -> None:
        """Something has happened outside of a call: settle soon."""


class Channels(Protocol):
    """The channels that there are, and that come of dialling.

    Attributes:
        legs: the channels, by key.
        active: the channel that is used, or None.
    """

    legs: dict[bytes, Leg]
    active: Leg | None

    def dial_over_realm(self, link: Link, number: bytes, engine: TlsEngine) -> None:
        """Begin a channel over a realm."""

    def dial_over_pipe(self, pipe: Pipe, engine: TlsEngine) -> None:
        """Begin a channel on a direct connection."""


class Dialling:
    """What is dialled to find a path to one peer.

    Args:
        owner: this device.
        host: whoever needs a path.
        channels: the channels with the peer.
        device_id: the peer.
    """

    def __init__(self, owner: Owner, host: Host, channels: Channels, device_id: DeviceID) -> None:
        self._owner = owner
        self._host = host
        self._channels = channels
        self._device_id = device_id
        self._dials: dict[str, Deferred[Pipe]] = {}
        self._address_rests: dict[str, float] = {}
        self._tried: set[int] = set()
        self._failures = 0
        self._redial_at = self._realm_at = self._direct_at = self._alternative_at = math.inf

    @property
    def is_seeking(self) -> bool:
        """Whether a dial is on its way."""
        legs = self._channels.legs.values()
        is_waiting = bool(self._dials) or self._realm_at < math.inf
        return is_waiting or any(not leg.is_proved and not leg.buries for leg in legs)

    def seek(self) -> None:
        """Look for a path, if there is none and none is being looked for."""
        if self._channels.active is not None or self.is_seeking:
            return
        self._redial_at = math.inf
        self.dial_direct()
        if self._dials:
            self._realm_at = self._now() + REALM_LAG_SECONDS
        elif not any(not leg.is_proved for leg in self._channels.legs.values()):
            self.dial_realm()

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

    def rest(self) -> None:
        """Look for no path any more."""
        self._redial_at = self._realm_at = self._direct_at = self._alternative_at = math.inf
        dials, self._dials = self._dials, {}
        for waiting in dials.values():
            waiting.cancel()

    def _is_dialling_realm(self) -> bool:
        return any(not leg.is_proved and not leg.is_direct for leg in self._channels.legs.values())

    def dial_realm(self) -> bool:
        """Dial over the next realm that was not tried; False when there is none."""
        used = {id(leg.carrier.slot) for leg in self._channels.legs.values()}
        for link in self._owner.links_up():
            if id(link) not in self._tried and id(link) not in used:
                number = self._owner.random_bytes(CHANNEL_NUMBER_BYTES)
                engine = self._owner.contexts.dial(self._check_key)
                self._channels.dial_over_realm(link, number, engine)
                return True
        return False

    def dial_direct(self) -> None:
        """Dial every address that might be the peer's."""
        now = self._now()
        in_use = {
            leg.carrier.path.address
            for leg in self._channels.legs.values()
            if leg.is_direct and not leg.health.is_suspect
        }
        if len(self._address_rests) > MAX_RESTING_ADDRESSES:
            resting = self._address_rests.items()
            self._address_rests = {at: until for at, until in resting if until > now}
        for address in self._owner.addresses_of(self._device_id):
            begun = sum(leg.is_direct and not leg.is_proved for leg in self._channels.legs.values())
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
        self._channels.dial_over_pipe(pipe, engine)
        self._host.changed()

    def _not_connected(self, failure: Failure, address: str) -> None:
        if self._dials.pop(address, None) is None:
            return
        problem = failure.value
        if not isinstance(problem, AbstError):
            problem = PeerUnreachableError(f"{address}: {failure.getErrorMessage()}")
        if self._channels.active is None or not self._channels.active.is_direct:
            # There may be more addresses than are dialled at once.
            self.dial_direct()
        self.way_failed(None, problem)
        self._host.changed()

    def way_failed(self, link: object, problem: AbstError) -> None:
        """Try the next way, or say that there is none."""
        if link is not None:
            self._tried.add(id(link))
        if self._channels.active is not None or not self._host.wants_path:
            return
        if self._realm_at < math.inf:
            if self._dials:
                return
            self._realm_at = math.inf
        if self._is_dialling_realm() or self.dial_realm():
            return
        self._tried.clear()
        if self.is_seeking:
            # Somebody who never finishes a handshake must not keep the realm from being tried.
            self._redial_later()
            return
        # Nobody at this end can do more: whoever waits shall know, and it is tried again later.
        self._host.no_way(problem)
        self.seek_later()

    # What has happened.

    def moved(self, *, is_direct: bool) -> None:
        """Stop looking: there is a path; but for a direct one, when it goes through a realm."""
        self._tried.clear()
        self._redial_at = self._realm_at = self._alternative_at = math.inf
        if is_direct:
            self.rest()
        else:
            self._direct_at = self._now()

    def lost(self) -> None:
        """Look for no better path: there is none at all."""
        self._direct_at = math.inf

    def succeeded(self) -> None:
        """Forget earlier failures."""
        self._failures = 0

    def leave_lan(self) -> None:
        """Dial no address any more."""
        dials, self._dials = self._dials, {}
        for waiting in dials.values():
            waiting.cancel()

    def link_up(self) -> None:
        """A realm can be used: dial if somebody waits for a path."""
        self._tried.clear()
        if self._channels.active is not None:
            if self._channels.active.health.is_suspect:
                self.dial_realm()
        elif self._host.wants_path:
            self._failures = 0
            self._realm_at = self._redial_at = math.inf
            self.dial_direct()
            if not self._is_dialling_realm():
                self.dial_realm()

    def addresses_changed(self) -> None:
        """The peer may be listening somewhere else now."""
        active = self._channels.active
        if active is None:
            if self._host.wants_path:
                self.dial_direct()
        elif not active.is_direct:
            self._direct_at = self._now()

    def network_changed(self) -> None:
        """Try everything anew: this device's network has changed."""
        self._address_rests.clear()
        if self._host.wants_path:
            self._failures = 0
        self.addresses_changed()

    # Time.

    def next_deadline(self) -> float:
        """Return when ``handle_deadline`` wants to be called; infinity for never."""
        return min(self._redial_at, self._realm_at, self._direct_at, self._alternative_at)

    def handle_deadline(self, now: float) -> None:
        """Do what is due by now."""
        active = self._channels.active
        self._look_for_another(now)
        if now >= self._direct_at:
            self._direct_at = math.inf
            if active is not None and not active.is_direct:
                self._direct_at = now + DIRECT_RETRY_SECONDS
                self.dial_direct()
        if now >= self._realm_at:
            self._realm_at = math.inf
            if active is None and not self.dial_realm() and not self.is_seeking:
                self.way_failed(None, PeerUnreachableError("no realm is connected"))
        if now >= self._redial_at:
            self._redial_at = math.inf
            self._redial()

    def _look_for_another(self, now: float) -> None:
        """Dial other ways while the path in use is suspect."""
        if self._channels.active is None or not self._channels.active.health.is_suspect:
            self._alternative_at = math.inf
        elif now >= self._alternative_at or self._alternative_at == math.inf:
            self._alternative_at = now + SUSPECT_RETRY_SECONDS
            self._tried.clear()
            self.dial_direct()
            self.dial_realm()

    def _redial(self) -> None:
        if self._channels.active is not None or not self._host.wants_path:
            return
        self._tried.clear()
        if not self.is_seeking:
            self.seek()
        elif not self._is_dialling_realm() and not self.dial_realm():
            self._redial_later()

    def _check_key(self, key: bytes) -> None:
        self._host.peer.check_key(key)

    def _now(self) -> float:
        return float(self._owner.reactor.seconds())
