"""One request to the agent, over the Unix socket in its home: JSON lines on a blocking socket.

The client sends one line, the agent answers with events and then one result or one error. Closing
the connection cancels the command, so a client that goes away leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from abst.errors import AbstError

MAX_REQUEST_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""More than an agent sends, less than what would hurt."""

_MAX_SOCKET_PATH_BYTES: Final = 107


class AgentNotRunningError(AbstError):
    """Nobody answers at the socket."""


class AgentLostError(AbstError):
    """The agent went away before it had answered, or its answer makes no sense."""


class AgentRefusedError(AbstError):
    """The agent could not do what was asked; its text says why."""


class AgentCall:
    """A request that is under way. Iterate over its events; then ``result`` is there.

    Args:
        path: the agent's socket.
        command: the request's name.
        arguments: what else it carries.
        timeout_seconds: how long the agent may be silent, or None for ever.

    Raises:
        AgentNotRunningError: nobody listens there.
    """

    def __init__(
        self,
        path: Path,
        command: str,
        arguments: dict[str, Any],
        timeout_seconds: float | None = None,
    ) -> None:
        self._path = path
        self._result: dict[str, Any] | None = None
        # Escapes for what is not ASCII: a file's name need not be Unicode.
        line = json.dumps({"command": command, **arguments}).encode("ascii") + b"\n"
        if len(line) > MAX_REQUEST_BYTES:
            raise AbstError(f"this is too long for one command: at most {MAX_REQUEST_BYTES} bytes")
        self._socket = connect(path)
        self._socket.settimeout(timeout_seconds)
        self._lines = self._socket.makefile("rb")
        try:
            self._socket.sendall(line)
        except OSError as error:
            self.close()
            raise self._lost(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the agent gives up what is not done."""
        self._lines.close()
        self._socket.close()

    def answer(self, answer: object) -> None:
        """Send what the person has answered to an event that asks.

        Raises:
            AgentLostError: the agent went away.
        """
        try:
            self._socket.sendall(json.dumps({"answer": answer}).encode("ascii") + b"\n")
        except OSError as error:
            raise self._lost(error) from None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Return the events as they come, until the result is there.

        Raises:
            AgentRefusedError: the agent answered with an error.
            AgentLostError: the agent went away.
        """
        while self._result is None:
            answer = self._read()
            match answer:
                case {"event": dict(event)}:
                    yield event
                case {"result": dict(result)}:
                    self._result = result
                case {"error": str(reason)}:
                    raise AgentRefusedError(reason)
                case _:
                    raise AgentLostError("the agent's answer is not understood; is it of this age?")

    @property
    def result(self) -> dict[str, Any]:
        """What the agent answered in the end; events that were not read are passed over."""
        for _ in self:
            pass
        assert self._result is not None
        return self._result

    def _read(self) -> Any:
        try:
            line = self._lines.readline(MAX_ANSWER_BYTES + 1)
        except OSError as error:
            raise self._lost(error) from None
        if not line.endswith(b"\n"):
            raise self._lost(None)
        try:
            return json.loads(line)
        except ValueError:
            raise self._lost(None) from None

    def _lost(self, error: OSError | None) -> AgentLostError:
        log = self._path.with_name("agent.log")
        if isinstance(error, TimeoutError):
            return AgentLostError(f"the agent does not answer; its log is {log}")
        return AgentLostError(f"the agent stopped before it had answered; its log is {log}")


def connect(path: Path) -> socket.socket:
    """Return a connection to the agent's socket.

    Raises:
        AgentNotRunningError: nobody listens there.
        AbstError: the socket cannot be reached.
    """
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise AbstError(f"{path}: too long for a socket; choose a home with a shorter path")
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        raise AgentNotRunningError(
            f"the agent for {path.parent} is not running: 'abst up' starts it"
        ) from None
    except OSError as error:
        connection.close()
        raise AbstError(f"{path}: {error.strerror or error}") from None
    return connection
