"""Rosters: one outcome from one set of entries, and nobody comes in by a back door."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.device.groups.entries import (
    COMMON_FIELDS,
    LABEL,
    MAX_MAP_BYTES,
    MAX_WITHOUT,
    NOTHING,
    STATEMENT_FIELDS,
    Add,
    parse_entry,
    raw_key_of,
)
from abst.device.groups.roster import MAX_ENTRIES, Roster
from abst.device.groups.view import view_of
from abst.errors import GroupError, RemoteProtocolError
from abst.packets import MAX_ROSTER_ENTRY_BYTES, SIGNATURE_BYTES
from tests.device.groups.rosters import (
    DEVICES,
    GROUP,
    KEYS,
    Forger,
    copy_of,
    new_roster,
    numbers_in,
)
from tests.test_spec import numbers, page, plain, table


def sha256(entry: bytes) -> bytes:
    return hashlib.sha256(entry).digest()


def remove(roster: Roster, by: int, device: int) -> bytes:
    return roster.remove(DEVICES[by], DEVICES[device].device_id)


def outcome(roster: Roster) -> tuple[object, ...]:
    """Return all that a roster says."""
    return (
        roster.digest(),
        dict(roster.members()),
        [roster.was_member(device.device_id) for device in DEVICES],
        roster.name(),
        roster.realms(),
        [sorted(roster.pending_removals(key, KEYS)) for key in KEYS],
    )


class MemberTests(TestCase):
    """One device after another."""

    def test_the_founder_is_in_and_may_have_a_name(self) -> None:
        roster = new_roster()
        self.assertEqual({0}, numbers_in(roster))
        roster.rename(DEVICES[0], "desk")
        (member,) = roster.members().values()
        self.assertEqual(("desk", 1), (member.name, member.generation))
        self.assertEqual(DEVICES[0].device_id, member.device_id)

    def test_members_add_members(self) -> None:
        roster = new_roster(2)
        roster.add(DEVICES[1], KEYS[2], "phone")
        self.assertEqual({0, 1, 2}, numbers_in(roster))
        self.assertEqual("phone", roster.members()[DEVICES[2].device_id].name)
        self.assertRaises(GroupError, roster.add, DEVICES[0], KEYS[2], "again")
        self.assertRaises(GroupError, roster.add, DEVICES[5], KEYS[6], "by a stranger")

    def test_a_members_own_word_on_its_name_goes_before_others(self) -> None:
        roster = new_roster(2)
        others = copy_of(roster)
        roster.rename(DEVICES[1], "z")
        roster.rename(DEVICES[1], "a")
        roster.merge(others.entries())
        forger = Forger(0, [(sha256(roster.entries()[0]), 1)])
        roster.merge([forger.sign("add", device=KEYS[1], name="x", generation=1)])
        self.assertEqual(3, len(roster.entries()[1:]))
        self.assertEqual("a", roster.members()[DEVICES[1].device_id].name)

    def test_who_was_added_by_a_member_that_goes_stays(self) -> None:
        for goes in ("leaves", "is removed"):
            roster = new_roster(3)
            roster.add(DEVICES[1], KEYS[3], "")
            if goes == "leaves":
                roster.leave(DEVICES[1])
            else:
                remove(roster, 2, 1)
            self.assertEqual({0, 2, 3}, numbers_in(roster), goes)
            self.assertEqual(KEYS[1], roster.was_member(DEVICES[1].device_id))
            self.assertIsNone(roster.was_member(DEVICES[4].device_id))

    def test_the_founder_can_go_and_come_back(self) -> None:
        roster = new_roster(3)
        roster.leave(DEVICES[0])
        self.assertEqual({1, 2}, numbers_in(roster))
        self.assertRaises(GroupError, roster.add, DEVICES[0], KEYS[3], "")
        roster.add(DEVICES[2], KEYS[0], "back")
        self.assertEqual(2, roster.members()[DEVICES[0].device_id].generation)
        roster.add(DEVICES[0], KEYS[3], "")
        self.assertEqual({0, 1, 2, 3}, numbers_in(roster))

    def test_what_a_device_signed_while_it_was_out_does_not_count_when_it_is_back(self) -> None:
        roster = new_roster(3)
        elsewhere = copy_of(roster)
        remove(roster, 0, 1)
        elsewhere.add(DEVICES[1], KEYS[4], "")
        roster.merge(elsewhere.entries())
        self.assertEqual({0, 2}, numbers_in(roster))
        roster.add(DEVICES[0], KEYS[1], "")
        self.assertEqual({0, 1, 2}, numbers_in(roster))
        roster.add(DEVICES[1], KEYS[5], "")
        self.assertEqual({0, 1, 2, 5}, numbers_in(roster))

    def test_two_that_remove_each_other_are_both_out(self) -> None:
        one = new_roster(3)
        other = copy_of(one)
        remove(one, 1, 2)
        remove(other, 2, 1)
        one.merge(other.entries())
        self.assertEqual({0}, numbers_in(one))

    def test_only_a_member_can_be_removed(self) -> None:
        roster = new_roster(2)
        self.assertRaises(GroupError, remove, roster, 0, 5)
        remove(roster, 0, 1)
        self.assertRaises(GroupError, remove, roster, 0, 1)
        self.assertRaises(GroupError, remove, roster, 1, 0)

    def test_settings_in_turn_and_at_once(self) -> None:
        roster = new_roster(2)
        self.assertEqual(("", ()), (roster.name(), roster.realms()))
        for name in ("z", "a"):
            roster.set_name(DEVICES[0], name)
        for address in ("abst://b", "abst://a", "abst://c"):
            roster.set_realm(DEVICES[1], address, is_used=True)
        roster.set_realm(DEVICES[0], "abst://b", is_used=False)
        self.assertEqual(("a", ("abst://a", "abst://c")), (roster.name(), roster.realms()))
        other = copy_of(roster)
        entries = [roster.set_name(DEVICES[0], "one"), other.set_name(DEVICES[1], "other")]
        roster.merge(other.entries())
        other.merge(roster.entries())
        self.assertEqual(["one", "other"][entries.index(max(entries, key=sha256))], roster.name())
        self.assertEqual(outcome(roster), outcome(other))

    def test_what_is_too_long_is_refused(self) -> None:
        roster = new_roster()
        before = roster.entries()
        for call in (
            lambda: roster.set_name(DEVICES[0], "x" * 65),
            lambda: roster.set_realm(DEVICES[0], "x" * 501, is_used=True),
            lambda: roster.set_realm(DEVICES[0], "\N{SNOWMAN}" * 400, is_used=True),
            lambda: roster.add(DEVICES[0], KEYS[1], "x" * 65),
            lambda: roster.add(DEVICES[0], KEYS[1][1:], ""),
        ):
            self.assertRaises(GroupError, call)
        self.assertEqual(before, roster.entries())


class EpochTests(TestCase):
    """For which removals a device has to move the group."""

    def pending(self, roster: Roster) -> list[int]:
        """Return which devices have something to do, when epoch n has key n."""
        return [n for n, key in enumerate(KEYS) if roster.pending_removals(key, KEYS[:3])]

    def test_who_removed_has_to_move_the_group(self) -> None:
        roster = new_roster(3)
        entry = remove(roster, 1, 2)
        self.assertEqual([1], self.pending(roster))
        self.assertEqual([sha256(entry)], roster.pending_removals(KEYS[1], KEYS[:1]))
        roster.note_epoch(DEVICES[1], 1, KEYS[1], [sha256(entry)])
        self.assertEqual([], self.pending(roster))

    def test_an_epoch_of_another_key_or_that_is_not_known_covers_nothing(self) -> None:
        roster = new_roster(3)
        entry = remove(roster, 1, 2)
        roster.note_epoch(DEVICES[0], 1, KEYS[9], [sha256(entry)])
        roster.note_epoch(DEVICES[0], 3, KEYS[3], [sha256(entry)])
        roster.note_epoch(DEVICES[0], 1, KEYS[1])
        self.assertEqual([1], self.pending(roster))
        roster.note_epoch(DEVICES[0], 2, KEYS[2], [sha256(entry)])
        self.assertEqual([], self.pending(roster))

    def test_who_has_made_an_epoch(self) -> None:
        roster = new_roster(2)
        self.assertIsNone(roster.maker_of(1, KEYS[1]))
        roster.note_epoch(DEVICES[1], 1, KEYS[1])
        roster.note_epoch(DEVICES[0], 1, KEYS[2])
        self.assertEqual(KEYS[1], roster.maker_of(1, KEYS[1]))
        self.assertEqual(KEYS[0], roster.maker_of(1, KEYS[2]))
        self.assertIsNone(roster.maker_of(2, KEYS[1]))

    def test_nor_does_one_by_a_device_that_was_removed(self) -> None:
        roster = new_roster(4)
        entry = remove(roster, 1, 2)
        known = copy_of(roster)
        remove(roster, 1, 3)
        known.note_epoch(DEVICES[3], 1, KEYS[1], [sha256(entry)])
        roster.merge(known.entries())
        self.assertEqual(2, len(roster.pending_removals(KEYS[1], KEYS[:3])))

    def test_one_epoch_covers_all_removals_of_a_device(self) -> None:
        roster = new_roster(4)
        other = copy_of(roster)
        entry = remove(roster, 1, 3)
        remove(other, 2, 3)
        roster.merge(other.entries())
        self.assertEqual([1, 2], self.pending(roster))
        roster.note_epoch(DEVICES[1], 1, KEYS[1], [sha256(entry)])
        self.assertEqual([], self.pending(roster))

    def test_every_member_sees_to_the_removals_of_those_that_are_gone(self) -> None:
        roster = new_roster(4)
        remove(roster, 1, 2)
        leaves = roster.leave(DEVICES[1])
        found = roster.pending_removals(KEYS[0], KEYS[:1])
        self.assertEqual(2, len(found))
        self.assertIn(sha256(leaves), found)
        roster.note_epoch(DEVICES[3], 1, KEYS[1], found)
        self.assertEqual([], self.pending(roster))

    def test_who_is_back_needs_no_epoch_without_it(self) -> None:
        roster = new_roster(3)
        remove(roster, 1, 2)
        roster.add(DEVICES[0], KEYS[2], "")
        self.assertEqual([], self.pending(roster))
        remove(roster, 0, 2)
        self.assertEqual([0], self.pending(roster))

    def test_removals_of_what_was_never_in_ask_for_nothing(self) -> None:
        roster = new_roster(3)
        removal = Forger(1).sign("remove", device=KEYS[7], generation=1, last=NOTHING)
        self.assertEqual([removal], roster.merge([removal]))
        self.assertEqual([], self.pending(roster))

    def test_many_removals_stand_in_several_entries(self) -> None:
        roster = new_roster(12)
        for device in range(1, 11):
            remove(roster, 0, device)
        found = roster.pending_removals(KEYS[0], KEYS[:1])
        self.assertEqual(10, len(found))
        self.assertEqual(2, len(roster.note_epoch(DEVICES[0], 1, KEYS[1], found)))
        self.assertEqual([], self.pending(roster))


class MergeTests(TestCase):
    """What may be in the set."""

    def setUp(self) -> None:
        self.roster = new_roster(2)
        self.before = outcome(self.roster)

    def assert_passed_over(self, *entries: bytes) -> None:
        self.assertEqual([], self.roster.merge(entries))
        self.assertEqual(self.before, outcome(self.roster))

    def test_what_was_here_is_not_new(self) -> None:
        self.assert_passed_over(*self.roster.entries(), *self.roster.entries())

    def test_the_stored_form_says_the_same(self) -> None:
        remove(self.roster, 0, 1)
        stored = Roster(GROUP, KEYS[0], self.roster.entries())
        self.assertEqual(outcome(self.roster), outcome(stored))
        self.assertEqual(self.roster.entries(), stored.entries())

    def test_bytes_that_are_no_entry(self) -> None:
        good = Forger(1).sign("add", device=KEYS[2], name="", generation=1)
        flipped = bytes([good[0] ^ 1]) + good[1:]
        padded = Forger(1).sign("add", device=KEYS[2], name="", generation=1, pad=bytes(960))
        self.assertGreater(len(padded), MAX_MAP_BYTES + SIGNATURE_BYTES)
        for bad in (b"", bytes(64), good[:-1], good + b"\xc0", flipped, padded, bytes(5000)):
            self.assert_passed_over(bad)
        self.assertEqual([good], self.roster.merge([b"", good, good]))

    def test_any_bytes_are_an_entry_or_a_typed_error(self) -> None:
        good = Forger(1).sign("remove", device=KEYS[2], generation=1, last=NOTHING)

        @settings(max_examples=60)
        @given(st.integers(0, len(good) - 1), st.binary(max_size=4), st.binary(max_size=80))
        def holds(at: int, change: bytes, other: bytes) -> None:
            for data in (good[:at] + change + good[at + len(change) :], bytes(64) + other):
                try:
                    parse_entry(data)
                except RemoteProtocolError as error:
                    self.assertNotIn(repr(data), str(error))

        holds()

    def test_fields_that_have_another_form(self) -> None:
        add = {"device": KEYS[2], "name": "", "generation": 1}
        cases: list[tuple[str, dict[str, Any]]] = [
            ("add", {**add, "device": KEYS[2][1:]}),
            ("add", {**add, "name": "x" * 65}),
            ("add", {**add, "name": b""}),
            ("add", {**add, "generation": 0}),
            ("add", {**add, "generation": 2**63}),
            ("add", {**add, "generation": True}),
            ("add", {**add, "standing": 0}),
            ("add", {**add, "number": 2}),
            ("add", {**add, "previous": bytes(31)}),
            ("add", {"device": KEYS[2], "name": ""}),
            ("remove", {"device": KEYS[0], "generation": 1}),
            ("set", {"key": "name", "value": "x" * 65, "replaces": NOTHING}),
            ("set", {"key": "x" * 507, "value": "", "replaces": NOTHING}),
            ("epoch", {"epoch": -1, "public": KEYS[2], "without": []}),
            ("epoch", {"epoch": 1, "public": KEYS[2], "without": [NOTHING] * 9}),
            ("epoch", {"epoch": 1, "public": KEYS[2], "without": [b""]}),
            ("x" * 17, add),
        ]
        for kind, keys in cases:
            self.assert_passed_over(Forger(1).sign(kind, **keys))

    def test_entries_of_another_group_or_founder(self) -> None:
        packed = Forger(1).sign("add", device=KEYS[2], name="", generation=1)[SIGNATURE_BYTES:]
        for group_id, founder in ((bytes(DEVICES[3].device_id), KEYS[0]), (GROUP, KEYS[1])):
            signature = DEVICES[1].private_key.sign(LABEL + group_id + founder + packed)
            self.assert_passed_over(signature + packed)

    def test_a_signature_by_somebody_else(self) -> None:
        packed = Forger(1).sign("add", device=KEYS[2], name="", generation=1)[SIGNATURE_BYTES:]
        self.assert_passed_over(
            DEVICES[2].private_key.sign(LABEL + GROUP + KEYS[0] + packed) + packed
        )

    def test_signers_and_entries_that_are_not_known(self) -> None:
        first = Forger(1)
        missing = first.sign("add", device=KEYS[2], name="", generation=1)
        after = first.sign("add", device=KEYS[3], name="", generation=1)
        removal = Forger(0, [(sha256(self.roster.entries()[-1]), 1)]).sign(
            "remove", device=KEYS[1], generation=1, last=sha256(missing)
        )
        stranger = Forger(2).sign("add", device=KEYS[4], name="", generation=1)
        self.assert_passed_over(after, removal, stranger)
        given = [stranger, removal, after, missing]
        self.assertEqual({*given}, {*self.roster.merge(given)})

    def test_named_entries_that_are_of_another_sort(self) -> None:
        (add,) = map(sha256, self.roster.entries())
        wrong = Forger(1, [(add, 1)])
        self.assert_passed_over(wrong.sign("add", device=KEYS[2], name="", generation=1))
        for kind, keys in (
            ("remove", {"device": KEYS[1], "generation": 1, "last": add}),
            ("set", {"key": "name", "value": "", "replaces": add}),
            ("epoch", {"epoch": 1, "public": KEYS[3], "without": [add]}),
            ("add", {"device": KEYS[2], "name": "", "generation": 1, "number": 7}),
        ):
            self.assert_passed_over(Forger(0, [(add, 1)]).sign(kind, **keys))

    def test_a_setting_replaces_one_of_its_own_key(self) -> None:
        name = Forger(1).sign("set", key="name", value="x", replaces=NOTHING)
        other = Forger(1, [(sha256(name), 1)]).sign(
            "set", key="realm abst://x", value="yes", replaces=sha256(name)
        )
        self.assertEqual([name], self.roster.merge([name, other]))

    def test_other_kinds_are_kept_and_passed_on(self) -> None:
        forger = Forger(1)
        strange = forger.sign("poem", text="x")
        add = forger.sign("add", device=KEYS[2], name="", generation=1, more=[1])
        self.assertEqual([strange, add], self.roster.merge([add, strange]))
        self.assertEqual(outcome(self.roster), outcome(copy_of(self.roster)))
        self.assertEqual({0, 1, 2}, numbers_in(self.roster))

    def test_a_full_roster_takes_nothing_more(self) -> None:
        stored, previous = [], NOTHING
        for number in range(1, MAX_ENTRIES + 2):
            written = {"signer": KEYS[0], "previous": previous, "number": number, "standing": 1}
            stored.append(bytes(SIGNATURE_BYTES) + msgpack.packb({**written, "kind": "x"}))
            previous = sha256(stored[-1])
        roster = Roster(GROUP, KEYS[0], stored)
        self.assertEqual(MAX_ENTRIES, len(roster))
        self.assertRaises(GroupError, roster.set_name, DEVICES[0], "x")
        self.assertEqual([], roster.merge(self.roster.entries()))


ACTIONS = ("add", "remove", "leave", "rename", "name", "realm", "epoch", "give", "give all")
STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(ACTIONS),
        st.integers(0, 5),
        st.randoms(use_true_random=False),
    ),
    max_size=30,
)


def play(rosters: list[Roster], device: int, action: str, other: int, chance: Any) -> None:
    """Let a device do something with its own roster; what is not possible does nothing."""
    own, me = rosters[device], DEVICES[device]
    try:
        match action:
            case "add":
                own.add(me, KEYS[other], str(device))
            case "remove":
                remove(own, device, other)
            case "leave":
                own.leave(me)
            case "rename":
                own.rename(me, str(other))
            case "name":
                own.set_name(me, f"{device} {other}")
            case "realm":
                own.set_realm(me, f"realm {other % 2}", is_used=other > 2)
            case "epoch":
                own.note_epoch(me, other, KEYS[other], own.pending_removals(KEYS[device], KEYS))
            case "give":
                entries = own.entries()
                some = [entry for entry in entries if chance.random() < 0.7]
                rosters[other % len(rosters)].merge(chance.sample(some, len(some)))
            case _:
                rosters[other % len(rosters)].merge(own.entries())
    except GroupError:
        pass


class OutcomeTests(TestCase):
    """One set of entries, one outcome."""

    @settings(max_examples=60)
    @given(STEPS, st.randoms(use_true_random=False))
    def test_any_order_any_repetition_any_partition(self, steps: Any, chance: Any) -> None:
        rosters = [copy_of(new_roster(4)) for _ in range(4)]
        for step in steps:
            play(rosters, *step)
        for own in rosters:
            for other in rosters:
                own.merge(other.entries())
        everything = rosters[0].entries()
        late = Roster(GROUP, KEYS[0])
        left = everything * 2
        while len(late) < len(everything):
            chance.shuffle(left)
            cut = chance.randint(0, len(left))
            late.merge(left[:cut])
            late.merge(left[cut:])
        at_once = Roster(GROUP, KEYS[0])
        at_once.merge(chance.sample(everything, len(everything)))
        for roster in (*rosters, late, at_once):
            self.assertEqual(outcome(rosters[0]), outcome(roster))

    def test_the_order_of_entries_suits_any_piece(self) -> None:
        """What comes in pieces, in the order that ``entries`` has, is taken at first sight."""
        roster = new_roster(4)
        for device in (1, 2, 3):
            roster.add(DEVICES[device], KEYS[device + 4], "")
            roster.add(DEVICES[device + 4], KEYS[device + 7], "")
        remove(roster, 9, 8)
        mixed = roster.entries()
        random.Random(1).shuffle(mixed)
        shuffled = Roster(GROUP, KEYS[0])
        shuffled.merge(mixed)
        other = Roster(GROUP, KEYS[0])
        for entry in shuffled.entries():
            self.assertEqual([entry], other.merge([entry]))
        self.assertEqual(shuffled.entries(3), shuffled.entries()[3:])


FORGERIES = st.lists(
    st.tuples(
        st.sampled_from((3, 6, 7, 8)),  # The thief and its accomplices.
        st.sampled_from(("add", "remove", "set", "epoch")),
        st.sampled_from((0, 1, 2, 3, 6, 7, 8)),
        st.integers(1, 4),
        st.integers(1, 4),
        st.randoms(use_true_random=False),
    ),
    max_size=25,
)


class ThiefTests(TestCase):
    """A removed device, and all that it brings along, against those that have removed it."""

    def setUp(self) -> None:
        self.roster = new_roster(4)
        self.early = self.roster.add(DEVICES[3], KEYS[4], "")
        self.thief = Forger(3, [(sha256(self.early), 1)])
        self.removal = remove(self.roster, 1, 3)
        self.assertEqual({0, 1, 2, 4}, numbers_in(self.roster))

    def assert_locked_out(self, *forged: bytes) -> None:
        self.assertEqual({*forged}, {*self.roster.merge(forged)})
        self.assertEqual({0, 1, 2, 4}, numbers_in(self.roster))
        self.assertIsNone(self.roster.was_member(DEVICES[6].device_id))

    def test_its_own_removal_lets_nothing_count_again(self) -> None:
        add = self.thief.sign("add", device=KEYS[6], name="", generation=1)
        leave = self.thief.sign("remove", device=KEYS[3], generation=1, last=sha256(add))
        self.assert_locked_out(add, leave)

    def test_nor_does_that_of_an_accomplice(self) -> None:
        add = self.thief.sign("add", device=KEYS[6], name="", generation=1)
        helper = Forger(6).sign("remove", device=KEYS[3], generation=1, last=sha256(add))
        self.assert_locked_out(add, helper)

    def test_a_fork_from_before_does_not_count(self) -> None:
        first = self.thief.sign("add", device=KEYS[6], name="", generation=1, after=0)
        middle = self.thief.sign("add", device=KEYS[6], name="", generation=1, after=1)
        self.assert_locked_out(first, middle)

    def test_it_cannot_give_itself_another_generation(self) -> None:
        again = self.thief.sign("add", device=KEYS[3], name="", generation=2)
        bold = self.thief.sign("add", device=KEYS[6], name="", generation=1, standing=2)
        self.assert_locked_out(again, bold)

    def test_nor_keep_one_for_later(self) -> None:
        """What it had added for a later generation counts as far as it was known, and goes too."""
        roster = new_roster(4)
        kept = Forger(3).sign("add", device=KEYS[3], name="", generation=9)
        roster.merge([kept])
        remove(roster, 0, 3)
        forger = Forger(3, [(sha256(kept), 1)])
        for standing in (1, 9, 10):
            entry = forger.sign("add", device=KEYS[6], name="", generation=1, standing=standing)
            roster.merge([entry])
        self.assertEqual({0, 1, 2}, numbers_in(roster))

    def test_settings_and_epochs_from_after_the_removal_do_not_count(self) -> None:
        self.roster.set_name(DEVICES[0], "home")
        forged = [
            self.thief.sign("set", key="name", value="x", replaces=NOTHING),
            self.thief.sign("set", key="realm abst://x", value="yes", replaces=NOTHING),
            self.thief.sign("epoch", epoch=1, public=KEYS[1], without=[sha256(self.removal)]),
        ]
        chain = NOTHING
        for _ in range(5):
            forged.append(self.thief.sign("set", key="name", value="x", replaces=chain))
            chain = sha256(forged[-1])
        self.assert_locked_out(*forged)
        self.assertEqual(("home", ()), (self.roster.name(), self.roster.realms()))
        self.assertEqual(1, len(self.roster.pending_removals(KEYS[1], KEYS)))

    def test_the_strictest_removal_counts(self) -> None:
        """Whoever removes with less in view takes more away: what is missing is added again."""
        roster = new_roster(4)
        early = copy_of(roster)
        roster.add(DEVICES[3], KEYS[4], "")
        remove(roster, 0, 3)
        self.assertEqual({0, 1, 2, 4}, numbers_in(roster))
        remove(early, 1, 3)
        roster.merge(early.entries())
        self.assertEqual({0, 1, 2}, numbers_in(roster))
        roster.add(DEVICES[0], KEYS[4], "")
        self.assertEqual({0, 1, 2, 4}, numbers_in(roster))

    @settings(max_examples=60)
    @given(FORGERIES, st.booleans())
    def test_nothing_that_it_signs_brings_anybody_in(self, steps: Any, later: bool) -> None:
        roster = copy_of(self.roster)
        forgers = {3: Forger(3, [(sha256(self.early), 1)]), **{n: Forger(n) for n in (6, 7, 8)}}
        forged: list[bytes] = []
        for signer, kind, device, standing, generation, chance in steps:
            known = [NOTHING, *map(sha256, [*roster.entries(), *forged])]
            keys: dict[str, Any] = {
                "add": {"device": KEYS[device], "name": "", "generation": generation},
                "remove": {
                    "device": KEYS[device],
                    "generation": generation,
                    "last": chance.choice(
                        [NOTHING, *(h for h, _ in forgers[device].history)]
                        if device in forgers
                        else known
                    ),
                },
                "set": {"key": "name", "value": "x", "replaces": NOTHING},
                "epoch": {"epoch": 1, "public": KEYS[1], "without": []},
            }[kind]
            after = chance.randrange(len(forgers[signer].history))
            forged.append(forgers[signer].sign(kind, after=after, standing=standing, **keys))
        if later:
            roster.add(DEVICES[0], KEYS[5], "")
        allowed = numbers_in(roster)
        was = {n for n in range(12) if roster.was_member(DEVICES[n].device_id)}
        together = Roster(GROUP, KEYS[0])
        together.merge([*forged, *roster.entries()])
        together.merge(forged)
        self.assertLessEqual(numbers_in(together), allowed)
        now = {n for n in range(12) if together.was_member(DEVICES[n].device_id)}
        self.assertLessEqual(now, was)
        self.assertEqual("", together.name())


class ReadmissionTests(TestCase):
    def test_a_device_that_was_shut_out_for_good_needs_another_identity(self) -> None:
        roster = new_roster(3)
        roster.merge([Forger(1).sign("remove", device=KEYS[2], generation=2**63 - 1, last=NOTHING)])
        self.assertRaises(GroupError, roster.add, DEVICES[0], KEYS[2], "")


class CutTests(TestCase):
    """What of a removed device's entries counts, against the plain words of the specification."""

    @settings(max_examples=40)
    @given(
        st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4)), max_size=12),
        st.lists(st.tuples(st.integers(0, 20), st.integers(1, 4)), max_size=4),
    )
    def test_what_every_removal_leaves(
        self, said: list[tuple[int, int]], removals: list[tuple[int, int]]
    ) -> None:
        founder, device = Forger(0), Forger(1)
        entries = [
            founder.sign("add", device=KEYS[1], name="", generation=generation)
            for generation in range(1, 5)
        ]
        parents: list[int] = [0]
        for number, (parent, standing) in enumerate(said, 1):
            parents.append(parent % number)
            keys: dict[str, Any] = {
                "key": f"{number}",
                "value": "",
                "replaces": NOTHING,
                "standing": standing,
            }
            entries.append(device.sign("set", after=parents[number], **keys))
        ways = []
        for last, generation in removals:
            at = last % (len(said) + 1)
            keys = {"generation": generation, "last": device.history[at][0]}
            entries.append(founder.sign("remove", device=KEYS[1], **keys))
            way = set()
            while at:
                way.add(at)
                at = parents[at]
            ways.append((generation, way))
        expected = {
            f"{number}"
            for number, (_, standing) in enumerate(said, 1)
            if all(number in way for generation, way in ways if generation >= standing)
        }
        roster = Roster(GROUP, KEYS[0], entries)
        self.assertEqual(len(entries), len(roster))
        parsed = {entry.sha256: entry for entry in map(parse_entry, roster.entries())}
        self.assertEqual(expected, set(view_of(KEYS[0], parsed).settings))


