"""Messages to a group: who can read them, and which ones a receiver drops."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from abst.device.groups.messages import (
    OVERHEAD_BYTES,
    Kind,
    MessageReader,
    MessageRefusedError,
    MessageWriter,
    OpenedMessage,
)
from abst.errors import GroupError, MissingEpochError
from abst.packets import MAX_COUNT, MAX_EPOCHS
from tests.device.groups.doubles import group_keys, member, raw_key

ALICE, BOB, CAROL = member(1), member(2), member(3)
NOW = 1_700_000_000_000
HEAD = bytes(range(32))


class MessageTests(TestCase):
    def setUp(self) -> None:
        self.keys = group_keys(2)
        self.writer = MessageWriter(ALICE, NOW)
        self.reader = MessageReader(BOB.device_id)

    def seal(self, content: bytes = b"hello") -> bytes:
        return self.writer.seal(self.keys, content, 7, HEAD)

    def open(self, sealed: bytes) -> OpenedMessage:
        return self.reader.open(self.keys, ALICE.device_id, raw_key(ALICE), sealed)

    def assert_refused(self, kind: str, sealed: bytes, **other: bytes) -> None:
        """Check that a message is refused, and that the reader is as it was."""
        before = self.reader.rows()
        source = other.get("source", ALICE.device_id)
        key = other.get("key", raw_key(ALICE))
        error = self.assertRaises(
            MessageRefusedError, self.reader.open, self.keys, source, key, sealed
        )
        self.assertEqual(kind, error.kind)
        self.assertEqual(before, self.reader.rows())

    def test_what_was_said_is_heard_with_what_the_sender_knew(self) -> None:
        heard = self.open(self.seal(b"hello"))
        self.assertEqual(OpenedMessage(Kind.APPLICATION, b"hello", 0, 7, HEAD, NOW, 0), heard)

    def test_the_overhead_is_as_told(self) -> None:
        for content in (b"", b"x" * 1000):
            self.assertEqual(len(content) + OVERHEAD_BYTES, len(self.seal(content)))
        self.assertEqual(149, OVERHEAD_BYTES)

    def test_nothing_of_it_can_be_read_without_the_key(self) -> None:
        self.assertNotIn(b"hello", self.seal())
        reader = MessageReader(BOB.device_id)
        other = group_keys(2, group=101)
        with self.assertRaises(MessageRefusedError):
            reader.open(other, ALICE.device_id, raw_key(ALICE), self.seal())

    def test_a_message_is_heard_once(self) -> None:
        first, second = self.seal(), self.seal()
        self.open(first)
        self.open(second)
        for sealed in (first, second):
            self.assert_refused("replayed", sealed)

    def test_messages_that_are_missing_are_counted(self) -> None:
        sealed = [self.seal() for _ in range(7)]
        self.assertEqual([0, 2, 0, 1], [self.open(sealed[at]).missing for at in (0, 3, 4, 6)])
        self.assert_refused("replayed", sealed[5])

    def test_a_first_message_that_is_not_the_first_counts_those_before_it(self) -> None:
        self.seal()
        self.assertEqual(1, self.open(self.seal()).missing)

    def test_what_is_not_the_applications_is_not_missing(self) -> None:
        said: list[bytes] = []
        for kind in (Kind.APPLICATION, Kind.ROSTER, Kind.ROSTER, 9, Kind.APPLICATION, Kind.ROSTER):
            said.append(self.writer.seal(self.keys, b"", 0, HEAD, kind))
        self.open(said[0])
        self.assertEqual(0, self.open(said[2]).missing)
        self.reader = MessageReader(BOB.device_id, self.reader.rows())
        self.assertEqual(0, self.open(said[4]).missing)
        self.assertEqual(0, self.open(said[5]).missing)
        late = MessageReader(BOB.device_id, [(bytes(ALICE.device_id), NOW, 1, 1)])
        found = late.open(self.keys, ALICE.device_id, raw_key(ALICE), said[5])
        self.assertEqual((Kind.ROSTER, 1), (found.kind, found.missing))

    def test_nobody_counts_more_or_fewer_messages_than_there_can_be(self) -> None:
        self.open(self.seal())
        for place in (0, 3, MAX_COUNT):
            self.writer.counter, self.writer.place = 2, place
            self.assert_refused("forged", self.seal())
        self.writer.counter, self.writer.place = 2, 1
        self.assertEqual(0, self.open(self.seal()).missing)

    def test_a_new_stream_follows_the_last_one_whatever_the_clock_says(self) -> None:
        old = self.seal()
        for now in (NOW, 0, NOW + 5):
            self.writer = MessageWriter(ALICE, now, self.writer.stream)
            self.assertEqual(0, self.open(self.seal()).missing)
        self.assertEqual(NOW + 5, self.writer.stream)
        self.assert_refused("replayed", old)

    def test_a_clock_far_in_the_future_is_refused(self) -> None:
        self.assertRaises(GroupError, MessageWriter, ALICE, MAX_COUNT + 1)
        self.assertRaises(GroupError, MessageWriter, ALICE, 0, MAX_COUNT)

    def test_a_restart_forgets_nothing(self) -> None:
        sealed = [self.seal() for _ in range(3)]
        self.open(sealed[1])
        self.reader = MessageReader(BOB.device_id, self.reader.rows())
        self.assert_refused("replayed", sealed[0])
        self.assert_refused("replayed", sealed[1])
        self.assertEqual(0, self.open(sealed[2]).missing)

    def test_the_counter_goes_on_in_the_next_epoch(self) -> None:
        self.open(self.seal())
        self.keys = self.keys.with_next(bytes(32))
        sealed = self.seal()
        self.assertEqual(2, int.from_bytes(sealed[:4], "big"))
        self.assertEqual(0, self.open(sealed).missing)

    def test_a_missing_epoch_is_named_and_heals(self) -> None:
        self.open(self.seal())
        newer = self.keys.with_next(bytes(32))
        sealed = self.writer.seal(newer, b"later", 7, HEAD)
        before = self.reader.rows()
        error = self.assertRaises(MissingEpochError, self.open, sealed)
        self.assertEqual((2, before), (error.epoch, self.reader.rows()))
        self.keys = newer
        self.assertEqual(b"later", self.open(sealed).content)

    def test_a_removed_device_reads_nothing_that_is_written_later(self) -> None:
        kept = self.keys
        newer = self.keys.with_next(bytes(32))
        sealed = self.writer.seal(newer, b"later", 7, HEAD)
        claimed = (1).to_bytes(4, "big") + sealed[4:]
        for content in (sealed, claimed):
            with self.assertRaises(GroupError):
                MessageReader(CAROL.device_id).open(kept, ALICE.device_id, raw_key(ALICE), content)

    def test_a_member_cannot_speak_for_another(self) -> None:
        """Carol has all the group's keys; what she lacks is Alice's."""
        carol = MessageWriter(CAROL, NOW).seal(self.keys, b"I am Alice", 7, HEAD)
        self.assert_refused("forged", carol)
        self.assert_refused("forged", carol, source=CAROL.device_id, key=raw_key(ALICE))
        self.assert_refused("forged", self.seal(), source=CAROL.device_id, key=raw_key(CAROL))

    def test_a_realm_gives_nobody_its_own_messages_back(self) -> None:
        self.reader = MessageReader(ALICE.device_id)
        self.assert_refused("replayed", self.seal())

    def test_every_byte_counts(self) -> None:
        sealed = self.seal()
        for at in range(len(sealed)):
            changed = sealed[:at] + bytes([sealed[at] ^ 0x80]) + sealed[at + 1 :]
            before = self.reader.rows()
            with self.assertRaises(GroupError):
                self.open(changed)
            self.assertEqual(before, self.reader.rows())
        self.assert_refused("forged", sealed + b"\0")
        self.open(sealed)

    def test_an_epoch_that_no_group_can_have_is_a_forgery(self) -> None:
        sealed = self.seal()
        self.assert_refused("forged", MAX_EPOCHS.to_bytes(4, "big") + sealed[4:])

    @settings(max_examples=50)
    @given(st.binary(max_size=300))
    def test_any_bytes_are_refused(self, content: bytes) -> None:
        self.setUp()
        with self.assertRaises((MessageRefusedError, MissingEpochError)):
            self.open(content)
        with self.assertRaises(MessageRefusedError):
            self.open(bytes(4) + content)

    @settings(max_examples=20)
    @given(st.lists(st.integers(0, 9), max_size=30))
    def test_in_any_order_each_is_heard_at_most_once_and_gaps_are_counted(
        self, order: list[int]
    ) -> None:
        self.setUp()
        sealed = [self.seal(bytes([at])) for at in range(10)]
        heard, missing = [], 0
        for at in order:
            try:
                opened = self.open(sealed[at])
            except MessageRefusedError:
                continue
            heard.append(opened.content[0])
            missing += opened.missing
        self.assertEqual(sorted(set(heard)), heard)
        self.assertEqual(max(heard, default=-1) + 1, len(heard) + missing)
