"""What is measured as long as somebody may look: probe, lag, commits, the last minutes' traffic.

Owns the measuring, and what is made of it: the numbers, and what is not well. One look serves all
who look within a second, so that looking costs the same however many do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.task import LoopingCall

from abst.address import RealmAddress, pin_of_key
from abst.open_files import count_open_files, most_open_files
from abst.realm.lag import LagMeter
from abst.realm.probe import Probe
from abst.realm.protocol import RealmFactory
from abst.realm.timings import Timings
from abst.realm.web.history import SAMPLE_SECONDS, History, Sample
from abst.realm.web.numbers import Numbers, read
from abst.realm.web.problems import Health, problems
from abst.realm.web.way import Way
from abst.tls import key_of, shown_certificate

LOOK_SECONDS: Final = 1.0

FOR_EVER_YEAR: Final = 9999
"""A certificate that is good until then does not run out (RFC 5280, 4.1.2.5)."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the realm has shown.

    Attributes:
        numbers: what there is to count.
        health: what is judged beside that.
        problems: what is not well, in words.
        uptime_seconds: for how long the realm has been running.
        at: the time, in seconds since 1970.
    """

    numbers: Numbers
    health: Health
    problems: dict[str, str]
    uptime_seconds: float
    at: float


class Watch:
    """Measures a realm.

    Args:
        reactor: the reactor.
        factory: the realm.
        way: how the realm reaches itself; None: it cannot, and does not probe itself.
        wall: returns the seconds since 1970.
        monotonic: returns seconds on a clock that is never set.

    Attributes:
        factory: the realm.
        probe: the realm's own devices, or None.
        lag_seconds: how late the reactor was.
        commit_seconds: how long the disk took for each batch.
        failed_commits: how many batches it has not taken whole.
        history: the last minutes' traffic.
        started: when the watch began, in seconds since 1970.
    """

    def __init__(
        self,
        reactor: Any,
        factory: RealmFactory,
        way: Way | None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.factory = factory
        self.probe: Probe | None = None
        if way is not None:
            own = factory.realm.access.own_devices
            self.probe = Probe(reactor, lambda: self._address(way), own, way.greeting)
        self.lag_seconds = Timings()
        self.commit_seconds = Timings()
        self.failed_commits = 0
        self.history = History()
        self.started = wall()
        self._wall = wall
        self._monotonic = monotonic
        self._begun = monotonic()
        self._is_kept = True
        self._lag = LagMeter(reactor, self.lag_seconds)
        self._sampling = LoopingCall(self._sample)
        self._sampling.clock = reactor
        self._last: Look | None = None
        self._looked_at = -math.inf

    def start(self) -> None:
        """Begin to measure."""
        self._lag.start()
        self._sampling.start(SAMPLE_SECONDS)
        if self.probe is not None:
            self.probe.start()

    async def stop(self) -> None:
        """Measure no more; returns when the realm's own devices are gone."""
        self._lag.stop()
        if self._sampling.running:
            self._sampling.stop()
        if self.probe is not None:
            await self.probe.stop()

    def committed(self, seconds: float, is_done: bool) -> None:
        """Hear how long the disk took for a batch, and whether it took all of it."""
        self.commit_seconds.add(seconds)
        self.failed_commits += not is_done
        self._is_kept = is_done

    def look(self) -> Look:
        """Return what is to be seen, at most a second old."""
        now = self._monotonic()
        if self._last is None or now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._last = self._look(now)
        return self._last

    def certificate_expires(self) -> float | None:
        """Return until when the realm's certificate is good, since 1970; None for ever."""
        not_after = shown_certificate(self.factory.context).not_valid_after_utc
        return None if not_after.year >= FOR_EVER_YEAR else not_after.timestamp()

    def _look(self, now: float) -> Look:
        numbers = read(self.factory.realm, len(self.factory.newcomers), len(self.factory.legs))
        expires = self.certificate_expires()
        probe = self.probe
        health = Health(
            probe_problem=None if probe is None else probe.problem,
            probe_seconds=None if probe is None else probe.relay_seconds.newest_seconds,
            is_kept=self._is_kept,
            commit_seconds=self.commit_seconds.newest_seconds,
            lag_seconds=self.lag_seconds.quantile(0.99),
            open_files=count_open_files(),
            most_files=most_open_files(),
            certificate_seconds=None if expires is None else expires - self._wall(),
        )
        return Look(numbers, health, problems(numbers, health), now - self._begun, self._wall())

    def _sample(self) -> None:
        realm = self.factory.realm
        counters = realm.counters
        self.history.add(
            Sample(
                at=self._monotonic(),
                here=realm.here,
                packets=counters.relayed_packets,
                bytes=counters.relayed_bytes,
                drops=counters.dropped_packets.total(),
            )
        )

    def _address(self, way: Way) -> RealmAddress:
        """Return the realm's address with the pin of what it shows just now."""
        shown = shown_certificate(self.factory.context)
        return RealmAddress(way.host, way.port, pin_of_key(key_of(shown)))
