"""The gate: the Unix socket through which programs of this user have streams to and from peers.

Owns who may come in and how long somebody may be silent. The lines are in ``gate_lines``, what
follows them in ``local_stream``, and what programs offer in ``gate_listener``.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Final, Protocol

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from abst.agent.streams.gate_lines import (
    MAX_LINE_BYTES,
    Accept,
    Answer,
    Connect,
    Listen,
    answer_line,
    error_line,
    parse_request,
)
from abst.agent.streams.gate_listener import Listener, WaitingStream
from abst.agent.streams.local_stream import LocalStream
from abst.agent.streams.single import SingleFactory
from abst.device import Device, StreamAddress
from abst.errors import AbstError
from abst.joining import End, joined_ends

REQUEST_SECONDS: Final = 10.0
"""How long a program has for its line."""

MAX_CONNECTIONS: Final = 400
"""Of all programs together: each stream takes a second descriptor, towards the peer."""

MAX_SILENT: Final = 64
"""How many may not have said yet what they want; the one that has been silent longest goes."""

_CREDENTIALS: Final = struct.Struct("3i")


class Gate(Factory):
    """Serves programs.

    Args:
        reactor: the reactor.
        device: whose streams these are.
        user: returns whose programs may come in.
    """

    noisy = False
    log = Logger(namespace="abst.agent")

    def __init__(self, reactor: Any, device: Device, user: Callable[[], int] = os.geteuid) -> None:
        self.reactor = reactor
        self.device = device
        self.next_id = count(1).__next__
        self._user = user
        self._connections: dict[GateConnection, None] = {}

    def buildProtocol(self, addr: IAddress | None) -> GateConnection:
        """Return the protocol of a program's connection."""
        return GateConnection(self)

    def stop(self) -> None:
        """End every connection."""
        for connection in tuple(self._connections):
            connection.transport.abortConnection()

    @property
    def connection_count(self) -> int:
        """How many programs' connections are open."""
        return len(self._connections)

    def listeners(self) -> Iterator[Listener]:
        """Return what programs offer."""
        for connection in self._connections:
            if isinstance(connection.role, Listener):
                yield connection.role

    # For connections.

    def admit(self, connection: GateConnection) -> None:
        """Let somebody in.

        Raises:
            AbstError: not this one.
        """
        uid = uid_of(connection.transport)
        if uid is not None and uid != self._user():
            raise AbstError("this is another user's device: run the program as that user")
        if len(self._connections) >= MAX_CONNECTIONS:
            raise AbstError("too many programs use this device at once: try again in a while")
        silent = [known for known in self._connections if isinstance(known.role, _Silent)]
        if len(silent) >= MAX_SILENT:
            self.leave(silent[0])
            silent[0].transport.abortConnection()
        self._connections[connection] = None

    def leave(self, connection: GateConnection) -> None:
        """Forget somebody who is gone."""
        self._connections.pop(connection, None)

    def take(self, stream_id: int) -> WaitingStream:
        """Return a stream that waits for a program.

        Raises:
            AbstError: there is none of that number, or none any more.
        """
        for listener in self.listeners():
            waiting = listener.take(stream_id)
            if waiting is not None:
                return waiting
        raise AbstError("this stream does not wait any more")


class _Role(Protocol):
    """What a connection is for just now."""

    def dataReceived(self, data: bytes) -> None:
        """Take bytes from the program."""

    def connectionLost(self, reason: Failure) -> None:
        """Hear that the program is gone."""


class _Silent:
    """Waits for a program's line."""

    def __init__(self, connection: GateConnection, reactor: Any) -> None:
        self._connection = connection
        self._deadline = reactor.callLater(REQUEST_SECONDS, self._expire)
        self._line = b""

    def dataReceived(self, data: bytes) -> None:
        """Take the line, which is all that may come."""
        self._line += data
        line, end, rest = self._line.partition(b"\n")
        if len(line) > MAX_LINE_BYTES:
            self._refuse(f"a request has at most {MAX_LINE_BYTES} bytes")
        elif rest:
            self._refuse("nothing may follow a request before its answer")
        elif end:
            self._deadline.cancel()
            self._connection.line_received(line)

    def connectionLost(self, reason: Failure) -> None:
        """Wait no more."""
        self._deadline.cancel()

    def _refuse(self, why: str) -> None:
        self._deadline.cancel()
        self._connection.refuse(why)

    def _expire(self) -> None:
        self._connection.refuse(f"a request has to come within {REQUEST_SECONDS:g} seconds")


class _Asked:
    """Has its line, and no answer yet."""

    def __init__(self) -> None:
        self.serving: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        """Drop it: nothing may come before the answer."""

    def connectionLost(self, reason: Failure) -> None:
        """Give up what the program has asked for."""
        self.serving.cancel()


class _Refused:
    """Has its answer, and is closed."""

    def dataReceived(self, data: bytes) -> None:
        """Drop it."""

    def connectionLost(self, reason: Failure) -> None:
        """Have nothing to end."""


class GateConnection(TwistedProtocol):
    """One connection of a program.

    Attributes:
        role: what it is for.
    """

    transport: Any
    role: _Role

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def connectionMade(self) -> None:
        """Wait for the line, if this program may come in at all."""
        try:
            self._gate.admit(self)
        except AbstError as error:
            self.refuse(str(error))
        else:
            self.role = _Silent(self, self._gate.reactor)

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes to whatever this connection is for."""
        self.role.dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End what this connection is for."""
        self._gate.leave(self)
        self.role.connectionLost(reason)

    def line_received(self, line: bytes) -> None:
        """Do what the program wants."""
        self.role = asked = _Asked()
        asked.serving = ensureDeferred(self._serve(line))
        asked.serving.addErrback(self._failed)

    def refuse(self, reason: str) -> None:
        """Say no, and close."""
        self.role = _Refused()
        self.transport.write(error_line(reason))
        self.transport.loseConnection()

    # Inside.

    async def _serve(self, line: bytes) -> None:
        device = self._gate.device
        match parse_request(line):
            case Connect(name, service):
                address = StreamAddress(device.peers.find(name).device_id, service)
                outer, inner = joined_ends()
                await device.streams.connect(address.device_id, service, SingleFactory(outer))
                self._become_stream(inner, address)
            case Listen(service, names):
                peers = tuple(map(device.peers.find, names)) or None
                listener = Listener(
                    self._gate.reactor, service, peers, self.transport.write, self._gate.next_id
                )
                listener.port = await device.streams.listen(service, listener, listener.admits)
                self._become_listener(listener)
            case Accept(stream_id):
                waiting = self._gate.take(stream_id)
                self._become_stream(waiting.end, waiting.address)

    def _become_stream(self, end: End, address: StreamAddress) -> None:
        own_address = StreamAddress(self._gate.device.device_id, address.service)
        answer = Answer(own_address.device_id, address.device_id, address.service)
        self.transport.write(answer_line(answer))
        self.role = stream = LocalStream(end, address, own_address)
        stream.makeConnection(self.transport)

    def _become_listener(self, listener: Listener) -> None:
        self.role = listener
        own_id = self._gate.device.device_id
        self.transport.write(answer_line(Answer(own_id, own_id, listener.service)))
        self.transport.registerProducer(listener, True)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(AbstError):
            self.refuse(str(failure.value))
        else:
            self._gate.log.failure("a program could not be served", failure)
            self.refuse("something went wrong in the agent: its log says what")


def uid_of(transport: Any) -> int | None:
    """Return which user the process at the other end of a Unix socket is; None if unknown."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    credentials = transport.getHandle().getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    _, uid, _ = _CREDENTIALS.unpack(credentials)
    return int(uid)
