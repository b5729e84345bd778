"""An agent that says what a test tells it to, over a real Unix socket."""

import contextlib
import io
import json
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from abst.cli import main

Answers = Callable[[dict[str, Any]], list[Any]]
"""Returns what is answered to a request: objects, which become lines, or bytes as they stand."""


class FakeAgent:
    """Answers requests until it is stopped.

    Attributes:
        home: a home that passes for a device's.
        requests: what it was asked.
    """

    def __init__(self, answers: Answers) -> None:
        self.home = make_home()
        self.requests: list[dict[str, Any]] = []
        self._answers = answers
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.home / "agent.sock"))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer nobody any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as lines:
                line = lines.readline()
                if not line:
                    continue
                request = json.loads(line)
                self.requests.append(request)
                with contextlib.suppress(OSError):
                    for answer in self._answers(request):
                        whole = isinstance(answer, bytes)
                        connection.sendall(answer if whole else json.dumps(answer).encode() + b"\n")


def make_home() -> Path:
    """Return a folder that passes for a device's home; its path is short enough for a socket."""
    home = Path(tempfile.mkdtemp(prefix="abst-test-", dir="/tmp"))
    (home / "identity.pem").touch(mode=0o600)
    return home


def run_abst(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process; return its status, its stdout and its stderr."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        status = main(arguments)
    return status, out.getvalue(), said.getvalue()
