"""Groups and values while the realm is killed, members come and go, and half are away.

``make soak`` runs more rounds (ABST_ROUNDS).
"""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import sys
from dataclasses import dataclass, field

from twisted.internet.defer import ensureDeferred
from twisted.internet.threads import deferToThread

from abst.device.groups.keys import GroupKeys
from abst.device.groups.roster import Roster
from abst.device.groups.sealed_values import epoch_of, open_value
from abst.device.groups.values import Value
from abst.device_id import DeviceID
from abst.errors import Code, GroupError, MissingEpochError, ValueConflictError
from abst.packets import GetValue, GroupMessage, JoinGroup, ListValues, PutValue
from abst.realm.state_folder import STORE_FILE
from tests.integration.group_devices import GroupDevice, GroupDevicesTestCase, gather
from tests.integration.raw_client import RawDevice

ROUNDS = int(os.environ.get("ABST_ROUNDS") or 10)
SEED = int(os.environ.get("ABST_SOAK_SEED") or random.randrange(1_000_000))
FAMILY = ("alice", "bob", "carol", "dave", "erin")
GUESTS = ("frank", "grace", "heidi", "ivan")


@dataclass
class PutLedger:
    """What devices have put, and what the realm has said to that.

    Attributes:
        tried: every value that was put under a name, acknowledged or not.
        acknowledged: the newest revision that was acknowledged for a name, and its value.
        revisions: all revisions that were acknowledged.
        lost: how many puts were on their way when the realm was killed.
    """

    tried: dict[str, set[bytes]] = field(default_factory=dict)
    acknowledged: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    revisions: set[int] = field(default_factory=set)
    lost: int = 0

    def try_one(self, name: str, value: bytes) -> None:
        """Note what is about to be put."""
        self.tried.setdefault(name, set()).add(value)

    def acknowledge(self, name: str, value: bytes, revision: int) -> None:
        """Note that a put was acknowledged."""
        assert revision not in self.revisions, f"change {revision} is acknowledged twice"
        self.revisions.add(revision)
        newest = self.acknowledged.get(name, (0, b""))
        self.acknowledged[name] = max(newest, (revision, value))

    def check(self, found: dict[bytes, Value]) -> None:
        """Compare with what is there now."""
        for name, (revision, value) in self.acknowledged.items():
            there = found.get(name.encode())
            assert there is not None, f"{name}: change {revision} is gone"
            assert there.revision >= revision, f"{name}: {there.revision} in place of {revision}"
            assert there.value == value or there.revision > revision, f"{name}: another value"
        for there in found.values():
            assert there.value in self.tried[there.name.decode()], f"{there.name!r}: never put"


class KilledRealmTests(GroupDevicesTestCase):
    """One realm process after the other, on one state folder, under five devices."""

    timeout = 60 + 10 * ROUNDS

    async def test_what_was_acknowledged_is_there_after_every_kill(self) -> None:
        chance = random.Random(SEED)
        ledger = PutLedger()
        await self.start_realm()
        members = await self.house(*FAMILY)
        await self.make_group(*members, name="family")
        try:
            for _ in range(ROUNDS):
                self.prepare_realm()
                puts = ensureDeferred(
                    gather(self.put(member, ledger, chance) for member in members)
                )
                await self.until_acknowledged(ledger, chance.randrange(5, 60))
                self.realm.kill()
                await puts
                await self.start_realm()
                await self.until(lambda: self.all_here(members), "all have joined again")
                await self.check(members, ledger)
            await members[0].stop()
            members[0].start(self.address)
            await self.until(lambda: self.all_here(members), "one that was restarted has joined")
            await self.check(members, ledger)
        except AssertionError:
            sys.stdout.write(f"ABST_SOAK_SEED={SEED} ... ")
            raise
        self.assertGreater(ledger.lost, ROUNDS)

    async def until_acknowledged(self, ledger: PutLedger, count: int) -> None:
        """Wait for more puts to be acknowledged."""
        enough = len(ledger.revisions) + count
        await self.until(lambda: len(ledger.revisions) >= enough, "puts are acknowledged")

    async def put(self, member: GroupDevice, ledger: PutLedger, chance: random.Random) -> None:
        """Put values, several at once, until the realm is not there any more."""
        await gather(self.put_in_turn(member, ledger, chance) for _ in range(4))

    async def put_in_turn(
        self, member: GroupDevice, ledger: PutLedger, chance: random.Random
    ) -> None:
        values = self.group(member).values
        while True:
            name = f"name {chance.randrange(20)}"
            value = b"%d" % chance.getrandbits(64) * chance.choice((1, 100))
            known = await values.get(name) if not chance.randrange(4) else None
            ledger.try_one(name, value)
            try:
                revision = await values.set(
                    name, value, if_revision=None if known is None else known.revision
                )
            except ValueConflictError:
                continue
            except GroupError:
                ledger.lost += 1
                return
            ledger.acknowledge(name, value, revision)

    async def check(self, members: list[GroupDevice], ledger: PutLedger) -> None:
        """Check that all devices find the same, and everything that was acknowledged."""
        views = []
        for member in members:
            values = self.group(member).values
            self.assertIsNone(values.problem)
            self.assertEqual([], member.problems)
            found = await values.items()
            self.assertEqual({0.0}, {value.age_seconds for value in found})
            ledger.check({value.name: value for value in found})
            views.append([(value.name, value.revision, value.value) for value in found])
        self.assertEqual([views[0]] * len(members), views)
        checked = {self.group(member).values.checked() for member in members}
        self.assertEqual(1, len(checked), checked)


