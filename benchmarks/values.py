"""The value loads: puts and gets, as many at once as are in flight, and how soon a watcher knows.

A put is answered when the disk has it. State and store of all servers lie in one folder, that of
the run, on one disk; how long that takes to sync is measured beside them, by ``sync_seconds``.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

from benchmarks.conversation import Conversation
from benchmarks.errors import PacketsLost
from benchmarks.generator import Generator
from benchmarks.loads import Bounds, Figures, Load, finish, measure_window, percentile
from benchmarks.value_servers import NAMES, VALUE, ValueServer, name_of

_FILL_AT_ONCE = 100
_SYNCS = 50


class _Asker:
    """A connection that has as many requests in flight as it may, and asks as it is answered."""

    def __init__(
        self,
        generator: Generator,
        conversation: Conversation,
        request: Callable[[int], bytes],
        in_flight: int,
        latencies: list[float],
    ) -> None:
        self._conversation = conversation
        self._request = request
        self._in_flight = in_flight
        self._latencies = latencies
        self._sent_at: deque[float] = deque()
        self._most: float = 0
        self.sent = self.received = 0
        generator.watch(conversation, self._answered)

    def start(self, most: float) -> None:
        """Ask until there have been so many requests."""
        self._most = most
        self._ask()

    def stop(self) -> None:
        """Ask no more."""
        self._most = self.sent

    def is_done(self) -> bool:
        """Tell whether all is asked, and answered."""
        return self.sent >= self._most and self.received >= self.sent

    def _answered(self, answers: int) -> None:
        now = time.perf_counter()
        self.received += answers
        for _ in range(answers):
            self._latencies.append(now - self._sent_at.popleft())
        if answers:
            self._ask()

    def _ask(self) -> None:
        wanted = min(self._most, self.received + self._in_flight)
        requests = []
        while self.sent < wanted:
            requests.append(self._request(self.sent))
            self.sent += 1
        if requests:
            self._sent_at.extend([time.perf_counter()] * len(requests))
            self._conversation.send(b"".join(requests))


class Requests:
    """Puts, or gets, with a number of them in flight on each of some connections."""

    def __init__(self, kind: str, connections: int, in_flight: int) -> None:
        self.name = f"{kind}s-{connections * in_flight}"
        self.title = f"{kind}s, {connections * in_flight} in flight"
        if connections > 1:
            self.name += "-connections"
            self.title += ", each on its own connection"
        self._kind = kind
        self._connections = connections
        self._in_flight = in_flight

    def run(self, generator: Generator, bounds: Bounds) -> Figures:
        """Measure a window of time and every answer in it; see :class:`benchmarks.loads.Load`."""
        server = cast(ValueServer, generator.server)
        first = generator.connect()
        others = [generator.connect() for _ in range(min(self._connections, bounds.most))]
        server.open([first, *others])
        _fill(generator, server, first)
        latencies: list[float] = []
        askers = [
            self._asker(generator, server, conversation, latencies) for conversation in others
        ]
        for asker in askers:
            asker.start(float("inf"))
        figures = measure_window(
            generator, bounds, lambda: sum(asker.received for asker in askers), latencies.clear
        )
        in_window = sorted(latencies)
        for asker in askers:
            asker.stop()
        finish(generator, askers)
        return figures | _latencies(in_window, "latency")

    def _asker(
        self,
        generator: Generator,
        server: ValueServer,
        conversation: Conversation,
        latencies: list[float],
    ) -> _Asker:
        is_put = self._kind == "put"
        make = server.put if is_put else server.get
        conversation.count_with(server.puts_answered() if is_put else server.gets_answered())
        # Connections begin at different names, so that not all ask for one at once.
        offset = conversation.peer * (NAMES // 10 + 1)
        return _Asker(
            generator,
            conversation,
            lambda number: make(name_of(number + offset), number),
            self._in_flight,
            latencies,
        )


class Watching:
    """One connection puts at a pace, another one watches: how soon it is told."""

    name = "values-watch"

    def __init__(self, per_second: int) -> None:
        self.title = f"{per_second} puts per second, and a watcher"
        self._per_second = per_second

    def run(self, generator: Generator, bounds: Bounds) -> Figures:
        """Note when each put is answered and seen; see :class:`benchmarks.loads.Load`."""
        server = cast(ValueServer, generator.server)
        writer, watcher = generator.connect(), generator.connect()
        server.open([writer, watcher])
        name = name_of(0)
        watcher.count_with(server.watch(watcher, name))
        writer.count_with(server.puts_answered())
        sent_at: list[float] = []
        answered_at: list[float] = []
        seen_at: list[float] = []
        _note(generator, writer, answered_at)
        _note(generator, watcher, seen_at)
        first = int(bounds.settle_seconds * self._per_second) + 1
        last = first + max(2, int(bounds.seconds * self._per_second))
        begun = time.perf_counter()
        for number in range(last):
            while (left := begun + number / self._per_second - time.perf_counter()) > 0:
                generator.turn(left)
            sent_at.append(time.perf_counter())
            writer.send(server.put(name, number))
        generator.run_until(lambda: min(len(answered_at), len(seen_at)) >= last)
        if len(answered_at) != last or len(seen_at) != last:
            raise PacketsLost(f"{last} puts: {len(answered_at)} answers, {len(seen_at)} changes")
        answers, delays = (
            sorted(end - begin for begin, end in zip(sent_at[first:], ends[first:], strict=True))
            for ends in (answered_at, seen_at)
        )
        return _latencies(answers, "answered") | _latencies(delays, "seen")


VALUE_LOADS: tuple[Load, ...] = (
    *(
        Requests(kind, connections, in_flight)
        for kind in ("put", "get")
        for connections, in_flight in ((1, 1), (1, 100), (100, 1))
    ),
    Watching(50),
)


def sync_seconds(folder: Path) -> float:
    """Return the median of how long the folder's disk takes to keep a value, once it is asked."""
    times = []
    with (folder / "synced").open("ab", buffering=0) as file:
        for _ in range(_SYNCS):
            file.write(VALUE)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def _fill(generator: Generator, server: ValueServer, conversation: Conversation) -> None:
    """Give every name a value."""
    conversation.count_with(server.puts_answered())
    asker = _Asker(
        generator,
        conversation,
        lambda number: server.put(name_of(number), number),
        _FILL_AT_ONCE,
        [],
    )
    asker.start(NAMES)
    finish(generator, [asker])


def _note(generator: Generator, conversation: Conversation, times: list[float]) -> None:
    def note(packets: int) -> None:
        times.extend([time.perf_counter()] * packets)

    generator.watch(conversation, note)


def _latencies(in_order: list[float], word: str) -> Figures:
    if not in_order:
        raise PacketsLost("no answer came in the whole window")
    return {
        f"{word}_p50_ms": 1000 * percentile(in_order, 50),
        f"{word}_p99_ms": 1000 * percentile(in_order, 99),
    }
