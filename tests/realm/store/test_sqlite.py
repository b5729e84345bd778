"""The store's file and its thread: what is refused at the start, and what a full disk does."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import provider

from abst.database import Database
from abst.errors import Code, DatabaseError
from abst.packets import Error, GetValue, ListValues, PutValue, ValueChanges, ValueFound, ValuePut
from abst.realm.access import Access, Mode
from abst.realm.counters import Counters
from abst.realm.limits import Limits
from abst.realm.store.interface import (
    CHANGE_BYTES,
    AccessChange,
    DeviceRecord,
    GroupRecord,
    InvitationRecord,
    Volumes,
)
from abst.realm.store.sqlite import MAX_FAILED_GROUPS, MAX_GATHERED, SqliteStore, _Job
from abst.realm.store.tables import KIND, MIGRATIONS, Tables
from abst.realm.values.recent import MAX_SMALL_BYTES
from abst.realm.values.values import Values
from tests.realm.values.stage import GROUPS, NAMES, Device, Turns

GROUP = bytes(GROUPS[0])
RECORD = GroupRecord(GROUP, 0, b"k" * 32, b"m" * 16)


class StoreCase(SynchronousTestCase):
    """A store in a file of its own."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.path = folder / "groups.db"
        self.turns = Turns()

    def open(self) -> SqliteStore:
        store = SqliteStore(self.turns, self.path)
        self.addCleanup(self.close, store)
        return store

    def close(self, store: SqliteStore) -> None:
        closed: list[object] = []
        store.close().addCallback(closed.append)
        self.turns.run_until(lambda: closed)

    def settle(self, store: SqliteStore) -> bool:
        answered: list[bool] = []
        for _ in range(3):
            answered.clear()
            store.follow(GROUP, answered.append)
            self.turns.run_until(lambda: answered)
        return answered[0]

    def run_sql(self, store: SqliteStore, sql: str) -> Any:
        """Have the store's own connection do something."""
        rows: list[Any] = []
        store._ask(_Job(lambda tables, _: tables._database.read(sql), None, rows.append, None))
        self.turns.run_until(lambda: rows)
        return rows[0]


class FileTests(StoreCase):
    """What is kept, and what is left alone."""

    def test_groups_are_there_when_it_is_opened_again_in_their_newest_epoch(self) -> None:
        store = self.open()
        kept: list[bool] = []
        newer = RECORD._replace(epoch=1, key=b"n" * 32)
        other = RECORD._replace(group=bytes(GROUPS[1]))
        for record in (RECORD, other, newer):
            store.put_group(record, kept.append)
        self.assertEqual([], kept)
        self.close(store)  # Which does what has been asked for.
        self.assertEqual([True] * 3, kept)
        self.assertEqual({newer, other}, set(self.open().groups()))

    def test_groups_without_values_are_forgotten_and_days_are_kept(self) -> None:
        store = self.open()
        records = [RECORD._replace(group=bytes(group)) for group in GROUPS]
        done: list[object] = []
        for record in records:
            store.put_group(record, done.append)
        values = Values(store, Limits(), Counters(), lambda: 1000.0)
        values.handle(Device(), PutValue(GROUP, NAMES[0], b""), 0.0)
        self.settle(store)
        store.note_use(GROUP, 7)
        store.forget_groups([GROUP, bytes(GROUPS[1])], done.append)
        self.close(store)
        self.assertEqual([bytes(GROUPS[1])], done[-1])
        self.assertEqual(
            {RECORD._replace(used=7), records[2]},
            set(self.open().groups()),
        )

    def test_nothing_is_done_after_the_end(self) -> None:
        store = self.open()
        self.close(store)
        store.put_group(RECORD, lambda _: self.fail("answered"))
        self.assertEqual([], list(self.open().groups()))

    def test_only_its_owner_reads_it(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        self.open()
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))

    def assert_refused(self, words: str) -> None:
        before = self.path.read_bytes()
        problem = self.assertRaises(DatabaseError, SqliteStore, self.turns, self.path)
        self.assertIn(str(self.path), str(problem))
        self.assertIn(words, str(problem))
        self.assertEqual(before, self.path.read_bytes())

    def test_a_damaged_file_is_refused_and_left_alone(self) -> None:
        self.path.write_bytes(b"SQLite format 3\0" + os.urandom(8000))
        self.assert_refused("not a usable database")

    def test_a_file_of_something_else_is_refused_and_left_alone(self) -> None:
        connection = sqlite3.connect(self.path)
        connection.execute("CREATE TABLE something (else_ TEXT)")
        connection.commit()
        connection.close()
        self.assert_refused("a database of something else")

    def test_a_file_of_a_newer_version_is_refused_and_left_alone(self) -> None:
        connection = sqlite3.connect(self.path)
        connection.execute(f"PRAGMA application_id = {KIND}")
        connection.execute("PRAGMA user_version = 1000")
        connection.close()
        self.assert_refused("newer version")

    def test_who_asks_too_much_of_groups_is_told_so(self) -> None:
        store = self.open()
        kept: list[bool] = []
        store._gathered = [_Job(lambda *_: None, None, lambda _: None, None)] * MAX_GATHERED
        store.put_group(RECORD, kept.append)
        self.assertEqual([False], kept)
        store._gathered = []


