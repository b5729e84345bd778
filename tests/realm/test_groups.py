"""Peer groups at a realm: who may join, who is told of whom, and whom a message reaches."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst import codec
from abst.device_id import DeviceID
from abst.errors import Code
from abst.packets import (
    MAX_EPOCHS,
    CreateGroup,
    Error,
    GroupEpoch,
    GroupLeft,
    GroupMembers,
    GroupMessage,
    Hello,
    HereInGroup,
    JoinGroup,
    LeaveGroup,
    Packet,
    PutValue,
    StillHere,
    ValueChanges,
    ValuePut,
    WatchValues,
)
from abst.realm.client import Client, ValueRequest
from abst.realm.conversation import OWN_ROOM_BYTES
from abst.realm.groups import DAY_SECONDS, MAX_WAITING_MOVES, WRONG_PROOF_REQUESTS
from abst.realm.limits import Limits
from abst.realm.news import MAX_WAITING_ANSWERS
from abst.realm.outbox import MAX_CONTROL_BYTES
from abst.realm.store.interface import Forgotten, GroupRecord, Store
from abst.realm.store.memory import MemoryStore
from tests.realm.group_members import Keys, SlowStore, device_of, members, message, nonce_of
from tests.realm.memory_realm import ALICE, BOB, CAROL, NOBODY, Line, MemoryRealm, send

KEYS = Keys(b"garden")
OTHER = Keys(b"cellar")
GROUP = KEYS.group
OWN_LIMITS = {"members": 2000.0, "device_groups": 100.0}


class GroupsTestCase(SynchronousTestCase):
    """A realm with three devices, and a group that none has joined."""

    limits = Limits()

    def setUp(self) -> None:
        self.store: Store = MemoryStore()
        self.begin(self.store)
        assert self.realm.core.values is not None
        self.limits_told = {**OWN_LIMITS, **self.realm.core.values.limits_told()}

    def begin(self, store: Store) -> None:
        """Begin with a realm on a store, which Alice has made the group at."""
        self.realm = MemoryRealm(self.limits, store)
        self.alice, self.bob, self.carol = map(self.realm.join, (ALICE, BOB, CAROL))

    def create(self, keys: Keys = KEYS) -> None:
        """Have Alice make a group."""
        self.alice.send(keys.create(self.alice))
        self.assertEqual([GroupEpoch(keys.group, 0, keys.public(0))], self.alice.take())

    def join(self, *lines: Line, keys: Keys = KEYS, epoch: int = 0) -> None:
        """Have devices join a group; what everybody is told of it is taken."""
        for line in lines:
            line.send(keys.join(line, epoch))
            self.assertEqual(device_of(line), members(line.take()[-1])[-1])
        for line in (self.alice, self.bob, self.carol):
            line.take()

    def assert_refused(
        self, line: Line, code: Code, wanted: Packet, epoch: int | None = None
    ) -> None:
        """Assert that a packet is refused, counted, and the connection stays."""
        before = self.realm.core.counters.refused_packets[code]
        line.send(wanted)
        (error,) = line.take_errors()
        self.assertEqual((code, wanted.packet_id, epoch), (error.code, error.about, error.epoch))
        self.assertEqual(GROUP, error.peer_group)
        self.assertEqual(getattr(wanted, "request", None), error.request)
        self.assertEqual(before + 1, self.realm.core.counters.refused_packets[code])
        self.assertEqual("", line.ended)


class CreateTests(GroupsTestCase):
    def test_a_group_is_made_and_lasts(self) -> None:
        self.alice.send(KEYS.create(self.alice, request=7))
        self.assertEqual([GroupEpoch(GROUP, 0, KEYS.public(0), 7)], self.alice.take())
        record = GroupRecord(GROUP, 0, KEYS.public(0), ALICE)
        self.assertEqual([record], list(self.store.groups()))
        self.begin(self.store)
        self.join(self.bob)

    def test_who_asks_again_is_answered_again(self) -> None:
        self.create()
        self.join(self.alice)
        self.create()
        self.bob.send(KEYS.create(self.bob, request=8))
        self.assertEqual([GroupEpoch(GROUP, 0, KEYS.public(0), 8)], self.bob.take())
        self.assertEqual(1, self.realm.core.counters.groups_made)
        self.assertTrue(self.alice.conversation.is_joined(GROUP))
        self.assertEqual([ALICE], [record.maker for record in self.store.groups()])

    def test_the_id_is_that_of_the_key(self) -> None:
        wanted = OTHER.create(self.alice)
        nonce = nonce_of(self.alice)
        for changed in (
            CreateGroup(GROUP, 0, OTHER.public(0), wanted.proof),
            CreateGroup(GROUP, 0, OTHER.public(0), OTHER.proof(nonce, ALICE, 0)),
        ):
            self.assert_refused(self.alice, Code.WRONG_PROOF, changed)
        self.create()
        self.assert_refused(self.alice, Code.WRONG_PROOF, changed)

    def test_the_proof_is_for_this_device_connection_group_and_epoch(self) -> None:
        nonce = nonce_of(self.alice)
        key = KEYS.public(0)
        self.create(OTHER)
        for proof in (
            bytes(64),
            KEYS.proof(nonce_of(self.bob), ALICE, 0),
            KEYS.proof(nonce, BOB, 0),
            KEYS.proof(nonce, ALICE, 1),
            OTHER.proof(nonce, ALICE, 0),
        ):
            self.assert_refused(self.alice, Code.WRONG_PROOF, CreateGroup(GROUP, 0, key, proof))
        self.create()
        self.assert_refused(self.alice, Code.WRONG_PROOF, CreateGroup(GROUP, 0, key, bytes(64)))

    def test_a_group_that_is_not_there_has_no_next_epoch(self) -> None:
        self.assert_refused(self.alice, Code.NO_GROUP, KEYS.create(self.alice, 1, request=9))

    def test_answers_come_once_the_disk_has_it(self) -> None:
        store = SlowStore()
        self.begin(store)
        self.alice.send(KEYS.create(self.alice, request=1))
        self.assert_refused(self.alice, Code.NO_GROUP, KEYS.join(self.alice))
        store.answer()
        self.realm.settle()
        self.assertEqual([GroupEpoch(GROUP, 0, KEYS.public(0), 1)], self.alice.take())

    def test_a_disk_that_takes_nothing(self) -> None:
        store = SlowStore()
        self.begin(store)
        self.alice.send(KEYS.create(self.alice, request=1))
        store.answer(is_kept=False)
        self.realm.settle()
        (error,) = self.alice.take_errors()
        self.assertEqual((Code.NOT_KEPT, 3, GROUP, 1), self.named(error))
        self.assert_refused(self.alice, Code.NO_GROUP, KEYS.join(self.alice))
        self.alice.send(KEYS.create(self.alice))
        store.answer()
        self.join(self.bob)

    def named(self, error: Error) -> tuple[str, int | None, bytes | None, int | None]:
        return error.code, error.about, error.peer_group, error.request

    def test_who_is_gone_when_the_disk_has_it_is_not_told(self) -> None:
        store = SlowStore()
        self.begin(store)
        self.alice.send(KEYS.create(self.alice))
        self.alice.disconnect()
        store.answer()
        self.realm.settle()
        self.assertEqual([], self.alice.take())
        self.join(self.bob)


class FewGroupsTests(GroupsTestCase):
    limits = Limits(groups=3, device_groups=2)

    def test_a_device_makes_and_joins_so_many(self) -> None:
        third = Keys(b"third")
        self.create(OTHER)
        self.create(Keys(b"second"))
        self.assert_refused(self.alice, Code.GROUPS_FULL, KEYS.create(self.alice))
        self.bob.send(third.create(self.bob))
        self.bob.take()
        for keys in (OTHER, Keys(b"second")):
            self.join(self.alice, keys=keys)
        self.alice.send(third.join(self.alice))
        (error,) = self.alice.take_errors()
        self.assertEqual((Code.GROUPS_FULL, 60), (error.code, error.retry_after))
        self.alice.send(LeaveGroup(OTHER.group))
        self.alice.take()
        self.join(self.alice, keys=third)

    def test_a_realm_keeps_so_many(self) -> None:
        self.create(OTHER)
        for name in (b"second", b"third"):
            keys = Keys(name)
            self.bob.send(keys.create(self.bob))
        self.bob.take()
        self.assert_refused(self.carol, Code.GROUPS_FULL, KEYS.create(self.carol))
        self.create(OTHER)
        self.alice.send(OTHER.create(self.alice, 1))
        self.assertEqual(1, self.realm.core.counters.groups_moved)
        self.begin(self.store)
        self.assert_refused(self.carol, Code.GROUPS_FULL, KEYS.create(self.carol))

    def test_what_is_being_written_counts(self) -> None:
        store = SlowStore()
        self.begin(store)
        for name in (b"first", b"second"):
            self.alice.send(Keys(name).create(self.alice))
        self.assert_refused(self.alice, Code.GROUPS_FULL, KEYS.create(self.alice))
        store.answer(is_kept=False)
        self.alice.take()
        self.alice.send(KEYS.create(self.alice))
        self.assertEqual(2, len(store.waiting))

    def test_what_was_not_kept_does_not_count(self) -> None:
        store = SlowStore()
        self.begin(store)
        for _ in range(2):
            self.alice.send(Keys(b"first").create(self.alice))
            store.answer(is_kept=False)
        for line, name in ((self.alice, b"1"), (self.alice, b"2"), (self.bob, b"3")):
            line.send(Keys(name).create(line))
        self.assertEqual(3, len(store.waiting))

    def test_makers_are_known_after_a_restart(self) -> None:
        for name in (b"first", b"second"):
            self.create(Keys(name))
        self.begin(self.store)
        self.assert_refused(self.alice, Code.GROUPS_FULL, KEYS.create(self.alice))


class JoinTests(GroupsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.create()

    def test_the_answer_lists_all_and_the_others_are_told(self) -> None:
        self.alice.send(KEYS.join(self.alice, request=1))
        self.assertEqual([GroupMembers(GROUP, 0, [ALICE], self.limits_told, 1)], self.alice.take())
        self.bob.send(KEYS.join(self.bob, request=2))
        self.assertEqual(
            [GroupMembers(GROUP, 0, [ALICE, BOB], self.limits_told, 2)], self.bob.take()
        )
        self.assertEqual([GroupMembers(GROUP, 0, [BOB])], self.alice.take())
        self.assertEqual([], self.carol.take())
        self.assertEqual(2, self.realm.core.counters.group_joins)

    def test_to_join_again_is_answered_and_changes_nothing(self) -> None:
        self.join(self.alice, self.bob)
        self.bob.send(KEYS.join(self.bob, request=2), KEYS.join(self.bob, request=3))
        wanted = [
            GroupMembers(GROUP, 0, [ALICE, BOB], self.limits_told, request) for request in (2, 3)
        ]
        self.assertEqual(wanted, self.bob.take())
        self.assertEqual([], self.alice.take())
        self.assertEqual(2, self.realm.core.counters.group_joins)

    def test_a_wrong_proof_is_counted_and_the_connection_stays(self) -> None:
        nonce = nonce_of(self.bob)
        for proof in (
            bytes(64),
            KEYS.proof(nonce_of(self.alice), BOB, 0),
            KEYS.proof(nonce, ALICE, 0),
            KEYS.proof(nonce, BOB, 1),
            OTHER.proof(nonce, BOB, 0),
        ):
            self.assert_refused(self.bob, Code.WRONG_PROOF, JoinGroup(GROUP, 0, proof, 5))
        self.assertEqual(5, self.realm.core.counters.refused_packets[Code.WRONG_PROOF])
        self.join(self.bob)

    def test_a_proof_is_of_no_use_on_the_next_connection(self) -> None:
        wanted = KEYS.join(self.bob)
        self.bob = self.realm.join_again(self.bob)
        self.bob.take()
        self.assert_refused(self.bob, Code.WRONG_PROOF, wanted)

    def test_a_group_that_is_not_there(self) -> None:
        self.bob.send(OTHER.join(self.bob, request=4))
        (error,) = self.bob.take_errors()
        self.assertEqual(
            (Code.NO_GROUP, 4, OTHER.group, 4),
            (error.code, error.about, error.peer_group, error.request),
        )

    def test_another_epoch_is_named(self) -> None:
        self.assert_refused(self.bob, Code.WRONG_EPOCH, KEYS.join(self.bob, 1), epoch=0)

    def test_who_leaves_is_answered_and_the_others_are_told(self) -> None:
        self.join(self.alice, self.bob)
        self.bob.send(LeaveGroup(GROUP, 3))
        self.assertEqual([GroupLeft(GROUP, [BOB], 3)], self.bob.take())
        self.assertEqual([GroupLeft(GROUP, [BOB])], self.alice.take())
        self.assertFalse(self.bob.conversation.is_joined(GROUP))
        self.bob.send(LeaveGroup(GROUP, 4))
        self.assertEqual([GroupLeft(GROUP, [BOB], 4)], self.bob.take())
        self.assertEqual([], self.alice.take())

    def test_who_leaves_at_once_gets_both_answers(self) -> None:
        self.join(self.alice)
        both = codec.encode(KEYS.join(self.bob, request=1)) + codec.encode(LeaveGroup(GROUP, 2))
        self.bob.send(both)
        answers = [
            GroupMembers(GROUP, 0, [ALICE, BOB], self.limits_told, 1),
            GroupLeft(GROUP, [BOB], 2),
        ]
        self.assertEqual(answers, self.bob.take())
        # She has not heard of him: there is nothing to take back.
        self.assertEqual([], self.alice.take())

    def test_the_end_of_a_connection_is_told(self) -> None:
        self.join(self.alice, self.bob)
        self.bob.disconnect()
        self.assertEqual([GroupLeft(GROUP, [BOB])], self.alice.take())
        self.carol.send(KEYS.join(self.carol))
        self.assertEqual([ALICE, CAROL], members(self.carol.take()[0]))

    def test_a_connection_that_the_realm_closes_has_left(self) -> None:
        self.join(self.alice, self.bob)
        self.bob.send(b"\xc1")
        self.assertEqual([GroupLeft(GROUP, [BOB])], self.alice.take())
        self.bob.disconnect()
        self.assertEqual([], self.alice.take())

    def test_a_newer_connection_has_joined_nothing(self) -> None:
        self.join(self.alice, self.bob)
        self.bob = self.realm.join_again(self.bob)
        self.bob.take()
        self.assertEqual([GroupLeft(GROUP, [BOB])], self.alice.take())
        self.bob.send(message(BOB, GROUP, b"hello"))
        self.assertEqual([Code.NOT_JOINED], self.bob.take_codes())
        self.join(self.bob)

    def test_a_realm_that_stops_tells_nobody_who_goes(self) -> None:
        self.join(self.alice, self.bob)
        self.realm.core.announce_restart()
        self.assertEqual(3, len(self.realm.core.touched), "each has one word to be told, the last")
        self.realm.settle()
        for line in (self.alice, self.bob):
            self.assertEqual([Code.RESTARTING], line.take_codes())
            line.disconnect()
        self.assertFalse(self.bob.conversation.is_joined(GROUP))

    def test_i_am_here_is_passed_on(self) -> None:
        self.join(self.alice, self.bob, self.carol)
        self.bob.send(HereInGroup(GROUP))
        for line in (self.alice, self.carol):
            self.assertEqual([StillHere(GROUP, [BOB])], line.take())
        self.assertEqual([], self.bob.take())
        self.bob.send(LeaveGroup(GROUP))
        self.bob.take()
        self.assert_refused(self.bob, Code.NOT_JOINED, HereInGroup(GROUP))

    def test_values_end_with_the_membership(self) -> None:
        values = RecordingValues()
        self.realm.core.values = values
        self.join(self.alice, self.bob)
        self.bob.send(LeaveGroup(GROUP))
        self.alice.disconnect()
        self.assertEqual([(BOB, GROUP, False), (ALICE, GROUP, False)], values.left)

    def test_members_are_told_the_limits_of_values(self) -> None:
        self.realm.core.values = RecordingValues()
        self.alice.send(KEYS.join(self.alice))
        (answer,) = self.alice.take()
        assert isinstance(answer, GroupMembers)
        self.assertEqual({**OWN_LIMITS, "values": 5.0}, answer.limits)


class RecordingValues:
    """Values that keep what they are asked.

    Attributes:
        handled: the packets, with whom they came from.
        left: who has left which group, and whether it was joined still.
    """

    stored_bytes = 0
    loaded_values = 0

    def __init__(self) -> None:
        self.handled: list[tuple[Client, ValueRequest]] = []
        self.left: list[tuple[bytes | None, bytes, bool]] = []

    def handle(self, client: Client, packet: ValueRequest, now: float) -> None:
        """Keep a packet."""
        self.handled.append((client, packet))

    def handle_all(self, client: Client, requests: Sequence[ValueRequest], now: float) -> None:
        """Keep packets."""
        self.handled += [(client, packet) for packet in requests]

    def leave(self, client: Client, group: bytes) -> None:
        """Keep who has left."""
        self.left.append((client.device_id, group, client.is_joined(group)))

    def limits_told(self) -> dict[str, float]:
        """Return a limit."""
        return {"values": 5.0}

    def use_limits(self, limits: Limits) -> None:
        """Do nothing."""

    def next_deadline(self) -> float | None:
        """Wait for nothing."""
        return None

    def handle_deadline(self, now: float) -> None:
        """Do nothing."""


class NewsTests(GroupsTestCase):
    """What waits for one device is joined; the last word on each device counts."""

    def setUp(self) -> None:
        super().setUp()
        self.create()
        self.join(self.alice)
        self.bob.send(send(BOB, ALICE, b"before"))
        self.alice.take_bytes()
        self.alice.stop_reading()
        self.bob.send(send(BOB, ALICE, b"blocked"))
        self.bob.send(send(BOB, ALICE, b"waiting"))

    def heard(self) -> list[Packet]:
        """Return what Alice reads when she reads again, but for what others have sent."""
        self.alice.read()
        self.alice.read()
        found = self.alice.take()
        sent = [packet for packet in found if packet.packet_id == 2]
        self.assertEqual(2, len(sent))
        self.assertEqual(sent[1], found[-1], "news overtake what waits")
        return [packet for packet in found if packet not in sent]

    def test_many_arrivals_are_one_packet(self) -> None:
        many: list[bytes] = [DeviceID.of_key(b"member %d" % number) for number in range(100)]
        for device_id in many:
            line = self.realm.join(device_id)
            line.send(KEYS.join(line), HereInGroup(GROUP))
        heard = self.heard()
        self.assertEqual([GroupMembers(GROUP, 0, many), StillHere(GROUP, many)], heard)

    def test_who_came_and_went_meanwhile_is_not_mentioned(self) -> None:
        self.bob.send(KEYS.join(self.bob), HereInGroup(GROUP), LeaveGroup(GROUP))
        self.assertEqual([], self.heard())

    def test_who_went_and_came_back_has_come(self) -> None:
        self.alice.read()
        self.join(self.bob)
        self.alice.stop_reading()
        self.carol.send(send(CAROL, ALICE, b"blocked"), send(CAROL, ALICE, b"waiting"))
        self.bob.send(LeaveGroup(GROUP), KEYS.join(self.bob))
        self.assertEqual([GroupMembers(GROUP, 0, [BOB])], self.heard())

    def test_who_came_back_and_went_has_gone(self) -> None:
        self.alice.read()
        self.join(self.bob)
        self.alice.stop_reading()
        self.carol.send(send(CAROL, ALICE, b"blocked"), send(CAROL, ALICE, b"waiting"))
        self.bob.send(LeaveGroup(GROUP), KEYS.join(self.bob), LeaveGroup(GROUP))
        self.assertEqual([GroupLeft(GROUP, [BOB])], self.heard())

    def test_an_answer_is_the_last_word(self) -> None:
        self.bob.send(KEYS.join(self.bob))
        self.alice.send(KEYS.join(self.alice, request=1))
        self.carol.send(KEYS.join(self.carol))
        heard = self.heard()
        self.assertEqual([GroupMembers(GROUP, 0, [ALICE, BOB, CAROL], self.limits_told, 1)], heard)

    def test_nothing_is_told_of_a_group_that_one_has_left(self) -> None:
        self.bob.send(KEYS.join(self.bob))
        self.alice.send(LeaveGroup(GROUP, 1))
        self.carol.send(KEYS.join(self.carol))
        self.assertEqual([GroupLeft(GROUP, [ALICE], 1)], self.heard())

    def test_answers_that_nobody_reads_are_bounded(self) -> None:
        limits = Limits(group_requests_per_minute=10_000)
        realm = MemoryRealm(limits)
        alice = realm.join(ALICE)
        alice.send(KEYS.create(alice))
        wanted = codec.encode(KEYS.join(alice))
        alice.take()
        for _ in range(2):
            alice.conversation.receive_data(wanted * MAX_WAITING_ANSWERS, realm.now)
            realm.settle()
            self.assertEqual(MAX_WAITING_ANSWERS, len(alice.take()))
        leave = codec.encode(LeaveGroup(GROUP))
        for _ in range(6):
            alice.send(wanted * 200 + leave)
            self.assertEqual(201, len(alice.take()))
        alice.conversation.receive_data(wanted * (MAX_WAITING_ANSWERS + 1), realm.now)
        realm.settle()
        self.assertEqual([Code.STALLED], alice.take_codes())

    def test_long_lists_are_made_one_by_one(self) -> None:
        """What Join is answered with may be much more than the queue of answers holds."""
        realm = MemoryRealm(Limits(group_members=1000))
        lines = [realm.join(DeviceID.of_key(b"member %d" % at)) for at in range(1000)]
        lines[0].send(KEYS.create(lines[0]))
        for line in lines:
            line.conversation.receive_data(codec.encode(KEYS.join(line)), realm.now)
        realm.settle()
        last = lines[-1]
        last.take()
        last.conversation.receive_data(codec.encode(KEYS.join(last)) * 5, realm.now)
        realm.settle()
        self.assertEqual([1000] * 5, [len(members(packet)) for packet in last.take()])
        self.assertGreater(5 * max(map(len, last.writes)), MAX_CONTROL_BYTES)
        full = realm.join(NOBODY)
        full.send(KEYS.join(full))
        self.assertEqual([Code.GROUPS_FULL], full.take_codes())


class MoveTests(GroupsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.create()
        self.join(self.alice, self.bob, self.carol)

    def slow_store(self) -> SlowStore:
        """Begin again, with a store that has the group and does nothing more by itself."""
        store = SlowStore()
        store.is_slow = False
        self.begin(store)
        self.create()
        store.is_slow = True
        return store

    def test_everybody_is_told_and_nobody_is_joined(self) -> None:
        self.bob.send(KEYS.create(self.bob, 1, request=5))
        self.assertEqual([GroupEpoch(GROUP, 1, KEYS.public(1), 5)], self.bob.take())
        for line in (self.alice, self.carol):
            self.assertEqual([GroupEpoch(GROUP, 1, KEYS.public(1))], line.take())
        for line in (self.alice, self.bob, self.carol):
            self.assertFalse(line.conversation.is_joined(GROUP))
        record = GroupRecord(GROUP, 1, KEYS.public(1), ALICE)
        self.assertEqual([record], list(self.store.groups()))
        self.join(self.alice, self.carol, epoch=1)

    def test_the_old_epoch_is_refused_everywhere(self) -> None:
        self.bob.send(KEYS.create(self.bob, 1))
        for line in (self.alice, self.bob):
            line.take()
        self.assert_refused(self.alice, Code.WRONG_EPOCH, KEYS.join(self.alice), epoch=1)
        self.assert_refused(self.alice, Code.WRONG_EPOCH, KEYS.create(self.alice), epoch=1)
        self.assert_refused(self.alice, Code.NOT_JOINED, HereInGroup(GROUP))
        self.alice.send(message(ALICE, GROUP, b"old"))
        self.assertEqual([Code.NOT_JOINED], self.alice.take_codes())
        self.join(self.bob, epoch=1)
        self.begin(self.store)
        self.assert_refused(self.alice, Code.WRONG_EPOCH, KEYS.join(self.alice), epoch=1)

    def test_who_asks_again_is_answered_and_joined_still(self) -> None:
        self.bob.send(KEYS.create(self.bob, 1))
        self.bob.take()
        self.join(self.bob, epoch=1)
        self.bob.send(KEYS.create(self.bob, 1, request=6))
        self.assertEqual([GroupEpoch(GROUP, 1, KEYS.public(1), 6)], self.bob.take())
        self.assertTrue(self.bob.conversation.is_joined(GROUP))
        self.assertEqual(1, self.realm.core.counters.groups_moved)

    def test_the_signature_is_by_the_present_key_over_the_next(self) -> None:
        right = KEYS.create(self.bob, 1)
        for signature in (None, bytes(64), KEYS.signature(2), OTHER.signature(1), right.proof):
            wrong = CreateGroup(GROUP, 1, right.key, right.proof, signature)
            self.assert_refused(self.bob, Code.WRONG_PROOF, wrong)
        for proof in (bytes(64), KEYS.proof(nonce_of(self.bob), BOB, 0), right.signature or b""):
            wrong = CreateGroup(GROUP, 1, right.key, proof, right.signature)
            self.assert_refused(self.bob, Code.WRONG_PROOF, wrong)
        self.assertTrue(self.bob.conversation.is_joined(GROUP))

    def test_no_epoch_is_left_out(self) -> None:
        for epoch in (2, 7):
            self.assert_refused(self.bob, Code.WRONG_EPOCH, KEYS.create(self.bob, epoch), epoch=0)

    def test_there_is_a_last_epoch(self) -> None:
        last = MAX_EPOCHS - 1
        store = MemoryStore()
        record = GroupRecord(GROUP, last - 1, KEYS.public(last - 1), ALICE)
        store.put_group(record, lambda is_kept: None)
        self.begin(store)
        self.bob.send(KEYS.create(self.bob, last))
        self.assertEqual([GroupEpoch(GROUP, last, KEYS.public(last))], self.bob.take())
        wanted = KEYS.create(self.bob, MAX_EPOCHS)
        self.assert_refused(self.bob, Code.WRONG_EPOCH, wanted, epoch=last)

    def test_of_two_moves_at_once_one_is_done(self) -> None:
        store = self.slow_store()
        self.join(self.alice, self.bob, self.carol)
        rival = CreateGroup(
            GROUP, 1, OTHER.public(1), OTHER.proof(nonce_of(self.alice), ALICE, 1), bytes(64), 1
        )
        self.bob.send(KEYS.create(self.bob, 1, request=2))
        self.alice.send(rival)
        self.carol.send(KEYS.create(self.carol, 1, request=3))
        self.assertEqual(1, len(store.waiting))
        # Until it is on the disk, the group is in the epoch that it was in.
        self.alice.send(message(ALICE, GROUP, b"still"))
        for line in (self.bob, self.carol):
            self.assertEqual([GroupMessage(ALICE, GROUP, b"still")], line.take())
        store.answer()
        self.realm.settle()
        self.assertEqual([GroupEpoch(GROUP, 1, KEYS.public(1), 2)], self.bob.take())
        told, refused = self.alice.take()
        self.assertEqual(GroupEpoch(GROUP, 1, KEYS.public(1)), told)
        assert isinstance(refused, Error)
        self.assertEqual((Code.WRONG_EPOCH, 1, 1), (refused.code, refused.epoch, refused.request))
        # She has asked for the very same.
        told, done = self.carol.take()
        self.assertEqual(GroupEpoch(GROUP, 1, KEYS.public(1), 3), done)
        self.assertEqual([], store.waiting)

    def test_when_the_disk_fails_the_next_one_has_its_try(self) -> None:
        store = self.slow_store()
        self.join(self.alice, self.bob)
        self.bob.send(KEYS.create(self.bob, 1))
        self.alice.send(KEYS.create(self.alice, 1, request=2))
        store.answer(is_kept=False)
        self.realm.settle()
        self.assertEqual([Code.NOT_KEPT], self.bob.take_codes())
        self.assertTrue(self.bob.conversation.is_joined(GROUP))
        store.answer()
        self.realm.settle()
        self.assertEqual([GroupEpoch(GROUP, 1, KEYS.public(1), 2)], self.alice.take())

    def test_what_waits_for_the_disk_is_bounded(self) -> None:
        store = SlowStore()
        self.begin(store)
        self.alice.send(*[KEYS.create(self.alice)] * (1 + MAX_WAITING_MOVES))
        self.assertEqual([], self.alice.take())
        self.assert_refused(self.alice, Code.RATE_LIMITED, KEYS.create(self.alice))


class MessageTests(GroupsTestCase):
    limits = Limits(queue_bytes=131072)

    def setUp(self) -> None:
        super().setUp()
        self.create()
        self.join(self.alice, self.bob, self.carol)

    def test_the_same_bytes_once_to_every_other_member(self) -> None:
        packets = [message(ALICE, GROUP, bytes(size)) for size in (0, 1, 255, 256, 1, 65400)]
        self.alice.send(*packets)
        for line in (self.bob, self.carol):
            self.assertEqual(b"".join(packets), line.take_bytes())
        self.assertEqual(b"", self.alice.take_bytes())
        self.assertEqual(12, self.realm.core.counters.relayed_packets)

    def test_messages_that_come_together_leave_as_one_slice(self) -> None:
        run = message(ALICE, GROUP, b"same") * 5 + message(ALICE, GROUP, bytes(300))
        direct = send(ALICE, BOB, b"between")
        for line in (self.bob, self.carol):
            line.writes.clear()
        self.alice.send(run)
        for line in (self.bob, self.carol):
            self.assertEqual([run], line.writes)
            line.take()
        self.alice.send(run + direct + run)
        self.assertEqual(run + direct + run, self.bob.take_bytes())
        self.assertEqual(run + run, self.carol.take_bytes())

    def test_however_they_are_cut(self) -> None:
        stream = b"".join(message(ALICE, GROUP, bytes(size)) for size in (3, 3, 300))
        stream += send(ALICE, BOB, b"x") + codec.encode(Hello(ALICE))
        stream += message(ALICE, GROUP, b"last")
        for cut in range(len(stream)):
            self.alice.send(stream[:cut], stream[cut : cut + 1], stream[cut + 1 :])
            self.assertEqual(
                [b"\0" * 3, b"\0" * 3, b"\0" * 300, b"last"], self.contents(self.carol.take())
            )
        self.alice.send(*[bytes([byte]) for byte in stream])
        self.assertEqual(4, len(self.carol.take()))

    def contents(self, found: list[Packet]) -> list[bytes]:
        return [packet.content for packet in found if isinstance(packet, GroupMessage)]

    def test_other_forms_are_delivered_as_they_came(self) -> None:
        fields = [
            b"\xa9packet_id\x06",
            b"\xadsource_device\xc4\x10" + ALICE,
            b"\xaapeer_group\xc4\x10" + GROUP,
            b"\xa7content\xc4\x05hello",
        ]
        for odd in (
            b"\x84" + b"".join(reversed(fields)),
            b"\x85" + b"".join(fields) + b"\xa5later\x93\x01\x02\x03",
            b"\xde\x00\x04" + b"".join(fields),
            b"\x84" + b"".join(fields[:2]) + b"\xaapeer_group\xc5\x00\x10" + GROUP + fields[3],
            b"\x84" + b"".join(fields[:3]) + b"\xa7content\xc6\x00\x00\x00\x05hello",
        ):
            self.alice.send(odd)
            for line in (self.bob, self.carol):
                self.assertEqual(odd, line.take_bytes())

    def test_who_has_not_joined_is_told_with_a_number(self) -> None:
        self.alice.send(LeaveGroup(GROUP))
        for line in (self.alice, self.bob, self.carol):
            line.take()
        self.alice.send(message(ALICE, GROUP, b"x") * 3 + message(ALICE, OTHER.group, b"y"))
        first, second = self.alice.take_errors()
        self.assertEqual(
            (Code.NOT_JOINED, 6, GROUP, None, 3),
            (first.code, first.about, first.peer_group, first.target_device, first.dropped),
        )
        self.assertEqual((OTHER.group, 1), (second.peer_group, second.dropped))
        self.assertEqual(b"", self.bob.take_bytes() + self.carol.take_bytes())
        self.assertEqual(4, self.realm.dropped(Code.NOT_JOINED))

    def test_a_group_is_a_group_id(self) -> None:
        for line, size in ((self.alice, 1), (self.bob, 300)):
            wrong = message(device_of(line), GROUP, bytes(size)).replace(GROUP, bytes(16))
            line.take()
            line.send(wrong)
            last = line.take()[-1]
            assert isinstance(last, Error)
            self.assertEqual(Code.MALFORMED, last.code)

    def test_what_is_announced_too_large_is_refused_at_once(self) -> None:
        head = message(ALICE, GROUP, b"")[:-2]
        self.alice.send(head + b"\xc6\x00\x01\x00\x00")
        self.assertEqual([Code.TOO_LARGE], self.alice.take_codes())

    def test_another_source_closes_the_connection(self) -> None:
        self.alice.send(message(ALICE, GROUP, b"mine") + message(BOB, GROUP, b"lie"))
        self.assertEqual(GroupMessage(ALICE, GROUP, b"mine"), self.carol.take()[-1])
        self.assertEqual([Code.WRONG_SOURCE], self.alice.take_codes())
        self.assertEqual("closed", self.alice.ended)

    def test_who_does_not_read_loses_messages_alone(self) -> None:
        self.bob.stop_reading()
        packets = [message(ALICE, GROUP, bytes([at]) * 40_000) for at in range(6)]
        self.alice.send(*packets)
        self.assertEqual(b"".join(packets), self.carol.take_bytes())
        errors = self.alice.take_errors()
        self.assertEqual({Code.QUEUE_FULL}, {error.code for error in errors})
        for error in errors:
            self.assertEqual((6, GROUP, BOB), (error.about, error.peer_group, error.target_device))
        dropped = sum(error.dropped or 0 for error in errors)
        self.assertEqual(self.realm.dropped(Code.QUEUE_FULL), dropped)
        self.bob.read()
        self.assertEqual(b"".join(packets[: 6 - dropped]), self.bob.take_bytes())
        self.assertTrue(0 < dropped < 6)

    def test_what_waits_for_who_goes_is_reported(self) -> None:
        self.bob.stop_reading()
        self.alice.send(message(ALICE, GROUP, b"read by nobody"))
        self.alice.send(message(ALICE, GROUP, b"1"), send(ALICE, BOB, b"2"))
        self.carol.send(message(CAROL, GROUP, b"3") * 2)
        self.alice.take()
        self.bob.disconnect()
        found = {
            (error.about, error.peer_group, error.target_device, error.dropped)
            for error in self.alice.take()
            if isinstance(error, Error)
        }
        self.assertEqual({(6, GROUP, BOB, 1), (2, None, BOB, 1)}, found)
        (error,) = (it for it in self.carol.take() if isinstance(it, Error))
        self.assertEqual(
            (Code.UNDELIVERED, GROUP, 2), (error.code, error.peer_group, error.dropped)
        )
        self.assertEqual(4, self.realm.dropped(Code.UNDELIVERED))

    def test_a_report_outlives_the_membership(self) -> None:
        self.bob.stop_reading()
        self.alice.send(message(ALICE, GROUP, b"0"), message(ALICE, GROUP, b"1"))
        self.alice.send(LeaveGroup(GROUP))
        self.alice.take()
        self.bob.disconnect()
        (error,) = self.alice.take_errors()
        self.assertEqual(
            (Code.UNDELIVERED, GROUP, 1), (error.code, error.peer_group, error.dropped)
        )

    def test_reports_about_many_members_are_joined(self) -> None:
        lines = [self.realm.join(DeviceID.of_key(b"member %d" % at)) for at in range(71)]
        for line in lines:
            line.send(KEYS.join(line))
            line.stop_reading()
        self.alice.stop_reading()
        self.bob.send(send(BOB, ALICE, b"blocked"))
        # All but the last have something in front of them that they do not read.
        self.alice.send(message(ALICE, GROUP, b"x"))
        for line in lines:
            line.disconnect()
        self.alice.read()
        errors = [packet for packet in self.alice.take() if isinstance(packet, Error)]
        self.assertEqual(70, sum(error.dropped or 0 for error in errors))
        self.assertEqual(65, len(errors))
        self.assertEqual((6, None, None, 6), self.joined(errors[-1]))

    def joined(self, error: Error) -> tuple[int | None, bytes | None, bytes | None, int | None]:
        return error.about, error.peer_group, error.target_device, error.dropped


class IdleTests(GroupsTestCase):
    """What becomes of groups that nobody uses."""

    limits = Limits(groups=2, group_idle_days=3, silence_seconds=86400)

    def later(self, days: float) -> None:
        """Let days go by in which nobody is here, and have all come back."""
        self.realm.advance(days * DAY_SECONDS)
        self.alice, self.bob, self.carol = map(self.realm.join, (ALICE, BOB, CAROL))

    def look(self) -> list[bytes]:
        """Have the realm look at its groups; return those that it has still."""
        self.carol.send(HereInGroup(NOBODY))
        self.assertEqual([Code.NOT_JOINED], self.carol.take_codes())
        return [record.group for record in self.store.groups()]

    def test_a_group_that_nobody_has_joined_is_forgotten_and_made_again(self) -> None:
        self.create()
        self.later(2)
        self.assertEqual([GROUP], self.look())
        self.later(1)
        self.assertEqual([], self.look())
        self.assertEqual(1, self.realm.core.counters.groups_forgotten)
        self.assert_refused(self.bob, Code.NO_GROUP, KEYS.join(self.bob))
        self.bob.send(KEYS.create(self.bob))
        self.bob.take()
        self.join(self.bob, self.alice)
        # It takes no room meanwhile, neither of all nor of who has made it.
        self.create(OTHER)
        self.later(3)
        self.look()
        for name in (b"1", b"2"):
            self.create(Keys(name))

    def test_who_joins_now_and_then_keeps_a_group(self) -> None:
        self.create()
        for _ in range(3):
            self.later(2)
            self.join(self.bob)
        self.begin(self.store)  # It is known to a realm that is started again.
        self.realm.now += 8 * DAY_SECONDS
        self.assertEqual([GROUP], self.look())

    def test_who_stays_for_days_keeps_a_group(self) -> None:
        self.create()
        self.join(self.bob)
        for _ in range(5):
            self.realm.now += DAY_SECONDS
            self.look()
        self.begin(self.store)
        self.realm.now += 7 * DAY_SECONDS
        self.assertEqual([GROUP], self.look())
        self.realm.now += DAY_SECONDS
        self.assertEqual([], self.look())

    def test_what_somebody_could_miss_is_kept(self) -> None:
        for keys in (KEYS, OTHER):
            self.create(keys)
            self.join(self.alice, keys=keys)
        self.alice.send(OTHER.create(self.alice, 1))
        self.alice.send(PutValue(GROUP, bytes(32), b"", seconds=1))
        for _ in range(3):
            self.later(100)
            self.assertEqual({GROUP, OTHER.group}, set(self.look()))
        self.join(self.bob)
        self.join(self.bob, keys=OTHER, epoch=1)

    def test_never_is_never(self) -> None:
        self.limits = Limits(group_idle_days=0)
        self.begin(self.store)
        self.create()
        self.later(10_000)
        self.assertEqual([GROUP], self.look())

    def test_a_disk_that_takes_nothing_forgets_nothing(self) -> None:
        store = SlowForgetting()
        self.store = store
        self.begin(store)
        self.create()
        self.later(3)
        self.look()
        # Who wants it meanwhile waits until it is known what there is.
        self.bob.send(KEYS.create(self.bob))
        self.assertEqual([], self.bob.take())
        store.answer(None)
        self.realm.settle()
        self.assertEqual([GroupEpoch(GROUP, 0, KEYS.public(0))], self.bob.take())
        self.join(self.bob)
        self.later(3)
        self.look()
        self.bob.send(KEYS.create(self.bob))
        store.forget()
        self.realm.settle()
        self.assertEqual([GroupEpoch(GROUP, 0, KEYS.public(0))], self.bob.take())
        self.assertEqual([BOB], [record.maker for record in store.groups()])

    def test_a_clock_that_goes_back_forgets_nothing(self) -> None:
        self.realm.now += 10_000 * DAY_SECONDS
        self.begin_at(self.realm.now)
        self.create()
        self.begin_at(0.0)
        self.assertEqual([GROUP], self.look())
        self.join(self.bob)

    def begin_at(self, now: float) -> None:
        self.begin(self.store)
        self.realm.now = now
        self.alice, self.bob, self.carol = map(self.realm.join, (ALICE, BOB, CAROL))


class SlowForgetting(MemoryStore):
    """A store that forgets groups when the test says so."""

    def forget_groups(self, groups: Sequence[bytes], done: Forgotten) -> None:
        """Forget groups later."""
        self.answer = done
        self.forget = lambda: MemoryStore.forget_groups(self, groups, done)


class RateTests(GroupsTestCase):
    limits = Limits(group_requests_per_minute=4)

    def test_wrong_proofs_are_soon_too_many(self) -> None:
        self.limits = Limits(group_requests_per_minute=4 * WRONG_PROOF_REQUESTS)
        self.begin(MemoryStore())
        self.create()
        wrong = JoinGroup(GROUP, 0, bytes(64))
        for _ in range(4):
            self.assert_refused(self.bob, Code.WRONG_PROOF, wrong)
        self.assert_refused(self.bob, Code.RATE_LIMITED, wrong)
        self.join(self.carol)

    def test_requests_are_counted_together(self) -> None:
        self.create()
        self.alice.send(KEYS.join(self.alice), HereInGroup(GROUP), LeaveGroup(GROUP))
        self.alice.take()
        before = self.realm.core.counters.refused_packets[Code.RATE_LIMITED]
        for wanted in (
            KEYS.create(self.alice, request=1),
            KEYS.join(self.alice, request=2),
            HereInGroup(GROUP),
            LeaveGroup(GROUP, 4),
        ):
            self.assert_refused(self.alice, Code.RATE_LIMITED, wanted)
        self.assertEqual(before + 4, self.realm.core.counters.refused_packets[Code.RATE_LIMITED])
        self.alice.send(LeaveGroup(GROUP))
        (error,) = self.alice.take_errors()
        self.assertGreater(error.retry_after or 0, 15)
        self.realm.now += error.retry_after or 0
        self.join(self.alice)
        self.join(self.bob)


class ValuesTests(GroupsTestCase):
    """Packets about values go to what answers them, which may be larger than others."""

    def setUp(self) -> None:
        super().setUp()
        self.values = RecordingValues()
        self.realm.core.values = self.values

    def put(self, size: int) -> bytes:
        wanted = PutValue(GROUP, bytes(32), bytes(size))
        return codec.encode(wanted, 100_000)

    def test_without_values_they_are_unknown(self) -> None:
        self.realm.core.values = None
        self.alice.send(self.put(1))
        self.assertEqual([Code.UNKNOWN_PACKET], self.alice.take_codes())

    def test_they_are_handed_on_parsed(self) -> None:
        self.alice.send(self.put(1))
        wanted = [(self.alice.conversation, PutValue(GROUP, bytes(32), b"\0"))]
        self.assertEqual(wanted, self.values.handled)

    def test_the_largest_value_fits_however_it_is_cut(self) -> None:
        data = self.put(67584)
        for cut in [*range(15), 1000, 65536, 65537, len(data) - 1]:
            self.alice.send(data[:cut], data[cut:])
        self.alice.send(*[bytes([byte]) for byte in data[:20]], data[20:])
        self.assertEqual(20, len(self.values.handled))
        self.assertEqual(b"", self.alice.take_bytes())

    def test_what_is_larger_is_refused_at_once(self) -> None:
        begin = codec.encode(PutValue(GROUP, bytes(32), b""))[:-2]
        for cut in (5, 12, len(begin)):
            line = self.realm.join(NOBODY)
            line.send(begin[:cut], begin[cut:] + b"\xc6\x00\x01\x10\x00")
            self.assertEqual([Code.TOO_LARGE], line.take_codes())

    def test_other_packets_stay_as_small_as_they_were(self) -> None:
        for begin in (
            b"\x83\xa9packet_id\x02\xa7content",
            b"\x83\xa9packet_id\x07\xa7content",
            b"\x83\xa9packet_id\x0d\xa7content",
            b"\x83\xa7content",
            b"\xde\x00\x03\xa9packet_id\x08\xa7content",
        ):
            for cut in (0, 5, 11, 12):
                line = self.realm.join(NOBODY)
                line.send(begin[:cut], begin[cut:] + b"\xc6\x00\x01\x00\x00")
                self.assertEqual([Code.TOO_LARGE], line.take_codes(), begin)
                line.disconnect()

    def test_the_realms_own_wait_in_order(self) -> None:
        own = codec.encode(StillHere(GROUP, [NOBODY]))
        self.bob.stop_reading()
        self.alice.send(send(ALICE, BOB, b"0"), send(ALICE, BOB, b"1"))
        self.assertTrue(self.bob.conversation.deliver_own(own))
        self.alice.send(send(ALICE, BOB, b"2"))
        self.bob.conversation.tell(StillHere(GROUP, [CAROL]))
        self.bob.read()
        found = self.bob.take_bytes()
        contents = [found.index(item) for item in (CAROL, b"\xc4\x011", NOBODY, b"\xc4\x012")]
        self.assertEqual(sorted(contents), contents)

    def test_the_realms_own_are_bounded_and_counted_as_what_waits(self) -> None:
        own = codec.encode(StillHere(GROUP, [NOBODY] * 3000))
        self.bob.stop_reading()
        self.alice.send(send(ALICE, BOB, b"blocked"))
        taken = 0
        while self.bob.conversation.deliver_own(own):
            taken += 1
        most = self.limits.queue_bytes + OWN_ROOM_BYTES
        self.assertEqual(most // len(own), taken)
        self.assertEqual(taken * len(own), self.realm.core.queued_bytes)
        self.bob.disconnect()
        self.assertEqual(0, self.realm.core.queued_bytes)
        # Nobody has sent it, so nobody is told, and it counts as no packet of a device.
        self.assertEqual([], self.alice.take())
        self.assertEqual(0, self.realm.dropped(Code.UNDELIVERED))
        self.assertTrue(self.bob.conversation.deliver_own(own))
        self.assertEqual(0, self.realm.core.queued_bytes)

    def test_who_fills_queues_has_no_watcher_cut_off(self) -> None:
        for queue_bytes, all_queues_bytes in ((100_000, 10**6), (100_000, 100_000)):
            self.limits = Limits(
                packet_bytes=40_000, queue_bytes=queue_bytes, all_queues_bytes=all_queues_bytes
            )
            self.begin(MemoryStore())
            self.create()
            self.join(self.alice, self.bob)
            self.bob.send(WatchValues(GROUP))
            # Carol knows of a device who it is, and nothing else; there may be others like it.
            target = self.bob if all_queues_bytes > queue_bytes else self.realm.join(NOBODY)
            self.bob.take()
            self.bob.stop_reading()
            target.stop_reading()
            for size in (30_000, 100, 1):
                for _ in range(50):
                    self.carol.send(send(CAROL, device_of(target), bytes(size)))
            self.assertIn(Code.QUEUE_FULL, self.carol.take_codes())
            self.alice.send(PutValue(GROUP, bytes(32), bytes(60_000)))
            self.assertEqual([ValuePut(GROUP, 1)], self.alice.take())
            self.bob.read()
            self.assertTrue(any(isinstance(packet, ValueChanges) for packet in self.bob.take()))
            self.assertEqual("", self.bob.ended)


DEVICES = [ALICE, BOB, CAROL, NOBODY]
ALL_KEYS = [KEYS, OTHER]
which_device = st.integers(0, len(DEVICES) - 1)
which_group = st.integers(0, len(ALL_KEYS) - 1)
steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "join",
                "join",
                "join",
                "leave",
                "move",
                "say",
                "say",
                "say",
                "connect",
                "hold",
                "read",
            ]
        ),
        which_device,
        which_group,
        st.integers(1, 3),
    ),
    max_size=40,
)


class Model:
    """What devices are expected to have read: messages as numbers, once each and in order."""

    def __init__(self) -> None:
        self.realm = MemoryRealm()
        self.lines = [self.realm.join(device) for device in DEVICES]
        self.epochs = [0, 0]
        self.here: list[list[int]] = [[], []]
        self.wanted: list[list[bytes]] = [[] for _ in DEVICES]
        self.read: list[list[bytes]] = [[] for _ in DEVICES]
        self.seen: list[list[set[bytes]]] = [[set(), set()] for _ in DEVICES]
        self.said = 0
        for keys in ALL_KEYS:
            self.lines[0].send(keys.create(self.lines[0]))

    def play(self, what: str, device: int, group: int, count: int) -> None:
        """Let one thing happen."""
        line, keys, here = self.lines[device], ALL_KEYS[group], self.here[group]
        match what:
            case "join":
                line.send(keys.join(line, self.epochs[group]))
                if device not in here:
                    here.append(device)
            case "leave":
                line.send(LeaveGroup(keys.group))
                self.part(device, group)
            case "move":
                self.epochs[group] += 1
                line.send(keys.create(line, self.epochs[group]))
                here.clear()
            case "say":
                self.say(device, group, count)
            case "connect":
                self.connect(device)
            case "hold":
                line.stop_reading()
            case "read":
                line.read()

    def say(self, device: int, group: int, count: int) -> None:
        """Send messages, as a run."""
        contents = [b"%d" % (self.said + number) for number in range(count)]
        self.said += count
        source, to = DEVICES[device], ALL_KEYS[group].group
        self.lines[device].send(b"".join(message(source, to, content) for content in contents))
        if device in self.here[group]:
            for other in self.here[group]:
                if other != device:
                    self.wanted[other] += contents

    def connect(self, device: int) -> None:
        """Come back on a newer connection; everything was read on the older one."""
        self.lines[device].read()
        self.look(device)
        self.lines[device] = self.realm.join_again(self.lines[device])
        self.seen[device] = [set(), set()]
        for group in range(len(ALL_KEYS)):
            self.part(device, group)

    def part(self, device: int, group: int) -> None:
        """Note that a device has left."""
        if device in self.here[group]:
            self.here[group].remove(device)

    def look(self, device: int) -> None:
        """Take what a device has read, and see whom it believes to be here."""
        line = self.lines[device]
        line.read()
        for packet in line.take():
            match packet:
                case GroupMessage(content=content):
                    self.read[device].append(content)
                case GroupMembers(peer_group=group, devices=devices, limits=limits):
                    seen = self.seen[device][self.number(group)]
                    if limits is not None:
                        seen.clear()
                    seen.update(devices)
                case GroupLeft(peer_group=group, devices=devices):
                    self.seen[device][self.number(group)].difference_update(devices)
                case GroupEpoch(peer_group=group):
                    self.seen[device][self.number(group)].clear()

    def number(self, group: bytes) -> int:
        return [keys.group for keys in ALL_KEYS].index(group)


class AnyOrderTests(SynchronousTestCase):
    @settings(max_examples=60)
    @given(plan=steps)
    def test_every_message_comes_once_and_all_know_who_is_here(
        self, plan: list[tuple[str, int, int, int]]
    ) -> None:
        model = Model()
        for step in plan:
            model.play(*step)
        for device in range(len(DEVICES)):
            model.look(device)
        self.assertEqual(model.wanted, model.read)
        for group, keys in enumerate(ALL_KEYS):
            here = {DEVICES[device] for device in model.here[group]}
            for device, line in enumerate(model.lines):
                joined = device in model.here[group]
                self.assertEqual(joined, line.conversation.is_joined(keys.group))
                if joined:
                    self.assertEqual(here, model.seen[device][group])
        core = model.realm.core
        self.assertEqual((0, []), (core.queued_bytes, core.touched))
