"""The benchmark's harness: what it counts, how it compares, and that it still runs."""

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import TestCase

from benchmarks.circuit_report import bars as circuit_bars
from benchmarks.circuits import Bulk
from benchmarks.conversation import PacketCounter
from benchmarks.errors import PacketsLost, ServerFailed
from benchmarks.fanout import FANOUT_LOADS
from benchmarks.fanout_report import bars as fanout_bars
from benchmarks.file_report import bars as file_bars
from benchmarks.files import Files
from benchmarks.loads import LOADS, Bounds
from benchmarks.measure import Results, Sample, take_turns
from benchmarks.message_client import RECEIVED, Board, Task
from benchmarks.message_report import bars as message_bars
from benchmarks.movers import RECEIVER, SENDER, Prepared
from benchmarks.nats import foreign_line
from benchmarks.network import with_algorithm
from benchmarks.process import ServerProcess
from benchmarks.relays import Ends
from benchmarks.report import bars
from benchmarks.value_report import bars as value_bars
from benchmarks.values import VALUE_LOADS
from tests import TOOLS_SKIP

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


class MessageBarTests(TestCase):
    def test_a_rate_is_compared_one_way_and_a_time_the_other(self) -> None:
        """More messages are better, and less time is."""
        samples = []
        for pair, rate, broker, answered in (("abst devices", 9, 6, 4), ("aiomqtt", 10, 2, 3)):
            times = {"acknowledged_p50_ms": float(broker), "answered_p50_ms": float(answered)}
            samples.append(Sample("messages-pipelined", pair, 0, {"received_per_second": rate}))
            samples.append(Sample("messages-one", pair, 0, times))
        found = list(message_bars(Results(samples)))
        self.assertEqual([round(bar.value, 2) for bar in found], [0.9, 3.0, 2.0, 1.33])
        self.assertEqual([bar.is_reached for bar in found], [False, False, True, True])

    def test_no_peer_no_verdict(self) -> None:
        sample = Sample("messages-pipelined", "abst devices", 0, {"received_per_second": 9.0})
        self.assertEqual(list(message_bars(Results([sample]))), [])


class FanoutBarTests(TestCase):
    def test_the_bar_is_a_share_of_nats_server_with_tls(self) -> None:
        samples = [
            Sample("fanout-100", server, 0, {"packets_per_cpu_second": rate})
            for server, rate in (("abst", 6.0), ("nats", 10.0), ("nats without TLS", 5.0))
        ]
        (bar,) = fanout_bars(FANOUT_LOADS, Results(samples))
        self.assertEqual((bar.value, bar.is_reached), (0.6, False))


class ValueBarTests(TestCase):
    def test_the_bar_is_redis_without_tls_at_100_in_flight(self) -> None:
        samples = [
            Sample(load, server, 0, {"packets_per_cpu_second": rate})
            for load in ("puts-1", "puts-100")
            for server, rate in (("abst", 2.0), ("redis", 4.0), ("redis with TLS", 1.0))
        ]
        (bar,) = value_bars(VALUE_LOADS, Results(samples))
        self.assertEqual((bar.load, bar.value, bar.is_reached), ("puts-100", 0.5, False))


class ReceivingTests(TestCase):
    PROGRAM = """\
import sys
from benchmarks.message_client import Receiving, Task
receiving = Receiving(Task.from_json(sys.argv[1]))
for number in sys.argv[2:]:
    receiving.message(int(number).to_bytes(8, "big") + bytes(2))
"""

    def receive(self, *numbers: int) -> tuple[int, int]:
        """Return a receiver's exit status, and what it has counted."""
        board = Path(self.mktemp()).resolve()
        cells = Board.create(board).cells
        task = Task("receiver", "acknowledgement", 1, 10, str(board), "", {})
        command = [sys.executable, "-c", self.PROGRAM, task.to_json(), *map(str, numbers)]
        status = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=100).returncode
        return status, cells[RECEIVED]

    def test_every_message_once_and_in_order(self) -> None:
        """A receiver ends where a message is missing, comes twice, or comes too early."""
        self.assertEqual(self.receive(0, 1, 2), (0, 3))
        self.assertEqual(self.receive(0, 2, 1), (1, 1))
        self.assertEqual(self.receive(0, 1, 1), (1, 2))


