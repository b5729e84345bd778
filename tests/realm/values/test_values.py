"""What a realm refuses, whom it cuts off, and what it forgets."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from abst import codec, packets
from abst.device_id import DeviceID
from abst.errors import Code
from abst.packets import (
    MAX_CHANGES,
    DeleteValue,
    Error,
    GetValue,
    ListValues,
    Packet,
    PutValue,
    ValueChanges,
    ValueDeleted,
    ValueFound,
    ValuePut,
    WatchingValues,
    WatchValues,
)
from abst.realm.counters import Counters
from abst.realm.limits import Limits
from abst.realm.store.interface import CHANGE_BYTES, Change, GroupRecord, History
from abst.realm.store.memory import MemoryStore
from abst.realm.values import answers
from abst.realm.values.admission import Admission
from abst.realm.values.groups import GROUP_NAMES, MAX_DUE_GROUPS, MAX_LOADS, Groups
from abst.realm.values.recent import RECENT_BYTES, Recent
from abst.realm.values.values import MAX_GATHERED, Values
from tests.realm.values.stage import GROUPS, NAMES, Device

GROUP = bytes(GROUPS[0])
OTHER = bytes(GROUPS[1])


class HeldStore(MemoryStore):
    """A store whose disk is slow: nothing is answered before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Any] = []

    def add(self, addition: Any, done: Any) -> None:
        self.held.append(lambda: MemoryStore.add(self, addition, done))

    def follow(self, group: bytes, done: Any) -> None:
        self.held.append(lambda: MemoryStore.follow(self, group, done))

    def read(self, group: bytes, first: int, last: int, done: Any) -> None:
        self.held.append(lambda: MemoryStore.read(self, group, first, last, done))

    def release(self) -> None:
        while self.held:
            self.held.pop(0)()


class ValuesCase(SynchronousTestCase):
    """One realm, and what is asked of it."""

    def make(self, store: MemoryStore | None = None, **limits: Any) -> Values:
        self.wall = 1000.0
        self.counters = Counters()
        self.store = store or MemoryStore()
        limits = {"value_requests_per_second": 10**6, **limits}
        self.values = Values(self.store, Limits(**limits), self.counters, lambda: self.wall)
        self.alice, self.bob = Device(b"alice"), Device(b"bob")
        return self.values

    def ask(self, packet: Any, device: Device | None = None, now: float = 0.0) -> None:
        self.values.handle(device or self.alice, packet, now)

    def put(self, name: int = 0, size: int = 10, group: bytes = GROUP, **fields: Any) -> None:
        self.ask(PutValue(group, NAMES[name], bytes(size), **fields))

    def assert_refused(self, code: Code, about: int, **fields: Any) -> None:
        (error,) = self.alice.take() or self.alice.overtaking
        self.alice.overtaking.clear()
        assert isinstance(error, Error), error
        self.assertEqual((code, about, GROUP), (error.code, error.about, error.peer_group))
        for name, value in fields.items():
            self.assertEqual(value, getattr(error, name))


