"""The wires of the lab: a process that carries Ethernet frames between TAP interfaces.

Owns what happens to a frame on its way: to whom it goes, how late, and whether it is lost. The
kernel's own bridges and its netem could do most of it, but netem is missing from many kernels, and
here silence, loss and delay are a line each. Silence is complete, as when a distant line is cut:
neighbours still find each other, or a kernel would notice and say that a host is unreachable.

The lab asks for ports and changes what they do by lines of JSON on stdin, and each is answered
on stdout when it is done. The interfaces go with the process, and the process with its stdin:
nothing of it outlives the lab, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import json
import os
import random
import selectors
import struct
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

DONE: Final = "done\n"
FRAME_BYTES: Final = 65536
ETHERNET_BYTES: Final = 14

# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000

BROADCAST: Final = b"\xff" * 6
IPV6_GROUP: Final = b"\x33\x33"
NEIGHBOUR_GROUPS: Final = (
    b"\x33\x33\xff",
    b"\x33\x33\x00\x00\x00\x01",
    b"\x33\x33\x00\x00\x00\x02",
)
"""What IPv6 cannot do without even where multicast is filtered (RFC 4861)."""

ARP: Final = b"\x08\x06"
IPV6: Final = b"\x86\xdd"
ICMPV6: Final = b"\x3a"
SOLICITATION, ADVERTISEMENT = b"\x87", b"\x88"


def finds_neighbours(frame: bytes) -> bool:
    """Tell whether a frame is of ARP or of IPv6's neighbour discovery."""
    kind = frame[12:14]
    if kind == IPV6:
        return frame[20:21] == ICMPV6 and frame[54:55] in (SOLICITATION, ADVERTISEMENT)
    return kind == ARP


@dataclass(slots=True)
class Segment:
    """One Ethernet.

    Attributes:
        multicast: whether it carries what goes to groups, other than neighbour discovery.
        isolated: whether hosts reach uplinks only, as in many a guest network.
        silent: whether it loses everything but what neighbours find each other by.
        loss: the part of the frames that gets lost, 0 to 1.
        delay_seconds: how long each frame is on its way.
        homes: behind which port an Ethernet address was seen last.
    """

    multicast: bool = True
    isolated: bool = False
    silent: bool = False
    loss: float = 0.0
    delay_seconds: float = 0.0
    homes: dict[bytes, int] = field(default_factory=dict)

    def carries(self, target: bytes) -> bool:
        """Tell whether it carries frames to an Ethernet address at all."""
        is_group = bool(target[0] & 1) and target != BROADCAST
        return self.multicast or not is_group or target.startswith(NEIGHBOUR_GROUPS)


@dataclass(slots=True)
class Port:
    """Where one interface is plugged in.

    Attributes:
        segment: the name of the segment, or None while it is unplugged.
        uplink: whether hosts in an isolated segment reach it.
        silent: the same for what goes this way, while the interface stays up.
    """

    descriptor: int
    segment: str | None = None
    uplink: bool = False
    silent: bool = False


class Switch:
    """All segments and ports of a lab."""

    def __init__(self) -> None:
        self._segments: dict[str, Segment] = {}
        self._ports: dict[int, Port] = {}
        self._selector = selectors.DefaultSelector()
        self._on_their_way: list[tuple[float, int, int, str, bytes]] = []
        self._sent = 0
        self._requests = b""

    def run(self) -> None:
        """Carry frames until stdin ends."""
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
        while True:
            for key, _ in self._selector.select(self._wait_seconds()):
                if key.data is None:
                    if not self._read_requests():
                        return
                else:
                    self._take(key.data)
            self._deliver_due()

    # Requests.

    def _read_requests(self) -> bool:
        data = os.read(sys.stdin.fileno(), FRAME_BYTES)
        *lines, self._requests = (self._requests + data).split(b"\n")
        for line in lines:
            self._change(json.loads(line))
            sys.stdout.write(DONE)
            sys.stdout.flush()
        return bool(data)

    def _change(self, request: dict[str, Any]) -> None:
        """Change a port or a segment, which is made when it is new."""
        thing: Port | Segment
        if "port" in request:
            thing = self._port(int(request["port"]))
        else:
            thing = self._segments.setdefault(str(request["segment"]), Segment())
        for name, value in request["changes"].items():
            setattr(thing, name, value)

    def _port(self, number: int) -> Port:
        if number not in self._ports:
            descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            name = f"p{number}".encode()
            fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name, IFF_TAP | IFF_NO_PI))
            self._ports[number] = Port(descriptor)
            self._selector.register(descriptor, selectors.EVENT_READ, number)
        return self._ports[number]

    # Frames.

    def _take(self, number: int) -> None:
        """Take one frame from a port, and put it on its way."""
        port = self._ports[number]
        try:
            frame = os.read(port.descriptor, FRAME_BYTES)
        except OSError:
            return  # The interface has just been taken down.
        if port.segment is None or len(frame) < ETHERNET_BYTES:
            return
        segment = self._segments[port.segment]
        target, source = frame[:6], frame[6:12]
        segment.homes[source] = number
        if not segment.carries(target) or self._is_lost(port, segment, frame):
            return
        for other in self._targets(segment, port.segment, number, frame):
            if random.random() < segment.loss:
                continue
            self._sent += 1
            due = time.monotonic() + segment.delay_seconds
            heapq.heappush(self._on_their_way, (due, self._sent, other, port.segment, frame))

    @staticmethod
    def _is_lost(port: Port, segment: Segment, frame: bytes) -> bool:
        return (port.silent or segment.silent) and not finds_neighbours(frame)

    def _targets(self, segment: Segment, name: str, source: int, frame: bytes) -> list[int]:
        """Return the ports to which a frame goes."""
        home = segment.homes.get(frame[:6])
        if home is not None and self._ports[home].segment == name:
            candidates = [home]
        else:
            candidates = [number for number, port in self._ports.items() if port.segment == name]
        if segment.isolated and not self._ports[source].uplink and not finds_neighbours(frame):
            candidates = [number for number in candidates if self._ports[number].uplink]
        return [number for number in candidates if number != source]

    def _deliver_due(self) -> None:
        now = time.monotonic()
        while self._on_their_way and self._on_their_way[0][0] <= now:
            _, _, number, segment, frame = heapq.heappop(self._on_their_way)
            port = self._ports[number]
            if port.segment == segment and not self._is_lost(port, self._segments[segment], frame):
                # An interface that is down takes nothing, and a full one drops, as in real life.
                with contextlib.suppress(OSError):
                    os.write(port.descriptor, frame)

    def _wait_seconds(self) -> float | None:
        if not self._on_their_way:
            return None
        return max(0.0, self._on_their_way[0][0] - time.monotonic())


if __name__ == "__main__":
    Switch().run()
