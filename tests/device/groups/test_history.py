"""Histories: an honest realm is believed, and every lie that can be seen is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.device.groups.changes import Accepted, Change, Snapshot, What
from abst.device.groups.history import MAX_AWAITED, History
from abst.device.groups.known import (
    MAX_NAMES,
    MAX_NAMES_WITHOUT_VALUE,
    MAX_PROMISES,
    MAX_STEPS,
    MAX_WRITERS,
)
from abst.errors import DishonestRealmError, GroupError, LocalProtocolError, MissingEpochError
from abst.packets import MAX_MEMBERS, ValueChanges, WatchingValues
from abst.value_history import NO_HASH
from tests.device.groups.doubles import group_keys, member
from tests.device.groups.small_realm import SmallRealm

BOB, CAROL = (bytes(member(number).device_id) for number in (2, 3))
OTHER = bytes([7]) * 32


def digest_of(sealed: bytes) -> bytes:
    """Return the hash by which a sealed value is known."""
    return hashlib.sha256(sealed).digest()


class HistoryCase(TestCase):
    """A device and a realm; ``history`` is what the device knows."""

    def setUp(self) -> None:
        self.realm = SmallRealm()
        self.history = History()

    def catch_up(self, history: History | None = None, size: int = 512) -> list[Accepted]:
        """Watch and list until nothing is missing."""
        history = history or self.history
        history.take_watching(self.realm.watching())
        found = []
        while history.is_behind:
            since = history.next_since
            page = self.realm.listed(since, size)
            found.append(history.take_listed(page, since, self.realm.open))
        return found

    def tell(self) -> list[Change]:
        """Tell what is newest."""
        packet = self.realm.told(self.history.revision + 1, self.realm.revision)
        return self.history.take_told(packet, self.realm.open).changes

    def told_put(self, name: bytes, value: bytes | None, who: int = 0, **more: Any) -> bytes:
        """Have a member put a value, and tell it."""
        sealed = self.realm.put(name, value, who, **more)
        self.tell()
        return sealed

    def assert_refused(self, kind: str, does: Callable[..., Any], *arguments: Any) -> str:
        """Check that something is refused, and that nothing has changed."""
        before = self.history.snapshot()
        error = self.assertRaises(DishonestRealmError, does, *arguments)
        self.assertEqual(kind, error.kind, error)
        self.assertEqual(before, self.history.snapshot())
        return str(error)

    def assert_told_refused(self, kind: str, packet: ValueChanges) -> None:
        self.assert_refused(kind, self.history.take_told, packet, self.realm.open)

    def assert_listed_refused(self, kind: str, packet: ValueChanges) -> None:
        since = self.history.next_since
        self.assert_refused(kind, self.history.take_listed, packet, since, self.realm.open)

    def assert_found_refused(self, kind: str, name: bytes, **wrong: Any) -> None:
        packet = replace(self.realm.found(name), **wrong)
        self.assert_refused(kind, self.history.take_found, packet, self.realm.open)

    def assert_is_right(self, history: History | None = None) -> None:
        """Check that a device knows what is so."""
        history = history or self.history
        self.assertEqual(
            (self.realm.revision, self.realm.heads[-1]), (history.revision, history.head)
        )
        self.assertFalse(history.is_behind)
        for name, (revision, has_value) in self.realm.last.items():
            last = history.last_change(name)
            if has_value or (last is not None and last.has_value):
                assert last is not None
                digest = self.realm.changes[revision - 1][2]
                self.assertEqual((revision, digest, has_value), last[:3])


class HonestTests(HistoryCase):
    def test_a_new_device_takes_all_that_there_is(self) -> None:
        self.realm.put(b"a", b"1")
        self.realm.put(b"b", b"2", who=1)
        self.realm.put(b"a", b"3", who=2)
        self.realm.put(b"b", None)
        (accepted,) = self.catch_up()
        self.assertIsNone(accepted.missed)
        self.assertEqual(
            [(What.PUT, 3, b"3"), (What.DELETED, 4, None)],
            [(it.what, it.revision, it.word.value) for it in accepted.changes if it.word],
        )
        self.assert_is_right()

    def test_an_empty_group(self) -> None:
        self.assertEqual([], self.catch_up())
        self.assertEqual((0, NO_HASH), (self.history.revision, self.history.head))
        self.assertEqual([], self.history.take_listed(self.realm.listed(0), 0, None).changes)  # type: ignore[arg-type]

    def test_a_value_whose_time_is_over(self) -> None:
        self.catch_up()
        self.told_put(b"a", b"1", seconds=60)
        self.realm.end(b"a")
        (ended,) = self.tell()
        self.assertEqual((What.ENDED, 2, None), (ended.what, ended.revision, ended.word))
        self.assertIsNone(self.history.take_found(self.realm.found(b"a"), self.realm.open))
        self.told_put(b"a", b"again")
        self.assert_is_right()
        new = History()
        self.catch_up(new)
        self.assert_is_right(new)

    def test_what_is_told_while_it_is_behind_is_left_to_the_list(self) -> None:
        for value in range(5):
            self.realm.put(b"a", bytes([value]))
        self.history.take_watching(self.realm.watching())
        self.realm.put(b"b", b"told")
        told = self.history.take_told(self.realm.told(6), self.realm.open)
        self.assertEqual([], told.changes)
        self.catch_up(size=2)
        self.assert_is_right()

    def test_what_is_told_again_changes_nothing(self) -> None:
        self.catch_up()
        for value in range(5):
            self.told_put(b"a", bytes([value]))
        known = self.history.snapshot()
        for packet in (self.realm.told(1, 5), self.realm.told(5), self.realm.listed(0)):
            self.assertEqual([], self.history.take_told(packet, self.realm.open).changes)
            found = self.history.take_listed(packet, 5, self.realm.open)
            self.assertEqual([], found.changes)
        self.assertEqual(known, self.history.snapshot())

    def test_what_is_told_again_is_not_compared_when_it_is_not_remembered(self) -> None:
        self.catch_up()
        for value in range(4):
            self.told_put(b"a", bytes([value]))
        known = self.history.snapshot()
        for steps in ([], known.steps[1:2], known.steps[2:]):
            self.history = History(replace(known, steps=steps))
            self.assertEqual(
                [], self.history.take_told(self.realm.told(1, 4), self.realm.open).changes
            )

    def test_a_list_that_was_asked_for_before_something_was_told(self) -> None:
        self.catch_up()
        self.told_put(b"a", b"1")
        self.realm.put(b"b", b"2")
        found = self.history.take_listed(self.realm.listed(0), 0, self.realm.open)
        self.assertEqual([2], [it.revision for it in found.changes])

    def test_a_list_since_what_is_not_known_is_no_use(self) -> None:
        self.realm.put(b"a", b"1")
        with self.assertRaises(LocalProtocolError):
            self.history.take_listed(self.realm.listed(0), 1, self.realm.open)

    def test_a_missing_key_changes_nothing_and_heals(self) -> None:
        self.catch_up()
        old = self.realm.keys
        newer = old.with_next(bytes(32))
        self.realm.keys = newer
        self.realm.put(b"a", b"1")
        known = self.history.snapshot()
        self.realm.keys = old
        for does in (self.tell, self.catch_up):
            error = self.assertRaises(MissingEpochError, does)
            self.assertEqual(1, error.epoch)
            self.assertEqual(known.names, self.history.snapshot().names)
            self.assertEqual(0, self.history.revision)
        self.realm.keys = newer
        self.catch_up()
        self.assert_is_right()

    def test_what_was_put_is_acknowledged(self) -> None:
        self.catch_up()
        sealed = self.realm.seal(self.realm.word(b"a", b"1"))
        self.history.expect(digest_of(sealed))
        self.realm.add(b"a", sealed, has_value=True)
        self.tell()
        hidden = self.realm.keys.hidden_name(b"a")
        self.history.take_put(1, hidden, digest_of(sealed), 0)
        deleted = self.realm.seal(self.realm.word(b"a", None))
        self.history.expect(digest_of(deleted))
        self.realm.add(b"a", deleted, has_value=False)
        self.tell()
        self.history.take_put(2, hidden, digest_of(deleted), 1)
        self.history.take_nothing_deleted(hidden, OTHER)

    def test_what_is_acknowledged_must_be_expected(self) -> None:
        self.catch_up()
        told = digest_of(self.told_put(b"a", b"1"))
        for digest in (told, OTHER):
            with self.assertRaises(LocalProtocolError):
                self.history.take_put(1, self.realm.keys.hidden_name(b"a"), digest)
        for number in range(MAX_AWAITED):
            self.history.expect(number.to_bytes(32, "big"))
        self.assertRaises(LocalProtocolError, self.history.expect, OTHER)
        self.history.give_up(bytes(32))
        self.history.expect(OTHER)

    def test_what_is_got_is_what_was_told(self) -> None:
        self.catch_up()
        self.told_put(b"a", b"1")
        word = self.history.take_found(self.realm.found(b"a"), self.realm.open)
        assert word is not None
        self.assertEqual(b"1", word.value)
        self.told_put(b"a", None)
        for name in (b"a", b"never"):
            self.assertIsNone(self.history.take_found(self.realm.found(name), self.realm.open))

    def test_the_stamp_grows_whatever_the_clock_says(self) -> None:
        who = member(1).device_id
        self.catch_up()
        self.told_put(b"a", b"1", milliseconds=500)
        self.assertEqual([501, 502, 600], [self.history.stamp(who, at) for at in (0, 400, 600)])
        self.assertEqual(501, History(self.history.snapshot()).stamp(who, 0))

    def test_a_writer_that_knows_little_is_believed(self) -> None:
        self.catch_up()
        self.told_put(b"a", b"1")
        self.told_put(b"a", b"2", who=1, knows=0)
        self.told_put(b"b", b"3", who=1, knows=0)
        self.assert_is_right()

    def test_it_is_stored_in_rows_and_goes_on(self) -> None:
        self.catch_up()
        rows: dict[bytes, Any] = {}
        steps: dict[int, Any] = {}
        saved = 0
        for number in range(30):
            self.told_put(b"%d" % (number % 7), bytes([number]) if number % 5 else None, number % 3)
            if number % 4 == 0:
                snapshot = self.history.snapshot(saved)
                rows.update((row[0], row) for row in snapshot.names)
                steps.update((row[0], row) for row in snapshot.steps)
                stored = replace(snapshot, names=list(rows.values()), steps=list(steps.values()))
                saved = self.history.revision
                other = History(stored)
                self.assertEqual(
                    sorted(self.history.snapshot().names), sorted(other.snapshot().names)
                )
                self.assertEqual(self.history.snapshot().steps, other.snapshot().steps)
                self.history = other
                self.catch_up()
        self.assert_is_right()

    def test_what_is_remembered_is_bounded(self) -> None:
        many = MAX_NAMES_WITHOUT_VALUE + 10
        names = [
            (number.to_bytes(32, "big"), number, OTHER, False, False, 0) for number in range(many)
        ]
        steps = [(number, OTHER, number.to_bytes(32, "big")) for number in range(MAX_STEPS + 10)]
        known = Snapshot(many, OTHER, names=names, steps=steps)
        kept = History(known).snapshot()
        self.assertEqual(MAX_NAMES_WITHOUT_VALUE, len(kept.names))
        self.assertEqual(10, min(row[1] for row in kept.names))
        self.assertEqual((MAX_STEPS, 10), (len(kept.steps), kept.steps[0][0]))

    def test_how_new_words_were_is_remembered_of_so_many_writers(self) -> None:
        writers = [(number.to_bytes(16, "big"), number, 0) for number in range(MAX_WRITERS)]
        self.history = History(Snapshot(writers=writers))
        self.told_put(b"a", b"1", milliseconds=9)
        kept = {row[0]: row[1:] for row in self.history.snapshot().writers}
        self.assertEqual(MAX_WRITERS, len(kept))
        self.assertNotIn(bytes(16), kept)

    def test_what_members_and_the_realm_name_is_bounded(self) -> None:
        for number in range(MAX_MEMBERS + 1):
            self.history.take_seen(number.to_bytes(16, "big"), 5 + number, OTHER)
        seen = self.history.snapshot().seen
        self.assertEqual((MAX_MEMBERS, 6), (len(seen), min(row[1] for row in seen)))
        self.history = History()
        for revision in range(1, MAX_PROMISES + 2):
            self.history.expect(OTHER)
            self.history.take_put(revision, OTHER, OTHER)
        promised = self.history.snapshot().promised
        self.assertEqual((MAX_PROMISES, 2), (len(promised), promised[0][0]))

    def test_a_group_with_more_names_than_any_is_refused(self) -> None:
        names = [
            (number.to_bytes(32, "big"), number, OTHER, True, False, 0)
            for number in range(1, MAX_NAMES + 1)
        ]
        self.history = History(Snapshot(names=names))
        self.realm.put(b"a", b"1")
        self.assertRaises(GroupError, self.tell)
        names[0] = (self.realm.keys.hidden_name(b"a"), *names[0][1:])
        self.history = History(Snapshot(names=names))
        self.assertEqual(1, len(self.tell()))


class LyingTests(HistoryCase):
    """Each attack of a realm on a device that follows it."""

    def setUp(self) -> None:
        super().setUp()
        self.catch_up()
        self.first = self.told_put(b"a", b"1")
        self.second = self.told_put(b"b", b"2", who=1)
        self.third = self.told_put(b"a", b"3", who=2)

    def test_an_older_realm(self) -> None:
        older = WatchingValues(self.realm.group_id, 2, self.realm.heads[2])
        for _ in range(2):
            self.assert_refused("rolled_back", self.history.take_watching, older)
            self.assert_told_refused("rolled_back", self.realm.told(2))
            packet = replace(self.realm.listed(2), revision=2, head=self.realm.heads[2], changes=[])
            self.assert_listed_refused("rolled_back", packet)
            self.history = History(self.history.snapshot())

    def test_an_emptied_realm(self) -> None:
        empty = WatchingValues(self.realm.group_id, 0, NO_HASH)
        self.assert_refused("rolled_back", self.history.take_watching, empty)

    def test_a_realm_that_is_older_than_it_has_said(self) -> None:
        self.history.take_watching(WatchingValues(self.realm.group_id, 9, OTHER))
        self.assert_refused("rolled_back", self.history.take_watching, self.realm.watching())

    def test_a_realm_that_is_older_than_a_member_has_seen(self) -> None:
        self.history.take_seen(BOB, 4, OTHER)
        seen = self.assert_refused("rolled_back", self.history.take_watching, self.realm.watching())
        self.assertIn("another member has seen change 4", seen)
        self.history = History(self.history.snapshot())
        self.assert_refused("rolled_back", self.history.take_watching, self.realm.watching())

    def test_a_writer_that_knew_more_than_the_realm_says_there_was(self) -> None:
        word = self.realm.word(b"c", b"4")
        for lie in (replace(word, revision=4), replace(word, replaces=9)):
            realm = self.realm.copy()
            realm.add(b"c", realm.seal(lie), has_value=True)
            self.assert_told_refused("rolled_back", realm.told(4))

    def test_a_value_under_another_name(self) -> None:
        hidden = self.realm.keys.hidden_name(b"new")
        known = self.history.snapshot()
        self.history = History(replace(known, steps=[]))
        packet = replace(self.realm.found(b"b"), name=hidden)
        self.assert_refused("wrong_name", self.history.take_found, packet, self.realm.open)
        self.realm.add(b"new", self.second, has_value=True)
        self.assert_told_refused("wrong_name", self.realm.told(4))

    def test_a_change_is_left_out(self) -> None:
        self.realm.put(b"c", b"4")
        self.realm.put(b"c", b"5")
        self.assert_told_refused("broken_history", self.realm.told(5))
        packet = self.realm.listed(3)
        for changes in (packet.changes[1:], packet.changes[:1], []):
            self.assert_listed_refused("broken_history", replace(packet, changes=changes))
        self.history.disconnected()
        self.assert_told_refused("broken_history", self.realm.told(5))

    def test_changes_in_another_order(self) -> None:
        self.realm.put(b"c", b"4")
        self.realm.put(b"d", b"5")
        right = self.realm.told(4, 5)
        one, other = right.changes
        for changes in ([other, one], [one, one], [one, other, other]):
            self.assert_told_refused("broken_history", replace(right, changes=changes))
        swapped = replace(right, changes=[[4, *other[1:]], [5, *one[1:]]])
        self.assert_told_refused("rolled_back", swapped)

    def test_changes_in_another_order_by_writers_that_did_not_know(self) -> None:
        self.realm.put(b"c", b"4", knows=3)
        self.realm.put(b"d", b"5", who=1, knows=3)
        right = self.realm.told(4, 5)
        one, other = right.changes
        swapped = replace(right, changes=[[4, *other[1:]], [5, *one[1:]]])
        self.assert_told_refused("broken_history", swapped)

    def test_another_head(self) -> None:
        self.realm.put(b"c", b"4")
        self.assert_told_refused("broken_history", replace(self.realm.told(4), head=OTHER))
        watching = WatchingValues(self.realm.group_id, 3, OTHER)
        self.assert_refused("broken_history", self.history.take_watching, watching)
        packet = replace(self.realm.listed(2), floor_head=OTHER)
        for floor in (0, 1, 3, 4, 5):
            self.assert_listed_refused("broken_history", replace(packet, floor=floor))

    def test_a_head_that_was_named_before(self) -> None:
        self.history.take_watching(WatchingValues(self.realm.group_id, 5, OTHER))
        for value in range(3):
            self.realm.put(b"c", bytes([value]))
        self.assert_listed_refused("broken_history", self.realm.listed(3))

    def test_bytes_that_are_not_what_was_hashed(self) -> None:
        self.realm.put(b"c", b"4")
        packet = self.realm.told(4)
        packet.changes[0][3] = self.third
        self.assert_told_refused("broken_history", packet)
        packet.changes[0][2] = digest_of(self.third)
        self.assert_told_refused("forged", packet)

    def test_a_change_that_no_member_has_made(self) -> None:
        stranger = self.realm.copy()
        stranger.keys = group_keys(group=101)
        made_up = stranger.seal(stranger.word(b"c", b"4"))
        for sealed in (b"", bytes(200), made_up):
            realm = self.realm.copy()
            realm.add(b"c", sealed, has_value=True)
            self.assert_told_refused("forged", realm.told(4))

    def test_an_old_value_given_as_new(self) -> None:
        for sealed in (self.first, self.third):
            realm = self.realm.copy()
            realm.add(b"a", sealed, has_value=True)
            self.assert_told_refused("forged", realm.told(4))

    def test_an_old_value_given_as_new_much_later(self) -> None:
        """When the change itself is not remembered any more, its writer's others tell."""
        self.history = History(replace(self.history.snapshot(), steps=[]))
        self.realm.add(b"a", self.first, has_value=True)
        self.assert_told_refused("forged", self.realm.told(4))

    def test_a_value_given_twice_of_which_this_device_has_seen_the_hash_alone(self) -> None:
        self.realm.add(b"a", self.first, has_value=True)
        self.history = History()
        self.assert_listed_refused("forged", self.realm.listed(0))

    def test_the_end_of_a_value_that_had_no_time(self) -> None:
        for name in (b"b", b"never"):
            realm = self.realm.copy()
            realm.end(name)
            self.assert_told_refused("forged", realm.told(4))
        self.told_put(b"b", None)
        self.realm.end(b"b")
        self.assert_told_refused("forged", self.realm.told(5))

    def test_an_older_epoch_after_a_newer_one(self) -> None:
        old = self.realm.keys
        self.realm.keys = old.with_next(bytes(32))
        self.told_put(b"c", b"4")
        sealed = self.realm.seal(self.realm.word(b"c", b"5"), old)
        self.realm.add(b"c", sealed, has_value=True)
        self.assert_told_refused("forged", self.realm.told(5))

    def test_an_older_epoch_after_the_group_has_moved(self) -> None:
        self.history.moved(1)
        self.history.moved(0)
        self.history = History(self.history.snapshot())
        self.realm.put(b"c", b"4")
        self.assert_told_refused("forged", self.realm.told(4))

    def test_a_value_is_kept_back_as_if_it_were_replaced(self) -> None:
        self.realm.put(b"c", b"4")
        packet = self.realm.told(4)
        packet.changes[0][3] = None
        self.assert_told_refused("broken_history", packet)
        self.realm.put(b"d", b"5")
        packet = self.realm.listed(3)
        packet.changes[0][3] = None
        self.assert_listed_refused("broken_history", packet)

    def test_a_value_is_kept_back_until_it_is_replaced(self) -> None:
        self.realm.put(b"c", b"4", knows=3)
        self.realm.put(b"d", b"5", who=1, knows=3)
        page = self.realm.listed(3, 1)
        lie = replace(page, changes=[[*page.changes[0][:3], None]])
        self.history.take_listed(lie, 3, self.realm.open)
        self.realm.put(b"c", b"6", who=2, knows=3)
        self.assert_listed_refused("broken_history", self.realm.listed(4))

    def test_pages_that_do_not_lead_to_the_end_change_nothing(self) -> None:
        """A lie on one page may be seen on a later one alone."""
        for number in range(4):
            self.realm.put(b"c", bytes([number]), who=number % 3)
        known = self.history.snapshot()
        page = self.realm.listed(3, 2)
        page.changes[0][2] = OTHER
        self.history.take_listed(page, 3, self.realm.open)
        self.assertTrue(self.history.is_behind)
        self.assert_listed_refused("forked", self.realm.listed(5, 2))
        self.assertEqual((known.names, 3), (self.history.snapshot().names, self.history.next_since))

    def test_what_is_said_while_a_list_comes(self) -> None:
        for number in range(4):
            self.realm.put(b"c", bytes([number]))
        for says in ("seen", "put"):
            self.history = History(self.history.snapshot())
            self.history.take_listed(self.realm.listed(3, 2), 3, self.realm.open)
            if says == "seen":
                self.history.take_seen(BOB, 5, OTHER)
            else:
                self.history.expect(OTHER)
                self.history.take_put(5, OTHER, OTHER)
            kind = "forked" if says == "seen" else "broken_history"
            known = self.history.snapshot()
            self.assert_listed_refused(kind, self.realm.listed(5))
            self.history = History(replace(known, seen=[], promised=[]))

    def test_a_list_without_end(self) -> None:
        self.realm.put(b"c", b"4")
        packet = replace(self.realm.listed(3), changes=[], more=True)
        self.assert_listed_refused("broken_history", packet)

    def test_a_change_told_again_as_another(self) -> None:
        packet = self.realm.told(2, 3)
        packet.changes[0][1] = OTHER
        self.assert_told_refused("broken_history", packet)


