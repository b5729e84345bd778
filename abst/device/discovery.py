"""Finds peers on the local network, and lets them find this device (spec: discovery.md).

Decides when what is announced, and tells its owner what others announce; it judges nothing of that.
A network that cannot do this is no failure: it is logged once, and tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.device.announcement import Announcement, AnyAnnouncement, OpenAnnouncement
from abst.device.dns_sd import MAX_ADDRESSES, MAX_KNOWN, Address, Station, Wanted
from abst.device_id import DeviceID

MIN_RENEWAL_SECONDS: Final = 45 * 60.0
MAX_RENEWAL_SECONDS: Final = 60 * 60.0
SETTLE_SECONDS: Final = 0.5
"""How long after a change of the network everything is opened again: changes come in groups."""
FOLLOW_APART_SECONDS: Final = 3.0
"""How much later it is done again, at least: where containers come and go, it never ends."""
RETRY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 2.0


class DiscoveryOwner(Protocol):
    """Whoever wants to know who is there. Called in the reactor's thread."""

    def seen(self, announcement: AnyAnnouncement, addresses: list[Address]) -> None:
        """An announcement is new, or it or its addresses have changed. Nothing of it is proved."""

    def gone(self, instance: str) -> None:
        """An announcement that was seen is not known any more."""


class Sightings:
    """What is known of others' announcements, so that the owner is told only what is new.

    Args:
        owner: who is told.
    """

    def __init__(self, owner: DiscoveryOwner) -> None:
        self._owner = owner
        self._known: dict[str, tuple[AnyAnnouncement, list[Address]]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def seen(self, announcement: AnyAnnouncement, addresses: list[Address]) -> None:
        """Take what was heard; past 1024 the oldest is forgotten."""
        found = (announcement, addresses[:MAX_ADDRESSES])
        if self._known.get(announcement.instance) == found:
            return
        if announcement.instance not in self._known and len(self._known) >= MAX_KNOWN:
            self.gone(next(iter(self._known)))
        self._known[announcement.instance] = found
        self._owner.seen(announcement, list(found[1]))

    def gone(self, instance: str) -> None:
        """Take it that an announcement was withdrawn."""
        if self._known.pop(instance, None) is not None:
            self._owner.gone(instance)

    def clear(self) -> None:
        """Take it that nothing is known any more."""
        for instance in list(self._known):
            self.gone(instance)


class Discovery:
    """Announces a device on the local network, and tells who else is there.

    Args:
        reactor: the reactor.
        device_id: this device's.
        owner: who is told of others.
        random_bytes: returns that many unpredictable bytes.
        interfaces: addresses of the interfaces to use, and to announce; None for all of the machine
            but loopback.

    Attributes:
        problem: one line on why nothing is announced just now, or None.
        ignored: how many announcements were too many to look at.
    """

    log = Logger(namespace="abst.device")

    def __init__(
        self,
        reactor: Any,
        device_id: DeviceID,
        owner: DiscoveryOwner,
        random_bytes: Callable[[int], bytes],
        *,
        interfaces: Sequence[str] | None = None,
    ) -> None:
        self.problem: str | None = None
        self._reactor = reactor
        self._device_id = device_id
        self._random_bytes = random_bytes
        self._sightings = Sightings(owner)
        self._station = Station(reactor, interfaces, self._heard, self._withdrawn)
        self._port: int | None = None
        self._announcement: Announcement | None = None
        self._open: OpenAnnouncement | None = None
        self._opening = 0
        self._followed_at = -FOLLOW_APART_SECONDS
        self._ignored_before = 0
        self._has_missed = False
        self._working = False
        self._again = False
        self._timers: dict[str, Any] = {}
        self._stopping: list[Deferred[None]] = []

    @property
    def ignored(self) -> int:
        """How many announcements were too many to look at."""
        return self._station.ignored

    def start(self, port: int) -> None:
        """Announce that this device accepts channels on a TCP port, and look for others.

        What goes wrong is logged, and tried again when the network changes and each minute.
        """
        self._port = port
        self._reopen()
        self._arm("tick", RETRY_SECONDS, self._tick)

    def stop(self) -> Deferred[None]:
        """Withdraw what is announced, and listen no more; takes two seconds at most."""
        for name in list(self._timers):
            self._timers.pop(name).cancel()
        if self._port is None and not self._working:
            return succeed(None)
        self._port = self._announcement = self._open = None
        self._opening += 1
        self._sightings.clear()
        stopped: Deferred[None] = Deferred()
        self._stopping.append(stopped)
        self._arm("give up", STOP_SECONDS, self._has_stopped)
        self._settle()
        return stopped

    def announce_pairing(self, name: str, number: int | None) -> None:
        """Announce openly that this device waits to be paired.

        Args:
            name: what it calls itself.
            number: the number of the pairing code, if there is one.
        """
        self._open = OpenAnnouncement.make(self._device_id, name, number, self._random_bytes)
        self._settle()

    def stop_pairing(self) -> None:
        """Withdraw the open announcement, and renew the other one."""
        if self._open is not None:
            self._open = None
            self._renew()

    def network_changed(self) -> None:
        """Follow the machine's interfaces and addresses, under a new name; soon, and once."""
        if self._port is None or "follow" in self._timers:
            return
        now = self._reactor.seconds()
        wait = max(SETTLE_SECONDS, self._followed_at + FOLLOW_APART_SECONDS - now)
        self._arm("follow", wait, self._follow)

    # What the station tells, in the reactor's thread.

    def _heard(self, opening: int, announcement: AnyAnnouncement, addresses: list[Address]) -> None:
        """Take what another device announces."""
        if opening == self._opening:
            self._sightings.seen(announcement, addresses)

    def _withdrawn(self, opening: int, instance: str) -> None:
        """Take it that an announcement is gone."""
        if opening == self._opening:
            self._sightings.gone(instance)

    # Inside.

    def _arm(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        if name in self._timers:
            self._timers.pop(name).cancel()

        def ring() -> None:
            del self._timers[name]
            call()

        self._timers[name] = self._reactor.callLater(seconds, ring)

    def _renew(self) -> None:
        if self._port is None:
            return
        self._announcement = Announcement.make(self._device_id, self._random_bytes)
        fraction = int.from_bytes(self._random_bytes(4), "big") / 2**32
        wait = MIN_RENEWAL_SECONDS + fraction * (MAX_RENEWAL_SECONDS - MIN_RENEWAL_SECONDS)
        self._arm("renew", wait, self._renew)
        self._settle()

    def _follow(self) -> None:
        self._followed_at = self._reactor.seconds()
        self._reopen()

    def _reopen(self) -> None:
        self._opening += 1
        self._sightings.clear()
        if self._open is not None:
            self.announce_pairing(self._open.name, self._open.number)
        self._renew()

    def _tick(self) -> None:
        self._arm("tick", RETRY_SECONDS, self._tick)
        before, self._ignored_before = self._ignored_before, self.ignored
        self._has_missed = self._has_missed or before != self.ignored
        if self.problem is not None:
            self._settle()
        elif self._station.is_overfull() or (self._has_missed and before == self.ignored):
            # A flood is over, or fills the memory: whoever was missed in it is asked for again.
            self._has_missed = False
            self._reopen()

    def _settle(self) -> None:
        """Make the station what it should be; one thing at a time."""
        if self._working:
            self._again = True
            return
        self._working, self._again = True, False
        wanted = None
        if self._port is not None:
            announcements = (self._announcement, self._open)
            wanted = Wanted(self._opening, self._port, tuple(filter(None, announcements)))
        work = deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), self._station.become, wanted
        )
        work.addCallbacks(self._succeeded, self._failed).addBoth(self._settled)

    def _succeeded(self, result: None) -> None:
        self.problem = None

    def _failed(self, failure: Failure) -> None:
        problem = str(failure.value) or type(failure.value).__name__
        if self.problem is None:
            self.log.info(
                "nobody is found on the local network: {problem}; trying again each minute",
                problem=problem,
            )
        self.problem = problem

    def _settled(self, result: None) -> None:
        self._working = False
        if self._again:
            self._settle()
        elif self._port is None:
            self._has_stopped()

    def _has_stopped(self) -> None:
        if "give up" in self._timers:
            self._timers.pop("give up").cancel()
        waiting, self._stopping = self._stopping, []
        for stopped in waiting:
            stopped.callback(None)
