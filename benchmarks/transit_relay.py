"""magic-wormhole-transit-relay: two connections that name the same token are joined.

Its line of greeting is that of the project's ``docs/transit.md``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from benchmarks.process import ServerProcess, unused_port
from benchmarks.relays import Ends, connect, receive_exactly, started
from benchmarks.wormhole import WORMHOLE_FOLDER, version_of

_TOKEN_BYTES = 32
_SIDE_BYTES = 8
_JOINED = b"ok\n"


class TransitRelay:
    """The relay, in the virtual environment of magic-wormhole."""

    name = "transit-relay"

    def __init__(self) -> None:
        """Find the package. Raises: ServerNotInstalled."""
        self.version = version_of("magic-wormhole-transit-relay")

    def start(self, folder: Path) -> ServerProcess:
        """Start it; see :class:`benchmarks.relays.Relay`."""
        port = unused_port()
        program = str(WORMHOLE_FOLDER / "twist")
        listen = f"--port=tcp:{port}:interface=127.0.0.1"
        return started([program, "transitrelay", listen], folder, port)

    @contextlib.contextmanager
    def opener(self, process: ServerProcess) -> Iterator[_Sides]:
        """Return two sides; see :class:`benchmarks.relays.Relay`."""
        yield _Sides(process.port)


class _Sides:
    def __init__(self, port: int) -> None:
        self._port = port

    def open(self) -> Ends:
        """Make two connections with a new token, and wait until both are told that they stand."""
        token = os.urandom(_TOKEN_BYTES).hex()
        ends = Ends(connect(self._port), connect(self._port))
        for end in ends:
            side = os.urandom(_SIDE_BYTES).hex()
            end.sendall(f"please relay {token} for side {side}\n".encode())
        for end in ends:
            receive_exactly(end, len(_JOINED))
        return ends
