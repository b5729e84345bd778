"""A command that is run to its end: what it printed, its status, and what it has used in all."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from benchmarks import proc
from benchmarks.errors import ServerFailed


class Command:
    """A running command. Use it as a context manager, and it does not outlive the block."""

    def __init__(
        self, arguments: Sequence[str], output: Path, cwd: Path, environment: Mapping[str, str]
    ) -> None:
        """Start it, with these variables beside its parent's. Raises: ServerFailed."""
        self._arguments = arguments
        self._output = output
        self._usage: resource.struct_rusage | None = None
        try:
            with output.open("wb") as file:
                self._process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env={**os.environ, **environment},
                )
        except OSError as error:
            raise ServerFailed(f"{arguments[0]} does not start: {error}") from error

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        if self._usage is None:
            self._process.kill()
            self._process.wait()

    def has_ended(self) -> bool:
        """Tell whether it has ended. Raises: ServerFailed, if it was not with status 0."""
        if self._usage is None:
            pid, status, usage = os.wait4(self._process.pid, os.WNOHANG)
            if not pid:
                return False
            self._usage = usage
            self._process.returncode = os.waitstatus_to_exitcode(status)
            if status:
                tail = "\n".join(self.output().splitlines()[-15:])
                command = " ".join(self._arguments)
                raise ServerFailed(f"{command}: status {self._process.returncode}:\n{tail}")
        return True

    def output(self) -> str:
        """Return what it has printed so far."""
        return self._output.read_text(errors="replace")

    def cpu_seconds(self) -> float:
        """Return what it has used until its end, with the children that it has waited for."""
        assert self._usage is not None, "it still runs"
        return self._usage.ru_utime + self._usage.ru_stime

    def tree(self) -> list[int]:
        """Return the process IDs of the command and its children; none if it has ended."""
        return [] if self._usage is not None else proc.tree(self._process.pid)


def run(
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str] = MappingProxyType({}),
    timeout_seconds: float = 60.0,
) -> str:
    """Run a command, and return what it printed. Raises: ServerFailed."""
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=cwd,
            env={**os.environ, **environment},
            timeout=timeout_seconds,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerFailed(f"{arguments[0]}: {error}") from error
    if done.returncode:
        said = done.stderr[-1000:]
        raise ServerFailed(f"{' '.join(arguments)}: status {done.returncode}:\n{said}")
    return done.stdout