class AnswerTests(HistoryCase):
    """Lies about one name, to a device that follows."""

    def setUp(self) -> None:
        super().setUp()
        self.catch_up()
        self.first = self.told_put(b"a", b"1")
        self.second = self.told_put(b"a", b"2", who=1)
        self.hidden = self.realm.keys.hidden_name(b"a")

    def expect(self, name: bytes, value: bytes | None) -> bytes:
        """Seal something of this device's own and wait for it."""
        sealed = self.realm.seal(self.realm.word(name, value))
        self.history.expect(digest_of(sealed))
        return sealed

    def test_an_old_value_is_got(self) -> None:
        for revision in (0, 1, 2):
            self.assert_found_refused("broken_history", b"a", revision=revision, value=self.first)

    def test_nothing_is_got_where_something_is(self) -> None:
        for revision in (0, 1, 2):
            self.assert_found_refused("broken_history", b"a", revision=revision, value=None)

    def test_something_is_got_that_was_not_told(self) -> None:
        sealed = self.realm.seal(self.realm.word(b"a", b"3"))
        for revision in (0, 2, 3):
            self.assert_found_refused("broken_history", b"a", revision=revision, value=sealed)
        self.assert_found_refused("broken_history", b"c", revision=3)

    def test_a_value_is_got_where_none_was_told(self) -> None:
        sealed = self.realm.seal(self.realm.word(b"c", b"3", knows=1))
        self.assert_found_refused("broken_history", b"c", revision=2, value=sealed)

    def test_a_deleted_value_is_got(self) -> None:
        self.told_put(b"a", None)
        for revision in (2, 3):
            self.assert_found_refused("broken_history", b"a", revision=revision, value=self.second)

    def test_what_is_got_while_this_device_is_behind_must_come(self) -> None:
        self.history.disconnected()
        self.realm.put(b"a", b"3")
        self.realm.put(b"b", b"4")
        word = self.history.take_found(self.realm.found(b"a"), self.realm.open)
        assert word is not None
        self.assertEqual(b"3", word.value)
        self.assertTrue(self.history.is_behind)
        realm = self.realm.copy()
        realm.changes, realm.heads = realm.changes[:2], realm.heads[:3]
        self.assert_refused("rolled_back", self.history.take_watching, realm.watching())
        realm.put(b"c", b"3")
        realm.put(b"c", b"4")
        self.history = History(self.history.snapshot())
        self.assert_listed_refused("broken_history", realm.listed(2))
        self.catch_up()
        self.assert_is_right()

    def test_what_is_got_knows_a_later_change(self) -> None:
        self.history.disconnected()
        sealed = self.realm.seal(replace(self.realm.word(b"a", b"3"), revision=5))
        self.assert_found_refused("rolled_back", b"a", revision=5, value=sealed)

    def test_what_is_got_is_of_another_history(self) -> None:
        self.history.disconnected()
        sealed = self.realm.seal(replace(self.realm.word(b"a", b"3"), head=OTHER))
        self.assert_found_refused("forked", b"a", revision=3, value=sealed)

    def test_a_put_is_acknowledged_and_not_told(self) -> None:
        sealed = self.expect(b"a", b"3")
        self.assert_refused(
            "broken_history", self.history.take_put, 3, self.hidden, digest_of(sealed)
        )

    def test_a_put_is_acknowledged_as_an_older_change(self) -> None:
        sealed = self.expect(b"a", b"3")
        self.assert_refused(
            "broken_history", self.history.take_put, 2, self.hidden, digest_of(sealed)
        )

    def test_a_put_is_acknowledged_as_another_change(self) -> None:
        sealed = self.expect(b"a", b"3")
        self.realm.add(b"a", sealed, has_value=True)
        self.tell()
        self.assert_refused(
            "broken_history", self.history.take_put, 4, self.hidden, digest_of(sealed)
        )

    def test_a_put_that_is_acknowledged_while_this_device_is_behind_must_come(self) -> None:
        self.history.disconnected()
        sealed, other = self.expect(b"a", b"3"), self.expect(b"b", b"4")
        self.history.take_put(3, self.hidden, digest_of(sealed))
        self.assert_refused("broken_history", self.history.take_put, 3, OTHER, digest_of(other))
        self.realm.put(b"c", b"another")
        self.assert_listed_refused("broken_history", self.realm.listed(2))

    def test_a_change_is_made_though_the_value_was_not_the_right_one(self) -> None:
        for if_revision in (0, 1):
            sealed = self.expect(b"a", b"3")
            self.realm.add(b"a", sealed, has_value=True)
            self.tell()
            self.assert_refused(
                *("broken_history", self.history.take_put),
                *(self.realm.revision, self.hidden, digest_of(sealed), if_revision),
            )

    def test_nothing_was_there_to_delete(self) -> None:
        sealed = self.expect(b"a", None)
        self.assert_refused(
            "broken_history", self.history.take_nothing_deleted, self.hidden, digest_of(sealed)
        )


