"""A crowd as a scenario sees it: a process that is started, asked for figures, and ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parent.parent.parent
PATIENCE_SECONDS = 30.0
ASKS_EACH_SECONDS = 0.5

Figures = dict[str, Any]


class CrowdProcess:
    """A crowd. A context manager that leaves nothing running.

    Args:
        port: the realm's.
        idle: how many devices are only there.
        talking: how many talk in pairs.
        addresses: where they connect from, in turn.
        options: what else stands on its command line.
        within: the beginning of a command line that runs a command somewhere else.
    """

    def __init__(
        self,
        port: int,
        *options: str,
        idle: int = 0,
        talking: int = 0,
        addresses: Sequence[str] = (),
        within: Sequence[str] = (),
    ) -> None:
        words = [*within, sys.executable, "-m", "tests.load.crowd", "--port", str(port)]
        words += ["--idle", str(idle), "--talking", str(talking), *options]
        for address in addresses:
            words += ["--address", address]
        self.size = idle + talking
        self._process = subprocess.Popen(
            words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> CrowdProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def ask(self, **command: float) -> Figures:
        """Return what happened since the last time."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(command) + "\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, f"the crowd has ended with status {self._process.wait(PATIENCE_SECONDS)}"
        figures: Figures = json.loads(answer)
        return figures

    def until_here(self, seconds: float, count: int | None = None) -> Figures:
        """Wait until all devices are here, or so many; return the figures of that time.

        Raises:
            AssertionError: they are not here in time.
        """
        wanted = self.size if count is None else count
        deadline = time.monotonic() + seconds
        summed: Figures = {"errors": {}, "losses": {}, "failures": {}, "returns": 0}
        slowest = 0.0
        while True:
            found = self.ask()
            for name in ("errors", "losses", "failures"):
                for why, number in found[name].items():
                    summed[name][why] = summed[name].get(why, 0) + number
            summed["returns"] += found["returns"]
            slowest = max(slowest, found["slowest_return_seconds"])
            if found["here"] >= wanted:
                return {**found, **summed, "slowest_return_seconds": slowest}
            assert time.monotonic() < deadline, f"{found['here']} of {wanted} are here: {summed}"
            time.sleep(ASKS_EACH_SECONDS)

    def cpu_seconds(self) -> float:
        """Return how long it has computed, in user and system time (proc(5))."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text("ascii")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate(timeout=PATIENCE_SECONDS)
