"""The Unix socket over which the command line asks the agent for things.

One request for each connection: a line of JSON with ``command`` and its arguments. The answer is
any number of lines ``{"event": ...}``, then one ``{"result": ...}`` or ``{"error": "one line"}``.
A command that asks takes further lines ``{"answer": ...}``, which it finds in its ``answers``.
Whoever closes the connection cancels the command. The socket is for the home's owner alone.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredQueue,
    QueueOverflow,
    ensureDeferred,
)
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from abst.errors import AbstError

MAX_ANSWERS: Final = 16
MAX_LINE_BYTES: Final = 1024 * 1024

MAX_UNREAD_BYTES: Final = 8 * 1024 * 1024
"""How much may wait for a client that does not read: more than any one answer."""

Emit = Callable[[dict[str, Any]], None]
"""Sends one event to whoever runs the command."""

Command = Callable[[dict[str, Any], Emit], Awaitable[dict[str, Any]]]
"""Runs a command with its arguments; returns its result, or raises an ``AbstError``."""


@implementer(IPushProducer)
class ControlProtocol(LineOnlyReceiver):
    """One request."""

    factory: ControlFactory
    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE_BYTES

    def __init__(self) -> None:
        self._running: Deferred[Any] | None = None
        self._connected = True
        self._answered = False
        self._unread_bytes: int | None = None
        self._answers: DeferredQueue[Any] = DeferredQueue(MAX_ANSWERS)

    def connectionMade(self) -> None:
        """Ask to be told when the client does not read."""
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]

    def pauseProducing(self) -> None:
        """The client has stopped reading: count what waits for it from now on."""
        self._unread_bytes = 0

    def resumeProducing(self) -> None:
        """The client has read everything."""
        self._unread_bytes = None

    def stopProducing(self) -> None:
        """The connection is gone; ``connectionLost`` follows."""

    def lineReceived(self, line: bytes) -> None:
        """Run the command that the line names."""
        if self._answered:
            return
        if self._running is not None:
            self._take_answer(line)
            return
        try:
            request = json.loads(line)
            command = self.factory.commands[request.pop("command")]
            request["answers"] = self._answers
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._answer(
                {"error": "the agent does not know this command: are both of one version?"}
            )
            return
        self._running = ensureDeferred(_run(command, request, self._emit))
        self._running.addCallbacks(self._succeeded, self._failed)

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802 (Twisted's name)
        """Refuse a request that is too long."""
        self._answer({"error": f"a request has at most {MAX_LINE_BYTES} bytes"})

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel what still runs: nobody waits for it any more."""
        self._connected = False
        if self._running is not None:
            self._running.cancel()

    def _take_answer(self, line: bytes) -> None:
        """Pass on what the person has answered to a command that asks."""
        try:
            self._answers.put(json.loads(line)["answer"])
        except (ValueError, KeyError, TypeError, RecursionError, QueueOverflow):
            self._answer({"error": "this is no answer"})

    def _emit(self, event: dict[str, Any]) -> None:
        self._write({"event": event})

    def _succeeded(self, result: dict[str, Any]) -> None:
        self._answer({"result": result})

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(AbstError):
            self._answer({"error": str(failure.value)})
            return
        self.factory.log.failure("a command failed", failure)
        self._answer({"error": "something went wrong in the agent: its log says what"})

    def _answer(self, answer: dict[str, Any]) -> None:
        self._write(answer)
        self._answered = True
        # Twisted does not close while a producer might go on.
        self.transport.unregisterProducer()  # type: ignore[union-attr]
        self.transport.loseConnection()  # type: ignore[union-attr]

    def _write(self, value: dict[str, Any]) -> None:
        if not self._connected or self._answered:
            return
        line = json.dumps(value).encode()
        if self._unread_bytes is not None:
            self._unread_bytes += len(line)
            if self._unread_bytes > MAX_UNREAD_BYTES:
                self._connected = False
                self.transport.abortConnection()  # type: ignore[union-attr]
                return
        self.sendLine(line)


async def _run(command: Command, arguments: dict[str, Any], emit: Emit) -> dict[str, Any]:
    try:
        return await command(arguments, emit)
    except KeyError as error:
        raise AbstError(f"the command lacks the argument {error}") from None


class ControlFactory(Factory):
    """The agent's commands, by name."""

    protocol = ControlProtocol  # type: ignore[assignment]
    noisy = False
    log = Logger(namespace="abst.agent")

    def __init__(self, commands: dict[str, Command]) -> None:
        self.commands = commands
