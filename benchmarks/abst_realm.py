"""A realm on the benchmark's work: every peer is a device with a key of its own."""

from __future__ import annotations

import importlib.metadata
import re
import ssl
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgpack

from benchmarks.certificates import DeviceIdentity, client_context, make_device
from benchmarks.errors import ServerFailed
from benchmarks.process import ServerProcess
from benchmarks.servers import Foreign, Packet

_CHECKOUT = Path(__file__).parent.parent
_ADDRESS = re.compile(r"^abst://[^\s/]*:(\d+)/", re.MULTILINE)
_START_SECONDS = 30.0
_HELLO, _SEND = 0, 2

DEFAULT_COMMAND = (sys.executable, "-m", "twisted", "abst-realm")


class AbstRealm:
    """A realm, started by a command to which ``--listen`` and ``--state`` are added."""

    name = "abst"
    #: Well under the 15 s that a realm asks for.
    keepalive_seconds = 8.0

    def __init__(self, folder: Path, command: Sequence[str] = DEFAULT_COMMAND) -> None:
        """Make devices in ``folder`` as they are asked for."""
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._command = command
        self._devices: list[tuple[DeviceIdentity, ssl.SSLContext]] = []
        try:
            self.version = importlib.metadata.version("abst")
        except importlib.metadata.PackageNotFoundError:
            self.version = "from the checkout"

    def start(self, folder: Path, *more: str) -> ServerProcess:
        """Start a realm with an empty state folder, and read its port from what it prints.

        ``more`` is added to its command line.
        """
        listen = "tcp:0:interface=127.0.0.1"
        command = [*self._command, "--listen", listen, "--state", str(folder / "state"), *more]
        process = ServerProcess(command, folder, _CHECKOUT)
        deadline = time.monotonic() + _START_SECONDS
        try:
            while (address := _ADDRESS.search(process.output())) is None:
                process.check()
                if time.monotonic() > deadline:
                    raise ServerFailed(f"the realm prints no address:\n{process.output()}")
                time.sleep(0.02)
            process.wait_for_port(int(address[1]))
        except BaseException:
            process.stop()
            raise
        return process

    def device_id(self, peer: int) -> bytes:
        """Return this device's ID."""
        return self._device(peer)[0].device_id

    def context(self, peer: int) -> ssl.SSLContext:
        """Return the context of this device."""
        return self._device(peer)[1]

    def greeting(self, peer: int) -> bytes:
        """Return Hello."""
        content = {"device_id": self.device_id(peer), "version": 1}
        return pack({"packet_id": _HELLO, "content": content})

    def is_greeted(self, received: bytes) -> bool:
        """Tell whether the realm has answered Hello."""
        return self.foreign(received) is not None

    def packet(self, sender: int, receiver: int, payload: bytes) -> Packet:
        """Send to another device; the same bytes arrive."""
        packet = pack(
            {
                "packet_id": _SEND,
                "source_device": self.device_id(sender),
                "target_device": self.device_id(receiver),
                "content": payload,
            }
        )
        return Packet(packet, packet)

    def foreign(self, received: bytes) -> Foreign | None:
        """Pass over the realm's heartbeat; whatever else it says is an error."""
        unpacker = msgpack.Unpacker()
        unpacker.feed(received)
        try:
            packet = unpacker.unpack()
        except msgpack.OutOfData:
            return None
        if not isinstance(packet, dict) or packet.get("packet_id") != _HELLO:
            raise ServerFailed(f"the realm sends {str(packet)[:300]}")
        return Foreign(unpacker.tell())

    def keepalive(self, peer: int) -> bytes:
        """Return Hello again."""
        return self.greeting(peer)

    def _device(self, peer: int) -> tuple[DeviceIdentity, ssl.SSLContext]:
        while len(self._devices) <= peer:
            device = make_device(self._folder / f"{len(self._devices)}.pem")
            context = client_context(device.file, None, None)
            context.set_alpn_protocols(["abst-realm/1"])
            self._devices.append((device, context))
        return self._devices[peer]


def pack(packet: dict[str, object]) -> bytes:
    """Return a packet's bytes."""
    packed: bytes = msgpack.packb(packet)
    return packed
