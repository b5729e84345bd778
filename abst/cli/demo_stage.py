"""Where the demonstration happens: a temporary folder and the processes in it.

Owns that nothing is left behind, whatever happens: every process is stopped by its number, and the
folder is removed.
"""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import signal
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

from abst.cli.agent_process import stop_agent
from abst.cli.home import DeviceHome
from abst.cli.processes import python_command, python_environment
from abst.errors import AbstError

STOP_SECONDS: Final = 5.0
LAST_LINES: Final = 10
MAX_FOLDER_CHARACTERS: Final = 80
"""A socket's path has at most 107 bytes, and the homes' sockets stand in this folder."""

_REALM: Final = "realm"


class Interruptions:
    """Turns signals into ``KeyboardInterrupt``, though not while a process is being started.

    Interrupted halfway, ``Popen`` would forget the process that it has just made.
    """

    def __init__(self) -> None:
        self._is_held = False
        self._is_waiting = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self._is_waiting = True
        if not self._is_held:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep a signal that comes now until the end of this."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._is_waiting:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """Let no signal interrupt any more."""
        self._is_held = True


class Stage:
    """A folder and the processes that work in it.

    Attributes:
        folder: the folder.
        record: what the realm has read.
    """

    def __init__(self, folder: Path, interruptions: Interruptions) -> None:
        self.folder = folder
        self.record = folder / "record"
        self._interruptions = interruptions
        self._report = folder / "report.json"
        self._state = folder / "realm"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], *, is_child: bool = False) -> None:
        """Start a process, away from the terminal, with its own log.

        Args:
            name: what it is called here.
            command: its command line.
            is_child: whether it is connected with pipes; otherwise its output goes to the log.
        """
        with self._log(name).open("wb") as log, self._interruptions.held():
            self._processes[name] = subprocess.Popen(
                command,
                env=_environment(),
                stdin=subprocess.PIPE if is_child else subprocess.DEVNULL,
                stdout=subprocess.PIPE if is_child else log,
                stderr=log,
                # Ctrl-C is for the demonstration, which then stops them in order.
                start_new_session=True,
            )

    def run(
        self,
        command: list[str],
        stderr: int = subprocess.PIPE,
        timeout_seconds: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end.

        Raises:
            subprocess.TimeoutExpired: it took too long, and has been ended.
        """
        process: subprocess.Popen[str] | None = None
        try:
            with self._interruptions.held():
                process = subprocess.Popen(
                    command,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    encoding="utf-8",
                    errors="backslashreplace",
                )
            out, said = process.communicate(timeout=timeout_seconds)
        except BaseException:
            if process is not None:
                process.kill()
                process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, said)

    def start_realm(self, timeout_seconds: float) -> str:
        """Start the realm and return the link that it prints for its first device.

        Raises:
            AbstError: it did not start.
        """
        state, record, report = map(str, (self._state, self.record, self._report))
        # It stops when its stdin is closed, so it does not outlive this process.
        command = python_command("abst.cli.demo_realm", state, record, report)
        self.start(_REALM, command, is_child=True)
        process = self._processes[_REALM]
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], timeout_seconds)
        # It writes the whole line at once, or ends without one.
        link = process.stdout.readline().decode("ascii", "replace").strip() if readable else ""
        if not link.startswith("abst://"):
            raise AbstError("the realm did not start")
        return link

    def operator_command(self, *arguments: str) -> list[str]:
        """Return the command line of a command of the realm's operator."""
        return python_command("abst.operator", "--state", str(self._state), *arguments)

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
        process = self._processes[name]
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        del self._processes[name]

    def stop_all(self) -> None:
        """Stop whatever still runs."""
        for name in list(self._processes):
            self.stop(name)
        # A command that finds no agent starts one, so there may be one more than was started here.
        for socket in self.folder.glob("*/agent.sock"):
            with contextlib.suppress(AbstError):
                stop_agent(DeviceHome(socket.parent))

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
    interruptions = Interruptions()
    before = {
        number: signal.signal(number, interruptions)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    stage: Stage | None = None
    try:
        with interruptions.held():
            stage = Stage(_make_folder(), interruptions)
        yield stage
    finally:
        interruptions.ignore()  # What follows takes some seconds at most.
        if stage is not None:
            stage.stop_all()
            shutil.rmtree(stage.folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _make_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="abst-demo-"))
    if len(str(folder)) <= MAX_FOLDER_CHARACTERS:
        return folder
    folder.rmdir()
    return Path(tempfile.mkdtemp(prefix="abst-demo-", dir="/tmp"))


def _environment() -> dict[str, str]:
    # What is shown is the way through a realm; and nothing is announced to the network here.
    return {**python_environment(), "ABST_LAN": "off"}
