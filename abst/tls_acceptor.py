"""What carries TLS on an accepted connection: its very socket, or Twisted's TLS.

Owns that choice. A TCP socket of a reactor with descriptors is read and written straight
(``tls_socket``); anything else gets Twisted's own TLS, made to behave in the same way, and the same
tests run over both.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IProtocol, ITCPTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from abst.handshakes import Handshakes
from abst.tls import TLS_HANDSHAKE_BYTE, ServerConnectionCreator
from abst.tls_socket import LINGER_SECONDS, MayShakeHands, PlainProtocolFactory, TlsSocket, tune


def always() -> bool:
    """Let everybody shake hands."""
    return True


class TlsAcceptor:
    """The protocol of an accepted connection: puts TLS on it, whatever its transport is.

    Args:
        descriptors: a ``Poller``, or the reactor itself.
        context: what the TLS server connection is made from.
        protocol: gets the plaintext.
        plain: makes the protocol that takes over when the first byte is not TLS.
        may_shake_hands: decides whether there is a handshake at all.
        handshakes: when its steps are done; None: as soon as they can be.
        lost: called when the connection is, unless it has been handed over in plain.
    """

    __slots__ = (
        "_context",
        "_descriptors",
        "_handshakes",
        "_inner",
        "_lost",
        "_may_shake_hands",
        "_plain",
        "_protocol",
    )

    def __init__(
        self,
        descriptors: Any,
        context: SSL.Context,
        protocol: IProtocol,
        plain: PlainProtocolFactory,
        may_shake_hands: MayShakeHands = always,
        handshakes: Handshakes | None = None,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._descriptors = descriptors
        self._context = context
        self._protocol = protocol
        self._plain = plain
        self._may_shake_hands = may_shake_hands
        self._handshakes = handshakes
        self._lost = lost
        self._inner: Any = None

    def makeConnection(self, transport: Any) -> None:
        """Choose between the socket itself and Twisted's TLS."""
        is_tcp = ITCPTransport.providedBy(transport)
        handle = cast(Any, transport).getHandle() if is_tcp else None
        if isinstance(handle, socket.socket) and hasattr(self._descriptors, "addReader"):
            tune(handle)
            self._inner = TlsSocket(
                self._descriptors,
                handle,
                self._context,
                self._protocol,
                self._plain,
                self._may_shake_hands,
                self._handshakes,
            )
        else:
            creator = ServerConnectionCreator(self._context)
            factory = TLSMemoryBIOFactory(creator, False, _FactoryOfOne(self._protocol))
            tls = _LingeringTls(factory, self._protocol, self._descriptors.callLater)
            self._inner = _BufferedTls(tls, self._protocol, self._plain, self._may_shake_hands)
        self._inner.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        """Pass on what the transport has read."""
        self._inner.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Pass on that the transport is closed."""
        self._inner.connectionLost(reason)
        self._lost()


class _FactoryOfOne(Factory):
    """A factory of the one protocol that it was given."""

    noisy = False

    def __init__(self, protocol: IProtocol) -> None:
        self._only = protocol

    def buildProtocol(self, addr: object) -> Any:
        return self._only


class _LingeringTls(TLSMemoryBIOProtocol):
    """Twisted's TLS; by itself it waits for ever for an other side that does not close.

    Here the transport below is told to close after a while, which it does as soon as everything has
    been written. Whoever does not read is for the protocol above to cut off.
    """

    transport: Any

    def __init__(
        self, factory: TLSMemoryBIOFactory, protocol: IProtocol, call_later: Callable[..., Any]
    ) -> None:
        super().__init__(factory, protocol)
        self._call_later = call_later
        self._timer: Any = None

    def loseConnection(self) -> None:
        if self._timer is None and self.connected:
            self._timer = self._call_later(LINGER_SECONDS, self._close)
        super().loseConnection()

    def _close(self) -> None:
        # Nothing comes any more that could make a socket closed now reset the connection: what was
        # read since the last word has been thrown away.
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        super().connectionLost(reason)


class _BufferedTls:
    """Twisted's TLS behind a look at the first byte."""

    def __init__(
        self,
        tls: Any,
        protocol: IProtocol,
        plain: PlainProtocolFactory,
        may_shake_hands: MayShakeHands,
    ) -> None:
        self._inner = tls
        self._protocol = protocol
        self._plain = plain
        self._may_shake_hands = may_shake_hands
        self._transport: Any = None
        self._begun = False

    def makeConnection(self, transport: Any) -> None:
        self._transport = transport
        self._inner.makeConnection(transport)

    def dataReceived(self, data: bytes) -> None:
        if not self._begun:
            self._begun = True
            if data.startswith(TLS_HANDSHAKE_BYTE):
                if not self._may_shake_hands():
                    self._transport.abortConnection()
                    return
            else:
                self._inner = self._plain()
                self._protocol.connectionLost(Failure(ConnectionAborted()))
                self._inner.makeConnection(self._transport)
        self._inner.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._inner.connectionLost(reason)