class RefusalTests(ValuesCase):
    """Who may do what, and how much."""

    def test_the_limits_that_are_told_are_those_of_the_specification(self) -> None:
        told = self.make(group_values=7).limits_told()
        names = "value_bytes values bytes changes requests_per_second waiting_requests"
        self.assertEqual(set(names.split()), set(told))
        self.assertEqual((7, 65536), (told["values"], told["value_bytes"]))

    def test_who_has_not_joined_gets_nothing(self) -> None:
        self.make()
        self.put()
        self.alice.take()
        self.alice.joined.clear()
        requests: list[Any] = [
            PutValue(GROUP, NAMES[0], b"x", request=1),
            GetValue(GROUP, NAMES[0], 1),
            DeleteValue(GROUP, NAMES[0], b"x", request=1),
            ListValues(GROUP, 0, 1),
            WatchValues(GROUP, request=1),
        ]
        for packet in requests:
            self.ask(packet)
            self.assert_refused(Code.NOT_JOINED, packet.packet_id, request=1)
        self.assertEqual(5, self.counters.refused_packets[Code.NOT_JOINED])
        self.alice.joined.add(GROUP)
        self.ask(ListValues(GROUP, 0))
        (page,) = self.alice.take()
        assert isinstance(page, ValueChanges)
        self.assertEqual(1, page.revision)

    def test_the_largest_value_and_one_byte_more(self) -> None:
        self.make(value_bytes=100)
        self.put(size=100 + 2048)
        self.assertEqual([ValuePut(GROUP, 1)], self.alice.take())
        self.put(size=100 + 2048 + 1)
        self.assert_refused(Code.VALUES_FULL, 8)

    def test_a_group_has_so_many_values_and_no_more(self) -> None:
        self.make(group_values=2)
        for name in (0, 1, 0):
            self.put(name)
        self.alice.take()
        self.put(2)
        self.assert_refused(Code.VALUES_FULL, 8)
        self.ask(DeleteValue(GROUP, NAMES[0], b"gone"))
        self.put(2)
        self.assertEqual([ValueDeleted(GROUP, 4), ValuePut(GROUP, 5)], self.alice.take())

    def test_all_groups_together_have_so_many_bytes(self) -> None:
        most = 8000
        self.make(all_values_bytes=most)
        self.put(size=5000)
        self.put(size=most - 5000 - 2 * CHANGE_BYTES, group=OTHER)
        self.alice.take()
        self.put(1, size=0)
        self.assert_refused(Code.VALUES_FULL, 8)
        # Of a large value that is replaced nothing is left but that there was one.
        self.ask(DeleteValue(GROUP, NAMES[0], b""))
        self.assertEqual([ValueDeleted(GROUP, 2)], self.alice.take())
        # A realm that is started again knows how much there is.
        self.values = Values(
            self.store, Limits(all_values_bytes=most), Counters(), lambda: self.wall
        )
        free = 5000 - CHANGE_BYTES
        self.put(1, size=free - CHANGE_BYTES + 1)
        self.assert_refused(Code.VALUES_FULL, 8)
        self.put(1, size=free - CHANGE_BYTES)
        self.assertEqual([ValuePut(GROUP, 3)], self.alice.take())

    def test_the_groups_of_one_device_together_have_so_many_bytes(self) -> None:
        most = 8000
        self.make(device_values_bytes=most)
        third, bob = bytes(GROUPS[2]), Device(b"bob").device_id
        assert bob is not None
        self.alice.makers[third] = bob  # The others she has made herself.
        self.put(size=5000)
        self.put(size=most - 5000 - 2 * CHANGE_BYTES, group=OTHER)
        self.alice.take()
        for group in (GROUP, OTHER):
            self.put(1, size=0, group=group)
            (error,) = self.alice.take()
            assert isinstance(error, Error)
            self.assertEqual((Code.VALUES_FULL, 60), (error.code, error.retry_after))
        self.put(1, size=most - CHANGE_BYTES, group=third)
        self.assertEqual([ValuePut(third, 1)], self.alice.take())
        self.ask(DeleteValue(GROUP, NAMES[0], b""))
        self.assertEqual([ValueDeleted(GROUP, 2)], self.alice.take())
        # A realm that is started again knows who has made which group, and how much there is.
        maker = self.alice.device_id
        assert maker is not None
        for group, made_by in ((GROUP, maker), (OTHER, maker), (third, bob)):
            self.store.put_group(GroupRecord(group, 0, bytes(32), made_by), lambda is_kept: None)
        limits = Limits(device_values_bytes=most)
        self.values = Values(self.store, limits, Counters(), lambda: self.wall)
        free = 5000 - CHANGE_BYTES
        self.put(1, size=free - CHANGE_BYTES + 1)
        self.assert_refused(Code.VALUES_FULL, 8)
        self.put(1, size=free - CHANGE_BYTES)
        self.assertEqual([ValuePut(GROUP, 3)], self.alice.take())

    def test_what_is_over_a_lowered_limit_can_be_deleted(self) -> None:
        self.make()
        for name in (0, 1):
            self.put(name, size=2000)
        self.put(2, size=10)
        self.alice.take()
        self.values.use_limits(Limits(device_values_bytes=1000))
        self.put(3, size=0)
        self.assert_refused(Code.VALUES_FULL, 8)
        for name in (0, 1):
            self.ask(DeleteValue(GROUP, NAMES[name], bytes(100)))
        self.assertEqual([ValueDeleted(GROUP, 4), ValueDeleted(GROUP, 5)], self.alice.take())
        self.ask(DeleteValue(GROUP, NAMES[2], bytes(100)))
        self.assert_refused(Code.VALUES_FULL, 10)  # It would take more than it frees.

    def test_deletions_have_some_room_of_their_own_and_no_more(self) -> None:
        self.make(all_values_bytes=8000)
        while not isinstance((answer := self.put_next()), Error):
            pass
        self.assertEqual(Code.VALUES_FULL, answer.code)
        deletions = 0
        for number in range(1, self.wanted):
            self.ask(DeleteValue(GROUP, number.to_bytes(32, "big"), bytes(100)))
            deletions += isinstance(self.alice.take()[0], ValueDeleted)
        kept = 8000 // (CHANGE_BYTES + 100)
        self.assertEqual(9000 // (CHANGE_BYTES + 100) - kept, deletions)

    wanted = 0

    def put_next(self) -> Packet:
        self.wanted += 1
        self.ask(PutValue(GROUP, self.wanted.to_bytes(32, "big"), bytes(100)))
        (answer,) = self.alice.take()
        return answer

    def test_what_is_counted_is_what_is_kept(self) -> None:
        rnd = Random(7)
        self.make(group_changes=16)
        for step in range(600):
            name = NAMES[rnd.randrange(len(NAMES))]
            if rnd.random() < 0.2:
                self.ask(DeleteValue(GROUP, name, bytes(rnd.choice((10, 1500)))))
            else:
                seconds = rnd.choice((None, None, 3))
                size = rnd.choice((0, 1024, 1025, 3000))
                self.ask(PutValue(GROUP, name, bytes(size), seconds=seconds))
            self.wall += rnd.choice((0, 0, 1))
            changes = self.store._kept[GROUP].changes.values()
            kept = sum(CHANGE_BYTES + len(change.sealed or b"") for change in changes)
            self.assertEqual(
                (kept, kept),
                (self.values._groups.stored_bytes, sum(self.store.stored_bytes().values())),
            )
            if not step % 50:
                self.values = Values(
                    self.store,
                    Limits(group_changes=16, value_requests_per_second=1000),
                    Counters(),
                    lambda: self.wall,
                )
        self.assertLess(len(self.store._kept[GROUP].changes), 50)

    def test_what_is_full_can_still_be_made_less(self) -> None:
        self.make(group_bytes=100, value_bytes=100)
        self.put(size=100)
        self.put(1, size=0)
        self.alice.take()
        self.values = Values(self.store, Limits(group_bytes=50), Counters(), lambda: self.wall)
        self.put(size=100)
        self.put(size=90)
        self.ask(DeleteValue(GROUP, NAMES[0], bytes(2048)))
        self.assertEqual(
            [ValuePut(GROUP, 3), ValuePut(GROUP, 4), ValueDeleted(GROUP, 5)], self.alice.take()
        )

    def test_the_word_that_something_is_deleted_is_short(self) -> None:
        self.make()
        self.put()
        self.alice.take()
        self.ask(DeleteValue(GROUP, NAMES[0], bytes(2049)))
        self.assert_refused(Code.VALUES_FULL, 10)

    def test_a_device_may_ask_so_often(self) -> None:
        self.make(value_requests_per_second=3)
        for _ in range(3):
            self.ask(GetValue(GROUP, NAMES[0]))
        self.assertEqual(3, len(self.alice.take()))
        self.ask(GetValue(GROUP, NAMES[0], 7), now=0.1)
        (error,) = self.alice.overtaking
        assert isinstance(error, Error)
        self.assertEqual((Code.RATE_LIMITED, 7), (error.code, error.request))
        assert error.retry_after is not None
        self.assertAlmostEqual(0.7 / 3, error.retry_after)
        self.ask(GetValue(GROUP, NAMES[0]), now=0.1 + error.retry_after + 0.01)
        self.assertEqual(1, len(self.alice.take()))

    def test_what_is_read_for_a_device_counts_among_its_requests(self) -> None:
        self.make(value_requests_per_second=100)
        for number in range(640):
            self.ask(PutValue(GROUP, number.to_bytes(32, "big"), b""), now=number)
        for since, cost in ((0, 9), (640 - 128, 3), (640, 1)):
            now = 1000.0 + 2 * since
            for _ in range(100 // cost):
                self.ask(ListValues(GROUP, since), now=now)
            self.assertEqual([], self.alice.overtaking)
            for _ in range(2):
                self.ask(ListValues(GROUP, since), now=now)
            self.assertIsInstance(self.alice.overtaking.pop(), Error)
            self.alice.overtaking.clear()
        # To load the index of a group costs who has asked first.
        self.make(self.store, value_requests_per_second=100)
        self.ask(GetValue(GROUP, NAMES[0]))
        for _ in range(100 - 1 - 10):
            self.ask(GetValue(GROUP, NAMES[0]))
        self.assertEqual([], self.alice.overtaking)
        self.ask(GetValue(GROUP, NAMES[0]))
        self.assertIsInstance(self.alice.overtaking.pop(), Error)

    def test_to_load_many_changes_of_few_names_counts_too(self) -> None:
        self.make()
        for number in range(640):
            self.ask(PutValue(GROUP, NAMES[0], b""), now=float(number))
        self.make(self.store, value_requests_per_second=100)
        self.ask(GetValue(GROUP, NAMES[0]))
        # They take room in memory, though there is but one name.
        self.assertEqual(1 + GROUP_NAMES + 10, self.values._groups._groups[GROUP].counted_names)
        for _ in range(100 - 1 - 10 + 1):
            self.assertEqual([], self.alice.overtaking)
            self.ask(GetValue(GROUP, NAMES[0]))
        self.assertIsInstance(self.alice.overtaking.pop(), Error)

    def test_a_device_may_wait_for_so_much(self) -> None:
        store = HeldStore()
        self.make(store, waiting_value_requests=2)
        self.put(0)
        self.put(1)
        self.put(2)
        self.assert_refused(Code.RATE_LIMITED, 8, retry_after=1.0)
        self.ask(PutValue(GROUP, NAMES[3], b"x"), self.bob)
        store.release()
        self.assertEqual([ValuePut(GROUP, 3)], self.bob.take())
        self.assertEqual(2, len(self.alice.take()))
        self.put(2)
        store.release()
        self.assertEqual([ValuePut(GROUP, 4)], self.alice.take())

    def test_all_devices_together_may_wait_for_so_much(self) -> None:
        waiting = Admission(Limits(), max_waiting_bytes=3000)
        first = PutValue(GROUP, NAMES[0], bytes(2000))
        second = PutValue(GROUP, NAMES[0], bytes(600))
        self.assertEqual(0.0, waiting.enter(b"alice", first, 0.0))
        self.assertEqual(1.0, waiting.enter(b"bob", second, 0.0))
        waiting.leave(b"alice", first)
        self.assertEqual(0.0, waiting.enter(b"bob", second, 0.0))
        waiting.leave(b"bob", second)
        self.assertEqual(0, waiting.waiting_bytes)


class QueueTests(ValuesCase):
    """Devices that do not read."""

    def test_a_watcher_that_does_not_read_is_cut_off_and_the_others_are_told(self) -> None:
        self.make()
        self.ask(WatchValues(GROUP))
        self.ask(WatchValues(GROUP), self.bob)
        self.alice.take()
        self.alice.room = 10
        self.ask(PutValue(GROUP, NAMES[0], b"x"), self.bob)
        self.assertEqual(Code.STALLED, self.alice.closed_for)
        kinds = [type(packet) for packet in self.bob.take()]
        self.assertEqual([WatchingValues, ValueChanges, ValuePut], kinds)

    def test_who_puts_and_does_not_read_is_cut_off(self) -> None:
        self.make()
        self.alice.room = 10
        self.put()
        self.assertEqual(Code.STALLED, self.alice.closed_for)

    def test_an_answer_that_does_not_fit_is_refused(self) -> None:
        self.make()
        self.put()
        self.alice.take()
        requests: list[Any] = [
            GetValue(GROUP, NAMES[0], 5),
            GetValue(GROUP, NAMES[1], 5),
            ListValues(GROUP, 0, 5),
        ]
        for packet in requests:
            self.alice.room = 10
            self.ask(packet)
            self.assert_refused(Code.QUEUE_FULL, packet.packet_id, request=5)
        self.assertIsNone(self.alice.closed_for)

    def test_who_leaves_before_a_watch_is_answered_is_told_nothing(self) -> None:
        store = HeldStore()
        self.make(store)
        self.put()
        self.ask(WatchValues(GROUP), self.bob)
        self.bob.joined.clear()
        self.values.leave(self.bob, GROUP)
        store.release()
        self.put()
        store.release()
        self.assertEqual([WatchingValues], [type(packet) for packet in self.bob.take()])


class OrderTests(ValuesCase):
    """What is said when."""

    def test_what_is_known_of_a_change_is_said_after_the_change(self) -> None:
        store = HeldStore()
        self.make(store)
        self.ask(WatchValues(GROUP), self.bob)
        self.bob.take()
        self.put()
        self.ask(PutValue(GROUP, NAMES[0], b"", if_revision=0), self.bob)
        self.ask(DeleteValue(GROUP, NAMES[1], b""), self.bob)
        self.ask(WatchValues(GROUP), self.bob)
        self.assertEqual(([], []), (self.bob.take(), self.alice.take()))
        store.release()
        kinds = [type(packet) for packet in self.bob.take()]
        self.assertEqual([ValueChanges, Error, ValueDeleted, WatchingValues], kinds)

    def test_many_times_that_are_over_at_once_are_told_in_packets_that_fit(self) -> None:
        self.make()
        count = MAX_CHANGES + 10
        for number in range(count):
            self.ask(PutValue(GROUP, number.to_bytes(32, "big"), b"x", seconds=5))
        self.ask(WatchValues(GROUP), self.bob)
        self.bob.take()
        self.wall += 5
        due = self.values.next_deadline()
        self.assertEqual(5.0, due)
        self.values.handle_deadline(5.0)
        self.assertEqual(1, len(self.bob.received))  # Others have their turn in between.
        due = self.values.next_deadline()
        assert due is not None
        self.assertAlmostEqual(5.1, due)
        self.wall += 0.1
        self.values.handle_deadline(5.1)
        pages = self.bob.take()
        sizes = []
        for page in pages:
            assert isinstance(page, ValueChanges)
            sizes.append((len(page.changes), page.revision))
        self.assertEqual([(MAX_CHANGES, count + MAX_CHANGES), (10, 2 * count)], sizes)
        self.assertIsNone(self.values.next_deadline())

    def test_times_of_many_groups_are_over_in_turns(self) -> None:
        self.make()
        groups = [bytes(DeviceID.of_key(b"%d" % number)) for number in range(2 * MAX_DUE_GROUPS)]
        self.alice.joined.update(groups)
        for group in groups:
            self.put(group=group, seconds=5)
        self.wall += 5
        newest = []
        while self.values.next_deadline() is not None:
            self.values.handle_deadline(5.0)
            newest.append(sum(self.values._groups.use(group).told_revision for group in groups))
        self.assertEqual([3 * MAX_DUE_GROUPS, 4 * MAX_DUE_GROUPS], newest)

    def test_a_time_beyond_all_times_is_kept(self) -> None:
        self.make()
        self.put(seconds=2**63 - 1)
        self.wall += 10.0**9
        self.values.handle_deadline(10.0**9)
        self.alice.take()
        self.ask(GetValue(GROUP, NAMES[0]))
        self.assertEqual([ValueFound(GROUP, NAMES[0], 1, bytes(10))], self.alice.take())


class ForgettingTests(ValuesCase):
    """Which changes a realm keeps."""

    CHANGES = 16  # So floors rise by three at once.

    def setUp(self) -> None:
        self.make(group_changes=self.CHANGES)

    def open_again(self) -> None:
        limits = Limits(group_changes=self.CHANGES)
        self.values = Values(self.store, limits, Counters(), lambda: self.wall)

    def listed(self, since: int = 0) -> ValueChanges:
        self.alice.take()
        self.ask(ListValues(GROUP, since))
        (page,) = self.alice.take()
        assert isinstance(page, ValueChanges)
        return page

    def kept(self) -> set[int]:
        return set(self.store._kept[GROUP].changes)

    def replace_what_is_under_the_floor(self) -> ValueChanges:
        self.put(2)
        self.put(0)
        while not (page := self.listed()).floor:
            self.put(1)
        self.put(0)
        return page

    def test_what_is_replaced_under_the_floor_is_told_no_more_and_forgotten(self) -> None:
        for open_again in (lambda: None, self.open_again):
            self.make(group_changes=self.CHANGES)
            before = self.replace_what_is_under_the_floor()
            self.assertEqual((3, [1, 2, 4]), (before.floor, self.revisions(before)[:3]))
            open_again()
            page = self.listed()
            self.assertEqual((3, [1, 4, 5]), (page.floor, self.revisions(page)[:3]))
            self.assertIn(2, self.kept())
            for _ in range(2 * self.CHANGES):
                self.put(1)
            page = self.listed()
            assert page.floor is not None
            # The values of these names are under the floor again, and the only changes there.
            self.assertEqual({1, 20}, {item for item in self.kept() if item <= page.floor})
            self.assertEqual([1, 20], self.revisions(page)[:2])

    def revisions(self, page: ValueChanges) -> list[int]:
        return [change[0] for change in page.changes]

    def test_a_deletion_is_forgotten_with_the_others(self) -> None:
        self.put(0)
        self.ask(DeleteValue(GROUP, NAMES[0], b"gone"))
        for _ in range(2 * self.CHANGES):
            self.put(1)
        self.alice.take()
        self.ask(GetValue(GROUP, NAMES[0]))
        self.assertEqual([ValueFound(GROUP, NAMES[0], 0)], self.alice.take())
        self.assertLess(2, min(self.kept()))

    def test_a_large_value_goes_when_it_is_replaced_and_a_small_one_with_its_change(self) -> None:
        self.put(0, size=1024)
        self.put(0, size=1025)
        self.put(0, size=0)
        sizes = [len(change.sealed or b"") for change in self.store._kept[GROUP].changes.values()]
        self.assertEqual([1024, 0, 0], sizes)
        self.assertEqual([None, None, b""], [change[3] for change in self.listed().changes])

    def test_a_page_has_so_many_changes(self) -> None:
        self.make()
        for number in range(MAX_CHANGES + 1):
            self.ask(PutValue(GROUP, number.to_bytes(32, "big"), b""))
        page = self.listed()
        self.assertEqual((MAX_CHANGES, True), (len(page.changes), page.more))
        page = self.listed(since=1)
        self.assertEqual((MAX_CHANGES, None), (len(page.changes), page.more))


class MemoryTests(SynchronousTestCase):
    """How much is in memory."""

    def test_groups_make_room_for_each_other_and_their_times_go_on(self) -> None:
        store = MemoryStore()
        self.groups = Groups(store, lambda _: None, max_names=20)
        first, second = (self.groups.use(bytes(group)) for group in GROUPS[:2])
        self.groups.load(first)
        assert first.index is not None
        first.index.put(NAMES[0], b"x", 500)
        self.groups.account(first)
        self.groups.load(second)
        self.assertEqual((None, 1), (first.index, len(self.groups)))
        self.assertEqual(500, self.groups.next_due)
        self.assertEqual([], self.groups.take_due(499))
        (due,) = self.groups.take_due(500)
        self.assertEqual(first.group_id, due.group_id)

    def test_a_group_with_which_something_goes_on_stays(self) -> None:
        groups = Groups(MemoryStore(), lambda _: None, max_names=20)
        first, second = (groups.use(bytes(group)) for group in GROUPS[:2])
        first.pending = 1
        groups.load(first)
        groups.load(second)
        self.assertEqual((True, None), (first.index is not None, second.index))

    def test_few_indexes_are_on_their_way_at_once_and_all_come(self) -> None:
        asked: list[bytes] = []
        answers: list[Any] = []

        class Slow(MemoryStore):
            def load(self, group: bytes, done: Any) -> None:
                asked.append(group)
                answers.append(done)

        loaded: list[bytes] = []
        groups = Groups(Slow(), lambda group: loaded.append(group.group_id))
        wanted = [b"group %d" % number for number in range(3 * MAX_LOADS)]
        for group_id in wanted:
            group = groups.use(group_id)
            group.pending = 1
            groups.load(group)
            groups.load(group)
        self.assertEqual(wanted[:MAX_LOADS], asked)
        answers.pop(0)(None)  # One that fails makes room too.
        self.assertEqual(wanted[: MAX_LOADS + 1], asked)
        while answers:
            answers.pop(0)(History(bytes(32), 0, ()))
        self.assertEqual((wanted, wanted), (asked, loaded))


class AnswerTests(SynchronousTestCase):
    """The bytes are those of the packets."""

    def test_answers_are_what_the_codec_makes_of_the_packets(self) -> None:
        name, digest, head = NAMES[0], bytes(32), b"h" * 32
        change = Change(7, name, digest, head, b"sealed")
        gone = Change(8, name, digest, head, None)
        row = [7, name, digest, b"sealed"]
        for request in (None, 0, 200, 2**63 - 1):
            pairs: list[tuple[bytes, Packet]] = [
                (answers.changed(8, GROUP, 70000, request), ValuePut(GROUP, 70000, request)),
                (answers.changed(10, GROUP, 0, request), ValueDeleted(GROUP, 0, request)),
                (
                    answers.found(GROUP, name, 3, b"", request),
                    ValueFound(GROUP, name, 3, b"", request),
                ),
                (
                    answers.found(GROUP, name, 0, None, request),
                    ValueFound(GROUP, name, 0, None, request),
                ),
                (
                    answers.watching(GROUP, 9, head, request),
                    WatchingValues(GROUP, 9, head, request),
                ),
                (
                    answers.changes(
                        GROUP, 8, head, [change, gone], request, floor=1, floor_head=head, more=True
                    ),
                    ValueChanges(
                        GROUP, 8, head, [row, [8, name, digest, None]], 1, head, True, request
                    ),
                ),
                (
                    answers.changes(GROUP, 8, head, [], request),
                    ValueChanges(GROUP, 8, head, [], request=request),
                ),
            ]
            for found, packet in pairs:
                self.assertEqual(codec.encode(packet), found)

    def test_the_largest_value_fits_its_packets(self) -> None:
        change = Change(
            2**63 - 1, NAMES[0], bytes(32), bytes(32), bytes(packets.MAX_SEALED_VALUE_BYTES)
        )
        page = answers.changes(
            GROUP,
            2**63 - 1,
            bytes(32),
            [change],
            2**63 - 1,
            floor=2**63 - 1,
            floor_head=bytes(32),
            more=True,
        )
        self.assertLessEqual(len(page), packets.MAX_VALUE_PACKET_BYTES)


class TogetherTests(ValuesCase):
    """Requests that have come together."""

    def test_changes_that_come_together_are_told_together(self) -> None:
        """A watcher gets one packet of them, if they fit one, before anybody is answered."""
        self.make()
        self.ask(WatchValues(GROUP))
        self.alice.take()
        sizes = (10, 20, 60_000, 30_000, 30_000, 10)
        puts = [PutValue(GROUP, NAMES[0], bytes(size), request=size) for size in sizes]
        self.values.handle_all(self.alice, puts, 0.0)
        *news, a, b, c, d, e, f = self.alice.take()
        self.assertEqual([ValuePut(GROUP, n + 1, sizes[n]) for n in range(6)], [a, b, c, d, e, f])
        told = []
        for packet in news:
            assert isinstance(packet, ValueChanges)
            told.append([(change[0], len(change[3])) for change in packet.changes])
            self.assertEqual(packet.revision, packet.changes[-1][0])
        self.assertEqual(
            [[(1, 10), (2, 20), (3, 60_000)], [(4, 30_000), (5, 30_000), (6, 10)]], told
        )

    def test_changes_that_come_together_are_kept_together(self) -> None:
        """Those of one group are one addition; what is asked in between sees those before it."""
        store = HeldStore()
        self.make(store)
        self.values.handle(self.alice, PutValue(GROUP, NAMES[7], b"x"), 0.0)
        self.values.handle(self.alice, PutValue(OTHER, NAMES[7], b"x"), 0.0)
        store.release()
        self.alice.take()
        first, second = (
            [PutValue(group, name, b"y") for name in NAMES] for group in (GROUP, OTHER)
        )
        self.values.handle_all(self.alice, [*first, *second, GetValue(OTHER, NAMES[0])], 0.0)
        self.assertEqual(3, len(store.held))
        self.assertEqual([], self.alice.take())
        store.release()
        self.assertEqual(
            [
                *(ValuePut(GROUP, revision) for revision in range(2, 10)),
                *(ValuePut(OTHER, revision) for revision in range(2, 10)),
                ValueFound(OTHER, NAMES[0], 2, b"y"),
            ],
            self.alice.take(),
        )

    def test_one_addition_is_bounded(self) -> None:
        store = HeldStore()
        self.make(store)
        self.put()
        store.release()
        puts = [PutValue(GROUP, NAMES[0], b"x")] * (MAX_GATHERED + 1)
        self.values.handle_all(self.alice, puts, 0.0)
        self.assertEqual(2, len(store.held))

    def test_what_is_not_kept_is_refused_to_all_who_asked(self) -> None:
        class Full(MemoryStore):
            def add(self, addition: Any, done: Any) -> None:
                done(False)

        self.make(Full())
        puts = [PutValue(GROUP, name, b"x", request=number) for number, name in enumerate(NAMES)]
        self.values.handle_all(self.alice, puts, 0.0)
        refused: list[Any] = list(self.alice.take())
        self.assertEqual([str(Code.NOT_KEPT)] * 8, [error.code for error in refused])
        self.assertEqual(list(range(8)), [error.request for error in refused])


class ReadStore(MemoryStore):
    """A store that counts how often it is read."""

    reads = 0

    def read(self, group: bytes, first: int, last: int, done: Any) -> None:
        self.reads += 1
        super().read(group, first, last, done)


class RecentTests(ValuesCase):
    """What is in memory is not asked of the disk."""

    def found(self, name: int = 0) -> bytes | None:
        self.ask(GetValue(GROUP, NAMES[name]))
        (answer,) = self.alice.take()
        assert isinstance(answer, ValueFound)
        return answer.value

    def test_a_small_value_is_not_read_and_a_large_one_is(self) -> None:
        store = ReadStore()
        self.make(store)
        for size, reads in ((1024, 0), (1025, 1), (10, 1)):
            self.put(size=size)
            self.alice.take()
            self.assertEqual((bytes(size), reads), (self.found(), store.reads))

    def test_what_was_read_is_not_read_again(self) -> None:
        self.make(ReadStore())
        self.put(size=5)
        store = self.store
        self.make(store)
        for _ in range(2):
            self.assertEqual(bytes(5), self.found())
        self.assertEqual(1, store.reads)  # type: ignore[attr-defined]

    def test_a_value_whose_time_is_over_is_not_found(self) -> None:
        self.make()
        self.put(seconds=5)
        self.alice.take()
        self.assertEqual(bytes(10), self.found())
        self.wall += 6
        self.assertIsNone(self.found())

    def test_they_are_bounded_and_the_latest_stay(self) -> None:
        each = RECENT_BYTES + 100
        recent = Recent(3 * each)
        for number in range(3):
            recent.keep(GROUP, NAMES[number], 1, bytes(100))
        recent.keep(GROUP, NAMES[2], 2, bytes(100))
        self.assertEqual(bytes(100), recent.find(GROUP, NAMES[0], 1))
        recent.keep(GROUP, NAMES[3], 1, bytes(100))
        found = [recent.find(GROUP, name, 1) is not None for name in NAMES[:4]]
        # The second was not asked for, and of the third there is a newer change.
        self.assertEqual(([True, False, False, True], 3), (found, len(recent)))
        recent.keep(GROUP, NAMES[3], 2, bytes(2000))
        self.assertIsNone(recent.find(GROUP, NAMES[3], 1))
        self.assertEqual(2, len(recent))
