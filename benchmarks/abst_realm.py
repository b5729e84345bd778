"""A realm on the benchmark's work: every peer is a device with a key of its own."""

from __future__ import annotations

import importlib.metadata
import re
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
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


# All the loads' connections come from one address and at once, as no network's do.
_CROWD = {
    "address_connections": 100_000,
    "address_handshakes_per_second": 100_000,
    "handshakes_per_second": 100_000,
}


class AbstRealm:
    """A realm that takes every device.

    It is started by a command to which ``--listen``, ``--state`` and ``--config`` are added.
    """

    name = "abst"
    #: What the loads need more of than a realm gives by itself.
    limits: Mapping[str, int] = {}
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

    def start(self, folder: Path) -> ServerProcess:
        """Start a realm with an empty state folder, and read its port from what it prints."""
        configuration = folder / "realm.toml"
        limits = {**_CROWD, **self.limits}
        lines = ['access = "open"', "[limits]", *(f"{key} = {limits[key]}" for key in limits)]
        configuration.write_text("\n".join(lines) + "\n")
        process = ServerProcess(
            [
                *self._command,
                *("--listen", "tcp:0:interface=127.0.0.1"),
                *("--state", str(folder / "state")),
                *("--config", str(configuration)),
            ],
            folder,
            _CHECKOUT,
        )
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
