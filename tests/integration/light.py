"""Two devices that say little to each other: how long an echo takes, whatever else goes on."""

from __future__ import annotations

import select
import threading
import time
from contextlib import suppress

from abst import codec
from abst.packets import Send
from tests.integration.raw_client import RawDevice

CONTENT_BYTES = 100
PERIOD_SECONDS = 0.02


class Echo:
    """A device that sends back what one other device sends, and reads all that others send.

    A thread does so until the connection ends.

    Args:
        device: the device.
        friend: whom it answers.
    """

    def __init__(self, device: RawDevice, friend: bytes) -> None:
        self._device = device
        self._asked = codec.encode(Send(friend, device.device_id, bytes(CONTENT_BYTES)))
        answer = codec.encode(Send(device.device_id, friend, bytes(CONTENT_BYTES)))
        self._answer_head = answer[:-CONTENT_BYTES]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        head, size = self._asked[:-CONTENT_BYTES], len(self._asked)
        left = b""
        with suppress(OSError):
            while data := self._device.socket.recv(65536):
                data = left + data
                at = 0
                while (found := data.find(head, at)) >= 0 and found + size <= len(data):
                    at = found + size
                    self._device.socket.sendall(self._answer_head + data[at - CONTENT_BYTES : at])
                left = data[max(at, len(data) - size + 1) :]


def echo_times(device: RawDevice, target: bytes, seconds: float) -> tuple[list[float], int]:
    """Send a packet each 20 ms for a while; return how long the echoes took, and how many failed.

    One that has not come a second after the end has failed.
    """
    head = codec.encode(Send(device.device_id, target, bytes(CONTENT_BYTES)))[:-CONTENT_BYTES]
    size = len(head) + CONTENT_BYTES
    begun = time.monotonic()
    number = round(seconds / PERIOD_SECONDS)
    sent: list[float] = []
    took: list[float] = []
    waiting = b""
    answer_head = codec.encode(Send(target, device.device_id, bytes(CONTENT_BYTES)))
    answer_head = answer_head[:-CONTENT_BYTES]
    end = begun + seconds + 1.0
    while len(took) < number and (now := time.monotonic()) < end:
        if len(sent) < number and now >= begun + len(sent) * PERIOD_SECONDS:
            content = len(sent).to_bytes(4, "big").ljust(CONTENT_BYTES, b"\x01")
            sent.append(time.monotonic())
            device.socket.sendall(head + content)
            continue
        due = begun + len(sent) * PERIOD_SECONDS if len(sent) < number else end
        if (
            not device.socket.pending()
            and not select.select([device.socket], [], [], max(0.0, due - now))[0]
        ):
            continue
        waiting += device.socket.recv(65536)
        while (found := waiting.find(answer_head)) >= 0 and found + size <= len(waiting):
            at = found + len(answer_head)
            took.append(time.monotonic() - sent[int.from_bytes(waiting[at : at + 4], "big")])
            waiting = waiting[found + size :]
    return took, number - len(took)
