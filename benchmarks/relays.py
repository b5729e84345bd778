"""What the circuit loads ask of a relay: circuits, each of them two sockets with the relay between.

A relay says how it is started and how two peers come to each other through it. What then flows is
the same for all, in plain: a relay of this kind carries what is encrypted from end to end already.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, Protocol

from benchmarks.errors import ServerFailed
from benchmarks.process import ServerProcess

PATIENCE_SECONDS = 20.0
#: The type of a TLS record, with which the bytes of a circuit begin.
_FIRST_BYTE = b"\x16"


class Ends(NamedTuple):
    """The two sockets of a circuit; blocking, with a timeout."""

    asker: socket.socket
    target: socket.socket

    def pass_a_byte(self) -> None:
        """Wait until a byte from the asker has come to the target. Raises: ServerFailed."""
        self.asker.sendall(_FIRST_BYTE)
        self._expect(self.target)

    def answer_a_byte(self) -> None:
        """The other way round. Raises: ServerFailed."""
        self.target.sendall(_FIRST_BYTE)
        self._expect(self.asker)

    def close(self) -> None:
        """Close both."""
        self.asker.close()
        self.target.close()

    def _expect(self, end: socket.socket) -> None:
        received = end.recv(1)
        if received != _FIRST_BYTE:
            raise ServerFailed(f"{received!r} came through a circuit, not {_FIRST_BYTE!r}")


class Opener(Protocol):
    """Two peers that a relay brings together, as often as wanted."""

    def open(self) -> Ends:
        """Ask for a circuit, and return it once both ends may send. Raises: ServerFailed."""


class Relay(Protocol):
    """One kind of relay."""

    name: str
    version: str

    def start(self, folder: Path) -> ServerProcess:
        """Start a fresh relay with its files in ``folder``, and return once it listens.

        Raises: ServerFailed.
        """

    def opener(self, process: ServerProcess) -> AbstractContextManager[Opener]:
        """Return two peers of it; what they have open is closed at the end of the context.

        Raises: ServerFailed.
        """


def connect(port: int) -> socket.socket:
    """Return a connection to a port of this machine."""
    connected = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connected


def receive_exactly(end: socket.socket, length_bytes: int) -> bytes:
    """Read that many bytes. Raises: ServerFailed, when the end comes before."""
    received = b""
    while len(received) < length_bytes:
        piece = end.recv(length_bytes - len(received))
        if not piece:
            raise ServerFailed(f"the connection ended behind {received!r}")
        received += piece
    return received


def started(command: Sequence[str], folder: Path, port: int) -> ServerProcess:
    """Start a relay that shall listen on ``port``, and wait until it does. Raises: ServerFailed."""
    process = ServerProcess(command, folder, folder)
    try:
        process.wait_for_port(port)
    except BaseException:
        process.stop()
        raise
    return process


def tls(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Return a connection inside TLS. Raises: ServerFailed."""
    plain = connect(port)
    try:
        return context.wrap_socket(plain)
    except OSError as error:
        plain.close()
        raise ServerFailed(f"no TLS with port {port}: {error}") from error
