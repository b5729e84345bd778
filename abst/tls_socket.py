"""A server's TLS connection straight on its TCP socket.

Owns the reading and writing of one accepted socket through OpenSSL, without the two memory buffers
and the copies between them that Twisted's own TLS needs for arbitrary transports: a record is
read and decrypted by one call, encrypted and written by another, at once and without asking the
reactor to come back. It speaks for the realm's port alone, where every packet passes. Before a
byte of TLS is computed, somebody else may refuse that and say when. What carries TLS elsewhere is
for ``tls_acceptor`` to choose.
"""

from __future__ import annotations

import enum
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from OpenSSL import SSL
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IHandshakeListener,
    IProtocol,
    IReadWriteDescriptor,
    ITransport,
)
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.handshakes import Handshakes
from abst.poller import pace_of
from abst.tls import TLS_HANDSHAKE_BYTE

READ_BYTES: Final = 16384
"""The most that one TLS record holds (RFC 8446, 5.1)."""

READS_PER_TURN: Final = 4
"""How many records one connection may read before others have their turn; where it is known that
others wait, it is one."""

UNSENT_BYTES: Final = 128 * 1024
"""How much the kernel may hold unsent: what waits longer waits in our queue, where control
packets can overtake it and where it is bounded."""

USER_TIMEOUT_MILLISECONDS: Final = 15_000

LINGER_SECONDS: Final = 2.0
"""How long what still arrives is read and thrown away after the last word has been sent: a socket
closed with unread bytes resets the connection, and the last word is lost with it. After that the
socket is closed, and the system goes on sending what it still holds."""

PlainProtocolFactory = Callable[[], IProtocol]
"""Makes the protocol for a connection whose first byte is not TLS."""

MayShakeHands = Callable[[], bool]
"""Decides, when the first byte is TLS, whether a handshake may begin."""


class Producer(Protocol):
    """Who writes: told when to stop and when to go on."""

    def pauseProducing(self) -> None:
        """The socket takes no more for now."""

    def resumeProducing(self) -> None:
        """The socket takes more."""