ALLOWED = DeviceRecord(b"a" * 16, True, 1000, 11, "abcdef", "the cellar")
REVOKED = DeviceRecord(b"r" * 16, False, 2000)
LIMITED = InvitationRecord("abcdef", b"d" * 32, 3, 1000, 5000, "for the cellar")
ENDLESS = InvitationRecord("ghijkl", b"e" * 32, 0, 1000)


class AccessTests(StoreCase):
    """Who may be here, and what has been sent in a month."""

    def change(self, store: SqliteStore, *changes: AccessChange) -> list[bool]:
        kept: list[bool] = []
        for change in changes:
            store.change_access(change, kept.append)
        self.turns.run_until(lambda: len(kept) == len(changes))
        return kept

    def test_what_was_decided_is_there_when_it_is_opened_again(self) -> None:
        store = self.open()
        self.assertEqual(([], []), (list(store.devices()), list(store.invitations())))
        used = LIMITED._replace(uses_left=2)
        kept = self.change(
            store,
            AccessChange((ALLOWED._replace(is_allowed=False), REVOKED), (LIMITED, ENDLESS)),
            AccessChange((ALLOWED,), (used,)),
            AccessChange((), (), (ENDLESS.name, "nobody")),
        )
        self.assertEqual([True] * 3, kept)
        self.close(store)
        store = self.open()
        self.assertEqual([ALLOWED, REVOKED], sorted(store.devices()))
        self.assertEqual([used], list(store.invitations()))

    def test_a_change_is_done_whole_or_not_at_all(self) -> None:
        store = self.open()
        self.change(store, AccessChange((), (LIMITED, ENDLESS)))
        self.run_sql(store, "DROP TABLE device")
        changes = AccessChange((ALLOWED,), (LIMITED._replace(uses_left=2),), (ENDLESS.name,))
        others: list[Any] = []  # Which do not fail with it.
        store.forget_groups([GROUP], others.append)
        store.put_volumes(Volumes(7, 0, {}), others.append)
        self.assertEqual([False] * 2, self.change(store, changes, AccessChange((REVOKED,))))
        self.assertEqual([[GROUP], True], others)
        self.assertEqual([(2,)], self.run_sql(store, "SELECT count(*) FROM invitation"))
        self.assertEqual([(3,)], self.run_sql(store, "SELECT max(uses_left) FROM invitation"))

    def test_a_full_disk_keeps_nothing_of_it_and_groups_go_on(self) -> None:
        store = self.open()
        pages = self.run_sql(store, "PRAGMA page_count")[0][0]
        self.run_sql(store, f"PRAGMA max_page_count = {pages}")
        crowd = [ALLOWED._replace(device=b"%16d" % number) for number in range(500)]
        kept: list[bool] = []
        store.put_group(RECORD, kept.append)
        self.assertEqual([False], self.change(store, AccessChange(crowd, (LIMITED,))))
        self.assertEqual([True], kept)
        self.run_sql(store, "PRAGMA max_page_count = 1000000")
        self.assertEqual([(0,)], self.run_sql(store, "SELECT count(*) FROM invitation"))
        self.assertEqual([True], self.change(store, AccessChange(crowd, (LIMITED,))))

    def test_what_comes_while_too_much_waits_is_not_kept(self) -> None:
        store = self.open()
        kept: list[bool] = []
        store._gathered = [_Job(lambda *_: None, None, lambda _: None, None)] * MAX_GATHERED
        store.change_access(AccessChange((ALLOWED,)), kept.append)
        self.assertEqual([False], kept)
        store._gathered = []

    def test_a_process_that_is_killed_before_the_commit_has_decided_nothing(self) -> None:
        limited = LIMITED._replace(digest=hashlib.sha256(b"secret").digest())
        store = self.open()
        self.change(store, AccessChange((), (limited,)))
        self.close(store)
        store = self.open()
        # The thread is busy, so the change waits; what is on the disk is copied meanwhile.
        busy = threading.Event()
        store._ask(_Job(lambda *_: busy.wait(), None, lambda _: None, None))
        access = Access(Mode.INVITED, store, lambda: 1000.0, os.urandom)
        self.assertIsNone(access.admit(ALLOWED.device, "secret"))
        for end in ("", "-wal"):
            shutil.copy(f"{self.path}{end}", f"{self.path}.killed{end}")
        busy.set()
        self.settle(store)
        self.close(store)
        self.assertEqual([ALLOWED.device], [it.device for it in self.open().devices()])
        self.path = self.path.with_name(self.path.name + ".killed")
        store = self.open()
        self.assertEqual(([], [limited]), (list(store.devices()), list(store.invitations())))

    def test_volumes_of_one_month_are_added_to_and_of_another_put_in_their_place(self) -> None:
        store = self.open()
        self.assertEqual(Volumes(0, 0, {}), store.volumes())
        kept: list[bool] = []
        for month, in_all, by_device in (
            (7, 3, {b"a": 1, b"b": 2}),
            (7, 10, {b"b": 8, b"c": 1}),
        ):
            store.put_volumes(Volumes(month, in_all, by_device), kept.append)
        self.close(store)
        self.assertEqual([True] * 2, kept)
        store = self.open()
        self.assertEqual(Volumes(7, 10, {b"a": 1, b"b": 8, b"c": 1}), store.volumes())
        store.put_volumes(Volumes(8, 5, {b"c": 5}), kept.append)
        self.close(store)
        self.assertEqual(Volumes(8, 5, {b"c": 5}), self.open().volumes())

    def test_a_store_of_the_first_version_is_taken_over(self) -> None:
        old = Database(self.path, KIND, MIGRATIONS[:1])
        old.write("INSERT INTO peer_group VALUES (?, ?, ?, ?, ?)", RECORD)
        old.commit()
        old.close()
        store = self.open()
        self.assertEqual([RECORD], list(store.groups()))
        self.assertEqual([], list(store.devices()))
        self.assertEqual([True], self.change(store, AccessChange((ALLOWED,), (LIMITED,))))


