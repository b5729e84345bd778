"""A stream's transport: TLS over a pipe, between an application's ``Protocol`` and a peer.

Spec: streams.md, "The end". What Twisted's own TLS does not do and streams promise: each direction
ends on its own. What it owns besides: that an application which has paused gets nothing, and that a
connection which breaks is never taken for one that has ended.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.device.pipes import Pipe
from abst.device.streams.carried import Carried
from abst.device_id import DeviceID
from abst.errors import AbstError

LINGER_SECONDS: Final = 10.0
"""How long the other side has to end its direction once this one has, and wants to hear no more."""

WORD_SECONDS: Final = 0.5
"""How long the realm's word on why it has ended a circuit may come later than the end."""


@implementer(IAddress)
@dataclass(frozen=True, slots=True)
class StreamAddress:
    """One end of a stream.

    Attributes:
        device_id: whose end it is.
        service: the service that the stream is for.
    """

    device_id: DeviceID
    service: str

    @property
    def host(self) -> str:
        """The device, for programs that take every address for one of the Internet."""
        return str(self.device_id)

    @property
    def port(self) -> int:
        """No port: a stream has none, and programs that ask for one want a number."""
        return 0


class _End(enum.Enum):
    """How far a stream is from its end, as seen from this side."""

    OPEN = "the application reads, and may write"
    LEAVING = "the application has left: what is written goes out, what comes is thrown away"
    LOST = "the application knows that it is over"


