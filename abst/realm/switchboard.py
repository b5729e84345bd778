"""Who is here, and how a run of packets gets to them (spec: realm.md, "Who is here").

Pure. ``Switchboard`` is the narrow interface behind which another engine can stand, for a realm of
several processes; ``MemorySwitchboard`` is the one for a realm that is one process.
"""

from __future__ import annotations

from typing import Protocol

from abst.errors import Code
from abst.packets import Packet


class Sender(Protocol):
    """Whoever sent packets and is told when they are dropped."""

    @property
    def device_id(self) -> bytes | None:
        """The device that has sent them."""

    def report_drop(self, code: Code, target_device: bytes, count: int) -> None:
        """Note that ``count`` packets for a target were dropped; the sender is told soon."""


class Destination(Protocol):
    """Where packets for one device go: a connection of this process, or another process."""

    def deliver(self, run: bytes, count: int, source: Sender) -> Code | None:
        """Take a run of ``count`` whole packets, or return why it was dropped."""

    def tell(self, packet: Packet) -> None:
        """Take one of the realm's own packets."""


class Presence(Destination, Protocol):
    """A connection whose device has said Hello."""

    def replaced(self, now: float) -> list[float]:
        """Give way to a newer connection; return when this device was replaced lately."""


class Switchboard(Protocol):
    """The devices that are here."""

    def arrive(self, device_id: bytes, presence: Presence) -> Presence | None:
        """Register a device's newest connection; return the older one, which it replaces."""

    def leave(self, device_id: bytes, presence: Presence) -> bool:
        """Forget a connection; False when it is not here, or a newer one has taken its place."""

    def route(self, device_id: bytes) -> Destination | None:
        """Return where packets for a device go, or None when it is not here."""


class MemorySwitchboard:
    """Devices that are connected to this very process."""

    def __init__(self) -> None:
        self._present: dict[bytes, Presence] = {}
        # The hot path looks devices up once for each run: no method call of our own between.
        self.route = self._present.get

    def __len__(self) -> int:
        return len(self._present)

    def arrive(self, device_id: bytes, presence: Presence) -> Presence | None:
        """Register a device's newest connection; return the older one, which it replaces."""
        older = self._present.get(device_id)
        self._present[device_id] = presence
        return older

    def leave(self, device_id: bytes, presence: Presence) -> bool:
        """Forget a connection; False when it is not here, or a newer one has taken its place."""
        if self._present.get(device_id) is not presence:
            return False
        del self._present[device_id]
        return True