class FullDiskTests(StoreCase):
    """A disk that takes nothing for a while."""

    def setUp(self) -> None:
        super().setUp()
        self.store = self.open()
        self.counters = Counters()
        limits = Limits(value_requests_per_second=10**6, waiting_value_requests=10**6)
        self.values = Values(self.store, limits, self.counters, lambda: 1000.0)
        self.alice, self.bob = Device(b"alice"), Device(b"bob")
        self.events: list[LogEvent] = []

        @provider(ILogObserver)
        def note(event: LogEvent) -> None:
            if "problem" in event:
                self.events.append(event)

        globalLogPublisher.addObserver(note)
        self.addCleanup(globalLogPublisher.removeObserver, note)

    def ask(self, device: Device, *requests: Any) -> list[Any]:
        for packet in requests:
            self.values.handle(device, packet, 0.0)
        self.settle(self.store)
        return device.take()

    def test_what_is_not_kept_has_not_happened_and_the_realm_goes_on(self) -> None:
        large = bytes(60_000)
        (answer,) = self.ask(self.alice, PutValue(GROUP, NAMES[0], b"first"))
        self.assertEqual(ValuePut(GROUP, 1), answer)
        pages = self.run_sql(self.store, "PRAGMA page_count")[0][0]
        self.run_sql(self.store, f"PRAGMA max_page_count = {pages + 20}")
        answers = self.ask(
            self.alice,
            PutValue(GROUP, NAMES[0], b"second"),
            *(PutValue(GROUP, name, large, request=5) for name in NAMES),
            GetValue(GROUP, NAMES[0]),
        )
        self.assertEqual({Code.NOT_KEPT}, {answer.code for answer in answers})
        self.assertEqual(10, self.counters.refused_packets[Code.NOT_KEPT])
        self.assertEqual((8, 5), (answers[1].about, answers[1].request))
        (event,) = self.events  # However often it happens.
        self.assertIn("full", event["problem"])
        # Nothing of that has happened, and what fits is kept.
        self.assertEqual(
            [ValueFound(GROUP, NAMES[0], 1, b"first"), ValuePut(GROUP, 2)],
            self.ask(
                self.alice,
                GetValue(GROUP, NAMES[0]),
                PutValue(GROUP, NAMES[0], b"x", if_revision=1),
            ),
        )
        self.run_sql(self.store, "PRAGMA max_page_count = 1000000")
        (answer,) = self.ask(self.bob, PutValue(GROUP, NAMES[1], large, if_revision=0))
        self.assertEqual(ValuePut(GROUP, 3), answer)
        self.close(self.store)
        self.store = self.open()
        self.values = Values(self.store, Limits(), Counters(), lambda: 1000.0)
        (page,) = self.ask(self.bob, ListValues(GROUP, 0))
        assert isinstance(page, ValueChanges)
        self.assertEqual([1, 2, 3], [change[0] for change in page.changes])

    def test_the_bytes_of_all_groups_are_counted_right_afterwards(self) -> None:
        pages = self.run_sql(self.store, "PRAGMA page_count")[0][0]
        self.run_sql(self.store, f"PRAGMA max_page_count = {pages}")
        for group in GROUPS:
            self.ask(self.alice, *(PutValue(bytes(group), name, bytes(60_000)) for name in NAMES))
        self.assertEqual(0, self.values._groups.stored_bytes)
        self.run_sql(self.store, "PRAGMA max_page_count = 1000000")
        self.ask(self.alice, PutValue(GROUP, NAMES[0], bytes(10)))
        self.ask(self.alice, PutValue(GROUP, NAMES[0], bytes(30)))
        self.assertEqual(2 * CHANGE_BYTES + 40, self.values._groups.stored_bytes)

    def test_what_was_asked_for_meanwhile_is_not_kept_either(self) -> None:
        self.ask(self.alice, PutValue(GROUP, NAMES[0], b"first"))
        pages = self.run_sql(self.store, "PRAGMA page_count")[0][0]
        self.run_sql(self.store, f"PRAGMA max_page_count = {pages + 1}")
        self.values.handle(self.alice, PutValue(GROUP, NAMES[1], bytes(60_000)), 0.0)
        self.turns.run_some(1)  # The thread has it now.
        answers = self.ask(self.alice, PutValue(GROUP, NAMES[0], b"second"))
        self.assertEqual([Code.NOT_KEPT] * 2, [answer.code for answer in answers])
        (answer,) = self.ask(self.alice, PutValue(GROUP, NAMES[0], b"third", if_revision=1))
        self.assertEqual(ValuePut(GROUP, 2), answer)

    def test_groups_that_were_not_kept_begin_anew(self) -> None:
        other, third = bytes(GROUPS[1]), bytes(GROUPS[2])
        self.ask(self.alice, PutValue(third, NAMES[0], b"4444"))
        pages = self.run_sql(self.store, "PRAGMA page_count")[0][0]
        self.run_sql(self.store, f"PRAGMA max_page_count = {pages}")
        for group in (GROUP, other, third):
            (answer,) = self.ask(self.alice, PutValue(group, NAMES[0], bytes(60_000)))
            self.assertEqual(Code.NOT_KEPT, answer.code)
        self.run_sql(self.store, "PRAGMA max_page_count = 1000000")
        self.ask(self.alice, PutValue(other, NAMES[1], b"22"))
        self.ask(self.alice, PutValue(GROUP, NAMES[2], b"333"))
        self.close(self.store)
        self.store = self.open()
        self.assertEqual(3 * CHANGE_BYTES + 9, sum(self.store.stored_bytes().values()))
        self.values = Values(self.store, Limits(), Counters(), lambda: 1000.0)
        for group, name, value in ((GROUP, NAMES[2], b"333"), (other, NAMES[1], b"22")):
            (page,) = self.ask(self.bob, ListValues(group, 0))
            assert isinstance(page, ValueChanges)
            self.assertEqual([(1, name, value)], [(row[0], row[1], row[3]) for row in page.changes])

    def test_what_cannot_be_read_is_said(self) -> None:
        large = bytes(MAX_SMALL_BYTES + 1)  # What is small need not be read.
        self.ask(self.alice, PutValue(GROUP, NAMES[0], large))
        self.run_sql(self.store, "ALTER TABLE change RENAME TO lost")
        (answer,) = self.ask(self.alice, GetValue(GROUP, NAMES[0], 3))
        assert isinstance(answer, Error)
        self.assertEqual((Code.NOT_KEPT, 9, 3), (answer.code, answer.about, answer.request))
        # Its index is loaded again, which fails too.
        (answer,) = self.ask(self.alice, PutValue(GROUP, NAMES[0], b"second"))
        self.assertEqual(Code.NOT_KEPT, answer.code)
        self.run_sql(self.store, "ALTER TABLE lost RENAME TO change")
        (answer,) = self.ask(self.alice, GetValue(GROUP, NAMES[0]))
        self.assertEqual(ValueFound(GROUP, NAMES[0], 1, large), answer)