class ForkTests(HistoryCase):
    """Two histories for two members."""

    def setUp(self) -> None:
        super().setUp()
        self.catch_up()
        self.told_put(b"a", b"1")
        self.told_put(b"a", b"2", who=1)

    def test_a_member_that_was_told_the_same(self) -> None:
        for revision in range(3):
            self.history.take_seen(BOB, revision, self.realm.heads[revision])
        self.assertEqual([], self.history.snapshot().seen)

    def test_a_member_that_was_told_another_history(self) -> None:
        for revision in range(3):
            self.assert_refused("forked", self.history.take_seen, BOB, revision, OTHER)

    def test_a_member_that_knows_more_is_compared_later(self) -> None:
        self.history.take_seen(BOB, 3, OTHER)
        self.history = History(self.history.snapshot())
        self.realm.put(b"a", b"3")
        self.assert_told_refused("forked", self.realm.told(3))
        self.realm.put(b"a", b"4")
        self.assert_listed_refused("forked", self.realm.listed(2))

    def test_a_member_that_knows_more_and_was_told_the_same(self) -> None:
        self.realm.put(b"a", b"3")
        self.history.take_seen(BOB, 3, self.realm.heads[3])
        self.assertEqual(1, len(self.history.snapshot().seen))
        self.tell()
        self.assertEqual([], self.history.snapshot().seen)

    def test_two_members_that_were_told_different_histories(self) -> None:
        self.history.take_seen(BOB, 5, OTHER)
        self.assert_refused("forked", self.history.take_seen, CAROL, 5, bytes(32))

    def test_a_member_and_the_realm_name_different_histories(self) -> None:
        self.history.take_seen(BOB, 5, OTHER)
        watching = WatchingValues(self.realm.group_id, 5, bytes(32))
        self.assert_refused("forked", self.history.take_watching, watching)
        self.history.take_watching(WatchingValues(self.realm.group_id, 6, OTHER))
        self.assert_refused("forked", self.history.take_seen, CAROL, 6, bytes(32))

    def test_a_value_whose_writer_was_told_another_history(self) -> None:
        for knows in range(3):
            realm = self.realm.copy()
            word = replace(realm.word(b"b", b"3", knows=knows), head=OTHER)
            realm.add(b"b", realm.seal(word), has_value=True)
            self.assert_told_refused("forked", realm.told(3))

    def test_a_change_that_was_told_to_one_alone(self) -> None:
        """What another member writes later shows it."""
        other = self.realm.copy()
        self.told_put(b"c", b"to one alone")
        other.put(b"d", b"to the others")
        sealed = other.put(b"d", b"later")
        self.realm.add(b"d", sealed, has_value=True)
        self.assert_told_refused("forked", self.realm.told(4))


