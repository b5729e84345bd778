"""The Unix socket over which a command line asks a service for things: an agent, or a realm.

One request for each connection: a line of JSON with ``command`` and its arguments. The answer is
any number of lines ``{"event": ...}``, then one ``{"result": ...}`` or ``{"error": "one line"}``.
A command that asks takes further lines ``{"answer": ...}``, which it finds in its ``answers``.
Whoever closes the connection cancels the command. The socket's mode and its folder's keep others
out; where the kernel tells whose program is at the other end, its word can be asked for too.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Collection
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
MAX_SOCKET_PATH_BYTES: Final = 107

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
        """Ask to be told when the client does not read; send away who may not ask for anything."""
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]
        if not self.factory.admits(self.transport):
            who = self.factory.who
            self._answer(
                {"error": f"the {who} takes commands from root and its own user alone: try sudo"}
            )

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
            who = self.factory.who
            self._answer(
                {"error": f"the {who} does not know this command: are both of one version?"}
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
        self._answer(
            {"error": f"something went wrong in the {self.factory.who}: its log says what"}
        )

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
    """The commands of a service, by name.

    Args:
        commands: what can be asked for.
        who: what the service is called in what it answers.
        users: whose programs may ask, root's and its own; None for all that can open the socket.
    """

    protocol = ControlProtocol  # type: ignore[assignment]
    noisy = False
    log = Logger(namespace="abst.control")

    def __init__(
        self,
        commands: dict[str, Command],
        who: str = "agent",
        users: Collection[int] | None = None,
    ) -> None:
        self.commands = commands
        self.who = who
        self._users = users

    def admits(self, transport: Any) -> bool:
        """Tell whether a connection comes from a program that may ask."""
        if self._users is None:
            return True
        try:
            user = user_of(transport.socket)
        except OSError:
            return False
        return user is None or user in self._users


def user_of(connection: socket.socket) -> int | None:
    """Return whose program is at the other end of a Unix socket, by the kernel's word.

    Returns:
        The user's number; None on a system that does not tell, where the socket's mode has to do.

    Raises:
        OSError: the kernel does not say it of this socket.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    credentials = struct.Struct("3i")  # struct ucred of unix(7): process, user, group
    found = connection.getsockopt(socket.SOL_SOCKET, option, credentials.size)
    user: int = credentials.unpack(found)[1]
    return user


def make_room(path: os.PathLike[str]) -> None:
    """Remove a socket that a killed service has left; whoever calls this holds the service's lock.

    Raises:
        AbstError: the path is too long for a socket, or something is in the way.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise AbstError(f"{path}: too long for a socket; choose a folder with a shorter path")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise AbstError(f"{path}: {error.strerror}") from None
