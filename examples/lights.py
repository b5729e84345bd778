"""Lights that several devices switch.

Run ``python examples/lights.py HOME REALM_LINK make ID ...`` on one device, with the IDs of all
others, and ``python examples/lights.py HOME REALM_LINK join ID`` on these, with that of the one.
A device keeps its key and its groups in the folder HOME, and prints its ID first. Type
``kitchen on`` to switch a light, and ``?`` to see them all.
"""

import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater, react
from twisted.protocols.basic import LineOnlyReceiver

from abst.address import RealmAddress
from abst.database import Database
from abst.device import (
    Device,
    DeviceFactory,
    DeviceProtocol,
    Group,
    GroupFactory,
    GroupOffer,
    GroupProtocol,
    SqliteGroupStore,
    ValueChange,
)
from abst.device.groups.store import MIGRATIONS
from abst.device_id import DeviceID
from abst.errors import AbstError, GroupError, NotTrustedError, PeerUnreachableError
from abst.identity import Identity


class Lights(GroupProtocol):
    """This device's part in the group."""

    def connectionMade(self) -> None:
        self.group.values.watch("light/", self.changed)
        print(f"in the group {self.group}", flush=True)

    def changed(self, change: ValueChange) -> None:
        light = change.name.decode().removeprefix("light/")
        print(f"{light} is {(change.value or b'gone').decode(errors='replace')}", flush=True)

    def memberArrived(self, device_id: DeviceID) -> None:
        print(f"{self.group.find(str(device_id)).name} is here", flush=True)

    async def switch(self, light: str, state: str) -> None:
        try:
            await self.group.values.set(f"light/{light}", state.encode())
        except AbstError as problem:
            print(problem, flush=True)

    async def show(self) -> None:
        for value in await self.group.values.items("light/"):
            age = "" if not value.age_seconds else f", as of {value.age_seconds:.0f} s ago"
            print(f"{value.name.decode()}: {value.value.decode()}{age}", flush=True)


class LightsFactory(GroupFactory):
    """Takes the groups that the owner's other devices offer."""

    protocol = Lights

    def acceptsOffer(self, offer: GroupOffer) -> bool:
        return offer.name == "lights"


class Keyboard(LineOnlyReceiver):
    """What a person types."""

    delimiter = b"\n"

    def __init__(self, device: Device) -> None:
        self._device = device

    def lineReceived(self, line: bytes) -> None:
        words = line.decode(errors="replace").split()
        for group in self._device.groups.all():
            assert isinstance(group.protocol, Lights)
            if words == ["?"]:
                ensureDeferred(group.protocol.show())
            elif len(words) == 2:
                ensureDeferred(group.protocol.switch(*words))


async def give(device: Device, group: Group, peer: DeviceID) -> None:
    """Meet a device, so that its key is known, and give it the group."""
    session: DeviceProtocol | None = None
    while session is None:
        try:
            session = await device.connect(peer)
        except (NotTrustedError, PeerUnreachableError) as problem:
            print(f"{peer}: {problem}", flush=True)
            await deferLater(device.reactor, 5, lambda: None)
    session.loseConnection()
    try:
        await device.groups.give(group, peer)
    except GroupError as problem:
        print(problem, flush=True)


async def main(reactor: Any, home: str, realm: str, what: str, *peers: str) -> None:
    folder, address = Path(home), RealmAddress.parse(realm)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity = Identity.load_or_create(folder / "identity.pem")
    device = Device(
        reactor,
        identity,
        DeviceFactory(),
        realms=[address],
        name=folder.name,
        group_factory=LightsFactory(),
        group_store=SqliteGroupStore(Database(folder / "groups.db", 0x6C616D70, MIGRATIONS)),
    )
    print(identity.device_id, flush=True)
    found = [DeviceID.parse(peer) for peer in peers]
    for peer in found:
        device.trust(peer)
    device.startService()
    reactor.addSystemEventTrigger("before", "shutdown", device.stopService)
    StandardIO(Keyboard(device), reactor=reactor)
    if what == "make" and not device.groups.all():
        group = device.groups.create("lights", realm=address)
        for peer in found:
            ensureDeferred(give(device, group, peer))
    await Deferred()


react(main, sys.argv[1:])
