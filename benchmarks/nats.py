"""nats-server on the benchmark's work: every peer subscribes to a subject of its own.

TLS starts at once, as with a realm. Where the documentation of nats-server leaves a choice, the one
that keeps it from dropping a slow reader is taken; all else is as it comes.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.certificates import Authority, client_context
from benchmarks.errors import ServerFailed, ServerNotInstalled
from benchmarks.plain import Context, PlainContext
from benchmarks.process import ServerProcess, unused_port
from benchmarks.servers import Foreign, Packet, peer_name

_LONGEST_LINE_BYTES = 4096
_CONFIGURATION = """\
listen: "127.0.0.1:{port}"
max_pending: 268435456
"""
_TLS = """\
tls {{
  cert_file: "{files.server_certificate}"
  key_file: "{files.server_key}"
  ca_file: "{files.certificate}"
  verify: true
  handshake_first: true
}}
"""


class NatsServer:
    """The program ``nats-server``, beside the running Python or on the path."""

    name = "nats"
    keepalive_seconds = math.inf

    def __init__(self, authority: Authority, *, tls: bool = True) -> None:
        """Find the program. Raises: ServerNotInstalled."""
        beside = Path(sys.executable).with_name("nats-server")
        program = str(beside) if beside.exists() else shutil.which("nats-server")
        if program is None:
            raise ServerNotInstalled("nats-server is not installed")
        self._program = program
        self._files = authority
        self._configuration = _CONFIGURATION + _TLS if tls else _CONFIGURATION
        self._context: Context = PlainContext()
        if tls:
            self._context = client_context(
                authority.client_certificate, authority.client_key, authority.certificate
            )
        printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        self.version = printed.stdout.split()[-1]

    def start(self, folder: Path) -> ServerProcess:
        """Start a server; see :class:`benchmarks.servers.Server`."""
        port = unused_port()
        configuration = folder / "nats.conf"
        configuration.write_text(self._configuration.format(port=port, files=self._files))
        process = ServerProcess([self._program, "-c", str(configuration)], folder, folder)
        try:
            process.wait_for_port(port)
        except BaseException:
            process.stop()
            raise
        return process

    def context(self, peer: int) -> Context:
        """Return the one context that all peers share."""
        return self._context

    def greeting(self, peer: int) -> bytes:
        """Connect and subscribe; the ping's answer says that the subscription stands."""
        connect = b'CONNECT {"verbose":false,"pedantic":false}\r\n'
        return connect + b"SUB %b 1\r\nPING\r\n" % peer_name(peer)

    def is_greeted(self, received: bytes) -> bool:
        """Tell whether the pong has come."""
        if b"-ERR" in received:
            raise ServerFailed(f"nats-server answers {received!r}")
        return received.endswith(b"PONG\r\n")

    def packet(self, sender: int, receiver: int, payload: bytes) -> Packet:
        """Publish to the receiver's subject."""
        name, size = peer_name(receiver), len(payload)
        return Packet(
            b"PUB %b %d\r\n%b\r\n" % (name, size, payload),
            b"MSG %b 1 %d\r\n%b\r\n" % (name, size, payload),
        )

    def foreign(self, received: bytes) -> Foreign | None:
        """Read one line that is not a message; see :func:`foreign_line`."""
        return foreign_line(received)

    def keepalive(self, peer: int) -> bytes:
        """Return nothing: the server pings, and is answered."""
        return b""


def foreign_line(received: bytes) -> Foreign | None:
    """Answer a ping, and pass over INFO and PONG. Raises: ServerFailed, for all else."""
    line, end, _ = received.partition(b"\r\n")
    if not end and len(line) < _LONGEST_LINE_BYTES:
        return None
    length_bytes = len(line) + len(end)
    match line.split(b" ")[0]:
        case b"PING":
            return Foreign(length_bytes, b"PONG\r\n")
        case b"PONG" | b"INFO":
            return Foreign(length_bytes)
        case _:
            raise ServerFailed(f"nats-server sends {line[:200]!r}")
