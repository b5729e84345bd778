"""Devices that ask for values, and a reactor that is a queue of calls."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable
from typing import Any

from abst import codec
from abst.device_id import DeviceID
from abst.errors import Code
from abst.packets import REALM_TO_DEVICE, Packet, parse

PATIENCE_SECONDS = 20.0
GROUPS = [DeviceID.of_key(b"group %d" % number) for number in range(3)]
NAMES = [bytes([number]) * 32 for number in range(1, 9)]


class Turns:
    """As much of a reactor as a store needs: what other threads call is called here in turn."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.now = 0.0

    def seconds(self) -> float:
        return self.now

    def callFromThread(self, function: Callable[..., object], *arguments: Any) -> None:
        self._calls.put(lambda: function(*arguments))

    def callLater(self, delay: float, function: Callable[..., object], *arguments: Any) -> None:
        assert not delay
        self._calls.put(lambda: function(*arguments))

    def run_until(self, is_done: Callable[[], object]) -> None:
        """Make calls until something is so."""
        while not is_done():
            self._calls.get(timeout=PATIENCE_SECONDS)()

    def run_some(self, calls: int) -> None:
        """Make so many calls, if they have come."""
        for _ in range(calls):
            with contextlib.suppress(queue.Empty):
                self._calls.get_nowait()()


class Device:
    """A connection that has joined groups, and takes what it is told until it is full."""

    def __init__(self, name: bytes = b"alice") -> None:
        self.device_id: bytes | None = DeviceID.of_key(name)
        self.joined = {bytes(group) for group in GROUPS}
        self.room = 10**9
        self.received: list[Packet] = []
        self.overtaking: list[Packet] = []
        self.closed_for: Code | None = None
        self.is_here = True
        self.makers: dict[bytes, bytes] = {}

    def is_joined(self, group: bytes) -> bool:
        return group in self.joined

    def maker_of(self, group: bytes) -> bytes | None:
        return self.makers.get(group, self.device_id) if group in self.joined else None

    def deliver_own(self, packet: bytes) -> bool:
        if len(packet) > self.room:
            return False
        self.room -= len(packet)
        self.received.append(parse(codec.decode(packet), REALM_TO_DEVICE))
        return True

    def tell(self, packet: Packet) -> None:
        self.overtaking.append(parse(codec.decode(codec.encode(packet)), REALM_TO_DEVICE))

    def close(self, code: Code, reason: str = "", *, retry_after: float | None = None) -> None:
        self.closed_for = code

    def take(self) -> list[Packet]:
        """Return what has been received since the last time."""
        taken, self.received = self.received, []
        return taken
