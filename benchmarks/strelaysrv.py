"""Syncthing's strelaysrv, and as much of its relay protocol as a circuit takes.

The protocol is documented in Syncthing's specifications, as "Relay Protocol v1": messages in XDR
(RFC 4506) behind a header of three words, inside TLS for a peer that joins or asks, in plain for
the two connections of a session. A peer's ID is the SHA-256 of its certificate.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from benchmarks.certificates import client_context, make_device
from benchmarks.errors import ServerFailed, ServerNotInstalled
from benchmarks.process import ServerProcess, unused_port
from benchmarks.relays import Ends, connect, receive_exactly, started, tls

_PROTOCOL = "bep-relay"
_MAGIC = 0x9E79BC40
_HEADER = struct.Struct(">III")
_PING, _PONG, _JOIN_RELAY, _JOIN_SESSION, _RESPONSE, _CONNECT, _INVITATION = range(7)
_MOST_BYTES = 1024
# A connection that comes in an instant in which the session does not wait for one is told that
# there was one already. Of a thousand sessions that happens to one or two.
_TRIES = 4


class Strelaysrv:
    """The program ``strelaysrv``, in no pool and with no status page."""

    name = "strelaysrv"

    def __init__(self, folder: Path) -> None:
        """Find the program, and make two peers in ``folder``. Raises: ServerNotInstalled."""
        program = shutil.which("strelaysrv")
        if program is None:
            raise ServerNotInstalled("strelaysrv is not installed")
        self._program = program
        printed = subprocess.run([program, "-version"], capture_output=True, text=True, check=True)
        self.version = printed.stdout.split()[1].removeprefix("v")
        folder.mkdir(mode=0o700)
        self._asker, self._target = (_Peer(folder / f"{name}.pem") for name in ("asker", "target"))

    def start(self, folder: Path) -> ServerProcess:
        """Start it; see :class:`benchmarks.relays.Relay`."""
        port = unused_port()
        listen = f"127.0.0.1:{port}"
        command = [self._program, "-listen", listen, "-keys", str(folder)]
        return started([*command, "-pools", "", "-status-srv", ""], folder, port)

    @contextlib.contextmanager
    def opener(self, process: ServerProcess) -> Iterator[_Peers]:
        """Join as the target; see :class:`benchmarks.relays.Relay`."""
        with tls(process.port, self._target.context) as waiting:
            _send(waiting, _JOIN_RELAY)
            _expect_success(waiting)
            yield _Peers(process.port, waiting, self._asker.context, self._target.id)


class _Peer:
    def __init__(self, file: Path) -> None:
        certificate = make_device(file).certificate
        self.id = hashlib.sha256(certificate).digest()
        self.context = client_context(file, None, None)
        self.context.set_alpn_protocols([_PROTOCOL])


class _Peers:
    def __init__(
        self, port: int, waiting: ssl.SSLSocket, asking: ssl.SSLContext, target_id: bytes
    ) -> None:
        self._port = port
        self._waiting = waiting
        self._asking = asking
        self._target_id = target_id

    def open(self) -> Ends:
        """Ask, and follow both invitations; ask again if that fails, as Syncthing would."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(_Refused):
                return self._try()
        return self._try()

    def _try(self) -> Ends:
        with tls(self._port, self._asking) as asking:
            _send(asking, _CONNECT, _opaque(self._target_id))
            asker_key = _invitation_key(asking)
        target_key = _invitation_key(self._waiting)
        ends = Ends(connect(self._port), connect(self._port))
        try:
            for end, key in zip(ends, (asker_key, target_key), strict=True):
                _send(end, _JOIN_SESSION, _opaque(key))
                _expect_success(end)
        except BaseException:
            ends.close()
            raise
        return ends


class _Refused(ServerFailed):
    """A request was not answered with success."""


def _send(end: socket.socket, kind: int, content: bytes = b"") -> None:
    end.sendall(_HEADER.pack(_MAGIC, kind, len(content)) + content)


def _receive(end: socket.socket) -> tuple[int, bytes]:
    """Return the next message's kind and content; answer pings on the way."""
    while True:
        magic, kind, length_bytes = _HEADER.unpack(receive_exactly(end, _HEADER.size))
        if magic != _MAGIC or length_bytes > _MOST_BYTES:
            raise ServerFailed("what strelaysrv sends is not its protocol")
        content = receive_exactly(end, length_bytes)
        if kind != _PING:
            return kind, content
        _send(end, _PONG)


def _expect_success(end: socket.socket) -> None:
    kind, content = _receive(end)
    if kind != _RESPONSE or content[:4] != bytes(4):
        raise _Refused(f"strelaysrv answers with message {kind}, {content!r}")


def _invitation_key(end: socket.socket) -> bytes:
    """Return the key in an invitation: its second field, behind the other peer's ID."""
    kind, content = _receive(end)
    if kind != _INVITATION:
        raise ServerFailed(f"strelaysrv sends message {kind}, {content!r}, no invitation")
    _, rest = _take_opaque(content)
    key, _ = _take_opaque(rest)
    return key


def _opaque(data: bytes) -> bytes:
    """Return bytes of variable length in XDR: their count, and padding to whole words."""
    return len(data).to_bytes(4, "big") + data + bytes(-len(data) % 4)


def _take_opaque(data: bytes) -> tuple[bytes, bytes]:
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end + -end % 4 :]
