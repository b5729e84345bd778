"""Devices in groups, in memory: what the tests of groups, values and networks play on."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from abst.database import Database
from abst.device import Device, DeviceFactory
from abst.device.groups.group import Group
from abst.device.groups.protocol import GroupFactory, GroupOffer, GroupProtocol
from abst.device.groups.store import MIGRATIONS, SqliteGroupStore
from abst.device_id import DeviceID
from abst.errors import AbstError
from abst.identity import Identity
from abst.testing import MemoryNetwork


class Diary(GroupProtocol):
    """A group protocol that writes down what happens."""

    def connectionMade(self) -> None:
        self.messages: list[bytes] = []
        self.events: list[str] = []
        self.problems: list[AbstError] = []
        self.heard_from: list[DeviceID] = []

    def joined(self) -> None:
        self.events.append("joined")

    def messageReceived(self, device_id: DeviceID, content: bytes) -> None:
        self.messages.append(content)
        self.heard_from.append(device_id)

    def messagesMissed(self, device_id: DeviceID, count: int) -> None:
        self.events.append(f"missed {count}")

    def messagesDropped(self, device_id: DeviceID | None, count: int, code: str) -> None:
        self.events.append(f"dropped {count} {code}")

    def memberArrived(self, device_id: DeviceID) -> None:
        self.events.append(f"arrived {device_id.short}")

    def memberHere(self, device_id: DeviceID) -> None:
        self.events.append(f"here {device_id.short}")

    def memberLeft(self, device_id: DeviceID) -> None:
        self.events.append(f"left {device_id.short}")

    def epochChanged(self, epoch: int) -> None:
        self.events.append(f"epoch {epoch}")

    def problemSeen(self, problem: AbstError) -> None:
        self.problems.append(problem)

    def connectionLost(self, reason: AbstError) -> None:
        self.events.append(f"over: {reason}")


class DiaryFactory(GroupFactory):
    """Takes every group that is offered, unless it is told otherwise.

    Attributes:
        offers: what was offered.
        answer: what it says to offers.
    """

    protocol = Diary

    def __init__(self) -> None:
        self.offers: list[GroupOffer] = []
        self.answer: bool | Awaitable[bool] = True

    def acceptsOffer(self, offer: GroupOffer) -> bool | Awaitable[bool]:
        self.offers.append(offer)
        return self.answer


class GroupTestCase(TestCase):
    """Devices on one realm, by name.

    Attributes:
        network: where they are.
        devices: all of them.
        factories: what builds their groups' protocols.
    """

    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.devices: dict[str, Device] = {}
        self.factories: dict[str, DiaryFactory] = {}

    def device(self, name: str, *, identity: Identity | None = None, **options: Any) -> Device:
        """Return a new device that trusts, and is trusted by, nobody."""
        self.factories[name] = DiaryFactory()
        device = self.devices[name] = self.network.device(
            name,
            DeviceFactory(),
            identity=identity,
            group_factory=self.factories[name],
            **options,
        )
        self.addCleanup(device.stopService)
        return device

    def house(self, *names: str) -> list[Device]:
        """Return new devices that have all met each other."""
        found = [self.device(name) for name in names]
        self.network.introduce(*found)
        self.network.settle()
        for number, device in enumerate(found):
            for other in found[number + 1 :]:
                self.result(device.connect(other.device_id))
        return found

    def result(self, deferred: Deferred[Any], seconds: float = 3.0) -> Any:
        """Return what a Deferred fires with, soon."""
        self.network.settle()
        if not deferred.called:
            self.network.advance(seconds)
        return self.network.result(deferred)

    def group(self, maker: Device, *others: Device, name: str = "family") -> list[Group]:
        """Return each one's end of a new group."""
        group = maker.groups.create(name, realm=self.network.realm.address)
        for other in others:
            self.result(maker.groups.give(group, other.device_id))
        self.network.advance(2)
        return [self.of(device, group) for device in (maker, *others)]

    def of(self, device: Device, group: Group) -> Group:
        """Return a device's end of a group."""
        found = device.groups.get(group.group_id)
        assert found is not None
        return found

    def diary(self, group: Group) -> Diary:
        """Return what has happened in one's end of a group."""
        assert isinstance(group.protocol, Diary)
        return group.protocol

    def store(self) -> SqliteGroupStore:
        """Return a store in a file of its own."""
        database = Database(self.folder() / "groups.db", 0x74657374, MIGRATIONS)
        self.addCleanup(database.close)
        return SqliteGroupStore(database)

    def folder(self) -> Path:
        """Return a new folder."""
        path = Path(self.mktemp())
        path.mkdir(parents=True)
        return path
