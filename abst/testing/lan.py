"""A local network in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from abst.device.announcement import Announcement, AnyAnnouncement, OpenAnnouncement
from abst.device.lan import LanOwner
from abst.device.pipes import Pipe
from abst.device_id import DeviceID
from abst.errors import PeerUnreachableError
from abst.testing.pipes import MemoryPipe, memory_pipes


class MemoryLan:
    """A local network in memory; ``port`` gives each device its place in it.

    Attributes:
        is_silent: bytes vanish, and nobody is told.
        latency_seconds: how long bytes take.
        announces: whether devices find each other; else addresses have to be told.
    """

    def __init__(self, clock: Clock) -> None:
        self.is_silent = False
        self.latency_seconds = 0.0
        self.announces = True
        self._clock = clock
        self._ports: dict[str, MemoryLanPort] = {}
        self._pipes: list[MemoryPipe] = []

    def port(self, addresses: int = 1) -> MemoryLanPort:
        """Return a place for a device, with so many addresses, which is there until it leaves."""
        first = len(self._ports) + 1
        texts = [f"198.51.100.{number}:4000" for number in range(first, first + addresses)]
        found = MemoryLanPort(self, texts)
        self._ports.update(dict.fromkeys(texts, found))
        return found

    def cut(self) -> None:
        """Lose every connection at once; both ends are told."""
        pipes, self._pipes = self._pipes, []
        for pipe in pipes:
            pipe.lost(PeerUnreachableError(f"{pipe.address}: the connection was reset"))

    def connect(self, source: MemoryLanPort, address: str) -> MemoryPipe | None:
        """Return an end of a new connection to an address, or None when nobody is there."""
        target = self._ports.get(address)
        if target is None or target.owner is None or not (target.is_here and source.is_here):
            return None
        if self.is_silent:
            return None
        near, far = memory_pipes(self._carry, address, source.address)
        self._pipes += [near, far]
        target.owner.pipe_accepted(far)
        return near

    def others(self, port: MemoryLanPort) -> list[MemoryLanPort]:
        """Return who announces himself to a device."""
        if self.is_silent or not self.announces or not port.is_here:
            return []
        everybody = dict.fromkeys(self._ports.values())
        found = [other for other in everybody if other is not port and other.is_here]
        return [other for other in found if other.owner is not None]

    def _carry(self, call: Callable[..., Any], *args: Any) -> None:
        if not self.is_silent:
            self.later(call, *args)

    def later(self, call: Callable[..., Any], *args: Any) -> None:
        """Do something after as long as bytes take."""
        self._clock.callLater(self.latency_seconds, call, *args)


class MemoryLanPort:
    """One device's place in a ``MemoryLan``; what ``LocalNetwork`` is to a real one.

    Attributes:
        address: where the device is, or the first of its addresses.
        is_here: whether it is in this network just now.
        owner: the device, once it has started.
    """

    port = 4000
    problem: str | None = None

    def __init__(self, lan: MemoryLan, addresses: list[str]) -> None:
        self.address = addresses[0]
        self.is_here = True
        self._addresses = addresses
        self.owner: LanOwner | None = None
        self._lan = lan
        self._announcement: Announcement | None = None
        self._open: OpenAnnouncement | None = None

    def start(self, owner: LanOwner) -> None:
        """Be there, and tell the others."""
        self.owner = owner
        self._announcement = Announcement.make(owner.device_id, os.urandom)
        self._announce()

    def stop(self) -> Deferred[Any]:
        """Be gone."""
        self.owner = None
        return succeed(None)

    def leave(self) -> None:
        """Leave the network; what was connected is lost, and this device knows."""
        self.is_here = False
        self._lan.cut()
        if self.owner is not None:
            self.owner.network_changed()

    def come(self) -> None:
        """Come back to it."""
        self.is_here = True
        if self.owner is not None:
            self.owner.network_changed()
        self._announce()

    def addresses(self) -> list[str]:
        """Return where this device can be dialled."""
        return list(self._addresses) if self.is_here else []

    def dial(self, address: str) -> Deferred[Pipe]:
        """Connect."""
        pipe = self._lan.connect(self, address)
        if pipe is None:
            return fail(PeerUnreachableError(f"{address}: nobody is there"))
        return succeed(pipe)

    def addresses_of(self, device_id: DeviceID) -> list[str]:
        """Return where a device announces itself."""
        found = []
        for other in self._lan.others(self):
            if other._announcement is not None and other._announcement.matches(device_id):
                found += other.addresses()
        return found

    def open_announcements(self) -> list[OpenAnnouncement]:
        """Return who waits to be paired."""
        return [other._open for other in self._lan.others(self) if other._open is not None]

    def announce_pairing(self, name: str, number: int | None) -> None:
        """Announce openly that this device waits to be paired."""
        assert self.owner is not None
        self._open = OpenAnnouncement.make(self.owner.device_id, name, number, os.urandom)
        self._announce()

    def stop_pairing(self) -> None:
        """Announce that no more."""
        self._open = None

    def _announce(self) -> None:
        for other in self._lan.others(self):
            for announcement in (self._announcement, self._open):
                if announcement is not None:
                    self._lan.later(other.hear, announcement)
            if other._announcement is not None:
                self._lan.later(self.hear, other._announcement)

    def hear(self, announcement: AnyAnnouncement) -> None:
        """Tell the device who announces himself."""
        if self.owner is not None and self.is_here:
            self.owner.announcement_seen(announcement)
