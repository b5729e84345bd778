"""The benchmark's harness: what it counts, how it compares, and that it still runs."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from benchmarks.conversation import PacketCounter
from benchmarks.errors import PacketsLost, ServerFailed
from benchmarks.loads import LOADS
from benchmarks.measure import Results, Sample
from benchmarks.nats import foreign_line
from benchmarks.report import bars

ROOT = Path(__file__).parent.parent
PACKET = b"MSG somebody 1 5\r\nhello\r\n"
PING, PONG = b"PING\r\n", b"PONG\r\n"


class PacketCounterTests(TestCase):
    @given(
        stream=st.lists(st.sampled_from([PACKET, PING]), max_size=20),
        cuts=st.lists(st.integers(0, 20 * len(PACKET)), max_size=20),
    )
    def test_any_split_counts_the_same(self, stream: list[bytes], cuts: list[int]) -> None:
        """However a stream is cut, its packets are counted and what stands between is answered."""
        counter = PacketCounter(PACKET, foreign_line)
        data = b"".join(stream)
        edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
        whole = sum(counter.feed(data[start:end]) for start, end in pairwise(edges))
        self.assertEqual(whole, stream.count(PACKET))
        self.assertEqual(counter.answer, PONG * stream.count(PING))

    @given(position=st.integers(0, len(PACKET) - 1))
    def test_a_changed_byte_fails(self, position: int) -> None:
        """A packet that is not the expected one fails the run, wherever it differs."""
        changed = bytearray(PACKET)
        changed[position] ^= 1
        counter = PacketCounter(PACKET, foreign_line)
        with self.assertRaises(ServerFailed):
            counter.feed(PACKET + bytes(changed) + PACKET)

    def test_a_packet_where_none_is_expected_fails(self) -> None:
        counter = PacketCounter(b"", foreign_line)
        self.assertEqual(counter.feed(PING), 0)
        with self.assertRaises(ServerFailed):
            counter.feed(PACKET)

    def test_senseless_bytes_are_not_held_for_ever(self) -> None:
        counter = PacketCounter(b"", lambda _: None)
        with self.assertRaises(PacketsLost):
            for _ in range(100):
                counter.feed(bytes(1000))


class RatioTests(TestCase):
    def results(self, ours: list[float], theirs: list[float]) -> Results:
        return Results(
            [
                Sample("closed-100", server, number, {"packets_per_cpu_second": value})
                for server, values in (("abst", ours), ("nats", theirs))
                for number, value in enumerate(values)
            ]
        )

    def test_ratios_are_taken_within_a_round(self) -> None:
        """A machine that slows down changes both figures of a round, and no ratio."""
        results = self.results([80.0, 8.0, 40.0], [100.0, 10.0, 50.0])
        ratio = results.ratio("closed-100", "abst", "nats", "packets_per_cpu_second")
        self.assertAlmostEqual(ratio or 0.0, 0.8)

    def test_a_bar_says_whether_it_is_reached(self) -> None:
        reached, missed = (bars(LOADS, self.results([ours], [100.0]))[0] for ours in (50.0, 49.0))
        self.assertTrue(str(reached).endswith("0.50, bar 0.5: reached"))
        self.assertTrue(str(missed).endswith("0.49, bar 0.5: falls short"))

    def test_no_peer_no_verdict(self) -> None:
        self.assertEqual(bars(LOADS, self.results([50.0], [])), [])


class RunTests(TestCase):
    def test_a_short_run_against_a_realm(self) -> None:
        """The harness starts a real realm, loads it in each way, and finds all packets again."""
        output = Path(self.mktemp()).resolve()
        command = [sys.executable, "-m", "benchmarks", "--server", "abst", "--rounds", "1"]
        command += ["--seconds", "0.2", "--at-most", "4", "--json", str(output)]
        command += ["--only", "pipelined-1000", "closed-100", "idle"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
        self.assertEqual(run.returncode, 0, run.stderr)
        report = json.loads(output.read_text())
        figures = {sample["load"]: sample["figures"] for sample in report["samples"]}
        self.assertEqual(list(figures), ["pipelined-1000", "closed-100", "idle"])
        self.assertGreater(figures["pipelined-1000"]["packets_per_cpu_second"], 0)
        self.assertGreater(figures["closed-100"]["latency_p50_ms"], 0)
        self.assertIn("idle_kib_after_more_traffic", figures["idle"])
        self.assertIn("TLSv1.3", report["servers"]["abst"]["security"])