def tune(connection: socket.socket) -> None:
    """Set the options of a socket that carries small packets and must notice a dead other end."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in (
        ("TCP_NOTSENT_LOWAT", UNSENT_BYTES),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MILLISECONDS),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _unacknowledged_bytes(connection: socket.socket) -> int:
    """Return how much the kernel holds that the other end has not taken; 0 where it cannot tell."""
    try:
        import fcntl
        import termios

        answer = fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4))
    except (ImportError, OSError, ValueError):
        return 0
    return int(struct.unpack("i", answer)[0])


class _State(enum.Enum):
    """Where a TLS socket stands."""

    EXPECTING = "no byte has come"
    HANDSHAKE = "TLS handshake"
    OPEN = "open"
    ENDING = "writing what waits, then closing this direction; the other one goes on"
    ENDED = "this direction is closed; the other one goes on"
    TAKING = "the other side sends nothing more; this direction goes on"
    CLOSING = "writing what waits, then closing"
    LINGERING = "throwing away what still comes"
    GIVEN_BACK = "the owner is about to close the socket"
    PLAIN = "not TLS: handed over"
    LOST = "lost"


_NOBODY: Final = TwistedProtocol()
"""Stands for the protocol of a connection that is lost."""

_READABLE: Final = (_State.OPEN, _State.ENDING, _State.ENDED)


@implementer(ITransport, IReadWriteDescriptor)
class TlsSocket:
    """One accepted TLS connection.

    To Twisted's transport, which stays the socket's owner, it is the protocol that hears when the
    connection is lost. To the reactor it is a descriptor. To the realm's protocol it is the
    transport, with ``write``, ``loseConnection``, ``abortConnection`` and a push producer. A
    protocol that provides ``IHalfCloseableProtocol`` hears of ``close_notify`` as the end of one
    direction; for others it is the end of the connection.

    Attributes:
        turn_bytes: how much ``doRead`` has read the last time.
    """

    __slots__ = (
        "__provides__",
        "_context",
        "_handle",
        "_handshakes",
        "_is_paused",
        "_may_shake_hands",
        "_number",
        "_pace",
        "_place",
        "_plain",
        "_producer",
        "_protocol",
        "_reactor",
        "_received",
        "_state",
        "_timer",
        "_tls",
        "_transport",
        "_unsent",
        "_written_later",
        "turn_bytes",
    )

    disconnecting = False

    def __init__(
        self,
        reactor: Any,
        handle: socket.socket,
        context: SSL.Context,
        protocol: IProtocol,
        plain: PlainProtocolFactory,
        may_shake_hands: MayShakeHands,
        handshakes: Handshakes | None,
    ) -> None:
        self._reactor = reactor
        self._pace = pace_of(reactor)
        self._handle = handle
        self._number = handle.fileno()
        # Made when the first byte has come: whoever says nothing costs no more than a socket.
        self._tls: Any = None
        self._context = context
        self._may_shake_hands = may_shake_hands
        self._handshakes = handshakes
        self._place = 0 if handshakes is None else handshakes.number()
        self.turn_bytes = 0
        self._protocol = protocol
        self._received = protocol.dataReceived
        self._plain = plain
        self._transport: Any = None
        self._unsent: deque[bytes | memoryview] = deque()
        self._written_later = 0
        self._is_paused = False
        self._producer: Producer | None = None
        self._timer: Any = None
        self._state = _State.EXPECTING

    # As the protocol of Twisted's transport.

    def makeConnection(self, transport: Any) -> None:
        """Take the socket over from the transport that has accepted it."""
        self._transport = transport
        transport.stopReading()
        self._reactor.addReader(self)
        self._protocol.makeConnection(self)

    def dataReceived(self, data: bytes) -> None:
        """Pass on what Twisted's transport reads: only after the plain protocol has taken over."""
        self._received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Hear from the owner that the socket is closed, or from the reactor that it fails."""
        if self._state is _State.LOST:
            return
        if self._state not in (_State.PLAIN, _State.GIVEN_BACK):
            self._leave_reactor()
        self._state = _State.LOST
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if not self._transport.disconnected:
            # The reactor found the descriptor unusable; the socket's owner still has to close it.
            self._transport.abortConnection()
        self._unsent.clear()
        protocol = self._protocol
        # What refers to itself in a circle, OpenSSL's buffers included, would stay in memory until
        # Python looks for circles, which it puts off for long while there is much else.
        self._producer = self._timer = None
        self._protocol = _NOBODY
        self._received = _NOBODY.dataReceived
        protocol.connectionLost(reason)

    # As a descriptor of the reactor.

    def fileno(self) -> int:
        """Return the socket's number, or -1 once it is closed."""
        return -1 if self._state is _State.LOST else self._number

    def logPrefix(self) -> str:
        """Return the prefix for the reactor's log lines."""
        return "TlsSocket"

    def doRead(self) -> None:
        """Read what is there, within this connection's turn."""
        self.turn_bytes = 0
        if self._state is not _State.OPEN and not self._prepare_to_read():
            return
        tls = self._tls
        for _ in range(1 if self._pace.is_busy else READS_PER_TURN):
            try:
                data = tls.recv(READ_BYTES)
            except SSL.WantReadError:
                return
            except (SSL.Error, SSL.SysCallError) as problem:
                self._ended(problem)
                return
            self.turn_bytes += len(data)
            self._received(data)
            # A short record is the last one, as a rule; the reactor calls again if it was not.
            if len(data) < READ_BYTES or self._state is not _State.OPEN or self._is_paused:
                return

    def doWrite(self) -> None:
        """Write what could not be written before."""
        if self._state is _State.HANDSHAKE:
            self._reactor.removeWriter(self)
            self._shake_hands()
            return
        if self._state not in (_State.OPEN, _State.ENDING, _State.TAKING, _State.CLOSING):
            # It was its turn to read before, and it ended; the number may be its owner's by now.
            return
        waiting_bytes = sum(map(len, self._unsent))
        self._write_unsent()
        self._written_later += waiting_bytes - sum(map(len, self._unsent))
        if self._unsent:
            return
        self._reactor.removeWriter(self)
        match self._state:
            case _State.CLOSING:
                self._say_goodbye()
            case _State.ENDING:
                self._end_writing()
            case _State.OPEN | _State.TAKING if self._producer is not None:
                self._producer.resumeProducing()

    # As the transport of the realm's protocol.

    def write(self, data: bytes) -> None:
        """Encrypt and send, at once where the socket takes it; open connections only."""
        if not data or (self._state is not _State.OPEN and self._state is not _State.TAKING):
            return
        waiting = bool(self._unsent)
        self._unsent.append(data)
        if waiting:
            return
        self._write_unsent()
        if self._unsent:
            self._reactor.addWriter(self)
            if self._producer is not None:
                self._producer.pauseProducing()

    def writeSequence(self, data: Any) -> None:
        """Write the pieces as one."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Close once everything has been written."""
        if self._state in (_State.EXPECTING, _State.HANDSHAKE, _State.ENDED):
            self._say_goodbye()
        elif self._state in (_State.OPEN, _State.ENDING, _State.TAKING):
            self._state = _State.CLOSING
            if not self._unsent:
                self._say_goodbye()

    def loseWriteConnection(self) -> None:
        """Close this direction once everything has been written; go on reading."""
        if self._state is _State.TAKING:
            self.loseConnection()
        elif self._state is _State.OPEN:
            self._state = _State.ENDING
            if not self._unsent:
                self._end_writing()

    def abortConnection(self) -> None:
        """Close now; what has not been written is lost."""
        if self._state is _State.LOST:
            return
        if self._state is not _State.GIVEN_BACK:
            self._leave_reactor()
            self._unsent.clear()
            self._state = _State.GIVEN_BACK
        # The owner, too, may wait for the other end to read, before it closes in order.
        self._transport.abortConnection()

    def pauseProducing(self) -> None:
        """Read no more for now: what comes waits in the kernel, and then at its sender."""
        self._is_paused = True
        if self._state in _READABLE:
            self._reactor.removeReader(self)

    def resumeProducing(self) -> None:
        """Read on."""
        self._is_paused = False
        if self._state in _READABLE:
            self._reactor.addReader(self)

    def hand_over(self, protocol: IProtocol) -> None:
        """Give what comes from now on to another protocol, which writes too."""
        self._protocol = protocol
        self._received = protocol.dataReceived
        self._producer = None

    def registerProducer(self, producer: Producer, streaming: bool) -> None:
        """Tell a push producer from now on when to pause and when to resume."""
        self._producer = producer

    def unregisterProducer(self) -> None:
        """Forget the producer."""
        self._producer = None

    def measure_progress(self) -> int:
        """Return a number that grows, while writing is blocked, as the other end reads."""
        return self._written_later - _unacknowledged_bytes(self._handle)

    def getPeer(self) -> Any:
        """Return the address of the other end."""
        return self._transport.getPeer()

    def getHost(self) -> Any:
        """Return the address of this end."""
        return self._transport.getHost()

    def getHandle(self) -> socket.socket:
        """Return the TCP socket."""
        return self._handle

    def getPeerCertificate(self) -> Any:
        """Return the certificate that the handshake has proved, or None."""
        return None if self._tls is None else self._tls.get_peer_certificate()

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """The ALPN protocol that both sides chose, or None."""
        return None if self._tls is None else self._tls.get_alpn_proto_negotiated() or None

    # Inside.

    def _prepare_to_read(self) -> bool:
        """Do what comes before plaintext; return whether plaintext may be there."""
        if self._state is _State.EXPECTING and not self._expect():
            return False
        if self._state is _State.HANDSHAKE:
            if self._handshakes is None:
                return self._shake_hands()
            # Its turn comes; until then it shall not be found ready again and again.
            self._reactor.removeReader(self)
            self._handshakes.add(self._place, self._shake_hands_in_turn)
            return False
        if self._state in _READABLE:
            return True
        if self._state is _State.LINGERING:
            self._throw_away()
        elif self._state is _State.TAKING:
            # It is not to be read from, so the reactor calls because it has failed.
            if self._handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.abortConnection()
        elif self._state is _State.CLOSING:
            # Nothing is read any more, and level-triggered readiness would only spin.
            self._reactor.removeReader(self)
        return False

    def _expect(self) -> bool:
        """Look at the first byte and leave it there; return whether it is TLS."""
        try:
            first = self._handle.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            self.abortConnection()
            return False
        if first == TLS_HANDSHAKE_BYTE:
            if not self._may_shake_hands():
                self.abortConnection()
                return False
            self._tls = SSL.Connection(self._context, self._handle)
            self._tls.set_accept_state()
            self._state = _State.HANDSHAKE
            return True
        if not first:
            self.abortConnection()
            return False
        self._leave_reactor()
        self._state = _State.PLAIN
        self._protocol.connectionLost(Failure(ConnectionAborted()))
        self._protocol = self._plain()
        self._received = self._protocol.dataReceived
        self._protocol.makeConnection(self._transport)
        self._transport.startReading()
        return False

    def _shake_hands_in_turn(self) -> None:
        """Do the next step, unless the connection has ended while it waited."""
        if self._state is _State.HANDSHAKE:
            self._reactor.addReader(self)
            self._shake_hands()

    def _shake_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.WantWriteError:
            self._reactor.addWriter(self)
            return False
        except (SSL.Error, SSL.SysCallError) as problem:
            self._ended(problem)
            return False
        self._state = _State.OPEN
        if IHandshakeListener.providedBy(self._protocol):
            cast(IHandshakeListener, self._protocol).handshakeCompleted()
        return self._state is _State.OPEN

    def _write_unsent(self) -> None:
        unsent = self._unsent
        try:
            while unsent:
                data = unsent[0]
                sent = self._tls.send(data)
                if sent == len(data):
                    unsent.popleft()
                else:
                    unsent[0] = memoryview(data)[sent:]
        except (SSL.WantWriteError, SSL.WantReadError):
            # OpenSSL wants the same bytes again, and they are still first in the line.
            pass
        except (SSL.Error, SSL.SysCallError) as problem:
            self._ended(problem)

    def _end_writing(self) -> None:
        """Say that nothing more comes from here."""
        try:
            self._tls.shutdown()
        except SSL.WantWriteError:
            self._reactor.addWriter(self)
            return
        except (SSL.Error, SSL.SysCallError):
            self.abortConnection()
            return
        self._state = _State.ENDED

    def _other_side_ended(self) -> None:
        """Tell the protocol that nothing more comes from the other side."""
        self._reactor.removeReader(self)
        was_ended = self._state is _State.ENDED
        self._state = _State.TAKING if self._state is _State.OPEN else _State.CLOSING
        cast(IHalfCloseableProtocol, self._protocol).readConnectionLost()
        if was_ended and self._state is _State.CLOSING:
            self._close()

    def _say_goodbye(self) -> None:
        """Close our direction; go on reading for a while, so that the last word is not lost."""
        tls = self._tls
        if tls is not None and self._state is not _State.ENDED:
            try:
                tls.shutdown()
            except SSL.WantWriteError:
                self._state = _State.CLOSING
                self._reactor.addWriter(self)
                return
            except (SSL.Error, SSL.SysCallError):
                pass  # There is no TLS to end, or none any more.
        if tls is not None and tls.get_shutdown() & SSL.RECEIVED_SHUTDOWN:
            # Nothing more comes, so there is nothing to wait for.
            self._close()
            return
        try:
            self._handle.shutdown(socket.SHUT_WR)
        except OSError:
            self.abortConnection()
            return
        self._state = _State.LINGERING
        self._reactor.removeWriter(self)
        self._reactor.addReader(self)
        self._timer = self._reactor.callLater(LINGER_SECONDS, self._close)

    def _throw_away(self) -> None:
        try:
            if data := self._handle.recv(65536):
                self.turn_bytes = len(data)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close()

    def _close(self) -> None:
        """Give the socket back to its owner, which closes it."""
        self._leave_reactor()
        self._state = _State.GIVEN_BACK
        self._transport.loseConnection()

    def _ended(self, problem: Exception) -> None:
        """Close after the other side closed, or after TLS or the socket failed."""
        if (
            isinstance(problem, SSL.ZeroReturnError)
            and self._state in _READABLE
            and IHalfCloseableProtocol.providedBy(self._protocol)
        ):
            self._other_side_ended()
            return
        self._unsent.clear()
        if isinstance(problem, SSL.SysCallError):
            self.abortConnection()
        else:
            # The other side has ended, or an alert that says what is wrong is on its way to it.
            self._say_goodbye()

    def _leave_reactor(self) -> None:
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
