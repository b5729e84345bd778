"""A program's side of the gate: it asks the agent for something, and gets a stream, or arrivals.

The lines are in ``gate_lines``, what follows them in ``local_stream``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.interfaces import IProtocol, IProtocolFactory
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from abst.agent.streams.gate_lines import (
    MAX_LINE_BYTES,
    SOCKET_NAME,
    Answer,
    Arrival,
    Request,
    parse_answer,
    parse_arrival,
    request_line,
)
from abst.agent.streams.local_stream import LocalStream
from abst.agent.streams.single import SingleFactory
from abst.device import StreamAddress
from abst.errors import AbstError, StreamError

MAX_SOCKET_PATH_BYTES: Final = 107


class AgentAbsentError(AbstError):
    """Nobody serves the gate of a home."""


class Asking(Protocol):
    """A connection to the gate; a base class.

    Args:
        request: what is asked for.

    Attributes:
        answered: fires with the agent's yes, or fails with its no.
    """

    transport: Any

    def __init__(self, request: Request) -> None:
        self.answered: Deferred[Answer] = Deferred(lambda _: self.transport.abortConnection())
        self._request = request
        self._line = b""
        self._stream: LocalStream | None = None

    def connectionMade(self) -> None:
        """Ask."""
        self.transport.write(request_line(self._request))

    def dataReceived(self, data: bytes) -> None:
        """Take lines, of which the first one is the answer, or a stream's bytes behind it."""
        data = self._line + data
        while self._stream is None:
            line, end, rest = data.partition(b"\n")
            if not end and len(line) <= MAX_LINE_BYTES:
                self._line = data
                return
            try:
                self._take(line)
            except AbstError as error:
                self.transport.abortConnection()
                if not self.answered.called:
                    self.answered.errback(error)
                return
            self._line, data = b"", rest
        self._stream.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail, if there is no answer yet; end the stream, if there is one."""
        if not self.answered.called:
            self.answered.errback(AgentAbsentError("the agent stopped before it had answered"))
        if self._stream is not None:
            self._stream.connectionLost(reason)

    def _take(self, line: bytes) -> None:
        self.answered.callback(parse_answer(line))


class AskingForStream(Asking):
    """A connection that becomes a stream.

    Args:
        request: which stream is asked for.
        factory: builds the protocol of the stream.

    Attributes:
        protocol: the protocol of the stream, once there is one.
    """

    def __init__(self, request: Request, factory: IProtocolFactory) -> None:
        super().__init__(request)
        self.protocol: IProtocol | None = None
        self._factory = factory

    def _take(self, line: bytes) -> None:
        answer = parse_answer(line)
        address = StreamAddress(answer.device_id, answer.service)
        self.protocol = self._factory.buildProtocol(address)
        if self.protocol is None:
            raise StreamError("this program's factory refuses the stream")
        own_address = StreamAddress(answer.own_id, answer.service)
        self._stream = LocalStream(self.protocol, address, own_address)
        self._stream.makeConnection(self.transport)
        self.answered.callback(answer)


class AskingToListen(Asking):
    """A connection on which the agent tells of streams.

    Args:
        request: what is offered.
        arrived: called with each stream that has come.

    Attributes:
        lost: fires when the agent offers it no more.
    """

    def __init__(self, request: Request, arrived: Callable[[Arrival], None]) -> None:
        super().__init__(request)
        self.lost: Deferred[None] = Deferred()
        self._arrived = arrived

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell that it is over."""
        super().connectionLost(reason)
        self.lost.callback(None)

    def _take(self, line: bytes) -> None:
        if not self.answered.called:
            super()._take(line)
        else:
            self._arrived(parse_arrival(line))


async def ask(reactor: Any, home: Path, asking: Asking) -> Answer:
    """Ask the agent of a home for something; return its yes.

    Raises:
        AgentAbsentError: no agent runs there.
        AbstError: it has refused, and says why.
    """
    endpoint = UNIXClientEndpoint(reactor, socket_path(home))
    try:
        await endpoint.connect(SingleFactory(asking))
    except ConnectingCancelledError:
        raise CancelledError from None
    except ConnectError:
        raise absent(home) from None
    return await asking.answered


def socket_path(home: Path) -> str:
    """Return the path of the gate's socket.

    Raises:
        AbstError: it is too long for one.
    """
    path = str(home.absolute() / SOCKET_NAME)
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise AbstError(f"{path}: too long for a socket; choose a home with a shorter path")
    return path


def check_agent(home: Path) -> None:
    """Make sure that the agent of a home runs.

    Raises:
        AgentAbsentError: it does not.
        AbstError: it cannot be asked.
    """
    path = socket_path(home)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            pass  # It has much to do.
        except PermissionError:
            raise AbstError(
                f"{path}: belongs to another user: run the program as that user"
            ) from None
        except OSError:
            raise absent(home) from None


def absent(home: Path) -> AgentAbsentError:
    """Return the error that says that no agent runs."""
    return AgentAbsentError(f"the agent for {home} is not running: 'abst up' starts it")
