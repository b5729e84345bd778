"""A process with many devices: some are only there, some talk in pairs.

Reads commands from its standard input, a JSON object on each line, and answers each with a line of
figures: ``{"talk": PER_SECOND}`` sets how often each talking device speaks, ``{"cut": PER_SECOND}``
how often one that does not talk loses its connection and comes back at once, and ``{}`` only asks.
Figures are of the time since the answer before. It ends with its input.

A device that talks sends a packet of 100 bytes to its partner, who answers each with one of its
own. Both count as relayed packets. The time of one goes from sending to the end of the wait in
which it was found to have come; so it has the load generator's own delays in it, too.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import random
import select
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from abst import codec
from abst.open_files import allow_open_files
from abst.packets import Send
from tests.integration.raw_client import client_context
from tests.load.device import LoadDevice, Stage
from tests.load.figures import percentile
from tests.load.people import people

CONTENT_BYTES = 100
TURN_SECONDS = 1.0
MOST_BEGUN = 64
"""How many devices may be on their way when another one first connects."""

SPARE_FILES = 100
_HEAD = struct.Struct(">dI?")
"""When it was sent, its number among those of its sender, and whether it wants an answer."""


class Talk:
    """What two devices say to each other.

    Args:
        crowd: where they belong.
        devices: the two.
    """

    def __init__(self, crowd: Crowd, devices: tuple[LoadDevice, LoadDevice]) -> None:
        self._crowd = crowd
        self._heads: dict[LoadDevice, bytes] = {}
        self._partners = {devices[0]: devices[1], devices[1]: devices[0]}
        self._sent = dict.fromkeys(devices, 0)
        self._heard = dict.fromkeys(devices, 0)
        for device in devices:
            packet = Send(device.device_id, self._partners[device].device_id, bytes(CONTENT_BYTES))
            self._heads[device] = codec.encode(packet)[:-CONTENT_BYTES]

    def is_between(self, first: bytes, second: bytes) -> bool:
        """Tell whether these are the two, in whatever order."""
        return {first, second} == {device.device_id for device in self._partners}

    def speak(self, device: LoadDevice, *, asks: bool) -> None:
        """Send a packet, if both are here."""
        if device.stage is not Stage.HERE or self._partners[device].stage is not Stage.HERE:
            return
        self._sent[device] += 1
        head = _HEAD.pack(self._crowd.now(), self._sent[device], asks)
        self._crowd.sent += 1
        device.send(self._heads[device] + head.ljust(CONTENT_BYTES, b"\0"))

    def hear(self, device: LoadDevice, content: bytes) -> None:
        """Take what the partner has sent, and answer what wants to be."""
        sent_at, number, asks = _HEAD.unpack_from(content)
        crowd = self._crowd
        crowd.received += 1
        crowd.seconds.append(crowd.woken_at - sent_at)
        # What is lost is seen in the sums; what comes again or late is seen here.
        crowd.disorder += number <= self._heard[device]
        self._heard[device] = number
        if asks:
            self.speak(device, asks=False)


class Crowd:
    """Devices, and the loop that serves them all.

    Attributes:
        host, port: where the realm listens.
        invitation: what every Hello carries, or None.
        chance: where all randomness comes from.
        woken_at: when the last wait ended.
        sent, received, disorder: packets since the beginning: sent, received, and those of the
            received that came twice or late.
        intrusions: packets since the beginning from who is not the partner.
        seconds: how long each packet took.
        errors: codes of errors that close nothing.
        losses: why connections ended whose Hello had been answered.
        failures: why tries ended before.
        returns: how long each device that has come took, from its loss or its first try.
    """

    def __init__(self, host: str, port: int, invitation: str | None, seed: int) -> None:
        self.host, self.port, self.invitation = host, port, invitation
        self.chance = random.Random(seed)
        self.now = time.monotonic
        self.woken_at = self.now()
        self.devices: list[LoadDevice] = []
        self.sent = self.received = self.disorder = self.intrusions = 0
        self.seconds: list[float] = []
        self.errors: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.returns: list[float] = []
        self._talks: dict[bytes, Talk] = {}
        self._each_second = 0.0
        self._turn_of_talk = 0
        self._epoll = select.epoll()
        self._watched: dict[int, tuple[LoadDevice, int]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def fill(self, idle: int, talking: int, first: int, addresses: list[str]) -> None:
        """Make the devices; connections are shared out over the addresses."""
        for number, identity in enumerate(people(first + idle + talking)[first:]):
            source = addresses[number % len(addresses)]
            context = client_context(identity)
            self.devices.append(LoadDevice(self, bytes(identity.device_id), context, source))
        for pair in range(0, talking - 1, 2):
            devices = (self.devices[pair], self.devices[pair + 1])
            talk = Talk(self, devices)
            for device in devices:
                self._talks[device.device_id] = talk

    def connect(self, each_second: float) -> None:
        """Have all devices connect, at most so many in each second.

        A process is not many devices: with too many handshakes at once it would be late with all.
        """
        waiting = iter(self.devices)
        begun: list[LoadDevice] = []

        def connect_next() -> None:
            begun[:] = [device for device in begun if device.stage is not Stage.HERE]
            if len(begun) < MOST_BEGUN:
                device = next(waiting, None)
                if device is None:
                    return
                begun.append(device)
                device.connect()
            self.call_at(self.now() + 1 / each_second, connect_next)

        connect_next()

    def talk(self, each_second: float) -> None:
        """Have each device that talks speak so often from now on; 0 for never."""
        self._turn_of_talk += 1
        if not each_second:
            return
        now, turn = self.now(), self._turn_of_talk
        talkers = [device for device in self.devices if device.device_id in self._talks]
        for device in talkers:
            due = now + self.chance.random() / each_second
            self.call_at(due, self._speaker(device, due, 1 / each_second, turn))

    def _speaker(
        self, device: LoadDevice, due: float, pause: float, turn: int
    ) -> Callable[[], None]:
        def speak() -> None:
            nonlocal due
            if turn == self._turn_of_talk:
                self._talks[device.device_id].speak(device, asks=True)
                due = max(due + pause, self.now())
                self.call_at(due, speak)

        return speak

    def cut(self, each_second: float) -> None:
        """Have one that does not talk lose its connection so often from now on."""
        idle = [
            device
            for device in self.devices
            if device.device_id not in self._talks and device.stage is Stage.HERE
        ]
        if idle:
            self.chance.choice(idle).cut()
        self.call_at(self.now() + 1 / each_second, lambda: self.cut(each_second))

    def delivered(self, device: LoadDevice, packet: Send) -> None:
        """Take a packet that the realm has relayed."""
        talk = self._talks.get(device.device_id)
        if talk is not None and talk.is_between(device.device_id, packet.source_device):
            talk.hear(device, packet.content)
        else:
            self.intrusions += 1

    def arrived(self, device: LoadDevice) -> None:
        """Note that a device is here."""
        if device.lost_at is not None:
            self.returns.append(self.now() - device.lost_at)

    def call_at(self, when: float, call: Callable[[], None]) -> None:
        """Call something at a time."""
        heapq.heappush(self._timers, (when, next(self._order), call))

    def watch(self, number: int, device: LoadDevice, events: int) -> None:
        """Tell a device when its socket is ready."""
        _, before = self._watched.get(number, (None, 0))
        if before == events:
            return
        (self._epoll.modify if before else self._epoll.register)(number, events)
        self._watched[number] = (device, events)

    def forget(self, number: int) -> None:
        """Watch a socket no more."""
        del self._watched[number]
        self._epoll.unregister(number)

    def run(self) -> None:
        """Serve devices and commands until these end."""
        commands = sys.stdin.fileno()
        os.set_blocking(commands, False)
        self._epoll.register(commands, select.EPOLLIN)
        while True:
            due = self._timers[0][0] - self.now() if self._timers else TURN_SECONDS
            events = self._epoll.poll(min(max(due, 0.0), TURN_SECONDS))
            self.woken_at = self.now()
            for number, event in events:
                if number == commands:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    self._obey(json.loads(line))
                elif (found := self._watched.get(number)) is not None:
                    found[0].handle(event)
            while self._timers and self._timers[0][0] <= self.woken_at:
                heapq.heappop(self._timers)[2]()

    def _obey(self, command: dict[str, float]) -> None:
        if "talk" in command:
            self.talk(command["talk"])
        if "cut" in command:
            self.cut(command["cut"])
        sys.stdout.write(json.dumps(self.figures()) + "\n")
        sys.stdout.flush()

    def figures(self) -> dict[str, Any]:
        """Return what happened since they were asked for last, and forget it."""
        seconds, self.seconds = sorted(self.seconds), []
        returns, self.returns = self.returns, []
        now = self.now()
        # Who has not come back takes as long as it has been away.
        away = [now - device.lost_at for device in self.devices if device.lost_at is not None]
        found = {
            "here": sum(device.stage is Stage.HERE for device in self.devices),
            "sent": self.sent,
            "received": self.received,
            "disorder": self.disorder,
            "intrusions": self.intrusions,
            "packets": len(seconds),
            "p50_ms": round(1000 * percentile(seconds, 50), 2),
            "p99_ms": round(1000 * percentile(seconds, 99), 2),
            "slowest_ms": round(1000 * percentile(seconds, 100), 2),
            "errors": dict(self.errors),
            "losses": dict(self.losses),
            "failures": dict(self.failures),
            "returns": len(returns),
            "slowest_return_seconds": round(max(returns + away, default=0.0), 2),
            "cpu_seconds": round(time.process_time(), 2),
        }
        for counter in (self.errors, self.losses, self.failures):
            counter.clear()
        return found


def main() -> None:
    """Be a crowd until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--idle", type=int, default=0)
    parser.add_argument("--talking", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of its first device")
    parser.add_argument("--address", action="append", default=[], help="to connect from")
    parser.add_argument("--connects-per-second", type=float, default=100.0)
    parser.add_argument("--invitation")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    allow_open_files(asked.idle + asked.talking + SPARE_FILES)
    crowd = Crowd(asked.host, asked.port, asked.invitation, asked.seed)
    crowd.fill(asked.idle, asked.talking, asked.first, asked.address or ["127.0.0.1"])
    crowd.connect(asked.connects_per_second)
    crowd.run()


if __name__ == "__main__":
    main()
