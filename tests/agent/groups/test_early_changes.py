"""What a watcher is told before it is told changes as they come."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from abst.agent.groups import early_changes
from abst.agent.groups.early_changes import EarlyChanges
from abst.device.groups.changes import What
from abst.device.groups.values import Value, ValueChange
from abst.device_id import DeviceID
from abst.errors import GroupError

WRITER = DeviceID.parse("6fa1b3c2-90de-8f11-a2b3-c4d5e6f70819")


def put(name: bytes, revision: int) -> ValueChange:
    return ValueChange(name, b"%d" % revision, revision, WRITER, What.PUT)


def value(name: bytes, revision: int) -> Value:
    return Value(name, b"%d" % revision, revision, WRITER, 0.0, None, 0.0)


class EarlyChangesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.early = EarlyChanges()

    def taken(self) -> list[ValueChange]:
        return list(iter(self.early.take, None))

    def test_what_was_there_comes_in_its_order_and_changes_after_it(self) -> None:
        for name in (b"b", b"a"):
            self.early.begin(value(name, 1))
        self.early.add(put(b"c", 2))
        self.early.add(put(b"b", 3))
        self.assertEqual([put(b"a", 1), put(b"c", 2), put(b"b", 3)], self.taken())
        self.assertEqual([], self.taken())

    def test_what_has_changed_already_is_not_told_as_it_was(self) -> None:
        gone = ValueChange(b"a", None, 5, WRITER, What.DELETED)
        self.early.add(gone)
        self.early.begin(value(b"a", 4))
        self.assertEqual([gone], self.taken())
        self.early.add(put(b"a", 6))
        self.early.begin(value(b"a", 7))
        self.assertEqual([put(b"a", 7)], self.taken())

    def test_too_much_is_told(self) -> None:
        self.patch(early_changes, "MAX_WAITING", 2)
        for revision, name in enumerate((b"a", b"b", b"b")):
            self.early.add(put(name, revision))
        self.assertEqual(put(b"a", 0), self.early.take())
        self.early.add(put(b"c", 4))
        self.early.add(put(b"d", 5))
        self.assertRaises(GroupError, self.early.take)
