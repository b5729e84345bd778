"""What waits for one device: in order, control first, never more than its room."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.realm.outbox import MAX_CONTROL_BYTES, Outbox

MOST = 16384


def take_all(outbox: "Outbox[str]", most: int = MOST) -> list[bytes]:
    """Return what an outbox gives, in the pieces in which it gives it."""
    return list(iter(lambda: outbox.take(most), b""))


class OutboxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.outbox: Outbox[str] = Outbox()

    def test_it_is_empty_at_first(self) -> None:
        self.assertFalse(self.outbox)
        self.assertEqual(b"", self.outbox.take(MOST))
        self.assertEqual([], list(self.outbox.drop_runs()))
        self.assertEqual(0, self.outbox.data_bytes)

    def test_runs_come_in_order_and_joined(self) -> None:
        for run in (b"one", b"two", b"three"):
            self.assertTrue(self.outbox.add_run(run, 1, "alice", MOST))
        self.assertEqual(11, self.outbox.data_bytes)
        self.assertTrue(self.outbox)
        self.assertEqual([b"onetwothree"], take_all(self.outbox))
        self.assertEqual(0, self.outbox.data_bytes)
        self.assertFalse(self.outbox)

    def test_control_comes_first(self) -> None:
        self.outbox.add_run(b"data", 1, "alice", MOST)
        self.outbox.add_control(b"control")
        self.outbox.add_last_word(b"bye")
        self.assertTrue(self.outbox)
        self.assertEqual([b"controlbyedata"], take_all(self.outbox))

    def test_pieces_are_joined_up_to_a_size(self) -> None:
        for run in (b"aaaa", b"bbbb", b"cc", b"dddddddd", b"e"):
            self.outbox.add_run(run, 1, "alice", MOST)
        self.assertEqual([b"aaaabbbb", b"cc", b"dddddddd", b"e"], take_all(self.outbox, 8))

    def test_what_is_larger_than_that_comes_alone(self) -> None:
        self.outbox.add_run(b"a" * 100, 3, "alice", MOST)
        self.outbox.add_run(b"b", 1, "alice", MOST)
        self.assertEqual([b"a" * 100, b"b"], take_all(self.outbox, 8))

    def test_what_does_not_fit_is_refused_and_changes_nothing(self) -> None:
        self.assertTrue(self.outbox.add_run(b"12345", 1, "alice", 10))
        self.assertFalse(self.outbox.add_run(b"123456", 1, "alice", 10))
        self.assertTrue(self.outbox.add_run(b"54321", 1, "alice", 10))
        self.assertFalse(self.outbox.add_run(b"1", 1, "alice", 10))
        self.assertFalse(self.outbox.add_run(b"1", 1, "alice", -5))
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
        self.outbox.add_run(b"one", 4, "alice", MOST)
        self.outbox.add_run(b"two", 5, "bob", MOST)
        self.outbox.add_control(b"stays")
        self.assertEqual([(4, "alice"), (5, "bob")], list(self.outbox.drop_runs()))
        self.assertEqual(0, self.outbox.data_bytes)
        self.assertEqual([b"stays"], take_all(self.outbox))

    @given(
        steps=st.lists(
            st.tuples(st.just("run"), st.binary(min_size=1, max_size=50), st.integers(0, 200))
            | st.tuples(st.just("control"), st.binary(min_size=1, max_size=50), st.just(0))
            | st.tuples(st.just("take"), st.just(b""), st.integers(1, 100)),
            max_size=40,
        )
    )
    def test_nothing_is_lost_and_every_byte_is_counted(
        self, steps: list[tuple[str, bytes, int]]
    ) -> None:
        outbox: Outbox[str] = Outbox()
        runs: list[bytes] = []
        control: list[bytes] = []
        for kind, data, number in steps:
            if kind == "run":
                fits = sum(map(len, runs)) + len(data) <= number
                self.assertEqual(fits, outbox.add_run(data, 1, "alice", number))
                runs += [data] if fits else []
            elif kind == "control":
                self.assertTrue(outbox.add_control(data))
                control.append(data)
            else:
                taken = outbox.take(number)
                ahead = b"".join(control)
                self.assertTrue(taken.startswith(ahead))
                taken = taken[len(ahead) :]
                control.clear()
                while taken:
                    self.assertTrue(taken.startswith(runs[0]))
                    taken = taken[len(runs.pop(0)) :]
            self.assertEqual(sum(map(len, runs)), outbox.data_bytes)
            self.assertEqual(bool(runs or control), bool(outbox))
        self.assertEqual(b"".join(control + runs), b"".join(take_all(outbox)))