class StormTests(GroupDevicesTestCase):
    """Five devices talk all the time; four more come and go."""

    timeout = 120
    MESSAGES = 100

    def setUp(self) -> None:
        super().setUp()
        self.chance = random.Random(SEED)
        self.is_over = False

    async def send_all(self, sender: GroupDevice) -> None:
        """Send messages that are numbered, in bursts."""
        group, number = self.group(sender), 0
        while number < self.MESSAGES:
            for _ in range(min(self.chance.randrange(1, 8), self.MESSAGES - number)):
                group.send(b"%b %d" % (sender.name.encode(), number))
                number += 1
            await self.sleep(self.chance.uniform(0, 0.04))

    async def send_last(self, senders: list[GroupDevice], members: list[GroupDevice]) -> None:
        """Send one more each, and wait until everybody has heard it."""
        last = {sender.device_id: b"last %d" % self.MESSAGES for sender in senders}
        for sender in senders:
            self.group(sender).send(last[sender.device_id])
        await self.until(
            lambda: all(
                member.heard_of(device_id).contents[-1:] == [content]
                for member in members
                for device_id, content in last.items()
                if device_id != member.device_id
            ),
            f"everybody hears the last message (ABST_SOAK_SEED={SEED})",
        )

    async def test_who_stays_hears_everything_and_who_comes_late_hears_of_the_gap(self) -> None:
        await self.start_realm()
        members = await self.house(*FAMILY, *GUESTS)
        await self.make_group(*members, name="storm")
        senders, guests = members[: len(FAMILY)], members[len(FAMILY) :]
        roamed = ensureDeferred(gather(self.roam(guest) for guest in guests))
        await gather(self.send_all(sender) for sender in senders)
        self.is_over = True
        await roamed
        await self.until(lambda: self.all_here(members), "all are back")
        await self.send_last(senders, members)
        self.assertEqual([], [p for member in members for p in member.order_problems()])
        for receiver in senders:
            for sender in senders:
                if receiver is not sender:
                    heard = receiver.heard[sender.device_id]
                    self.assertEqual((self.MESSAGES + 1, 0), (len(heard.contents), heard.missed))
        missed = 0
        for guest in guests:
            for sender in senders:
                heard = guest.heard[sender.device_id]
                self.assertEqual(self.MESSAGES + 1, len(heard.contents) + heard.missed)
                missed += heard.missed
        self.assertGreater(missed, self.MESSAGES, "hardly anybody was away")
        guest_ids = {guest.device_id for guest in guests}
        for sender in senders:
            self.assertLessEqual({device_id for device_id, _, _ in sender.dropped}, guest_ids)

    async def roam(self, guest: GroupDevice) -> None:
        """Lose the connection, or stop and start again, again and again."""
        while not self.is_over:
            if self.chance.randrange(2):
                guest.cut()
            else:
                await guest.stop()
                await self.sleep(self.chance.uniform(0, 0.2))
                guest.start(self.address)
            await self.sleep(self.chance.uniform(0, 0.3))

    async def test_nobody_hears_anything_twice_while_members_leave_and_are_added(self) -> None:
        await self.start_realm()
        members = await self.house(*FAMILY, *GUESTS[:2])
        await self.make_group(*members, name="storm")
        senders, guests = members[: len(FAMILY)], members[len(FAMILY) :]
        coming = ensureDeferred(gather(self.come_and_go(senders[0], guest) for guest in guests))
        await gather(self.send_all(sender) for sender in senders)
        self.is_over = True
        await coming
        await self.until(lambda: self.all_here(members), "all are back, in one epoch")
        await self.send_last(senders, members)
        self.assertEqual([], [p for member in members for p in member.order_problems()])
        self.assertGreater(self.group(senders[0]).epoch, 0)
        self.assertGreater(sum(len(guest.chapters) for guest in guests), 0)
        for receiver in members:
            for sender in senders:
                if receiver is not sender:
                    heard = receiver.heard[sender.device_id]
                    self.assertEqual(self.MESSAGES + 1, len(heard.contents) + heard.missed)

    async def come_and_go(self, founder: GroupDevice, guest: GroupDevice) -> None:
        """Leave the group, and be given it again, again and again."""
        group = self.group(founder)
        while not self.is_over:
            guest.device.groups.leave(self.group(guest))
            await self.until(
                lambda: guest.device_id not in {member.device_id for member in group.members()},
                "a guest has left",
            )
            await founder.device.groups.give(group, guest.device_id)
            await self.until(lambda: self.is_in(guest), "a guest is back")


