"""A pipe over a TCP connection. A thin Twisted adapter."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any, Final

from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from abst.address import format_host_port, parse_host_port
from abst.device.pipes import Finished, PipeOwner, Producer
from abst.errors import PeerUnreachableError

LINGER_SECONDS: Final = 2.0
"""How long the other side has to take the last that was written."""

V4_MAPPED: Final = "::ffff:"

KEEP_ALIVE_OPTIONS: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))
"""A stream has no heartbeat of its own, and by itself the system would wait for hours. There is no
TCP_USER_TIMEOUT here: it takes an other end that has stopped reading for one that is gone."""


class TcpPipe(TwistedProtocol):
    """A direct connection."""

    transport: Any

    def __init__(self, address: str) -> None:
        self.address = address
        self.remote = self.local = ""
        self.owner: PipeOwner | None = None
        self._closing = False
        self._linger: Any = None
        self._finished: Finished | None = None

    def connectionMade(self) -> None:
        """Note where the ends are, and send small packets at once."""
        self.remote = plain_address(self.transport.getPeer())
        self.local = plain_address(self.transport.getHost())
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        notice_dead_end(self.transport.getHandle())

    def dataReceived(self, data: bytes) -> None:
        """Hand bytes on."""
        if self.owner is not None and not self._closing:
            self.owner.pipe_received(self, data)

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self.transport.write(data)

    def close(self) -> None:
        """Close once what was written has come, or after a while."""
        if self._closing:
            return
        self._closing = True
        # To close with bytes unread is a reset, which overtakes what was written: read on.
        self.transport.loseWriteConnection()
        self._linger_on()

    def _linger_on(self) -> None:
        """Give the other side some time to take the last that was written."""
        self._linger = self.transport.reactor.callLater(
            LINGER_SECONDS, self.transport.abortConnection
        )

    def abort(self) -> None:
        """Break the connection, so that the other end knows; what was written may be lost."""
        self._closing = True
        self.transport.abortConnection()

    def finish(self, finished: Finished) -> None:
        """Close once what was written is out, however long that takes."""
        self._closing = True
        self._finished = finished
        self.transport.loseConnection()

    def is_stranded(self) -> bool:
        """Tell whether this machine has lost the address of this end, so that nothing comes."""
        try:
            host, _ = parse_host_port(self.local)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((host, 0))
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL
        return False

    def pause(self) -> None:
        """Read nothing until ``resume``."""
        self.transport.pauseProducing()

    def resume(self) -> None:
        """Read again."""
        self.transport.resumeProducing()

    def register_producer(self, producer: Producer) -> None:
        """Tell somebody when to stop writing and when to go on."""
        self.transport.registerProducer(producer, True)

    def unregister_producer(self) -> None:
        """Tell nobody any more."""
        self.transport.unregisterProducer()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Say that it is gone, unless that was asked for."""
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        owner, self.owner = self.owner, None
        was_closing, self._closing = self._closing, True
        problem = PeerUnreachableError(f"{self.address}: {reason.getErrorMessage()}")
        finished, self._finished = self._finished, None
        if finished is not None:
            finished(None if reason.check(ConnectionDone) else problem)
        elif owner is not None and not was_closing:
            owner.pipe_lost(self, problem)


def notice_dead_end(handle: Any) -> None:
    """Have the system look whether the other end of a socket is still there, as far as it can."""
    if not isinstance(handle, socket.socket):
        return
    for name, value in KEEP_ALIVE_OPTIONS:
        option = getattr(socket, name, None)
        if option is not None:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)


def plain_address(at: Any) -> str:
    """Return an address without what only one of two ends says of it."""
    host = str(at.host).removeprefix(V4_MAPPED).partition("%")[0]
    return format_host_port(str(ipaddress.ip_address(host)), int(at.port))
