"""redis-server on the work of the value loads: a key for each name.

It acknowledges what its log has on the disk (``appendfsync always``); snapshots are off, and so is
rewriting the log, which would be extra work. RESP, version 2, plain as Redis is mostly used, or in
TLS.
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.certificates import Authority, client_context
from benchmarks.conversation import Conversation, Counter, PacketCounter
from benchmarks.errors import ServerFailed, ServerNotInstalled
from benchmarks.plain import Context, PlainContext
from benchmarks.process import ServerProcess, unused_port
from benchmarks.servers import Foreign, Packet
from benchmarks.value_servers import VALUE

_CONFIGURATION = """\
bind 127.0.0.1
dir {folder}
save ""
appendonly yes
appendfsync always
auto-aof-rewrite-percentage 0
notify-keyspace-events E$
"""
_PLAIN = "port {port}\n"
_TLS = """\
port 0
tls-port {port}
tls-ca-cert-file {files.certificate}
tls-cert-file {files.server_certificate}
tls-key-file {files.server_key}
tls-auth-clients yes
tls-protocols TLSv1.3
"""
_SET_EVENT = b"__keyevent@0__:set"


class Redis:
    """The program ``redis-server``, on the path."""

    keepalive_seconds = math.inf

    def __init__(self, authority: Authority, *, tls: bool = False) -> None:
        """Find the program. Raises: ServerNotInstalled."""
        program = shutil.which("redis-server")
        if program is None:
            raise ServerNotInstalled("redis-server is not installed")
        self.name = "redis with TLS" if tls else "redis"
        self._program = program
        self._files = authority
        self._configuration = _CONFIGURATION + (_TLS if tls else _PLAIN)
        self._context: Context = PlainContext()
        if tls:
            self._context = client_context(
                authority.client_certificate, authority.client_key, authority.certificate
            )
        printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
        self.version = printed.stdout.split("v=")[1].split()[0]

    def start(self, folder: Path) -> ServerProcess:
        """Start a server; see :class:`benchmarks.servers.Server`."""
        port = unused_port()
        configuration = folder / "redis.conf"
        text = self._configuration.format(port=port, folder=folder, files=self._files)
        configuration.write_text(text)
        process = ServerProcess([self._program, str(configuration)], folder, folder)
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
        """Ping."""
        return _command(b"PING")

    def is_greeted(self, received: bytes) -> bool:
        """Tell whether the pong has come."""
        whole = b"+PONG\r\n"
        if not whole.startswith(received):
            raise ServerFailed(f"redis-server answers {received!r}")
        return received == whole

    def packet(self, sender: int, receiver: int, payload: bytes) -> Packet:
        """Refuse: this server keeps values."""
        raise ServerFailed("redis-server passes nothing on here")

    def foreign(self, received: bytes) -> Foreign | None:
        """Refuse: it says nothing but answers, and errors are none that are expected."""
        raise ServerFailed(f"redis-server sends {received[:100]!r}")

    def keepalive(self, peer: int) -> bytes:
        """Return nothing: silent connections stay."""
        return b""

    def open(self, conversations: Sequence[Conversation]) -> None:
        """Do nothing: they are ready; see :class:`benchmarks.value_servers.ValueServer`."""

    def put(self, name: bytes, number: int) -> bytes:
        """Return SET."""
        return _command(b"SET", name, VALUE)

    def get(self, name: bytes, number: int) -> bytes:
        """Return GET."""
        return _command(b"GET", name)

    def puts_answered(self) -> Counter:
        """Count the answers to SET."""
        return PacketCounter(b"+OK\r\n", self.foreign)

    def gets_answered(self) -> Counter:
        """Count the answers to GET."""
        return PacketCounter(_bulk(VALUE), self.foreign)

    def watch(self, watcher: Conversation, name: bytes) -> Counter:
        """Subscribe to the event of SET, which tells the name and not the value."""
        watcher.send(_command(b"SUBSCRIBE", _SET_EVENT))
        subscribed = b"*3\r\n" + _bulk(b"subscribe") + _bulk(_SET_EVENT) + b":1\r\n"
        watcher.wait_for(subscribed.__eq__)
        told = b"*3\r\n" + _bulk(b"message") + _bulk(_SET_EVENT) + _bulk(name)
        return PacketCounter(told, self.foreign)


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(map(_bulk, words))


def _bulk(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)