class FormTests(TestCase):
    def test_an_entry_says_what_was_signed(self) -> None:
        roster = new_roster(2)
        entry = parse_entry(roster.entries()[0])
        self.assertEqual(Add(KEYS[1], "device 1", 1), entry.statement)
        self.assertEqual((KEYS[0], 1, 1), (entry.signer, entry.number, entry.standing))
        self.assertEqual(raw_key_of(DEVICES[0]), entry.signer)

    def test_the_table_of_fields_is_the_codes_own(self) -> None:
        rows = table(page("rosters.md"), "Entries", "key", "type", "in")
        written = {plain(row["key"]): (row["type"], row["in"]) for row in rows}
        kinds: dict[str, list[str]] = {}
        types = {item.name: item.type for item in COMMON_FIELDS}
        for kind, (_, own) in STATEMENT_FIELDS.items():
            for item in own:
                types[item.name] = item.type
                kinds.setdefault(item.name, []).append(f"`{kind}`")
        expected = {
            name: (kind, ", ".join(kinds.get(name, ["all"]))) for name, kind in types.items()
        }
        self.assertEqual(expected, written)
        self.assertEqual([*expected], [*written])

    def test_the_numbers_are_the_codes_own(self) -> None:
        expected = {
            "bytes of an entry, at most": SIGNATURE_BYTES + MAX_MAP_BYTES,
            "entries of a group, at most": MAX_ENTRIES,
            "removals that one epoch names, at most": MAX_WITHOUT,
        }
        self.assertEqual(expected, numbers(page("rosters.md"), "Numbers"))
        self.assertEqual(MAX_ROSTER_ENTRY_BYTES, SIGNATURE_BYTES + MAX_MAP_BYTES)
        self.assertIn(LABEL.decode(), page("rosters.md"))