class Patched:
    """A relay that is no process's work: its circuits are pairs of sockets, maybe crossed."""

    version = "1"

    def __init__(self, is_crossed: bool) -> None:
        self.name = "patched"
        self.is_crossed = is_crossed

    def start(self, folder: Path) -> ServerProcess:
        busy = "while True: pass"
        return ServerProcess([sys.executable, "-c", busy], folder, folder)

    @contextlib.contextmanager
    def opener(self, process: ServerProcess) -> Iterator["Patched"]:
        self.kept: list[tuple[socket.socket, socket.socket]] = []
        yield self
        for one, other in self.kept:
            one.close()
            other.close()

    def open(self) -> Ends:
        if self.kept:
            ends = self.kept.pop()
        else:
            ends, again = socket.socketpair(), socket.socketpair()
            if self.is_crossed:
                ends, again = (ends[0], again[1]), (again[0], ends[1])
            self.kept.append(again)
        for end in ends:
            end.settimeout(20)
        return PatchedEnds(*ends)


class PatchedEnds(Ends):
    def pass_a_byte(self) -> None:
        """Pass nothing: the other end may be elsewhere."""

    answer_a_byte = pass_a_byte


class NetworkTests(TestCase):
    def test_an_algorithm_that_nobody_has_leaves_the_machines(self) -> None:
        """What cannot be had is not claimed, and the command runs as it is."""
        algorithm, command = with_algorithm("nobodys", ["true"])
        self.assertNotEqual(algorithm, "nobodys")
        self.assertEqual(command, ["true"])

    def test_connections_have_the_algorithm_that_is_claimed(self) -> None:
        program = """\
import socket
listener = socket.create_server(("127.0.0.1", 0))
asker = socket.create_connection(listener.getsockname())
for end in (asker, listener.accept()[0]):
    print(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(bytes(1)).decode())
"""
        for wanted in ("cubic", "reno"):
            claimed, command = with_algorithm(wanted, [sys.executable, "-c", program])
            run = subprocess.run(command, capture_output=True, text=True, timeout=100)
            self.assertEqual(run.stdout.split(), [claimed, claimed], run.stderr)


class BulkTests(TestCase):
    def run_bulk(self, is_crossed: bool) -> dict[str, float]:
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        return Bulk("bulk", 2).run(Patched(is_crossed), folder, Bounds(0.3, 2))

    def test_what_goes_through_is_counted(self) -> None:
        figures = self.run_bulk(is_crossed=False)
        self.assertGreater(figures["mb_per_second"], 0)
        self.assertGreater(figures["mb_per_cpu_second"], 0)

    def test_bytes_of_another_circuit_fail(self) -> None:
        """Whatever comes out of a circuit and is not what went into it ends the run."""
        with self.assertRaises(ServerFailed) as caught:
            self.run_bulk(is_crossed=True)
        self.assertIn("not what was sent", str(caught.exception))

    def test_a_relay_that_is_gone_fails_its_run_alone(self) -> None:
        """The others are measured all the same."""

        def run_one(relay: Patched, load: Bulk, work: Path) -> dict[str, float]:
            if relay.is_crossed:
                raise ConnectionRefusedError("nobody listens")
            return {"mb_per_second": 1.0}

        results, folder = Results(), Path(self.mktemp()).resolve()
        folder.mkdir()
        relays = [Patched(is_crossed=True), Patched(is_crossed=False)]
        relays[1].name = "other"
        take_turns(results, relays, [Bulk("bulk", 2)], 1, folder, lambda line: None, run_one)
        (failure,) = results.failures()
        self.assertIn("ConnectionRefusedError: nobody listens", failure.failure or "")
        self.assertEqual(results.values("bulk", "other", "mb_per_second"), [1.0])


class CircuitBarTests(TestCase):
    def test_bars_are_multiples_of_two_relays(self) -> None:
        samples = [
            Sample("circuit-bulk-20", relay, 0, {"mb_per_cpu_second": rate})
            for relay, rate in (("abst", 4.0), ("strelaysrv", 2.0), ("transit-relay", 1.0))
        ]
        found = list(circuit_bars(Results(samples)))
        self.assertEqual([bar.value for bar in found], [2.0, 4.0])
        self.assertEqual([bar.is_reached for bar in found], [True, False])


class Copying:
    """A program that sends a file to another folder of this machine, in one way or another."""

    name = version = "copying"

    def __init__(self, program: str) -> None:
        self.program = program

    @contextlib.contextmanager
    def prepare(self, file: Path, folder: Path) -> Iterator[Prepared]:
        inbox = folder / "inbox"
        inbox.mkdir()
        send = [sys.executable, "-c", self.program, str(file), str(inbox / file.name)]
        idle = [sys.executable, "-c", "import time; time.sleep(100)"]
        with ServerProcess(idle, folder, folder) as process:
            yield Prepared([(RECEIVER, process)], [(SENDER, send)], inbox, folder)


