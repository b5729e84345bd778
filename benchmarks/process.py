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

from benchmarks.errors import ServerFailed

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_MEMORY_FIELDS = ("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:", "SwapPss:")
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
        ticks = 0
        for pid in self._tree():
            # The command's name, in brackets, may hold spaces: fields count from behind it.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(field) for field in fields[11:15])
        return ticks / _TICKS_PER_SECOND

    def memory_kib(self) -> int:
        """Return the private memory of the server and its children, in KiB."""
        kib = 0
        for pid in self._tree():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                field, *rest = line.split()
                if field in _MEMORY_FIELDS:
                    kib += int(rest[0])
        return kib

    def descriptors(self) -> int:
        """Return how many files and sockets the server and its children have open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self._tree())

    def stop(self) -> None:
        """End the server: politely, and after some seconds by force."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _tree(self) -> list[int]:
        """Return the process IDs of the server and of all that it has started."""
        self.check()
        tree = [self._process.pid]
        for pid in tree:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                tree += map(int, children.read_text().split())
        return tree


def unused_port() -> int:
    """Return a TCP port of 127.0.0.1 that nothing listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port
