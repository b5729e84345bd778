"""The circuit loads: how fast a relay joins two peers, what it carries then, and what it keeps.

Bulk goes one way. Its two ends are processes of their own (``benchmarks.circuit_pump``), and the
run looks at their counts, and at all three processes' CPU time, at both ends of a window of time.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.errors import PacketsLost, ServerFailed
from benchmarks.loads import Bounds, Figures
from benchmarks.message_client import (
    PHASE,
    RECEIVED,
    RECEIVER_IS_READY,
    SENDER_IS_DONE,
    SENT,
    STOP,
    Board,
)
from benchmarks.process import ServerProcess
from benchmarks.relays import Ends, Opener, Relay

_CHECKOUT = Path(__file__).parent.parent
_MB = 1_000_000
_MOST_SECONDS = 3.0
_MOST_SETTLE_SECONDS = 1.0
_LOOK_SECONDS = 0.01
_STALL_SECONDS = 20.0


class CircuitLoad(Protocol):
    """One kind of work for a relay."""

    name: str
    title: str

    def run(self, relay: Relay, folder: Path, bounds: Bounds) -> Figures:
        """Do the work and return what was measured. Raises: ServerFailed, PacketsLost."""


class Bulk:
    """As many bytes as go through one circuit, or through several at once."""

    def __init__(self, name: str, circuits: int) -> None:
        self.name = name
        self.title = f"bulk, {circuits} circuit" + "s" * (circuits > 1)
        self._circuits = circuits

    def run(self, relay: Relay, folder: Path, bounds: Bounds) -> Figures:
        """Measure one window of time; see :class:`CircuitLoad`."""
        with contextlib.ExitStack() as stack:
            process = stack.enter_context(relay.start(folder))
            opener = stack.enter_context(relay.opener(process))
            ends = _open(opener, min(self._circuits, bounds.most))
            for each in ends:
                stack.callback(each.close)
            board = Board.create(folder / "board")
            receiver = _pump("receive", folder, [each.target for each in ends])
            processes = {"relay": process, "receiver": stack.enter_context(receiver)}
            _wait(board, processes, lambda: board.cells[RECEIVER_IS_READY])
            sender = _pump("send", folder, [each.asker for each in ends])
            processes["sender"] = stack.enter_context(sender)
            return _measure(board, processes, bounds)


class Opening:
    """How long it takes from asking to the first byte at the other end, again and again."""

    name = "circuit-open"
    _FIRST_CIRCUITS = 5

    def __init__(self, circuits: int) -> None:
        self.title = f"opening {circuits} circuits, one after the other"
        self._circuits = circuits

    def run(self, relay: Relay, folder: Path, bounds: Bounds) -> Figures:
        """Measure each one; see :class:`CircuitLoad`."""
        with relay.start(folder) as process, relay.opener(process) as opener:
            for each in _open(opener, self._FIRST_CIRCUITS):
                each.close()
            times = [_time_one(opener) for _ in range(max(2, min(self._circuits, bounds.most)))]
        percentiles = statistics.quantiles(times, n=100, method="inclusive")
        return {"open_p50_ms": 1000 * percentiles[49], "open_p99_ms": 1000 * percentiles[98]}


class IdleCircuits:
    """Circuits that stand and carry nothing: their memory and descriptors.

    The first ones pay for what a relay makes once, and are not counted. Memory is read again when
    every circuit has carried some bytes both ways.
    """

    name = "circuit-idle"
    _FIRST_CIRCUITS = 16
    _TRAFFIC = bytes(64 * 1024)

    def __init__(self, circuits: int) -> None:
        self.title = f"{circuits:,} idle circuits"
        self._circuits = circuits

    def run(self, relay: Relay, folder: Path, bounds: Bounds) -> Figures:
        """Measure twice; see :class:`CircuitLoad`."""
        count = min(self._circuits, bounds.most)
        with contextlib.ExitStack() as stack:
            process = stack.enter_context(relay.start(folder))
            opener = stack.enter_context(relay.opener(process))

            def opened(circuits: int) -> list[Ends]:
                ends = _open(opener, circuits)
                for each in ends:
                    stack.callback(each.close)
                return ends

            def memory_and_descriptors() -> tuple[int, int]:
                time.sleep(_settle_seconds(bounds))
                return process.memory_kib(), process.descriptors()

            opened(self._FIRST_CIRCUITS)
            before_kib, before_descriptors = memory_and_descriptors()
            ends = opened(count)
            kib, descriptors = memory_and_descriptors()
            for each in ends:
                for source, sink in ((each.asker, each.target), (each.target, each.asker)):
                    source.sendall(self._TRAFFIC)
                    _swallow(sink, len(self._TRAFFIC))
            kib_after, _ = memory_and_descriptors()
        return {
            "circuit_kib": (kib - before_kib) / count,
            "circuit_kib_after_traffic": (kib_after - before_kib) / count,
            "circuit_descriptors": (descriptors - before_descriptors) / count,
        }


CIRCUIT_LOADS: tuple[CircuitLoad, ...] = (
    Bulk("circuit-bulk", 1),
    Bulk("circuit-bulk-20", 20),
    Opening(200),
    IdleCircuits(1_000),
)


def _open(opener: Opener, count: int) -> list[Ends]:
    """Open circuits, and see that a byte goes through each, both ways."""
    ends: list[Ends] = []
    try:
        for _ in range(count):
            ends.append(opener.open())
            ends[-1].pass_a_byte()
            ends[-1].answer_a_byte()
    except BaseException as problem:
        for each in ends:
            each.close()
        if isinstance(problem, OSError):
            raise ServerFailed(f"circuit {len(ends)} does not open: {problem}") from problem
        raise
    return ends


def _time_one(opener: Opener) -> float:
    begun = time.perf_counter()
    ends = opener.open()
    try:
        ends.pass_a_byte()
        return time.perf_counter() - begun
    finally:
        ends.close()


def _pump(role: str, folder: Path, ends: Sequence[socket.socket]) -> ServerProcess:
    """Start one end's process, and leave it the sockets."""
    work = folder / role
    work.mkdir()
    descriptors = [end.fileno() for end in ends]
    command = [sys.executable, "-m", "benchmarks.circuit_pump", role, str(folder / "board")]
    command += map(str, descriptors)
    return ServerProcess(command, work, _CHECKOUT, descriptors=descriptors)


