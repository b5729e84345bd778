"""A server as a child process: started, measured through ``/proc``, and stopped by its process ID.

CPU time is user and system time of the process, its threads and its children. Memory is what the
process alone occupies: its private pages and its share of swap. Memory that the kernel holds for
it, such as socket buffers, is counted by neither.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from benchmarks import proc
from benchmarks.errors import ServerFailed

_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.02
_OWN_OPENSSL_CONF = str(Path(__file__).with_name("openssl.cnf"))


class ServerProcess:
    """A running server. Use it as a context manager, and it does not outlive the block."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        cwd: Path,
        environment: Mapping[str, str] = MappingProxyType({}),
        descriptors: Collection[int] = (),
    ) -> None:
        """Start ``command`` in ``cwd``; its output goes to the file ``output`` in ``folder``.

        It gets these variables beside its parent's, and these descriptors, under their numbers.

        Raises: ServerFailed, where there is no such program.
        """
        self.port = 0
        self._command = command
        self._output = folder / "output"
        variables = {**os.environ, **environment}
        if variables.get("OPENSSL_CONF") == _OWN_OPENSSL_CONF:
            del variables["OPENSSL_CONF"]
        try:
            with self._output.open("wb") as output:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=variables,
                    pass_fds=descriptors,
                )
        except OSError as error:
            raise ServerFailed(f"{command[0]} does not start: {error}") from error

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def output(self) -> str:
        """Return what the server has printed so far."""
        return self._output.read_text(errors="replace")

    def check(self) -> None:
        """Raise ServerFailed if the server has ended."""
        status = self._process.poll()
        if status is not None:
            tail = "\n".join(self.output().splitlines()[-15:])
            raise ServerFailed(f"{self._command[0]} ended with status {status}:\n{tail}")

    def wait_for_port(self, port: int, seconds: float = 15.0) -> None:
        """Wait until the server listens on ``port`` of 127.0.0.1, and remember the port."""
        deadline = time.monotonic() + seconds
        while True:
            self.check()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ServerFailed(
                        f"{self._command[0]} does not listen after {seconds} s:\n{self.output()}"
                    ) from error
                time.sleep(_POLL_SECONDS)
            else:
                self.port = port
                return

    def cpu_seconds(self) -> float:
        """Return the CPU time, user and system, that the server has used since it started."""
        return proc.cpu_seconds(self.tree())

    def memory_kib(self) -> int:
        """Return the private memory of the server and its children, in KiB."""
        return proc.private_kib(self.tree())

    def descriptors(self) -> int:
        """Return how many files and sockets the server and its children have open."""
        return proc.descriptors(self.tree())

    def stop(self) -> None:
        """End the server: politely, and after some seconds by force."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def tree(self) -> list[int]:
        """Return the process IDs of the server and of all that it has started."""
        self.check()
        return proc.tree(self._process.pid)


def unused_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
