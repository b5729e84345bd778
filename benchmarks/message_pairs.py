"""The pairs of clients of the message loads, each with the server between them.

What is held equal: TLS 1.3 between every client and its server, with Ed25519 keys and a certificate
on both sides; a process of its own for the sender, the receiver and the server; 100 bytes of
content. What differs, and speaks against ABST or for it: two devices encrypt end to end, inside
what they encrypt to the realm, and only they acknowledge; a broker reads what it passes on, and
acknowledges by itself.
"""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from benchmarks.abst_realm import AbstRealm
from benchmarks.certificates import Authority, make_device
from benchmarks.errors import ServerNotInstalled
from benchmarks.message_client import RECEIVER, SENDER
from benchmarks.mosquitto import Mosquitto
from benchmarks.process import ServerProcess, unused_port

_CHECKOUT = Path(__file__).parent.parent
_CROSSBAR_FOLDER = _CHECKOUT / ".venv" / "crossbar" / "bin"
_START_SECONDS = 60.0

# Every limit on what is in flight or waits is lifted, and small packets are not delayed.
_MOSQUITTO_CONFIGURATION = """\
listener {port} 127.0.0.1
user {user}
allow_anonymous true
cafile {files.certificate}
certfile {files.server_certificate}
keyfile {files.server_key}
require_certificate true
tls_version tlsv1.3
max_inflight_messages 0
max_queued_messages 0
max_queued_bytes 0
set_tcp_nodelay true
persistence false
log_dest stderr
log_type error
log_type warning
"""

_EVERYTHING = {"call": True, "register": True, "publish": True, "subscribe": True}


class Pair(Protocol):
    """A sender, a receiver, and what is between them."""

    name: str
    version: str
    #: How many messages the sender may have out in the pipelined load: what suits this kind best.
    window: int
    #: The program of a client; its task follows.
    command: Sequence[str]

    def start(self, folder: Path) -> ServerProcess:
        """Start a fresh server with its files in ``folder``. Raises: ServerFailed."""

    def where(self, role: str, server: ServerProcess) -> dict[str, str]:
        """Return what a client needs to find the server and the other client."""


class AbstDevices:
    """Two devices, a realm between them."""

    name = "abst devices"
    window = 2048
    command: Sequence[str] = (sys.executable, "-m", "benchmarks.messages_abst")

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        """Make two devices in ``folder``; ``command`` starts a realm."""
        self._realm = AbstRealm(folder, command)
        self._devices = {role: make_device(folder / f"{role}.pem") for role in (SENDER, RECEIVER)}
        self.version = self._realm.version

    def start(self, folder: Path) -> ServerProcess:
        """Start a realm; see :class:`Pair`."""
        return self._realm.start(folder)

    def where(self, role: str, server: ServerProcess) -> dict[str, str]:
        """Return the realm's address, the device's own key, and the other device's ID."""
        printed = server.output().split()
        other = self._devices[RECEIVER if role == SENDER else SENDER]
        return {
            "realm": next(word for word in printed if word.startswith("abst://")),
            "key": str(self._devices[role].file),
            "other": other.device_id.hex(),
        }


class _Broker(Mosquitto):
    """mosquitto, to keep what it has acknowledged until the receiver has taken it."""

    def start(self, folder: Path) -> ServerProcess:
        port = unused_port()
        configuration = folder / "mosquitto.conf"
        configuration.write_text(
            _MOSQUITTO_CONFIGURATION.format(port=port, files=self._files, user=getpass.getuser())
        )
        return _started([self._program, "-c", str(configuration)], folder, port)


class MqttClients:
    """Two clients of aiomqtt, mosquitto between them."""

    name = "aiomqtt"
    window = 40
    command: Sequence[str] = (sys.executable, "-m", "benchmarks.messages_mqtt")

    def __init__(self, authority: Authority) -> None:
        """Find the programs. Raises: ServerNotInstalled."""
        self._files = authority
        library = installed_version(sys.executable, "aiomqtt")
        self._broker = _Broker(authority)
        self.version = f"{library}, mosquitto {self._broker.version}"

    def start(self, folder: Path) -> ServerProcess:
        """Start a broker; see :class:`Pair`."""
        return self._broker.start(folder)

    def where(self, role: str, server: ServerProcess) -> dict[str, str]:
        """Return the broker's port, and the certificates."""
        return _with_certificates(self._files, server)


class WampClients:
    """Two clients of autobahn, crossbar between them, all in crossbar's virtual environment."""

    name = "autobahn"
    window = 256
    command: Sequence[str] = (str(_CROSSBAR_FOLDER / "python"), "-m", "benchmarks.messages_wamp")

    def __init__(self, authority: Authority) -> None:
        """Find the programs. Raises: ServerNotInstalled."""
        self._files = authority
        python = self.command[0]
        library, router = (installed_version(python, each) for each in ("autobahn", "crossbar"))
        self.version = f"{library}, crossbar {router}"

    def start(self, folder: Path) -> ServerProcess:
        """Start a router; see :class:`Pair`."""
        port = unused_port()
        (folder / "config.json").write_text(json.dumps(self._configuration(port)))
        program = str(_CROSSBAR_FOLDER / "crossbar")
        command = [program, "start", "--cbdir", str(folder), "--loglevel", "warn"]
        return _started(command, folder, port)

    def where(self, role: str, server: ServerProcess) -> dict[str, str]:
        """Return the router's port, and the certificates."""
        return _with_certificates(self._files, server)

    def _configuration(self, port: int) -> object:
        tls = {
            "key": str(self._files.server_key),
            "certificate": str(self._files.server_certificate),
            "ca_certificates": [str(self._files.certificate)],
        }
        endpoint = {"type": "tcp", "interface": "127.0.0.1", "port": port, "tls": tls}
        # What the anonymous may do is the same every time, and need not be looked up again.
        everything = {"uri": "", "match": "prefix", "allow": _EVERYTHING, "cache": True}
        roles = [{"name": "anonymous", "permissions": [everything]}]
        router = {
            "type": "router",
            "realms": [{"name": "benchmark", "roles": roles}],
            "transports": [
                {"type": "rawsocket", "endpoint": endpoint, "serializers": ["msgpack"]},
            ],
        }
        return {"version": 2, "workers": [router]}


def _with_certificates(files: Authority, server: ServerProcess) -> dict[str, str]:
    return {
        "port": str(server.port),
        "authority": str(files.certificate),
        "certificate": str(files.client_certificate),
        "key": str(files.client_key),
    }


def _started(command: Sequence[str], folder: Path, port: int) -> ServerProcess:
    process = ServerProcess(command, folder, folder)
    try:
        process.wait_for_port(port, _START_SECONDS)
    except BaseException:
        process.stop()
        raise
    return process


def installed_version(python: str, package: str) -> str:
    """Return the version of a package in that interpreter. Raises: ServerNotInstalled."""
    program = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    try:
        found = subprocess.run(
            [python, "-c", program, package], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServerNotInstalled(f"{package} is not installed: make bench installs it") from error
    return found.stdout.strip()
