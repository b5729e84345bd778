"""What a conversation is to those that answer its device, and what answers about values. Pure.

``Client`` is all that groups and values know of a connection, so that neither has to know how
packets come and go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from abst.errors import Code
from abst.packets import DeleteValue, GetValue, ListValues, Packet, PutValue, WatchValues
from abst.realm.limits import Limits

ValueRequest = PutValue | GetValue | DeleteValue | ListValues | WatchValues


class Client(Protocol):
    """One connection whose device has said Hello; equal to itself alone, and hashable."""

    @property
    def device_id(self) -> bytes | None:
        """The device that its certificate has proved."""

    @property
    def is_here(self) -> bool:
        """Whether it may still ask for anything."""

    def maker_of(self, group: bytes) -> bytes | None:
        """Return the device that has made a group which it has joined; None when it has not."""

    def is_joined(self, group: bytes) -> bool:
        """Tell whether it has joined a peer group."""

    def tell(self, packet: Packet) -> None:
        """Queue one of the realm's own packets, before everything that waits of other devices."""

    def deliver_own(self, packet: bytes) -> bool:
        """Queue an encoded packet of the realm's own, in order behind what waits of other devices.

        Returns:
            False when it does not fit the device's queue. True also when the connection is gone:
            then there is nobody who could miss it.
        """

    def close(self, code: Code, reason: str = "", *, retry_after: float | None = None) -> None:
        """Say why, and be done."""


class GroupValues(Protocol):
    """What answers packets about the values of peer groups."""

    @property
    def stored_bytes(self) -> int:
        """How much is kept of all groups."""

    @property
    def loaded_values(self) -> int:
        """How many values the groups have whose indexes are in memory."""

    def handle(self, client: Client, packet: ValueRequest, now: float) -> None:
        """Answer one of the packets 8 to 12."""

    def handle_all(self, client: Client, requests: Sequence[ValueRequest], now: float) -> None:
        """Answer several that have come together, in their order."""

    def leave(self, client: Client, group: bytes) -> None:
        """Tell a device nothing more of a group: it has not joined it any more."""

    def limits_told(self) -> dict[str, float]:
        """Return the limits that members have to know."""

    def use_limits(self, limits: Limits) -> None:
        """Let these limits count from now on."""

    def next_deadline(self) -> float | None:
        """Return when ``handle_deadline`` wants to be called, or None."""

    def handle_deadline(self, now: float) -> None:
        """Drop the values whose time is over."""
