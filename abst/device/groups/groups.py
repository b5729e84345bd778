"""All groups of a device."""

from __future__ import annotations

from typing import Any

from abst.device.groups.protocol import GroupFactory
from abst.device.groups.store import GroupStore
from abst.packets import GiveGroup, Packet


class Groups:
    """All groups of a device."""

    def __init__(
        self, owner: Any, factory: GroupFactory | None, store: GroupStore | None
    ) -> None:
        self._owner = owner

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End."""

    def link_up(self, link: Any) -> None:
        """Join."""

    def link_down(self, link: Any) -> None:
        """Wait."""

    def told(self, link: Any, peer_group: bytes, packet: Packet) -> None:
        """Take a packet."""

    def peer_reached(self, device_id: bytes) -> None:
        """Compare."""

    def peer_lost(self, device_id: bytes) -> None:
        """Wait."""

    def given(self, device_id: bytes, packet: GiveGroup) -> None:
        """Take a packet."""
