"""A realm as a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from abst.address import RealmAddress

ROOT = Path(__file__).parent.parent.parent
PATIENCE_SECONDS = 30.0
TWIST = (sys.executable, "-m", "twisted", "--log-format=text", "abst-realm")
RUN_TWISTD = "from twisted.scripts.twistd import run; run()"
TWISTD = (sys.executable, "-c", RUN_TWISTD, "--pidfile=", "-n", "abst-realm")
LOOPBACK = "tcp:0:interface=127.0.0.1"


class Lines:
    """What a process writes to one of its streams, read by a thread as it comes."""

    def __init__(self, stream: object) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._stream:  # type: ignore[attr-defined]
            with self._changed:
                self._lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._stream.close()  # type: ignore[attr-defined]

    def wait_for(self, is_it: Callable[[str], bool], what: str, number: int = 0) -> str:
        """Return the first line of a kind, or a later one, as soon as it has come."""

        def found() -> list[str]:
            return [line for line in self._lines if is_it(line)][number:]

        with self._changed:
            self._changed.wait_for(lambda: self._ended or found(), PATIENCE_SECONDS)
            if found():
                return found()[0]
        raise AssertionError("\n".join([f"no {what} in:", *self.lines[-30:]]))

    def end(self) -> None:
        """Wait until nothing more can come."""
        self._thread.join(PATIENCE_SECONDS)

    @property
    def lines(self) -> list[str]:
        """The lines so far."""
        with self._changed:
            return list(self._lines)

    @property
    def text(self) -> str:
        """All lines so far as one text."""
        return "\n".join(self.lines)


class RealmProcess:
    """``abst-realm`` with a home of its own. A context manager that leaves nothing running.

    Args:
        folder: where its home, state and configuration are.
        arguments: what follows ``abst-realm`` on the command line.
        config: the text of its configuration file, or None for none.
        access: who may use it; None for what its configuration says.
        command: how it is started.
        environment: what stands in the environment besides the usual.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        config: str | None = None,
        access: str | None = "open",
        command: Sequence[str] = TWIST,
        environment: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder = folder.resolve()
        if config is not None:
            (folder / "realm.toml").write_text(config, "utf-8")
            arguments = ("--config", str(folder / "realm.toml"), *arguments)
        if access is not None:
            arguments = ("--access", access, *arguments)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("XDG_")}
        kept.pop("STATE_DIRECTORY", None)
        self.process = subprocess.Popen(
            [*command, *arguments],
            cwd=ROOT,
            env={**kept, "HOME": str(folder / "home"), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = Lines(self.process.stdout)

    def __enter__(self) -> RealmProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def address(self, number: int = 0) -> RealmAddress:
        """Return an address that it has printed, as soon as it has."""
        line = self.output.wait_for(lambda line: line.startswith("abst://"), "address", number)
        return RealmAddress.parse(line)

    def log_line(self, *words: str, number: int = 0) -> str:
        """Return a line of its log that has all the words, as soon as it has come."""
        return self.output.wait_for(
            lambda line: all(word in line for word in words), f"line with {words}", number
        )

    @property
    def port(self) -> int:
        """The port of its first address."""
        return self.address().port

    def terminate(self) -> int:
        """Send SIGTERM; return the exit status, negative for a signal."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended by itself; return the exit status."""
        status = self.process.wait(PATIENCE_SECONDS)
        self.output.end()
        return status

    def kill(self) -> None:
        """End it now, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
        self.output.end()

    def resident_bytes(self) -> int:
        """Return how much memory it has in use (proc(5))."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text("ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Return how long it has computed, in user and system time (proc(5))."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text("ascii")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        """Return how many files and sockets it has open (proc(5))."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))
