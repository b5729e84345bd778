"""Groups at bad moments: realms that go, disks that are full, members that mean no good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import ILogObserver, globalLogPublisher
from zope.interface import implementer

from abst.database import Database
from abst.device import Device
from abst.device.groups import draft, groups, history, offers, roster
from abst.device.groups.entries import raw_key_of
from abst.device.groups.group import LOG_SECONDS, SEEK_SECONDS
from abst.device.groups.keys import GroupKeys
from abst.device.groups.networks import MAX_REALMS
from abst.device.groups.offers import Offer, OfferBook
from abst.device.groups.roster import Roster
from abst.device.groups.store import MIGRATIONS, SqliteGroupStore
from abst.device.peers import PeerBook
from abst.errors import (
    AbstError,
    Code,
    DatabaseError,
    DishonestRealmError,
    GroupError,
    RealmRefusedError,
)
from abst.packets import (
    CreateGroup,
    GiveGroup,
    GroupEpoch,
    GroupMessage,
    JoinGroup,
    ListValues,
    Packet,
    WatchingValues,
)
from abst.realm.limits import Limits
from tests.device.groups.houses import seed
from tests.device.groups.rosters import DEVICES, KEYS
from tests.device.groups.stage import GroupTestCase


class RealmTests(GroupTestCase):
    def test_a_realm_that_is_used_no_more_and_then_again(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        address = self.network.realm.address
        alice.removeRealm(address)
        self.network.settle()
        self.assertEqual((False, frozenset()), (ours.is_joined, ours.here))
        alice.addRealm(address)
        self.network.advance(5)
        self.assertTrue(ours.is_joined)
        ours.send(b"back")
        self.network.settle()
        self.assertEqual([b"back"], self.diary(bobs).messages)

    def test_a_realm_that_takes_a_group_and_does_not_know_it_is_asked_now_and_then(self) -> None:
        (alice,) = self.house("alice")
        (link,) = alice.links_up()
        asked: list[Packet] = []

        def ask(packet: Packet) -> Deferred[Any]:
            asked.append(packet)
            if len(asked) > 50:
                return Deferred()
            if isinstance(packet, JoinGroup):
                return fail(RealmRefusedError(Code.NO_GROUP))
            assert isinstance(packet, CreateGroup)
            return succeed(GroupEpoch(packet.peer_group, 0, packet.key))

        self.patch(link, "ask", ask)
        alice.groups.create("family", realm=self.network.realm.address)
        self.assertEqual([JoinGroup, CreateGroup, JoinGroup], [type(packet) for packet in asked])
        self.network.advance(30)
        self.assertTrue(6 <= len(asked) <= 20, len(asked))

    def test_a_message_that_has_waited_and_is_too_long_for_the_realm(self) -> None:
        small = self.network.add_realm(Limits(packet_bytes=8192))
        alice, bob = self.house("alice", "bob")
        ours = alice.groups.create("family", realm=small.address)
        self.result(alice.groups.give(ours, bob.device_id))
        bobs = self.of(bob, ours)
        small.stop()
        self.network.settle()
        ours.send(bytes(9000))
        ours.send(b"short")
        small.start()
        self.network.advance(70)
        self.assertEqual([b"short"], self.diary(bobs).messages)
        self.assertEqual(1, len(self.diary(ours).problems))
        self.result(ours.values.set("light", b"on"))


class FullStore(SqliteGroupStore):
    """A store on a disk that may be full.

    Attributes:
        is_full: whether it is.
        keeps_all: whether it is so full that nothing can be deleted.
    """

    def __init__(self, path: Path) -> None:
        self.database = Database(path, 0x74657374, MIGRATIONS)
        super().__init__(self.database)
        self.commit = self._commit_unless_full
        self.is_full = self.keeps_all = False

    def drop(self, group_id: bytes) -> None:
        if self.keeps_all:
            raise DatabaseError("the disk is full")
        super().drop(group_id)

    def _commit_unless_full(self) -> None:
        if self.is_full:
            self.database.rollback()
            raise DatabaseError("the disk is full")
        self.database.commit()


class FullDiskTests(GroupTestCase):
    def full_store(self) -> FullStore:
        store = FullStore(self.folder() / "groups.db")
        self.addCleanup(store.database.close)
        return store

    def stored(self, *others: str) -> tuple[FullStore, list[Device]]:
        """Return a store, and devices that have met, of which the first keeps its groups there."""
        store = self.full_store()
        first = self.device("alice", group_store=store)
        devices = [first, *(self.device(name) for name in others)]
        self.network.introduce(*devices)
        self.network.settle()
        for device in devices[1:]:
            self.result(first.connect(device.device_id))
        return store, devices

    def start_again(self, device: Device, store: FullStore) -> Device:
        """Return a device after it was killed."""
        self.network.kill(device)
        again = self.device(device.device_name, identity=device.identity, group_store=store)
        for other in self.devices.values():
            if other is not again and other.running:
                again.trust(other.device_id, other.device_name)
        self.network.advance(10)
        return again

    def test_what_was_checked_while_the_disk_was_full_is_not_lost_in_part(self) -> None:
        store, (alice, bob) = self.stored("bob")
        ours, bobs = self.group(alice, bob)
        self.result(bobs.values.set("a", b"1"))
        self.network.advance(2)
        store.is_full = True
        self.result(bobs.values.set("b", b"2"))
        bobs.send(b"one")
        self.network.advance(2)
        bobs.rename("club")
        self.network.advance(2)
        store.is_full = False
        self.result(bobs.values.set("c", b"3"))
        self.network.advance(40)
        alice = self.start_again(alice, store)
        again = self.of(alice, ours)
        self.assertEqual("club", again.name)
        self.assertIsNone(again.values.problem)
        found = self.result(again.values.items())
        self.assertEqual([b"a", b"b", b"c"], [value.name for value in found])
        self.assertIsNone(again.values.problem)

    def test_it_is_stored_once_there_is_room_though_nothing_more_happens(self) -> None:
        store, (alice, bob) = self.stored("bob")
        ours, bobs = self.group(alice, bob)
        store.is_full = True
        ours.rename("club")
        self.result(bobs.rotate())
        store.is_full = False
        self.network.advance(40)
        (saved,) = store.load()
        self.assertEqual(ours.roster.entries(), saved.entries)
        self.assertEqual(ours.keys.seeds, saved.seeds)

    def test_a_group_that_cannot_be_stored_is_refused(self) -> None:
        store, (alice, bob) = self.stored("bob")
        store.is_full = True
        group = bob.groups.create("family", realm=self.network.realm.address)
        error = self.assertRaises(GroupError, self.result, bob.groups.give(group, alice.device_id))
        self.assertIn("not_stored", str(error))
        self.assertEqual([], alice.groups.all())
        self.assertEqual(["bob"], [member.name for member in group.members()])

    def test_a_group_that_cannot_be_stored_is_not_made(self) -> None:
        store, (alice,) = self.stored()
        store.is_full = True
        with self.assertRaises(DatabaseError):
            alice.groups.create("family", realm=self.network.realm.address)
        self.assertEqual([], alice.groups.all())

    def test_a_key_that_cannot_be_stored_is_not_used(self) -> None:
        store, (alice,) = self.stored()
        (ours,) = self.group(alice)
        store.is_full = True
        with self.assertRaises(DatabaseError):
            self.result(ours.rotate())
        store.is_full = False
        self.result(ours.rotate())
        self.assertEqual(1, ours.epoch)

    def test_a_device_that_stops_with_a_full_disk_stops(self) -> None:
        store, (alice, bob) = self.stored("bob")
        ours, bobs = self.group(alice, bob)
        bobs.send(b"one")
        self.network.settle()
        store.is_full = True
        alice.stopService()
        self.network.advance(40)
        self.assertFalse(ours.is_joined)

    def test_who_waits_for_a_move_is_told_that_the_device_stops(self) -> None:
        (alice,) = self.house("alice")
        (ours,) = self.group(alice)
        self.network.realm.stop()
        self.network.settle()
        moved = ours.rotate()
        alice.stopService()
        self.failureResultOf(moved, GroupError)

    def test_a_group_that_is_left_with_a_full_disk_is_gone_after_the_next_start(self) -> None:
        store, (alice, bob) = self.stored("bob")
        ours, _ = self.group(alice, bob)
        store.keeps_all = True
        alice.groups.leave(ours)
        store.keeps_all = False
        self.assertEqual(1, len(store.load()))
        alice = self.start_again(alice, store)
        self.assertEqual(([], []), (alice.groups.all(), store.load()))


class FullRosterTests(GroupTestCase):
    def test_a_group_whose_roster_is_full_can_be_moved(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        self.patch(roster, "MAX_ENTRIES", len(ours.roster))
        self.result(ours.rotate())
        self.network.advance(5)
        for group in (ours, bobs):
            self.assertEqual((1, True), (group.epoch, group.is_joined))
        self.assertIn("full", str(self.diary(ours).problems[0]))

    def test_the_last_removal_that_a_roster_takes_moves_the_group_once(self) -> None:
        alice, bob, mallory = self.house("alice", "bob", "mallory")
        ours, bobs, theirs = self.group(alice, bob, mallory)
        self.patch(roster, "MAX_ENTRIES", len(ours.roster) + 1)
        self.result(ours.remove(mallory.device_id))
        self.network.advance(30)
        self.assertEqual([1, 1, 0], [group.epoch for group in (ours, bobs, theirs)])
        self.assertTrue(ours.is_joined and bobs.is_joined)

    def test_a_group_whose_roster_is_full_can_be_left(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        self.patch(roster, "MAX_ENTRIES", len(ours.roster))
        bob.groups.leave(bobs)
        self.network.advance(5)
        self.assertEqual([], bob.groups.all())
        bob.groups.given(alice.device_id, GiveGroup("state", bytes(ours.group_id), epoch=0))
        self.network.advance(5)
        self.assertEqual(["alice", "bob"], [member.name for member in ours.members()])
        self.assertIn("full", str(self.diary(ours).problems[-1]))


class OfferTests(GroupTestCase):
    def test_a_device_that_is_removed_before_it_has_answered_may_be_added_again(self) -> None:
        alice, bob, carol = self.house("alice", "bob", "carol")
        ours, carols = self.group(alice, carol)
        self.factories["bob"].answer = Deferred()
        given = alice.groups.give(ours, bob.device_id)
        self.network.advance(3)
        self.result(carols.remove(bob.device_id))
        self.network.advance(3)
        error = self.failureResultOf(given, GroupError).value
        self.assertIn("was removed", str(error))
        self.assertEqual((), ours.offered)
        again = alice.groups.give(ours, bob.device_id)
        self.factories["bob"].answer.callback(True)
        self.network.advance(5)
        self.successResultOf(again)
        self.network.advance(3)
        bobs = self.of(bob, ours)
        self.assertEqual((1, True), (bobs.epoch, bobs.is_joined))

    def test_two_members_who_offer_a_group_at_once_are_both_answered(self) -> None:
        alice, bob, carol = self.house("alice", "bob", "carol")
        network = alice.groups.create("home", realm=None, kind="network")
        self.result(alice.groups.give(network, bob.device_id))
        self.network.advance(2)
        answer = self.factories["carol"].answer = Deferred()
        gifts = [
            alice.groups.give(network, carol.device_id),
            bob.groups.give(self.of(bob, network), carol.device_id),
        ]
        self.network.advance(3)
        answer.callback(True)
        self.network.advance(5)
        for given in gifts:
            self.successResultOf(given)
        self.assertEqual(1, len(self.factories["carol"].offers))

    def test_an_offer_of_a_device_that_is_not_trusted_any_more_is_not_taken(self) -> None:
        alice, bob = self.house("alice", "bob")
        answer = self.factories["bob"].answer = Deferred()
        group = alice.groups.create("family", realm=self.network.realm.address)
        alice.groups.give(group, bob.device_id).addErrback(lambda failure: None)
        self.network.advance(3)
        bob.forget(alice.device_id)
        answer.callback(True)
        self.network.advance(3)
        self.assertEqual([], bob.groups.all())


class BoundsTests(GroupTestCase):
    """What other members, and peers who offer groups, could make grow."""

    def test_a_device_dials_no_more_realms_than_it_has_to(self) -> None:
        alice, bob = self.house("alice", "bob")
        network = alice.groups.create("home", realm=None, kind="network")
        self.result(alice.groups.give(network, bob.device_id))
        self.network.advance(2)
        for _ in range(MAX_REALMS + 4):
            address = self.network.add_realm().address
            network.roster.set_realm(alice.identity, str(address), is_used=True)
        network.roster.set_realm(alice.identity, "none", is_used=True)
        network.roster_changed()
        self.network.advance(5)
        self.assertEqual(MAX_REALMS, len(bob.links))

    def test_a_device_is_in_so_many_groups(self) -> None:
        self.patch(groups, "MAX_GROUPS", 1)
        alice, bob = self.house("alice", "bob")
        address = self.network.realm.address
        alice.groups.create("family", realm=address)
        self.assertRaises(GroupError, alice.groups.create, "club", realm=address)
        group = bob.groups.create("club", realm=address)
        given = bob.groups.give(group, alice.device_id)
        error = self.assertRaises(GroupError, self.result, given)
        self.assertIn("offers_full", str(error))

    def test_rosters_that_are_offered_have_so_many_entries_in_all(self) -> None:
        self.patch(offers, "MAX_ENTRIES", 5)
        book = OfferBook(DEVICES[1].device_id)
        fired: list[Offer | GiveGroup | None] = []
        for number in range(2):
            keys = GroupKeys((seed(number),))
            offered = Roster(bytes(keys.group_id), KEYS[0])
            for other in range(1, 5):
                offered.add(DEVICES[0], KEYS[other], "")
            offer = GiveGroup(
                "offer",
                offered.group_id,
                founder=KEYS[0],
                kind="group",
                seeds=list(keys.seeds),
                entries=[],
                digest=bytes(32),
            )
            # It never says that it is whole.
            book.begin(DEVICES[0].device_id, offer)
            entries = GiveGroup("entries", offered.group_id, entries=offered.entries())
            fired.append(book.go_on(DEVICES[0].device_id, entries))
            is_incoming = book.is_incoming(offered.group_id, DEVICES[0].device_id)
            self.assertEqual(number == 0, is_incoming)
        last = bytes(GroupKeys((seed(1),)).group_id)
        refused = GiveGroup("refused", last, code="offers_full")
        self.assertEqual([None, refused], fired)


class FloodTests(GroupTestCase):
    """What a realm can make up without any key."""

    def flood(self, epoch: int, seconds: float) -> tuple[int, int]:
        """Return how often a device has looked for others, and written to its log."""
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        sought: list[bytes] = []
        logged: list[Any] = []

        @implementer(ILogObserver)
        def note(event: Any) -> None:
            logged.append(event)

        (link,) = bob.links_up()
        self.patch(bob, "reach", sought.append)
        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)
        group = bytes(ours.group_id)
        forged = GroupMessage(bytes(alice.device_id), group, epoch.to_bytes(4, "big") + bytes(200))
        for _ in range(100):
            bob.group_told(link, group, forged)
            self.network.advance(seconds / 100, step=1)
        self.assertEqual(100, len(self.diary(bobs).problems))
        self.assertEqual([], self.diary(bobs).messages)
        return len(sought), len(logged)

    def test_messages_of_epochs_that_never_were(self) -> None:
        sought, _ = self.flood(900, 2 * SEEK_SECONDS)
        self.assertIn(sought, (2, 3))

    def test_messages_that_nobody_has_said(self) -> None:
        _, logged = self.flood(0, 2 * LOG_SECONDS)
        self.assertIn(logged, (2, 3))


class PeersTests(GroupTestCase):
    """Peers that cannot be saved, and how often they are."""

    def test_a_networks_peers_are_saved_at_once_and_used_when_that_fails(self) -> None:
        saved: list[int] = []

        def save() -> None:
            if bob.groups.all():
                saved.append(len(peers))
                raise AbstError("the disk is full")

        alice = self.device("alice")
        peers = PeerBook((), save)
        bob = self.device("bob", peers=peers)
        self.network.introduce(alice, bob)
        self.network.settle()
        self.result(alice.connect(bob.device_id))
        network = alice.groups.create("home", realm=self.network.realm.address, kind="network")
        for device in DEVICES[:5]:
            network.roster.add(alice.identity, raw_key_of(device), "somebody")
        network.roster_changed()
        self.result(alice.groups.give(network, bob.device_id))
        self.assertEqual(6, len(peers))
        self.assertEqual([6], saved)
        network.roster.remove(alice.identity, DEVICES[0].device_id)
        network.roster_changed()
        self.network.settle()
        self.assertEqual(5, len(peers))


class ValueTests(GroupTestCase):
    def test_what_a_realm_was_caught_with_is_remembered_until_a_person_believes_it(self) -> None:
        store = self.store()
        alice = self.device("alice", group_store=store)
        (ours,) = self.group(alice)
        self.result(ours.values.set("light", b"on"))
        ours.values.seen_by(DEVICES[0].device_id, 1, bytes(32))
        self.network.advance(2)
        self.network.kill(alice)
        alice = self.device("alice", identity=alice.identity, group_store=store)
        self.network.advance(5)
        again = self.of(alice, ours)
        problem = again.values.problem
        assert problem is not None
        self.assertEqual(str(ours.values.problem), str(problem))
        self.failureResultOf(again.values.set("light", b"off"), DishonestRealmError)
        again.values.start_again()
        self.result(again.values.set("light", b"off"))
        self.network.advance(2)
        self.network.kill(alice)
        alice = self.device("alice", identity=alice.identity, group_store=store)
        self.network.advance(5)
        self.assertIsNone(self.of(alice, ours).values.problem)

    def test_nothing_is_taken_from_a_realm_that_is_caught_while_it_answers(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        self.result(ours.values.set("light", b"on"))
        (link,) = bob.links_up()
        answers: list[Deferred[Any]] = []

        def held(packet: Packet) -> Deferred[Any]:
            answers.append(Deferred())
            return answers[-1]

        bobs.values.parted()
        self.result(ours.values.set("light", b"off"))
        ask, link.ask = link.ask, held  # type: ignore[method-assign]
        bobs.values.joined(link, {})
        group = bytes(ours.group_id)
        listed = self.result(ask(ListValues(group, 1)))
        answers[0].callback(WatchingValues(group, listed.revision, listed.head))
        bobs.values.seen_by(alice.device_id, 1, bytes(32))
        answers[1].callback(listed)
        self.assertEqual(1, bobs.values.checked()[0])

    def test_more_names_than_a_device_keeps(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        self.result(bobs.values.set("a", b"1"))
        self.patch(draft, "MAX_NAMES", 1)
        self.assertEqual(2, self.result(ours.values.set("b", b"2")))
        self.assertRaises(GroupError, self.result, ours.values.set("c", b"3"), 10)
        self.assertIsNone(ours.values.problem)
        bobs.send(b"goes on")
        self.network.settle()
        self.assertEqual([b"goes on"], self.diary(ours).messages)
        self.patch(draft, "MAX_NAMES", 100)
        self.network.advance(10)
        self.result(ours.values.set("d", b"4"))
        self.assertEqual(3, len(self.result(ours.values.items())))

    def test_puts_that_nobody_waits_for_use_nothing_up(self) -> None:
        self.patch(history, "MAX_AWAITED", 3)
        (alice,) = self.house("alice")
        (ours,) = self.group(alice)
        for _ in range(5):
            setting = ours.values.set("light", b"on")
            setting.cancel()
            self.failureResultOf(setting, CancelledError)
        self.result(ours.values.set("light", b"off"))

    def test_nothing_is_sealed_anew_once_the_device_has_stopped(self) -> None:
        (alice,) = self.house("alice")
        (ours,) = self.group(alice)
        for number in range(3):
            self.result(ours.values.set(f"light/{number}", b"on"))
        moved = ours.rotate()
        self.network.settle()
        self.successResultOf(moved)
        alice.stopService()
        self.network.settle()
        self.assertEqual([], self.network.clock.getDelayedCalls())


class NameTests(GroupTestCase):
    def test_no_name_that_a_member_gives_reaches_a_terminal_as_it_is(self) -> None:
        alice, bob = self.house("alice", "bob")
        ours, bobs = self.group(alice, bob)
        ours.roster.set_name(alice.identity, "\x1b[2Jfamily\n")
        ours.roster.rename(alice.identity, "\u202ealice")
        ours.roster_changed()
        self.network.settle()
        self.assertEqual("[2Jfamily", str(bobs))
        self.assertEqual(["alice", "bob"], [member.name for member in bobs.members()])
        self.assertEqual(alice.device_id, bobs.find("alice").device_id)
        ours.roster.set_name(alice.identity, "\n")
        ours.roster_changed()
        self.network.settle()
        self.assertEqual(str(ours.group_id), str(bobs))


class ThiefTests(GroupTestCase):
    def test_keys_that_a_removed_member_has_made_up_shut_nobody_out(self) -> None:
        alice, bob, mallory = self.house("alice", "bob", "mallory")
        ours, bobs, _ = self.group(alice, bob, mallory)
        seeds = [*ours.keys.seeds, seed(1)]
        bob.stopService()
        self.result(ours.remove(mallory.device_id))
        bob.startService()
        # Bob meets mallory first, and does not know yet.
        bob.groups.peer_reached(mallory.device_id)
        bob.groups.given(
            mallory.device_id, GiveGroup("keys", bytes(ours.group_id), epoch=1, seeds=seeds)
        )
        self.assertEqual(seed(1), bobs.keys.seeds[-1])
        self.network.advance(70)
        self.assertEqual(ours.keys.seeds, bobs.keys.seeds)
        self.assertTrue(bobs.is_joined)
