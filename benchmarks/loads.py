"""The loads: who sends what to whom, and what is noted of it.

A load makes its connections on a generator, warms the server up, and looks at the server's clock of
CPU time and at the packets that arrived at both ends of a window of time. Then it stops sending and
waits for what is on its way: a run in which not everything arrives, or anything else, has failed.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.conversation import Conversation
from benchmarks.errors import PacketsLost
from benchmarks.generator import Generator

#: How far a sender may be ahead of its receiver: less than what a realm lets wait for a device, so
#: that none has a reason to drop; and much, since nats-server gains from it.
WINDOW_BYTES = 768 * 1024
#: How much a sender writes at once.
PIECE_BYTES = 32 * 1024

Figures = dict[str, float]


@dataclass(frozen=True)
class Bounds:
    """How long a load is measured, and the most pairs or idle connections that it may have."""

    seconds: float
    most: int

    @property
    def settle_seconds(self) -> float:
        """How long to warm up before a window, or to be idle before memory is read."""
        return min(2.0, self.seconds / 2)


class Load(Protocol):
    """One kind of work."""

    name: str
    #: What is done, in a few words, for the table.
    title: str

    def run(self, generator: Generator, bounds: Bounds) -> Figures:
        """Do the work and return what was measured. Raises: ServerFailed, PacketsLost."""


class Flow(Protocol):
    """Packets that are counted at both ends."""

    received: int

    @property
    def sent(self) -> int: ...

    def is_done(self) -> bool:
        """Tell whether all has been sent and has arrived."""


class _Stream:
    """Packets from one peer to another, with a bound on how many are on their way."""

    def __init__(
        self, generator: Generator, sender: Conversation, receiver: Conversation, size_bytes: int
    ) -> None:
        payload = os.urandom(size_bytes)
        packet = generator.server.packet(sender.peer, receiver.peer, payload)
        self._per_piece = max(1, PIECE_BYTES // len(packet.sent))
        self._window = max(2 * self._per_piece, WINDOW_BYTES // len(packet.sent))
        self._piece = packet.sent * self._per_piece
        self._sender = sender
        self.sent = self.received = 0
        self.most: float = 0
        receiver.expect(packet.received)
        generator.watch(receiver, self._arrived)
        generator.watch(sender, self._arrived)

    def start(self, most: float) -> None:
        """Send until at least ``most`` packets are sent, as fast as they arrive."""
        self.most = most
        self._arrived(0)

    def is_done(self) -> bool:
        """Tell whether enough is sent, and all that was sent has arrived."""
        return self.sent >= self.most and self.received >= self.sent

    def _arrived(self, packets: int) -> None:
        self.received += packets
        while (
            self.sent < self.most
            and self.sent + self._per_piece - self.received <= self._window
            and not self._sender.is_blocked
        ):
            self.sent += self._per_piece
            self._sender.send(self._piece)


class Pipelined:
    """Ten senders, each to a receiver of its own, as fast as the packets arrive."""

    def __init__(self, size_bytes: int) -> None:
        self.name = f"pipelined-{size_bytes}"
        self.title = f"{size_bytes:,} B, pipelined, 10 pairs"
        self._size_bytes = size_bytes

    def run(self, generator: Generator, bounds: Bounds) -> Figures:
        """Measure one window of time; see :class:`Load`."""
        ends = [(generator.connect(), generator.connect()) for _ in range(min(10, bounds.most))]
        streams = [_Stream(generator, *pair, self._size_bytes) for pair in ends]
        for stream in streams:
            stream.start(math.inf)
        figures = measure_window(
            generator, bounds, lambda: sum(stream.received for stream in streams)
        )
        for stream in streams:
            stream.most = 0
        finish(generator, streams)
        return figures


class _Dialogue:
    """One peer asks, another answers as much, and only then it asks again."""

    def __init__(
        self,
        generator: Generator,
        ends: tuple[Conversation, Conversation],
        size_bytes: int,
        latencies: list[float],
    ) -> None:
        self._asking, self._answering = ends
        packet = generator.server.packet
        question = packet(self._asking.peer, self._answering.peer, os.urandom(size_bytes))
        answer = packet(self._answering.peer, self._asking.peer, os.urandom(size_bytes))
        self._question, self._answer = question.sent, answer.sent
        self._latencies = latencies
        self._asked_at = 0.0
        self.is_stopped = False
        self.sent = self.received = 0
        self._answering.expect(question.received)
        self._asking.expect(answer.received)
        generator.watch(self._answering, self._question_arrived)
        generator.watch(self._asking, self._answer_arrived)

    def ask(self) -> None:
        """Send the next question."""
        self.sent += 1
        self._asked_at = time.perf_counter()
        self._asking.send(self._question)

    def is_done(self) -> bool:
        """Tell whether nothing is on its way."""
        return self.received >= self.sent

    def _question_arrived(self, packets: int) -> None:
        self.received += packets
        if packets:
            self.sent += 1
            self._answering.send(self._answer)

    def _answer_arrived(self, packets: int) -> None:
        self.received += packets
        if packets:
            self._latencies.append(time.perf_counter() - self._asked_at)
            if not self.is_stopped:
                self.ask()


class ClosedLoop:
    """Pairs in which each peer waits for the other; both directions count as packets."""

    def __init__(self, pairs: int, size_bytes: int) -> None:
        self.name = f"closed-{pairs}"
        self.title = f"{size_bytes:,} B, closed loop, {pairs} pair" + "s" * (pairs > 1)
        self._pairs = pairs
        self._size_bytes = size_bytes

    def run(self, generator: Generator, bounds: Bounds) -> Figures:
        """Measure one window of time, and every round trip in it; see :class:`Load`."""
        latencies: list[float] = []
        dialogues = [
            _Dialogue(
                generator, (generator.connect(), generator.connect()), self._size_bytes, latencies
            )
            for _ in range(min(self._pairs, bounds.most))
        ]
        for dialogue in dialogues:
            dialogue.ask()
        figures = measure_window(
            generator,
            bounds,
            lambda: sum(dialogue.received for dialogue in dialogues),
            latencies.clear,
        )
        in_window = sorted(latencies)
        for dialogue in dialogues:
            dialogue.is_stopped = True
        finish(generator, dialogues)
        if not in_window:
            raise PacketsLost("no answer came in the whole window")
        return figures | {
            "latency_p50_ms": 1000 * percentile(in_window, 50),
            "latency_p99_ms": 1000 * percentile(in_window, 99),
        }


class Idle:
    """Connections that say nothing: their memory at once, and after they have carried traffic.

    The first connections pay for what a server makes once, and are not counted. Traffic goes both
    ways between neighbours, a few pairs at a time, and twice, so that a cost that comes back with
    all traffic is told from one that comes once.
    """

    name = "idle"
    _FIRST_CONNECTIONS = 16
    _PAIRS_AT_ONCE = 10
    _TRAFFIC_BYTES = 200_000
    _PACKET_BYTES = 1_000

    def __init__(self, connections: int) -> None:
        self.title = f"{connections:,} idle connections"
        self._connections = connections

    def run(self, generator: Generator, bounds: Bounds) -> Figures:
        """Measure memory three times; see :class:`Load`."""
        self._connect(generator, self._FIRST_CONNECTIONS)
        generator.run(bounds.settle_seconds)
        before = generator.process.memory_kib()
        idle = self._connect(generator, min(self._connections, bounds.most) // 2 * 2)
        readings: list[float] = []
        for _ in range(3):
            if readings:
                self._carry_traffic(generator, idle)
            generator.run(bounds.settle_seconds)
            readings.append((generator.process.memory_kib() - before) / len(idle))
        return {
            "idle_kib": readings[0],
            "idle_kib_after_traffic": readings[1],
            "idle_kib_after_more_traffic": readings[2],
        }

    def _connect(self, generator: Generator, count: int) -> list[Conversation]:
        connected = []
        for _ in range(count):
            connected.append(generator.connect())
            generator.turn()
        return connected

    def _carry_traffic(self, generator: Generator, idle: list[Conversation]) -> None:
        packets = self._TRAFFIC_BYTES // self._PACKET_BYTES
        for first in range(0, len(idle), 2 * self._PAIRS_AT_ONCE):
            some = idle[first : first + 2 * self._PAIRS_AT_ONCE]
            for senders, receivers in ((some[::2], some[1::2]), (some[1::2], some[::2])):
                streams = [
                    _Stream(generator, sender, receiver, self._PACKET_BYTES)
                    for sender, receiver in zip(senders, receivers, strict=True)
                ]
                for stream in streams:
                    stream.start(packets)
                finish(generator, streams)


LOADS: tuple[Load, ...] = (
    Pipelined(100),
    Pipelined(1_000),
    ClosedLoop(1, 100),
    ClosedLoop(100, 100),
    Idle(1_000),
)


def measure_window(
    generator: Generator,
    bounds: Bounds,
    packets: Callable[[], int],
    at_start: Callable[[], None] = lambda: None,
) -> Figures:
    """Warm up, then measure a window of time, by the number of packets at its two ends."""
    generator.run(bounds.settle_seconds)
    at_start()
    first = (packets(), generator.process.cpu_seconds(), time.process_time(), time.perf_counter())
    generator.run(bounds.seconds)
    last = (packets(), generator.process.cpu_seconds(), time.process_time(), time.perf_counter())
    arrived, server_cpu, own_cpu, elapsed = (b - a for a, b in zip(first, last, strict=True))
    if not arrived or not server_cpu:
        raise PacketsLost(f"{arrived} packets arrived in {elapsed:.1f} s: nothing to measure")
    return {
        "packets_per_second": arrived / elapsed,
        "packets_per_cpu_second": arrived / server_cpu,
        "server_cpu_percent": 100 * server_cpu / elapsed,
        "generator_cpu_percent": 100 * own_cpu / elapsed,
    }


def finish(generator: Generator, flows: Sequence[Flow]) -> None:
    """Wait for what is on its way. Raises: PacketsLost, if it is not exactly what was sent."""
    generator.run_until(lambda: all(flow.is_done() for flow in flows))
    for flow in flows:
        if flow.received != flow.sent:
            raise PacketsLost(f"{flow.sent:,} packets were sent, and {flow.received:,} arrived")


def percentile(in_order: Sequence[float], percent: int) -> float:
    """Return that percentile of figures that rise."""
    return in_order[min(len(in_order) - 1, len(in_order) * percent // 100)]
