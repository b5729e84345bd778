"""Sharing: members come to the same roster and epoch, and nobody else hears of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.address import RealmAddress
from abst.device.groups.groups import MAX_GROUPS
from abst.device.groups.keys import GroupKeys
from abst.device.groups.offers import MAX_OFFERS, OfferBook, Refusal
from abst.device.groups.roster import Roster
from abst.device.groups.sharing import Accepted, Gone, KeysRefused, Offered, Out, Reach, Refused
from abst.device.groups.talk import MAX_PACKET_BYTES, PACKETS_AT_ONCE
from abst.errors import GroupError
from abst.packets import MAX_EPOCHS, GiveGroup
from tests.device.groups.houses import GROUP_ID, House, Street, seed
from tests.device.groups.rosters import DEVICES, KEYS
from tests.test_spec import numbers, page, plain, table


def steps(street: Street, since: int = 0) -> list[str]:
    return [packet.step for _, _, packet in street.said[since:]]


class Streets(TestCase):
    """Streets on which some houses are in the group."""

    def street(self, count: int, members: int = 1, *, connects: bool = True) -> Street:
        street = Street(count)
        street.houses[0].found()
        for other in street.houses[1:members]:
            street.houses[0].group.roster.add(DEVICES[0], KEYS[other.number], "")
        for other in street.houses[1:members]:
            other.hold_copy_of(street.houses[0])
        if connects:
            for far in range(count):
                for near in range(far):
                    street.connect(far, near)
        street.settle()
        for house in street.houses:
            house.seen.clear()
        return street

    def assert_agree(self, houses: Iterable[House]) -> None:
        self.assertEqual(
            1, len({(house.group.roster.digest(), house.group.keys.seeds) for house in houses})
        )


class OfferTests(Streets):
    def test_an_offer_that_is_accepted(self) -> None:
        street = self.street(2)
        one, other = street.houses
        one.group.realm = RealmAddress.parse("abst://127.0.0.1:1/")
        one.group.roster.set_name(DEVICES[0], "home")
        one.add(other)
        street.settle()
        self.assertEqual([Accepted(GROUP_ID, other.id)], one.seen)
        self.assertEqual((one.group.realm, "group"), (other.group.realm, other.group.kind))
        self.assertEqual("home", other.group.roster.name())
        self.assert_agree(street.houses)

    def test_an_offer_that_is_refused(self) -> None:
        street = self.street(2)
        one, other = street.houses
        other.decides = False
        one.add(other)
        street.settle()
        self.assertEqual([Refused(GROUP_ID, other.id, Refusal.NOT_WANTED)], one.seen)
        self.assertEqual({}, other.groups)

    def test_who_offers_must_be_trusted(self) -> None:
        street = self.street(2)
        one, other = street.houses
        other.peers.clear()
        one.add(other)
        street.settle()
        self.assertEqual(([], {}), (other.seen, other.groups))

    def test_only_members_are_offered_and_offer(self) -> None:
        street = self.street(2)
        one, other = street.houses
        self.assertRaises(GroupError, one.sharing.offer, GROUP_ID, other.id)
        self.assertRaises(GroupError, other.sharing.offer, GROUP_ID, one.id)

    def test_an_offer_waits_for_a_channel_and_is_made_again_on_the_next(self) -> None:
        street = self.street(2, connects=False)
        one, other = street.houses
        one.add(other)
        self.assertIn(Reach(other.id), one.seen)
        street.connect(0, 1)
        street.cut(0, 1)
        self.assertEqual({}, other.groups)
        street.connect(0, 1)
        street.settle()
        self.assertIn(Accepted(GROUP_ID, other.id), one.seen)

    def test_an_answer_that_was_lost_is_given_again(self) -> None:
        street = self.street(2)
        one, other = street.houses
        one.add(other)
        while not other.groups:
            street.deliver(0, 1)
        street.connect(0, 1)
        street.settle()
        self.assertEqual([Accepted(GROUP_ID, other.id)], one.seen)
        self.assert_agree(street.houses)

    def test_one_decision_at_a_time_about_a_group(self) -> None:
        street = self.street(3, 2)
        one, two, other = street.houses
        other.decides = None
        one.add(other)
        street.settle()
        two.sharing.offer(GROUP_ID, other.id)
        two.pump()
        street.connect(0, 2)
        street.settle()
        (offered,) = other.seen
        assert isinstance(offered, Offered)
        self.assertEqual(one.id, offered.offer.device_id)
        other.take(offered.offer)
        other.pump()
        street.settle()
        self.assert_agree(street.houses)

    def test_a_large_roster_comes_in_several_packets_before_anybody_is_asked(self) -> None:
        street = self.street(2)
        one, other = street.houses
        for number in range(400):
            one.group.roster.set_name(DEVICES[0], f"{number}")
        one.add(other)
        while not other.groups:
            self.assertEqual([], other.seen)
            self.assertTrue(street.deliver(0, 1) or street.deliver(1, 0))
        sent = sum(len(packet.entries or ()) for _, _, packet in street.said)
        self.assertEqual(len(one.group.roster), sent)
        street.settle()
        self.assert_agree(street.houses)

    def test_what_has_not_come_whole_is_forgotten_with_its_channel(self) -> None:
        one = Street(1).houses[0]
        one.found()
        partial = GiveGroup("offer", GROUP_ID, founder=KEYS[0], kind="group", seeds=[seed(0)])
        book = OfferBook(one.id)
        book.begin(one.id, partial)
        self.assertTrue(book.is_incoming(GROUP_ID, one.id))
        book.lost(one.id)
        self.assertFalse(book.is_incoming(GROUP_ID, one.id))

    def test_so_many_offers_wait_and_no_more(self) -> None:
        street = self.street(2)
        one, other = street.houses
        other.decides = None
        group_id = b""
        for number in range(MAX_OFFERS + 1):
            keys = GroupKeys((seed(1000 + number),))
            group_id = bytes(keys.group_id)
            roster = Roster(group_id, KEYS[0])
            roster.add(DEVICES[0], KEYS[1], "")
            held = dataclasses.replace(one.group, keys=keys, roster=roster)
            one.groups[group_id] = held
            one.sharing.offer(group_id, other.id)
            one.pump()
        street.settle()
        self.assertEqual(MAX_OFFERS, len(other.seen))
        self.assertEqual([Refused(group_id, other.id, Refusal.OFFERS_FULL)], one.seen)
        street.cut(0, 1)
        other.sharing.offer_refused(group_id)
        self.assertIsNone(other.sharing.next_action())

    def test_offers_that_are_none(self) -> None:
        street = self.street(2)
        one, other = street.houses
        one.add(other, offer=False)
        good = GiveGroup(
            "offer",
            GROUP_ID,
            founder=KEYS[0],
            kind="group",
            epoch=0,
            seeds=[seed(0)],
            entries=one.group.roster.entries(),
            digest=one.group.roster.digest(),
        )
        alone = Roster(GROUP_ID, KEYS[0])
        for change in (
            {"founder": None},
            {"kind": "club"},
            {"kind": None},
            {"seeds": None},
            {"seeds": [seed(1)]},
            {"realm": "http://x"},
            {"entries": [], "digest": alone.digest()},
            {"peer_group": bytes(DEVICES[5].device_id)},
        ):
            since = len(street.said)
            other.receive(one, dataclasses.replace(good, **change))
            self.assertEqual(["refused"], steps(street, since), change)
            self.assertEqual(str(Refusal.WRONG_GROUP), street.said[-1][2].code)
        self.assertEqual(([], {}), (other.seen, other.groups))
        other.receive(one, good)
        self.assertEqual({GROUP_ID}, other.groups.keys())
        other.receive(one, dataclasses.replace(good, founder=KEYS[2]))
        self.assertEqual(str(Refusal.WRONG_GROUP), street.said[-1][2].code)

    def test_a_device_that_was_removed_can_be_offered_the_group_again(self) -> None:
        street = self.street(2, 2)
        one, other = street.houses
        one.remove(other)
        one.move()
        one.add(other)
        street.settle()
        self.assertTrue(other.is_in)
        self.assert_agree(street.houses)


class StateTests(Streets):
    def test_two_that_agree_say_it_once(self) -> None:
        street = self.street(2, 2)
        street.connect(0, 1)
        since = len(street.said)
        self.assertEqual(2, street.settle())
        self.assertEqual([], steps(street, since))

    def test_a_change_costs_its_entries_and_a_state(self) -> None:
        street = self.street(2, 2)
        for house in street.houses * 2:
            since = len(street.said)
            house.group.roster.rename(house.identity, "new")
            house.change()
            house.change()
            self.assertEqual(["entries", "state"], steps(street, since))
            street.settle()
            self.assertLessEqual(len(street.said) - since, 3)
            self.assert_agree(street.houses)

    def test_before_the_first_answer_a_change_says_how_things_stand_and_no_more(self) -> None:
        street = self.street(2, 2, connects=False)
        one = street.houses[0]
        street.connect(0, 1)
        since = len(street.said)
        one.group.roster.rename(DEVICES[0], "x")
        one.change()
        self.assertEqual(["state"], steps(street, since))
        street.settle()
        self.assert_agree(street.houses)

    def test_what_one_has_got_is_not_sent_back(self) -> None:
        street = self.street(2, 2, connects=False)
        for _ in range(300):
            street.houses[0].group.roster.rename(DEVICES[0], "x")
        street.houses[1].hold_copy_of(street.houses[0])
        for house in street.houses:
            house.group.roster.rename(house.identity, "new")
        street.connect(0, 1)
        street.settle()
        self.assert_agree(street.houses)
        sent = sum(len(packet.entries or ()) for _, _, packet in street.said)
        self.assertEqual(len(street.houses[0].group.roster), sent)

    def test_so_much_is_on_its_way_at_once_and_no_more(self) -> None:
        street = self.street(2, 2, connects=False)
        one, other = sorted(street.houses, key=lambda house: house.id)
        for _ in range(1000):
            one.group.roster.rename(one.identity, "x")
        street.connect(0, 1)
        while other.group.roster.digest() != one.group.roster.digest():
            since = len(street.said)
            while street.deliver(other.number, one.number):
                pass
            self.assertLessEqual(steps(street, since).count("entries"), 2 * PACKETS_AT_ONCE)
            while street.deliver(one.number, other.number):
                pass
        street.settle()

    def test_news_go_on_to_others(self) -> None:
        street = self.street(4, 4, connects=False)
        for one in range(3):
            street.connect(one, one + 1)
        street.settle()
        street.houses[0].group.roster.set_name(DEVICES[0], "home")
        street.houses[0].move()
        street.settle()
        self.assert_agree(street.houses)
        self.assertEqual("home", street.houses[3].group.roster.name())

    def test_rosters_that_can_never_agree_fall_silent(self) -> None:
        class Deaf(Roster):
            def merge(self, entries: Iterable[bytes]) -> list[bytes]:
                return []

        for deaf in (0, 1):
            street = self.street(2, 2, connects=False)
            held = street.houses[deaf].group
            held.roster = Deaf(GROUP_ID, held.founder, held.roster.entries())
            for house in street.houses:
                for _ in range(100):
                    house.group.roster.rename(house.identity, "x")
            street.connect(0, 1)
            self.assertLess(street.settle(), 30)
            for house in street.houses:
                house.group.roster.rename(house.identity, "y")
                house.change()
                self.assertLess(street.settle(), 10)

    def test_keys_come_after_the_roster(self) -> None:
        """Who had them before could give them to a device of whose removal it does not know."""
        street = self.street(3, 3, connects=False)
        one, other = street.houses[:2]
        for _ in range(300):
            one.group.roster.rename(DEVICES[0], "x")
        one.remove(street.houses[2])
        one.move()
        street.connect(0, 1)
        while other.group.keys.epoch == 0:
            self.assertTrue(street.deliver(0, 1) or street.deliver(1, 0))
        self.assertEqual(one.group.roster.digest(), other.group.roster.digest())

    def test_nor_do_they_overtake_news(self) -> None:
        street = self.street(3, 3)
        one, other = street.houses[:2]
        for _ in range(300):
            one.group.roster.rename(DEVICES[0], "x")
        one.remove(street.houses[2])
        one.move()
        while other.group.keys.epoch == 0:
            self.assertTrue(street.deliver(0, 1) or street.deliver(1, 0))
        self.assertNotIn(street.houses[2].id, other.group.roster.members())

    def test_keys_that_contradict_others_are_given_once(self) -> None:
        street = self.street(2, 2, connects=False)
        one, other = street.houses
        other.group.keys = other.group.keys.with_next(seed(7))
        one.move()
        one.move()
        street.connect(0, 1)
        street.settle()
        one.group.roster.rename(DEVICES[0], "x")
        one.change()
        other.group.roster.rename(DEVICES[1], "x")
        other.change()
        street.settle()
        self.assertEqual(1, steps(street).count("keys"))
        self.assertEqual([KeysRefused(GROUP_ID, one.id)], other.seen)

    def test_all_epochs_fit_a_packet(self) -> None:
        street = self.street(2)
        one, other = street.houses
        one.found(epoch=MAX_EPOCHS - 2)
        for number in range(60):
            one.group.roster.set_realm(DEVICES[0], f"{number:0500}", is_used=True)
        one.group.realm = RealmAddress.parse("abst://127.0.0.1:1/")
        one.add(other)
        street.settle()
        self.assert_agree(street.houses)
        one.move()
        street.settle()
        self.assertEqual(MAX_EPOCHS - 1, other.group.keys.epoch)

    def test_seeds_that_contradict_ours_are_refused_without_harm(self) -> None:
        street = self.street(2, 2)
        one, other = street.houses
        other.receive(one, GiveGroup("keys", GROUP_ID, epoch=1, seeds=[seed(5), seed(6)]))
        other.receive(one, GiveGroup("keys", GROUP_ID, epoch=1, seeds=[]))
        self.assertEqual([KeysRefused(GROUP_ID, one.id)], other.seen)
        self.assertEqual((seed(0),), other.group.keys.seeds)
        one.move()
        street.settle()
        self.assert_agree(street.houses)

    def test_packets_without_what_they_need_are_passed_over(self) -> None:
        street = self.street(2, 2)
        one, other = street.houses
        before = other.group.roster.digest()
        since = len(street.said)
        for step in ("state", "entries", "accepted", "refused", "dance", ""):
            other.receive(one, GiveGroup(step, GROUP_ID))
        other.receive(one, GiveGroup("entries", GROUP_ID, entries=[b"", bytes(1024)]))
        self.assertEqual(([], before), (other.seen, other.group.roster.digest()))
        self.assertEqual([], steps(street, since))

    def test_members_that_are_paired_and_not_connected_are_looked_for(self) -> None:
        street = self.street(4, 4, connects=False)
        one = street.houses[0]
        one.peers.discard(street.houses[3].id)
        street.connect(0, 1)
        street.settle()
        one.group.roster.rename(DEVICES[0], "x")
        one.change()
        self.assertEqual([Reach(street.houses[2].id)], one.seen)


class SpecificationTests(TestCase):
    def test_numbers_and_codes(self) -> None:
        written = numbers(page("groups.md"), "Numbers")
        self.assertEqual(MAX_PACKET_BYTES, written["bytes of a packet that gives access, at most"])
        self.assertEqual(PACKETS_AT_ONCE, written["packets with entries that are sent at once"])
        self.assertEqual(MAX_OFFERS, written["offers that wait for a decision, at most"])
        self.assertEqual(MAX_GROUPS, written["groups of a device, at most"])
        rows = table(page("groups.md"), "Offers", "code", "why")
        self.assertEqual([str(code) for code in Refusal], [plain(row["code"]) for row in rows])


class StrangerTests(Streets):
    """Devices that are not in the group, or not any more."""

    def test_a_stranger_hears_and_changes_nothing(self) -> None:
        street = self.street(3, 2)
        one, _, stranger = street.houses
        seen = [to for _, to, _ in street.said]
        self.assertNotIn(stranger.number, seen)
        stranger.found()
        stranger.add(street.houses[0], offer=False)
        before = one.group.roster.digest()
        digest = stranger.group.roster.digest()
        for packet in (
            GiveGroup("state", GROUP_ID, epoch=0, digest=digest),
            GiveGroup("entries", GROUP_ID, entries=stranger.group.roster.entries()),
            GiveGroup("keys", GROUP_ID, epoch=1, seeds=[seed(0), seed(1)]),
            GiveGroup("accepted", GROUP_ID),
            GiveGroup("gone", GROUP_ID),
            GiveGroup("offer", GROUP_ID, founder=KEYS[0], epoch=1, seeds=[seed(0), seed(1)]),
        ):
            one.receive(stranger, packet)
        self.assertEqual((before, 0), (one.group.roster.digest(), one.group.keys.epoch))
        self.assertEqual([], one.seen)
        self.assertNotIn((0, 2), [(near, far) for near, far, _ in street.said])

    def test_who_was_removed_hears_nothing_more(self) -> None:
        street = self.street(3, 3)
        one, other, removed = street.houses
        since = len(street.said)
        one.remove(removed)
        one.move()
        street.settle()
        for number in (0, 1):
            street.connect(number, 2)
        street.settle()
        self.assert_agree([one, other])
        self.assertEqual(0, removed.group.keys.epoch)
        self.assertNotIn(2, [far for _, far, _ in street.said[since:]])

    def test_who_has_not_got_the_group_says_so_and_is_left_alone(self) -> None:
        street = self.street(2, 2)
        one, other = street.houses
        del other.groups[GROUP_ID]
        other.change()
        street.connect(0, 1)
        street.settle()
        self.assertEqual([Gone(GROUP_ID, other.id)], one.seen)
        since = len(street.said)
        one.group.roster.rename(DEVICES[0], "x")
        one.change()
        self.assertEqual([], steps(street, since))
        other.hold_copy_of(one)
        other.change()
        street.settle()
        one.group.roster.rename(DEVICES[0], "y")
        one.change()
        street.settle()
        self.assert_agree(street.houses)

    def test_who_leaves_tells_the_others_and_says_nothing_more(self) -> None:
        street = self.street(3, 3)
        one, _, other = street.houses
        since = len(street.said)
        other.group.roster.leave(DEVICES[2])
        other.change()
        other.change()
        self.assertEqual(["entries"] * 2, steps(street, since))
        street.settle()
        self.assertEqual([Out(GROUP_ID)], other.seen)
        self.assertNotIn(other.id, one.group.roster.members())
        since = len(street.said)
        one.group.roster.rename(DEVICES[0], "x")
        one.change()
        street.settle()
        self.assertNotIn(2, [end for *ends, _ in street.said[since:] for end in ends])

    def test_a_word_from_before_the_offer_takes_nobody_out(self) -> None:
        """Who has left is offered the group again, and is at the realm before its packets come."""
        street = self.street(2, 2)
        one, other = street.houses
        del other.groups[GROUP_ID]
        other.change()
        one.group.roster.rename(DEVICES[0], "x")
        one.change()
        while street.deliver(0, 1):
            pass
        self.assertEqual("gone", street.said[-1][2].step)
        one.remove(other)
        one.add(other)
        one.sharing.offer_answered(GROUP_ID, other.id)
        street.settle()
        self.assertEqual([], one.seen)
        self.assert_agree(street.houses)
        del other.groups[GROUP_ID]
        other.change()
        one.group.roster.rename(DEVICES[0], "y")
        one.change()
        street.settle()
        self.assertEqual([Gone(GROUP_ID, other.id)], one.seen)

    def test_who_has_left_says_so_to_whom_has_not_heard_of_it(self) -> None:
        street = self.street(2, 2)
        one, other = street.houses
        other.group.roster.leave(DEVICES[1])
        other.change()
        street.connect(0, 1)
        street.settle()
        self.assertEqual([Gone(GROUP_ID, other.id)], one.seen)

    def test_packets_without_a_channel_are_nothing(self) -> None:
        street = self.street(2, 2)
        one, other = street.houses
        street.cut(0, 1)
        since = len(street.said)
        one.receive(other, GiveGroup("keys", GROUP_ID, epoch=1, seeds=[seed(0), seed(1)]))
        self.assertEqual((0, []), (one.group.keys.epoch, steps(street, since)))


PLAY = st.lists(
    st.tuples(
        st.sampled_from(
            (
                *("connect", "connect", "cut", "refresh", "deliver", "deliver"),
                *("add", "add", "remove", "leave", "rename", "move", "settle"),
            )
        ),
        st.integers(0, 4),
        st.integers(0, 4),
    ),
    min_size=15,
    max_size=60,
)


class AgreementTests(Streets):
    """Channels that come and go in any order."""

    def setUp(self) -> None:
        self.epoch = 0
        self.without: dict[int, set[int]] = {}

    def act(self, street: Street, action: str, one: int, other: int) -> None:
        house, target = street.houses[one], street.houses[other]
        if action in ("connect", "cut", "refresh", "deliver"):
            if one == other:
                return
            if action == "deliver":
                for _ in range(3):
                    street.deliver(one, other)
            elif action != "refresh":
                getattr(street, action)(one, other)
            elif street.is_connected(one, other):
                street.refresh(one, other)
                street.deliver(one, other)
                street.deliver(other, one)
                street.refresh(other, one)
        elif action == "settle":
            street.settle()
        elif house.is_in:
            self.change(house, target, action)

    def change(self, house: House, target: House, action: str) -> None:
        roster = house.group.roster
        match action:
            case "add" if target.id not in roster.members():
                house.add(target)
                for without in self.without.values():
                    without.discard(target.number)
            case "remove" if target.id in roster.members():
                house.remove(target)
                self.move(house)
            case "leave" if house.number:
                roster.leave(house.identity)
                house.change()
            case "rename":
                roster.rename(house.identity, "x")
                house.change()
            case "move":
                self.move(house)

    def move(self, house: House) -> None:
        """Move the group, when the realm would let it."""
        if house.is_in and house.group.keys.epoch == self.epoch:
            self.epoch += 1
            house.move()
            roster = house.group.roster
            self.without[self.epoch] = {
                number
                for number, device in enumerate(DEVICES)
                if roster.was_member(device.device_id) and device.device_id not in roster.members()
            }

    def check(self, street: Street) -> None:
        for one in street.houses:
            for other in street.houses[: one.number]:
                if street.is_connected(one.number, other.number) and self.know(one, other):
                    self.assert_agree([one, other])

    def know(self, one: House, other: House) -> bool:
        """Tell whether each of two is in the group, also as the other sees it."""
        return all(
            GROUP_ID in house.groups and {one.id, other.id} <= house.group.roster.members().keys()
            for house in (one, other)
        )

    @settings(max_examples=40)
    @given(PLAY)
    def test_all_that_are_connected_come_to_the_same(self, play: Any) -> None:
        self.epoch = 0
        self.without = {}
        street = self.street(5, 3, connects=False)
        for step in play:
            self.act(street, *step)
            self.check_nobody_knows_too_much(street)
        street.settle()
        self.check(street)
        for one in range(5):
            for other in range(one):
                street.connect(one, other)
        street.settle()
        self.check(street)

    def check_nobody_knows_too_much(self, street: Street) -> None:
        for house in street.houses:
            if GROUP_ID in house.groups:
                for epoch, without in self.without.items():
                    if house.number in without:
                        self.assertLess(house.group.keys.epoch, epoch)