class FloorTests(HistoryCase):
    """A realm that has forgotten what this device has missed."""

    def setUp(self) -> None:
        super().setUp()
        self.catch_up()
        self.told_put(b"a", b"1")
        self.told_put(b"b", b"2")
        self.told_put(b"c", b"3")
        self.history.disconnected()

    def miss(self) -> None:
        """Let happen what this device does not see, and forget it."""
        self.realm.put(b"a", b"4", who=1)
        self.realm.put(b"b", None, who=1)
        self.realm.put(b"d", b"6", who=1)
        self.realm.put(b"a", b"7", who=1)
        self.realm.put(b"e", b"8", who=2)
        self.realm.floor = 6

    def list(self, **wrong: Any) -> ValueChanges:
        """Return the whole list, which this device has begun to ask for."""
        begun = self.history.take_listed(self.realm.listed(3), 3, self.realm.open)
        self.assertEqual(([], None, 0), (*begun, self.history.next_since))
        return replace(self.realm.listed(0), **wrong)

    def test_it_says_what_was_missed_and_knows_what_is(self) -> None:
        self.miss()
        for size in (1, 2, 100):
            history = History(self.history.snapshot())
            accepted = self.catch_up(history, size)[-1]
            self.assertEqual((4, 6), accepted.missed)
            found = {it.name: (it.what, it.revision) for it in accepted.changes}
            hidden = self.realm.keys.hidden_name
            expected = {
                hidden(b"a"): (What.PUT, 7),
                hidden(b"b"): (What.FORGOTTEN, 6),
                hidden(b"d"): (What.PUT, 6),
                hidden(b"e"): (What.PUT, 8),
            }
            self.assertEqual(expected, found)
            self.assert_is_right(history)
            found_b = history.take_found(self.realm.found(b"b"), self.realm.open)
            self.assertIsNone(found_b)

    def test_a_new_device_believes_what_is_signed(self) -> None:
        self.miss()
        for size in (1, 100):
            new = History()
            accepted = self.catch_up(new, size)[-1]
            self.assertEqual((1, 6), accepted.missed)
            self.assert_is_right(new)

    def test_it_goes_on_from_there(self) -> None:
        self.miss()
        self.catch_up()
        self.told_put(b"b", b"back", who=2)
        self.told_put(b"a", b"again", who=1, seconds=5)
        self.realm.end(b"a")
        self.tell()
        self.assert_is_right()

    def test_an_interrupted_list_is_begun_again(self) -> None:
        self.miss()
        known = self.history.snapshot()
        page = self.list()
        page = self.realm.listed(0, 2)
        self.history.take_listed(page, 0, self.realm.open)
        self.assertEqual(known.names, self.history.snapshot().names)
        with self.assertRaises(LocalProtocolError):
            self.history.take_listed(self.realm.listed(0), 0, self.realm.open)
        self.history.disconnected()
        self.assertEqual(3, self.history.next_since)
        self.catch_up()
        self.assert_is_right()

    def test_the_floor_rises_while_it_lists(self) -> None:
        for steps in (1, 3, 30):
            super().setUp()
            FloorTests.setUp(self)
            self.miss()
            self.history.take_watching(self.realm.watching())
            turn = 0
            while self.history.is_behind:
                since = self.history.next_since
                page = self.realm.listed(since, 1)
                self.history.take_listed(page, since, self.realm.open)
                turn += 1
                if turn < 12:
                    for number in range(steps):
                        value = None if number % 3 else b"x"
                        self.realm.put(b"%d" % (number % 5), value, who=number % 3)
                    self.realm.put(b"d", None)
                    self.realm.floor = self.realm.revision - 2
            self.assert_is_right()

    def test_a_name_that_went_back(self) -> None:
        self.told_put(b"c", b"newer")
        for number in range(4):
            self.realm.put(b"d", bytes([number]))
        self.realm.floor = 6
        since_known = self.realm.listed(4)
        packet = self.realm.listed(0)
        _, _, (revision, *newer), *rest = packet.changes
        older = self.realm.changes[2]
        self.assertEqual((3, 4, older[1]), (older[0], revision, newer[0]))
        for lie in (older, [4, *older[1:]], [3, *newer], [5, *newer]):
            self.history = History(self.history.snapshot())
            self.history.take_listed(since_known, 4, self.realm.open)
            changes = [*packet.changes[:2], lie, *rest]
            kind = "forged" if lie[0] == 5 else "broken_history"
            self.assert_listed_refused(kind, replace(packet, changes=changes))

    def test_a_value_where_none_was(self) -> None:
        self.miss()
        packet = self.list()
        sealed = self.realm.seal(self.realm.word(b"z", b"?", knows=0, milliseconds=0))
        lie = [1, self.realm.keys.hidden_name(b"z"), digest_of(sealed), sealed]
        packet.changes.insert(0, lie)
        self.assert_listed_refused("broken_history", packet)

    def test_a_forged_value_before_the_floor(self) -> None:
        self.miss()
        packet = self.list()
        at = next(index for index, it in enumerate(packet.changes) if it[0] == 6)
        packet.changes[at][2:] = [digest_of(bytes(200)), bytes(200)]
        self.assert_listed_refused("forged", packet)

    def test_a_member_that_was_told_another_history_before_the_gap(self) -> None:
        word = replace(self.realm.word(b"d", b"6", who=1), head=OTHER)
        self.realm.add(b"d", self.realm.seal(word), has_value=True)
        self.realm.put(b"e", b"7", who=1)
        self.realm.floor = 5
        packet = self.list()
        self.assert_listed_refused("forked", packet)

    def test_a_wrong_hash_at_the_floor(self) -> None:
        self.miss()
        lies: list[tuple[str, dict[str, Any]]] = [
            ("broken_history", {"floor": 8}),
            ("broken_history", {"floor": 9}),
            ("broken_history", {"head": OTHER}),
            ("forked", {"floor": 7}),
            ("forked", {"floor_head": OTHER}),
        ]
        for kind, wrong in lies:
            self.history = History(self.history.snapshot())
            self.assert_listed_refused(kind, self.list(**wrong))

    def test_a_floor_that_goes_down(self) -> None:
        self.miss()
        self.list()
        self.history.take_listed(self.realm.listed(0, 1), 0, self.realm.open)
        page = replace(self.realm.listed(3, 1), floor=5, floor_head=self.realm.heads[5])
        self.assert_listed_refused("broken_history", page)

    def test_another_hash_at_the_floor_on_a_later_page(self) -> None:
        self.miss()
        self.list()
        self.history.take_listed(self.realm.listed(0, 1), 0, self.realm.open)
        page = replace(self.realm.listed(3, 1), floor_head=OTHER)
        self.assert_listed_refused("broken_history", page)

    def test_a_wrong_hash_at_a_floor_in_what_has_been_listed(self) -> None:
        for name in (b"d", b"e", b"f"):
            self.realm.put(name, b"x")
        self.history.take_listed(self.realm.listed(3, 2), 3, self.realm.open)
        self.realm.floor = 4
        page = replace(self.realm.listed(5, 2), floor_head=OTHER)
        self.assert_listed_refused("broken_history", page)

    def test_a_realm_that_has_forgotten_less_than_it_may(self) -> None:
        self.miss()
        packet = self.list()
        replaced, deleted = self.realm.changes[3], self.realm.changes[4]
        at = next(index for index, it in enumerate(packet.changes) if it[0] > 3)
        packet.changes[at:at] = [[*replaced[:3], None], deleted]
        accepted = self.history.take_listed(packet, 0, self.realm.open)
        found = {it.revision: it.what for it in accepted.changes}
        self.assertEqual({5: What.DELETED, 6: What.PUT, 7: What.PUT, 8: What.PUT}, found)
        self.assert_is_right()

    def test_nothing_comes_after_the_floor(self) -> None:
        self.miss()
        self.realm.floor = self.realm.revision
        for size in (1, 100):
            history = History(self.history.snapshot())
            self.assertEqual((4, 8), self.catch_up(history, size)[-1].missed)
            self.assert_is_right(history)

    def test_the_floor_rises_over_what_has_been_listed(self) -> None:
        """What was listed is younger than the floor that it began with, so the list goes on."""
        self.miss()
        for number in range(9):
            self.realm.put(b"%d" % (number % 4), b"x", who=number % 3)
        self.list()
        self.history.take_listed(self.realm.listed(0, 5), 0, self.realm.open)
        self.assertEqual(9, self.history.next_since)
        self.realm.floor = 12
        accepted = self.history.take_listed(self.realm.listed(9), 9, self.realm.open)
        self.assertEqual((4, 12), accepted.missed)
        self.assert_is_right()

    def test_changes_after_the_floor_have_no_gap(self) -> None:
        self.miss()
        packet = self.list()
        for left_out in (7, 8):
            self.history = History(self.history.snapshot())
            self.list()
            changes = [it for it in packet.changes if it[0] != left_out]
            self.assert_listed_refused("broken_history", replace(packet, changes=changes))

    def test_a_put_that_was_acknowledged_and_is_not_there(self) -> None:
        sealed = self.realm.seal(self.realm.word(b"c", b"mine"))
        self.history.expect(digest_of(sealed))
        hidden = self.realm.keys.hidden_name(b"c")
        self.history.take_put(4, hidden, digest_of(sealed))
        self.miss()
        self.assert_listed_refused("broken_history", self.list())

    def test_an_older_realm_while_it_lists(self) -> None:
        self.miss()
        self.list()
        page = replace(self.realm.listed(0), revision=7, head=self.realm.heads[7])
        self.assert_listed_refused("rolled_back", page)


_steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "lasting", "delete", "end", "forget"]),
        st.integers(0, 3),
        st.integers(0, 2),
        st.sampled_from(["", "", "tell", "list", "restart", "message"]),
    ),
    max_size=25,
)


class Run:
    """A device that follows a realm through what happens, honestly unless told otherwise."""

    def __init__(self, size: int) -> None:
        self.realm = SmallRealm()
        self.history = History()
        self.size = size

    def happen(self, what: str, name: int, who: int) -> None:
        """Let something happen at the realm."""
        realm, key = self.realm, bytes([97 + name])
        revision, has_value = realm.last.get(realm.keys.hidden_name(key), (0, False))
        match what:
            case "put" | "lasting":
                seconds = 60 if what == "put" else None
                knows = max(0, realm.revision - name)
                realm.put(key, b"%d" % realm.revision, who, seconds=seconds, knows=knows)
            case "delete" if has_value:
                realm.put(key, None, who)
            case "end" if has_value:
                sealed = realm.changes[revision - 1][3]
                if realm.open(realm.keys.hidden_name(key), sealed).seconds is not None:
                    realm.end(key)
            case "forget":
                realm.floor = max(realm.floor, realm.revision - 3)

    def notice(self, how: str) -> None:
        """Let the device hear of it."""
        realm, history = self.realm, self.history
        match how:
            case "tell" if realm.revision > history.revision:
                packet = realm.told(history.revision + 1, realm.revision)
                history.take_told(packet, realm.open)
            case "list":
                self.list()
            case "restart":
                self.history = History(history.snapshot())
            case "message":
                history.take_seen(BOB, realm.revision, realm.heads[-1])

    def list(self, change: Callable[[ValueChanges], ValueChanges] = lambda page: page) -> None:
        """List until nothing is missing."""
        self.history.take_watching(self.realm.watching())
        while self.history.is_behind:
            since = self.history.next_since
            page = change(self.realm.listed(since, self.size))
            self.history.take_listed(page, since, self.realm.open)


