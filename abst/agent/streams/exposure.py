"""What a person has exposed to peers. Pure, and light: every command that reads a home needs it."""

from __future__ import annotations

from dataclasses import dataclass

from abst.device_id import DeviceID


@dataclass(frozen=True, slots=True)
class Exposure:
    """One exposed service.

    Attributes:
        service: its name.
        endpoint: where its streams lead, as a Twisted client endpoint string.
        peers: the devices that may use it; every peer when it is empty.
    """

    service: str
    endpoint: str
    peers: tuple[DeviceID, ...] = ()
