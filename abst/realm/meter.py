"""How much devices have sent in this month (spec: realm.md, "A month's bytes").

Pure. Owns the counts, of each device and of all together, the month that they are of, and when the
store is given them. Months are those of the calendar, in UTC. A clock that is set back brings no
second volume: until the latest month that was begun is over, what has been sent counts. One that
was far ahead blocks nobody for long: then it counts to the end of the present month.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Final

from abst.realm.limits import Limits
from abst.realm.store.interface import Store, Volumes

SAVE_SECONDS: Final = 60.0
"""How often the store is given what has changed, while something goes."""

MAX_DEVICES: Final = 100_000
"""So many devices have a count of their own; those that come later share one."""

_OTHERS: Final = b""
_NO_LIMIT: Final = float("inf")


class Meter:
    """The month's counts.

    Args:
        limits: how much may be sent.
        store: what lasts.
        wall: returns the seconds since 1970.
        own_devices: devices that are not counted.

    Attributes:
        is_on: whether there is a limit; when there is none, nothing has to be counted.
    """

    def __init__(
        self, limits: Limits, store: Store, wall: Callable[[], float], own_devices: set[bytes]
    ) -> None:
        self._store = store
        self._wall = wall
        self._own_devices = own_devices
        kept = store.volumes()
        # The latest month that was begun; the counts are of it.
        self._month = kept.month
        self._in_all = kept.in_all
        self._by_device = dict(kept.by_device)
        self._changed: set[bytes] = set()
        # The present month, by the clock.
        self._begins = self._ends = 0.0
        self._saved_at = wall()
        self.use_limits(limits)

    def use_limits(self, limits: Limits) -> None:
        """Let these limits count from now on."""
        self._most = limits.device_bytes_per_month or _NO_LIMIT
        self._most_in_all = limits.bytes_per_month or _NO_LIMIT
        self.is_on = bool(limits.device_bytes_per_month or limits.bytes_per_month)

    def spend(self, device_id: bytes, count: int) -> bool:
        """Count what a device is about to send; False, and nothing counted, when it may not."""
        if device_id in self._own_devices:
            return True
        self._look_at_clock()
        key = self._key_of(device_id)
        used = self._by_device.get(key, 0) + count
        if used > self._most or self._in_all + count > self._most_in_all:
            return False
        self._by_device[key] = used
        self._changed.add(key)
        self._in_all += count
        return True

    def charge(self, devices: Iterable[bytes], count: int) -> bool:
        """Count what has gone between devices; return whether one of them may send no more."""
        devices = [device_id for device_id in devices if device_id not in self._own_devices]
        self._look_at_clock()
        for key in map(self._key_of, devices):
            self._by_device[key] = self._by_device.get(key, 0) + count
            self._changed.add(key)
        if devices:
            self._in_all += count
        return any(map(self._is_spent, devices))

    def seconds_without(self, devices: Iterable[bytes]) -> float:
        """Return how long one of some devices may send nothing; 0.0 when all may."""
        self._look_at_clock()
        if not any(map(self._is_spent, devices)):
            return 0.0
        return self.seconds_left()

    def used(self, device_id: bytes) -> int | None:
        """Return what counts of a device this month; None when nothing is counted."""
        if not self.is_on:
            return None
        self._look_at_clock()
        return self._by_device.get(device_id, 0)

    def used_in_all(self) -> int | None:
        """Return what counts of all devices this month; None when nothing is counted."""
        if not self.is_on:
            return None
        self._look_at_clock()
        return self._in_all

    def seconds_left(self) -> float:
        """Return how long this month still is."""
        return round(max(1.0, self._ends - self._wall()), 1)

    def save(self) -> None:
        """Give the store what has changed since the last time."""
        self._saved_at = self._wall()
        if not self._changed:
            return
        month, changed, self._changed = self._month, self._changed, set()

        def answered(is_kept: bool) -> None:
            if not is_kept and month == self._month:
                self._changed |= changed

        by_device = {device_id: self._by_device[device_id] for device_id in changed}
        self._store.put_volumes(Volumes(month, self._in_all, by_device), answered)

    def _is_spent(self, device_id: bytes) -> bool:
        if device_id in self._own_devices:
            return False
        used = self._by_device.get(self._key_of(device_id), 0)
        return used >= self._most or self._in_all >= self._most_in_all

    def _key_of(self, device_id: bytes) -> bytes:
        if device_id in self._by_device or len(self._by_device) < MAX_DEVICES:
            return device_id
        return _OTHERS

    def _look_at_clock(self) -> None:
        now = self._wall()
        if not self._begins <= now < self._ends:
            self._turn_to(now)
        if not self._saved_at <= now < self._saved_at + SAVE_SECONDS:
            self.save()

    def _turn_to(self, now: float) -> None:
        """Find the month of a time; begin it, unless it has been begun already."""
        today = datetime.fromtimestamp(now, UTC)
        number = 12 * today.year + today.month - 1
        self._begins, self._ends = _begin_of(number), _begin_of(number + 1)
        if number > self._month:
            self._month = number
            self._in_all = 0
            self._by_device.clear()
            self._changed.clear()
        elif number < self._month - 1:
            self._month = number
            self._changed.update(self._by_device)


def _begin_of(month: int) -> float:
    return datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()
