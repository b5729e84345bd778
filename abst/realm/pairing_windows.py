"""Pairing windows: a short number under which a device can be found for a minute.

Pure (spec: realm.md, "Pairing windows"). Owns the numbers, their time, and how often a device or an
address may ask. It learns nothing of the words that follow the number in a code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from abst.errors import Code
from abst.realm.limits import Limits
from abst.realm.quota import Quota
from abst.realm.refusal import Refusal

HIGHEST_NUMBER = 9999
ADDRESS_FACTOR = 5
"""How much more often than a device an address may ask: several devices can stand behind it."""


@dataclass(slots=True)
class _Window:
    device_id: bytes
    closes_at: float


class PairingWindows:
    """The open windows of one realm.

    Args:
        limits: how many windows, how long, how often.
        random_fraction: returns a number in [0, 1).
    """

    def __init__(self, limits: Limits, random_fraction: Callable[[], float]) -> None:
        self._random_fraction = random_fraction
        self._windows: dict[int, _Window] = {}
        self._numbers: dict[bytes, int] = {}
        self.use_limits(limits)

    def use_limits(self, limits: Limits) -> None:
        """Let these limits count from now on; windows that are open stay open."""
        self._limits = limits
        each = limits.pairing_requests_per_minute
        self._by_device = Quota(each, each / 60)
        self._by_address = Quota(each * ADDRESS_FACTOR, each * ADDRESS_FACTOR / 60)

    def __len__(self) -> int:
        return len(self._windows)

    def open(self, device_id: bytes, address: str | None, now: float) -> int | Refusal:
        """Open a window for a device, in place of the one that it had; return its number."""
        refusal = self._too_often(device_id, address, now)
        if refusal is not None:
            return refusal
        self._expire(now)
        self.close(device_id)
        if len(self._windows) >= self._limits.pairing_windows:
            return Refusal(Code.RATE_LIMITED, self._limits.pairing_window_seconds)
        number = self._free_number()
        self._windows[number] = _Window(device_id, now + self._limits.pairing_window_seconds)
        self._numbers[device_id] = number
        return number

    def close(self, device_id: bytes) -> None:
        """Close a device's window, if it has one."""
        number = self._numbers.pop(device_id, None)
        if number is not None:
            del self._windows[number]

    def find(self, number: int, finder: bytes, address: str | None, now: float) -> bytes | Refusal:
        """Return the device ID behind a number."""
        refusal = self._too_often(finder, address, now)
        if refusal is not None:
            return refusal
        self._expire(now)
        window = self._windows.get(number)
        return Refusal(Code.NO_WINDOW) if window is None else window.device_id

    def _too_often(self, device_id: bytes, address: str | None, now: float) -> Refusal | None:
        wait = self._by_device.take(device_id, now)
        if address is not None:
            wait = max(wait, self._by_address.take(address, now))
        return Refusal(Code.RATE_LIMITED, round(wait, 1) + 0.1) if wait else None

    def _expire(self, now: float) -> None:
        for window in [window for window in self._windows.values() if now >= window.closes_at]:
            self.close(window.device_id)

    def _free_number(self) -> int:
        """Return a free number with as few digits as are to be had, at random among those.

        A number that was free a moment ago may still be in somebody's head, so the lowest free one
        would often lead to the wrong device.
        """
        for most in (9, 99, 999, HIGHEST_NUMBER):
            free = [number for number in range(1, most + 1) if number not in self._windows]
            if len(free) > most // 2:
                return free[int(self._random_fraction() * len(free))]
        return min(set(range(1, HIGHEST_NUMBER + 1)) - self._windows.keys())