def mutated(page: ValueChanges, realm: SmallRealm, at: int, how: int) -> ValueChanges:
    """Return a page with one lie in it; ``at`` says where."""
    changes = [list(change) for change in page.changes]
    newest = page.revision
    match how:
        case 0:
            return replace(page, head=OTHER)
        case 1:
            return replace(page, revision=newest + 1 + at % 3)
        case 2:
            return replace(page, more=None if page.more else True)
        case 3:
            older = max(0, newest - 1 - at % 3)
            known = [change for change in changes if change[0] <= older]
            return replace(page, revision=older, head=realm.heads[older], changes=known)
        case 4:
            repeated = [newest + 1, *realm.changes[at % len(realm.changes)][1:]]
            return replace(page, revision=newest + 1, changes=[*changes, repeated])
    if changes:
        distort(changes, realm, at, how)
    return replace(page, changes=changes)


def distort(changes: list[list[Any]], realm: SmallRealm, at: int, how: int) -> None:
    """Make something else of some changes."""
    one, other = changes[at % len(changes)], changes[at // 7 % len(changes)]
    match how:
        case 5:
            del changes[at % len(changes)]
        case 6:
            changes[at % len(changes)], changes[at // 7 % len(changes)] = other, one
        case 7:
            changes.insert(at % len(changes), other)
        case 8:
            one[1], other[1] = other[1], one[1]
        case 9:
            one[2:], other[2:] = other[2:], one[2:]
        case 10 if one[3]:
            sealed = bytearray(one[3])
            sealed[at % len(sealed)] ^= 1 + at % 255
            one[3] = bytes(sealed)
            one[2] = digest_of(one[3]) if at % 2 else one[2]
        case 11:
            one[3] = None
        case 12:
            one[2:] = [NO_HASH, None]
        case 13:
            one[0] += 1 + at % 3
        case 14:
            one[2:] = realm.changes[at % len(realm.changes)][2:]
        case 15:
            del changes[at % len(changes) :]


class PropertyTests(TestCase):
    def assert_believes_the_truth(self, run: Run) -> None:
        """Check that what a device knows of the past is so."""
        realm, history = run.realm, run.history
        self.assertEqual(realm.heads[history.revision], history.head)
        known = {row[0]: row[1:4] for row in history.snapshot().names}
        for name in {change[1] for change in realm.changes[: history.revision]}:
            changes = [it for it in realm.changes[: history.revision] if it[1] == name]
            revision, _, digest, sealed = changes[-1]
            has_value = sealed is not None and realm.open(name, sealed).value is not None
            if has_value or (name in known and known[name][2]):
                self.assertEqual((revision, digest), known[name][:2])

    @settings(max_examples=60)
    @given(_steps, st.integers(1, 6))
    def test_an_honest_realm_is_believed(self, steps: list[Any], size: int) -> None:
        """Whatever happens, in whatever pages, and whenever the device looks."""
        run = Run(size)
        for what, name, who, how in steps:
            run.happen(what, name, who)
            run.notice(how)
        run.list()
        self.assert_believes_the_truth(run)
        self.assertEqual(run.realm.revision, run.history.revision)

    @settings(max_examples=150)
    @given(_steps, st.integers(1, 6), st.integers(0, 15), st.integers(0, 10_000))
    def test_a_lie_is_refused_or_changes_nothing(
        self, steps: list[Any], size: int, how: int, at: int
    ) -> None:
        """One lie in one list: it is refused, or what the device believes is true all the same."""
        run = Run(size)
        run.happen("put", 0, 0)
        for what, name, who, notice in steps:
            if what != "forget":
                run.happen(what, name, who)
                run.notice(notice)
        lies = 0

        def lie(page: ValueChanges) -> ValueChanges:
            nonlocal lies
            lies += 1
            return mutated(page, run.realm, at, how) if lies == 1 + at % 2 else page

        before = run.history.snapshot()
        try:
            run.list(lie)
        except (DishonestRealmError, MissingEpochError):
            known = run.history.snapshot()
            self.assertEqual((before.revision, before.names), (known.revision, known.names))
        self.assert_believes_the_truth(run)