@implementer(ITransport, IConsumer, IPushProducer)
class Stream:
    """A stream.

    Args:
        carried: what carries it; its handshake is done.
        protocol: the application's.
        host: this end.
        peer: the other end.
        call_later: the reactor's.
        closed: called with the stream once it is over.

    Attributes:
        path: what carries it, for people.
        circuit: the name of the circuit that carries it; b"" when it is direct.
        link: the realm of that circuit.
        sent_bytes: how much the application has written.
        received_bytes: how much it was given.
        disconnecting: whether the application has asked for the end.
    """

    log = Logger(namespace="abst.device")

    def __init__(
        self,
        carried: Carried,
        protocol: IProtocol,
        host: StreamAddress,
        peer: StreamAddress,
        call_later: Callable[..., Any],
        closed: Callable[[Stream], None],
    ) -> None:
        self.path = carried.path
        self.circuit = carried.circuit
        self.link = carried.link
        self.sent_bytes = 0
        self.received_bytes = 0
        self._pipe = carried.pipe
        self._engine = carried.engine
        self._protocol: Any = protocol
        self._host = host
        self._peer = peer
        self._call_later = call_later
        self._closed = closed
        self._end = _End.OPEN
        self._output_ended = False
        self._input_ended = False
        self._is_finishing = False
        self._producer: Any = None
        self._is_streaming = False
        self._is_full = False
        self._is_pulling = False
        self._is_paused = False
        self._unread: list[bytes] = []
        self._linger: Any = None
        self._reason: Failure | None = None
        self._telling: Any = None
        self._pipe.owner = self

    def start(self, plaintext: bytes) -> Failure | None:
        """Give the application its transport, and what has come already.

        Returns:
            What the application's protocol has failed with, or None.
        """
        self._pipe.register_producer(self._Writer(self))
        try:
            self._protocol.makeConnection(self)
        except Exception:
            failure = Failure()
            self._fail(failure)
            return failure
        self._take(plaintext)
        return None

    @property
    def disconnecting(self) -> bool:
        """Whether the application has asked for the end."""
        return self._end is not _End.OPEN

    @property
    def service(self) -> str:
        """The service that it is for."""
        return self._host.service

    @property
    def device_id(self) -> DeviceID:
        """The device at the other end."""
        return self._peer.device_id

    # The application writes.

    def write(self, data: bytes) -> None:
        """Send bytes."""
        if self._output_ended or not data:
            return
        self.sent_bytes += len(data)
        self._engine.send(data)
        self._flush()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send several pieces."""
        self.write(b"".join(data))

    def loseWriteConnection(self) -> None:
        """End this direction, once everything is sent; the other one goes on."""
        if self._end is not _End.OPEN or self._output_ended:
            return
        self._end_output()
        if self._protocol_halves:
            self._protocol.writeConnectionLost()
        self._see_whether_over()

    def loseConnection(self) -> None:
        """End the stream once everything is sent; nothing more is received."""
        if self._end is not _End.OPEN:
            return
        self._end = _End.LEAVING
        if self._producer is not None and not self._output_ended:
            # As with any other transport of Twisted's, a producer is let finish first.
            return
        self._leave()

    def abortConnection(self) -> None:
        """Break the stream at once; the other side knows that it was not the end."""
        self._fail(Failure(ConnectionAborted()))

    # IConsumer.

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Tell a producer when to stop writing and when to go on.

        Raises:
            RuntimeError: there is one already.
        """
        if self._producer is not None:
            raise RuntimeError("the stream has a producer already: unregister it first")
        if self._end is _End.LOST:
            producer.stopProducing()
            return
        self._producer = producer
        self._is_streaming = streaming
        if self._is_full:
            if streaming:
                producer.pauseProducing()
        elif not streaming:
            self._pull()

    def unregisterProducer(self) -> None:
        """Let the producer go."""
        self._producer = None
        if self._end is _End.LEAVING:
            self._leave()

    class _Writer:
        """Hears of the pipe whether it takes more."""

        def __init__(self, stream: Stream) -> None:
            self._stream = stream

        def pauseProducing(self) -> None:
            self._stream._filled()

        def resumeProducing(self) -> None:
            self._stream._drained()

        def stopProducing(self) -> None:
            """The pipe is gone, and says so otherwise too."""

    def _filled(self) -> None:
        if self._is_full:
            return
        self._is_full = True
        if self._producer is not None and self._is_streaming:
            self._producer.pauseProducing()

    def _drained(self) -> None:
        if not self._is_full:
            return
        self._is_full = False
        if self._producer is not None:
            if self._is_streaming:
                self._producer.resumeProducing()
            else:
                self._pull()
        elif self._end is _End.LEAVING:
            self._wait_for_other_end()

    def _pull(self) -> None:
        """Ask a pull producer for more, a turn for each piece, as long as the pipe takes it."""
        if not self._is_pulling:
            self._is_pulling = True
            self._call_later(0, self._pull_once)

    def _pull_once(self) -> None:
        self._is_pulling = False
        producer = self._producer
        if producer is not None and not self._is_streaming and not self._is_full:
            producer.resumeProducing()
            self._pull()

    # IPushProducer.

    def pauseProducing(self) -> None:
        """Give the application nothing until ``resumeProducing``."""
        if not self._is_paused and self._end is _End.OPEN:
            self._is_paused = True
            self._pipe.pause()

    def resumeProducing(self) -> None:
        """Give the application what comes."""
        if not self._is_paused or self._end is _End.LOST:
            return
        self._is_paused = False
        while self._unread and not self._is_paused:
            self._hand_out(self._unread.pop(0))
        if not self._is_paused:
            self._pipe.resume()
            self._see_whether_ended()

    def stopProducing(self) -> None:
        """End the stream."""
        self.loseConnection()

    # Addresses.

    def getPeer(self) -> StreamAddress:
        """Return the other end: device and service."""
        return self._peer

    def getHost(self) -> StreamAddress:
        """Return this end: device and service."""
        return self._host

    # The pipe tells.

    def pipe_received(self, pipe: Pipe, data: bytes) -> None:
        """Take records."""
        plaintext = self._engine.receive_data(data)
        if plaintext or self._engine.closed:
            self._take(plaintext)

    def pipe_lost(self, pipe: Pipe, problem: AbstError) -> None:
        """Tell the application that the stream has broken, unless both directions had ended."""
        self._unread.clear()
        if self._end is _End.LEAVING and self._output_ended and not self._is_full:
            # Everything was sent, and the application did not want to hear more.
            self._over(Failure(ConnectionDone()))
        else:
            # The realm's word on a circuit that it has ended comes on another connection.
            wait = WORD_SECONDS if self.circuit else 0.0
            self._over(Failure(ConnectionLost(str(problem))), wait)

    def realm_ended(self, why: str) -> None:
        """Break the stream: the realm has ended its circuit, and has said why."""
        reason = Failure(ConnectionLost(why))
        if self._end is not _End.LOST:
            self._fail(reason)
        elif self._telling is not None and self._telling.active():
            self._telling.cancel()
            self._reason = reason
            self._tell()

    def stop(self) -> None:
        """Break the stream, and tell the application at once: this device stops."""
        self.abortConnection()
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
            self._tell()

    def network_changed(self) -> None:
        """Break the stream if it goes from an address that this machine has no more."""
        if self._pipe.is_stranded():
            self._fail(Failure(ConnectionLost("this device's network has changed")))

    # Inside.

    @property
    def _protocol_halves(self) -> bool:
        return bool(IHalfCloseableProtocol.providedBy(self._protocol))

    def _take(self, plaintext: bytes) -> None:
        if plaintext:
            if self._is_paused:
                self._unread.append(plaintext)
            else:
                self._hand_out(plaintext)
        if self._engine.problem is not None:
            self._flush()
            self._fail(Failure(ConnectionLost(str(self._engine.problem))))
        elif not self._is_paused:
            self._see_whether_ended()

    def _hand_out(self, plaintext: bytes) -> None:
        if self._end is not _End.OPEN:
            return
        self.received_bytes += len(plaintext)
        try:
            self._protocol.dataReceived(plaintext)
        except Exception:
            failure = Failure()
            self.log.failure("an application's protocol failed", failure)
            self._fail(failure)

    def _see_whether_ended(self) -> None:
        """Tell the application that the other side has ended its direction, if it has."""
        if not self._engine.ended or self._input_ended:
            return
        self._input_ended = True
        if self._end is _End.OPEN:
            if self._protocol_halves:
                self._protocol.readConnectionLost()
            else:
                self.loseConnection()
        self._see_whether_over()

    def _see_whether_over(self) -> None:
        if self._input_ended and self._output_ended:
            # Nothing more comes, and the pipe sends what waits.
            self._finish()

    def _finish(self) -> None:
        if not self._is_finishing:
            self._is_finishing = True
            self._pipe.unregister_producer()
            self._pipe.finish(self._finished)

    def _finished(self, problem: AbstError | None) -> None:
        reason = ConnectionDone() if problem is None else ConnectionLost(str(problem))
        self._over(Failure(reason))

    def _leave(self) -> None:
        self._end_output()
        if self._is_paused:
            # What comes is thrown away, but it has to be read to see the end.
            self._is_paused = False
            self._unread.clear()
            self._pipe.resume()
            self._see_whether_ended()
        self._see_whether_over()
        if not self._is_finishing and not self._is_full:
            self._wait_for_other_end()

    def _wait_for_other_end(self) -> None:
        if self._linger is None:
            self._linger = self._call_later(LINGER_SECONDS, self._lingered)

    def _lingered(self) -> None:
        if self._end is not _End.LOST:
            # Whatever still comes is not wanted; what was written is, however slowly it is read.
            self._finish()

    def _end_output(self) -> None:
        if not self._output_ended:
            self._output_ended = True
            self._engine.close()
            self._flush()

    def _flush(self) -> None:
        data = self._engine.data_to_send()
        if data:
            self._pipe.write(data)

    def _fail(self, reason: Failure) -> None:
        if self._end is not _End.LOST:
            self._pipe.abort()
            self._over(reason)

    def _over(self, reason: Failure, wait_seconds: float = 0.0) -> None:
        if self._end is _End.LOST:
            return
        self._end = _End.LOST
        self._output_ended = True
        self._unread.clear()
        if self._linger is not None and self._linger.active():
            self._linger.cancel()
        self._reason = reason
        # On a turn of its own: the application may be in the middle of asking for the end.
        self._telling = self._call_later(wait_seconds, self._tell)
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()

    def _tell(self) -> None:
        """Tell the application why it is over."""
        assert self._reason is not None
        self._closed(self)
        self._protocol.connectionLost(self._reason)
