"""Members that do anything, in any order, on a network that fails: in the end they agree."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from abst.database import Database
from abst.device import Device, DeviceFactory
from abst.device.groups.group import Group
from abst.device.groups.protocol import GroupFactory, GroupOffer, GroupProtocol
from abst.device.groups.store import MIGRATIONS, SqliteGroupStore
from abst.device.peers import PeerBook
from abst.device_id import DeviceID
from abst.errors import AbstError, DishonestRealmError, GroupError
from abst.identity import Identity
from abst.testing import MemoryNetwork
from abst.testing.realm import MemoryLink

NAMES = ("alice", "bob", "carol", "dave")
IDENTITIES = {name: Identity.generate() for name in NAMES}
EXAMPLES = int(os.environ.get("ABST_EXAMPLES") or 12)

REST_SECONDS = 200
"""So long does it take until everybody has tried everything again."""

names = st.sampled_from(NAMES)


class Ear(GroupProtocol):
    """Hands on what a group says."""

    house: House

    def messageReceived(self, device_id: DeviceID, content: bytes) -> None:
        self.house.hear(device_id, int(content))

    def problemSeen(self, problem: AbstError) -> None:
        if isinstance(problem, DishonestRealmError):
            self.house.wrong.append(f"{self.house.name}: {problem}")


class House(GroupFactory):
    """One device with all that it keeps; it takes every group that is offered.

    Attributes:
        device: the device, while it runs.
        wrong: what has happened to it that must not.
    """

    protocol = Ear

    def __init__(self, name: str, folder: Path, network: MemoryNetwork) -> None:
        self.name = name
        self.identity = IDENTITIES[name]
        self.device: Device | None = None
        self.wrong: list[str] = []
        self._network = network
        self._database = Database(folder / f"{name}.db", 0x74657374, MIGRATIONS)
        self._peers = PeerBook()
        self._heard: dict[DeviceID, int] = {}

    def buildProtocol(self, group: Group) -> GroupProtocol:
        protocol = super().buildProtocol(group)
        assert isinstance(protocol, Ear)
        protocol.house = self
        return protocol

    def acceptsOffer(self, offer: GroupOffer) -> bool:
        return True

    def start(self) -> None:
        """Start the device with what it has kept."""
        self.device = self._network.device(
            self.name,
            DeviceFactory(),
            identity=self.identity,
            peers=self._peers,
            group_factory=self,
            group_store=SqliteGroupStore(self._database),
        )

    def kill(self) -> None:
        """Let the device vanish."""
        if self.device is not None:
            self._network.kill(self.device)
            self.device = None

    def close(self) -> None:
        """End everything."""
        self.kill()
        self._database.close()

    def hear(self, device_id: DeviceID, number: int) -> None:
        """Note a message; each is a later one than those before it of the same member."""
        if number <= self._heard.get(device_id, -1):
            self.wrong.append(f"{self.name} hears {number} again, or too late")
        self._heard[device_id] = number


class GroupMachine(RuleBasedStateMachine):
    """Four devices, one group, one realm."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MemoryNetwork()
        self.folder = Path(tempfile.mkdtemp(prefix="abst-test-"))
        self.houses = {name: House(name, self.folder, self.network) for name in NAMES}
        self.group_id = b""
        self.numbers = itertools.count()

    @initialize()
    def begin(self) -> None:
        """Let all meet, and have a group."""
        for house in self.houses.values():
            house.start()
        devices = [house.device for house in self.houses.values() if house.device is not None]
        self.network.introduce(*devices)
        self.network.settle()
        for device, other in itertools.combinations(devices, 2):
            device.connect(other.device_id)
        self.network.settle()
        group = devices[0].groups.create("family", realm=self.network.realm.address)
        self.group_id = bytes(group.group_id)
        for name in NAMES[1:]:
            self.give(NAMES[0], name)
        self.network.advance(2)

    def group(self, name: str) -> Group | None:
        """Return a device's end of the group, if it runs and has it."""
        device = self.houses[name].device
        return None if device is None else device.groups.get(self.group_id)

    def ask(self, doing: Any, *arguments: Any, **options: Any) -> None:
        """Do something that may be refused, now or later."""
        try:
            done = doing(*arguments, **options)
        except GroupError:
            return
        if isinstance(done, Deferred):
            done.addErrback(self.refused)

    def refused(self, failure: Any) -> None:
        """Take a refusal, but for a realm that is said to lie."""
        failure.trap(AbstError)
        assert failure.check(DishonestRealmError) is None, failure.value

    # What members do.

    @rule(name=names, other=names)
    def give(self, name: str, other: str) -> None:
        group, device = self.group(name), self.houses[name].device
        if group is not None and device is not None and name != other:
            self.ask(device.groups.give, group, IDENTITIES[other].device_id)
            self.network.settle()

    @rule(name=names, other=names)
    def remove(self, name: str, other: str) -> None:
        group, device = self.group(name), self.houses[name].device
        if group is not None and device is not None:
            if name == other:
                self.ask(device.groups.leave, group)
            else:
                self.ask(group.remove, IDENTITIES[other].device_id)
            self.network.settle()

    @rule(name=names)
    def rotate(self, name: str) -> None:
        if (group := self.group(name)) is not None:
            self.ask(group.rotate)
            self.network.settle()

    @rule(name=names, settles=st.booleans())
    def send(self, name: str, settles: bool) -> None:
        if (group := self.group(name)) is not None:
            self.ask(group.send, b"%d" % next(self.numbers))
            if settles:
                self.network.settle()

    @rule(name=names, key=st.sampled_from("xy"), deletes=st.booleans(), settles=st.booleans())
    def change_value(self, name: str, key: str, deletes: bool, settles: bool) -> None:
        if (group := self.group(name)) is not None:
            if deletes:
                self.ask(group.values.delete, key)
            else:
                self.ask(group.values.set, key, b"%d" % next(self.numbers))
            if settles:
                self.network.settle()

    # What happens to them.

    @rule(name=names)
    def cut(self, name: str) -> None:
        device = self.houses[name].device
        if device is not None:
            for link in device.links.values():
                assert isinstance(link, MemoryLink)
                link.cut()

    @rule(name=names)
    def kill(self, name: str) -> None:
        self.houses[name].kill()

    @rule(name=names)
    def start(self, name: str) -> None:
        if self.houses[name].device is None:
            self.houses[name].start()
            self.network.settle()

    @rule()
    def stop_realm(self) -> None:
        self.network.realm.stop()

    @rule()
    def start_realm(self) -> None:
        self.network.realm.start()

    @rule(seconds=st.sampled_from((0.1, 2, 40)))
    def pass_time(self, seconds: float) -> None:
        self.network.advance(seconds)

    # What is so in the end.

    def teardown(self) -> None:
        try:
            if self.group_id:
                self.rest()
        finally:
            for house in self.houses.values():
                house.close()
            shutil.rmtree(self.folder)

    def rest(self) -> None:
        """Let everybody come back, and wait."""
        self.network.realm.start()
        for name in NAMES:
            self.start(name)
        self.network.advance(REST_SECONDS, step=5)
        wrong = [wrong for house in self.houses.values() for wrong in house.wrong]
        assert not wrong, wrong
        groups = [group for name in NAMES if (group := self.group(name)) is not None]
        for group, other in itertools.combinations(groups, 2):
            if self.is_in(other, group) and self.is_in(group, other):
                self.check_agreed(group, other)
            elif group.is_joined and not self.is_in(other, group):
                self.check_removed(group, other)

    def is_in(self, other: Group, group: Group) -> bool:
        """Tell whether a device is a member, as another one sees it."""
        return other.device_id in group.roster.members()

    def check_agreed(self, group: Group, other: Group) -> None:
        """Check that two that take each other for members know the same."""
        assert group.roster.digest() == other.roster.digest()
        assert group.keys.seeds == other.keys.seeds
        assert group.is_joined == other.is_joined, (group.problem, other.problem)
        if group.is_joined:
            assert group.values.checked() == other.values.checked()
            assert self.values_of(group) == self.values_of(other)

    def check_removed(self, group: Group, other: Group) -> None:
        """Check that a device that is out for another one has not got the newest key."""
        assert not set(group.keys.seeds[-1:]) & set(other.keys.seeds), "a removed device has it"

    def values_of(self, group: Group) -> list[tuple[bytes, int, bytes]]:
        found = self.network.result(self.settled(group.values.items()))
        return [(value.name, value.revision, value.value) for value in found]

    def settled(self, deferred: Deferred[Any]) -> Deferred[Any]:
        self.network.settle()
        return deferred


class GroupMachineTests(SynchronousTestCase):
    def test_whatever_members_do_they_agree_in_the_end(self) -> None:
        shape = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
        run_state_machine_as_test(GroupMachine, settings=shape)
