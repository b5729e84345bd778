"""Who asks for values: a device's connection, as far as that is needed here. Pure."""

from __future__ import annotations

from typing import Protocol

from abst.errors import Code
from abst.packets import DeleteValue, GetValue, ListValues, Packet, PutValue, WatchValues

Request = PutValue | GetValue | DeleteValue | ListValues | WatchValues


class Client(Protocol):
    """A connection; each is hashed as the object that it is."""

    @property
    def device_id(self) -> bytes | None:
        """The device's ID; there is one once the connection may ask for anything."""

    def is_joined(self, group: bytes, /) -> bool:
        """Tell whether the device has joined a group on this connection."""

    def deliver_own(self, packet: bytes, /) -> bool:
        """Queue a packet, in order with all others of this kind; False when it does not fit."""

    def tell(self, packet: Packet, /) -> None:
        """Queue a packet that may overtake others."""

    def close(self, code: Code, reason: str = ..., /) -> None:
        """Say why, and be done; nothing when that has been said already."""
