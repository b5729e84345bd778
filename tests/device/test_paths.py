"""Paths: how well a channel does, and which of several carries a session."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.address import RealmAddress
from abst.device.paths import (
    LEAST_PATIENCE_SECONDS,
    MAX_REST_SECONDS,
    MISSES,
    PROOFS,
    REST_SECONDS,
    SPARE_PATIENCE_SECONDS,
    Health,
    Path,
    Reason,
    choose,
)

NOW: Final = 10_000.0
DIRECT: Final = True
REALM: Final = False


def fall_silent(health: Health, now: float) -> float:
    """Let answers stay away until a path is suspect; return when it is."""
    health.asked(now)
    while not health.is_suspect:
        now = health.next_deadline()
        assert health.overdue(now)
    return now


def relapse(health: Health, now: float) -> float:
    """Let a path be suspect and come back; return when it has come back."""
    now = fall_silent(health, now) + 0.1
    health.heard(now)
    return now


def measure(health: Health, rtt_seconds: float, now: float, count: int = PROOFS) -> float:
    """Let pings be answered; return when the last one was."""
    for number in range(count):
        health.pinged(number, now)
        now += rtt_seconds
        health.heard(now)
        health.answered(number, now)
    return now


class HealthTests(TestCase):
    """What is measured on one channel."""

    def setUp(self) -> None:
        self.health = Health(0.0)

    def test_who_has_asked_for_nothing_waits_for_nothing(self) -> None:
        self.assertEqual(math.inf, self.health.next_deadline())
        self.assertFalse(self.health.overdue(1e9))
        self.assertFalse(self.health.is_suspect)

    def test_an_answer_may_take_a_second_before_anything_is_known(self) -> None:
        self.health.asked(5.0)
        due = 5.0 + LEAST_PATIENCE_SECONDS + SPARE_PATIENCE_SECONDS
        self.assertEqual(due, self.health.next_deadline())
        self.assertFalse(self.health.overdue(due - 0.001))
        self.assertTrue(self.health.overdue(due))

    def test_patience_is_counted_from_the_first_thing_that_was_sent(self) -> None:
        self.health.asked(5.0)
        due = self.health.next_deadline()
        self.health.asked(5.4)
        self.health.pinged(1, 5.5)
        self.assertEqual(due, self.health.next_deadline())

    def test_a_slow_path_gets_three_round_trips(self) -> None:
        now = measure(self.health, 2.0, 0.0)
        self.assertEqual(6.0, self.health.patience_seconds)
        self.health.asked(now)
        self.assertEqual(now + 6.0 + SPARE_PATIENCE_SECONDS, self.health.next_deadline())

    def test_a_fast_path_gets_the_least_patience(self) -> None:
        measure(self.health, 0.001, 0.0)
        self.assertEqual(LEAST_PATIENCE_SECONDS, self.health.patience_seconds)

    def test_three_missing_answers_in_a_row_make_a_path_suspect(self) -> None:
        self.health.asked(0.0)
        for count in range(1, MISSES + 1):
            self.assertFalse(self.health.is_suspect)
            self.assertTrue(self.health.overdue(self.health.next_deadline()), count)
        self.assertTrue(self.health.is_suspect)

    def test_each_missing_answer_is_counted_once(self) -> None:
        self.health.asked(0.0)
        now = self.health.next_deadline()
        self.assertTrue(self.health.overdue(now))
        self.assertFalse(self.health.overdue(now))
        self.assertGreater(self.health.next_deadline(), now)

    def test_anything_that_comes_ends_the_waiting(self) -> None:
        self.health.asked(0.0)
        for _ in range(MISSES - 1):
            self.health.overdue(self.health.next_deadline())
        self.health.heard(2.5)
        self.assertEqual(2.5, self.health.heard_at)
        self.assertEqual(math.inf, self.health.next_deadline())
        self.health.asked(3.0)
        for _ in range(MISSES - 1):
            self.health.overdue(self.health.next_deadline())
        self.assertFalse(self.health.is_suspect, "those from before count no more")

    def test_in_doubt_one_missing_answer_is_enough_and_is_missed_sooner(self) -> None:
        self.health.asked(0.0)
        self.health.doubt()
        self.assertFalse(self.health.is_suspect, "nothing is missing yet")
        self.assertEqual(LEAST_PATIENCE_SECONDS, self.health.next_deadline())
        self.assertTrue(self.health.overdue(LEAST_PATIENCE_SECONDS))
        self.assertTrue(self.health.is_suspect)

    def test_doubt_makes_a_path_suspect_where_an_answer_is_missing_already(self) -> None:
        self.health.asked(0.0)
        self.health.overdue(self.health.next_deadline())
        self.assertFalse(self.health.is_suspect)
        self.health.doubt()
        self.assertTrue(self.health.is_suspect)

    def test_doubt_ends_with_what_comes(self) -> None:
        self.health.doubt()
        self.health.heard(1.0)
        self.health.asked(1.0)
        self.health.overdue(self.health.next_deadline())
        self.assertFalse(self.health.is_suspect)

    def test_a_path_that_was_suspect_has_to_prove_itself_again(self) -> None:
        now = fall_silent(self.health, measure(self.health, 0.1, 0.0))
        self.assertEqual(PROOFS, self.health.proofs)
        self.health.heard(now)
        self.assertFalse(self.health.is_suspect)
        self.assertEqual(0, self.health.proofs)
        self.assertEqual(now + REST_SECONDS, self.health.rests_until)

    def test_a_path_that_was_never_suspect_never_rests(self) -> None:
        measure(self.health, 0.1, 0.0)
        self.assertLessEqual(self.health.rests_until, 0.0)
        self.assertEqual(PROOFS, self.health.proofs)

    def test_each_relapse_doubles_the_rest_up_to_a_bound(self) -> None:
        now, rests = 0.0, []
        for _ in range(12):
            now = relapse(self.health, now)
            rests.append(round(self.health.rests_until - now, 6))
        self.assertEqual([10.0, 20.0, 40.0, 80.0, 160.0], rests[:5])
        self.assertEqual({MAX_REST_SECONDS}, set(rests[5:]))

    def test_many_relapses_overflow_nothing(self) -> None:
        now = 0.0
        for _ in range(3000):
            now = relapse(self.health, now)
        self.assertAlmostEqual(MAX_REST_SECONDS, self.health.rests_until - now)

    def test_the_first_round_trip_counts_whole_and_later_ones_a_quarter(self) -> None:
        self.assertIsNone(self.health.rtt_seconds)
        self.health.pinged(1, 0.0)
        self.health.answered(1, 0.4)
        self.assertEqual(0.4, self.health.rtt_seconds)
        self.health.pinged(2, 1.0)
        self.health.answered(2, 1.8)
        self.assertAlmostEqual(0.5, self.health.rtt_seconds)

    def test_only_the_answer_to_a_ping_counts_and_only_once(self) -> None:
        self.health.pinged(1, 0.0)
        self.health.answered(2, 0.1)
        self.assertEqual((0, None), (self.health.proofs, self.health.rtt_seconds))
        self.health.answered(1, 0.1)
        self.health.answered(1, 9.0)
        self.assertEqual((1, 0.1), (self.health.proofs, self.health.rtt_seconds))

    def test_a_clock_that_goes_back_measures_nothing_negative(self) -> None:
        self.health.pinged(1, 5.0)
        self.health.answered(1, 4.0)
        self.assertEqual(0.0, self.health.rtt_seconds)

    def test_pings_that_nobody_answers_are_forgotten_the_oldest_first(self) -> None:
        for number in range(1000):
            self.health.pinged(number, float(number))
        answered = []
        for number in range(1000):
            before = self.health.proofs
            self.health.answered(number, 1000.0)
            if self.health.proofs > before:
                answered.append(number)
        self.assertEqual(list(range(992, 1000)), answered)

    steps = st.lists(
        st.tuples(
            st.floats(0, 20),
            st.sampled_from(["asked", "pinged", "heard", "answered", "doubt", "overdue"]),
        )
    )

    @given(steps=steps)
    def test_whatever_happens_no_deadline_stays_behind(
        self, steps: list[tuple[float, str]]
    ) -> None:
        health, now, number = Health(0.0), 0.0, 0
        for wait, what in steps:
            now += wait
            was_due = health.next_deadline()
            match what:
                case "asked":
                    health.asked(now)
                    self.assertLess(health.next_deadline(), math.inf)
                case "pinged":
                    number += 1
                    health.pinged(number, now)
                    self.assertLess(health.next_deadline(), math.inf)
                case "heard":
                    health.heard(now)
                    self.assertEqual(math.inf, health.next_deadline())
                    self.assertFalse(health.is_suspect)
                case "answered":
                    health.answered(number, now)
                case "doubt":
                    health.doubt()
                    self.assertLessEqual(health.next_deadline(), was_due)
                case "overdue":
                    self.assertEqual(was_due <= now, health.overdue(now))
                    # Whoever rings on it is not called again at once.
                    self.assertGreater(health.next_deadline(), now)
            self.assertLessEqual(health.rests_until, now + MAX_REST_SECONDS)


@dataclass(eq=False)
class Line:
    """A channel whose Key check is passed."""

    is_direct: bool
    health: Health = field(default_factory=lambda: Health(0.0))

    def __repr__(self) -> str:
        kind = "direct" if self.is_direct else "realm"
        health = self.health
        return (
            f"{kind} rtt={health.rtt_seconds} proofs={health.proofs} "
            f"suspect={health.is_suspect} rests={max(0.0, health.rests_until - NOW)}"
        )


def line(
    is_direct: bool,
    rtt_seconds: float | None = None,
    *,
    proofs: int = PROOFS,
    relapses: int = 0,
    relapsed_ago: float = 0.0,
    suspect: bool = False,
) -> Line:
    """Return a channel with a history; it is proved if a round trip is given.

    Args:
        is_direct: whether it goes through no realm.
        rtt_seconds: how long each round trip took; None for none.
        proofs: how many of them there were since it came back.
        relapses: how often it was suspect and came back.
        relapsed_ago: how long before ``NOW`` the last time was.
        suspect: whether it is suspect now.
    """
    made = Line(is_direct)
    health = made.health
    for _ in range(relapses - 1):
        relapse(health, 0.0)
    if relapses:
        fall_silent(health, 0.0)
        health.heard(NOW - relapsed_ago)
    if rtt_seconds is not None:
        measure(health, rtt_seconds, NOW, proofs)
    if suspect:
        fall_silent(health, NOW)
    return made


class ChoiceTests(TestCase):
    """The rules one by one."""

    def decide(self, legs: list[Line], active: Line | None) -> tuple[Line | None, Reason]:
        return choose(legs, active, None, decides=True, now=NOW)

    def follow(
        self, legs: list[Line], active: Line | None, asked_for: Line | None
    ) -> tuple[Line | None, Reason]:
        return choose(legs, active, asked_for, decides=False, now=NOW)

    def test_nothing_is_chosen_from_nothing(self) -> None:
        self.assertIsNone(self.decide([], None)[0])
        self.assertIsNone(self.follow([], None, None)[0])

    def test_the_first_one_is_used_at_once_proved_or_not(self) -> None:
        for kind in (DIRECT, REALM):
            only = line(kind)
            self.assertEqual((only, Reason.FIRST), self.decide([only], None))
            self.assertEqual((only, Reason.FIRST), self.follow([only], None, None))

    def test_a_beginning_prefers_direct_then_what_is_newer(self) -> None:
        old, newer, realm = line(DIRECT), line(DIRECT), line(REALM)
        self.assertIs(newer, self.decide([old, newer, realm], None)[0])
        self.assertIs(newer, self.decide([realm, newer], None)[0])

    def test_a_beginning_takes_what_answers(self) -> None:
        realm = line(REALM)
        self.assertIs(realm, self.decide([realm, line(DIRECT, suspect=True)], None)[0])

    def test_a_beginning_takes_a_silent_one_rather_than_none(self) -> None:
        silent = line(REALM, suspect=True)
        self.assertIs(silent, self.decide([silent], None)[0])

    def test_what_has_just_come_back_is_taken_only_where_nothing_else_is(self) -> None:
        realm, resting = line(REALM), line(DIRECT, 0.01, relapses=1)
        silent = line(REALM, suspect=True)
        self.assertIs(realm, self.decide([realm, resting], None)[0])
        self.assertIs(realm, self.decide([realm, resting, silent], silent)[0])
        self.assertIs(resting, self.decide([resting, silent], silent)[0])

    def test_the_decider_leaves_a_realm_for_a_proved_direct_path_however_slow(self) -> None:
        realm, direct = line(REALM, 0.001), line(DIRECT, 5.0)
        self.assertEqual((direct, Reason.DIRECT), self.decide([realm, direct], realm))

    def test_the_decider_waits_for_three_proofs(self) -> None:
        for kind in (DIRECT, REALM):
            slow = line(REALM, 1.0)
            for proofs in range(PROOFS):
                unproved = line(kind, 0.01, proofs=proofs)
                self.assertIs(slow, self.decide([slow, unproved], slow)[0])
            proved = line(kind, 0.01)
            self.assertIs(proved, self.decide([slow, proved], slow)[0])

    def test_the_decider_never_leaves_direct_for_a_realm_because_of_speed(self) -> None:
        direct, realm = line(DIRECT, 5.0), line(REALM, 0.001)
        self.assertIs(direct, self.decide([direct, realm], direct)[0])

    def test_a_path_of_the_same_kind_has_to_be_much_faster(self) -> None:
        for kind in (DIRECT, REALM):
            for mine, other, moves in (
                (0.100, 0.049, True),
                (0.100, 0.051, False),  # not less than half
                (0.100, 0.090, False),
                (0.018, 0.0079, True),
                (0.018, 0.0089, False),  # less than 10 ms
                (0.009, 0.0, False),
                (0.050, 0.100, False),
            ):
                active, leg = line(kind, mine), line(kind, other)
                found = (leg, Reason.FASTER) if moves else (active, Reason.FIRST)
                self.assertEqual(found, self.decide([active, leg], active), (kind, mine, other))
                self.assertEqual(found, self.decide([leg, active], active), (kind, mine, other))

    def test_nothing_is_compared_with_what_is_not_measured(self) -> None:
        for unmeasured in (line(REALM), line(REALM, 9.0, proofs=PROOFS - 1)):
            fast = line(REALM, 0.001)
            self.assertIs(unmeasured, self.decide([unmeasured, fast], unmeasured)[0])

    def test_the_decider_goes_to_the_best_of_several_at_once(self) -> None:
        """Each move sends everything in flight again, so there is one and not two."""
        slow, faster, fastest = line(REALM, 1.0), line(REALM, 0.4), line(REALM, 0.1)
        self.assertEqual((fastest, Reason.FASTER), self.decide([slow, faster, fastest], slow))
        self.assertEqual((fastest, Reason.FASTER), self.decide([slow, fastest, faster], slow))
        near, far = line(DIRECT, 0.001), line(DIRECT, 0.5)
        for legs in ([slow, far, near, fastest], [near, far, fastest, slow]):
            self.assertEqual((near, Reason.DIRECT), self.decide(legs, slow))

    def test_a_path_that_was_suspect_is_left_alone_while_it_rests(self) -> None:
        realm = line(REALM, 1.0)
        for kind in (DIRECT, REALM):
            for relapses, rest in ((1, 10.0), (2, 20.0), (9, 300.0)):
                resting = line(kind, 0.01, relapses=relapses, relapsed_ago=rest - 0.1)
                rested = line(kind, 0.01, relapses=relapses, relapsed_ago=rest)
                self.assertIs(realm, self.decide([realm, resting], realm)[0], (kind, rest))
                self.assertIs(rested, self.decide([realm, rested], realm)[0], (kind, rest))

    def test_a_silent_path_is_left_for_one_that_answers(self) -> None:
        for kind in (DIRECT, REALM):
            silent = line(kind, 0.001, suspect=True)
            for other in (line(DIRECT), line(REALM), line(REALM, 9.0)):
                found = (other, Reason.SILENT)
                self.assertEqual(found, self.decide([silent, other], silent))
                self.assertEqual(found, self.follow([silent, other], silent, silent))

    def test_a_silent_path_is_kept_when_no_other_answers(self) -> None:
        silent, other = line(REALM, suspect=True), line(DIRECT, 0.01, suspect=True)
        for legs in ([silent], [silent, other], [other, silent]):
            self.assertEqual((silent, Reason.ONLY), self.decide(legs, silent))
            self.assertEqual((silent, Reason.ONLY), self.follow(legs, silent, silent))

    def test_the_decider_goes_its_own_way(self) -> None:
        mine, asked_for = line(DIRECT, 0.1), line(REALM, 0.01)
        for active in (mine, None):
            found = choose([mine, asked_for], active, asked_for, decides=True, now=NOW)
            self.assertEqual((mine, Reason.FIRST), found)

    def test_the_other_one_follows(self) -> None:
        direct, realm = line(DIRECT, 0.001), line(REALM)
        for active in (direct, realm, None):
            found = self.follow([direct, realm], active, realm)
            self.assertEqual((realm, Reason.FOLLOWED), found)

    def test_the_other_one_follows_onto_what_rests(self) -> None:
        resting, realm = line(DIRECT, relapses=5), line(REALM, 0.1)
        self.assertIs(resting, self.follow([realm, resting], realm, resting)[0])

    def test_the_other_one_does_not_follow_into_silence(self) -> None:
        silent, realm = line(DIRECT, suspect=True), line(REALM)
        for active in (realm, None):
            self.assertIs(realm, self.follow([silent, realm], active, silent)[0])

    def test_the_other_one_waits_for_the_deciders_word(self) -> None:
        realm, direct = line(REALM, 1.0), line(DIRECT, 0.001)
        self.assertIs(realm, self.follow([realm, direct], realm, None)[0])


seconds = st.one_of(st.sampled_from([0.0, 0.01, 0.02, 0.05, 0.1]), st.floats(0, 3))
lines = st.builds(
    line,
    st.booleans(),
    st.one_of(st.none(), seconds),
    proofs=st.sampled_from([PROOFS, PROOFS, 1]),
    relapses=st.sampled_from([0, 0, 1, 3]),
    relapsed_ago=st.floats(0, 60),
    suspect=st.sampled_from([False, False, True]),
)


class AnyChoiceTests(TestCase):
    """What holds whatever the channels are."""

    legs = st.lists(lines, min_size=1, max_size=6)

    @given(legs=legs, decides=st.booleans(), data=st.data())
    def test_the_rules_hold(self, legs: list[Line], decides: bool, data: st.DataObject) -> None:
        maybe = st.one_of(st.none(), st.sampled_from(legs))
        active = data.draw(maybe, "active")
        asked_for = data.draw(maybe, "asked for")
        found, reason = choose(legs, active, asked_for, decides=decides, now=NOW)
        assert found is not None
        self.assertIn(found, legs)
        usable = [leg for leg in legs if not leg.health.is_suspect]
        if usable:
            self.assertIn(found, usable)
        elif active is not None:
            self.assertIs(active, found)
        if not decides and asked_for in usable:
            self.assertIs(asked_for, found)
        if decides and active is not None and active in usable:
            self.assertGreaterEqual(found.is_direct, active.is_direct)
            if found is not active:
                self.assertGreaterEqual(found.health.proofs, PROOFS)
                self.assertLessEqual(found.health.rests_until, NOW)
        if reason is Reason.FOLLOWED:
            self.assertFalse(decides)

    @given(legs=legs, decides=st.booleans(), data=st.data())
    def test_while_nothing_changes_nobody_moves_twice(
        self, legs: list[Line], decides: bool, data: st.DataObject
    ) -> None:
        maybe = st.one_of(st.none(), st.sampled_from(legs))
        before, asked_for = data.draw(maybe, "active"), data.draw(maybe, "asked for")
        active, _ = choose(legs, before, asked_for, decides=decides, now=NOW)
        again, _ = choose(legs, active, asked_for, decides=decides, now=NOW)
        self.assertIs(active, again)

    @given(legs=legs, data=st.data())
    def test_two_devices_that_see_the_same_meet(
        self, legs: list[Line], data: st.DataObject
    ) -> None:
        """The decider moves once, the other one after it, and then both stay."""
        maybe = st.one_of(st.none(), st.sampled_from(legs))
        first, second = data.draw(maybe, "the decider's"), data.draw(maybe, "the other's")
        seen = []
        for _ in range(2):
            first, _ = choose(legs, first, second, decides=True, now=NOW)
            second, _ = choose(legs, second, first, decides=False, now=NOW)
            seen.append((first, second))
        self.assertEqual(seen[0], seen[1])
        assert first is not None
        if not first.health.is_suspect:
            self.assertIs(first, second)


class PathTests(TestCase):
    def test_a_path_is_shown_with_where_it_leads(self) -> None:
        realm = Path("realm", RealmAddress("realm.example.org", 4000))
        self.assertEqual("realm realm.example.org:4000", str(realm))
        self.assertEqual("direct 192.0.2.7:4000", str(Path("direct", address="192.0.2.7:4000")))
        self.assertEqual("direct", str(Path("direct")))

    def test_how_fast_it_is_makes_no_other_path(self) -> None:
        one = Path("direct", address="192.0.2.7:1", rtt_seconds=0.1, reason="why")
        self.assertEqual(Path("direct", address="192.0.2.7:1"), one)
        self.assertNotEqual(Path("direct", address="192.0.2.7:2"), one)
