"""Connections of a realm that has proxies in front: whose they are comes first, from the proxies.

Owns what a connection is until its proxy has said whose it is, and that nobody else's word counts:
a proxy's connection has to begin with a header, and no other one may. Twisted's ``haproxy:``
endpoint may stand in front or not: the header is read here, straight from the socket, so that what
follows it is read by whoever reads it best.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.haproxy._wrapper import HAProxyProtocolWrapper  # It has no public name.
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.errors import Code
from abst.realm.gate import Shut, address_of
from abst.realm.proxy_header import PEEK_BYTES, BadHeaderError, ProxyHeader


@implementer(IReadDescriptor)
class Entrance(Protocol):
    """A connection of which it is not known yet whose it is.

    Args:
        factory: the realm's.
    """

    disconnecting = False
    transport: Any

    def __init__(self, factory: Any) -> None:
        self._factory = factory
        self._header = ProxyHeader()
        self._socket: socket.socket | None = None
        self._number = -1
        self._is_done = False

    def makeConnection(self, transport: Any) -> None:
        """See who has connected, and wait for the header if it is a proxy."""
        if is_wrapped := isinstance(transport, HAProxyProtocolWrapper):
            transport = _without_wrapper(transport)
        self.transport = transport
        transport.protocol = self
        peer = transport.getPeer()
        if address_of(getattr(peer, "host", "")) in self._factory.trusted_proxies:
            self._expect_header()
        elif is_wrapped:
            self._shut()
        else:
            self._let_in(self._factory.observed(peer))

    # As a descriptor of the reactor.

    def fileno(self) -> int:
        """Return the socket's number, or -1 once the header has been read."""
        return self._number

    def logPrefix(self) -> str:
        """Return the prefix for the reactor's log lines."""
        return "Entrance"

    def doRead(self) -> None:
        """Take the header from the socket, and nothing behind it."""
        assert self._socket is not None
        try:
            data = self._socket.recv(PEEK_BYTES, socket.MSG_PEEK)
            if data:
                count, is_whole = self._header.feed(data)
                self._socket.recv(count)
            else:
                raise ConnectionDone
        except BlockingIOError:
            return
        except (OSError, ConnectionDone):
            self._leave()
            self.transport.abortConnection()
            return
        except BadHeaderError:
            self._shut()
            return
        if is_whole:
            self._speak_for()

    # As a protocol.

    def dataReceived(self, data: bytes) -> None:
        """Take what a transport without a socket has read."""
        if self._is_done:
            return
        try:
            count, is_whole = self._header.feed(data)
        except BadHeaderError:
            self._shut()
            return
        if is_whole:
            self._speak_for(data[count:])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Hear from the owner that the socket is closed, or from the reactor that it fails."""
        self._leave()
        if not getattr(self.transport, "disconnected", True):
            # The reactor found the descriptor unusable; the socket's owner still has to close it.
            self.transport.abortConnection()

    def refuse(self, code: Code) -> None:
        """Close: nobody is there yet who could be told why."""
        self._leave()
        self.transport.abortConnection()

    # Inside.

    def _expect_header(self) -> None:
        factory = self._factory
        if factory.turns_away():
            self._leave()
            self.transport.abortConnection()
            return
        factory.newcomers.add(self)
        factory.legs.add(self.transport)
        self._socket = factory.socket_of(self.transport)
        if self._socket is not None:
            self._number = self._socket.fileno()
            self.transport.stopReading()
            factory.descriptors.addReader(self)
        due = factory.now() + factory.realm.limits.hello_seconds
        factory.realm.deadlines.add(due, self._look_for_header)
        factory.settle()

    def _look_for_header(self, now: float) -> None:
        if not self._is_done:
            self._shut()

    def _speak_for(self, rest: bytes = b"") -> None:
        """Let whoever the proxy speaks for in, or the proxy itself."""
        self._leave()
        self._let_in(self._header.source or self._factory.observed(self.transport.getPeer()))
        if rest:
            self.transport.protocol.dataReceived(rest)

    def _let_in(self, observed: tuple[str, int] | None) -> None:
        self._is_done = True
        protocol = self._factory.let_in(observed)
        if protocol is None:
            self.transport.abortConnection()
            return
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)

    def _shut(self) -> None:
        """Close without a word: it is no proxy's connection, or no proxy of ours."""
        self._leave()
        self._factory.count_shut(Shut.PROXY)
        self.transport.abortConnection()

    def _leave(self) -> None:
        if not self._is_done:
            self._is_done = True
            if self._socket is not None:
                self._factory.descriptors.removeReader(self)
                self._number = -1
            self._factory.newcomers.discard(self)
            self._factory.leg_gone(self.transport)


def _without_wrapper(wrapper: Any) -> Any:
    """Take Twisted's own reader of headers out of the way; return the transport below it."""
    wrapper.factory.unregisterProtocol(wrapper)
    return wrapper.transport