class FilesTests(TestCase):
    READ = "import sys; data = bytearray(open(sys.argv[1], 'rb').read());"
    WRITE = "open(sys.argv[2], 'wb').write(data);"

    def run_files(self, program: str) -> dict[str, float]:
        load = Files(1)
        with load.folder() as folder:
            work = folder / "work"
            work.mkdir()
            figures = load.run(Copying(program), work)
            self.assertFalse(work.exists(), "the copy is left")
        self.assertFalse(folder.exists())
        return figures

    def test_a_file_that_arrives_is_measured(self) -> None:
        """CPU time counts where it was used, also that of a process's children."""
        spin = "import time\nwhile time.process_time() < 0.3: pass"
        child = f"import subprocess; subprocess.run([sys.executable, '-c', {spin!r}])"
        figures = self.run_files(self.READ + self.WRITE + child)
        self.assertGreaterEqual(figures["sender_cpu_seconds"], 0.3)
        self.assertLess(figures["receiver_cpu_seconds"], 0.2)
        self.assertAlmostEqual(
            figures["cpu_seconds"],
            figures["sender_cpu_seconds"] + figures["receiver_cpu_seconds"],
        )
        self.assertGreater(figures["sender_mib"], 1)
        self.assertGreaterEqual(figures["seconds"], 0.3)
        self.assertAlmostEqual(figures["mb_per_second"], 1 / figures["seconds"])

    def test_a_changed_file_fails(self) -> None:
        with self.assertRaises(PacketsLost):
            self.run_files(self.READ + "data[500_000] ^= 1;" + self.WRITE)

    def test_a_missing_file_fails(self) -> None:
        with self.assertRaises(PacketsLost):
            self.run_files("")

    def test_a_command_that_fails_fails(self) -> None:
        with self.assertRaises(ServerFailed) as caught:
            self.run_files(self.READ + self.WRITE + "sys.exit('no more')")
        self.assertIn("no more", str(caught.exception))

    def test_the_bar_is_a_multiple_of_wormhole(self) -> None:
        samples = [
            Sample("files", program, 0, {"mb_per_second": rate})
            for program, rate in (("abst", 300.0), ("wormhole", 60.0), ("scp", 500.0))
        ]
        (bar,) = file_bars(Results(samples))
        self.assertEqual((bar.value, bar.is_reached), (5.0, True))


