"""The fan-out loads: one peer sends to many, as fast as the last of them receives.

What counts is a message delivered: one sent to a thousand members is a thousand. Two loads show the
two ends of what there is: *pipelined*, where many messages are on their way and a server may join
what it writes to a member; and *one at a time*, where the next message is sent when the last member
has the one before it, so that each delivery is a write of its own.
"""

from __future__ import annotations

import math
import os
import time
from typing import cast

from benchmarks.errors import PacketsLost
from benchmarks.fanout_servers import FanoutServer
from benchmarks.generator import Generator
from benchmarks.loads import (
    PIECE_BYTES,
    WINDOW_BYTES,
    Bounds,
    Figures,
    finish,
    measure_window,
    percentile,
)

#: How much may be on its way to all members together: half of what a realm lets wait for all.
_ALL_WINDOWS_BYTES = 128 * 1024 * 1024


class _Group:
    """One sender and its receivers: more is sent when the last of them has enough."""

    def __init__(self, generator: Generator, members: int, size_bytes: int, alone: bool) -> None:
        server = cast(FanoutServer, generator.server)
        self._sender = generator.connect()
        receivers = []
        for _ in range(members):
            receivers.append(generator.connect())
            generator.turn()
        server.join(self._sender, receivers)
        packet = server.message(self._sender.peer, os.urandom(size_bytes))
        per_piece = 1 if alone else max(1, PIECE_BYTES // len(packet.sent))
        window_bytes = min(WINDOW_BYTES, _ALL_WINDOWS_BYTES // members)
        self._per_piece = per_piece
        self._window = 1 if alone else max(2 * per_piece, window_bytes // len(packet.sent))
        self._piece = packet.sent * per_piece
        self._received = [0] * members
        # When so many of the members have so many messages, there is room for another piece.
        self._wanted = 0
        self._wanting = 0
        self._published = 0
        self._sent_at = 0.0
        self._most = 0.0
        self.received = 0
        #: From sending a message until the last member had it; where they go one at a time.
        self.latencies: list[float] = []
        for number, receiver in enumerate(receivers):
            receiver.expect(packet.received)
            generator.watch(receiver, lambda packets, n=number: self._arrived(n, packets))  # type: ignore[misc]
        generator.watch(self._sender, lambda packets: self._send())

    def start(self) -> None:
        """Send without end."""
        self._most = math.inf
        self._send()

    def stop(self) -> None:
        """Send no more."""
        self._most = 0

    @property
    def sent(self) -> int:
        """How many deliveries have been asked for."""
        return self._published * len(self._received)

    def is_done(self) -> bool:
        """Tell whether all that was sent has arrived everywhere."""
        return self.received >= self.sent

    def _arrived(self, member: int, packets: int) -> None:
        self.received += packets
        before = self._received[member]
        self._received[member] = now = before + packets
        if before < self._wanted <= now:
            self._wanting -= 1
            if not self._wanting:
                if self._window == 1:
                    self.latencies.append(time.perf_counter() - self._sent_at)
                self._send()

    def _send(self) -> None:
        while self._published < self._most and not self._wanting and not self._sender.is_blocked:
            self._sent_at = time.perf_counter()
            self._published += self._per_piece
            self._wanted = self._published + self._per_piece - self._window
            self._wanting = sum(count < self._wanted for count in self._received)
            self._sender.send(self._piece)


class Fanout:
    """Messages of one member to all others."""

    def __init__(self, members: int, size_bytes: int, *, alone: bool) -> None:
        """``alone``: the next message waits until everybody has the one before it."""
        self.name = f"fanout-one-{members}" if alone else f"fanout-{members}"
        way = "one at a time" if alone else "pipelined"
        self.title = f"{size_bytes:,} B to {members:,} members, {way}"
        self._members = members
        self._size_bytes = size_bytes
        self._alone = alone

    def run(self, generator: Generator, bounds: Bounds) -> Figures:
        """Measure one window of time; see :class:`benchmarks.loads.Load`."""
        members = min(self._members, bounds.most)
        group = _Group(generator, members, self._size_bytes, self._alone)
        # What members are told of each other is no message.
        generator.run(bounds.settle_seconds)
        group.start()
        figures = measure_window(
            generator, bounds, lambda: group.received, lambda: group.latencies.clear()
        )
        latencies = sorted(group.latencies)
        group.stop()
        finish(generator, [group])
        if not self._alone:
            return figures
        if not latencies:
            raise PacketsLost("no message came to all members in the whole window")
        return figures | {
            "latency_p50_ms": 1000 * percentile(latencies, 50),
            "latency_p99_ms": 1000 * percentile(latencies, 99),
        }


FANOUT_LOADS = tuple(
    Fanout(members, 100, alone=alone) for alone in (False, True) for members in (100, 1_000)
)
