"""Devices in peer groups on a realm that is a process of its own, over TCP and TLS."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, FirstError, ensureDeferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from abst.address import RealmAddress
from abst.database import Database
from abst.device import Device, DeviceFactory
from abst.device.groups.group import Group
from abst.device.groups.protocol import GroupFactory, GroupOffer, GroupProtocol
from abst.device.groups.store import MIGRATIONS, SavedGroup, SqliteGroupStore
from abst.device.link import RealmLink
from abst.device.peers import PeerBook
from abst.device_id import DeviceID
from abst.errors import AbstError
from abst.identity import Identity
from tests.integration.realm_process import (
    LOOPBACK,
    RUN_TWISTD,
    TWIST,
    TWISTD,
    RealmProcess,
)

PATIENCE_SECONDS: Final = 30.0

STORE_KIND: Final = 0x74657374

HASTE: Final = 0.001
"""Instead of a random number, so that devices try again after milliseconds, and not in step."""


_WAIT: Final = f"import sys, abst.realm.service; open(sys.argv.pop(1)).read(); {RUN_TWISTD}"


class Heard:
    """Which messages a device has heard of one member; each ends with its number, from 0.

    Attributes:
        contents: all of them.
        missed: how many it was told to have missed, in all.
        problems: how what has come was not what a sender's numbers and the gaps let expect.
    """

    def __init__(self) -> None:
        self.contents: list[bytes] = []
        self.missed = 0
        self.problems: list[str] = []
        self._next = 0

    def miss(self, count: int) -> None:
        """Note a gap."""
        self.missed += count
        self._next += count

    def hear(self, content: bytes) -> None:
        """Note a message."""
        number = int(content.rpartition(b" ")[2])
        if number != self._next:
            self.problems.append(f"{content!r} came when {self._next} was next")
        self._next = number + 1
        self.contents.append(content)


class Witness(GroupProtocol):
    """Writes down in its device what happens in a group."""

    device: GroupDevice

    def messageReceived(self, device_id: DeviceID, content: bytes) -> None:
        self.device.heard_of(device_id).hear(content)

    def messagesMissed(self, device_id: DeviceID, count: int) -> None:
        self.device.heard_of(device_id).miss(count)

    def messagesDropped(self, device_id: DeviceID | None, count: int, code: str) -> None:
        self.device.dropped.append((device_id, count, code))

    def problemSeen(self, problem: AbstError) -> None:
        self.device.problems.append(problem)

    def connectionLost(self, reason: AbstError) -> None:
        self.device.end_chapter()


class WitnessFactory(GroupFactory):
    """Takes every group that is offered."""

    protocol = Witness

    def __init__(self, device: GroupDevice) -> None:
        self._device = device

    def buildProtocol(self, group: Group) -> GroupProtocol:
        protocol = super().buildProtocol(group)
        assert isinstance(protocol, Witness)
        protocol.device = self._device
        return protocol

    def acceptsOffer(self, offer: GroupOffer) -> bool:
        return True


class GroupDevice:
    """A device that stops and starts again as itself.

    Attributes:
        name: what it is called.
        identity: who it is.
        device: the device, while it runs.
        heard: what it has heard of each member since it is in the group.
        chapters: the same of the times before, when it was in the group and left.
        dropped: which of its own messages it was told to be dropped.
        problems: what its group has complained of.
    """

    def __init__(self, reactor: Any, folder: Path, name: str) -> None:
        self.name = name
        self.identity = Identity.generate()
        self.heard: dict[DeviceID, Heard] = {}
        self.chapters: list[dict[DeviceID, Heard]] = []
        self.dropped: list[tuple[DeviceID | None, int, str]] = []
        self.problems: list[AbstError] = []
        self.store_file = folder / f"{name}.db"
        self._reactor = reactor
        self._peers = PeerBook()
        self._database: Database | None = None
        self._device: Device | None = None

    @property
    def device_id(self) -> DeviceID:
        return self.identity.device_id

    @property
    def device(self) -> Device:
        assert self._device is not None, f"{self.name} does not run"
        return self._device

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self._device is not None

    def start(self, address: RealmAddress) -> None:
        """Start it, with what it has kept."""
        self._database = Database(self.store_file, STORE_KIND, MIGRATIONS)
        self._device = Device(
            self._reactor,
            self.identity,
            DeviceFactory(),
            peers=self._peers,
            name=self.name,
            group_factory=WitnessFactory(self),
            group_store=SqliteGroupStore(self._database),
        )
        self._device.random_fraction = lambda: HASTE
        self._device.addRealm(address)
        self._device.startService()

    async def stop(self) -> None:
        """Stop it in order."""
        device, self._device = self._device, None
        if device is not None:
            await device.stopService()
        if self._database is not None:
            self._database.close()

    def kept(self) -> list[SavedGroup]:
        """Return what stands on its disk about its groups, while it does not run."""
        database = Database(self.store_file, STORE_KIND, MIGRATIONS)
        with contextlib.closing(database):
            return SqliteGroupStore(database).load()

    def cut(self) -> None:
        """Cut its connection to the realm off, as a network that fails does."""
        for link in self.device.links.values():
            assert isinstance(link, RealmLink)
            if link._protocol is not None:
                link._protocol.transport.abortConnection()

    def heard_of(self, device_id: DeviceID) -> Heard:
        """Return what it has heard of a member."""
        return self.heard.setdefault(device_id, Heard())

    def end_chapter(self) -> None:
        """Begin anew: it is not in the group any more."""
        self.chapters.append(self.heard)
        self.heard = {}

    def order_problems(self) -> list[str]:
        """Return what has come twice, too early, too late, or over a gap that was not told."""
        found = []
        for heard in (self.heard, *self.chapters):
            for one in heard.values():
                found += [f"{self.name}: {problem}" for problem in one.problems]
        return found


class GroupDevicesTestCase(TestCase):
    """Devices on one realm process, by name."""

    realm_command: tuple[str, ...] = TWIST

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir(parents=True)
        self.members: list[GroupDevice] = []
        self.group_id = b""
        self._endpoint = LOOPBACK
        self._spare: RealmProcess | None = None

    async def tearDown(self) -> None:  # type: ignore[override]
        for member in self.members:
            await member.stop()
        for realm in (self.realm, self._spare):
            if realm is not None:
                realm.kill()

    # The realm.

    async def start_realm(self) -> None:
        """Start the realm; later ones are on the port of the first, with what it has kept."""
        if self._spare is not None:
            self.realm, self._spare = self._spare, None
            await deferToThread(self._gate.write_text, "go")
        else:
            self.realm = self._realm_process(self.realm_command)
        self.address = await deferToThread(self.realm.address)
        self._endpoint = f"tcp:{self.address.port}:interface=127.0.0.1"

    def prepare_realm(self) -> None:
        """Begin with the next realm: it has loaded its modules when it is to start."""
        if not self._gate.exists():
            os.mkfifo(self._gate)
        self._spare = self._realm_process(
            (sys.executable, "-c", _WAIT, str(self._gate), *TWISTD[3:])
        )

    def _realm_process(self, command: tuple[str, ...]) -> RealmProcess:
        state = str(self.folder / "realm" / "state")
        return RealmProcess(
            self.folder / "realm",
            *("--listen", self._endpoint, "--state", state),
            command=command,
        )

    @property
    def _gate(self) -> Path:
        return self.folder / "gate"

    @property
    def state_folder(self) -> Path:
        """What the realm keeps."""
        return self.realm.folder / "state"

    # Devices and their group.

    async def house(self, *names: str) -> list[GroupDevice]:
        """Return running devices of which the first has met each other one."""
        found = [GroupDevice(self.reactor, self.folder, name) for name in names]
        self.members += found
        for member in found:
            member.start(self.address)
        await self.until(lambda: all(member.device.links_up() for member in found), "all are up")
        for member, other in itertools.permutations(found, 2):
            member.device.trust(other.device_id, other.name)
        first = found[0]
        await gather(first.device.connect(other.device_id) for other in found[1:])
        return found

    async def make_group(self, first: GroupDevice, *others: GroupDevice, name: str) -> None:
        """Make the group, and give it to others; return when all have joined and know all."""
        group = first.device.groups.create(name, realm=self.address)
        self.group_id = bytes(group.group_id)
        await gather(first.device.groups.give(group, other.device_id) for other in others)
        members = (first, *others)
        await self.until(lambda: self.all_here(members), "all have joined")

    def group(self, member: GroupDevice) -> Group:
        """Return a device's end of the group."""
        found = member.device.groups.get(self.group_id)
        assert found is not None, f"{member.name} is not in the group"
        return found

    def is_in(self, member: GroupDevice) -> bool:
        """Tell whether a device runs and is in the group."""
        return member.runs and member.device.groups.get(self.group_id) is not None

    def all_here(self, members: Sequence[GroupDevice]) -> bool:
        """Tell whether these are members, and each sees all others there, in one epoch."""
        if not all(self.is_in(member) for member in members):
            return False
        groups = [self.group(member) for member in members]
        ids = {member.device_id for member in members}
        return len({group.epoch for group in groups}) == 1 and all(
            group.is_joined and group.here | {group.device_id} == ids for group in groups
        )

    # Time.

    async def sleep(self, seconds: float) -> None:
        """Let the reactor run for a while."""
        await deferLater(self.reactor, seconds, lambda: None)

    async def until(self, holds: Callable[[], object], what: str) -> None:
        """Let the reactor run until something is so."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            self.assertLess(time.monotonic(), deadline, f"{what}: not within {PATIENCE_SECONDS} s")
            await self.sleep(0.01)


async def gather(work: Iterable[Coroutine[Any, Any, Any] | Deferred[Any]]) -> list[Any]:
    """Do several things at once; raise what the first that fails has raised."""
    running = [one if isinstance(one, Deferred) else ensureDeferred(one) for one in work]
    try:
        return await gatherResults(running, consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()
