"""Values from end to end: devices in memory, an honest realm and lying ones."""

from __future__ import annotations

import copy
from typing import Any

from abst.device.groups.changes import What
from abst.device.groups.group import Group
from abst.device.groups.values import ValueChange
from abst.errors import (
    AbstError,
    Code,
    DishonestRealmError,
    GroupError,
    RealmRefusedError,
    ValueConflictError,
)
from abst.realm.limits import Limits
from abst.realm.values.values import Values
from tests.device.groups.stage import GroupTestCase


class ValueTests(GroupTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.alice, self.bob = self.house("alice", "bob")
        self.ours, self.bobs = self.group(self.alice, self.bob)

    def get(self, group: Group, name: str) -> bytes | None:
        found = self.result(group.values.get(name))
        return None if found is None else bytes(found.value)

    def test_what_one_sets_another_gets(self) -> None:
        self.assertEqual(1, self.result(self.ours.values.set("light/kitchen", b"on")))
        found = self.result(self.bobs.values.get("light/kitchen"))
        self.assertEqual(
            (b"light/kitchen", b"on", 1, self.alice.device_id, 0.0),
            (found.name, found.value, found.revision, found.writer, found.age_seconds),
        )
        self.assertIsNone(self.result(self.bobs.values.get("light/hall")))

    def test_the_realm_sees_neither_names_nor_values(self) -> None:
        self.result(self.ours.values.set("a name in plain", b"a value in plain"))
        self.result(self.bobs.values.get("a name in plain"))
        for secret in (b"a name in plain", b"a value in plain", b"family", b"alice"):
            self.assertNotIn(secret, self.network.realm.relayed)

    def test_any_bytes_up_to_the_largest(self) -> None:
        for value in (b"", bytes(range(256)), bytes(65536)):
            self.result(self.ours.values.set(bytes(1024), value))
            found = self.result(self.bobs.values.get(bytes(1024)))
            self.assertEqual(value, found.value)
        self.assertRaises(GroupError, self.result, self.ours.values.set("x", bytes(65537)))
        self.assertRaises(GroupError, self.result, self.ours.values.set(bytes(1025), b""))
        self.assertRaises(GroupError, self.result, self.ours.values.set("", b""))

    def test_compare_and_set(self) -> None:
        self.assertEqual(1, self.result(self.ours.values.set("x", b"1", if_revision=0)))
        self.assertEqual(2, self.result(self.bobs.values.set("x", b"2", if_revision=1)))
        error = self.assertRaises(
            ValueConflictError, self.result, self.ours.values.set("x", b"3", if_revision=1)
        )
        self.assertEqual((b"2", 2), (error.value, error.revision))
        error = self.assertRaises(
            ValueConflictError, self.result, self.ours.values.delete("x", if_revision=1)
        )
        self.assertEqual((b"2", 2), (error.value, error.revision))
        error = self.assertRaises(
            ValueConflictError, self.result, self.ours.values.set("y", b"3", if_revision=7)
        )
        self.assertEqual((None, 0), (error.value, error.revision))

    def test_deleting(self) -> None:
        self.result(self.ours.values.set("x", b"1"))
        self.assertEqual(2, self.result(self.bobs.values.delete("x")))
        self.assertIsNone(self.get(self.ours, "x"))
        self.assertEqual(0, self.result(self.ours.values.delete("x")))
        self.assertEqual([], self.result(self.ours.values.items()))
        self.assertEqual(3, self.result(self.ours.values.set("x", b"2", if_revision=0)))

    def test_a_value_for_a_time(self) -> None:
        told: list[ValueChange] = []
        self.bobs.values.watch("", told.append)
        self.result(self.ours.values.set("x", b"1", seconds=30))
        self.network.advance(20)
        self.assertEqual(b"1", self.get(self.bobs, "x"))
        self.network.advance(20)
        self.assertIsNone(self.get(self.bobs, "x"))
        self.assertEqual([What.PUT, What.ENDED], [change.what for change in told])
        self.assertEqual((b"x", None, None), (told[1].name, told[1].value, told[1].writer))

    def test_items_are_those_with_the_prefix(self) -> None:
        for name in ("light/b", "light/a", "lamp", "door"):
            self.result(self.ours.values.set(name, name.encode()))
        found = self.result(self.bobs.values.items("light/"))
        self.assertEqual([b"light/a", b"light/b"], [value.name for value in found])
        self.assertEqual(4, len(self.result(self.ours.values.items())))

    def test_watchers_are_told_once_in_order(self) -> None:
        told: list[ValueChange] = []
        watch = self.bobs.values.watch("light/", told.append)
        for value in (b"1", b"2"):
            self.result(self.ours.values.set("light/a", value))
            self.result(self.ours.values.set("door", value))
        self.result(self.bobs.values.delete("light/a"))
        self.assertEqual([b"1", b"2", None], [change.value for change in told])
        self.assertEqual([1, 3, 5], [change.revision for change in told])
        watch.stop()
        self.result(self.ours.values.set("light/a", b"3"))
        self.assertEqual(3, len(told))

    def test_a_watcher_that_was_away_is_told_what_came_last(self) -> None:
        told: list[ValueChange] = []
        self.bobs.values.watch("", told.append)
        (link,) = self.bob.links_up()
        link.cut()  # type: ignore[attr-defined]
        for value in (b"1", b"2", b"3"):
            self.result(self.ours.values.set("x", value), 0.1)
        self.network.advance(5)
        self.assertEqual([b"3"], [change.value for change in told])

    def test_a_watcher_that_fails_disturbs_nobody(self) -> None:
        told: list[ValueChange] = []

        def fail(change: ValueChange) -> None:
            raise RuntimeError("a defect of the application")

        self.bobs.values.watch("", fail)
        self.bobs.values.watch("", told.append)
        self.result(self.ours.values.set("x", b"1"))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual(1, len(told))

    def test_the_cache_answers_while_the_realm_is_away(self) -> None:
        self.result(self.ours.values.set("x", b"1"))
        self.network.advance(1)
        self.network.realm.stop()
        self.network.advance(100)
        found = self.result(self.bobs.values.get("x"))
        self.assertEqual(b"1", found.value)
        self.assertTrue(99 <= found.age_seconds <= 103, found.age_seconds)
        (item,) = self.result(self.bobs.values.items())
        self.assertGreater(item.age_seconds, 99)
        self.assertRaises(GroupError, self.result, self.bobs.values.set("x", b"2"))
        self.network.realm.start()
        self.network.advance(70)
        self.assertEqual(0.0, self.result(self.bobs.values.get("x")).age_seconds)

    def test_a_value_whose_time_ends_while_the_realm_is_away(self) -> None:
        self.result(self.ours.values.set("x", b"1", seconds=50))
        self.network.realm.stop()
        self.network.advance(60)
        self.assertIsNone(self.result(self.bobs.values.get("x")))
        self.assertEqual([], self.result(self.bobs.values.items()))

    def test_an_answer_that_is_lost_leaves_it_open(self) -> None:
        waiting = self.ours.values.set("x", b"1")
        (link,) = self.alice.links_up()
        link.cut()  # type: ignore[attr-defined]
        self.assertRaises(GroupError, self.result, waiting)

    def test_many_at_once(self) -> None:
        waiting = [self.ours.values.set(f"n{number % 7}", b"x") for number in range(100)]
        self.network.settle()
        self.assertEqual(list(range(1, 101)), [self.network.result(one) for one in waiting])
        self.assertEqual(7, len(self.result(self.bobs.values.items())))

    def test_old_values_are_sealed_anew_after_a_removal(self) -> None:
        for number in range(5):
            self.result(self.ours.values.set(f"n{number}", b"x"))
        put_at = self.network.clock.seconds()
        self.result(self.bobs.values.set("mine", b"y", seconds=1000))
        self.result(self.bobs.rotate())
        self.network.advance(5)
        store: Any = self.network.realm.realm.store
        (kept,) = store._kept.values()
        last = {change.name: change for change in kept.changes.values()}
        self.assertEqual({1}, {int.from_bytes(one.sealed[:4], "big") for one in last.values()})
        found = self.result(self.ours.values.items())
        self.assertEqual(6, len(found))
        (ends_at,) = [one.ends_at for one in found if one.ends_at is not None]
        self.assertLessEqual(abs(put_at + 1000 - ends_at), 1)

    def test_what_is_checked_survives_a_restart(self) -> None:
        store = self.store()
        carol = self.device("carol", group_store=store)
        self.network.introduce(self.alice, carol)
        self.network.settle()
        self.result(self.alice.connect(carol.device_id))
        given = self.alice.groups.give(self.ours, carol.device_id)
        self.result(given)
        for number in range(10):
            self.result(self.ours.values.set(f"n{number % 3}", bytes([number])))
        self.result(self.ours.values.delete("n0"))
        self.network.advance(3)
        self.network.kill(carol)
        self.network.realm.stop()
        carol = self.device("carol", identity=carol.identity, group_store=store)
        self.network.advance(30)
        carols = self.of(carol, self.ours)
        found = self.result(carols.values.items())
        self.assertEqual(
            [(b"n1", bytes([7])), (b"n2", bytes([8]))], [(v.name, v.value) for v in found]
        )
        self.assertGreater(found[0].age_seconds, 29)
        self.assertEqual(11, carols.values.checked()[0])


class QuotaTests(GroupTestCase):
    def test_limits_are_told_in_advance_and_kept(self) -> None:
        self.network.realm.stop()
        realm = self.network.add_realm(Limits(group_values=2, value_bytes=100))
        alice = self.device("alice")
        self.network.advance(1)
        group = alice.groups.create("family", realm=realm.address)
        self.network.advance(1)
        self.assertEqual(
            (2, 100), (group.values.limits["values"], group.values.limits["value_bytes"])
        )
        self.assertRaises(GroupError, self.result, group.values.set("x", bytes(101)))
        for name in ("a", "b"):
            self.result(group.values.set(name, b"x"))
        error = self.assertRaises(RealmRefusedError, self.result, group.values.set("c", b"x"))
        self.assertEqual(Code.VALUES_FULL, error.code)
        self.result(group.values.set("a", b"y"))


class LyingRealmTests(GroupTestCase):
    """What a realm can do to the values, and what the devices make of it."""

    def setUp(self) -> None:
        super().setUp()
        self.alice, self.bob = self.house("alice", "bob")
        self.ours, self.bobs = self.group(self.alice, self.bob)
        for value in (b"1", b"2"):
            self.result(self.ours.values.set("x", value))

    def past(self) -> Any:
        """Return the realm's disk as it is now."""
        return copy.deepcopy(self.network.realm.realm.store)

    def go_back(self, past: Any) -> None:
        """Put an older disk in place."""
        self.network.realm.stop()
        self.serve(past)
        self.network.realm.start()
        self.network.advance(70)

    def serve(self, past: Any) -> None:
        """Answer from another disk from now on."""
        realm = self.network.realm.realm
        realm.values = Values(past, realm.limits, realm.counters, self.network.clock.seconds)

    def kept(self) -> Any:
        """Return the changes that the realm keeps, by revision, and reads again when asked."""
        store: Any = self.network.realm.realm.store
        self.serve(store)
        (kept,) = store._kept.values()
        return kept.changes

    def assert_seen(self, group: Group, kind: str) -> DishonestRealmError:
        """Check that a lie was noticed, and that nothing is taken from the realm any more."""
        problem = group.values.problem
        assert problem is not None
        self.assertEqual(kind, problem.kind)
        self.assertIs(problem, self.diary(group).problems[-1])
        self.assertRaises(DishonestRealmError, self.result, group.values.set("x", b"9"))
        return problem

    def test_an_older_state_given_as_new(self) -> None:
        past = self.past()
        self.result(self.ours.values.set("x", b"3"))
        self.go_back(past)
        self.assert_seen(self.ours, "rolled_back")
        self.assert_seen(self.bobs, "rolled_back")
        found = self.result(self.bobs.values.get("x"))
        self.assertEqual(b"3", found.value)
        self.assertGreater(found.age_seconds, 1)

    def test_an_older_state_over_a_restart_of_the_device(self) -> None:
        store = self.store()
        carol = self.device("carol", group_store=store)
        self.network.introduce(self.alice, carol)
        self.network.settle()
        self.result(self.alice.connect(carol.device_id))
        self.result(self.alice.groups.give(self.ours, carol.device_id))
        past = self.past()
        self.result(self.ours.values.set("x", b"3"))
        self.network.advance(2)
        self.network.kill(carol)
        self.go_back(past)
        carol = self.device("carol", identity=carol.identity, group_store=store)
        self.network.advance(2)
        self.assert_seen(self.of(carol, self.ours), "rolled_back")

    def test_two_histories_for_two_members(self) -> None:
        """The next word between the two shows it."""
        past = self.past()
        (link,) = self.bob.links_up()
        link.cut()  # type: ignore[attr-defined]
        self.result(self.ours.values.set("x", b"for alice"))
        self.serve(past)
        self.network.advance(5)
        self.result(self.bobs.values.set("x", b"for bob"))
        self.assertEqual([3, 3], [self.ours.values.checked()[0], self.bobs.values.checked()[0]])
        self.bobs.send(b"hello")
        self.network.settle()
        self.assertEqual([b"hello"], self.diary(self.ours).messages)
        self.assert_seen(self.ours, "forked")

    def test_a_value_that_no_member_wrote(self) -> None:
        changes = self.kept()
        last = changes[2]
        changes[2] = last._replace(sealed=last.sealed[:-1] + bytes([last.sealed[-1] ^ 1]))
        error = self.assertRaises(DishonestRealmError, self.result, self.bobs.values.get("x"))
        self.assertIn(error.kind, ("forged", "broken_history"))
        self.assertNotIn("x", str(error).split())

    def test_a_value_under_another_name(self) -> None:
        self.result(self.ours.values.set("y", b"of y"))
        changes = self.kept()
        changes[3] = changes[3]._replace(sealed=changes[2].sealed, digest=changes[2].digest)
        self.assertRaises(DishonestRealmError, self.result, self.bobs.values.get("y"))

    def test_a_person_may_believe_it_again(self) -> None:
        past = self.past()
        self.result(self.ours.values.set("x", b"3"))
        self.go_back(past)
        self.assert_seen(self.bobs, "rolled_back")
        self.bobs.values.start_again()
        self.network.advance(2)
        self.assertIsNone(self.bobs.values.problem)
        self.assertEqual(b"2", self.result(self.bobs.values.get("x")).value)

    def test_messages_go_on(self) -> None:
        past = self.past()
        self.result(self.ours.values.set("x", b"3"))
        self.go_back(past)
        self.ours.send(b"do not believe it")
        self.network.settle()
        self.assertEqual([b"do not believe it"], self.diary(self.bobs).messages)

    def test_no_error_has_a_name_or_content(self) -> None:
        past = self.past()
        self.result(self.ours.values.set("secret name", b"secret value"))
        self.go_back(past)
        problems: list[AbstError] = [
            *self.diary(self.ours).problems,
            *self.diary(self.bobs).problems,
        ]
        self.assertTrue(problems)
        for problem in problems:
            self.assertNotIn("secret", str(problem))
