"""A program's service, offered to peers through the agent, also when the agent is started again.

Owns the port that a program listens on: its life, and what it tells the program's log.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.agent.streams.gate_client import AgentAbsentError, AskingForStream, AskingToListen, ask
from abst.agent.streams.gate_lines import Accept, Arrival, Listen
from abst.device import StreamAddress
from abst.errors import AbstError

FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 10.0
"""How long a program waits, the last time and every time after, to ask again for the agent."""


@implementer(IListeningPort)
class Offering:
    """The port of a service.

    Args:
        reactor: the reactor.
        home: the home of the device whose agent is asked.
        request: what is offered, and to whom.
        factory: builds the protocol of each stream.
    """

    log = Logger(namespace="abst.agent")

    def __init__(
        self, reactor: Any, home: Path, request: Listen, factory: IProtocolFactory
    ) -> None:
        self._reactor = reactor
        self._home = home
        self._request = request
        self._factory = factory
        self._address: StreamAddress | None = None
        self._connection: AskingToListen | None = None
        self._running: Deferred[None] = succeed(None)

    def start(self) -> Deferred[IListeningPort]:
        """Return a Deferred that fires with this port when the service is offered."""
        started: Deferred[IListeningPort] = Deferred(lambda _: self._running.cancel())
        self._running = ensureDeferred(self._run(started))
        return started

    # As a port.

    def startListening(self) -> None:
        """Do nothing: it listens since there is a port."""

    def stopListening(self) -> Deferred[None]:
        """Offer the service no more; the streams that are open go on."""
        connection, self._connection = self._connection, None
        if connection is None:
            self._running.cancel()
        else:
            connection.transport.loseConnection()
        stopped: Deferred[None] = Deferred()
        self._running.addCallback(lambda _: stopped.callback(None))
        return stopped

    def getHost(self) -> StreamAddress:
        """Return this device, and the name of the service."""
        assert self._address is not None
        return self._address

    # Inside.

    async def _run(self, started: Deferred[IListeningPort]) -> None:
        try:
            connection = await self._listen()
        except Exception:
            started.errback(Failure())
            return
        self._factory.doStart()
        started.callback(self)
        with contextlib.suppress(CancelledError):
            while await self._is_lost(connection):
                connection = await self._listen_again()
        self._factory.doStop()

    async def _listen(self) -> AskingToListen:
        connection = AskingToListen(self._request, self._arrived)
        answer = await ask(self._reactor, self._home, connection)
        self._connection = connection
        self._address = StreamAddress(answer.device_id, answer.service)
        return connection

    async def _is_lost(self, connection: AskingToListen) -> bool:
        """Wait until a connection has ended, and tell whether that was not asked for here."""
        await connection.lost
        if self._connection is None:
            return False
        self._connection = None
        self.log.warn(
            "the agent for {home} has stopped: {service} is offered again when it is back",
            home=str(self._home),
            service=self._request.service,
        )
        return True

    async def _listen_again(self) -> AskingToListen:
        wait_seconds, problem = FIRST_WAIT_SECONDS, ""
        while True:
            await deferLater(self._reactor, wait_seconds, lambda: None)
            wait_seconds = min(2 * wait_seconds, LONGEST_WAIT_SECONDS)
            try:
                connection = await self._listen()
            except AgentAbsentError:
                pass
            except AbstError as error:
                if problem != str(error):
                    problem = str(error)
                    self.log.warn("not offered again yet: {problem}", problem=problem)
            else:
                self.log.info("{service} is offered again", service=self._request.service)
                return connection

    def _arrived(self, arrival: Arrival) -> None:
        """Fetch a stream."""
        asking = AskingForStream(Accept(arrival.stream_id), self._factory)
        fetched = ensureDeferred(ask(self._reactor, self._home, asking))
        fetched.addErrback(self._not_fetched)

    def _not_fetched(self, failure: Failure) -> None:
        if failure.check(AbstError):
            self.log.info("a stream was not taken: {problem}", problem=str(failure.value))
        else:
            self.log.failure("a stream was not taken", failure)
