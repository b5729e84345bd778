"""What the load generator asks of a server, and the list of the servers.

A server says how it is started and how its bytes look. All the rest, the load and the measuring,
is the same code for all of them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.plain import Context
from benchmarks.process import ServerProcess


class Packet(NamedTuple):
    """One packet of a pair: the bytes that its sender writes, and those that its receiver reads."""

    sent: bytes
    received: bytes


class Foreign(NamedTuple):
    """Bytes between packets that the server sent on its own account, such as a ping."""

    length_bytes: int
    answer: bytes = b""


class Server(Protocol):
    """One kind of server: how to start it, and its wire. Peers are numbered from 0."""

    name: str
    version: str
    #: How often :meth:`keepalive` must be sent; may be infinite.
    keepalive_seconds: float

    def start(self, folder: Path) -> ServerProcess:
        """Start a fresh server with its files in ``folder``, and return once it listens.

        Raises: ServerFailed.
        """

    def context(self, peer: int) -> Context:
        """Return the TLS context with this peer's certificate, or the one without TLS."""

    def greeting(self, peer: int) -> bytes:
        """Return the bytes that a peer sends first, to be known and reachable."""

    def is_greeted(self, received: bytes) -> bool:
        """Tell whether ``received`` is the whole answer to a greeting.

        Raises: ServerFailed, if it is a refusal.
        """

    def packet(self, sender: int, receiver: int, payload: bytes) -> Packet:
        """Return the packet that carries ``payload`` from one peer to the other."""

    def foreign(self, received: bytes) -> Foreign | None:
        """Read what stands at the start of ``received`` and is no packet; None if it is not whole.

        Raises: ServerFailed, if it is an error or nothing that may stand there.
        """

    def keepalive(self, peer: int) -> bytes:
        """Return the bytes that keep a silent peer connected."""


def peer_name(peer: int) -> bytes:
    """Return a name for a broker's peer: 128 bits in hexadecimal, as a device ID would be.

    A name's length matters. With a subject of nine characters, 1,000 bytes of payload make exactly
    1,024 of nats-server's, which it then sends in TLS records of 512 bytes, at half the speed.
    """
    return hashlib.sha256(b"%d" % peer).hexdigest()[:32].encode()
