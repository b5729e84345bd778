"""The message loads: what a message from one application to another costs, acknowledgement and all.

Sender, receiver and server are a process each, and the same for every pair of clients. The sender
keeps a window of messages out, or one. What counts as done is said with each figure, because the
peers do not promise the same:

- *acknowledged*: what the library calls so. For ABST the other device's session has taken the
  message; for MQTT with QoS 1 and for WAMP only the server between them has. Where that leaves the
  receiver behind, a sender waits for it (``message_client.MOST_AHEAD``): what counts in the end is
  what arrives.
- *answered*: the receiver's application has sent the content back, and it has come: all know then
  that the message has arrived.

The run looks at the counts of both clients, and at the CPU time of all three processes, at both
ends of a window of time; then the sender stops, and all must arrive, once each and in order.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.errors import PacketsLost
from benchmarks.loads import Bounds, Figures
from benchmarks.message_client import (
    ACKNOWLEDGED,
    ACKNOWLEDGEMENT,
    ANSWER,
    MEASURE,
    PHASE,
    RECEIVED,
    RECEIVER,
    RECEIVER_IS_READY,
    SENDER,
    SENDER_IS_DONE,
    SENT,
    STOP,
    Board,
    Task,
)
from benchmarks.message_pairs import Pair
from benchmarks.process import ServerProcess

_CHECKOUT = Path(__file__).parent.parent
_SIZE_BYTES = 100
_LOOK_SECONDS = 0.02
_STALL_SECONDS = 20.0


class MessageLoad(Protocol):
    """One kind of work for a pair of clients."""

    name: str
    title: str

    def run(self, pair: Pair, folder: Path, bounds: Bounds) -> Figures:
        """Do the work and return what was measured. Raises: ServerFailed, PacketsLost."""


class Pipelined:
    """As many messages as the clients can, with the window that suits the pair best."""

    name = "messages-pipelined"
    title = f"{_SIZE_BYTES} B messages, pipelined"

    def run(self, pair: Pair, folder: Path, bounds: Bounds) -> Figures:
        """Measure one window of time; see :class:`MessageLoad`."""
        measured = _measure(pair, folder, bounds, ACKNOWLEDGEMENT, pair.window)
        return {
            "window": pair.window,
            "received_per_second": measured.received / measured.seconds,
            "acknowledged_per_second": measured.acknowledged / measured.seconds,
        } | measured.cpu_figures()


class OneAtATime:
    """Each message waits until the one before it is done: first acknowledged, then answered."""

    name = "messages-one"
    title = f"{_SIZE_BYTES} B messages, one at a time"

    def run(self, pair: Pair, folder: Path, bounds: Bounds) -> Figures:
        """Measure two windows of time, with a fresh server each; see :class:`MessageLoad`."""
        figures: Figures = {}
        for until, word in ((ACKNOWLEDGEMENT, "acknowledged"), (ANSWER, "answered")):
            work = folder / until
            work.mkdir()
            measured = _measure(pair, work, bounds, until, 1)
            if len(measured.latencies) < 2:
                raise PacketsLost("hardly a message was done in the whole window")
            percentiles = statistics.quantiles(measured.latencies, n=100, method="inclusive")
            figures[f"{word}_p50_ms"] = 1000 * percentiles[49]
            figures[f"{word}_p99_ms"] = 1000 * percentiles[98]
            for name, value in measured.cpu_figures().items():
                figures[f"{word}_{name}"] = value
        return figures


MESSAGE_LOADS: tuple[MessageLoad, ...] = (Pipelined(), OneAtATime())


class _Measured(NamedTuple):
    """What one window of time brought."""

    seconds: float
    acknowledged: int
    received: int
    #: By process: sender, receiver, server.
    cpu_seconds: dict[str, float]
    latencies: list[float]

    def cpu_figures(self) -> Figures:
        """Return the CPU time of each process, in microseconds for each message."""
        return {
            f"{name}_cpu_us": 1e6 * seconds / self.received
            for name, seconds in self.cpu_seconds.items()
        }


def _measure(pair: Pair, folder: Path, bounds: Bounds, until: str, window: int) -> _Measured:
    """Start all three processes, let messages flow, and look at them twice."""
    board = Board.create(folder / "board")
    cells = board.cells
    latencies = folder / "latencies"
    processes: dict[str, ServerProcess] = {}

    def start(role: str) -> None:
        work = folder / role
        work.mkdir()
        where = pair.where(role, processes["server"])
        task = Task(role, until, window, _SIZE_BYTES, str(folder / "board"), str(latencies), where)
        client = ServerProcess([*pair.command, task.to_json()], work, _CHECKOUT)
        processes[role] = stack.enter_context(client)

    with contextlib.ExitStack() as stack:
        processes["server"] = stack.enter_context(pair.start(folder))
        start(RECEIVER)
        _wait(board, processes, lambda: cells[RECEIVER_IS_READY])
        start(SENDER)
        _wait(board, processes, lambda: cells[ACKNOWLEDGED])
        time.sleep(bounds.settle_seconds)
        cells[PHASE] = MEASURE
        first, cpu_before = _look(board, processes)
        time.sleep(bounds.seconds)
        last, cpu_after = _look(board, processes)
        cells[PHASE] = STOP
        _wait(board, processes, lambda: cells[SENDER_IS_DONE] and cells[RECEIVED] >= cells[SENT])
        if cells[RECEIVED] != cells[SENT]:
            raise PacketsLost(f"{cells[SENT]} messages were sent, and {cells[RECEIVED]} arrived")
        seconds, acknowledged, received = (b - a for a, b in zip(first, last, strict=True))
        if not received:
            raise PacketsLost(f"no message arrived in {seconds:.1f} s: nothing to measure")
        cpu_seconds = {name: cpu_after[name] - cpu_before[name] for name in cpu_before}
        noted = json.loads(latencies.read_text())
    return _Measured(seconds, int(acknowledged), int(received), cpu_seconds, noted)


def _look(
    board: Board, processes: dict[str, ServerProcess]
) -> tuple[tuple[float, float, float], dict[str, float]]:
    """Return the time, the counts of acknowledged and received messages, and CPU times."""
    counts = (time.perf_counter(), board.cells[ACKNOWLEDGED], board.cells[RECEIVED])
    return counts, {name: process.cpu_seconds() for name, process in processes.items()}


def _wait(board: Board, processes: dict[str, ServerProcess], condition: Callable[[], int]) -> None:
    """Wait while anything moves. Raises: ServerFailed, if a process has ended; PacketsLost."""
    seen: list[int] = []
    deadline = 0.0
    while not condition():
        for process in processes.values():
            process.check()
        if (now_seen := board.cells.tolist()) != seen:
            seen, deadline = now_seen, time.monotonic() + _STALL_SECONDS
        elif time.monotonic() > deadline:
            said = "\n".join(process.output()[-1000:] for process in processes.values())
            raise PacketsLost(f"nothing has moved for {_STALL_SECONDS} s:\n{said}")
        time.sleep(_LOOK_SECONDS)
