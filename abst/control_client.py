"""One request over a control socket: JSON lines on a blocking Unix socket (see ``control``).

The client sends one line, the service answers with events and then one result or one error. Closing
the connection cancels the command, so a client that goes away leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from abst.errors import AbstError

MAX_REQUEST_BYTES: Final = 1024 * 1024
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""More than a service sends, less than what would hurt."""

_MAX_SOCKET_PATH_BYTES: Final = 107


class NotRunningError(AbstError):
    """Nobody answers at the socket."""


class LostError(AbstError):
    """The service went away before it had answered, or its answer makes no sense."""


class RefusedError(AbstError):
    """The service could not do what was asked; its text says why."""


@dataclass(frozen=True, slots=True)
class Called:
    """Who is asked, and what a person is told when nothing comes of it.

    Attributes:
        path: its socket.
        who: what it is called, such as ``the agent``.
        not_running: what is said when nobody listens at the socket.
        log: where its log is found.
        forbidden: what is said when this user may not open the socket; None for the system's word.
    """

    path: Path
    who: str
    not_running: str
    log: str
    forbidden: str | None = None

    def connect(self) -> socket.socket:
        """Return a connection to its socket.

        Raises:
            NotRunningError: nobody listens there.
            AbstError: the socket cannot be reached.
        """
        if len(os.fsencode(self.path)) > _MAX_SOCKET_PATH_BYTES:
            raise AbstError(
                f"{self.path}: too long for a socket; choose a folder with a shorter path"
            )
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self.path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            connection.close()
            raise NotRunningError(self.not_running) from None
        except OSError as error:
            connection.close()
            if isinstance(error, PermissionError) and self.forbidden is not None:
                raise AbstError(self.forbidden) from None
            raise AbstError(f"{self.path}: {error.strerror or error}") from None
        return connection


class Call:
    """A request that is under way. Iterate over its events; then ``result`` is there.

    Args:
        called: who is asked.
        command: the request's name.
        arguments: what else it carries.
        timeout_seconds: how long the service may be silent, or None for ever.

    Raises:
        NotRunningError: nobody listens there.
    """

    def __init__(
        self,
        called: Called,
        command: str,
        arguments: dict[str, Any],
        timeout_seconds: float | None = None,
    ) -> None:
        self._called = called
        self._result: dict[str, Any] | None = None
        # Escapes for what is not ASCII: a file's name need not be Unicode.
        line = json.dumps({"command": command, **arguments}).encode("ascii") + b"\n"
        if len(line) > MAX_REQUEST_BYTES:
            raise AbstError(f"this is too long for one command: at most {MAX_REQUEST_BYTES} bytes")
        self._socket = called.connect()
        self._socket.settimeout(timeout_seconds)
        self._lines = self._socket.makefile("rb")
        try:
            self._socket.sendall(line)
        except BrokenPipeError:
            pass  # It may have said why, before it hung up.
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
        """Close the connection; the service gives up what is not done."""
        self._lines.close()
        self._socket.close()

    def answer(self, answer: object) -> None:
        """Send what the person has answered to an event that asks.

        Raises:
            LostError: the service went away.
        """
        try:
            self._socket.sendall(json.dumps({"answer": answer}).encode("ascii") + b"\n")
        except OSError as error:
            raise self._lost(error) from None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Return the events as they come, until the result is there.

        Raises:
            RefusedError: the service answered with an error.
            LostError: the service went away.
        """
        while self._result is None:
            answer = self._read()
            match answer:
                case {"event": dict(event)}:
                    yield event
                case {"result": dict(result)}:
                    self._result = result
                case {"error": str(reason)}:
                    raise RefusedError(reason)
                case _:
                    who = self._called.who
                    raise LostError(f"{who}'s answer is not understood; is it of this age?")

    @property
    def result(self) -> dict[str, Any]:
        """What the service answered in the end; events that were not read are passed over."""
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

    def _lost(self, error: OSError | None) -> LostError:
        who, log = self._called.who, self._called.log
        if isinstance(error, TimeoutError):
            return LostError(f"{who} does not answer; its log is {log}")
        return LostError(f"{who} stopped before it had answered; its log is {log}")
