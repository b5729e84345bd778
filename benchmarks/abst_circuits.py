"""Circuits through a realm: two devices that the realm brings together, with plain legs.

The devices are written from ``docs/spec/circuits.md``, on sockets that block.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack

from benchmarks.abst_realm import AbstRealm
from benchmarks.errors import ServerFailed
from benchmarks.process import ServerProcess
from benchmarks.relays import Ends, connect, tls

_BACK_HEARTBEAT, _CIRCUIT = 0, 1
_READ_BYTES = 4096
_ASKER, _TARGET = 0, 1


class _Realm(AbstRealm):
    """A realm that lets one device have as many circuits as the loads want."""

    # The others have no such limits. Theirs would have to be lifted too.
    limits = {"circuits": 4000, "device_circuits": 4000, "circuit_requests_per_minute": 100_000}


class AbstCircuits:
    """A realm that lets one device have as many circuits as the loads want."""

    name = "abst"

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        """Make two devices in ``folder``; ``command`` starts a realm."""
        self._realm = _Realm(folder, command)
        self.version = self._realm.version

    def start(self, folder: Path) -> ServerProcess:
        """Start a realm; see :class:`benchmarks.relays.Relay`."""
        return self._realm.start(folder)

    @contextlib.contextmanager
    def opener(self, process: ServerProcess) -> Iterator[_Devices]:
        """Say Hello for both devices; see :class:`benchmarks.relays.Relay`."""
        with (
            tls(process.port, self._realm.context(_ASKER)) as asker,
            tls(process.port, self._realm.context(_TARGET)) as target,
        ):
            devices = []
            for peer, connection in ((_ASKER, asker), (_TARGET, target)):
                connection.sendall(self._realm.greeting(peer))
                devices.append(_Device(connection, self._realm.device_id(peer)))
            yield _Devices(process.port, *devices)


class _Device:
    """A device's connection to the realm."""

    def __init__(self, connection: ssl.SSLSocket, device_id: bytes) -> None:
        self.device_id = device_id
        self._connection = connection
        self._unpacker = msgpack.Unpacker()
        self._next(_BACK_HEARTBEAT)

    def ask_for(self, target_id: bytes) -> None:
        """Send Connect to device."""
        packet = {
            "packet_id": _CIRCUIT,
            "source_device": self.device_id,
            "target_device": target_id,
        }
        self._connection.sendall(msgpack.packb(packet))

    def token(self) -> bytes:
        """Wait for Circuit, and return this device's token."""
        token: bytes = self._next(_CIRCUIT)["content"]["token"]
        return token

    def _next(self, packet_id: int) -> dict[str, Any]:
        """Return the next packet; it must be of that kind."""
        while True:
            for packet in self._unpacker:
                if packet.get("packet_id") != packet_id:
                    raise ServerFailed(f"the realm sends {str(packet)[:300]}")
                found: dict[str, Any] = packet
                return found
            data = self._connection.recv(_READ_BYTES)
            if not data:
                raise ServerFailed("the realm has closed a device's connection")
            self._unpacker.feed(data)


class _Devices:
    def __init__(self, port: int, asker: _Device, target: _Device) -> None:
        self._port = port
        self._asker = asker
        self._target = target

    def open(self) -> Ends:
        """Ask, and open both legs; what is sent on one waits in the realm for the other."""
        self._asker.ask_for(self._target.device_id)
        return Ends(*(self._leg(device.token()) for device in (self._asker, self._target)))

    def _leg(self, token: bytes) -> socket.socket:
        leg = connect(self._port)
        leg.sendall(msgpack.packb({"packet_id": _CIRCUIT, "content": {"token": token}}))
        return leg