def _measure(board: Board, processes: dict[str, ServerProcess], bounds: Bounds) -> Figures:
    """Let bytes flow, look twice, and see that all that were sent arrive."""
    cells = board.cells
    _wait(board, processes, lambda: cells[RECEIVED])
    time.sleep(_settle_seconds(bounds))
    first = _look(board, processes)
    time.sleep(min(_MOST_SECONDS, bounds.seconds))
    last = _look(board, processes)
    cells[PHASE] = STOP
    _wait(board, processes, lambda: cells[SENDER_IS_DONE] and cells[RECEIVED] >= cells[SENT])
    if cells[RECEIVED] != cells[SENT]:
        raise PacketsLost(f"{cells[SENT]:,} bytes were sent, and {cells[RECEIVED]:,} arrived")
    change = {name: last[name] - first[name] for name in first}
    if not change["received"] or not change["relay"]:
        raise PacketsLost(f"{change['received']:,} bytes arrived in the window: nothing to measure")
    return {
        "mb_per_second": change["received"] / _MB / change["time"],
        "mb_per_cpu_second": change["received"] / _MB / change["relay"],
        "relay_cpu_percent": 100 * change["relay"] / change["time"],
        "sender_cpu_percent": 100 * change["sender"] / change["time"],
        "receiver_cpu_percent": 100 * change["receiver"] / change["time"],
    }


def _look(board: Board, processes: dict[str, ServerProcess]) -> dict[str, float]:
    """Return the time, how many bytes have arrived, and the CPU time of each process."""
    seen = {"time": time.perf_counter(), "received": board.cells[RECEIVED]}
    return seen | {name: process.cpu_seconds() for name, process in processes.items()}


def _wait(board: Board, processes: dict[str, ServerProcess], condition: Callable[[], int]) -> None:
    """Wait while bytes arrive. Raises: ServerFailed, if a process has ended; PacketsLost."""
    seen, deadline = -1, 0.0
    while not condition():
        for process in processes.values():
            process.check()
        if (now_seen := board.cells[RECEIVED]) != seen:
            seen, deadline = now_seen, time.monotonic() + _STALL_SECONDS
        elif time.monotonic() > deadline:
            raise PacketsLost(f"nothing has come through for {_STALL_SECONDS} s")
        time.sleep(_LOOK_SECONDS)


def _settle_seconds(bounds: Bounds) -> float:
    return min(_MOST_SETTLE_SECONDS, bounds.settle_seconds)


def _swallow(end: socket.socket, length_bytes: int) -> None:
    while length_bytes > 0:
        piece = end.recv(length_bytes)
        if not piece:
            raise ServerFailed("a circuit ended")
        length_bytes -= len(piece)
