"""News of the roster: what members tell the whole group, when, and to what end."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from abst.device import Device
from abst.device.groups.group import Group
from abst.device.groups.messages import Kind, MessageReader
from abst.device.groups.roster import Roster
from abst.device.groups.roster_news import (
    NEWS_SECONDS,
    REJOIN_SECONDS,
    RosterNews,
    pack_news,
    read_news,
)
from abst.errors import AbstError, GroupError, MissingEpochError, RemoteProtocolError
from abst.packets import MAX_ROSTER_ENTRIES, MAX_ROSTER_ENTRY_BYTES, GiveGroup
from tests.device.groups.rosters import DEVICES, KEYS, Forger, new_roster
from tests.device.groups.stage import GroupTestCase
from tests.test_spec import page, plain, table

AMPLE_BYTES = 60_000


class Speaker:
    """A group of device 0 that says whatever it may.

    Attributes:
        said: what it has said, as entries.
        problems: what the application was told.
        refuses: whether it cannot say anything.
    """

    def __init__(self, roster: Roster, said: int = 0) -> None:
        self.identity = DEVICES[0]
        self.roster = roster
        self.reactor = Clock()
        self.max_news_bytes = AMPLE_BYTES
        self.said: list[list[bytes]] = []
        self.problems: list[AbstError] = []
        self.refuses = False
        self.news = RosterNews(self, said)

    def say_news(self, content: bytes) -> None:
        if self.refuses:
            raise GroupError("not now")
        assert len(content) <= self.max_news_bytes
        self.said.append(read_news(content))

    def problem_seen(self, problem: AbstError) -> None:
        self.problems.append(problem)

    def add(self, count: int) -> list[bytes]:
        """Sign so many entries; return them."""
        return [self.roster.set_name(DEVICES[0], f"name {number}") for number in range(count)]


class NewsTests(TestCase):
    def setUp(self) -> None:
        self.speaker = Speaker(new_roster(), said=0)

    def test_what_comes_together_is_said_together_and_not_in_a_flood(self) -> None:
        entries = []
        for _ in range(100):
            entries += self.speaker.add(1)
            self.speaker.news.look()
        self.assertEqual([entries[:1]], self.speaker.said)
        for _ in range(4):
            self.speaker.reactor.advance(NEWS_SECONDS)
        expected = [entries[:1], entries[1:49], entries[49:97], entries[97:]]
        self.assertEqual(expected, self.speaker.said)
        self.assertEqual([], self.speaker.reactor.getDelayedCalls())
        self.assertEqual(100, self.speaker.news.said)

    def test_only_own_entries_are_said_and_each_once(self) -> None:
        roster = new_roster(2)
        roster.rename(DEVICES[1], "somebody else")
        speaker = Speaker(roster)
        for _ in range(3):
            speaker.news.look()
            speaker.reactor.advance(NEWS_SECONDS)
        self.assertEqual([[roster.entries()[0]]], speaker.said)
        again = Speaker(roster, said=speaker.news.said)
        again.news.look()
        self.assertEqual([], again.said)

    def test_nothing_is_said_while_it_may_not_be(self) -> None:
        self.speaker.add(1)
        self.speaker.max_news_bytes = 0
        self.speaker.news.look()
        self.speaker.reactor.advance(NEWS_SECONDS)
        self.assertEqual([], self.speaker.said)
        self.speaker.max_news_bytes = AMPLE_BYTES
        self.speaker.news.look()
        self.assertEqual(1, len(self.speaker.said))

    def test_it_stops(self) -> None:
        self.speaker.add(MAX_ROSTER_ENTRIES + 1)
        self.speaker.news.look()
        self.speaker.news.stop()
        self.speaker.reactor.advance(NEWS_SECONDS)
        self.assertEqual(1, len(self.speaker.said))

    def test_what_is_old_waits_until_others_may_have_joined(self) -> None:
        self.speaker.add(1)
        self.speaker.news.joined()
        self.speaker.reactor.advance(REJOIN_SECONDS - 1)
        self.assertEqual([], self.speaker.said)
        self.speaker.reactor.advance(1)
        self.assertEqual(1, len(self.speaker.said))
        self.speaker.news.joined()
        self.speaker.add(1)
        self.speaker.news.look()
        self.speaker.reactor.advance(NEWS_SECONDS)
        self.assertEqual(2, len(self.speaker.said))

    def test_a_clock_that_is_set_back_delays_nothing(self) -> None:
        self.speaker.add(1)
        self.speaker.news.look()
        self.speaker.reactor.rightNow -= 10_000
        self.speaker.add(1)
        self.speaker.news.look()
        (call,) = self.speaker.reactor.getDelayedCalls()
        self.assertLessEqual(call.getTime() - self.speaker.reactor.seconds(), NEWS_SECONDS)

    def test_a_message_is_no_longer_than_it_may_be(self) -> None:
        entries = self.speaker.add(40)
        self.speaker.max_news_bytes = 2000
        self.speaker.news.look()
        for _ in entries:
            self.speaker.reactor.advance(NEWS_SECONDS)
        self.assertEqual(entries, [entry for said in self.speaker.said for entry in said])
        self.assertGreater(len(self.speaker.said), 3)

    def test_what_fits_no_message_is_left_to_others(self) -> None:
        self.speaker.add(1)
        self.speaker.max_news_bytes = 100
        self.speaker.news.look()
        self.assertEqual(([], []), (self.speaker.said, self.speaker.reactor.getDelayedCalls()))

    def test_what_could_not_be_said_is_said_the_next_time(self) -> None:
        self.speaker.add(1)
        self.speaker.refuses = True
        self.speaker.news.look()
        self.assertEqual((1, 0), (len(self.speaker.problems), self.speaker.news.said))
        self.speaker.refuses = False
        self.speaker.news.look()
        self.assertEqual((1, 1), (len(self.speaker.said), self.speaker.news.said))

    @settings(max_examples=50)
    @given(st.binary(max_size=200))
    def test_any_bytes_are_read_or_refused(self, content: bytes) -> None:
        try:
            read_news(content)
        except RemoteProtocolError:
            return

    def test_the_table_is_the_codes_own(self) -> None:
        (row,) = table(page("rosters.md"), "Through the group", "key", "type", "meaning")
        field = next(item for item in GiveGroup.body if item.name == plain(row["key"]))
        self.assertEqual(field.type, row["type"])
        most = [bytes(MAX_ROSTER_ENTRY_BYTES)] * MAX_ROSTER_ENTRIES
        self.assertEqual(most, read_news(pack_news(most)))
        for seconds in (NEWS_SECONDS, REJOIN_SECONDS):
            self.assertRegex(page("rosters.md"), rf"waits (until )?{seconds:g} s")


class TreeTests(GroupTestCase):
    """Groups in which one device has met all others, and these have not met each other."""

    def tree(self, *names: str, **options: Any) -> list[Device]:
        """Return devices that the first has met; ``NAME=store`` gives one a store."""
        devices = [self.device(name, group_store=options.get(name)) for name in names]
        for device in devices[1:]:
            self.meet(devices[0], device)
        return devices

    def meet(self, one: Device, other: Device) -> None:
        self.network.introduce(one, other)
        self.network.settle()
        self.result(one.connect(other.device_id))

    def said(self, since: int = 0) -> list[dict[str, Any]]:
        """Return the messages to groups among what the realm was given."""
        told, found, at = bytes(self.network.realm.relayed), [], since
        while (at := told.find(b"\x84\xa9packet_id\x06", at)) >= 0:
            unpacker = msgpack.Unpacker()
            unpacker.feed(told[at:])
            found.append(unpacker.unpack())
            at += 1
        return found

    def names(self, group: Group) -> list[str]:
        return [member.name for member in group.members()]

    def test_members_that_have_not_met_learn_from_each_other(self) -> None:
        alice, bob, carol = self.tree("alice", "bob", "carol")
        _, bobs, carols = self.group(alice, bob, carol)
        dave = self.device("dave")
        self.meet(bob, dave)
        self.network.kill(alice)
        self.result(bob.groups.give(bobs, dave.device_id))
        self.network.advance(2)
        self.assertIsNone(carol.peers.get(bob.device_id))
        self.assertEqual(["alice", "bob", "carol", "dave"], self.names(carols))
        self.of(dave, bobs).send(b"hello, all")
        self.network.settle()
        self.assertEqual([b"hello, all"], self.diary(carols).messages)
        self.assertEqual([], [e for e in self.diary(carols).events if e.startswith("missed")])

    def test_a_message_of_who_was_just_added_waits_for_the_news(self) -> None:
        alice, bob, carol = self.tree("alice", "bob", "carol")
        _, bobs, carols = self.group(alice, bob, carol)
        dave = self.device("dave")
        self.meet(bob, dave)
        self.network.kill(alice)
        for number in range(2):  # The second is said a while after the first.
            bobs.rename(f"name {number}")
        self.result(bob.groups.give(bobs, dave.device_id), seconds=0)
        self.of(dave, bobs).send(b"hello, all")
        self.network.settle()
        self.assertEqual([], self.diary(carols).messages)
        self.network.advance(NEWS_SECONDS)
        self.assertEqual([b"hello, all"], self.diary(carols).messages)

    def test_one_entry_is_one_message_however_many_hear_it(self) -> None:
        names = ["alice", *(f"device {number}" for number in range(9))]
        devices = self.tree(*names)
        groups = self.group(*devices)
        self.network.advance(20)
        before = len(self.network.realm.relayed)
        groups[1].rename("club")
        self.network.advance(20)
        self.assertEqual(["club"] * 10, [group.name for group in groups])
        (message,) = self.said(before)
        self.assertEqual(devices[1].device_id, message["source_device"])

    def test_a_removal_is_said_only_in_the_new_epoch(self) -> None:
        alice, bob, mallory = self.tree("alice", "bob", "mallory")
        ours, bobs, theirs = self.group(alice, bob, mallory)
        self.network.advance(2)
        kept, before = theirs.keys, len(self.network.realm.relayed)
        digest = theirs.roster.digest()
        removed = ours.remove(mallory.device_id)
        ours.rename("without her")
        self.result(removed)
        self.network.advance(REJOIN_SECONDS + 5)
        self.assertEqual(digest, theirs.roster.digest())
        self.assertEqual("without her", bobs.name)
        key = ours.roster.members()[alice.device_id].public_key
        messages = [
            message["content"]
            for message in self.said(before)
            if message["source_device"] == alice.device_id
        ]
        self.assertTrue(messages)
        heard = []
        for content in messages:
            with self.assertRaises(MissingEpochError):
                MessageReader(mallory.device_id).open(kept, alice.device_id, key, content)
            reader = MessageReader(bob.device_id)
            opened = reader.open(bobs.keys, alice.device_id, key, content)
            heard += read_news(opened.content)
        self.assertEqual(ours.roster.entries()[-len(heard) :], heard)
        self.assertEqual(3, len(heard))

    def test_what_the_realms_absence_has_kept_back_is_said_once_it_is_here(self) -> None:
        store = self.store()
        alice, bob, carol = self.tree("alice", "bob", "carol", bob=store)
        _, bobs, carols = self.group(alice, bob, carol)
        self.network.kill(alice)
        self.network.realm.stop()
        self.network.settle()
        bobs.rename("club")
        self.network.kill(bob)
        bob = self.device("bob", identity=bob.identity, group_store=store)
        self.network.realm.start()
        self.network.advance(2 * REJOIN_SECONDS)
        self.assertEqual("club", carols.name)
        self.network.kill(bob)
        before = len(self.network.realm.relayed)
        bob = self.device("bob", identity=bob.identity, group_store=store)
        self.network.advance(2 * REJOIN_SECONDS)
        self.assertTrue(self.of(bob, bobs).is_joined)
        self.assertEqual([], self.said(before))

    def test_who_leaves_says_nothing_to_the_group(self) -> None:
        alice, bob, carol = self.tree("alice", "bob", "carol")
        ours, bobs, carols = self.group(alice, bob, carol)
        self.network.advance(2)
        before = len(self.network.realm.relayed)
        bob.groups.leave(bobs)
        self.network.advance(5)
        self.assertEqual(["alice", "carol"], self.names(carols))
        sources = {message["source_device"] for message in self.said(before)}
        self.assertNotIn(bytes(bob.device_id), sources)
        self.assertEqual(1, ours.epoch)

    def test_what_a_hostile_member_says_changes_nothing(self) -> None:
        alice, mallory, bob = self.tree("alice", "mallory", "bob")
        ours, theirs, bobs = self.group(alice, mallory, bob)
        self.network.advance(2)
        digest = bobs.roster.digest()
        own = bobs.roster.entries()
        foreign = new_roster(3).entries()
        forged = Forger(1).sign("remove", device=KEYS[0], generation=1, last=bytes(32))
        lie = bytearray(own[-1])
        lie[-1] ^= 1
        for content in (
            b"",
            b"\xc1",
            bytes(20_000),
            b"\x81" * 500,
            pack_news([]),
            pack_news([b"", b"x" * MAX_ROSTER_ENTRY_BYTES]),
            pack_news([bytes(MAX_ROSTER_ENTRY_BYTES)] * (MAX_ROSTER_ENTRIES + 1)),
            pack_news([*own, *own[::-1]]),
            pack_news([*foreign, forged, bytes(lie)]),
            msgpack.packb({"entries": {"a": 1}}),
            msgpack.packb({"entries": [[own[0]]]}),
        ):
            theirs._messenger.say(content, Kind.ROSTER)
        # What is right, and of a kind that nobody knows.
        copy = Roster(bobs.group_id, bobs.founder, own)
        theirs._messenger.say(pack_news([copy.rename(mallory.identity, "mine")]), 200)
        self.network.settle()
        for group in (ours, bobs):
            self.assertEqual(digest, group.roster.digest())
            self.assertEqual([], self.diary(group).messages)
            self.assertEqual([], self.diary(group).problems)
        theirs.send(b"still heard")
        self.network.settle()
        self.assertEqual([b"still heard"], self.diary(bobs).messages)
        self.assertEqual([], [e for e in self.diary(bobs).events if e.startswith("missed")])

    def test_who_was_removed_is_not_believed(self) -> None:
        """Mallory is not in the group for Bob any more, and still holds its present key."""
        alice, mallory, bob = self.tree("alice", "mallory", "bob")
        ours, theirs, bobs = self.group(alice, mallory, bob)
        self.network.advance(2)
        entry = theirs.roster.set_name(mallory.identity, "mine")
        bobs.roster.merge([ours.roster.remove(alice.identity, mallory.device_id)])
        digest = bobs.roster.digest()
        theirs._messenger.say(pack_news([entry]), Kind.ROSTER)
        self.network.settle()
        self.assertEqual(digest, bobs.roster.digest())

    def test_who_hears_of_a_new_device_does_not_call_it(self) -> None:
        alice, bob, carol = self.tree("alice", "bob", "carol")
        network = alice.groups.create("home", realm=self.network.realm.address, kind="network")
        for other in (bob, carol):
            self.result(alice.groups.give(network, other.device_id))
        self.network.advance(5)
        called: list[bytes] = []
        self.patch(carol, "reach", called.append)
        self.patch(carol.groups, "given", lambda device_id, packet: None)
        dave = self.device("dave")
        self.meet(bob, dave)
        self.result(bob.groups.give(self.of(bob, network), dave.device_id))
        self.network.advance(2)
        self.assertIsNotNone(carol.peers.get(dave.device_id))
        self.assertEqual([], called)

    def test_peers_are_told_how_things_stand_and_ask_for_what_they_have_missed(self) -> None:
        alice, bob, carol = self.tree("alice", "bob", "carol")
        ours, bobs, carols = self.group(alice, bob, carol)
        self.meet(bob, carol)
        self.network.advance(2)
        said: list[str] = []
        say_to = carol.say_to

        def note(device_id: bytes, packet: GiveGroup) -> bool:
            said.append(packet.step)
            return say_to(device_id, packet)

        self.patch(carol, "say_to", note)
        # Bob hears nothing of it: the realm drops all that it would have told him, say.
        self.patch(bobs, "told", lambda packet: None)
        self.patch(alice, "say_to", lambda device_id, packet: True)
        ours.rename("club")
        self.network.settle()
        self.assertEqual(["club", "club"], [bobs.name, carols.name])
        self.assertEqual(1, said.count("entries"))
