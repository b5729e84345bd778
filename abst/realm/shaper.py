"""How fast devices send: by not reading from those that are too fast (spec: realm.md, "Fairness").

Pure. Owns the rates of each device and of all together, and the line in which those stand that have
something to send while all together are too fast. The line is fair: see ``shares``. Nothing is
dropped: whoever is not read from finds its own connection full.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Container
from functools import partial
from itertools import count
from typing import Final, Protocol

from abst.realm.deadlines import Deadlines
from abst.realm.limits import Limits
from abst.realm.rates import Rate
from abst.shares import Shares

MOST_WAIT_SECONDS: Final = 1.0
"""How long a device waits at most for its own rate: its heartbeats wait behind what it has sent."""

LOOK_SECONDS: Final = 0.005
"""How often it is looked who may go on, at most."""

BURST_SECONDS: Final = 0.05
"""How much of what all may send in a second may come at once: the rest of it would wait in some
router, where it is not known who has waited longest."""

READ_BYTES: Final = 16384
"""About how much somebody sends who may go on."""

TURNS_PER_SECOND: Final = 100
"""How many turns of those that can choose make up what may go in a second, in this range."""

LEAST_TURN_BYTES: Final = 4096
MOST_TURN_BYTES: Final = 65536
UNHURRIED_BYTES: Final = 1 << 30
MAX_DEVICES: Final = 100_000
"""How many devices' rates are remembered; the least recent are forgotten."""


class Reader(Protocol):
    """What reads from a device.

    Attributes:
        is_held: whether it must not for now.
    """

    is_held: bool

    def hold(self) -> None:
        """Read no more for now."""

    def release(self, now: float) -> None:
        """Read on."""


class Shaper:
    """The rates at which devices may send.

    Args:
        limits: how fast.
        deadlines: what has to be looked at next.
        own_devices: devices that are not slowed down.

    Attributes:
        is_on: whether there is a limit; when there is none, nothing has to be counted.
        turn_bytes: how much a reader that can choose shall read at once.
    """

    def __init__(
        self, limits: Limits, deadlines: Deadlines, own_devices: Container[bytes] = ()
    ) -> None:
        self._deadlines = deadlines
        self._own_devices = own_devices
        self._numbers = count()
        self._rates: OrderedDict[bytes, tuple[Rate | None, Rate | None]] = OrderedDict()
        self._line: list[tuple[int, int, bytes, Reader]] = []
        self._shares: Shares[bytes] = Shares(READ_BYTES)
        self._looks_at: float | None = None
        self.use_limits(limits)

    def use_limits(self, limits: Limits) -> None:
        """Let these limits count from now on; who is held goes on when its time comes."""
        self._device_bytes = limits.device_bytes_per_second
        self._device_packets = limits.device_packets_per_second
        self._rates.clear()
        of_all = limits.bytes_per_second
        self._of_all = Rate(of_all, -math.inf, burst_seconds=BURST_SECONDS) if of_all else None
        self.is_on = bool(self._device_bytes or self._device_packets or of_all)
        slowest = min(filter(None, (self._device_bytes, of_all)), default=0)
        turn_bytes = min(MOST_TURN_BYTES, max(LEAST_TURN_BYTES, slowest // TURNS_PER_SECOND))
        self.turn_bytes = turn_bytes if slowest else UNHURRIED_BYTES

    def clear(self) -> None:
        """Forget who stands in the line: all connections have ended."""
        self._line.clear()
        self._shares.clear()
        self._looks_at = None

    def spend(
        self,
        reader: Reader,
        device: bytes,
        own_bytes: int,
        packets: int,
        all_bytes: int,
        now: float,
    ) -> bool:
        """Count what a device has sent; hold the reader for a while if it was too fast.

        Args:
            reader: what has read it; when it is held already, it is counted and nothing else.
            device: who has sent it.
            own_bytes: how much came.
            packets: how many packets were in it.
            all_bytes: how much of it goes out again: as often as it has receivers.
            now: the time.

        Returns:
            Whether the reader is held; it will be released.
        """
        if device in self._own_devices:
            return False
        wait = self._own_wait(device, own_bytes, packets, now)
        is_scarce = self._spend_of_all(device, all_bytes, now)
        if reader.is_held:
            return False
        if wait:
            reader.hold()
            self._deadlines.add(now + wait, partial(self._own_time_over, reader, device))
        elif is_scarce:
            reader.hold()
            self._line_up(reader, device, now)
        return bool(wait or is_scarce)

    def _own_wait(self, device: bytes, own_bytes: int, packets: int, now: float) -> float:
        if not self._device_bytes and not self._device_packets:
            return 0.0
        rates = self._rates.pop(device, None) or (
            _own_rate(self._device_bytes, now),
            _own_rate(self._device_packets, now),
        )
        self._rates[device] = rates
        if len(self._rates) > MAX_DEVICES:
            self._rates.popitem(last=False)
        spent = zip(rates, (own_bytes, packets), strict=True)
        return max(0.0 if rate is None else rate.take(count, now) for rate, count in spent)

    def _own_time_over(self, reader: Reader, device: bytes, now: float) -> None:
        if self._is_scarce(now):
            self._line_up(reader, device, now)
        else:
            reader.release(now)

    # What all devices share.

    def _spend_of_all(self, device: bytes, count: int, now: float) -> bool:
        """Count bytes among those of all; return whether there are too many."""
        if self._of_all is None:
            return False
        self._of_all.take(count, now)
        if not self._is_scarce(now):
            if self._shares:
                self._shares.clear()
            return False
        self._shares.take(device, self._shares.start_of(device), count)
        return True

    def _is_scarce(self, now: float) -> bool:
        return bool(self._line) or (self._of_all is not None and self._of_all.left(now) < 0)

    def _line_up(self, reader: Reader, device: bytes, now: float) -> None:
        """Let a reader wait until those have read that have used less."""
        entry = (self._shares.start_of(device), next(self._numbers), device, reader)
        heapq.heappush(self._line, entry)
        self._look_later(now)

    def _look_later(self, now: float) -> None:
        if self._looks_at is None:
            wait = 0.0 if self._of_all is None else self._of_all.wait(now)
            self._looks_at = now + max(LOOK_SECONDS, wait)
            self._deadlines.add(self._looks_at, self._look)

    def _look(self, now: float) -> None:
        """Let as many go on as there are bytes for; what they do read is counted when they do."""
        if self._looks_at is None or now < self._looks_at:
            return
        self._looks_at = None
        left = math.inf if self._of_all is None else self._of_all.left(now)
        gone_on: set[bytes] = set()
        others: list[tuple[int, int, bytes, Reader]] = []
        while self._line and left >= 0:
            start, number, device, reader = heapq.heappop(self._line)
            newest_start = self._shares.start_of(device)
            if device in gone_on:
                # What it is going to read is not counted yet, so its other readers wait.
                others.append((start, number, device, reader))
            elif newest_start > start:
                heapq.heappush(self._line, (newest_start, number, device, reader))
            else:
                gone_on.add(device)
                reader.release(now)
                left -= READ_BYTES
        for entry in others:
            heapq.heappush(self._line, entry)
        if self._line:
            self._look_later(now)


def _own_rate(per_second: int, now: float) -> Rate | None:
    return Rate(per_second, now, most_seconds=MOST_WAIT_SECONDS) if per_second else None
