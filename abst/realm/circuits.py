"""The circuits of a realm: who may have one, whose legs have come, and how much goes over it.

Pure (spec: circuits.md). Owns the tokens, what each leg that comes to nothing is told, and every
limit of circuits. It moves no bytes: whoever does counts them here, and is told when to wait and
when it is over.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from abst import packets
from abst.errors import MEANINGS, Code
from abst.packets import CIRCUIT_ID_BYTES, TOKEN_BYTES, Error
from abst.realm.counters import Counters
from abst.realm.deadlines import Deadlines
from abst.realm.limits import Limits
from abst.realm.meter import Meter
from abst.realm.quota import Quota
from abst.realm.rates import DayVolume, Rate
from abst.realm.refusal import Refusal
from abst.realm.switchboard import Switchboard

TURN_BYTES: Final = 1024 * 1024
"""How much one circuit moves before others have their turn."""

LEAST_TURN_BYTES: Final = 4096
TURNS_PER_SECOND: Final = 10
"""Into how many pieces a second's bytes are cut where a rate is in force."""

FULL_RETRY_SECONDS: Final = 10.0
MAX_ACCOUNTS: Final = 100_000

LIMITS_TOLD: Final = (
    "device_circuits",
    "circuit_requests_per_minute",
    "circuit_idle_seconds",
    "circuit_bytes",
    "circuit_bytes_per_second",
    "device_circuit_bytes_per_second",
    "device_circuit_bytes_per_day",
)


class Leg(Protocol):
    """A connection that has brought a good token; an adapter's."""

    def refuse(self, code: Code) -> None:
        """Say why nothing comes of it, and close."""

    def reset(self) -> None:
        """Cut it off."""

    def meet(self, other: Leg, circuit: Circuit) -> None:
        """Be joined with the other leg; called for one of the two."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What the two devices are told of a circuit that has just been made.

    Attributes:
        for_asker: the answer to Connect to device.
        for_target: what the other device is told.
    """

    for_asker: packets.Circuit
    for_target: packets.Circuit


class State(enum.Enum):
    """Where a circuit stands."""

    MEETING = "its legs are awaited"
    DEAD = "nothing comes of it, which a leg that still comes is told"
    JOINED = "bytes go over it"
    OVER = "over"


@dataclass(slots=True)
class _Account:
    """What one device uses, whichever of its circuits does."""

    circuits: int = 0
    rate: Rate | None = None
    volume: DayVolume | None = None

    def use_limits(self, limits: Limits, now: float = -math.inf) -> None:
        """Let these limits count; what has gone on this day counts too."""
        fast, much = limits.device_circuit_bytes_per_second, limits.device_circuit_bytes_per_day
        self.rate = Rate(fast, now) if fast else None
        if not much:
            self.volume = None
        elif self.volume is None:
            self.volume = DayVolume(much, now)
        else:
            self.volume.most_bytes = much


@dataclass(eq=False, slots=True)
class Seat:
    """One of the two ends of a circuit, and the leg that has come for it."""

    circuit: Circuit
    device: bytes
    token_hash: bytes
    leg: Leg | None = None
    is_charged: bool = True

    def take(self, leg: Leg, now: float) -> None:
        """Take the leg whose token was good."""
        self.circuit.leg_came(self, leg, now)

    def leave(self) -> None:
        """Hear that the leg is gone before it was joined."""
        self.circuit.leg_left(self)


