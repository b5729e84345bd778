"""Paths: what carries a session, how well each does, and which one is used. Pure.

Spec: channel.md, "Paths". ``Health`` measures one channel; ``choose`` decides between several.
Whose word counts when two devices see things differently is part of the rule, so that they never
chase each other from path to path.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from abst.address import RealmAddress

HEARTBEAT_SECONDS: Final = 15.0
FOLLOWER_SECONDS: Final = 2.0
"""The device with the higher ID waits so much longer: as a rule the answer to a ping is enough."""

DEAD_SECONDS: Final = 35.0
LEAST_PATIENCE_SECONDS: Final = 0.5
"""How long an answer may take at least; else three round trips."""

SPARE_PATIENCE_SECONDS: Final = 0.5
"""What is added while there is no other reason to doubt: the other side may be busy."""

MISSES: Final = 3
"""So many answers in a row are missing when a path is suspect; one, once it is in doubt."""

PROOFS: Final = 3
"""So many round trips prove a path that another one is to be left for."""

REST_SECONDS: Final = 10.0
"""How long a path that was suspect and came back has to do well; twice that after each time."""

MAX_REST_SECONDS: Final = 300.0
CLOSER_FACTOR: Final = 0.5
CLOSER_SECONDS: Final = 0.01
"""A path of the same kind has to be so much faster to be worth a move."""

_SMOOTHING: Final = 0.25
_MAX_PINGS: Final = 8


class Reason(enum.Enum):
    """Why a path is used, as it is shown to people."""

    FIRST = "it was there first"
    ONLY = "there is no other"
    DIRECT = "direct is better than through a realm"
    FASTER = "it is faster"
    SILENT = "the other one had fallen silent"
    FOLLOWED = "the other device has chosen it"


@dataclass(frozen=True, slots=True)
class Path:
    """The way that packets take to a peer.

    Attributes:
        kind: "direct" or "realm".
        realm: the realm that relays, or None.
        address: the other end's ``HOST:PORT`` when direct, or None.
        rtt_seconds: the smoothed round-trip time, None before it was measured.
        reason: why this path is used.
    """

    kind: str
    realm: RealmAddress | None = None
    address: str | None = None
    rtt_seconds: float | None = field(default=None, compare=False)
    reason: str = field(default="", compare=False)

    def __str__(self) -> str:
        where = f"{self.realm.host}:{self.realm.port}" if self.realm else self.address
        return f"{self.kind} {where}" if where else self.kind


class Health:
    """How well one channel does.

    Attributes:
        rtt_seconds: the smoothed round-trip time, None before it was measured.
        proofs: how many round trips there have been since it was last suspect.
        heard_at: when anything last came.
    """

    def __init__(self, now: float) -> None:
        self.rtt_seconds: float | None = None
        self.proofs = 0
        self.heard_at = now
        self.rests_until = 0.0
        self._asked_at: float | None = None
        self._misses = 0
        self._is_doubted = False
        self._relapses = 0
        self._pings: dict[int, float] = {}

    @property
    def patience_seconds(self) -> float:
        """How long an answer may take."""
        return max(3 * (self.rtt_seconds or 0.0), LEAST_PATIENCE_SECONDS)

    @property
    def is_suspect(self) -> bool:
        """Whether so many answers are missing that another path is worth a move."""
        return self._misses >= (1 if self._is_doubted else MISSES)

    def asked(self, now: float) -> None:
        """Note that something was sent that the other side has to answer."""
        if self._asked_at is None:
            self._asked_at = now

    def pinged(self, number: int, now: float) -> None:
        """Note that a ping was sent."""
        if len(self._pings) >= _MAX_PINGS:
            del self._pings[next(iter(self._pings))]
        self._pings[number] = now
        self.asked(now)

    def doubt(self) -> None:
        """Let one missing answer be enough: something has happened to the network."""
        self._is_doubted = True

    def heard(self, now: float) -> None:
        """Note that something has come."""
        if self.is_suspect:
            # It was slow, not dead: it has to do well for a while before it is used again.
            self.proofs = 0
            rest = min(REST_SECONDS * 2**self._relapses, MAX_REST_SECONDS)
            self._relapses = min(self._relapses + 1, 10)
            self.rests_until = now + rest
        self.heard_at = now
        self._asked_at = None
        self._misses = 0
        self._is_doubted = False

    def answered(self, number: int, now: float) -> None:
        """Note that a ping was answered."""
        begun = self._pings.pop(number, None)
        if begun is None:
            return
        self.proofs += 1
        found = max(0.0, now - begun)
        if self.rtt_seconds is None:
            self.rtt_seconds = found
        else:
            self.rtt_seconds += _SMOOTHING * (found - self.rtt_seconds)

    def overdue(self, now: float) -> bool:
        """Count an answer that is missing by now; True when there is one, to ask again."""
        if now < self.next_deadline():
            return False
        self._misses += 1
        self._asked_at = now
        return True

    def next_deadline(self) -> float:
        """Return when the answer that is awaited is missing; infinity when none is awaited."""
        if self._asked_at is None:
            return float("inf")
        spare = 0.0 if self._is_doubted else SPARE_PATIENCE_SECONDS
        return self._asked_at + self.patience_seconds + spare


class Candidate(Protocol):
    """A channel that could carry the session: its Key check is passed."""

    @property
    def is_direct(self) -> bool:
        """Whether it goes through no realm."""

    @property
    def health(self) -> Health:
        """How well it does."""


Leg = TypeVar("Leg", bound=Candidate)


def choose(
    legs: Sequence[Leg],
    active: Leg | None,
    asked_for: Leg | None,
    *,
    decides: bool,
    now: float,
) -> tuple[Leg | None, Reason]:
    """Return the channel that shall carry what this device sends, and why.

    Args:
        legs: the channels whose Key check is passed, oldest first.
        active: the one that is used now, or None.
        asked_for: the one that the other device uses, or None.
        decides: whether this device's choice counts: it has the lower ID.
        now: the time.
    """
    usable = [leg for leg in legs if not leg.health.is_suspect]
    if not decides and asked_for is not None and asked_for in usable:
        return asked_for, Reason.FOLLOWED
    if active is not None and not usable:
        return active, Reason.ONLY
    found, reason = active, Reason.FIRST
    if active is None or active not in usable:
        found = _best(usable or legs, now)
        reason = Reason.FIRST if active is None else Reason.SILENT
    if not decides or found is None:
        return found, reason
    better = _better(usable, found, now)
    if better is None:
        return found, reason
    return better[0], better[1] if found is active else reason


def _best(legs: Sequence[Leg], now: float) -> Leg | None:
    """Return the one to begin with, before anything can be compared."""

    def rank(numbered: tuple[int, Leg]) -> tuple[bool, bool, int]:
        number, leg = numbered
        # The newest of those that are as good: its dialler had a reason.
        return now >= leg.health.rests_until, leg.is_direct, number

    return max(enumerate(legs), key=rank, default=(0, None))[1]


def _better(legs: Sequence[Leg], active: Leg, now: float) -> tuple[Leg, Reason] | None:
    """Return the best that is worth a move, so that one move is enough."""
    found = [(leg, why) for leg in legs if (why := _is_better(leg, active, now)) is not None]
    return min(found, key=_slowness, default=None)


def _slowness(found: tuple[Candidate, Reason]) -> tuple[bool, float]:
    leg = found[0]
    return not leg.is_direct, leg.health.rtt_seconds or 0.0


def _is_better(leg: Candidate, active: Candidate, now: float) -> Reason | None:
    if leg is active or leg.health.proofs < PROOFS or now < leg.health.rests_until:
        return None
    if leg.is_direct and not active.is_direct:
        return Reason.DIRECT
    if leg.is_direct != active.is_direct:
        return None
    mine, its = leg.health.rtt_seconds, active.health.rtt_seconds
    if mine is None or its is None or active.health.proofs < PROOFS:
        return None
    is_faster = mine < its * CLOSER_FACTOR and mine < its - CLOSER_SECONDS
    return Reason.FASTER if is_faster else None
