"""A realm that says what a test tells it to, over a real Unix socket; and commands that ask it."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from abst.operator import main
from abst.realm.state_folder import CONTROL_SOCKET

Answers = Callable[[dict[str, Any]], Sequence[Any]]
"""Returns what is answered to a request, as objects of which each becomes a line."""


def run_operator(*arguments: str, is_terminal: bool = False) -> tuple[int, str, str]:
    """Run a command in this process; return its status, its stdout and its stderr."""
    out, said = io.StringIO(), io.StringIO()
    out.isatty = lambda: is_terminal  # type: ignore[method-assign]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        status = main(arguments)
    return status, out.getvalue(), said.getvalue()


def short_folder(test: TestCase) -> Path:
    """Return a folder whose path is short enough for a socket, until a test is over."""
    folder = Path(tempfile.mkdtemp(prefix="abst-test-", dir="/tmp"))
    test.addCleanup(shutil.rmtree, folder, ignore_errors=True)
    return folder


class OperatorTestCase(TestCase):
    """Commands whose realm says what a test wants.

    Attributes:
        state: its state folder.
        requests: what it was asked.
    """

    def setUp(self) -> None:
        self.state = short_folder(self)
        self.requests: list[dict[str, Any]] = []

    def answer(self, answers: Answers) -> None:
        """Answer requests until the test is over."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.state / CONTROL_SOCKET))
        listener.listen()
        thread = threading.Thread(target=self._serve, args=(listener, answers), daemon=True)
        thread.start()

        def stop() -> None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join(10)

        self.addCleanup(stop)

    def _serve(self, listener: socket.socket, answers: Answers) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                request = json.loads(lines.readline())
                self.requests.append(request)
                with contextlib.suppress(OSError):
                    for answer in answers(request):
                        connection.sendall(json.dumps(answer).encode() + b"\n")

    def operator(self, *arguments: str, is_terminal: bool = False) -> tuple[int, str, str]:
        """Run a command about this realm; return its status, its stdout and its stderr."""
        return run_operator("--state", str(self.state), *arguments, is_terminal=is_terminal)

    def result(self, result: dict[str, Any], *arguments: str) -> tuple[str, str]:
        """Run a command that has to succeed; return its stdout and its stderr."""
        self.answer(lambda request: [{"result": result}])
        status, out, said = self.operator(*arguments)
        self.assertEqual(0, status, said)
        return out, said
