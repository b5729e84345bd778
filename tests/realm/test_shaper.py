"""How fast devices send: the rates are kept, all get the same, and nobody waits for nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from abst.realm.deadlines import Deadlines
from abst.realm.limits import Limits
from abst.realm.shaper import BURST_SECONDS, MOST_WAIT_SECONDS, READ_BYTES, Shaper


class Sender:
    """A device that sends as much as it is read from, and notes when that was."""

    def __init__(self, stage: Stage, name: str, packets: int = 1, copies: int = 1) -> None:
        self.stage = stage
        self.device = name.encode("ascii")
        self.packets = packets
        self.copies = copies
        self.is_held = False
        self.is_greedy = True
        self.sent = 0
        self.reads: list[float] = []
        self.released: list[float] = []

    def read(self, count: int = READ_BYTES) -> bool:
        """Be read from once; return whether it is held then."""
        self.sent += count
        self.reads.append(self.stage.now)
        return self.stage.shaper.spend(
            self, self.device, count, self.packets, count * self.copies, self.stage.now
        )

    def read_all(self) -> None:
        """Be read from as long as that may be."""
        while not self.is_held and self.is_greedy:
            self.read()

    def hold(self) -> None:
        assert not self.is_held
        self.is_held = True

    def release(self, now: float) -> None:
        assert self.is_held
        self.is_held = False
        self.released.append(now)


class Stage:
    """A shaper, its senders, and the time."""

    def __init__(self, **limits: int) -> None:
        self.now = 1000.0
        self.deadlines = Deadlines()
        self.shaper = Shaper(Limits(**limits), self.deadlines, {b"own"})
        self.senders: list[Sender] = []

    def add(self, name: str, packets: int = 1, copies: int = 1) -> Sender:
        self.senders.append(Sender(self, name, packets, copies))
        return self.senders[-1]

    def run(self, seconds: float) -> None:
        """Let everybody send for a while."""
        end = self.now + seconds
        while True:
            for sender in self.senders:
                sender.read_all()
            due = self.deadlines.next()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.deadlines.run_due(self.now)
        self.now = end


class ShaperTests(SynchronousTestCase):
    def assert_about(self, wanted: float, got: float, difference: float) -> None:
        """Fail unless something is nearly as it shall be."""
        self.assertLessEqual(abs(wanted - got), difference, f"{got} in place of {wanted}")

    def test_without_limits_it_is_off(self) -> None:
        stage = Stage()
        self.assertFalse(stage.shaper.is_on)
        self.assertGreater(stage.shaper.turn_bytes, 1 << 20)
        self.assertFalse(stage.add("a").read(1 << 30))

    def test_who_can_choose_reads_little_at_once(self) -> None:
        for rate, most in ((20_000, 4096), (2_000_000, 2 * READ_BYTES), (1 << 40, 4 * READ_BYTES)):
            for limits in ({"bytes_per_second": rate}, {"device_bytes_per_second": rate}):
                self.assertLessEqual(Stage(**limits).shaper.turn_bytes, most)

    def test_a_device_keeps_its_rate_over_all_its_connections(self) -> None:
        stage = Stage(device_bytes_per_second=100_000)
        first, second, other = stage.add("a"), stage.add("a"), stage.add("b")
        stage.run(20)
        for sent in (first.sent + second.sent, other.sent):
            self.assert_about(21 * 100_000, sent, 0.05 * 21 * 100_000)

    def test_a_device_keeps_its_rate_in_packets(self) -> None:
        stage = Stage(device_packets_per_second=100)
        sender = stage.add("a", packets=20)
        stage.run(20)
        self.assert_about(21 * 100, 20 * len(sender.reads), 100)

    def test_nobody_waits_long_for_its_own_rate(self) -> None:
        """Whatever came at once: a heartbeat may be behind it."""
        stage = Stage(device_bytes_per_second=10)
        sender = stage.add("a")
        sender.is_greedy = False
        self.assertTrue(sender.read(1_000_000))
        begun = stage.now
        stage.run(10)
        self.assertEqual([begun + MOST_WAIT_SECONDS], sender.released)

    def test_what_is_read_while_somebody_is_held_is_counted_and_no_more(self) -> None:
        stage = Stage(device_bytes_per_second=1000)
        sender = stage.add("a")
        sender.is_greedy = False
        self.assertTrue(sender.read(1500))
        self.assertFalse(sender.read(400))
        stage.run(10)
        self.assertEqual(1, len(sender.released))

    def test_all_together_keep_the_rate_and_have_equal_shares(self) -> None:
        stage = Stage(bytes_per_second=1_000_000)
        senders = [stage.add(f"device {number}") for number in range(20)]
        stage.run(10)
        sent = [sender.sent for sender in senders]
        self.assert_about(10_000_000, sum(sent), 800_000)
        self.assertLessEqual(max(sent) - min(sent), 2 * READ_BYTES + 1_000_000 * BURST_SECONDS)

    def test_more_connections_are_no_larger_share(self) -> None:
        """Also where so much may go that several are released at once."""
        for rate in (1_000_000, 20_000_000):
            stage = Stage(bytes_per_second=rate)
            alice = stage.add("alice")
            bob = [stage.add("bob") for _ in range(9)]
            stage.run(10)
            self.assert_about(alice.sent, sum(sender.sent for sender in bob), rate / 2)

    def test_what_goes_to_many_counts_as_often(self) -> None:
        stage = Stage(bytes_per_second=1_000_000)
        to_one, to_ten = stage.add("a"), stage.add("b", copies=10)
        stage.run(20)
        self.assert_about(to_one.sent, 10 * to_ten.sent, 1_500_000)

    def test_a_light_device_hardly_waits_beside_greedy_ones(self) -> None:
        stage = Stage(bytes_per_second=1_000_000)
        for number in range(50):
            stage.add(f"greedy {number}")
        light = stage.add("light")
        light.is_greedy = False
        waits = []
        stage.run(1)
        for _ in range(100):
            if light.read(100):
                begun = stage.now
                stage.run(0.1)
                waits.append(light.released[-1] - begun)
            stage.run(0.02)
        self.assertLess(max(waits, default=0.0), 4 * READ_BYTES / 1_000_000)

    def test_no_more_comes_at_once_than_the_uplink_takes_soon(self) -> None:
        stage = Stage(bytes_per_second=1_000_000)
        sender = stage.add("a")
        stage.run(0)
        stage.now += 1000
        sender.sent = 0
        stage.run(0.001)
        self.assertLessEqual(sender.sent, 1_000_000 * BURST_SECONDS + 2 * READ_BYTES)

    def test_the_realms_own_are_not_held(self) -> None:
        stage = Stage(bytes_per_second=1000, device_bytes_per_second=1000)
        self.assertFalse(stage.add("own").read(1_000_000))

    def test_other_limits_release_who_is_held(self) -> None:
        stage = Stage(bytes_per_second=1000, device_bytes_per_second=1_000_000)
        senders = [stage.add(name) for name in "abc"]
        for sender in senders:
            sender.is_greedy = False
            self.assertTrue(sender.read())
        stage.shaper.use_limits(Limits())
        stage.run(60)
        self.assertFalse(any(sender.is_held for sender in senders))

    def test_when_all_are_gone_it_begins_anew(self) -> None:
        stage = Stage(bytes_per_second=1000)
        self.assertTrue(stage.add("a").read())
        stage.deadlines.clear()
        stage.shaper.clear()
        stage.senders.clear()
        later = stage.add("b")
        later.is_greedy = False
        self.assertTrue(later.read())
        stage.run(60)
        self.assertFalse(later.is_held)

    @given(
        st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 60_000)), max_size=60),
        st.sampled_from([0, 20_000]),
        st.sampled_from([0, 50_000]),
    )
    def test_whoever_is_held_is_released(
        self, pieces: list[tuple[str, int]], own: int, of_all: int
    ) -> None:
        stage = Stage(device_bytes_per_second=own, bytes_per_second=of_all)
        senders = {name: stage.add(name) for name in "abcd"}
        for sender in senders.values():
            sender.is_greedy = False
        for name, count in pieces:
            sender = senders[name]
            if not sender.is_held:
                sender.read(count)
            stage.run(0.01)
        stage.run(200)
        self.assertFalse(any(sender.is_held for sender in senders.values()))
        self.assertEqual(0, len(stage.deadlines))
