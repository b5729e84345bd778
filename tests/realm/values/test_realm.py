"""Values as a part of a realm: what wakes it, and what members are told."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from abst.packets import PutValue, ValueChanges, ValuePut, WatchValues
from abst.realm.limits import Limits
from abst.realm.realm import Realm
from abst.realm.store.memory import MemoryStore
from abst.realm.values.values import Values
from tests.realm.values.stage import GROUPS, NAMES, Device

GROUP = bytes(GROUPS[0])


class RealmTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.wall = 5_000_000.0
        self.realm = Realm(Limits(), bytes, lambda: 0.5, lambda: self.wall)
        self.values = Values(
            MemoryStore(), self.realm.limits, self.realm.counters, lambda: self.wall
        )
        self.realm.values = self.values

    def test_it_is_woken_for_whatever_comes_first(self) -> None:
        self.assertIsNone(self.realm.next_deadline())
        alice = Device()
        self.values.handle(alice, WatchValues(GROUP), 100.0)
        self.values.handle(alice, PutValue(GROUP, NAMES[0], b"x", seconds=30), 100.0)
        self.assertEqual(130.0, self.realm.next_deadline())
        self.realm.deadlines.add(120.0, lambda now: None)
        self.assertEqual(120.0, self.realm.next_deadline())
        alice.take()
        self.wall += 29.0
        self.realm.handle_deadline(129.0)
        self.assertEqual(([], 130.0), (alice.take(), self.realm.next_deadline()))
        self.wall += 1.0
        self.realm.handle_deadline(130.0)
        (news,) = alice.take()
        assert isinstance(news, ValueChanges)
        self.assertEqual([[2, NAMES[0], bytes(32), None]], news.changes)
        self.assertIsNone(self.realm.next_deadline())

    def test_a_time_that_was_replaced_by_a_later_one_is_looked_at_again(self) -> None:
        alice = Device()
        for seconds in (10, 30):
            self.values.handle(alice, PutValue(GROUP, NAMES[0], b"x", seconds=seconds), 100.0)
        self.wall += 10.0
        self.realm.handle_deadline(110.0)
        self.assertEqual(130.0, self.realm.next_deadline())

    def test_a_clock_that_is_set_back_puts_off_what_is_due(self) -> None:
        alice = Device()
        self.values.handle(alice, PutValue(GROUP, NAMES[0], b"x", seconds=30), 100.0)
        self.assertEqual([ValuePut(GROUP, 1)], alice.take())
        self.wall -= 1000.0
        self.realm.handle_deadline(130.0)
        self.assertEqual(130.0 + 1030.0, self.realm.next_deadline())
