"""socat, told to join every connection with one to a port, where the target listens.

It knows neither peers nor tokens, and forks for each connection. It stands here for what it costs
in C to copy bytes from one socket to another.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.errors import ServerNotInstalled
from benchmarks.process import ServerProcess, unused_port
from benchmarks.relays import PATIENCE_SECONDS, Ends, connect, started

_BUFFER_BYTES = 1024 * 1024


class Socat:
    """The program ``socat``."""

    name = "socat"

    def __init__(self) -> None:
        """Find the program. Raises: ServerNotInstalled."""
        program = shutil.which("socat")
        if program is None:
            raise ServerNotInstalled("socat is not installed")
        self._program = program
        self._listener = socket.socket()
        printed = subprocess.run([program, "-V"], capture_output=True, text=True, check=True)
        self.version = printed.stdout.partition("socat version ")[2].split()[0]

    def start(self, folder: Path) -> ServerProcess:
        """Start it; see :class:`benchmarks.relays.Relay`."""
        port = unused_port()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(PATIENCE_SECONDS)
        listen = f"TCP-LISTEN:{port},bind=127.0.0.1,backlog=64,fork"
        target = f"TCP:127.0.0.1:{listener.getsockname()[1]}"
        command = [self._program, "-b", str(_BUFFER_BYTES), listen, target]
        try:
            process = started(command, folder, port)
            # The look whether it listens has made a connection too.
            listener.accept()[0].close()
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        return process

    @contextlib.contextmanager
    def opener(self, process: ServerProcess) -> Iterator[_Listening]:
        """Listen as the target; see :class:`benchmarks.relays.Relay`."""
        with self._listener:
            yield _Listening(process.port, self._listener)


class _Listening:
    def __init__(self, port: int, listener: socket.socket) -> None:
        self._port = port
        self._listener = listener

    def open(self) -> Ends:
        """Connect, and take what comes out of the other side."""
        asker = connect(self._port)
        target, _ = self._listener.accept()
        target.settimeout(PATIENCE_SECONDS)
        target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Ends(asker, target)