class AwayTests(GroupDevicesTestCase):
    """The group moves while half of its members are away."""

    timeout = 120

    async def test_who_was_away_gets_the_keys_and_who_was_removed_gets_nothing(self) -> None:
        await self.start_realm()
        members = await self.house(*FAMILY, "mallory")
        await self.make_group(*members, name="family")
        alice, bob, carol, dave, erin, mallory = members
        await self.group(alice).values.set("door", b"1234")
        await self.until(
            lambda: all(self.group(member).values.checked()[0] == 1 for member in members),
            "everybody knows the old value",
        )
        for member in (dave, erin, mallory):
            await member.stop()

        ours = self.group(alice)
        await ours.remove(mallory.device_id)
        await ours.rotate()
        here = [alice, bob, carol]
        await self.until(lambda: self.all_here(here), "the others have followed")
        await ours.values.set("door", b"9999")

        for member in (dave, erin, mallory):
            member.start(self.address)
        back = [*here, dave, erin]
        await self.until(lambda: self.all_here(back), "who was away is back")
        self.assertEqual({2}, {self.group(member).epoch for member in back})
        for member in back:
            found = await self.group(member).values.get("door")
            assert found is not None
            self.assertEqual((b"9999", 0.0), (found.value, found.age_seconds))
        ours.send(b"new 0")
        await self.until(
            lambda: all(alice.device_id in member.heard for member in back[1:]), "all hear"
        )
        for member in back[1:]:
            self.assertEqual([b"new 0"], member.heard[alice.device_id].contents)
        await self.check_is_out(mallory)
        await mallory.stop()
        await deferToThread(self.check_kept, mallory)

    async def check_is_out(self, mallory: GroupDevice) -> None:
        """Check that a device has joined nothing, reads nothing new, and knows why."""
        group = self.group(mallory)
        await self.until(lambda: mallory.problems, "it has seen that a key is missing")
        self.assertIsInstance(mallory.problems[0], MissingEpochError)
        self.assertEqual((False, 0, {}), (group.is_joined, group.epoch, mallory.heard))
        found = await group.values.get("door")
        assert found is not None
        self.assertEqual(b"1234", found.value)
        self.assertGreater(found.age_seconds, 0)

    def check_kept(self, mallory: GroupDevice) -> None:
        """Check what can be done with all that a device has on its disk."""
        (saved,) = mallory.kept()
        keys = GroupKeys(saved.seeds)
        self.assertEqual(0, keys.epoch)
        with RawDevice(self.address.port, mallory.identity) as raw:
            proof = keys.proof(raw.hello().nonce, raw.device_id)
            name = keys.hidden_name(b"door")
            for packet, code in (
                (JoinGroup(self.group_id, 0, proof), Code.WRONG_EPOCH),
                (JoinGroup(self.group_id, 2, proof), Code.WRONG_PROOF),
                (ListValues(self.group_id, 0), Code.NOT_JOINED),
                (GetValue(self.group_id, name), Code.NOT_JOINED),
                (PutValue(self.group_id, name, bytes(100)), Code.NOT_JOINED),
                (GroupMessage(raw.device_id, self.group_id, bytes(200)), Code.NOT_JOINED),
            ):
                raw.send(packet)
                self.assertEqual(code, raw.receive_error().code, packet.title)
        # Even with the realm's disk.
        database = sqlite3.connect(f"file:{self.state_folder / STORE_FILE}?mode=ro", uri=True)
        with contextlib.closing(database):
            rows = database.execute("SELECT sealed FROM change WHERE sealed IS NOT NULL")
            newest = [row[0] for row in rows if epoch_of(row[0]) == 2]
        self.assertTrue(newest)
        roster = Roster(DeviceID(self.group_id), saved.founder, saved.entries)
        for sealed in newest:
            with self.assertRaises(MissingEpochError):
                open_value(keys, name, sealed, roster.was_member)
