"""mosquitto on the benchmark's work: every peer subscribes to a topic of its own, at QoS 0.

The packets are MQTT 3.1.1. Its limits on queued messages are lifted, so that it has no reason to
drop one, and nothing is kept on disk; all else is as it comes.
"""

from __future__ import annotations

import getpass
import math
import shutil
import subprocess
from pathlib import Path

from benchmarks.certificates import Authority, client_context
from benchmarks.errors import ServerFailed, ServerNotInstalled
from benchmarks.plain import Context, PlainContext
from benchmarks.process import ServerProcess, unused_port
from benchmarks.servers import Foreign, Packet, peer_name

_CONFIGURATION = """\
listener {port} 127.0.0.1
user {user}
allow_anonymous true
max_queued_messages 0
max_queued_bytes 0
persistence false
log_dest stderr
log_type error
log_type warning
"""
_TLS = """\
cafile {files.certificate}
certfile {files.server_certificate}
keyfile {files.server_key}
require_certificate true
tls_version tlsv1.3
"""

_CONNACK_ACCEPTED = b"\x20\x02\x00\x00"
_SUBACK_QOS_0 = b"\x90\x03\x00\x01\x00"


class Mosquitto:
    """The program ``mosquitto``, on the path or where Debian puts it."""

    name = "mosquitto"
    keepalive_seconds = math.inf

    def __init__(self, authority: Authority, *, tls: bool = True) -> None:
        """Find the program. Raises: ServerNotInstalled."""
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            raise ServerNotInstalled("mosquitto is not installed")
        self._program = program
        self._files = authority
        self._configuration = _CONFIGURATION + _TLS if tls else _CONFIGURATION
        self._context: Context = PlainContext()
        if tls:
            self._context = client_context(
                authority.client_certificate, authority.client_key, authority.certificate
            )
        # It prints its usage, version first, with a status of failure.
        printed = subprocess.run([program, "-h"], capture_output=True, text=True, check=False)
        self.version = printed.stdout.partition("\n")[0].split()[-1]

    def start(self, folder: Path) -> ServerProcess:
        """Start a broker; see :class:`benchmarks.servers.Server`."""
        port = unused_port()
        configuration = folder / "mosquitto.conf"
        configuration.write_text(
            self._configuration.format(port=port, files=self._files, user=getpass.getuser())
        )
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
        """Connect with a clean session and no keep-alive, and subscribe."""
        connect = _text(b"MQTT") + b"\x04\x02\x00\x00" + _text(peer_name(peer))
        return _message(0x10, connect) + subscription(1, peer_name(peer))

    def is_greeted(self, received: bytes) -> bool:
        """Tell whether both acknowledgements have come."""
        whole = _CONNACK_ACCEPTED + _SUBACK_QOS_0
        if not whole.startswith(received):
            raise ServerFailed(f"mosquitto answers {received!r}")
        return received == whole

    def packet(self, sender: int, receiver: int, payload: bytes) -> Packet:
        """Publish to the receiver's topic; the same bytes arrive."""
        publish = publication(peer_name(receiver), payload)
        return Packet(publish, publish)

    def foreign(self, received: bytes) -> Foreign | None:
        """Refuse: at QoS 0 and without keep-alive a broker says nothing of its own."""
        raise ServerFailed(f"mosquitto sends {received[:50]!r}")

    def keepalive(self, peer: int) -> bytes:
        """Return nothing: the connection has no keep-alive."""
        return b""


def subscription(number: int, topic: bytes) -> bytes:
    """Return SUBSCRIBE for one topic, at QoS 0."""
    return _message(0x82, number.to_bytes(2, "big") + _text(topic) + b"\x00")


def publication(topic: bytes, payload: bytes) -> bytes:
    """Return PUBLISH at QoS 0: a broker passes on the very same bytes."""
    return _message(0x30, _text(topic) + payload)


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _message(first_byte: int, body: bytes) -> bytes:
    """Return an MQTT control packet: its length is a number in base 128, lowest digit first."""
    digits = bytearray([first_byte])
    length = len(body)
    while length > 127:
        digits.append(length & 127 | 128)
        length >>= 7
    digits.append(length)
    return bytes(digits) + body
