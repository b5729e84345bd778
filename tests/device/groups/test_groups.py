"""Groups from end to end: devices in memory, a realm in memory, and everything between them."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from abst.device import Device
from abst.device.groups.group import Group
from abst.device.groups.keys import GroupKeys
from abst.device.groups.messages import MessageReader, MessageWriter
from abst.device.groups.sealed_values import open_value
from abst.device_id import DeviceID
from abst.errors import AbstError, Code, GroupError, MissingEpochError
from abst.packets import CreateGroup, GiveGroup, GroupMessage, JoinGroup
from tests.device.doubles import RawDevice
from tests.device.groups.stage import Diary, GroupTestCase


class MembersTests(GroupTestCase):
    def test_a_group_is_given_joined_and_talked_in(self) -> None:
        alice, bob, carol = self.house("alice", "bob", "carol")
        ours, bobs, carols = self.group(alice, bob, carol)
        ours.send(b"hello")
        bobs.send(b"hi")
        self.network.settle()
        self.assertEqual([b"hi"], self.diary(ours).messages)
        self.assertEqual([b"hello"], self.diary(bobs).messages)
        self.assertEqual({b"hello", b"hi"}, set(self.diary(carols).messages))
        self.assertEqual([bob.device_id], self.diary(ours).heard_from)
        for group in (ours, bobs, carols):
            self.assertEqual("family", group.name)
            self.assertEqual(["alice", "bob", "carol"], [m.name for m in group.members()])
            self.assertTrue(group.is_joined)
            self.assertEqual(2, len(group.here))

    def test_who_comes_goes_and_says_so(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        self.diary(ours).events.clear()
        bobs.say_here()
        self.network.settle()
        self.network.kill(bob)
        self.network.settle()
        self.assertEqual(
            [f"here {bob.device_id.short}", f"left {bob.device_id.short}"],
            self.diary(ours).events,
        )
        self.assertEqual(frozenset(), ours.here)

    def test_everything_is_joined_again_after_the_realm_was_away(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        self.network.realm.stop()
        self.network.settle()
        self.assertFalse(ours.is_joined)
        ours.send(b"while it was away")
        self.network.realm.start()
        self.network.advance(70)
        self.assertTrue(ours.is_joined and bobs.is_joined)
        ours.send(b"and after that")
        self.network.settle()
        self.assertEqual([b"and after that"], self.diary(bobs).messages[-1:])

    def test_what_waits_is_bounded(self) -> None:
        (alice,) = self.house("alice")
        (ours,) = self.group(alice)
        self.network.realm.stop()
        self.network.settle()
        for _ in range(8):
            ours.send(bytes(32 * 1024))
        self.assertRaises(GroupError, ours.send, b"x")

    def test_a_message_that_is_too_long_is_refused(self) -> None:
        (alice,) = self.house("alice")
        (ours,) = self.group(alice)
        self.assertRaises(GroupError, ours.send, bytes(66_000))

    def test_an_offer_may_be_refused(self) -> None:
        alice, bob = self.house("alice", "bob")
        self.factories["bob"].answer = False
        group = alice.groups.create("family", realm=self.network.realm.address)
        given = alice.groups.give(group, bob.device_id)
        error = self.assertRaises(GroupError, self.result, given)
        self.assertIn("does not want", str(error))
        self.assertEqual([], bob.groups.all())
        self.assertEqual(["alice"], [member.name for member in group.members()])

    def test_a_person_may_take_a_while_to_decide(self) -> None:
        alice, bob = self.house("alice", "bob")
        answer: Deferred[bool] = Deferred()
        self.factories["bob"].answer = answer
        group = alice.groups.create("family", realm=self.network.realm.address)
        given = alice.groups.give(group, bob.device_id)
        self.network.advance(300)
        self.assertNoResult(given)
        (offer,) = self.factories["bob"].offers
        self.assertEqual(("family", "group", 2), (offer.name, offer.kind, offer.members))
        answer.callback(True)
        self.network.advance(5)
        self.assertTrue(self.of(bob, group).is_joined)

    def test_a_device_that_is_away_gets_it_when_it_comes(self) -> None:
        alice, bob = self.house("alice", "bob")
        self.network.kill(bob)
        group = alice.groups.create("family", realm=self.network.realm.address)
        given = alice.groups.give(group, bob.device_id)
        self.network.advance(30)
        self.assertNoResult(given)
        bob = self.device("bob", identity=bob.identity)
        bob.trust(alice.device_id, "alice")
        self.network.advance(5)
        self.successResultOf(given)
        self.assertTrue(self.of(bob, group).is_joined)

    def test_only_peers_are_given_anything(self) -> None:
        alice, bob = self.device("alice"), self.device("bob")
        group = alice.groups.create("family", realm=self.network.realm.address)
        self.assertRaises(GroupError, alice.groups.give, group, bob.device_id)
        alice.trust(bob.device_id, "bob")
        error = self.assertRaises(GroupError, alice.groups.give, group, bob.device_id)
        self.assertIn("has not been met", str(error))

    def test_names_and_ids_find_groups_and_members(self) -> None:
        alice, bob = self.house("alice", "bob")
        (first,) = self.group(alice, name="family")
        (second, _) = self.group(alice, bob, name="club")
        self.assertIs(first, alice.groups.find("family"))
        self.assertIs(second, alice.groups.find(str(second.group_id)[:8]))
        self.assertRaises(GroupError, alice.groups.find, "nobody")
        second.rename("family")
        error = self.assertRaises(GroupError, alice.groups.find, "family")
        self.assertIn(str(second.group_id), str(error))
        self.assertEqual(bob.device_id, second.find("bob").device_id)
        self.assertRaises(GroupError, second.find, "carol")
        self.network.settle()
        self.assertEqual("family", self.of(bob, second).name)

    def test_what_no_group_is_made_of(self) -> None:
        (alice,) = self.house("alice")
        self.assertRaises(GroupError, alice.groups.create, "family", realm=None)
        self.assertRaises(GroupError, alice.groups.create, " ", realm=self.network.realm.address)
        other = self.network.add_realm().address
        self.assertRaises(GroupError, alice.groups.create, "family", realm=other)

    def test_who_leaves_is_gone_for_all(self) -> None:
        alice, bob, carol = self.house("alice", "bob", "carol")
        ours, bobs, carols = self.group(alice, bob, carol)
        bob.groups.leave(bobs)
        self.network.advance(3)
        for group in (ours, carols):
            self.assertEqual(["alice", "carol"], [member.name for member in group.members()])
        self.assertEqual([], bob.groups.all())
        self.assertEqual(["over: this device has left the group"], self.diary(bobs).events[-1:])

    def test_only_who_has_let_a_device_in_takes_its_word_that_it_is_gone(self) -> None:
        alice, bob, carol = self.house("alice", "bob", "carol")
        ours, carols = self.group(alice, carol)
        answer: Deferred[bool] = Deferred()
        self.factories["bob"].answer = answer
        alice.groups.give(ours, bob.device_id)
        self.network.advance(3)
        gone = GiveGroup("gone", bytes(ours.group_id))
        for device in (alice, carol):
            # Said before the offer had come, in answer to the first state of a member.
            self.result(device.connect(bob.device_id))
            device.groups.given(bob.device_id, gone)
        self.network.advance(3)
        self.assertEqual(["alice", "bob", "carol"], [member.name for member in carols.members()])
        answer.callback(True)
        self.network.advance(3)
        self.assertTrue(self.of(bob, ours).is_joined)
        self.result(alice.connect(bob.device_id))
        alice.groups.given(bob.device_id, gone)
        self.network.advance(3)
        self.assertEqual(["alice", "carol"], [member.name for member in carols.members()])

    def test_an_application_that_fails_disturbs_nothing(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)

        class Failing(Diary):
            def messageReceived(self, device_id: DeviceID, content: bytes) -> None:
                super().messageReceived(device_id, content)
                raise RuntimeError("a defect of the application")

        self.diary(bobs).__class__ = Failing
        ours.send(b"one")
        ours.send(b"two")
        self.network.settle()
        self.assertEqual([b"one", b"two"], self.diary(bobs).messages)
        self.assertEqual(2, len(self.flushLoggedErrors(RuntimeError)))


class RotationTests(GroupTestCase):
    def test_a_removed_device_reads_nothing_new_with_all_that_it_has_kept(self) -> None:
        alice, bob, mallory = self.house("alice", "bob", "mallory")
        ours, bobs, theirs = self.group(alice, bob, mallory)
        self.result(ours.values.set("door", b"1234"))
        kept: GroupKeys = theirs.keys
        self.result(ours.remove(mallory.device_id))
        self.network.advance(3)
        self.assertEqual([1, 1, 0], [group.epoch for group in (ours, bobs, theirs)])
        before = len(self.network.realm.relayed)
        ours.send(b"the new secret")
        self.result(bobs.values.set("door", b"9999"))
        self.assertEqual([b"the new secret"], self.diary(bobs).messages)
        self.assertEqual([], self.diary(theirs).messages)
        # Even with the realm's help: it gives mallory every message and every sealed value.
        told = self.network.realm.relayed[before:]
        self.assertNotIn(b"the new secret", told)
        key = ours.roster.members()[alice.device_id].public_key
        sealed = [value for _, value in self.sealed_values(ours)]
        self.assertTrue(sealed)
        for value in sealed:
            with self.assertRaises(MissingEpochError):
                open_value(kept, kept.hidden_name(b"door"), value, lambda device: key)
        reader = MessageReader(mallory.device_id)
        for message in self.messages_in(bytes(told)):
            with self.assertRaises(MissingEpochError):
                reader.open(kept, alice.device_id, key, message)

    def sealed_values(self, group: object) -> list[tuple[int, bytes]]:
        """Return what the realm keeps of the values that are there now."""
        found: list[tuple[int, bytes]] = []
        store = self.network.realm.realm.store
        for kept in store._kept.values():  # type: ignore[attr-defined]
            last = {change.name: change for change in kept.changes.values()}
            found += [(c.revision, c.sealed) for c in last.values() if c.sealed is not None]
        return found

    def messages_in(self, told: bytes) -> list[bytes]:
        """Return the contents of all messages to groups among what the realm was given."""
        found, at = [], 0
        head = b"\x84\xa9packet_id\x06"
        while (at := told.find(head, at)) >= 0:
            begin = told.index(b"\xa7content", at) + len(b"\xa7content")
            self.assertEqual(0xC4, told[begin])
            found.append(told[begin + 2 : begin + 2 + told[begin + 1]])
            at = begin
        self.assertTrue(found)
        return found

    def test_the_realm_refuses_the_old_epoch(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, _ = self.group(alice, bob)
        keys = ours.keys
        self.result(ours.remove(bob.device_id))
        raw = RawDevice(self.network, bob.identity, self.network.realm)
        self.network.settle()
        proof = keys.proof(raw.link.nonce, bytes(bob.device_id))
        joining = raw.link.ask(JoinGroup(bytes(ours.group_id), 0, proof))
        self.network.settle()
        failure = self.failureResultOf(joining)
        self.assertEqual((Code.WRONG_EPOCH, 1), (failure.value.code, failure.value.epoch))
        raw.link.tell(GroupMessage(bytes(bob.device_id), bytes(ours.group_id), b"x"))
        self.network.settle()
        self.assertEqual([], self.diary(ours).messages)

    def test_half_of_them_are_away_while_the_key_changes(self) -> None:
        alice, bob, carol, dave = self.house("alice", "bob", "carol", "dave")
        ours, bobs, _, _ = self.group(alice, bob, carol, dave)
        for device in (carol, dave):
            self.network.kill(device)
        self.result(ours.remove(dave.device_id))
        self.result(bobs.rotate())
        self.network.advance(2)
        self.assertEqual([2, 2], [ours.epoch, bobs.epoch])

    def test_the_key_comes_when_its_device_does(self) -> None:
        alice, bob = self.house("alice", "bob")
        store = self.store()
        carol = self.device("carol", group_store=store)
        self.network.introduce(alice, bob, carol)
        self.network.settle()
        for device in (alice, bob):
            self.result(carol.connect(device.device_id))
        ours, _, _ = self.group(alice, bob, carol)
        self.network.kill(carol)
        self.result(ours.rotate())
        self.result(ours.values.set("door", b"new"))
        carol = self.device("carol", identity=carol.identity, group_store=store)
        for device in (alice, bob):
            carol.trust(device.device_id, device.device_name)
        self.network.advance(10)
        carols = self.of(carol, ours)
        self.assertEqual((1, True), (carols.epoch, carols.is_joined))
        found = self.result(carols.values.get("door"))
        self.assertEqual(b"new", found.value)

    def test_two_that_move_the_group_at_once_end_in_one_epoch(self) -> None:
        alice, bob, carol = self.house("alice", "bob", "carol")
        groups = self.group(alice, bob, carol)
        first, second = groups[0].rotate(), groups[1].rotate()
        self.network.advance(10)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual([1, 1, 1], [group.epoch for group in groups])
        self.assertEqual(1, len({group.keys.seeds for group in groups}))
        self.assertTrue(all(group.is_joined for group in groups))

    def test_two_removals_at_once_are_both_done(self) -> None:
        alice, bob, carol, dave = self.house("alice", "bob", "carol", "dave")
        ours, bobs, carols, daves = self.group(alice, bob, carol, dave)
        first, second = ours.remove(carol.device_id), bobs.remove(dave.device_id)
        self.network.advance(20)
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual(ours.keys.seeds, bobs.keys.seeds)
        for group in (ours, bobs):
            self.assertEqual(["alice", "bob"], [member.name for member in group.members()])
            self.assertTrue(group.is_joined)
        for group in (carols, daves):
            self.assertNotEqual(ours.keys.seeds, group.keys.seeds)
            self.assertFalse(group.is_joined)

    def test_a_removal_waits_for_the_realm(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, _ = self.group(alice, bob)
        self.network.realm.stop()
        self.network.settle()
        removed = ours.remove(bob.device_id)
        self.network.advance(5)
        self.assertNoResult(removed)
        self.network.realm.start()
        self.network.advance(70)
        self.successResultOf(removed)
        self.assertEqual(1, ours.epoch)

    def test_the_key_is_not_lost_when_the_mover_dies_at_any_moment(self) -> None:
        for moment in range(6):
            store = self.store()
            alice = self.device("alice", group_store=store)
            group = alice.groups.create("family", realm=self.network.realm.address)
            self.network.advance(1)
            group.rotate().addErrback(lambda failure: failure.trap(GroupError))
            for _ in range(moment):
                self.network.clock.advance(0)
            self.network.kill(alice)
            alice = self.device("alice", identity=alice.identity, group_store=store)
            self.network.advance(5)
            again = self.of(alice, group)
            self.assertEqual((1, True), (again.epoch, again.is_joined), moment)
            self.network.kill(alice)

    def test_a_realm_that_has_lost_its_disk_gets_the_group_again(self) -> None:
        (alice,) = self.house("alice")
        (ours,) = self.group(alice)
        self.result(ours.rotate())
        realm = self.network.realm
        realm.stop()
        realm.realm.groups._groups.clear()
        realm.start()
        self.network.advance(70)
        self.assertTrue(ours.is_joined)

    def move_behind_backs(self, device: Device, group: Group) -> None:
        """Move a group at the realm, as a device does that tells nobody the key."""
        keys = group.keys.with_next(bytes(range(32)))
        raw = RawDevice(self.network, device.identity, self.network.realm)
        self.network.settle()
        raw.link.ask(
            CreateGroup(
                bytes(group.group_id),
                1,
                keys.public_key(1),
                keys.proof(raw.link.nonce, bytes(device.device_id)),
                group.keys.move_signature(keys.public_key(1)),
            )
        )

    def test_a_device_alone_knows_what_it_waits_for(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        self.network.kill(alice)
        self.move_behind_backs(alice, ours)
        self.network.advance(2)
        self.assertIsInstance(bobs.problem, MissingEpochError)
        self.assertIn("epoch 1", str(bobs.problem))
        problem: AbstError = self.diary(bobs).problems[-1]
        self.assertIsInstance(problem, MissingEpochError)

    def test_an_answer_that_comes_after_leaving_brings_nothing_back(self) -> None:
        store = self.store()
        alice, bob = self.device("alice"), self.device("bob", group_store=store)
        self.network.introduce(alice, bob)
        self.network.settle()
        self.result(alice.connect(bob.device_id))
        ours, bobs = self.group(alice, bob)
        self.network.kill(alice)
        self.move_behind_backs(alice, ours)
        moved = bobs.rotate()
        # What it asks for is on the way, and the answer is that somebody was faster.
        bob.groups.leave(bobs)
        self.network.settle()
        self.failureResultOf(moved, GroupError)
        self.assertEqual([], store.load())
        self.assertEqual([], self.diary(bobs).problems)


class StoredTests(GroupTestCase):
    def test_a_device_that_starts_again_is_in_the_same_groups(self) -> None:
        store = self.store()
        alice = self.device("alice", group_store=store)
        bob = self.device("bob")
        self.network.introduce(alice, bob)
        self.network.settle()
        self.result(alice.connect(bob.device_id))
        ours, bobs = self.group(alice, bob)
        bobs.send(b"one")
        self.result(bobs.values.set("light", b"on"))
        ours.send(b"first stream")
        self.network.advance(2)
        self.network.kill(alice)
        alice = self.device("alice", identity=alice.identity, group_store=store)
        alice.trust(bob.device_id, "bob")
        self.network.advance(3)
        again = self.of(alice, ours)
        self.assertEqual("family", again.name)
        self.assertEqual(["alice", "bob"], [member.name for member in again.members()])
        self.assertTrue(again.is_joined)
        again.send(b"second stream")
        bobs.send(b"two")
        self.network.settle()
        self.assertEqual([b"first stream", b"second stream"], self.diary(bobs).messages)
        self.assertEqual([b"two"], self.diary(again).messages)
        self.assertEqual([], self.diary(again).problems)

    def test_what_comes_while_a_device_stops_is_heard_after_the_next_start(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        sealed = MessageWriter(alice.identity, 10**9).seal(ours.keys, b"late", 0, bytes(32))
        message = GroupMessage(bytes(alice.device_id), bytes(ours.group_id), sealed)
        (link,) = bob.links_up()
        bob.stopService()
        bob.group_told(link, bytes(ours.group_id), message)
        self.assertEqual([], self.diary(bobs).messages)
        bob.startService()
        bob.group_told(link, bytes(ours.group_id), message)
        self.assertEqual([b"late"], self.diary(bobs).messages)

    def test_an_old_message_is_not_taken_again_after_a_restart(self) -> None:
        store = self.store()
        alice, bob = self.device("alice", group_store=store), self.device("bob")
        self.network.introduce(alice, bob)
        self.network.settle()
        self.result(alice.connect(bob.device_id))
        ours, bobs = self.group(alice, bob)
        before = len(self.network.realm.relayed)
        bobs.send(b"open the door")
        self.network.advance(2)
        told = bytes(self.network.realm.relayed[before:])
        begin = told.index(b"\x84\xa9packet_id\x06")
        end = told.index(b"\xa7content", begin) + len(b"\xa7content") + 1
        old = told[begin : end + 1 + told[end]]
        self.assertEqual([b"open the door"], self.diary(ours).messages)
        self.network.kill(alice)
        alice = self.device("alice", identity=alice.identity, group_store=store)
        self.network.advance(3)
        (link,) = alice.links_up()
        link.arrive(old)  # type: ignore[attr-defined]
        self.network.settle()
        again = self.of(alice, ours)
        self.assertEqual([], self.diary(again).messages)
        self.assertEqual(1, len(self.diary(again).problems))
