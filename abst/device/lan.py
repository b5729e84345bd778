"""The local network, as a device uses it: where it listens, who announces what, what changes.

Joins listening and dialling (``direct``), announcing (``discovery``) and the machine's network
(``network_changes``) into the one thing that ``Device`` knows of. ``abst.testing`` has one in
memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, DeferredList

from abst.address import format_host_port
from abst.device.announcement import AnyAnnouncement, OpenAnnouncement
from abst.device.direct import DirectPort
from abst.device.discovery import Discovery
from abst.device.network_changes import NetworkChanges
from abst.device.pipes import Pipe
from abst.device_id import DeviceID

MAX_SIGHTINGS_USED: Final = 4
"""So many announcements that seem to be one peer's are believed at once, the newest first."""


class LanOwner(Protocol):
    """What the local network tells, and needs to know."""

    device_id: DeviceID

    def pipe_accepted(self, pipe: Pipe) -> None:
        """Somebody has connected: take the pipe at once."""

    def announcement_seen(self, announcement: AnyAnnouncement) -> None:
        """Somebody announces himself, or has moved."""

    def network_changed(self) -> None:
        """An address, a route or a link has come or gone."""


class Lan(Protocol):
    """A local network, real or in memory."""

    def start(self, owner: LanOwner) -> None:
        """Listen, announce, and look for others."""

    def stop(self) -> Deferred[Any]:
        """Do none of that any more."""

    def addresses(self) -> list[str]:
        """Return where this device can be dialled, as ``HOST:PORT``."""

    @property
    def port(self) -> int | None:
        """The port on which this device listens, or None."""

    @property
    def problem(self) -> str | None:
        """One line on what does not work just now, or None."""

    def dial(self, address: str) -> Deferred[Pipe]:
        """Connect; fails with an ``AbstError``, and can be cancelled."""

    def addresses_of(self, device_id: DeviceID) -> list[str]:
        """Return where a device announces itself, as ``HOST:PORT``, the newest first."""

    def open_announcements(self) -> list[OpenAnnouncement]:
        """Return who waits to be paired."""

    def announce_pairing(self, name: str, number: int | None) -> None:
        """Announce openly that this device waits to be paired."""

    def stop_pairing(self) -> None:
        """Announce that no more."""


class LocalNetwork:
    """The networks that the machine is on.

    Args:
        reactor: the reactor.
        port: the TCP port to listen on; 0 for any that is free.
        interface: the address to listen on and to announce; "" for all.
        announces: whether to announce this device, and to look for others.
        random_bytes: returns that many unpredictable bytes.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        port: int = 0,
        interface: str = "",
        announces: bool = True,
        random_bytes: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._reactor = reactor
        self._direct = DirectPort(reactor, port, interface)
        self._interfaces: Sequence[str] | None = [interface] if interface else None
        self._announces = announces
        self._random_bytes = random_bytes
        self._owner: LanOwner | None = None
        self._discovery: Discovery | None = None
        self._changes = NetworkChanges(reactor, self._network_changed)
        self._sightings: dict[str, tuple[AnyAnnouncement, list[str]]] = {}

    def start(self, owner: LanOwner) -> None:
        """Listen, announce, and look for others."""
        self._owner = owner
        self._direct.start(owner.pipe_accepted)
        self._changes.start()
        port = self._direct.port
        if self._announces and port is not None:
            self._discovery = Discovery(
                self._reactor,
                owner.device_id,
                self,
                self._random_bytes,
                interfaces=self._interfaces,
            )
            self._discovery.start(port)

    def stop(self) -> Deferred[Any]:
        """Do none of that any more."""
        self._owner = None
        self._changes.stop()
        stopping = [self._direct.stop()]
        if self._discovery is not None:
            stopping.append(self._discovery.stop())
        self._discovery = None
        self._sightings.clear()
        return DeferredList(stopping)

    @property
    def port(self) -> int | None:
        """The port on which this device listens, or None."""
        return self._direct.port

    @property
    def problem(self) -> str | None:
        """One line on what does not work just now, or None."""
        if self._direct.port is None:
            return self._direct.problem
        return None if self._discovery is None else self._discovery.problem

    def addresses(self) -> list[str]:
        """Return where this device can be dialled, as ``HOST:PORT``."""
        return self._direct.addresses()

    def dial(self, address: str) -> Deferred[Pipe]:
        """Connect; fails with an ``AbstError``, and can be cancelled."""
        return self._direct.dial(address)

    def addresses_of(self, device_id: DeviceID) -> list[str]:
        """Return where a device announces itself, as ``HOST:PORT``, the newest first."""
        found: list[str] = []
        used = 0
        for announcement, addresses in reversed(self._sightings.values()):
            if announcement.matches(device_id):
                found += addresses
                used += 1
                if used == MAX_SIGHTINGS_USED:
                    break
        return list(dict.fromkeys(found))

    def open_announcements(self) -> list[OpenAnnouncement]:
        """Return who waits to be paired."""
        return [
            announcement
            for announcement, _ in self._sightings.values()
            if isinstance(announcement, OpenAnnouncement)
        ]

    def announce_pairing(self, name: str, number: int | None) -> None:
        """Announce openly that this device waits to be paired."""
        if self._discovery is not None:
            self._discovery.announce_pairing(name, number)

    def stop_pairing(self) -> None:
        """Announce that no more."""
        if self._discovery is not None:
            self._discovery.stop_pairing()

    # What discovery tells.

    def seen(self, announcement: AnyAnnouncement, addresses: list[tuple[str, int]]) -> None:
        """Note where somebody announces himself; discovery bounds how many there are."""
        self._sightings.pop(announcement.instance, None)
        texts = [format_host_port(host, port) for host, port in addresses]
        self._sightings[announcement.instance] = (announcement, texts)
        if self._owner is not None:
            self._owner.announcement_seen(announcement)

    def gone(self, instance: str) -> None:
        """Forget an announcement."""
        self._sightings.pop(instance, None)

    def _network_changed(self) -> None:
        if self._discovery is not None:
            self._discovery.network_changed()
        if self._owner is not None:
            self._owner.network_changed()
