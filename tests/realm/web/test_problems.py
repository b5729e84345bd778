"""What is not well, in words."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.realm.counters import Counters
from abst.realm.limits import Limits
from abst.realm.web.numbers import Numbers
from abst.realm.web.problems import Health, problems

DAY = 86400.0

NUMBERS = Numbers(
    limits=Limits(connections=100, all_queues_bytes=2_000_000, all_values_bytes=1000),
    counters=Counters(),
    mode="invited",
    listed=0,
    revoked=0,
    invitations=0,
    here=0,
    awaited=0,
    newcomers=0,
    legs=0,
    queue_bytes=0,
    circuits_waiting=0,
    circuits_joined=0,
    groups=0,
    members=0,
    stored_bytes=0,
    loaded_values=0,
)


class ProblemsTests(SynchronousTestCase):
    def test_a_realm_that_was_not_measured_yet_has_none(self) -> None:
        self.assertEqual({}, problems(NUMBERS, Health()))

    def test_each_thing_that_is_not_well_is_one(self) -> None:
        for code, health in (
            ("probe_fails", Health(probe_problem="no_answer")),
            ("probe_fails", Health(probe_problem="realm_full")),
            ("probe_slow", Health(probe_seconds=1.1)),
            ("not_kept", Health(is_kept=False, commit_seconds=9.0)),
            ("disk_slow", Health(commit_seconds=2.1)),
            ("reactor_slow", Health(lag_seconds=0.6)),
            ("files_near_limit", Health(open_files=90, most_files=100)),
            ("certificate", Health(certificate_seconds=13 * DAY)),
            ("certificate", Health(certificate_seconds=-1.0)),
        ):
            self.assertEqual([code], list(problems(NUMBERS, health)), health)
        for code, numbers in (
            ("connections_near_limit", replace(NUMBERS, here=50, awaited=30, newcomers=10)),
            ("queues_near_limit", replace(NUMBERS, queue_bytes=1_800_000)),
            ("values_near_limit", replace(NUMBERS, stored_bytes=900)),
        ):
            self.assertEqual([code], list(problems(numbers, Health())), code)

    def test_what_is_just_well_is_none(self) -> None:
        numbers = replace(NUMBERS, here=89, legs=1000, queue_bytes=1_799_999, stored_bytes=899)
        health = Health(
            probe_seconds=1.0,
            commit_seconds=2.0,
            lag_seconds=0.5,
            open_files=89,
            most_files=100,
            certificate_seconds=15 * DAY,
        )
        self.assertEqual({}, problems(numbers, health))

    def test_the_words_say_why_and_what_to_do(self) -> None:
        (text,) = problems(NUMBERS, Health(probe_problem="no_connection")).values()
        self.assertIn("its port takes no connection", text)
        (text,) = problems(NUMBERS, Health(probe_problem="realm_full")).values()
        self.assertIn("it refuses them: realm_full", text)
        (text,) = problems(replace(NUMBERS, here=95), Health()).values()
        self.assertIn("95 of 100", text)
        (text,) = problems(NUMBERS, Health(certificate_seconds=3 * DAY)).values()
        self.assertIn("in 3 days", text)
        (text,) = problems(NUMBERS, Health(certificate_seconds=-3 * DAY)).values()
        self.assertIn("has run out", text)

    @given(st.integers(0, 10**6), st.integers(1, 10**6))
    def test_a_realm_without_room_for_values_is_not_near_its_limit(
        self, here: int, most: int
    ) -> None:
        limits = replace(NUMBERS.limits, all_values_bytes=0, connections=most)
        found = problems(replace(NUMBERS, limits=limits, here=here), Health())
        self.assertEqual(["connections_near_limit"] if here >= 0.9 * most else [], list(found))