@dataclass(eq=False)
class Circuit:
    """One circuit, from the question to its end.

    Attributes:
        id: its name, in the Errors about it.
        turn_bytes: how much shall go at once before it is counted.
        bytes: how many have gone, both ways together.
        ended_for: why the realm has ended it while it was joined; None when it has not.
        when_over: called once it is over, if somebody wants to know.
    """

    id: bytes
    circuits: Circuits
    state: State = State.MEETING
    turn_bytes: int = TURN_BYTES
    bytes: int = 0
    seats: tuple[Seat, ...] = ()
    ended_for: Code | None = None
    when_over: Callable[[], None] | None = None
    _heard_at: float = 0.0
    _verdict: Code = Code.CIRCUIT_UNANSWERED
    _rates: list[Rate] = field(default_factory=list)
    _volumes: list[DayVolume] = field(default_factory=list)
    _is_limited: bool = False
    _is_metered: bool = False

    # Before it is joined.

    def leg_came(self, seat: Seat, leg: Leg, now: float) -> None:
        """Note a leg; join the two when the other one is here."""
        if self.state is not State.MEETING:
            leg.refuse(self._verdict)
            self.circuits.count_refused_leg(self._verdict)
            self._end_if_all_came()
            return
        seat.leg = leg
        first, second = (it.leg for it in self.seats)
        if first is not None and second is not None:
            self._join(first, second, now)

    def leg_left(self, seat: Seat) -> None:
        """Note that a leg is gone again; nothing comes of the circuit."""
        seat.leg = None
        if self.state is State.MEETING:
            self.refuse(Code.CIRCUIT_UNANSWERED)

    def refuse(self, code: Code) -> None:
        """Let nothing come of it: tell the leg that waits, or the one that comes."""
        self.state = State.DEAD
        self._verdict = code
        for seat in self.seats:
            self.circuits.release(seat)
            leg, seat.leg = seat.leg, None
            if leg is not None:
                leg.refuse(code)
                self.circuits.count_refused_leg(code)
        self._end_if_all_came()

    def shut_out(self, code: Code) -> None:
        """End it at once, since one of its devices may not be here any more."""
        if self.state is State.JOINED:
            self.circuits.counters.ended_circuits[code] += 1
            self.ended_for = code
            self.reset()
            return
        if self.state is State.MEETING:
            self.refuse(Code.CIRCUIT_REFUSED)
        # So the tokens that have not been used are good for nothing either.
        self.circuits.forget(self)

    def look_for_legs(self, now: float) -> None:
        """End it when the two legs have not come by now."""
        if self.state is State.MEETING:
            self.refuse(Code.CIRCUIT_UNANSWERED)
        if self.state is State.DEAD:
            self.circuits.forget(self)

    def _end_if_all_came(self) -> None:
        if not any(self.circuits.is_awaited(seat) for seat in self.seats):
            self.circuits.forget(self)

    def _join(self, first: Leg, second: Leg, now: float) -> None:
        circuits = self.circuits
        self.state = State.JOINED
        self._heard_at = now
        circuits.counters.circuits_joined += 1
        circuits.deadlines.add(now + circuits.limits.circuit_idle_seconds, self._look_for_idle)
        self._bound(now)
        first.meet(second, self)

    def use_limits(self) -> None:
        """Let the limits count that there are now."""
        if self.state is State.JOINED:
            self._bound(-math.inf)

    def _bound(self, now: float) -> None:
        """Collect the limits that count for this circuit."""
        limits = self.circuits.limits
        self.turn_bytes = TURN_BYTES
        self._rates.clear()
        self._volumes.clear()
        if limits.circuit_bytes_per_second:
            self._rates.append(Rate(limits.circuit_bytes_per_second, now))
        for account in map(self.circuits.account_of, {seat.device for seat in self.seats}):
            if account.rate is not None:
                self._rates.append(account.rate)
            if account.volume is not None:
                self._volumes.append(account.volume)
        rates = (limits.circuit_bytes_per_second, limits.device_circuit_bytes_per_second)
        for rate in filter(None, rates):
            each = max(LEAST_TURN_BYTES, rate // TURNS_PER_SECOND)
            self.turn_bytes = min(self.turn_bytes, each)
        self._is_metered = self.circuits.meter.is_on
        self._is_limited = bool(
            self._rates or self._volumes or limits.circuit_bytes or self._is_metered
        )

    # While it is joined.

    def count(self, count: int, now: float) -> float:
        """Count bytes that have come on a leg; return for how long that leg must not be read.

        When as many have gone as may, the circuit ends, and both legs are reset by then.
        """
        self.bytes += count
        self._heard_at = now
        self.circuits.counters.circuit_bytes += count
        return self._wait_after(count, now) if self._is_limited else 0.0

    def _wait_after(self, count: int, now: float) -> float:
        most = self.circuits.limits.circuit_bytes
        spent = 0 < most < self.bytes
        for volume in self._volumes:
            spent = volume.take(count, now) or spent
        if self._is_metered:
            devices = {seat.device for seat in self.seats}
            spent = self.circuits.meter.charge(devices, count) or spent
        if spent:
            self._end(Code.CIRCUIT_SPENT)
            return 0.0
        return max((rate.take(count, now) for rate in self._rates), default=0.0)

    def _look_for_idle(self, now: float) -> None:
        if self.state is State.JOINED:
            due = self._heard_at + self.circuits.limits.circuit_idle_seconds
            if now >= due:
                self._end(Code.CIRCUIT_IDLE)
            else:
                self.circuits.deadlines.add(due, self._look_for_idle)

    def _end(self, code: Code) -> None:
        """End a joined circuit, and tell both devices why."""
        if self.state is not State.JOINED:
            return
        self.circuits.counters.ended_circuits[code] += 1
        self.ended_for = code
        told = Error(str(code), MEANINGS[code].sentence, about=1, circuit=self.id)
        for device in {seat.device for seat in self.seats}:
            self.circuits.tell(device, told)
        self.reset()

    def reset(self) -> None:
        """Cut both legs off."""
        legs = [seat.leg for seat in self.seats if seat.leg is not None]
        self.ended()
        for leg in legs:
            leg.reset()

    def ended(self) -> None:
        """Hear that both legs are gone, or end without another word."""
        self.circuits.forget(self)


class Circuits:
    """All circuits of one realm.

    Args:
        limits: how many, how long, how much.
        random_bytes: returns that many unpredictable bytes.
        switchboard: who is here.
        counters: where they are counted.
        deadlines: what has to be looked at next.
        is_admitted: tells whether a device may be here.
        meter: what devices have sent in this month.
    """

    def __init__(
        self,
        limits: Limits,
        random_bytes: Callable[[int], bytes],
        switchboard: Switchboard,
        counters: Counters,
        deadlines: Deadlines,
        is_admitted: Callable[[bytes], bool],
        meter: Meter,
    ) -> None:
        self.counters = counters
        self.deadlines = deadlines
        self.meter = meter
        self._is_admitted = is_admitted
        self._random_bytes = random_bytes
        self._switchboard = switchboard
        self._circuits: dict[bytes, Circuit] = {}
        # Under the hashes of their tokens: how long a look takes says nothing of any token.
        self._awaited: dict[bytes, Seat] = {}
        self._accounts: OrderedDict[bytes, _Account] = OrderedDict()
        self.use_limits(limits)

    def use_limits(self, limits: Limits) -> None:
        """Let these limits count from now on, also for the circuits that there are."""
        self.limits = limits
        per_minute = limits.circuit_requests_per_minute
        self._requests = Quota(per_minute, per_minute / 60)
        for account in self._accounts.values():
            account.use_limits(limits)
        for circuit in self._circuits.values():
            circuit.use_limits()

    def __len__(self) -> int:
        return len(self._circuits)

    def devices(self) -> set[bytes]:
        """Return the devices that have a circuit."""
        return {seat.device for circuit in self._circuits.values() for seat in circuit.seats}

    def shut_out(self, device: bytes, code: Code) -> None:
        """End every circuit of a device that may not be here any more."""
        for circuit in tuple(self._circuits.values()):
            if any(seat.device == device for seat in circuit.seats):
                circuit.shut_out(code)

    def count_states(self) -> Counter[State]:
        """Return how many circuits there are of each state."""
        return Counter(circuit.state for circuit in self._circuits.values())

    # What devices say.

    def ask(self, asker: bytes, wanted: packets.ConnectToDevice, now: float) -> Offer | Refusal:
        """Make a circuit between the device that asks and the one that it wants."""
        wait = self._requests.take(asker, now)
        if wait:
            return Refusal(Code.RATE_LIMITED, round(wait, 1) + 0.1)
        target = wanted.target_device
        if self._switchboard.route(target) is None:
            return Refusal(Code.TARGET_ABSENT)
        devices = (asker, target)
        wait = self.meter.seconds_without(devices) if self.meter.is_on else 0.0
        if wait:
            return Refusal(Code.VOLUME_SPENT, wait)
        wait = max(self._seconds_without_volume(device, now) for device in devices)
        if wait:
            return Refusal(Code.RATE_LIMITED, round(wait, 1))
        if len(self._circuits) >= self.limits.circuits or any(map(self._is_full, devices)):
            return Refusal(Code.CIRCUITS_FULL, FULL_RETRY_SECONDS)
        return self._make(asker, wanted, now)

    def claim(self, token: bytes, device: bytes | None, now: float) -> Seat | None:
        """Return the seat that a token is good for, once; None when it is not good.

        Args:
            token: what the leg has brought.
            device: whose leg it is, or None when nothing but the token tells.
            now: the time.
        """
        token_hash = hashlib.sha256(token).digest()
        seat = self._awaited.get(token_hash)
        if seat is None or device not in (None, seat.device):
            return None
        del self._awaited[token_hash]
        # Whoever is shut out has no circuit by then; this holds whatever else may fail.
        if not all(self._is_admitted(other.device) for other in seat.circuit.seats):
            return None
        return seat

    def refuse(self, circuit_id: bytes, device: bytes) -> None:
        """Hear that the target does not want a circuit, or the asker does not want it any more.

        A third device's word counts for nothing.
        """
        circuit = self._circuits.get(circuit_id)
        if circuit is None or circuit.state is not State.MEETING:
            return
        # Who has asked for a circuit to itself refuses it as its target.
        for seat in reversed(circuit.seats):
            if seat.device == device:
                self._awaited.pop(seat.token_hash, None)
                circuit.refuse(Code.CIRCUIT_REFUSED)
                return

    def stop(self) -> None:
        """End all circuits: legs that wait are told why, joined ones are cut off."""
        for circuit in tuple(self._circuits.values()):
            if circuit.state is State.JOINED:
                circuit.reset()
            else:
                circuit.refuse(Code.RESTARTING)
                self.forget(circuit)

    # For the circuits.

    def count_refused_leg(self, code: Code) -> None:
        """Count a leg that came to nothing."""
        self.counters.refused_legs[code] += 1

    def is_awaited(self, seat: Seat) -> bool:
        """Tell whether a leg with this seat's token may still come."""
        return seat.token_hash in self._awaited

    def account_of(self, device: bytes) -> _Account:
        """Return what counts for all circuits of a device."""
        return self._accounts[device]

    def tell(self, device: bytes, packet: packets.Packet) -> None:
        """Tell a device something, if it is here."""
        destination = self._switchboard.route(device)
        if destination is not None:
            destination.tell(packet)

    def forget(self, circuit: Circuit) -> None:
        """Forget a circuit that is over; its tokens are good for nothing."""
        if self._circuits.pop(circuit.id, None) is None:
            return
        circuit.state = State.OVER
        for seat in circuit.seats:
            self._awaited.pop(seat.token_hash, None)
            self.release(seat)
            seat.leg = None
        if circuit.when_over is not None:
            circuit.when_over()

    def release(self, seat: Seat) -> None:
        """Charge a device no more for a circuit that carries nothing."""
        if not seat.is_charged:
            return
        seat.is_charged = False
        account = self._accounts[seat.device]
        account.circuits -= 1
        if not account.circuits and account.volume is None and account.rate is None:
            del self._accounts[seat.device]
        # A day's volume and a rate are remembered longer, but not of everybody for ever.
        for device in list(
            itertools.islice(self._accounts, max(0, len(self._accounts) - MAX_ACCOUNTS))
        ):
            if not self._accounts[device].circuits:
                del self._accounts[device]

    # Inside.

    def _make(self, asker: bytes, wanted: packets.ConnectToDevice, now: float) -> Offer:
        target = wanted.target_device
        circuit = Circuit(self._random_bytes(CIRCUIT_ID_BYTES), self)
        tokens = [self._random_bytes(TOKEN_BYTES) for _ in range(2)]
        circuit.seats = tuple(
            Seat(circuit, device, hashlib.sha256(token).digest())
            for device, token in zip((asker, target), tokens, strict=True)
        )
        self._circuits[circuit.id] = circuit
        for seat in circuit.seats:
            self._awaited[seat.token_hash] = seat
            self._charge(seat, now)
        seconds = self.limits.circuit_meet_seconds
        self.deadlines.add(now + seconds, circuit.look_for_legs)
        self.counters.circuits_offered += 1
        limits = {name: getattr(self.limits, name) for name in LIMITS_TOLD}
        told = (circuit.id, tokens[0], target, True, seconds, limits, wanted.request)
        return Offer(
            packets.Circuit(*told),
            packets.Circuit(circuit.id, tokens[1], asker, False, seconds, limits),
        )

    def _is_full(self, device: bytes) -> bool:
        account = self._accounts.get(device)
        return account is not None and account.circuits >= self.limits.device_circuits

    def _seconds_without_volume(self, device: bytes, now: float) -> float:
        account = self._accounts.get(device)
        if account is None or account.volume is None:
            return 0.0
        return account.volume.seconds_left(now)

    def _charge(self, seat: Seat, now: float) -> None:
        account = self._accounts.get(seat.device)
        if account is None:
            account = self._accounts[seat.device] = _Account()
            account.use_limits(self.limits, now)
        account.circuits += 1
        self._accounts.move_to_end(seat.device)
