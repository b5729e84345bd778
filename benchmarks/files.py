"""The files load: one large file from one device to another, and everything that it took.

A program's commands are started at once, and time runs until the last of them has ended. CPU time
and memory are those of the commands and of what stood before, by role. Then the file must have
arrived as it was sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from benchmarks import proc
from benchmarks.command import Command
from benchmarks.errors import PacketsLost
from benchmarks.loads import Figures
from benchmarks.movers import ROLES, Mover, Prepared

_MB = 1_000_000
_PIECE_BYTES = 8 * _MB
_LOOK_SECONDS = 0.05
_QUIET_SECONDS = 5.0
_MOST_SECONDS = 600.0
_MEMORY_FILES = Path("/dev/shm")
#: The file itself, what arrives, and a copy in between, if a program makes one.
_COPIES = 3


class Files:
    """One file, of that many millions of bytes."""

    name = "files"

    def __init__(self, megabytes: int) -> None:
        self.title = f"a file of {megabytes:,} MB"
        self._megabytes = megabytes
        self.file = Path()
        self._sha256 = b""

    @contextlib.contextmanager
    def folder(self) -> Iterator[Path]:
        """Make the file, of random bytes, in a folder that is removed at the end.

        Where there is room the folder is in memory: disks are not what is compared.
        """
        with tempfile.TemporaryDirectory(prefix="abst-files-", dir=self._place()) as name:
            self.file = Path(name) / "random.bin"
            digest = hashlib.sha256()
            with self.file.open("wb") as output:
                for _ in range(0, self._megabytes * _MB, _PIECE_BYTES):
                    left = self._megabytes * _MB - output.tell()
                    piece = os.urandom(min(_PIECE_BYTES, left))
                    digest.update(piece)
                    output.write(piece)
            self._sha256 = digest.digest()
            yield Path(name)

    def run(self, mover: Mover, folder: Path) -> Figures:
        """Send it once. Raises: ServerFailed, PacketsLost."""
        try:
            with mover.prepare(self.file, folder) as prepared:
                figures = _transfer(prepared, folder)
                self._check(prepared.inbox)
        finally:
            shutil.rmtree(folder)
        return figures | {"mb_per_second": self._megabytes / figures["seconds"]}

    def _place(self) -> str | None:
        needed = _COPIES * self._megabytes * _MB
        try:
            free = shutil.disk_usage(_MEMORY_FILES).free
        except OSError:
            return None
        return str(_MEMORY_FILES) if min(free, _available_bytes()) > needed else None

    def _check(self, inbox: Path) -> None:
        arrived = [each for each in inbox.rglob(self.file.name) if each.is_file()]
        if len(arrived) != 1:
            raise PacketsLost(f"{len(arrived)} files of that name have arrived, not one")
        with arrived[0].open("rb") as file:
            if hashlib.file_digest(file, "sha256").digest() != self._sha256:
                raise PacketsLost("the file that arrived is not the one that was sent")


def _transfer(prepared: Prepared, folder: Path) -> Figures:
    """Run the commands, look at memory meanwhile, and add up by role."""
    standing = prepared.standing
    sizes = [len(process.tree()) for _, process in standing]
    cpu_before = _cpu_seconds(standing)
    before_kib = _memory_kib(standing)
    most_kib = dict(before_kib)
    with contextlib.ExitStack() as stack:
        begun = time.monotonic()
        commands: list[tuple[str, Command]] = []
        for role, line in prepared.commands:
            output = folder / f"command-{len(commands)}"
            command = Command(line, output, prepared.cwd, prepared.environment)
            commands.append((role, stack.enter_context(command)))
        while any(not command.has_ended() for _, command in commands):
            if time.monotonic() - begun > _MOST_SECONDS:
                raise PacketsLost(f"the file has not arrived after {_MOST_SECONDS:.0f} s")
            for role, kib in _memory_kib([*standing, *commands]).items():
                most_kib[role] = max(most_kib[role], kib)
            time.sleep(_LOOK_SECONDS)
        seconds = time.monotonic() - begun
    # What a server has started for this transfer counts for it once it has ended.
    _wait_until(lambda: [len(process.tree()) for _, process in standing] == sizes)
    cpu_after = _cpu_seconds([*standing, *commands])
    in_all = sum(cpu_after.values()) - sum(cpu_before.values())
    figures = {"seconds": seconds, "cpu_seconds": in_all}
    for role in ROLES:
        if most_kib[role]:
            figures[f"{role}_cpu_seconds"] = cpu_after[role] - cpu_before[role]
            figures[f"{role}_mib"] = most_kib[role] / 1024
            figures[f"{role}_growth_mib"] = (most_kib[role] - before_kib[role]) / 1024
    for role, process in standing:
        name = f"{role}_most_ever_mib"
        figures[name] = figures.get(name, 0.0) + proc.peak_kib(process.tree()) / 1024
    return figures


class _Process(Protocol):
    def tree(self) -> list[int]: ...

    def cpu_seconds(self) -> float: ...


def _cpu_seconds(processes: Sequence[tuple[str, _Process]]) -> dict[str, float]:
    """Return the CPU time that each role's processes have used."""
    seconds = dict.fromkeys(ROLES, 0.0)
    for role, process in processes:
        seconds[role] += process.cpu_seconds()
    return seconds


def _memory_kib(processes: Sequence[tuple[str, _Process]]) -> dict[str, int]:
    """Return the memory of each role's processes."""
    kib = dict.fromkeys(ROLES, 0)
    for role, process in processes:
        kib[role] += proc.proportional_kib(process.tree())
    return kib


def _wait_until(condition: Callable[[], bool]) -> None:
    """Wait for that, though not for long."""
    deadline = time.monotonic() + _QUIET_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _available_bytes() -> int:
    """Return how much memory could be used without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
