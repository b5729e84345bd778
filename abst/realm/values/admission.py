"""How much each device may ask about values, and all together (spec: values.md, "Limits"). Pure."""

from __future__ import annotations

from typing import Final

from abst.packets import DeleteValue, PutValue
from abst.realm.client import ValueRequest
from abst.realm.limits import Limits
from abst.realm.quota import Quota

REQUEST_BYTES: Final = 512
"""What a request that waits takes, beside the value in it."""

MAX_WAITING_BYTES: Final = 64 * 1024 * 1024
"""What all requests that wait may take."""

CHANGES_PER_REQUEST: Final = 64
"""So many changes that are read for a device count as one more of its requests."""

WAITING_RETRY_SECONDS: Final = 1.0


class Admission:
    """The requests that wait for their answers.

    Args:
        limits: what devices may use.
        max_waiting_bytes: what the requests of all devices may take in memory.

    Attributes:
        waiting_bytes: what they take in memory.
    """

    def __init__(self, limits: Limits, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self._max_waiting_bytes = max_waiting_bytes
        # By device, and none for a device of which nothing waits.
        self._waiting: dict[bytes, int] = {}
        self.waiting_bytes = 0
        self.use_limits(limits)

    def use_limits(self, limits: Limits) -> None:
        """Let these limits count from now on; what waits goes on waiting."""
        per_second = limits.value_requests_per_second
        self._quota = Quota(per_second, per_second)
        self._most = limits.waiting_value_requests

    def enter(self, device_id: bytes, packet: ValueRequest, now: float) -> float:
        """Let a request wait, and return 0.0; or return after how many seconds to ask again."""
        wait = self._quota.take(device_id, now)
        if wait:
            return wait
        waiting = self._waiting.get(device_id, 0)
        size = _size_of(packet)
        if waiting >= self._most or self.waiting_bytes + size > self._max_waiting_bytes:
            return WAITING_RETRY_SECONDS
        self._waiting[device_id] = waiting + 1
        self.waiting_bytes += size
        return 0.0

    def charge(self, device_id: bytes, changes: int, now: float) -> None:
        """Count changes that are read for a device."""
        self._quota.charge(device_id, changes // CHANGES_PER_REQUEST, now)

    def leave(self, device_id: bytes, packet: ValueRequest) -> None:
        """Note that a request is about to be answered."""
        self.waiting_bytes -= _size_of(packet)
        left = self._waiting[device_id] - 1
        if left:
            self._waiting[device_id] = left
        else:
            del self._waiting[device_id]


def _size_of(packet: ValueRequest) -> int:
    if isinstance(packet, (PutValue, DeleteValue)):
        return REQUEST_BYTES + len(packet.value)
    return REQUEST_BYTES
