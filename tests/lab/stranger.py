"""A stranger in a LAN: announces what is not true, as often as asked.

Makes its packets from the specifications alone (discovery.md, RFC 1035, RFC 6762), so that it does
not share the product's mistakes.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import socket
import struct
import time
import uuid
from collections.abc import Iterator

SERVICE = "_abst._tcp.local"
GROUP = ("224.0.0.251", 5353)
TTL_SECONDS = 120

# RFC 1035, 3.2.2 and 4.1.1, and RFC 6762, 10.2 and 18.
ADDRESS, POINTER, TEXT, SERVER = 1, 12, 16, 33
SHARED, UNIQUE = 0x0001, 0x8001
AUTHORITATIVE_ANSWER = 0x8400


def domain(name: str) -> bytes:
    """Return a domain name as DNS writes it, without compression."""
    return b"".join(strings([label.encode() for label in name.split(".")])) + b"\0"


def strings(words: list[bytes]) -> list[bytes]:
    """Return words with their lengths before them."""
    return [bytes([len(word)]) + word for word in words]


def record(name: str, kind: int, share: int, content: bytes) -> bytes:
    """Return a resource record."""
    return domain(name) + struct.pack("!HHIH", kind, share, TTL_SECONDS, len(content)) + content


def announcement(device_id: bytes, host: str, port: int) -> bytes:
    """Return the packet in which a device seems to announce itself."""
    nonce = os.urandom(8)
    digest = hashlib.sha256(b"ABST announcement 1" + nonce + device_id).digest()[:8]
    words = [b"v=1", b"n=" + nonce.hex().encode(), b"h=" + digest.hex().encode()]
    instance = os.urandom(8).hex()
    name, machine = f"{instance}.{SERVICE}", f"{instance}.local"
    records = [
        record(SERVICE, POINTER, SHARED, domain(name)),
        record(name, SERVER, UNIQUE, struct.pack("!HHH", 0, 0, port) + domain(machine)),
        record(name, TEXT, UNIQUE, b"".join(strings(words))),
        record(machine, ADDRESS, UNIQUE, socket.inet_aton(host)),
    ]
    header = struct.pack("!6H", 0, AUTHORITATIVE_ANSWER, 0, len(records), 0, 0)
    return header + b"".join(records)


def device_ids(claims: list[str]) -> Iterator[bytes]:
    """Yield the IDs to announce without end: those of a list, or new ones each time."""
    if claims:
        yield from itertools.cycle(uuid.UUID(claim).bytes for claim in claims)
    while True:
        yield os.urandom(16)


def main() -> None:
    """Announce until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--claim", action="append", default=[], metavar="DEVICE_ID")
    parser.add_argument("--each-second", type=float, default=1.0)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(arguments.host))
    sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    sender.bind(("", GROUP[1]))
    began = time.monotonic()
    for sent, device_id in enumerate(device_ids(arguments.claim)):
        time.sleep(max(0.0, began + sent / arguments.each_second - time.monotonic()))
        sender.sendto(announcement(device_id, arguments.host, arguments.port), GROUP)


if __name__ == "__main__":
    main()