class RunTests(TestCase):
    """Short runs of the benchmarks."""

    skip = TOOLS_SKIP

    def test_a_short_run_of_messages_between_two_devices(self) -> None:
        """Two real devices send each other messages through a real realm, and none is missing."""
        output = Path(self.mktemp()).resolve()
        command = [sys.executable, "-m", "benchmarks", "--server", "abst", "--rounds", "1"]
        command += ["--only", "messages-pipelined", "messages-one"]
        command += ["--seconds", "0.5", "--json", str(output)]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
        self.assertEqual(run.returncode, 0, run.stderr)
        report = json.loads(output.read_text())
        figures = {sample["load"]: sample["figures"] for sample in report["samples"]}
        self.assertEqual(list(figures), ["messages-pipelined", "messages-one"])
        self.assertGreater(figures["messages-pipelined"]["received_per_second"], 0)
        self.assertGreater(figures["messages-one"]["acknowledged_p50_ms"], 0)
        self.assertGreater(figures["messages-one"]["answered_p99_ms"], 0)
        self.assertIn("abst devices", run.stdout)

    def test_a_short_run_of_circuits(self) -> None:
        """Two devices get circuits from a real realm, and what goes through them is whole."""
        figures = self.figures("circuit-bulk-20", "circuit-open", "circuit-idle", "--at-most", "4")
        self.assertGreater(figures["circuit-bulk-20"]["mb_per_cpu_second"], 0)
        self.assertGreater(figures["circuit-open"]["open_p50_ms"], 0)
        self.assertGreaterEqual(figures["circuit-idle"]["circuit_descriptors"], 2)

    def test_a_short_run_of_fan_out(self) -> None:
        """Members of a group, and subscribers of each broker, all get what one sends."""
        arguments = ("--only", "fanout-one-100", "--at-most", "3", "--seconds", "0.1")
        said, samples = self.run_briefly("--server", "abst", "nats", "mosquitto", *arguments)
        # Each broker is measured with TLS and without.
        self.assertEqual(len(samples), 5 - 2 * said.count("skipped: "), said)
        for sample in samples:
            self.assertGreater(sample["figures"]["latency_p50_ms"], 0)

    def test_a_short_run_of_values(self) -> None:
        """Values are put, found again as they were, and watched, in a realm and in Redis."""
        arguments = ("--only", "gets-100-connections", "values-watch", "--seconds", "0.1")
        said, samples = self.run_briefly("--server", "abst", "redis", "--at-most", "3", *arguments)
        # Redis is measured with TLS and without.
        self.assertEqual(len(samples), 2 * (3 - 2 * said.count("skipped: ")), said)
        for sample in samples:
            is_watch = sample["load"] == "values-watch"
            self.assertGreater(
                sample["figures"]["seen_p99_ms" if is_watch else "latency_p99_ms"], 0
            )

    def test_a_short_run_of_files(self) -> None:
        """Two real agents send each other a file through a real realm."""
        figures = self.figures("files", "--megabytes", "2")
        self.assertGreater(figures["files"]["mb_per_second"], 0)
        for role in ("sender", "receiver", "relay"):
            self.assertGreater(figures["files"][f"{role}_mib"], 1)
            self.assertGreater(figures["files"][f"{role}_most_ever_mib"], 1)
        self.assertGreater(figures["files"]["sender_cpu_seconds"], 0)

    def test_short_runs_of_other_relays(self) -> None:
        """Each relay that is installed joins its peers, and what goes through is whole."""
        others = ("strelaysrv", "transit-relay", "socat")
        loads = ("circuit-bulk", "circuit-open", "circuit-idle")
        self.check_others(others, loads, "--at-most", "3")

    def test_short_runs_of_other_programs_that_send_files(self) -> None:
        """Each program that is installed has its servers and its keys, and sends a file."""
        self.check_others(("wormhole", "scp"), ("files",), "--megabytes", "2")

    def check_others(self, others: Sequence[str], loads: Sequence[str], *more: str) -> None:
        """Run loads on others than ABST; what gives no figures must be said to be missing."""
        said, samples = self.run_briefly("--server", *others, "--only", *loads, *more)
        measured = {(sample["load"], sample["server"]) for sample in samples}
        found = {other for other in others if (loads[0], other) in measured}
        self.assertEqual(measured, {(load, other) for load in loads for other in found})
        self.assertEqual(said.count("skipped: "), len(others) - len(found), said)

    def figures(self, *arguments: str) -> dict[str, dict[str, float]]:
        """Return what a short run with ABST alone has measured, by load."""
        _, samples = self.run_briefly("--server", "abst", "--only", *arguments)
        return {sample["load"]: sample["figures"] for sample in samples}

    def run_briefly(self, *arguments: str) -> tuple[str, list[dict[str, Any]]]:
        """Return what a short run printed, and its samples."""
        output = Path(self.mktemp()).resolve()
        command = [sys.executable, "-m", "benchmarks", "--rounds", "1", "--seconds", "0.3"]
        command += ["--json", str(output), *arguments]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
        self.assertEqual(run.returncode, 0, run.stderr)
        samples: list[dict[str, Any]] = json.loads(output.read_text())["samples"]
        return run.stdout, samples

    def test_a_short_run_against_a_realm(self) -> None:
        """The harness starts a real realm, loads it in each way, and finds all packets again."""
        output = Path(self.mktemp()).resolve()
        command = [sys.executable, "-m", "benchmarks", "--server", "abst", "--rounds", "1"]
        command += ["--seconds", "0.2", "--at-most", "4", "--json", str(output)]
        command += ["--only", "pipelined-1000", "closed-100", "idle", "fanout-100"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
        self.assertEqual(run.returncode, 0, run.stderr)
        report = json.loads(output.read_text())
        figures = {sample["load"]: sample["figures"] for sample in report["samples"]}
        self.assertEqual(list(figures), ["pipelined-1000", "closed-100", "idle", "fanout-100"])
        for load in ("pipelined-1000", "fanout-100"):
            self.assertGreater(figures[load]["packets_per_cpu_second"], 0)
        self.assertGreater(figures["closed-100"]["latency_p50_ms"], 0)
        self.assertIn("idle_kib_after_more_traffic", figures["idle"])
        self.assertIn("TLSv1.3", report["servers"]["abst"]["security"])