class CommitTests(StoreCase):
    """What goes into one commit."""

    def test_what_comes_behind_a_change_in_one_commit_sees_it(self) -> None:
        store = self.open()
        values = Values(store, Limits(), Counters(), lambda: 1000.0)
        alice = Device()
        values.handle(alice, GetValue(GROUP, NAMES[0]), 0.0)
        self.settle(store)
        alice.take()
        for value in (b"first", b"second"):
            values.handle(alice, PutValue(GROUP, NAMES[0], value), 0.0)
            values.handle(alice, GetValue(GROUP, NAMES[0]), 0.0)
        values.handle(alice, ListValues(GROUP, 0), 0.0)
        self.settle(store)
        *answers, page = alice.take()
        self.assertEqual(
            [
                ValuePut(GROUP, 1),
                ValueFound(GROUP, NAMES[0], 1, b"first"),
                ValuePut(GROUP, 2),
                ValueFound(GROUP, NAMES[0], 2, b"second"),
            ],
            answers,
        )
        assert isinstance(page, ValueChanges)
        self.assertEqual([None, b"second"], [change[3] for change in page.changes])

    def test_what_is_forgotten_takes_no_room(self) -> None:
        store = self.open()
        limits = Limits(group_changes=16, value_requests_per_second=1000)
        values = Values(store, limits, Counters(), lambda: 1000.0)
        for number in range(60):
            values.handle(Device(), PutValue(GROUP, NAMES[bool(number)], b"x"), 0.0)
        self.settle(store)
        rows = self.run_sql(store, "SELECT count(*), min(position) & 0xffff FROM change")
        self.assertEqual([(1 + 18, 1)], rows)

    def test_what_comes_in_one_turn_is_committed_and_answered_at_once(self) -> None:
        store = self.open()
        told: list[int] = []
        kept: list[bool] = []
        store.told = lambda: told.append(len(kept))
        for number in range(5):
            store.put_group(RECORD._replace(epoch=number), kept.append)
        self.turns.run_until(lambda: told)
        self.assertEqual([5], told)

    def test_an_answer_that_is_not_taken_keeps_nobody_else_from_theirs(self) -> None:
        store = self.open()
        kept: list[bool] = []

        def fail(_: bool) -> None:
            raise ValueError("unforeseen")

        store.put_group(RECORD, fail)
        store.put_group(RECORD, kept.append)
        self.turns.run_until(lambda: kept)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_whatever_goes_wrong_in_the_thread_the_realm_goes_on(self) -> None:
        store = self.open()
        kept: list[bool] = []

        def fail(tables: Tables, _: None) -> None:
            raise ValueError("unforeseen")

        store.put_group(RECORD, kept.append)
        store._ask(_Job(fail, None, kept.append, False, GROUP))
        self.turns.run_until(lambda: len(kept) == 2)
        self.assertEqual([False, False], kept)
        store.put_group(RECORD, kept.append)
        self.turns.run_until(lambda: len(kept) == 3)
        self.assertTrue(kept[2])

    def test_what_goes_wrong_with_one_group_is_nothing_to_the_others(self) -> None:
        store = self.open()
        other = RECORD._replace(group=bytes(GROUPS[1]))
        kept: list[tuple[str, bool]] = []

        def fail(tables: Tables, _: None) -> None:
            raise ValueError

        def ask(record: GroupRecord, name: str) -> None:
            store.put_group(record, lambda is_kept: kept.append((name, is_kept)))

        ask(RECORD, "before")
        ask(other, "other")
        store._ask(
            _Job(fail, None, lambda result: kept.append(("bad", result)), False, RECORD.group)
        )
        ask(RECORD, "behind")
        ask(other, "other behind")
        self.turns.run_some(1)  # The thread has these now.
        ask(RECORD, "since")
        ask(other, "other since")
        self.turns.run_until(lambda: len(kept) == 7)
        expected = {"before": False, "bad": False, "behind": False, "since": False}
        expected |= dict.fromkeys(("other", "other behind", "other since"), True)
        self.assertEqual(expected, dict(kept))
        self.close(store)
        self.assertEqual([other], list(self.open().groups()))

    def test_when_many_groups_fail_the_others_are_not_tried(self) -> None:
        store = self.open()
        tried: list[int] = []
        answered: list[bool] = []

        def fail(tables: Tables, number: int) -> None:
            tried.append(number)
            raise ValueError

        count = MAX_FAILED_GROUPS + 5
        for number in range(count):
            store._ask(_Job(fail, number, answered.append, False, b"%d" % number))
        self.turns.run_until(lambda: len(answered) == count)
        self.assertEqual([False] * count, answered)
        # The first was tried together with the others, and then by itself.
        self.assertEqual([0, *range(MAX_FAILED_GROUPS)], tried)

    def test_a_page_that_cannot_be_read_is_the_trouble_of_one_group(self) -> None:
        store = self.open()
        values = Values(store, Limits(), Counters(), lambda: 1000.0)
        alice, bob = Device(b"alice"), Device(b"bob")
        other = bytes(GROUPS[1])
        values.handle(alice, PutValue(GROUP, NAMES[0], bytes(2000)), 0.0)
        values.handle(bob, PutValue(other, NAMES[0], b"x"), 0.0)
        self.settle(store)
        self.run_sql(store, "UPDATE change SET facts = x'00' WHERE sealed <> x'78'")
        for _ in range(2):
            alice.take()
            bob.take()
            values.handle(alice, GetValue(GROUP, NAMES[0]), 0.0)
            values.handle(bob, PutValue(other, NAMES[0], b"y"), 0.0)
            self.settle(store)
            (error,) = alice.take()
            assert isinstance(error, Error)
            self.assertEqual(Code.NOT_KEPT, error.code)
            self.assertIsInstance(bob.take()[0], ValuePut)
