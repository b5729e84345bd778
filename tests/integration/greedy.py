"""A process of devices that send as much as they can; it ends with its standard input.

``python -m tests.integration.greedy PORT WAY NUMBER [TARGET]``: WAY is ``one``, where all send to
the device TARGET; ``many``, where each sends to a device of its own; or ``circuits``, where each
fills one to a device of its own. It writes a line when all of them are there.
"""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress

from abst import codec
from abst.identity import Identity
from abst.packets import Circuit, ConnectToDevice, Leg, Send
from tests.integration.raw_client import RawDevice, join

CONTENT_BYTES = 100
PIECE_BYTES = 65536


def send_packets(device: RawDevice, target: bytes) -> None:
    """Send packets to a device for ever."""
    packet = codec.encode(Send(device.device_id, target, bytes(CONTENT_BYTES)))
    send_bytes(device.socket, packet * (PIECE_BYTES // len(packet)))


def send_bytes(connection: socket.socket, data: bytes) -> None:
    """Send the same bytes for ever."""
    with suppress(OSError):
        while True:
            connection.sendall(data)


def read_all(connection: socket.socket) -> None:
    """Read for ever."""
    room = bytearray(PIECE_BYTES)
    with suppress(OSError):
        while connection.recv_into(room):
            pass


def open_circuit(port: int, asker: RawDevice, target: RawDevice) -> list[socket.socket]:
    """Return the two ends of a circuit whose legs are plain."""
    asker.send(ConnectToDevice(asker.device_id, target.device_id))
    ends = []
    for device in (asker, target):
        told = device.receive()
        assert isinstance(told, Circuit), told
        ends.append(socket.create_connection(("127.0.0.1", port)))
        ends[-1].sendall(codec.encode(Leg(told.token)))
    return ends


def begin(call: object, *arguments: object) -> None:
    """Call something in a thread that nobody waits for."""
    threading.Thread(target=call, args=arguments, daemon=True).start()  # type: ignore[arg-type]


def main(port: int, way: str, number: int, target: bytes) -> None:
    """Be greedy until the input ends."""
    senders = [join(port, Identity.generate()) for _ in range(number)]
    receivers = [] if way == "one" else [join(port, Identity.generate()) for _ in senders]
    if way == "one":
        for sender in senders:
            begin(send_packets, sender, target)
    elif way == "many":
        for sender, receiver in zip(senders, receivers, strict=True):
            begin(read_all, receiver.socket)
            begin(send_packets, sender, receiver.device_id)
    else:
        for sender, receiver in zip(senders, receivers, strict=True):
            ends = open_circuit(port, sender, receiver)
            begin(send_bytes, ends[0], bytes(PIECE_BYTES))
            begin(read_all, ends[1])
    sys.stdout.write("greedy\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(
        int(sys.argv[1]),
        sys.argv[2],
        int(sys.argv[3]),
        bytes.fromhex(sys.argv[4]) if len(sys.argv) > 4 else b"",
    )
