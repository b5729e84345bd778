"""Realms and devices in memory, on one clock."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from abst.address import RealmAddress
from abst.device import Device, DeviceFactory
from abst.device.link import LinkOwner
from abst.identity import Identity
from abst.realm.limits import Limits
from abst.testing.lan import MemoryLan
from abst.testing.realm import MemoryLink, MemoryRealm

Result = TypeVar("Result")

MAX_TURNS: Final = 100_000


class MemoryNetwork:
    """Realms and devices on one clock.

    Args:
        seed: decides everything that is random but for keys.
    """

    def __init__(self, seed: int = 0) -> None:
        self.clock = Clock()
        self._random = random.Random(seed)
        self._numbers: Iterator[int] = itertools.count(1)
        self._realms: dict[RealmAddress, MemoryRealm] = {}
        self.realm = self.add_realm()

    def add_realm(self, limits: Limits | None = None) -> MemoryRealm:
        """Return a new realm; devices made from now on use it after the earlier ones."""
        host = f"realm{next(self._numbers)}.test"
        realm = MemoryRealm(self.clock, host, self._random.getrandbits(32), limits)
        self._realms[realm.address] = realm
        return realm

    def lan(self) -> MemoryLan:
        """Return a new local network; give a device ``lan=lan.port()`` to be in it."""
        return MemoryLan(self.clock)

    def device(
        self,
        name: str,
        factory: DeviceFactory,
        *,
        identity: Identity | None = None,
        **options: Any,
    ) -> Device:
        """Return a new device, started, on every realm.

        Args:
            name: what it calls itself.
            factory: builds its protocols.
            identity: who it is, for a device that is killed and starts again; a new one if None.
            options: further arguments of ``Device``.
        """
        device = Device(
            self.clock,
            identity or Identity.generate(),
            factory,
            realms=tuple(self._realms),
            name=name,
            make_link=self._make_link,
            **options,
        )
        device.random_fraction = self._random.random
        device.startService()
        return device

    def kill(self, device: Device) -> None:
        """Let a device vanish without a word, as a killed process does."""
        for link in device.links.values():
            assert isinstance(link, MemoryLink)
            link.vanish()
        device.stopService()

    def introduce(self, *devices: Device) -> None:
        """Let devices trust each other."""
        for device, other in itertools.permutations(devices, 2):
            device.trust(other.device_id, other.device_name)

    def settle(self) -> None:
        """Pass packets until nothing is left to pass; no time goes by."""
        for _ in range(MAX_TURNS):
            due = [call for call in self.clock.getDelayedCalls() if call.getTime() <= self._now()]
            if not due:
                return
            self.clock.advance(0)
        raise AssertionError("the network never comes to rest")

    def advance(self, seconds: float, step: float = 0.5) -> None:
        """Let time go by, settling after each step."""
        end = self._now() + seconds
        while self._now() < end:
            self.clock.advance(min(step, end - self._now()))
            self.settle()

    def result(self, deferred: Deferred[Result]) -> Result:
        """Return what a Deferred has fired with.

        Raises:
            AssertionError: it has not fired yet.
            Exception: whatever it failed with.
        """
        found: list[Any] = []

        def look(result: Any) -> Any:
            found.append(result)
            # A failure is going to be raised, so it need not be logged too.
            return None if isinstance(result, Failure) else result

        if deferred.called:
            deferred.addBoth(look)
        if not found:
            raise AssertionError("not yet")
        if isinstance(found[0], Failure):
            found[0].raiseException()
        result: Result = found[0]
        return result

    def _now(self) -> float:
        return float(self.clock.seconds())

    def _make_link(
        self,
        reactor: Any,
        identity: Identity,
        address: RealmAddress,
        owner: LinkOwner,
        random_fraction: Callable[[], float],
    ) -> MemoryLink:
        # Not the device's own randomness: the seed decides.
        realm = self._realms[address]
        fraction = self._random.random
        return MemoryLink(reactor, identity, realm, owner, fraction, address.invitation)
