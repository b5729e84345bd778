"""What waits for one device: control first, each sender in order, all fairly, within its room."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.realm.outbox import MAX_CONTROL_BYTES, Outbox

MOST = 16384
ROOM = 100_000


@dataclass(frozen=True)
class Source:
    """Who sends; several may be one device's, as its memberships in groups are."""

    device_id: bytes
    group: int = 0


ALICE, BOB, CAROL = Source(b"alice"), Source(b"bob"), Source(b"carol")


def add(
    outbox: Outbox[Source | None],
    run: bytes,
    source: Source | None,
    room: int = ROOM,
    count: int = 1,
) -> bool:
    """Add a run where there is no other bound than the room."""
    return outbox.add_run(run, count, source, room, 10 * room)


def take_all(outbox: Outbox[Source | None], most: int = MOST) -> list[bytes]:
    """Return what an outbox gives, in the pieces in which it gives it."""
    return list(iter(lambda: outbox.take(most), b""))


class Looked:
    """A source that counts how often somebody looks whose it is."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.looks = 0

    @property
    def device_id(self) -> bytes:
        self.looks += 1
        return self.name


class OutboxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.outbox: Outbox[Source | None] = Outbox()

    def test_a_run_that_does_not_fit_costs_nothing_of_what_waits(self) -> None:
        outbox: Outbox[Looked] = Outbox()
        first, second = Looked(b"alice"), Looked(b"bob")
        for _ in range(1000):
            self.assertTrue(outbox.add_run(b"x" * 90, 1, first, ROOM, ROOM))
        for _ in range(1000):
            self.assertFalse(outbox.add_run(b"y" * ROOM, 1, second, ROOM, ROOM))
        self.assertLess(first.looks, 3000)
        self.assertEqual([b"x" * 90], sorted(set(iter(lambda: outbox.take(1), b""))))

    def test_it_is_empty_at_first(self) -> None:
        self.assertFalse(self.outbox)
        self.assertEqual(b"", self.outbox.take(MOST))
        self.assertEqual([], list(self.outbox.drop_runs()))
        self.assertEqual(0, self.outbox.data_bytes)

    def test_runs_come_in_order_and_joined(self) -> None:
        for run in (b"one", b"two", b"three"):
            self.assertTrue(add(self.outbox, run, ALICE, MOST))
        self.assertEqual(11, self.outbox.data_bytes)
        self.assertTrue(self.outbox)
        self.assertEqual([b"onetwothree"], take_all(self.outbox))
        self.assertEqual(0, self.outbox.data_bytes)
        self.assertFalse(self.outbox)

    def test_control_comes_first(self) -> None:
        add(self.outbox, b"data", ALICE, MOST)
        self.outbox.add_control(b"control")
        self.outbox.add_last_word(b"bye")
        self.assertTrue(self.outbox)
        self.assertEqual([b"controlbyedata"], take_all(self.outbox))

    def test_pieces_are_joined_up_to_a_size(self) -> None:
        for run in (b"aaaa", b"bbbb", b"cc", b"dddddddd", b"e"):
            add(self.outbox, run, ALICE, MOST)
        self.assertEqual([b"aaaabbbb", b"cc", b"dddddddd", b"e"], take_all(self.outbox, 8))

    def test_what_is_larger_than_that_comes_alone(self) -> None:
        add(self.outbox, b"a" * 100, ALICE, MOST, count=3)
        add(self.outbox, b"b", ALICE, MOST)
        self.assertEqual([b"a" * 100, b"b"], take_all(self.outbox, 8))

    def test_what_does_not_fit_is_refused_and_changes_nothing(self) -> None:
        self.assertTrue(add(self.outbox, b"12345", None, 10))
        self.assertFalse(add(self.outbox, b"123456", None, 10))
        self.assertTrue(add(self.outbox, b"54321", None, 10))
        self.assertFalse(add(self.outbox, b"1", None, 10))
        self.assertFalse(add(self.outbox, b"1", ALICE, 10))
        self.assertFalse(add(self.outbox, b"1", ALICE, -5))
        self.assertEqual([b"1234554321"], take_all(self.outbox))

    def test_control_is_bounded_and_the_last_word_fits(self) -> None:
        packet = b"x" * 1000
        number = 0
        while self.outbox.add_control(packet):
            number += 1
        self.assertEqual(MAX_CONTROL_BYTES // 1000, number)
        self.outbox.add_last_word(b"bye")
        self.assertEqual(packet * number + b"bye", self.outbox.take(MOST))
        self.assertTrue(self.outbox.add_control(packet))

    def test_control_that_nobody_will_read_is_thrown_away(self) -> None:
        self.outbox.add_control(b"x" * MAX_CONTROL_BYTES)
        self.outbox.clear_control()
        self.assertFalse(self.outbox)
        self.assertTrue(self.outbox.add_control(b"x" * MAX_CONTROL_BYTES))

    def test_dropped_runs_are_told_with_count_and_source(self) -> None:
        add(self.outbox, b"one", ALICE, MOST, count=4)
        add(self.outbox, b"two", BOB, MOST, count=5)
        self.outbox.add_control(b"stays")
        self.assertEqual([(4, ALICE), (5, BOB)], list(self.outbox.drop_runs()))
        self.assertEqual(0, self.outbox.data_bytes)
        self.assertEqual([b"stays"], take_all(self.outbox))

    def test_others_find_room_where_one_has_filled_it(self) -> None:
        """What is free beyond that, an eighth, each newcomer may have half of."""
        self.assertFalse(add(self.outbox, bytes(81), ALICE, 80))
        self.assertTrue(add(self.outbox, bytes(80), ALICE, 80))
        self.assertFalse(add(self.outbox, b"a", ALICE, 80))
        self.assertFalse(add(self.outbox, bytes(6), BOB, 80))
        self.assertTrue(add(self.outbox, bytes(5), BOB, 80))
        self.assertFalse(add(self.outbox, b"a", ALICE, 80))
        self.assertFalse(add(self.outbox, b"b", BOB, 80))
        self.assertTrue(add(self.outbox, bytes(2), CAROL, 80))

    def test_there_is_no_more_than_there_is_of_all(self) -> None:
        self.assertTrue(self.outbox.add_run(bytes(70), 1, ALICE, 80, 80))
        self.assertFalse(self.outbox.add_run(bytes(6), 1, BOB, 80, 80))
        self.assertTrue(self.outbox.add_run(bytes(5), 1, BOB, 80, 80))

    def test_who_remains_alone_may_fill_it_again(self) -> None:
        add(self.outbox, bytes(10), ALICE, 80)
        add(self.outbox, bytes(9), BOB, 80)
        self.assertEqual(10, len(self.outbox.take(10)))
        self.assertTrue(add(self.outbox, bytes(71), BOB, 80))
        self.assertFalse(add(self.outbox, b"b", BOB, 80))

    def test_a_light_sender_waits_for_a_turn_and_not_for_a_round(self) -> None:
        greedy = [Source(bytes([number])) for number in range(50)]
        for _ in range(8):
            for source in greedy:
                add(self.outbox, bytes(4000), source, 1 << 22)
        for _ in range(50 * 5):  # All of them have had their head start.
            self.outbox.take(1)
        # Also the next times: what counts is how little it has sent, not that it had been silent.
        for _ in range(100):
            add(self.outbox, b"c" * 10, CAROL, 1 << 22)
            self.assertEqual(b"c" * 10, self.outbox.take(1))
            self.outbox.take(1)

    def test_who_sends_one_at_a_time_gets_no_more_than_others(self) -> None:
        """To have nothing waiting is no trick: what was sent is remembered."""
        taken = Counter[str]()
        for _ in range(100):
            for _ in range(2):
                add(self.outbox, b"A" * 4000, ALICE, 1 << 21)
            add(self.outbox, b"B" * 4000, BOB, 1 << 21)
            taken.update(self.outbox.take(1).decode("ascii"))
        self.assertLessEqual(taken["B"] - taken["A"], 16_384 + 4000)

    def test_a_device_takes_turns_as_one_in_whatever_group_it_speaks(self) -> None:
        for _ in range(10):
            for group in range(9):
                add(self.outbox, b"A" * 1000, Source(b"alice", group), 1 << 21)
            add(self.outbox, b"B" * 9000, BOB, 1 << 21)
        taken = Counter(self.outbox.take(90_000).decode("ascii"))
        self.assertLessEqual(abs(taken["A"] - taken["B"]), 16_384 + 9000)

    def test_nothing_overtakes_what_the_realm_had_to_say_before(self) -> None:
        """Who sends later may know of it: a change of a value comes before what is said of it."""
        for _ in range(3):
            add(self.outbox, b"A" * 100, ALICE)
        add(self.outbox, b"B" * 10, BOB)
        add(self.outbox, b"own" * 50, None)
        add(self.outbox, b"OWN" * 50, None)
        add(self.outbox, b"b", BOB)
        add(self.outbox, b"c", CAROL)
        said = b"".join(take_all(self.outbox, 1))
        order = [said.index(piece) for piece in (b"own" * 50, b"OWN" * 50, b"b", b"c")]
        self.assertEqual(sorted(order[:2]), order[:2])
        self.assertLess(order[1], min(order[2:]))

    @given(
        steps=st.lists(
            st.tuples(
                st.sampled_from([ALICE, BOB, CAROL, Source(b"alice", 1), None, "control", "take"]),
                st.integers(1, 60),
                st.integers(0, 300),
            ),
            max_size=60,
        )
    )
    def test_nothing_is_lost_and_every_byte_is_counted(
        self, steps: list[tuple[Source | str | None, int, int]]
    ) -> None:
        outbox: Outbox[Source | None] = Outbox()
        waiting: defaultdict[bytes | None, list[int]] = defaultdict(list)
        own_before: dict[int, int] = {}
        owners: dict[int, bytes | None] = {}
        sizes: dict[int, int] = {}
        own = control = 0

        def check(taken: bytes) -> None:
            nonlocal own, control
            control = 0
            number = -1
            for number in dict.fromkeys(byte for byte in taken if byte):
                owner = owners[number]
                self.assertEqual(number, waiting[owner].pop(0))
                self.assertEqual(sizes[number], taken.count(number))
                own += owner is None
                self.assertGreaterEqual(own, own_before[number])

        own_added = 0
        for number, (what, size, room) in enumerate(steps, 1):
            if what == "control":
                self.assertTrue(outbox.add_control(bytes(size)))
                control += size
            elif what == "take":
                taken = outbox.take(room)
                self.assertTrue(taken.startswith(bytes(control)))
                check(taken)
            else:
                source = what if isinstance(what, Source) else None
                owner = None if source is None else source.device_id
                used = outbox.data_bytes
                if add(outbox, bytes([number]) * size, source, room):
                    self.assertLessEqual(used + size, room + room // 8)
                    waiting[owner].append(number)
                    owners[number], sizes[number] = owner, size
                    own_before[number] = own_added
                    own_added += owner is None
                elif source is None:
                    self.assertGreater(used + size, room)
            left = sum(sizes[number] for line in waiting.values() for number in line)
            self.assertEqual(left, outbox.data_bytes)
            self.assertEqual(bool(left or control), bool(outbox))
        for piece in take_all(outbox):
            check(piece)
        self.assertFalse(any(waiting.values()))

    @given(sizes=st.lists(st.integers(200, 16_000), min_size=2, max_size=8))
    def test_all_that_always_send_get_the_same(self, sizes: list[int]) -> None:
        """In bytes, whatever the sizes of their packets."""
        outbox: Outbox[Source | None] = Outbox()
        senders = [Source(bytes([number])) for number in range(len(sizes))]
        runs = [bytes([number]) * size for number, size in enumerate(sizes)]
        got = [0] * len(sizes)
        for number, size in enumerate(sizes):
            for _ in range(20_000 // size + 1):
                self.assertTrue(add(outbox, runs[number], senders[number], 1 << 20))
        for _ in range(300):
            run = outbox.take(1)
            got[run[0]] += len(run)
            self.assertTrue(add(outbox, run, senders[run[0]], 1 << 20))
        self.assertLessEqual(max(got) - min(got), 2 * max(sizes) + 16_384)
