"""A client of the message loads: a device, made with the public library, that knows one other.

Nothing is stored, so a message is kept in memory until it is acknowledged. A message counts as
acknowledged when the Deferred of ``sendPacket`` fires: the other device's session has taken it and
has handed it to its application.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, react

from abst.address import RealmAddress
from abst.device import Device, DeviceFactory, DeviceProtocol
from abst.device_id import DeviceID
from abst.identity import Identity
from benchmarks.message_client import ANSWER, SENDER, Receiving, Sending, Task

_MESSAGE, _ANSWERED = 5, 6
_LOOK_SECONDS = 0.02


class _Sender(DeviceProtocol):
    """Sends a message whenever one is done."""

    def __init__(self, task: Task) -> None:
        self._sending = Sending(task)
        self._window = task.window
        self._waits_for_answer = task.until == ANSWER

    def connectionMade(self) -> None:
        for _ in range(self._window):
            self._send()

    def packetReceived(self, packet_id: int, content: Any) -> None:
        self._done(None)

    def _send(self) -> None:
        message = self._sending.take()
        if message is not None:
            acknowledged = self.sendPacket(_MESSAGE, message)
            if not self._waits_for_answer:
                acknowledged.addCallback(self._done)

    def _done(self, _: None) -> None:
        self._sending.done()
        self._send()


class _Receiver(DeviceProtocol):
    """Counts messages, and answers if it shall."""

    def __init__(self, task: Task, receiving: Receiving) -> None:
        self._receiving = receiving
        self._answers = task.until == ANSWER

    def packetReceived(self, packet_id: int, content: Any) -> None:
        self._receiving.message(content)
        if self._answers:
            self.sendPacket(_ANSWERED, content)


class _Factory(DeviceFactory):
    def __init__(self, build: Callable[[], DeviceProtocol]) -> None:
        self._build = build

    def buildProtocol(self, peer: object) -> DeviceProtocol:
        protocol = self._build()
        protocol.factory = self
        return protocol


async def main(reactor: Any, text: str) -> None:
    """Do the task until the process is ended."""
    task = Task.from_json(text)
    receiving = None if task.role == SENDER else Receiving(task)
    device = Device(
        reactor,
        Identity.load(Path(task.where["key"])),
        _Factory(lambda: _Sender(task) if receiving is None else _Receiver(task, receiving)),
        realms=[RealmAddress.parse(task.where["realm"])],
    )
    other = device.trust(DeviceID(bytes.fromhex(task.where["other"]))).device_id
    device.startService()
    if receiving is None:
        protocol = await device.connect(other)
        if protocol.path is None or protocol.path.kind != "realm":
            sys.exit(f"the two devices found another way than the realm: {protocol.path}")
    else:
        await _until_connected(reactor, device)
        receiving.ready()
    await Deferred()


async def _until_connected(reactor: Any, device: Device) -> None:
    def look() -> None:
        if all(link.is_up for link in device.links.values()):
            loop.stop()

    loop = LoopingCall(look)
    loop.clock = reactor
    await loop.start(_LOOK_SECONDS)


if __name__ == "__main__":
    react(main, sys.argv[1:])
