"""Where the demonstration happens: a temporary folder and the processes in it.

Owns that nothing is left behind, whatever happens: every process is stopped by its number, and the
folder is removed.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from abst.cli.processes import python_command, python_environment
from abst.errors import AbstError

STOP_SECONDS: Final = 5.0
LAST_LINES: Final = 10
MAX_FOLDER_CHARACTERS: Final = 80
"""A socket's path has at most 107 bytes, and the homes' sockets stand in this folder."""

_REALM: Final = "realm"


class Stage:
    """A folder and the processes that work in it.

    Attributes:
        folder: the folder.
        record: what the realm has read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder / "record"
        self._report = folder / "report.json"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], stdin: int = subprocess.DEVNULL) -> None:
        """Start a process, away from the terminal, with its own log."""
        with self._log(name).open("wb") as log:
            self._processes[name] = subprocess.Popen(
                command,
                env=python_environment(),
                stdin=stdin,
                stdout=subprocess.PIPE if stdin == subprocess.PIPE else log,
                stderr=log,
                # Ctrl-C is for the demonstration, which then stops them in order.
                start_new_session=True,
            )

    def start_realm(self, timeout_seconds: float) -> str:
        """Start the realm and return its address.

        Raises:
            AbstError: it did not start.
        """
        state, record, report = map(str, (self.folder / "realm", self.record, self._report))
        # It stops when its stdin is closed, so it does not outlive this process.
        self.start(
            _REALM, python_command("abst.cli.demo_realm", state, record, report), subprocess.PIPE
        )
        process = self._processes[_REALM]
        assert process.stdout is not None
        watchdog = threading.Timer(timeout_seconds, process.kill)
        watchdog.start()
        try:
            address = process.stdout.readline().decode("ascii", "replace").strip()
        finally:
            watchdog.cancel()
        if not address:
            raise AbstError("the realm did not start")
        return address

    def stop_realm(self) -> dict[str, Any]:
        """Stop the realm and return what it has counted.

        Raises:
            AbstError: it did not report.
        """
        self.stop(_REALM)
        try:
            report: dict[str, Any] = json.loads(self._report.read_bytes())
        except (OSError, ValueError):
            raise AbstError("the realm did not say what it saw") from None
        return report

    def is_running(self, name: str) -> bool:
        """Tell whether a process still runs."""
        return self._processes[name].poll() is None

    def stop(self, name: str) -> None:
        """Ask a process to end, and end it when it does not."""
        process = self._processes.pop(name)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()

    def stop_all(self) -> None:
        """Stop whatever still runs."""
        for name in list(self._processes):
            self.stop(name)

    def last_words(self) -> Iterator[str]:
        """Return the end of every process's log, for finding out what went wrong."""
        for log in sorted(self.folder.glob("*.log")):
            with log.open(encoding="utf-8", errors="replace") as lines:
                for line in deque(lines, LAST_LINES):
                    yield f"{log.stem}: {line.rstrip()}"

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


@contextlib.contextmanager
def on_a_stage() -> Iterator[Stage]:
    """Return a stage that is cleared in the end, also when the program is told to end."""
    ending = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in ending}
    folder = Path(tempfile.mkdtemp(prefix="abst-demo-"))
    try:
        if len(str(folder)) > MAX_FOLDER_CHARACTERS:
            folder.rmdir()
            folder = Path(tempfile.mkdtemp(prefix="abst-demo-", dir="/tmp"))
        stage = Stage(folder)
        try:
            yield stage
        finally:
            # Nothing may interrupt this; it takes seconds at most.
            for number in (*ending, signal.SIGINT):
                before[number] = signal.signal(number, signal.SIG_IGN) or before.get(number)
            stage.stop_all()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
